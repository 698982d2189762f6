"""System: runs programs on this system, becomes root, and installs packages."""

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
    """Run a command without input, and return its exit code and its whole output.

    The code is 127 when the command can't be run, or takes longer than ``seconds``. With ``uncut``, Ctrl-C doesn't
    reach the command: the kit stops after the command has ended.
    """
    environment = os.environ | {"LC_ALL": "C", "CHECKPOINT_DISABLE": "1"}
    # A file, not a pipe: a daemon that the command leaves behind would hold a pipe open.
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
    """Return a command that gets SIGTERM when we end, even by SIGKILL. It works only where setpriv is, as on Linux."""
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
"""For each architecture, by EC2's word for it, the words of EC2, the kernel and Debian."""


def architecture(word: str = "") -> str:
    """Return EC2's word for an architecture, by default for this system's; empty when ``word`` is unknown."""
    word = word or platform.machine()
    return next((name for name, words in ARCHITECTURES.items() if word in words.values()), "")


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Wait for the lock on a file, and hold it. The file is made if it is missing."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_line(text: str) -> str:
    """Return the last line of a command's output, where most commands print their error."""
    return text.strip().rpartition("\n")[2]


def become_root() -> tuple[str, ...] | None:
    """Return the words to put before a command to run it as root without a password; None where that is impossible."""
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if run("sudo", "-n", "true")[0] == 0 else None


def has_systemd() -> bool:
    """Return whether systemd runs here."""
    return Path("/run/systemd/system").is_dir()


def can_install() -> bool:
    """Return whether the kit can install packages: it must be able to become root, on a system with apt-get."""
    return shutil.which("apt-get") is not None and become_root() is not None


def having(packages: Sequence[str]) -> tuple[str, ...]:
    """Return those of the packages that apt can install, as its lists say."""
    _, told = run("apt-cache", "policy", *packages)
    names = re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", told, re.MULTILINE)
    return tuple(name for name in packages if name in names)


def install(packages: Sequence[str]) -> str:
    """Install those of the packages that exist here; the first one must. Return the error as text, empty on success."""
    if not having(packages[:1]):
        _apt("update")
    if not having(packages[:1]):
        return f"this distribution has no package {packages[0]}"
    if _apt("install", *having(packages)):
        _apt("update")  # the lists may name versions that the mirror no longer has
        return _apt("install", *having(packages))
    return ""


def command_for(packages: Mapping[str, tuple[str, ...]]) -> str:
    """Return the command that installs the packages on this system; empty when it has none of them."""
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
    """Run apt-get, and return its error as text, empty on success."""
    options = ("-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120")
    root = become_root() or ()
    # Uncut, because Ctrl-C must not leave packages half configured.
    code, told = run(
        *root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments, seconds=None, uncut=True
    )
    return (last_line(told) or f"apt-get ended with {code}") if code else ""
