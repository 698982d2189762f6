"""Shells: run commands on machines over SSH.

A machine's host key is kept under the machine's ID, because its address may change.
"""

from __future__ import annotations

import math
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bakehouse import console, machines, patience, system
from bakehouse.accounts import access, wait
from bakehouse.errors import CloudError, InputError, NotKnownError
from bakehouse.machines import Machine
from bakehouse.patience import Limit
from bakehouse.recipes.services import Service
from bakehouse.settings import Settings
from bakehouse.sites import Bastion

_SSH_FAILED = 255
_TURN = 20  # seconds for which a machine waits itself, until it is asked again whether it still runs


def options(settings: Settings, machine: Machine) -> list[str]:
    """Return the options of ``ssh`` for a machine. The person's own configuration of ssh stays out of it."""
    hosts = access.known_hosts(settings, machine.id)
    hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = {
        "IdentityFile": access.path(access.keys(settings) / machine.key),
        "IdentitiesOnly": "yes",
        "AddKeysToAgent": "no",
        "HostKeyAlias": machine.id,
        "UserKnownHostsFile": access.path(hosts),
        "StrictHostKeyChecking": "accept-new",
        "BatchMode": "yes",
        "ConnectTimeout": f"{patience.CONNECTION.seconds:.0f}",
        "LogLevel": "ERROR",
    }
    return [
        "-F",
        settings.ssh_config or "none",
        *(part for name, value in told.items() for part in ("-o", f"{name}={value}")),
        *access.through(settings, machine.bastion),
    ]


def line(settings: Settings, machine: Machine, command: str = "") -> list[str]:
    """Return the command line of ``ssh`` for a machine; without a command it opens a shell there.

    Raises InputError when the machine has no address or its private key isn't here.
    """
    there = ["-l", machine.user, "--", machines.address(machine)]  # none of it can be taken for an option
    key = access.keys(settings) / machine.key
    if not key.is_file():
        raise InputError(
            f"the private key of machine {machine.id} isn't here: {key}",
            "put it there, or launch another machine: ./inv launch",
        )
    return ["ssh", *options(settings, machine), *there, *([command] if command else [])]


