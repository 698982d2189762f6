"""Provenances: where an image comes from, as an in-toto statement with SLSA's provenance predicate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bakehouse.documents import SHA256

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
_BAKE = "urn:bakehouse:bake:v1"  # this build type defines the parameters and dependencies below


def statement(
    run: str, begun: datetime, commit: str, inputs: Mapping[str, str], parameters: Mapping[str, str], **tools: str
) -> dict[str, Any]:
    """Return the statement of a bake that begins; ``with_subject`` adds the subject when it ends.

    Inputs whose values are digests become dependencies, other inputs become parameters. ``tools`` maps the names of
    programs to their versions.
    """
    plain = {name: value for name, value in inputs.items() if not value.startswith(SHA256)}
    return {
        "_type": _STATEMENT,
        "subject": [],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BAKE,
                "externalParameters": {**parameters, "values": plain},
                "resolvedDependencies": [*_commit(commit), *_dependencies(inputs)],
            },
            "runDetails": {
                "builder": {"id": "urn:bakehouse:kit", "version": tools},
                "metadata": {"invocationId": run, "startedOn": f"{begun:%Y-%m-%dT%H:%M:%SZ}"},
            },
        },
    }


def with_subject(
    statement: Mapping[str, Any], name: str, file: str, digest: str, offered: Mapping[str, str]
) -> dict[str, Any]:
    """Return a statement with the image of this name as its subject.

    The subject is the SBOM, that is its file name and digest, because an image has no digest of its own, and no ID
    before it is made. ``offered`` maps the indexes from which packages were installed to their digests; they become
    dependencies.
    """
    predicate = statement["predicate"]
    more = _dependencies({f"packages {index}": state for index, state in offered.items()})
    build = {**predicate["buildDefinition"]}
    build["resolvedDependencies"] = [*build["resolvedDependencies"], *more]
    subject = {"name": file, "digest": {"sha256": digest.removeprefix(SHA256)}, "annotations": {"image": name}}
    return {**statement, "subject": [subject], "predicate": {**predicate, "buildDefinition": build}}


def _commit(commit: str) -> Iterator[dict[str, Any]]:
    known, _, dirty = commit.partition("-")
    if known != "none":
        yield {"name": "checkout", "digest": {"gitCommit": known}, "annotations": {"dirty": bool(dirty)}}


def _dependencies(inputs: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, value in inputs.items():
        kind, _, place = name.partition(" ")
        uri = {"uri": place} if kind == "packages" else {}
        if value.startswith(SHA256):
            yield {"name": name, **uri, "digest": {"sha256": value.removeprefix(SHA256)}}
        elif value.startswith("ami-"):
            yield {"name": name, "uri": f"urn:aws:ec2:image:{value}"}
