"""Console: prints data on stdout, messages on stderr, and each step with the time that it took."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bakehouse.errors import InputError, printable


@dataclass(frozen=True)
class Step:
    """Hold one step that has ended: its name, its begin by the monotonic clock, its seconds, whether it succeeded."""

    name: str
    begun: float
    seconds: float
    ok: bool


_recorders: list[list[Step]] = []


_NO_TERMINALS = ("", "dumb", "unknown")


@cache
def talk() -> Console:
    """Return the console on stderr. It honours NO_COLOR and FORCE_COLOR, and knows whether stderr is a terminal."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def is_live() -> bool:
    """Tell whether a line on stderr can be redrawn: only where a person looks, whatever the colours are."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in _NO_TERMINALS and not os.environ.get("CI")


def _shown(name: str) -> Progress:
    """Return what shows that a step is going on, with its time so far."""
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    shown = Progress(*columns, console=talk(), transient=True)
    shown.add_task(printable(name), total=None)
    return shown


def say(line: str) -> None:
    """Print one line for the person, on stderr."""
    talk().print(printable(line), markup=False)


def data(value: str) -> None:
    """Print one value on stdout for a program to read."""
    print(printable(value), flush=True)


def data_json(value: Any) -> None:
    """Print one JSON document on stdout for a program to read."""
    data(json.dumps(value, indent=2, default=str))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Show that a step is going on, live on a terminal, and print a line with its time when it has ended."""
    begun = time.monotonic()
    try:
        if is_live():
            with _shown(name):
                yield
        else:
            yield
    except BaseException:
        finished(name, time.monotonic() - begun, ok=False)
        raise
    finished(name, time.monotonic() - begun)


class Steps:
    """Show the steps of another program as it reports them; on a terminal, the present step is shown live."""

    def __init__(self) -> None:
        self._name = ""
        self._ok = True
        self._begun = 0.0
        self._shown: Progress | None = None

    def begin(self, name: str) -> None:
        """End the present step, and begin a new one."""
        self.end()
        self._name, self._ok, self._begun = name, True, time.monotonic()
        if is_live():
            self._shown = _shown(name)
            self._shown.start()

    def name(self, more: str) -> None:
        """Append ``more`` to the present step's name, such as the ID of what it made."""
        self._name = f"{self._name} {more}"

    def fail(self, *, ignored: bool) -> None:
        """Mark the present step as failed; with ``ignored``, as good again."""
        self._ok = ignored

    def drop(self) -> None:
        """Forget the present step, because it did nothing; it is not printed."""
        self._name = ""

    def end(self, ok: bool = True) -> None:
        """End the present step, if there is one, and print its time."""
        if self._shown:
            self._shown.stop()
        if self._name:
            finished(self._name, time.monotonic() - self._begun, ok and self._ok)
        self._name, self._shown = "", None


@contextmanager
def recorded() -> Iterator[list[Step]]:
    """Yield a list to which each step is added that ends within this context."""
    steps: list[Step] = []
    _recorders.append(steps)
    try:
        yield steps
    finally:
        _recorders.pop()


def finished(name: str, seconds: float, ok: bool = True) -> None:
    """Print that a step has ended, and its time in seconds."""
    for steps in _recorders:
        steps.append(Step(name, time.monotonic() - seconds, seconds, ok))
    mark = "[green]✓[/]" if ok else "[red]✗[/]"
    if not talk().is_terminal:
        mark = "ok  " if ok else "FAIL"
    talk().print(f"{mark} ", end="")
    talk().print(printable(f"{name}  {seconds:.1f} s"), markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: aligned columns on a terminal, tab-separated rows for programs."""
    rows = [[" ".join(printable(cell).splitlines()).replace("\t", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        data("\n".join("\t".join(row) for row in (columns, *rows)))
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console(highlight=False, markup=False).print(shown)


def confirm(plan: Sequence[str], question: str, yes: bool = False) -> bool:
    """Show a plan and ask whether to go on; with ``yes`` don't ask. Raises InputError when nobody can answer."""
    for line in plan:
        say(line)
    if yes:
        return True
    try:
        if sys.stdin.isatty() and sys.stderr.isatty():  # who doesn't see the question can't answer it either
            return talk().input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")
    except EOFError:
        say("")
    raise InputError(f"{question} There is no terminal to ask on", "add --yes to do it, or --dry-run to only look")
