"""Identity: find what two machines of an image share but must not, and what came with the image but should not."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import inspect
import json
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
"""Shell patterns of the files that identify a machine."""

BAKED = {
    "packages": "packages",
    "services": "services",
    "users": "users",
    "setuid": "setuid files",
    "files": "files in /etc",
}
"""The parts of a machine's contents that must stay as they were baked, and their names in findings."""

_SHOWN = 40  # characters of a value, such as a version; nobody needs more of a digest


@dataclass(frozen=True)
class Traits:
    """Hold the traits that a machine reported (``bakehouse/records/inspector.py``).

    Attributes:
        hostname: its host name.
        files: the files that identify it and the secret ones, each mapped to its salted digest.
        secrets: the paths of the secret files.
        marks: by what the secrets in these files are recognized, each as digest and length.
        old: those of the secret files that were already in the image.
        keys: the keys that SSH accepts, each as user, file and line of that file.
        passwords: the names of the users that have a password.
        contents: what is in it.
        journal: the last lines of the journal of its present boot.
    """

    hostname: str
    files: Mapping[str, str]
    secrets: tuple[str, ...]
    marks: tuple[tuple[str, int], ...]
    old: tuple[str, ...]
    keys: tuple[tuple[str, str, str], ...]
    passwords: tuple[str, ...]
    contents: Contents
    journal: str

    @classmethod
    def from_answer(cls, answer: str) -> Traits:
        """Read what the machine printed; raises ValueError, KeyError or TypeError when it is malformed."""
        told: dict[str, Any] = json.loads(answer)
        lists = {name: tuple(told[name]) for name in ("secrets", "old", "passwords")}
        keys = tuple((user, path, line) for user, path, line in told["keys"])
        marks = tuple((digest, length) for digest, length in told["marks"])
        return cls(
            **{**told, **lists, "keys": keys, "marks": marks, "contents": Contents.from_answer(told["contents"])}
        )


@dataclass(frozen=True)
class Question:
    """Hold what both machines are asked.

    Attributes:
        salt: the salt of the files' digests, made up for one proof.
        secrets: shell patterns of the service's secret files.
        made: when the image was made, in seconds since the epoch.
    """

    salt: str
    secrets: tuple[str, ...]
    made: float


@dataclass(frozen=True)
class Comparison:
    """Hold one comparison of two machines: of what, and its outcome.

    The outcome is ``different``, ``the same``, ``on one`` (of the machines only) or ``on none``.
    """

    what: str
    outcome: str


def look(settings: Settings, machine: Machine, question: Question) -> Traits:
    """Ask a machine for its traits; raises CloudError when it gives no valid answer."""
    asked = json.dumps({**asdict(question), "files": IDENTITY})
    command = shlex.join(["sudo", "python3", "-c", inspect.getsource(inspector), asked])
    answer = shells.enter(settings, machine, command)
    try:
        return Traits.from_answer(answer.stdout)
    except (ValueError, TypeError, KeyError) as error:
        said = answer.stderr.strip() or f"it answered {answer.stdout[:80]!r}"
        raise CloudError(f"machine {machine.id} does not report its traits: {said}") from error


def compare(one: Traits, other: Traits, patterns: Sequence[str]) -> list[Comparison]:
    """Compare two machines by host name and each file; a pattern that matches no file has the outcome ``on none``."""
    rows = [Comparison("hostname", "the same" if one.hostname == other.hostname else "different")]
    paths = sorted({*one.files, *other.files})
    for path in paths:
        if path in one.files and path in other.files:
            rows.append(Comparison(path, "the same" if one.files[path] == other.files[path] else "different"))
        else:
            rows.append(Comparison(path, "on one"))
    return [*rows, *(Comparison(pattern, "on none") for pattern in patterns if not _any(pattern, paths))]


def shared(rows: Sequence[Comparison]) -> list[Finding]:
    """Return a finding for each comparison, good unless both machines are the same; ``on none`` gives no finding."""
    told = {
        "different": "different on the two machines",
        "the same": "the same on both machines, so it came with the image",
        "on one": "on one of the two machines only",
    }
    return [
        Finding(f"{row.what} is unique", row.outcome != "the same", told[row.outcome])
        for row in rows
        if row.outcome in told
    ]


def fresh(machine: Traits, question: Question) -> list[Finding]:
    """Find whether the recipe's secrets exist and were created on the machine; no findings if it names no secrets."""
    if not question.secrets:
        return []
    name, old, found = "The service was never started before", machine.old, machine.secrets
    if not found:
        nothing = "none of the recipe's secrets exists on the machine"
        return [Finding("The recipe's secrets are found", False, f"{nothing}: {', '.join(question.secrets)}")]
    if not old:
        return [Finding(name, True, f"all {len(found)} secrets were created on the machine")]
    if len(old) < len(found):
        return [Finding("No secret was left in the image", False, f"in the image already: {', '.join(old)}")]
    cause = f"all secrets were in the image already, so the service was started in the bake: {', '.join(old)}"
    return [Finding(name, False, cause)]


def access(machine: Traits, own: str) -> list[Finding]:
    """Find whether only the launch's key and no password gives access; ``own`` is that public key: type and base64."""
    blob = (own.split() or ["", "no key"])[-1]
    foreign = [_key(*row) for row in machine.keys if blob not in row[2].split()]
    users = ", ".join(machine.passwords)
    return [
        Finding(
            "Only the launch's key is let in",
            not foreign,
            f"the image lets in: {'; '.join(foreign)}" if foreign else f"{len(machine.keys)} lines, all of that key",
        ),
        Finding("No user has a password", not users, f"users with a password: {users}" if users else "all are locked"),
    ]


def changes(recorded: Contents, running: Contents) -> list[Change]:
    """Return how a machine's contents differ from the bake's record; ports are left out, as services open them."""
    return contents.changes(recorded, running, tuple(BAKED))


def as_baked(rows: Sequence[Change], running: Contents) -> list[Finding]:
    """Find whether each part of a machine's contents is as the bake recorded it; ``rows`` are all differences."""
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


def _any(pattern: str, paths: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for path in paths)


def _key(user: str, path: str, line: str) -> str:
    """Describe the key in a line of a file by its fingerprint, as ``ssh-keygen -l`` does."""
    words = line.split()
    at = next((at for at, word in enumerate(words) if word.startswith("AAAA")), None)
    try:
        blob = base64.b64decode(words[at] + "=" * (-len(words[at]) % 4), validate=True) if at is not None else b""
    except ValueError:
        blob = b""
    if at is None or not blob:
        return f"{user} by a line of unknown format in {path}"
    printed = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    comment = " ".join(words[at + 1 :])
    return f"{user} by SHA256:{printed} in {path}{f' ({comment})' if comment else ''}"
