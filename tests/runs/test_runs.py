"""Runs: a private folder each, alive as long as its process holds the lock, and ended with all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bakehouse import runs, settings
from bakehouse.settings import Settings


def foreign(place: Path, _: Path) -> None:
    """Make a folder that is another user's."""
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)


PUT: dict[str, Callable[[Path, Path], object]] = {
    "a link to a folder of the person's": lambda place, theirs: place.symlink_to(theirs),
    "an open folder": lambda place, _: place.mkdir(mode=0o755),
    "another user's folder": foreign,
    "a file": lambda place, _: place.touch(),
}

IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
HOLDS = """
import sys, time
from pathlib import Path
from bakehouse import runs, settings
with runs.begin(settings.load(root=Path(sys.argv[1]))) as run:
    print(run.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Return the settings of an empty checkout, whose name holds a blank."""
    root = tmp_path / "a checkout"
    root.mkdir()
    return settings.load(root=root)


def test_begin(given: Settings) -> None:
    """A run has a folder of its own that nobody else can read, with the paths that Packer needs."""
    with runs.begin(given) as run:
        assert 0o700 == stat.S_IMODE(run.folder.stat().st_mode) == stat.S_IMODE(run.scratch.stat().st_mode)
        assert " " not in str(run.alias)
        assert run.folder == run.alias.resolve()
        assert len(str(run.scratch / "packer-plugin1234567890")) < 100
        assert given.root / "inventory/group_vars" == (run.inventory / "group_vars").readlink()
        assert {run.id: run} == runs.known(given)


def test_lives(given: Settings) -> None:
    """A run lives until the process that began it lets go of its lock."""
    with runs.begin(given) as run:
        assert run.lives
    assert not run.lives


def test_death(given: Settings) -> None:
    """A run whose process was killed is dead at once."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(given.root)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        begun = holder.stdout.readline().strip()
        run = runs.known(given)[begun]
        lived = run.lives
        holder.kill()

    assert (True, False) == (lived, run.lives)
    run.wipe()


def test_wiped(given: Settings) -> None:
    """Of a run that has ended the log and the manifest stay, in its folder and anywhere else."""
    with suppress(KeyboardInterrupt), runs.begin(given) as run:
        for path in (run.log, run.manifest, run.key, run.known_hosts, run.variables, run.scratch / "ansible-key1"):
            path.touch()
        scratch = run.scratch
        assert not run.wiped
        raise KeyboardInterrupt

    assert ["account", "lock", "manifest.json", "packer.log"] == sorted(path.name for path in run.folder.iterdir())
    assert (False, True) == (scratch.exists(), run.wiped)
    run.wipe()


def test_kept(given: Settings) -> None:
    """A run that is kept keeps its key until it is wiped."""
    with runs.begin(given) as run:
        run.key.touch()
        run.keep()
    assert (True, True) == (run.kept, run.key.exists())

    run.wipe()

    assert (False, False) == (run.kept, run.key.exists())


def started(run: runs.Run, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program as a process of a run, in a session of its own, and wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, runs.VARIABLE: run.id},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def test_killed_at_birth(given: Settings) -> None:
    """A run that was killed before it had a lock is known, and dead; one that is being born is not looked at."""
    (given.state / "runs/20261122-080000-abcd").mkdir(parents=True)

    [run] = runs.known(given).values()

    assert ("20261122-080000-abcd", False) == (run.id, run.lives)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_aside(given: Settings) -> None:
    """Of a run aside nothing stays; of one that was killed, the next one ends the processes and takes the files."""
    script = HOLDS.replace("runs.begin(", "runs.aside(")
    with subprocess.Popen([sys.executable, "-c", script, str(given.root)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        begun = holder.stdout.readline().strip()
        dead = runs.known(given)[begun]
        orphan, scratch = started(dead, IGNORES_TERM), dead.scratch
        holder.kill()

    with runs.aside(given) as run, orphan:
        assert {run.id} == set(runs.known(given))
        assert -signal.SIGKILL == orphan.wait(60)
        assert not scratch.exists()
    assert {} == runs.known(given)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_end(given: Settings) -> None:
    """A run's processes are killed whatever they think of it, and no other run's."""
    with runs.begin(given) as run, runs.begin(given) as other:
        mine, theirs = started(run, IGNORES_TERM), started(other, IGNORES_TERM)

        runs.end(run)

        with mine, theirs:
            assert -signal.SIGKILL == mine.wait(60)
            assert theirs.poll() is None
            theirs.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_end_of_packer(given: Settings, tmp_path: Path) -> None:
    """Packer is asked to stop first, and has time to clear away."""
    (tmp_path / "packer").symlink_to(sys.executable)
    (tmp_path / "build").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(7)))\n"
        "print(flush=True)\n"
        "time.sleep(600)\n"
    )
    with runs.begin(given) as run:
        packer = subprocess.Popen(
            [str(tmp_path / "packer"), "build"],
            cwd=tmp_path,
            env={**os.environ, runs.VARIABLE: run.id},
            stdout=subprocess.PIPE,
        )
        assert packer.stdout
        packer.stdout.readline()
        begun = time.monotonic()

        runs.end(run)

        with packer:
            assert 7 == packer.wait(60)
        assert time.monotonic() - begun < 50  # and not as long as one that won't stop is given


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
def test_what_others_have_put_in_place_of_a_dead_runs_scratch_stays(
    given: Settings, tmp_path: Path, put: Callable[[Path, Path], object]
) -> None:
    """After a restart anybody may have made the path anew: only our own link goes, and the person's folder stays."""
    theirs = tmp_path / "precious"
    theirs.mkdir()
    (theirs / "file").touch()
    with runs.begin(given) as run:
        scratch = run.scratch
        run.keep()
    shutil.rmtree(scratch)
    try:
        put(scratch, theirs)
        (scratch / "file").touch() if scratch.is_dir() else None

        run.wipe()

        assert run.wiped
        assert (theirs / "file").exists()
        assert os.path.lexists(scratch)
    finally:
        scratch.unlink() if scratch.is_symlink() or scratch.is_file() else shutil.rmtree(scratch)
