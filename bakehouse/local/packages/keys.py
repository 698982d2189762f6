"""The key that signs what stands in."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bakehouse import system
from bakehouse.errors import BakehouseError, ToolError

OWNER = "Bakehouse's stand-ins"
"""Whose key it is."""

_END_SECONDS = 10


class Key:
    """A signing key of its own in a GnuPG home, whose private part is written nowhere else.

    RSA, as Jenkins's own: the rpm of every platform can read it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.absolute()

    def make(self) -> str:
        """Make the key unless it is there; return its fingerprint, 40 hexadecimal digits."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _gpg(self._home) as gpg:
            if not _fingerprints(gpg):
                gpg("--passphrase", "", "--quick-generate-key", OWNER, "rsa3072", "sign", "never")
            return _fingerprints(gpg)[0]

    def public(self) -> bytes:
        """Return the public part, armoured."""
        with _gpg(self._home) as gpg:
            return gpg("--armor", "--export")

    def private(self) -> bytes:
        """Return the private part, armoured: rpms are signed by rpm's own tool, where that is."""
        with _gpg(self._home) as gpg:
            return gpg("--armor", "--export-secret-keys")

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
            done: subprocess.CompletedProcess[bytes] = system.call(
                command, system.environment(), input=given, capture_output=True, timeout=60, check=True
            )
        except FileNotFoundError as error:
            raise ToolError("gpg is missing: it signs the stand-ins", "install gnupg") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip() or f"exit {error.returncode}"
            raise BakehouseError(f"gpg failed: {reason.splitlines()[-1]}") from error
        except subprocess.TimeoutExpired as error:
            raise BakehouseError("gpg did not end in 60 s") from error
        return done.stdout

    def leave(self) -> None:
        """End the agent that gpg has started, and drop its sockets, wherever they are.

        An agent that is told to end still takes connections for a moment, and drops them: the next gpg would fail. Its
        last act is to remove its socket.
        """
        socket = Path(self._conf("--list-dirs", "agent-socket").strip())
        self._conf("--kill", "gpg-agent")
        deadline = time.monotonic() + _END_SECONDS
        while socket.is_socket() and time.monotonic() < deadline:
            time.sleep(0.005)
        self._conf("--remove-socketdir")

    def _conf(self, *order: str) -> str:
        argv = ["gpgconf", "--homedir", self._home, *order]
        done = system.call(argv, system.environment(), capture_output=True, text=True, check=False)
        return str(done.stdout)


@contextmanager
def _gpg(home: Path) -> Iterator[_Gpg]:
    # the agent's socket is in gpg's home, and a socket's path has 108 bytes at most: a short link leads there
    with tempfile.TemporaryDirectory(prefix="bh-", dir=system.temporary()) as short:
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
