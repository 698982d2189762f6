"""Twins: two machines of one image, and what of one must not be found on the other or have come with the image."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import inspect
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bakehouse.errors import CloudError
from bakehouse.machines import Machine, shells
from bakehouse.machines.probes import Finding
from bakehouse.records import contents, inspector
from bakehouse.records.contents import Change, Contents
from bakehouse.settings import Settings

IDENTITY = (
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/ssh/ssh_host_*",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/NetworkManager/secret_key",
)
"""The files by which any machine is itself, as shell patterns."""

BAKED = {
    "packages": "packages",
    "services": "services",
    "users": "users",
    "setuid": "setuid files",
    "files": "files in /etc",
}
"""The parts of what is in a machine that come with the image and stay, and what they are called."""

_SHOWN = 40  # characters of a version or the like; the rest of a digest tells nobody anything


@dataclass(frozen=True)
class Traits:
    """Hold what a machine told of itself (``bakehouse/records/inspector.py``).

    Attributes: hostname; files, each with its salted digest; secrets, those that are secret, and old, those of them
    that were in the image; keys, who is let in by SSH: user, file, line; passwords, the users that have one;
    contents, what is in it; journal, of the present boot.
    """

    hostname: str
    files: Mapping[str, str]
    secrets: tuple[str, ...]
    old: tuple[str, ...]
    keys: tuple[tuple[str, str, str], ...]
    passwords: tuple[str, ...]
    contents: Contents
    journal: str

    @classmethod
    def from_answer(cls, answer: str) -> Traits:
        """Read what the machine printed; raises ValueError."""
        told: dict[str, Any] = json.loads(answer)
        lists = {name: tuple(told[name]) for name in ("secrets", "old", "passwords")}
        keys = tuple((user, path, line) for user, path, line in told["keys"])
        return cls(**{**told, **lists, "keys": keys, "contents": Contents.from_answer(told["contents"])})


@dataclass(frozen=True)
class Question:
    """Hold what is asked of the twins: a salt made up for this once, the patterns of secrets, when the image was made.

    ``made`` is in seconds since the epoch.
    """

    salt: str
    secrets: tuple[str, ...]
    made: float


@dataclass(frozen=True)
class Comparison:
    """Hold what of two machines was compared and how they are to each other: different, the same, on one, on none."""

    what: str
    outcome: str


def look(settings: Settings, machine: Machine, question: Question) -> Traits:
    """Ask a machine for its traits; raises CloudError when it doesn't tell."""
    asked = json.dumps({**asdict(question), "files": IDENTITY})
    command = shlex.join(["sudo", "python3", "-c", inspect.getsource(inspector), asked])
    answer = shells.enter(settings, machine, command)
    try:
        return Traits.from_answer(answer.stdout)
    except (ValueError, TypeError, KeyError) as error:
        said = answer.stderr.strip() or f"it answered {answer.stdout[:80]!r}"
        raise CloudError(f"machine {machine.id} does not tell what identifies it: {said}") from error


def compare(one: Traits, other: Traits, patterns: Sequence[str]) -> list[Comparison]:
    """Say how two machines are to each other by hostname, each file, and each pattern that no file matches."""
    rows = [Comparison("hostname", "the same" if one.hostname == other.hostname else "different")]
    paths = sorted({*one.files, *other.files})
    for path in paths:
        if path in one.files and path in other.files:
            rows.append(Comparison(path, "the same" if one.files[path] == other.files[path] else "different"))
        else:
            rows.append(Comparison(path, "on one"))
    return [*rows, *(Comparison(pattern, "on none") for pattern in patterns if not _any(pattern, paths))]


def shared(rows: Sequence[Comparison]) -> list[Finding]:
    """Find what two machines share that no two may; of what neither has there is nothing to find."""
    told = {
        "different": "different on the two machines",
        "the same": "the same on both machines, so it came with the image",
        "on one": "on one of the two machines only",
    }
    return [
        Finding(f"{row.what} is its own", row.outcome != "the same", told[row.outcome])
        for row in rows
        if row.outcome in told
    ]


def fresh(machine: Traits, question: Question) -> list[Finding]:
    """Find whether the secrets came into being on the machine, and are there at all where the recipe names some."""
    if not question.secrets:
        return []
    name, old, found = "The service was never started before", machine.old, machine.secrets
    if not found:
        nothing = "nothing to compare: none of the recipe's secrets is there"
        return [Finding("The recipe's secrets are found", False, f"{nothing}: {', '.join(question.secrets)}")]
    if not old:
        return [Finding(name, True, f"its {len(found)} secrets came into being on the machine")]
    if len(old) < len(found):
        return [Finding("No secret was left in the image", False, f"in the image already: {', '.join(old)}")]
    cause = f"in the image already: {', '.join(old)}, which is all; so it was started in the bake"
    return [Finding(name, False, cause)]


def access(machine: Traits, own: str) -> list[Finding]:
    """Find whom the image lets in beyond the launch: ``own`` is the launch's public key, as type and base64."""
    blob = (own.split() or ["", "no key"])[-1]
    foreign = [_key(*row) for row in machine.keys if blob not in row[2].split()]
    users = ", ".join(machine.passwords)
    return [
        Finding(
            "Only the launch's key is let in",
            not foreign,
            f"the image lets in: {'; '.join(foreign)}" if foreign else f"{len(machine.keys)} lines, all of that key",
        ),
        Finding("No user has a password", not users, f"with one: {users}" if users else "all are locked"),
    ]


def changes(recorded: Contents, running: Contents) -> list[Change]:
    """Return what is in a machine and not as it was recorded at the bake; its ports are its services' own."""
    return contents.changes(recorded, running, tuple(BAKED))


def as_baked(rows: Sequence[Change], running: Contents) -> list[Finding]:
    """Find whether each part of what is in a machine is as it was recorded at the bake."""
    found = []
    for section, name in BAKED.items():
        told = [
            f"{row.name} {row.was[:_SHOWN] or 'not there'} at the bake, {row.now[:_SHOWN] or 'not there'} now"
            for row in rows
            if row.section == section
        ]
        good = f"all {len(running.section(section))} are as recorded at the bake"
        found.append(Finding(f"The {name} are those of the bake", not told, "; ".join(told) or good))
    return found


def masked(text: str, machine: Traits, question: Question) -> str:
    """Return what a machine wrote without the words that are the content of one of its secrets."""
    secret, salt = {machine.files[path] for path in machine.secrets}, question.salt.encode()

    def shown(word: re.Match[str]) -> str:
        return "(secret)" if inspector.digest(salt, word[0].encode()) in secret else word[0]

    return re.sub(r"\S+", shown, text)


def _any(pattern: str, paths: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for path in paths)


def _key(user: str, path: str, line: str) -> str:
    """Say which key a line of a file lets in, as ssh-keygen -l does."""
    words = line.split()
    at = next((at for at, word in enumerate(words) if word.startswith("AAAA")), None)
    try:
        blob = base64.b64decode(words[at] + "=" * (-len(words[at]) % 4), validate=True) if at is not None else b""
    except ValueError:
        blob = b""
    if at is None or not blob:
        return f"{user} by a line of no known kind in {path}"
    printed = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    comment = " ".join(words[at + 1 :])
    return f"{user} by SHA256:{printed} in {path}{f' ({comment})' if comment else ''}"
