"""Endings: how every task ends that is asked to stop, or whose answer can't be written: in one line, with its code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from bakehouse.errors import InputError, NotKnownError, StoppedError

_ONCE_MORE = "still clearing away; kill -9 ends that by force, and ./inv cleanup --leftovers finds what stays\n"

_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)

_patience = [True]


class Interrupted(KeyboardInterrupt):
    """Say that a signal asked this task to stop, and how things stand, as the innermost ``stating`` tells it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.stands = ""
        self.hint = ""

    def stand(self, state: str, hint: str) -> None:
        """Tell how things stand, and what to do; who tells it first counts."""
        if not self.stands:
            self.stands, self.hint = state, hint


@contextmanager
def obedient(task: str) -> Iterator[None]:
    """Let signals stop a task, and raise StoppedError when one did; every task runs in this context.

    The first signal raises Interrupted wherever the task is, so that each ``finally`` clears away. While that goes on,
    later signals disturb nothing. A file or folder that the system refuses is one line too.
    """
    try:
        with _signals(_interrupt):
            yield
    except Interrupted as asked:
        told = f"{task} was interrupted by {asked}"
        raise StoppedError(": ".join(filter(None, (told, asked.stands))), asked.hint, asked.number) from asked
    except OSError as error:
        name = f": {error.filename}" if error.filename else ""
        raise InputError(f"{error.strerror or error}{name}", "BAKEHOUSE_DEBUG=1 shows who asked for it") from error


@contextmanager
def stating(state: str | Callable[[], str], hint: str = "") -> Iterator[None]:
    """Tell how things stand, and what to do, if the work in this context is interrupted, or an answer gets lost.

    A function is asked after all inner contexts have cleared away. What an inner context tells counts more.
    """
    try:
        yield
    except (Interrupted, NotKnownError) as unsure:
        unsure.stand(state if isinstance(state, str) else state(), hint)
        raise


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that ask us to stop, so that the clearing away in this context is completed."""
    with _signals(_tell_once_more):
        yield


@contextmanager
def uncut() -> Iterator[None]:
    """Put off the signals that ask us to stop until this context ends: what a request has made must get known."""
    asked: list[int] = []

    def put_off(number: int, _: object) -> None:
        asked.append(number)

    with _signals(put_off):
        yield
    if asked and not _is_stopping():
        raise Interrupted(asked[0])


@contextmanager
def impatient() -> Iterator[None]:
    """Raise Interrupted in this context also when somebody asks once more: the waiting in it can be cut short."""
    _patience.append(False)
    try:
        yield
    finally:
        _patience.pop()


@contextmanager
def answering() -> Iterator[None]:
    """Let no answer get lost: what stdout doesn't take goes to stderr, and the task exits with 2 then.

    Streams that are closed become empty ones. It is no error when the program that reads stdout has stopped reading.
    """
    if isinstance(sys.stdout, _Stream):  # we are in such a context
        yield
        return
    _open_all()
    before = sys.stdin, sys.stdout, sys.stderr
    talk, lost = _Stream(before[2], 2), list[OSError]()

    def keep(text: str, error: OSError) -> None:
        lost.append(error)
        talk.write(text)

    answer = _Stream(before[1], 1, keep)
    sys.stdin = before[0] or open(0, closefd=False)  # noqa: SIM115, it stays open
    sys.stdout, sys.stderr = cast(TextIO, answer), cast(TextIO, talk)
    try:
        yield
    except SystemExit as ended:
        answer.flush()
        if not lost or ended.code:
            raise
    finally:
        answer.flush()
        talk.flush()
        sys.stdin, sys.stdout, sys.stderr = before
    if lost:
        told = f"stdout can't be written: {lost[0].strerror or lost[0]}"
        talk.write(f"{InputError(told, 'what stands above was to go there, and it counts').message}\n")
        talk.flush()
        raise SystemExit(InputError.code)


class _Stream:
    """Write to a standard stream; what it doesn't take is given to ``instead``, and what follows too."""

    def __init__(
        self, stream: TextIO | None, number: int, instead: Callable[[str, OSError], Any] = lambda *_: None
    ) -> None:
        self._stream, self._number, self._instead = stream or open(os.devnull, "w"), number, instead  # noqa: SIM115
        self._broken = None if stream else OSError(errno.EBADF, "it is closed")
        self._pending = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._pending += text
        with self._watched():
            self._stream.write(text)
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        with self._watched():
            self._stream.flush()
        pending, self._pending = self._pending, ""
        if self._broken and pending and not isinstance(self._broken, BrokenPipeError):
            self._instead(pending, self._broken)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._broken = error
            with suppress(OSError):  # what it still holds goes nowhere, also when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)


def _open_all() -> None:
    """Open the descriptors of the standard streams that are closed: the next file would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _interrupt(number: int, _: object) -> None:
    if _is_stopping() and _patience[-1]:
        _tell_once_more()
    else:
        raise Interrupted(number)


def _is_stopping() -> bool:
    """Tell whether an Interrupted is being handled at this moment: nothing has caught it for good."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _tell_once_more(*_: object) -> None:
    with suppress(OSError):  # not by sys.stderr: it may be in the midst of a line of its own
        os.write(2, _ONCE_MORE.encode())


@contextmanager
def _signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call ``handler`` for the signals that ask us to stop. A SIGHUP that nohup ignores stays ignored.

    When the task is stopping they are ignored from then on: there is nothing more to do but to end. Only the main
    thread hears signals; in another one nothing is to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asking = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        asking.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in asking}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, signal.SIG_IGN if former in _DEFAULT and _is_stopping() else former)
