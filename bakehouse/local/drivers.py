"""Drive a program of the kit's own that runs in a container: it is asked in lines of JSON, and answers each with one.

The program is there as long as its stdin, which is ours. One that ends or hangs is made anew at the next question.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event, RLock, Thread, Timer
from typing import IO, Any

from bakehouse import system

log = logging.getLogger(__name__)


class DriverError(Exception):
    """Say why a program in a container doesn't do what it was told."""


class _NoAnswerError(DriverError):
    """Say that a program has ended, or hangs."""


def _pipe(pipe: IO[str] | None) -> IO[str]:
    """Return one of the pipes with which a process was started."""
    assert pipe is not None
    return pipe


class Driver:
    """Drive one program's container: start it with the first question, make it anew when it hangs, end it with us.

    Attributes:
        what: what the program is called in messages.
        lock: held while the program is asked.
        answer_seconds: how long the program may take to answer.
        start_seconds: how long a new one may take until its first answer, which is how long Docker may take.
        ended: set when a program that has answered ends by itself; who makes it anew clears it.
    """

    def __init__(self, what: str, name: str, labels: Mapping[str, str], run: Sequence[str], program: Sequence[str]):
        """Take the container's name and labels, the options of ``docker run``, and a file of Python with arguments."""
        self.what = what
        self.lock = RLock()
        self.answer_seconds = 20.0
        self.start_seconds = 60.0
        self.ended = Event()
        self._name = name
        self._labels = labels
        self._run = run
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self._answered: subprocess.Popen[str] | None = None

    def ask(self, question: Any, image: str) -> dict[str, Any]:
        """Return what the program answers to a question; where it gives no answer, ask a new one, once.

        ``image`` is the Docker image from which a new one is started. Raises DriverError when none answers.
        """
        with self.lock:
            try:
                return self._ask_some(question, image)
            except _NoAnswerError as error:
                log.warning("%s; it is made anew", error)
                return self._ask_some(question, image)

    def runs(self) -> bool:
        """Tell whether the program runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the program."""
        with self.lock:
            if self._process is None:
                return
            self._answered = None
            with contextlib.suppress(OSError):
                _pipe(self._process.stdin).close()
            try:
                self._process.wait(self.answer_seconds)
            except subprocess.TimeoutExpired:
                log.warning("%s does not end by itself", self.what)
                self._remove()
            self._drop()

    def _ask_some(self, question: Any, image: str) -> dict[str, Any]:
        """Ask the program that runs, or a new one; one that gives no answer is ended."""
        seconds = self.answer_seconds
        if not self.runs():
            self._start(image)
            seconds = self.start_seconds
        try:
            return self._ask(question, seconds)
        except _NoAnswerError:
            self._drop()
            raise

    def _ask(self, question: Any, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        # one that hangs takes in nothing either, and a pipe is soon full: the end of the process ends both waits
        late = Timer(seconds, self._kill, (self._process,))
        late.daemon = True
        late.start()
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            answer = _pipe(self._process.stdout).readline()
        except OSError:
            answer = ""
        finally:
            late.cancel()
        if not answer:
            raise _NoAnswerError(self._complaint(seconds))
        decoded: dict[str, Any] = json.loads(answer)
        if self._answered is not self._process:
            self._answered = self._process
            Thread(target=self._see_end, args=(self._process,), daemon=True, name=self.what).start()
        return decoded

    def _see_end(self, process: subprocess.Popen[str]) -> None:
        """Tell when a program has ended which nobody has ended here."""
        process.wait()
        if process is self._answered:
            self.ended.set()

    def _kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a process that was started with a session of its own, and what it has started."""
        self._answered = None  # it doesn't end by itself
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _complaint(self, seconds: float) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.answer_seconds)
        if self._process.returncode in (None, -signal.SIGKILL):
            return f"{self.what} did not answer within {seconds:g} s"
        said = _pipe(self._process.stderr).read().strip().partition("\n")[0]
        return f"{self.what} ended: {said or f'exit code {self._process.returncode}'}"

    def _drop(self) -> None:
        """Have done with the program's process."""
        process, self._process = self._process, None
        if process is None:
            return
        self._kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # what is left of a question can't be written any more
                _pipe(pipe).close()

    def _start(self, image: str) -> None:
        self._drop()
        self._remove()
        self._process = system.start(
            self._command(image),
            system.environment(*system.DOCKER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _remove(self) -> None:
        """Remove the program's container: what is left of an earlier one, or one that hangs."""
        line = ["docker", "rm", "-f", self._name]
        try:
            environ = system.environment(*system.DOCKER)
            system.call(line, environ, capture_output=True, check=False, timeout=self.start_seconds)
        except subprocess.TimeoutExpired as error:
            raise DriverError(f"Docker did not remove {self.what} within {self.start_seconds:g} s") from error

    def _command(self, image: str) -> Sequence[str]:
        file, *arguments = self._program
        return [
            *("docker", "run", "--interactive", "--rm", "--name", self._name),
            *(part for key, value in self._labels.items() for part in ("--label", f"{key}={value}")),
            *("--cap-drop", "ALL", "--security-opt", "apparmor=unconfined", "--read-only", "--workdir", "/"),
            *self._run,
            *("--entrypoint", "python3", image, "-I", "-c", Path(file).read_text(), *arguments),
        ]
