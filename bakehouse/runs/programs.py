"""Programs: starts a program of a run, follows its log line by line, and ends it when the run stops."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bakehouse import endings, runs, system
from bakehouse.patience import Limit
from bakehouse.runs import Run


class Program:
    """Follow one program that writes to a log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, patience: Limit) -> None:
        self._process, self._log, self._patience = process, log, patience

    def lines(self) -> Iterator[str]:
        """Yield each line of the log as it is written, until the program has ended."""
        return system.follow(self._process, self._log)

    def end(self) -> None:
        """End the program, as leaving the context does."""
        _end(self._process, self._patience)

    @property
    def code(self) -> int | None:
        """Return the exit code, which is negative after a signal; None while the program runs."""
        return self._process.poll()


@contextmanager
def started(
    argv: Sequence[str], *, run: Run, log: Path, folder: Path, environment: Mapping[str, str], patience: Limit
) -> Iterator[Program]:
    """Run a program of a run in a session of its own; on leaving the context it has ended, and all that it started.

    A program that still runs then gets SIGTERM. It is killed with its whole process group when it has not ended after
    ``patience``, or when somebody asks us to stop once more.
    The program writes to the log file itself: if we are killed, it must live on to clear away, and a pipe to us would
    end with us.
    """
    process, environment = None, {**environment, runs.VARIABLE: run.id}
    try:
        with log.open("wb") as said, endings.uncut():
            process = system.start(argv, environment, cwd=folder, stdout=said, stderr=said, start_new_session=True)
        yield Program(process, log, patience)
    finally:
        if process:
            _end(process, patience)
            runs.end(run)


def attended(line: str, *, folder: Path, environment: Mapping[str, str], patience: Limit) -> int:
    """Run a command line whose output is ours, and return its exit code.

    When we are asked to stop, it gets SIGINT, and ends as ``started`` ends a program.
    """
    process = None
    try:
        with endings.uncut():
            process = system.start(shlex.split(line), environment, cwd=folder, start_new_session=True)
        return process.wait()
    finally:
        if process:
            _end(process, patience, signal.SIGINT)


def _end(process: subprocess.Popen[bytes], patience: Limit, asking: signal.Signals = signal.SIGTERM) -> None:
    if process.poll() is not None:
        return
    process.send_signal(asking)
    try:
        with endings.impatient():
            system.until_ended(process, patience.seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
