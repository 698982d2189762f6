"""What comes as a wheel from Python's package index, wherever pip is told that this is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bakehouse import system
from bakehouse.errors import ToolError

REQUIREMENTS = "requirements.txt"
"""The file that names the wheel and pins its hash for each platform."""

_SECONDS = 200


def fetch(folder: Path, architecture: str) -> None:
    """Fetch the wheel that a folder's requirements name into it, for machines of this architecture (the kernel's word).

    Raises ToolError when it can't be had, or isn't the one whose hash is pinned.
    """
    what = ["--requirement", str(folder / REQUIREMENTS), "--require-hashes", "--no-deps", "--only-binary=:all:"]
    how = ["--disable-pip-version-check", "--quiet", "--progress-bar=off", "--retries=1"]
    where = [f"--platform=manylinux_2_17_{architecture}", f"--dest={folder}"]
    argv = [sys.executable, "-m", "pip", "download", *how, *what, *where]
    try:
        environ = system.environment(*system.OUTSIDE)
        done = system.call(argv, environ, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"pip download did not end in {_SECONDS} s", _HINT) from error
    if done.returncode:
        raise ToolError(f"pip download failed: {complaint(done.stderr)}", _HINT)


_HINT = "is Python's package index reachable? pip config list tells which one is asked"


def complaint(said: str) -> str:
    """Return the first sentence of the first error that pip told."""
    lines = said.strip().splitlines() or ["it said nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:])[0].partition(". ")[0]
