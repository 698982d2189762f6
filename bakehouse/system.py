"""The system the kit runs on: its programs, root without a password, its package manager."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def run(*command: str, folder: str | None = None, seconds: float | None = 20, uncut: bool = False) -> tuple[int, str]:
    """Run a command without input and return its exit code and all it said; 127 when it can't run or takes too long.

    ``uncut`` lets it end in peace when the person presses Ctrl-C, before the kit stops.
    """
    environment = os.environ | {"LC_ALL": "C", "CHECKPOINT_DISABLE": "1"}
    # A file and not a pipe: a daemon that the command leaves behind holds it open.
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder, env=environment,
                start_new_session=uncut,
            )  # fmt: skip
            try:
                process.wait(seconds)
            finally:
                if not uncut:
                    process.kill()
                process.wait()
        except (OSError, subprocess.TimeoutExpired) as error:
            return 127, str(error)
        said.seek(0)
        return process.returncode, said.read()


def with_us(*command: str) -> list[str]:
    """Return a command that is told to end (SIGTERM) when we end, be it by SIGKILL; where setpriv is, as on Linux."""
    return [*(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()), *command]


def follow(process: subprocess.Popen[bytes], log: Path) -> Iterator[str]:
    """Yield the lines of a log until the process that writes it has ended."""
    rest = ""
    with log.open(errors="replace") as reader:
        while True:
            ended = process.poll() is not None
            text = reader.read()
            *lines, rest = (rest + text).split("\n")
            yield from lines
            if ended and not text:
                return
            if not text:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)


ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    "x86_64": {"ec2": "x86_64", "kernel": "x86_64", "debian": "amd64"},
    "arm64": {"ec2": "arm64", "kernel": "aarch64", "debian": "arm64"},
}
"""Architectures by EC2's word for each, with the words that EC2, the kernel and Debian have for it."""


def architecture(word: str = "") -> str:
    """Return EC2's word for an architecture that anybody names, by default for this system's; empty when unknown."""
    word = word or platform.machine()
    return next((name for name, words in ARCHITECTURES.items() if word in words.values()), "")


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the lock on a file, which is made where it isn't there; wait for whoever holds it."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_line(text: str) -> str:
    """Return the last line of what a command said, where most put their complaint."""
    return text.strip().rpartition("\n")[2]


def become_root() -> tuple[str, ...] | None:
    """Return what makes root of a command without asking for a password; None where nothing does."""
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if run("sudo", "-n", "true")[0] == 0 else None


def has_systemd() -> bool:
    """Return whether systemd runs here."""
    return Path("/run/systemd/system").is_dir()


def can_install() -> bool:
    """Return whether the kit may install packages: on Debian and its kin, where it can become root."""
    return shutil.which("apt-get") is not None and become_root() is not None


def having(packages: Sequence[str]) -> tuple[str, ...]:
    """Return those of the packages that apt's lists have."""
    _, told = run("apt-cache", "policy", *packages)
    names = re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", told, re.MULTILINE)
    return tuple(name for name in packages if name in names)


def install(packages: Sequence[str]) -> str:
    """Install those of the packages that this distribution has, the first at least; return apt's complaint, if any."""
    if not having(packages[:1]):
        _apt("update")
    if not having(packages[:1]):
        return f"this distribution has no package {packages[0]}"
    if _apt("install", *having(packages)):
        _apt("update")  # the lists may name files that the mirror no longer has
        return _apt("install", *having(packages))
    return ""


def command_for(packages: Mapping[str, tuple[str, ...]]) -> str:
    """Return the command by which a person gets the packages here; empty where this system has none of them."""
    if shutil.which("apt-get"):
        command, names = "sudo apt-get install", packages.get("apt-get", ())
        names = having(names) if _has_lists() else names[:1]
    elif shutil.which("dnf"):
        command, names = "sudo dnf install", packages.get("dnf", ())
    else:
        command, names = "brew install", packages.get("brew", ()) if shutil.which("brew") else ()
    return f"{command} {' '.join(names)}" if names else ""


def _has_lists() -> bool:
    return any(Path("/var/lib/apt/lists").glob("*Packages*"))


def _apt(*arguments: str) -> str:
    """Run apt-get and return its complaint, which is empty when all went well."""
    options = ("-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120")
    root = become_root() or ()
    # Uncut, for Ctrl-C must not leave packages half configured.
    code, told = run(
        *root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments, seconds=None, uncut=True
    )
    return (last_line(told) or f"apt-get ended with {code}") if code else ""
