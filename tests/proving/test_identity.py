"""Identity: what two machines may not share, what may not have come with the image, told from what machines answer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bakehouse.proving import identity
from bakehouse.proving.identity import Comparison, Question, Traits
from bakehouse.records import inspector
from bakehouse.records.contents import Contents, Package

OWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1z"
ASKED = Question("salt", ("/srv/secret*",), 1000.0)
CONTENTS = Contents(
    system={"id": "debian"},
    packages=(Package("deb", "zlib", "1", "amd64", "zlib", ("Zlib",)),),
    services={"ssh.service": "enabled"},
    ports={"tcp 0.0.0.0:22": "sshd"},
    users={"root": "0:0 /root /bin/bash"},
    setuid={"/usr/bin/su": "4755:root:root"},
    files={"/etc/motd": f"sha256:{'a' * 64}"},
    repositories={},
)
ONE = Traits(
    hostname="ip-10-0-0-1",
    files={"/etc/machine-id": "a", "/srv/secret": inspector.digest(b"salt", b"hush-hush")},
    marks=(),
    secrets=("/srv/secret",),
    old=(),
    keys=(("admin", "/home/admin/.ssh/authorized_keys", OWN),),
    passwords=(),
    contents=CONTENTS,
    journal="",
)
OTHER = dataclasses.replace(ONE, hostname="ip-10-0-0-2", files={"/etc/machine-id": "b", "/srv/secret": "c"})


def one(**changes: Any) -> Traits:
    """Return ONE with other traits."""
    return dataclasses.replace(ONE, **changes)


def test_from_answer() -> None:
    """What a machine prints becomes a record."""
    assert ONE == Traits.from_answer(json.dumps(dataclasses.asdict(ONE)))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (OTHER, ["different", "different", "different"]),
        (dataclasses.replace(OTHER, hostname=ONE.hostname), ["the same", "different", "different"]),
        (dataclasses.replace(OTHER, files=ONE.files), ["different", "the same", "the same"]),
        (dataclasses.replace(OTHER, files={"/srv/secret": "c"}), ["different", "on one", "different"]),
    ],
)
def test_compare(other: Traits, expected: list[str]) -> None:
    """Hostname and files are compared; a pattern that no file matches is named, one that a file matches is not."""
    rows = identity.compare(ONE, other, ["/etc/machine-id", "/srv/*", "/etc/ssh/*"])

    found = zip(["hostname", "/etc/machine-id", "/srv/secret", "/etc/ssh/*"], [*expected, "on none"], strict=True)
    assert [Comparison(what, outcome) for what, outcome in found] == rows


@pytest.mark.parametrize(
    ("outcome", "found"), [("different", [True]), ("on one", [True]), ("on none", []), ("the same", [False])]
)
def test_shared(outcome: str, found: list[bool]) -> None:
    """Only what both have alike is shared, and what neither has is no finding; a finding names what it's of."""
    findings = identity.shared([Comparison("/etc/machine-id", outcome)])

    assert [("/etc/machine-id is unique", ok) for ok in found] == [(one.name, one.ok) for one in findings]


@pytest.mark.parametrize(
    ("told", "name", "evidence"),
    [
        (one(), "", "all 1 secrets were created on the machine"),
        (
            one(old=("/srv/secret",)),
            "The service was never started before",
            "all secrets were in the image already, so the service was started in the bake: /srv/secret",
        ),
        (
            one(old=("/srv/secret",), secrets=("/srv/secret", "/srv/secret2")),
            "No secret was left in the image",
            "in the image already: /srv/secret",
        ),
        (
            one(secrets=()),
            "The recipe's secrets are found",
            "none of the recipe's secrets exists on the machine: /srv/secret*",
        ),
    ],
)
def test_fresh(told: Traits, name: str, evidence: str) -> None:
    """All secrets in the image, some of them, and none where the recipe names some: each has its own finding."""
    [finding] = identity.fresh(told, ASKED)

    assert evidence == finding.evidence
    assert name == ("" if finding.ok else finding.name)


def test_fresh_without_secrets() -> None:
    """Of a recipe that names no secrets there is nothing to find."""
    assert [] == identity.fresh(ONE, Question("salt", (), 0))


@pytest.mark.parametrize(
    ("line", "evidence"),
    [
        (f'no-port-forwarding,command="echo no" {OWN} me', ""),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC4UWB69vrmj5ed4pGaJDjojQHxxgMnpncgdEnKOLjcF his key",
            "the image lets in: admin by SHA256:Bb4fi/SnxWAfHbboEgTl/0fJVOQZxCN3A6nIBiC4cwo in /k (his key)",
        ),
        ("ssh-rsa AAAA=broken", "the image lets in: admin by a line of unknown format in /k"),
        ("certainly not a key", "the image lets in: admin by a line of unknown format in /k"),
    ],
)
def test_access(line: str, evidence: str) -> None:
    """A line with another key than the launch's is access that the image carries; it's told by its fingerprint."""
    keys, passwords = identity.access(one(keys=(*ONE.keys, ("admin", "/k", line))), OWN)

    assert (not evidence, evidence or "2 lines, all of that key") == (keys.ok, keys.evidence)
    assert passwords.ok


def test_access_without_a_key_of_our_own() -> None:
    """Where the launch's key isn't known, every line is foreign."""
    assert [False, True] == [finding.ok for finding in identity.access(ONE, "")]


def test_a_password() -> None:
    """A user with a password is named."""
    _, passwords = identity.access(one(passwords=("root", "admin")), OWN)

    assert (False, "users with a password: root, admin") == (passwords.ok, passwords.evidence)


ADDED = Package("deb", "nmap", "7", "amd64", "nmap", ())
DIFFERENT: list[tuple[dict[str, Any], str, str]] = [
    (
        {"packages": (dataclasses.replace(CONTENTS.packages[0], version="2"),)},
        "The packages are those of the bake",
        "zlib 1 at the bake, 2 now",
    ),
    (
        {"packages": (*CONTENTS.packages, ADDED)},
        "The packages are those of the bake",
        "nmap not there at the bake, 7 now",
    ),
    ({"services": {}}, "The services are those of the bake", "ssh.service enabled at the bake, not there now"),
    (
        {"users": {**CONTENTS.users, "eve": "0:0 / /bin/sh"}},
        "The users are those of the bake",
        "eve not there at the bake, 0:0 / /bin/sh now",
    ),
    (
        {"setuid": {}},
        "The setuid files are those of the bake",
        "/usr/bin/su 4755:root:root at the bake, not there now",
    ),
    (
        {"files": {"/etc/motd": f"sha256:{'b' * 64}"}},
        "The files in /etc are those of the bake",
        f"/etc/motd sha256:{'a' * 33} at the bake, sha256:{'b' * 33} now",
    ),
]


@pytest.mark.parametrize(("changes", "name", "evidence"), DIFFERENT)
def test_not_as_baked(changes: dict[str, Any], name: str, evidence: str) -> None:
    """What isn't as it was recorded at the bake is named with both values, in the finding of its part alone."""
    running = dataclasses.replace(CONTENTS, **changes)

    findings = identity.as_baked(identity.changes(CONTENTS, running), running)

    assert [(name, evidence)] == [(one.name, one.evidence) for one in findings if not one.ok]


def test_as_baked() -> None:
    """What is as it was recorded is good, part by part; what listens is the services' own."""
    running = dataclasses.replace(CONTENTS, ports={})

    findings = identity.as_baked(identity.changes(CONTENTS, running), running)

    assert [True] * 5 == [one.ok for one in findings]
    assert "all 1 are as recorded at the bake" == findings[0].evidence
