"""Runs: each bake, proof, trial and look at machines is a run with a folder. Tells which still live, and ends them."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bakehouse import endings, patience, system
from bakehouse.accounts import wait
from bakehouse.errors import DeadlineError
from bakehouse.settings import Settings

VARIABLE = "BAKEHOUSE_RUN"
"""The environment variable that marks every process of a run, also when the parent of the process has ended."""

_ACCOUNT = "account"
_ASIDE = "aside"
_BIRTHS = ".births"
_LASTING = ("packer.log", "packer-debug.log", "manifest.json", "molecule.log", _ACCOUNT, _ASIDE)


@dataclass(frozen=True)
class Run:
    """Hold the ID of one bake, proof, trial or look at machines, and its folder, which only its user can read.

    A run lives while the process that began it holds the lock in the folder. The kernel releases the lock when that
    process ends, also when it is killed.
    """

    id: str
    folder: Path

    @property
    def log(self) -> Path:
        """Return the path of the log of Packer and Ansible."""
        return self.folder / "packer.log"

    @property
    def manifest(self) -> Path:
        """Return the path of the file in which Packer lists what it made."""
        return self.folder / "manifest.json"

    @property
    def key(self) -> Path:
        """Return the path of the run's private key; the public key is beside it."""
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        """Return the path of the file with the host key of the run's machine."""
        return self.folder / "known_hosts"

    @property
    def variables(self) -> Path:
        """Return the path of the file with the variables that Ansible gets besides the inventory's."""
        return self.folder / "vars.json"

    @property
    def connection(self) -> Path:
        """Return the path of the inventory that says how Ansible connects to the machine: by SSH, and not otherwise."""
        return self.folder / "connection.json"

    @property
    def ansible_playbook(self) -> Path:
        """Return the path of the program that runs Ansible."""
        return self.folder / "ansible-playbook"

    @property
    def reads(self) -> Path:
        """Return the path of the notes of what Ansible has read."""
        return self.folder / "reads"

    @property
    def record(self) -> Path:
        """Return the folder of the image's records: they are kept in the checkout and put into the image."""
        return self.folder / "record"

    @property
    def inventory(self) -> Path:
        """Return the folder into which Packer writes its inventory; it has a link to the checkout's group_vars."""
        return self.folder / "inventory"

    @property
    def scratch(self) -> Path:
        """Return the folder for temporary files. Its path is short, as a socket's path may have 100 bytes only."""
        link = self.folder / "scratch"
        return Path(os.readlink(link)) if link.is_symlink() else link

    @property
    def alias(self) -> Path:
        """Return a second path of the folder. It has no blanks, at which Ansible would split it."""
        return self.scratch / "run"

    @property
    def lives(self) -> bool:
        """Tell whether the process that began the run still runs."""
        try:
            with (self.folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def kept(self) -> bool:
        """Tell whether the machine of this failed bake was left for a person to look at."""
        return (self.folder / "kept").exists()

    @property
    def wiped(self) -> bool:
        """Tell whether the run's private and temporary files are gone."""
        return not (self.folder / "scratch").is_symlink()

    def keep(self) -> None:
        """Mark the run as kept: its machine, key and group stay for a person to look at."""
        (self.folder / "kept").touch()

    def wipe(self) -> None:
        """Delete all files of the run except the logs and the manifest.

        The folder for temporary files goes only if it is still ours: after a restart of the host anybody may have put
        something else in its place.
        """
        if system.is_ours(self.scratch):
            shutil.rmtree(self.scratch, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.name == "lock" or path.name in _LASTING:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def begin(settings: Settings) -> Iterator[Run]:
    """Make a run with its folder, and hold its lock. In the end, unless it is kept, only logs and manifest stay."""
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run = Run(run_id, _folder(settings) / run_id)
    with ExitStack() as held:
        with _births(settings):
            run.folder.mkdir(mode=0o700)
            held.enter_context(system.alone(run.folder / "lock"))
        try:
            (run.folder / _ACCOUNT).write_text(settings.account)
            # the link first: what we are killed before is known by it
            (run.folder / "scratch").symlink_to(f"{system.temporary()}/bh-{secrets.token_hex(4)}")
            run.scratch.mkdir(mode=0o700)
            run.alias.symlink_to(run.folder)
            run.inventory.mkdir()
            (run.inventory / "group_vars").symlink_to(settings.root / "inventory" / "group_vars")
            yield run
        finally:
            with endings.undisturbed():
                if not run.kept:
                    run.wipe()


@contextmanager
def aside(settings: Settings) -> Iterator[Run]:
    """Make a run for programs that make nothing on an account; in the end they have ended and nothing of it stays.

    What such runs have left that were killed goes first.
    """
    for dead in known(settings).values():
        if (dead.folder / _ASIDE).exists() and not dead.lives:
            end(dead)
            dead.wipe()
            shutil.rmtree(dead.folder)
    with ExitStack() as last, begin(settings) as run:
        last.callback(shutil.rmtree, run.folder)
        (run.folder / _ASIDE).touch()
        try:
            yield run
        finally:
            with endings.undisturbed():
                end(run)


def known(settings: Settings) -> dict[str, Run]:
    """Return the checkout's runs by their IDs."""
    folder = settings.state / "runs"
    if not folder.is_dir():
        return {}
    with _births(settings):  # a folder without a lock is a dead run's then
        return {path.name: Run(path.name, path) for path in sorted(folder.iterdir()) if path.is_dir()}


def forget(settings: Settings) -> None:
    """Delete the folders, with their logs, of all runs on the account that have ended."""
    for run in known(settings).values():
        file = run.folder / _ACCOUNT
        if file.is_file() and file.read_text() == settings.account and not run.lives:
            run.wipe()
            shutil.rmtree(run.folder)
    with suppress(OSError):  # it holds other runs
        (settings.state / "runs" / _BIRTHS).unlink(missing_ok=True)
        (settings.state / "runs").rmdir()


def end(run: Run) -> None:
    """End every process of a run. Packer gets SIGTERM and some time to clear away; then all are killed."""
    for pid, _ in _packers(run):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    with suppress(DeadlineError):
        wait(f"Packer of run {run.id} to end", lambda: None if _packers(run) else True, patience.RUN_STOPS)
    for pid, _ in processes(run):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes(run: Run) -> list[tuple[int, list[str]]]:
    """Return the process ID and command line of each process whose environment names the run (on Linux only)."""
    wanted = f"{VARIABLE}={run.id}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found.append((int(entry.name), line))
    return found


def _births(settings: Settings) -> AbstractContextManager[None]:
    """Let no other run be begun meanwhile."""
    return system.alone(_folder(settings) / _BIRTHS)


def _folder(settings: Settings) -> Path:
    folder = settings.state / "runs"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _packers(run: Run) -> list[tuple[int, list[str]]]:
    return [(pid, line) for pid, line in processes(run) if line[0].endswith("packer") and line[1:2] == ["build"]]
