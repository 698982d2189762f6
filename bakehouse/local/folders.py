"""Pack folders as Docker takes them into a container, and tell one folder from another."""

from __future__ import annotations

import hashlib
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


def digest(folder: Path) -> str:
    """Return a digest, 16 hexadecimal digits, of every file's name, executable bit and content."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder)} {file.stat().st_mode & 0o100} {content}\n".encode())
    return digest.hexdigest()[:16]
