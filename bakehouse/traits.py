"""Traits: what a machine tells of what identifies it, protects it and lets people in.

This file is run on the machine itself, as root and by whatever Python 3.9 or later is there, so it stands alone. It
takes one JSON document as its argument and prints one: of ``look``, or of ``packages`` when the argument is that word.
No secret leaves the machine: a file is told by a digest whose salt the one who asks has made up for this once.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

_JOURNAL_LINES = 1000
_LISTS = (
    ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${binary:Package} ${Version}\\n"),
    ("rpm", "--query", "--all", "--queryformat=installed %{NAME} %{VERSION}-%{RELEASE}.%{ARCH}\\n"),
)


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Return this machine's traits.

    ``asked`` holds: salt; files, as shell patterns, of which each that isn't empty is told by its digest; secrets, the
    patterns of those files that are old when last changed before ``made``, in seconds since the epoch.
    """
    salt = asked["salt"].encode()
    present, secret = _matching(asked["files"]), _matching(asked["secrets"])
    return {
        "hostname": os.uname().nodename,
        "files": {path: digest(salt, Path(path).read_bytes()) for path in [*present, *secret]},
        "secrets": secret,
        "old": [path for path in secret if os.stat(path).st_mtime < asked["made"]],
        "keys": [[user, path, line] for user, path in _key_files() for line in _lines(path)],
        "passwords": [user for user, password in _passwords() if not password.startswith(("!", "*"))],
        "packages": packages(),
        "journal": _told("journalctl", "--boot", "--no-pager", "--quiet", f"--lines={_JOURNAL_LINES}"),
    }


def digest(salt: bytes, content: bytes) -> str:
    """Return the salted digest of a content without the white space around it."""
    return hashlib.sha256(salt + content.strip()).hexdigest()


def packages() -> dict[str, str]:
    """Return the installed packages with their versions; several versions of one stand side by side."""
    found: dict[str, list[str]] = {}
    for command in _LISTS:
        for line in _told(*command).splitlines():
            state, name, version = line.split(" ")
            if state == "installed":
                found.setdefault(name, []).append(version)
    return {name: " ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _matching(patterns: list[str]) -> list[str]:
    """Return the files that match and aren't empty."""
    paths = {path for pattern in patterns for path in glob.glob(pattern)}
    return sorted(path for path in paths if os.path.isfile(path) and os.path.getsize(path))


def _key_files() -> list[tuple[str, str]]:
    """Return user and path of every file in which sshd looks for keys that let somebody in."""
    names = [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    for line in _told("sshd", "-T").splitlines():
        if line.startswith("authorizedkeysfile "):
            names = line.split()[1:]
    found: dict[str, str] = {}
    for user in pwd.getpwall():
        for name in names:
            path = name.replace("%h", user.pw_dir).replace("%u", user.pw_name).replace("%%", "%")
            path = os.path.normpath(os.path.join(user.pw_dir, path))
            if os.path.isfile(path):
                found.setdefault(path, user.pw_name)
    return [(user, path) for path, user in found.items()]


def _lines(path: str) -> list[str]:
    """Return the lines of a file that say something."""
    lines = Path(path).read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _passwords() -> list[tuple[str, str]]:
    """Return each user's name and what stands in place of the password."""
    rows = [line.split(":") for line in _lines("/etc/shadow")]
    return [(row[0], row[1]) for row in rows if len(row) > 1]


def _told(*command: str) -> str:
    """Return what a command printed; nothing when the machine has no such command."""
    with contextlib.suppress(FileNotFoundError):
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        return answer.stdout
    return ""


if __name__ == "__main__":
    word = sys.argv[1]
    print(json.dumps(packages() if word == "packages" else look(json.loads(word))))
