"""An apt repository as bytes: the index of its packages, the Release over it, the signature under that."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path

from bakehouse.errors import BakehouseError, ToolError

SUITE = "binary"
"""The only suite of a flat repository, as Jenkins's official one is: ``Suites: binary/`` fits both."""


_OWNER = "Bakehouse's stand-ins"


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
        f"Label: {_OWNER}\n"
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


class Key:
    """A signing key of its own in a GnuPG home; the private part never leaves that folder."""

    def __init__(self, home: Path) -> None:
        self._home = home.absolute()

    def make(self) -> str:
        """Make the key unless it is there; return its fingerprint, 40 hexadecimal digits."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _gpg(self._home) as gpg:
            if not _fingerprints(gpg):
                gpg("--passphrase", "", "--quick-generate-key", _OWNER, "ed25519", "sign", "never")
            return _fingerprints(gpg)[0]

    def public(self) -> bytes:
        """Return the public part, armoured."""
        with _gpg(self._home) as gpg:
            return gpg("--armor", "--export")

    def sign(self, content: bytes) -> bytes:
        """Return a detached, armoured signature."""
        with _gpg(self._home) as gpg:
            return gpg("--armor", "--detach-sign", given=content)


class _Gpg:
    def __init__(self, home: str) -> None:
        self._home = home

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", self._home, "--batch", "--no-tty", "--quiet", *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=True)
        except FileNotFoundError as error:
            raise ToolError("gpg is missing: it signs the stand-ins", "install gnupg") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip() or f"exit {error.returncode}"
            raise BakehouseError(f"gpg failed: {reason.splitlines()[-1]}") from error
        except subprocess.TimeoutExpired as error:
            raise BakehouseError("gpg did not end in 60 s") from error
        return done.stdout

    def leave(self) -> None:
        """End the agent that gpg has started, and drop its sockets, wherever they are."""
        for order in (["--kill", "gpg-agent"], ["--remove-socketdir"]):
            subprocess.run(["gpgconf", "--homedir", self._home, *order], capture_output=True, check=False)


@contextmanager
def _gpg(home: Path) -> Iterator[_Gpg]:
    # the agent's socket is in gpg's home, and a socket's path has 108 bytes at most: a short link leads there
    with tempfile.TemporaryDirectory(prefix="bh-gpg-") as short:
        link = os.path.join(short, "gpg")
        os.symlink(home, link)
        gpg = _Gpg(link)
        try:
            yield gpg
        finally:
            gpg.leave()


def _fingerprints(gpg: _Gpg) -> list[str]:
    lines = gpg("--with-colons", "--list-secret-keys").decode().splitlines()
    return [line.split(":")[9] for line in lines if line.startswith("fpr:")]
