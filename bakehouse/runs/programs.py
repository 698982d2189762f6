"""Programs of a run: started with a log, followed line by line, and ended when the run is to stop."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bakehouse import system


class Program:
    """Follow one program that writes to a log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    def lines(self) -> Iterator[str]:
        """Yield the lines of the log as they come, until the program has ended."""
        return system.follow(self._process, self._log)

    @property
    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the program runs."""
        return self._process.poll()


@contextmanager
def started(
    argv: Sequence[str], *, log: Path, folder: Path, environment: Mapping[str, str], patience: float
) -> Iterator[Program]:
    """Run a program in a session of its own, and see to it that it has ended on leaving.

    One that still runs then is asked once to stop (SIGTERM). It is killed, with all of its process group, when it has
    not ended after ``patience`` seconds, or when somebody asks us to stop again.
    The program writes to the log itself: it has to outlive us to clear away if we are killed, and a pipe would not.
    """
    with log.open("wb") as said:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        _end(process, patience)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
