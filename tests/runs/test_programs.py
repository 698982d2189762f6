"""Programs of a run: followed to their end, and ended when the run is to stop, whatever they make of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from ec2_fixtures import wait

from bakehouse import endings
from bakehouse.errors import StoppedError
from bakehouse.patience import Limit
from bakehouse.runs import Run, programs
from bakehouse.runs.programs import Program

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
child = os.fork()
print(f"{'child' if child == 0 else 'parent'} {os.getpid()}", flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., AbstractContextManager[Program]]]:
    """Give what starts a Python program with a log in an empty folder; nothing of it stays."""

    def started(code: str, patience: float = 30) -> AbstractContextManager[Program]:
        return programs.started(
            [sys.executable, "-c", code],
            run=Run("20261122-080000-abcd", tmp_path),
            log=tmp_path / "log",
            folder=tmp_path,
            environment={"A": "b"},
            patience=Limit(patience, ""),
        )

    yield started
    for pid in pids(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids(folder: Path) -> list[int]:
    """Return the process IDs that STUBBORN has written into its log."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(("child", "parent"))]


def lives(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def interrupted(program: AbstractContextManager[Program], ready: Callable[[Program], object]) -> Program:
    """Run a program until it is ready, be interrupted, and return it as it is afterwards."""
    seen: list[Program] = []

    def run() -> None:
        with program as one:
            seen.append(one)
            ready(one)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    return seen[0]


def test_to_the_end(start: Callable[..., AbstractContextManager[Program]]) -> None:
    """A program's lines come while it runs, its exit code when it has ended, in the environment that is given."""
    with start(
        "import os, sys; print('one'); print(dict(os.environ).get('A'), 'HOME' in os.environ); sys.exit(3)"
    ) as one:
        lines = list(one.lines())

    assert (["one", "b False"], 3) == (lines, one.code)


def test_asked_first(start: Callable[..., AbstractContextManager[Program]], tmp_path: Path) -> None:
    """A program that still runs is asked to stop, and has the time to clear away."""
    code = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit('cleared away'))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )

    one = interrupted(start(code), lambda program: next(program.lines()))

    assert ("up\ncleared away\n", 1) == ((tmp_path / "log").read_text(), one.code)


ATTENDED = """
import pathlib, sys, time
pathlib.Path("up").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("cleared away").touch()
"""


@pytest.mark.usefixtures("signals")
def test_attended(tmp_path: Path) -> None:
    """A program whose output is ours gets the one signal at which tests and the like clear away, whichever we get."""
    (tmp_path / "program.py").write_text(ATTENDED)

    def strike() -> None:
        wait((tmp_path / "up").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=strike).start()
    with pytest.raises(StoppedError, match="by SIGTERM"), endings.obedient("the test"):
        programs.attended(
            f"{sys.executable} program.py", folder=tmp_path, environment={}, patience=Limit(30, "it is quick")
        )

    assert (tmp_path / "cleared away").exists()


def test_then_killed(start: Callable[..., AbstractContextManager[Program]], tmp_path: Path) -> None:
    """A program that won't stop is killed with all that it started, and what interrupted us is what is raised."""
    one = interrupted(start(STUBBORN, patience=1), lambda _: wait(lambda: len(pids(tmp_path)) == 2))

    assert -signal.SIGKILL == one.code
    assert "no\n" in (tmp_path / "log").read_text()
    wait(lambda: not any(map(lives, pids(tmp_path))))


def test_asked_twice(
    start: Callable[..., AbstractContextManager[Program]], tmp_path: Path, ctrl_c: Callable[[], None]
) -> None:
    """A second Ctrl-C doesn't wait for a program that won't stop."""
    begun = time.monotonic()

    def ready(_: Program) -> None:
        wait(lambda: len(pids(tmp_path)) == 2)
        threading.Timer(1, ctrl_c).start()

    one = interrupted(start(STUBBORN, patience=300), ready)

    assert -signal.SIGKILL == one.code
    assert time.monotonic() - begun < 100
