"""Folders as Docker takes them into a container."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def packed(folder: Path, name: str) -> bytes:
    """Return a folder as a tar in which it has that name; its files belong to root and can be read by all."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, name, filter=plain)
    return archive.getvalue()
