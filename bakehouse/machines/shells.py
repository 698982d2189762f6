"""Shells: entering a machine over SSH, with our key, and knowing it by its ID, whatever address it has."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from bakehouse import console, machines
from bakehouse.accounts import access, wait
from bakehouse.errors import CloudError, InputError
from bakehouse.machines import Machine
from bakehouse.settings import Settings


def options(settings: Settings, machine: Machine) -> list[str]:
    """Return the options with which SSH enters a machine."""
    hosts = access.known_hosts(settings, machine.id)
    hosts.parent.mkdir(mode=0o700, exist_ok=True)
    told = {
        "IdentityFile": _path(access.keys(settings) / machine.key),
        "IdentitiesOnly": "yes",
        "HostKeyAlias": machine.id,
        "UserKnownHostsFile": _path(hosts),
        "StrictHostKeyChecking": "accept-new",
        "BatchMode": "yes",
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
    }
    return [part for name, value in told.items() for part in ("-o", f"{name}={value}")]


def line(settings: Settings, machine: Machine, command: str = "") -> list[str]:
    """Return the command line that runs a shell command on a machine, or a shell where there is no command."""
    there = f"{machine.user}@{machines.address(machine)}"
    key = access.keys(settings) / machine.key
    if not key.is_file():
        raise InputError(
            f"the private key of machine {machine.id} isn't here: {key}",
            "put it there, or ./inv launch another",
        )
    return ["ssh", *options(settings, machine), there, *(["--", command] if command else [])]


def enter(settings: Settings, machine: Machine, command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a shell command on a machine and return what it answered; the exit code is 255 when SSH itself failed."""
    argv = line(settings, machine, command)
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 255, "", f"no answer in {seconds:.0f} s")


def read(settings: Settings, machine: Machine, path: str) -> str:
    """Return the text of a file that only root may read on a machine, without its last line end."""
    answer = enter(settings, machine, f"sudo cat {shlex.quote(path)}")
    if answer.returncode != 0:
        raise CloudError(
            f"machine {machine.id}: {path} can't be read: {answer.stderr.strip()}", "./inv probe tells more"
        )
    return answer.stdout.rstrip("\n")


def reachable(settings: Settings, machine: Machine, seconds: float) -> None:
    """Return when a machine lets us in over SSH; raises DeadlineError."""
    with console.step(f"{machine.id} lets us in over SSH at {machine.address}"):
        wait(
            f"machine {machine.id} to let us in over SSH at {machine.address}",
            lambda: enter(settings, machine, "true", seconds=15).returncode == 0 or None,
            seconds,
        )


def booted(settings: Settings, machine: Machine, seconds: float = 600) -> None:
    """Return when cloud-init has ended on a machine, well or not; raises DeadlineError."""
    with console.step(f"{machine.id} cloud-init done"):
        wait(
            f"cloud-init on machine {machine.id} to end",
            lambda: enter(settings, machine, "cloud-init status --wait", seconds=60).returncode in (0, 1, 2) or None,
            seconds,
        )


def boot(settings: Settings, machine: Machine) -> str:
    """Return what tells a machine's present boot from every other; empty while it doesn't let us in.

    That is the kernel's boot ID with the start of init, for a container has its host's kernel.
    """
    command = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat"
    return "/".join(enter(settings, machine, command, seconds=15).stdout.split())


def rebooted(settings: Settings, machine: Machine, before: str, seconds: float = 300) -> None:
    """Return when a machine has booted anew since the boot that was ``before``; raises DeadlineError."""
    with console.step(f"{machine.id} rebooted"):
        wait(f"machine {machine.id} to boot anew", lambda: boot(settings, machine) not in ("", before) or None, seconds)


def _path(file: Path) -> str:
    """Return a path as SSH's options take it: a space would begin a second one, and % is theirs."""
    return f'"{file}"'.replace("%", "%%")
