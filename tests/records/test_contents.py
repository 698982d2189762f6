"""Contents: read from a machine's answer, written down as CycloneDX, read back alike, and compared part by part."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from samples import CONTENTS, CURL, DIGEST

from bakehouse.records import contents
from bakehouse.records.contents import Change, Contents


def sbom(told: Contents = CONTENTS) -> str:
    """Return the SBOM of contents."""
    return contents.as_sbom(told, "bakehouse-web-r-1", "r-1", "0.1", datetime(2026, 1, 1, tzinfo=UTC))


def test_from_answer() -> None:
    """What a machine prints becomes a record; what it should not have printed doesn't."""
    answer = json.loads(json.dumps(dataclasses.asdict(CONTENTS)))

    assert CONTENTS == Contents.from_answer(answer)
    for wrong in ({}, {**answer, "packages": [{}]}, {**answer, "users": None}):
        with pytest.raises((KeyError, TypeError)):
            Contents.from_answer(wrong)


def test_an_sbom_is_cyclonedx() -> None:
    """The SBOM is valid by CycloneDX's own schema 1.6, and the same for the same contents."""
    told = json.loads(sbom())

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom()) is None
    assert ("1.6", "bakehouse-web-r-1", sbom()) == (told["specVersion"], told["metadata"]["component"]["name"], sbom())


def test_an_sbom_can_be_read_back() -> None:
    """Nothing of the contents is lost in the SBOM; the order of packages is its own."""
    read = contents.of_sbom(sbom())

    assert set(CONTENTS.packages) == set(read.packages)
    assert dataclasses.replace(CONTENTS, packages=()) == dataclasses.replace(read, packages=())


@pytest.mark.parametrize(
    ("package", "url"),
    [
        (0, "pkg:deb/debian/curl@8.14.1-2%2Bdeb13u1?arch=amd64&distro=debian-13"),
        (1, "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=debian-13"),
        (2, "pkg:rpm/debian/shadow-utils@4.9-12.amzn2023?arch=x86_64&distro=debian-13&epoch=2"),
    ],
)
def test_package_urls(package: int, url: str) -> None:
    """Each package has its package URL, in which an rpm's epoch is a qualifier."""
    told = json.loads(sbom(dataclasses.replace(CONTENTS, packages=(CONTENTS.packages[package],))))

    assert [url] == [one["purl"] for one in told["components"] if "purl" in one]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["GPL-2+", "LGPL-2.1", "Expat"], [{"id": "GPL-2.0-or-later"}, {"id": "LGPL-2.1-only"}, {"id": "MIT"}]),
        (["BSD-3-clause"], [{"id": "BSD-3-Clause"}]),
        (["GPL-2+ with Autoconf exception"], [{"name": "GPL-2+ with Autoconf exception"}]),
        (["GPL-2.0-only AND MIT"], ["GPL-2.0-only AND MIT"]),
        (["A AND B", "MIT"], [{"id": "MIT"}, {"name": "A AND B"}]),
        ([], []),
    ],
)
def test_licences(names: list[str], expected: list[Any]) -> None:
    """A licence is told by its SPDX identifier where it has one, Debian's short names included; else by its name."""
    told = json.loads(sbom(dataclasses.replace(CONTENTS, packages=(dataclasses.replace(CURL, licences=tuple(names)),))))
    [found] = [one.get("licenses", []) for one in told["components"] if "purl" in one]

    assert sorted(map(str, expected)) == sorted(str(one.get("license") or one["expression"]) for one in found)


NO_SBOM = [
    "",
    "[]",
    "{}",
    '{"components": []}',
    '{"components": [{}], "properties": []}',
    '{"components": [], "properties": [{"name": "x:y"}]}',
]


@pytest.mark.parametrize("text", NO_SBOM)
def test_no_sbom(text: str) -> None:
    """What isn't an SBOM of an image is refused as such."""
    with pytest.raises(ValueError):  # noqa: PT011, json's own or ours
        contents.of_sbom(text)


def test_changes() -> None:
    """What two contents don't have alike is told part by part, in the names' order; a mere presence too."""
    after = dataclasses.replace(
        CONTENTS,
        packages=(dataclasses.replace(CURL, version="9"), *CONTENTS.packages[2:4]),
        ports={"tcp 0.0.0.0:22": "sshd", "tcp 0.0.0.0:80": "nginx"},
        files={**CONTENTS.files, "/etc/motd": "-> /run/motd", "/etc/a": DIGEST},
    )

    assert [
        Change("packages", "curl", "8.14.1-2+deb13u1", "9"),
        Change("packages", "kernel", "6.1-1 6.2-1", "6.1-1"),
        Change("packages", "libstdc++6", "14.2.0-19", ""),
        Change("ports", "tcp 0.0.0.0:80", "", "nginx"),
        Change("ports", "udp 127.0.0.1:323", "there", ""),
        Change("files", "/etc/a", "", DIGEST),
        Change("files", "/etc/motd", DIGEST, "-> /run/motd"),
    ] == contents.changes(CONTENTS, after)
    assert [] == contents.changes(CONTENTS, after, ("users", "setuid"))
