"""An apt repository as bytes: the index of its packages, the Release over it, the signature under that."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from bakehouse.local.packages.keys import OWNER, Key


@dataclass(frozen=True)
class Layout:
    """Say how the official repository is laid out, so that the same lines of a source fit both.

    Attributes: suite, of which there is one; component, empty in a flat repository, whose suite ends in a slash.
    """

    suite: str
    component: str = ""

    def release(self) -> str:
        """Return the folder of the Release."""
        return f"dists/{self.suite}/" if self.component else self.suite

    def index(self, architecture: str) -> str:
        """Return the folder of an architecture's index, as the Release names it."""
        return f"{self.component}/binary-{architecture}/" if self.component else ""

    def pool(self) -> str:
        """Return the folder of the packages."""
        return f"pool/{self.component}/" if self.component else self.suite


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


def packages(debs: list[Deb], pool: str) -> bytes:
    """Return the index: a paragraph for each package with its place, size and SHA-256."""
    return b"\n".join(
        f"{deb.control.strip()}\n"
        f"Filename: {pool}{deb.name}\n"
        f"Size: {len(deb.content)}\n"
        f"SHA256: {_sha256(deb.content)}\n".encode()
        for deb in debs
    )


def release(files: Mapping[str, bytes], layout: Layout, architecture: str, now: datetime) -> bytes:
    """Return the Release: what the repository is and the SHA-256 of each index file; ``now`` is in UTC."""
    sums = (f" {_sha256(content)} {len(content)} {name}\n" for name, content in sorted(files.items()))
    head = (
        "Origin: Bakehouse\n"
        f"Label: {OWNER}\n"
        f"Suite: {layout.suite.rstrip('/')}\n"
        + (f"Components: {layout.component}\n" if layout.component else "")
        + f"Architectures: {architecture}\n"
        f"Date: {format_datetime(now, usegmt=True)}\n"
        "SHA256:\n"
    )
    return (head + "".join(sums)).encode()


def repository(debs: list[Deb], layout: Layout, key: Key, now: datetime) -> dict[str, bytes]:
    """Return the whole repository, path to content: packages, index, Release and its detached signature.

    The packages are of one architecture, or of all.
    """
    listed = packages(debs, layout.pool())
    architecture = debs[0].field("Architecture")
    index = f"{layout.index(architecture)}Packages"
    indexes = {index: listed, f"{index}.gz": gzip.compress(listed, mtime=0)}
    signed = release(indexes, layout, architecture, now)
    files = {**indexes, "Release": signed, "Release.gpg": key.sign(signed)}
    held = {f"{layout.pool()}{deb.name}": deb.content for deb in debs}
    return {f"{layout.release()}{name}": content for name, content in files.items()} | held
