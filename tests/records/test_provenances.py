"""Provenances: in-toto's statement with SLSA's predicate, told of a bake and of what is in its image."""

from __future__ import annotations

from datetime import UTC, datetime

from bakehouse.records import provenances

BEGUN = datetime(2026, 11, 22, 8, 15, tzinfo=UTC)
DIGEST = "a" * 64
INPUTS = {
    "base image": "ami-1",
    "kit": "0.1",
    "packages https://example.com/debian": f"sha256:{DIGEST}",
    "roles/web/tasks/main.yml": f"sha256:{DIGEST}",
}


def test_statement() -> None:
    """A bake's parameters, dependencies with their digests, tools, run and time are where SLSA wants them."""
    told = provenances.statement("r-1", BEGUN, "abc", INPUTS, {"recipe": "web"}, packer="1.6.6")

    assert {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:bakehouse:bake:v1",
                "externalParameters": {"recipe": "web", "values": {"base image": "ami-1", "kit": "0.1"}},
                "resolvedDependencies": [
                    {"name": "checkout", "digest": {"gitCommit": "abc"}, "annotations": {"dirty": False}},
                    {"name": "base image", "uri": "urn:aws:ec2:image:ami-1"},
                    {
                        "name": "packages https://example.com/debian",
                        "uri": "https://example.com/debian",
                        "digest": {"sha256": DIGEST},
                    },
                    {"name": "roles/web/tasks/main.yml", "digest": {"sha256": DIGEST}},
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:bakehouse:kit", "version": {"packer": "1.6.6"}},
                "metadata": {"invocationId": "r-1", "startedOn": "2026-11-22T08:15:00Z"},
            },
        },
    } == told


def test_commit() -> None:
    """A checkout that differs from its commit is told so; one outside of git isn't told."""
    dirty = provenances.statement("r-1", BEGUN, "abc-dirty", {}, {})["predicate"]["buildDefinition"]
    none = provenances.statement("r-1", BEGUN, "none", {}, {})["predicate"]["buildDefinition"]

    expected = [{"name": "checkout", "digest": {"gitCommit": "abc"}, "annotations": {"dirty": True}}]
    assert (expected, []) == (dirty["resolvedDependencies"], none["resolvedDependencies"])


def test_with_subject() -> None:
    """The subject is the file that lists what is in the image, by its digest; what was fetched is a dependency too."""
    begun = provenances.statement("r-1", BEGUN, "none", {}, {})
    index = "https://example.com/InRelease"

    told = provenances.with_subject(begun, "bakehouse-web-1", "sbom.json", f"sha256:{DIGEST}", {index: "sha256:1"})

    subject = {"name": "sbom.json", "digest": {"sha256": DIGEST}, "annotations": {"image": "bakehouse-web-1"}}
    dependency = {"name": f"packages {index}", "uri": index, "digest": {"sha256": "1"}}
    assert [subject] == told["subject"]
    assert [dependency] == told["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [] == begun["predicate"]["buildDefinition"]["resolvedDependencies"]