def enter(
    settings: Settings, machine: Machine, command: str, limit: Limit | float = patience.COMMAND
) -> subprocess.CompletedProcess[str]:
    """Run a shell command on a machine and return its result; the exit code is 255 when SSH itself was refused.

    Raises NotKnownError when no answer comes within the limit, or when SSH gets none in its own time.
    """
    argv, environ = line(settings, machine, command), system.environment()
    seconds = patience.seconds(limit)
    try:
        answer: subprocess.CompletedProcess[str] = system.call(
            argv, environ, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        told = f"machine {machine.id} gave no answer over SSH in {seconds:.0f} s"
        raise NotKnownError(told, patience.LONGER) from error
    if answer.returncode == _SSH_FAILED and "timed out" in answer.stderr:
        told = f"machine {machine.id} gave no answer: {system.last_line(answer.stderr)}"
        raise NotKnownError(told, patience.LONGER)
    return answer


def knock(settings: Settings, machine: Machine, port: int) -> None:
    """Connect to a TCP port of a machine, through its bastion if it has one.

    Raises OSError when nothing listens, which is a TimeoutError when nobody answers.
    """
    seconds = patience.CONNECTION.seconds
    if machine.bastion is None:
        socket.create_connection((machine.address, port), timeout=seconds).close()
        return
    try:
        line = _stream(settings, machine.bastion, machine, port)
        done = system.call(
            line, system.environment(), capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from error
    if done.returncode:
        raise OSError(system.last_line(done.stderr) or "the bastion can't connect")


@contextmanager
def connected(settings: Settings, machine: Machine, port: int) -> Iterator[socket.socket]:
    """Give a connection to a TCP port of a machine, through its bastion if it has one; raises OSError as ``knock``."""
    seconds = patience.CONNECTION.seconds
    if machine.bastion is None:
        with socket.create_connection((machine.address, port), timeout=seconds) as connection:
            yield connection
        return
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(seconds)
        with theirs:
            line = _stream(settings, machine.bastion, machine, port)
            ssh = system.start(line, system.environment(), stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
        try:
            yield ours
        finally:
            ssh.kill()
            ssh.wait()


def _stream(settings: Settings, bastion: Bastion, machine: Machine, port: int) -> list[str]:
    """Return the command line whose input and output are a connection that a bastion makes to a machine."""
    [*line, host] = access.to_bastion(settings, bastion)
    return [*line, "-W", f"[{machine.address}]:{port}", host]


def read(settings: Settings, machine: Machine, path: str) -> str:
    """Read a file on a machine as root and return its text without line ends at the end; raises CloudError."""
    answer = enter(settings, machine, f"sudo cat {shlex.quote(path)}")
    if answer.returncode != 0:
        raise CloudError(
            f"machine {machine.id}: {path} can't be read: {answer.stderr.strip()}", "./inv probe tells more"
        )
    return answer.stdout.rstrip("\n")


def first_password(settings: Settings, service: Service, machine: Machine) -> str:
    """Return the first password of a machine's service.

    Raises InputError when somebody has set up the service, which took the password away, and CloudError as ``read``.
    """
    try:
        return read(settings, machine, service.password_file)
    except CloudError:
        if not service.set_up or enter(settings, machine, f"sudo test -e {shlex.quote(service.set_up)}").returncode:
            raise
    raise InputError(
        f"machine {machine.id} has no first password any more: somebody has set up its service",
        "log in as the administrator that was made then",
    )


def reachable(
    settings: Settings, machine: Machine, limit: Limit | float, insist: Callable[[], None] = lambda: None
) -> None:
    """Wait until a machine accepts SSH logins; raises DeadlineError after the limit, and what ``insist`` raises."""

    def look() -> bool | None:
        insist()
        return enter(settings, machine, "true", patience.LOGIN).returncode == 0 or None

    with console.step(f"{machine.id} lets us in over SSH at {machine.address}"):
        wait(f"machine {machine.id} to let us in over SSH at {machine.address}", look, limit)


def booted(
    settings: Settings,
    machine: Machine,
    limit: Limit | float = patience.BOOTED,
    insist: Callable[[], None] = lambda: None,
) -> None:
    """Wait until cloud-init has ended on a machine, even with errors.

    Raises DeadlineError after the limit, and what ``insist`` raises.
    """
    seconds = patience.seconds(limit)
    deadline = time.monotonic() + seconds

    def look() -> bool | None:
        insist()
        # the machine itself says that it isn't done yet, so that only silence is silence
        turn = math.ceil(min(_TURN, max(1, deadline - time.monotonic())))
        waiting = f"timeout {turn} cloud-init status --wait"
        return enter(settings, machine, waiting, turn + patience.LOGIN.seconds).returncode in (0, 1, 2) or None

    with console.step(f"{machine.id} cloud-init done"):
        wait(f"cloud-init on machine {machine.id} to end", look, seconds)


def boot(settings: Settings, machine: Machine) -> str:
    """Return an ID of the machine's present boot; empty when the machine lets nobody in.

    It is the kernel's boot ID and the start time of init, because a container shares the kernel of its host.
    """
    command = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat"
    return "/".join(enter(settings, machine, command, patience.LOGIN).stdout.split())


def rebooted(settings: Settings, machine: Machine, before: str, budget: float = 0) -> None:
    """Wait until a machine's boot ID is no longer ``before``; ``budget`` is how many seconds it may take to boot.

    Raises DeadlineError when it doesn't come back.
    """
    seconds = patience.REBOOTED.least(budget)
    with console.step(f"{machine.id} rebooted"):
        wait(f"machine {machine.id} to boot anew", lambda: boot(settings, machine) not in ("", before) or None, seconds)
