"""An apt repository as bytes: the index of its packages, the Release over it, the signature under that."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from bakehouse.local.packages.keys import OWNER, Key

SUITE = "binary"
"""The only suite of a flat repository, as Jenkins's official one is: ``Suites: binary/`` fits both."""


@dataclass(frozen=True)
class Deb:
    """Hold a package.

    Attributes: name, its file's name; control, its control paragraph; content, its bytes.
    """

    name: str
    control: str
    content: bytes

    def field(self, name: str) -> str:
        """Return a field of the control paragraph, empty when it has none of that name."""
        lines = (line.partition(": ") for line in self.control.splitlines())
        return next((value for key, _, value in lines if key == name), "")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packages(debs: list[Deb]) -> bytes:
    """Return the index: a paragraph for each package with its place, size and SHA-256."""
    return b"\n".join(
        f"{deb.control.strip()}\n"
        f"Filename: {SUITE}/{deb.name}\n"
        f"Size: {len(deb.content)}\n"
        f"SHA256: {_sha256(deb.content)}\n".encode()
        for deb in debs
    )


def release(files: Mapping[str, bytes], now: datetime) -> bytes:
    """Return the Release: what the repository is and the SHA-256 of each index file; ``now`` is in UTC."""
    sums = (f" {_sha256(content)} {len(content)} {name}\n" for name, content in sorted(files.items()))
    head = (
        "Origin: Bakehouse\n"
        f"Label: {OWNER}\n"
        f"Suite: {SUITE}\n"
        "Architectures: all\n"
        f"Date: {format_datetime(now, usegmt=True)}\n"
        "SHA256:\n"
    )
    return (head + "".join(sums)).encode()


def repository(debs: list[Deb], key: Key, now: datetime) -> dict[str, bytes]:
    """Return the whole repository, path to content: packages, index, Release and its detached signature."""
    listed = packages(debs)
    index = {"Packages": listed, "Packages.gz": gzip.compress(listed, mtime=0)}
    signed = release(index, now)
    files = {**index, "Release": signed, "Release.gpg": key.sign(signed)}
    files |= {deb.name: deb.content for deb in debs}
    return {f"{SUITE}/{name}": content for name, content in files.items()}
