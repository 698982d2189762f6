"""Rights of machines: what root in a machine could do to its host is shut, and open where the recipe asks for it.

One row for each row of the table in docs/local-ec2.md. No attempt changes anything of the host: what is written is what
was there, and what could be opened is not read.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import PRIVILEGED_MACHINE, Machines, docker

from bakehouse.local.bodies import AWAY

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

DENIED = "Operation not permitted"


SYSCALLS = {"finit_module": {"x86_64": 313, "aarch64": 273}, "bpf": {"x86_64": 321, "aarch64": 280}}
"""The numbers of the system calls for which the C library has no function."""


def syscall(name: str, words: str) -> str:
    """Return a script that calls the kernel and prints its answer."""
    number = f"{SYSCALLS[name]}[os.uname().machine]"
    told = f"ctypes.CDLL(None, use_errno=True).syscall({number}, {words}); print(os.strerror(ctypes.get_errno()))"
    return shlex.join(["python3", "-c", f"import ctypes, os; {told}"])


# The attempt, and what each kind of machine answers: the last line that is printed.
ATTEMPTS: dict[str, tuple[str, str, str]] = {
    "mount": (
        "mkdir -p /tmp/m; mount -t tmpfs tmpfs /tmp/m && umount /tmp/m && echo open || echo shut",
        "shut",
        "open",
    ),
    "core_pattern": (
        "cd /proc/sys/kernel; mount -o remount,rw .. && tee core_pattern <core_pattern && echo open || echo shut",
        "shut",
        "open",
    ),
    "the devices cgroup": (
        "mkdir -p /tmp/d; mount -t cgroup -o devices devices /tmp/d && umount /tmp/d && echo open || echo shut",
        "shut",
        "open",
    ),
    "a file of the host's disk": ("rm -f /tmp/disk; mknod /tmp/disk b 8 0 && echo open || echo shut", "shut", "open"),
    "the host's disk": ("mknod /tmp/sda b 8 0; head -c 0 /tmp/sda && echo open || echo shut", "shut", "shut"),
    "kernel modules": (syscall("finit_module", "-1, b'', 0"), DENIED, DENIED),
    "bpf": (syscall("bpf", "5, bytes(72), 72"), DENIED, "Argument list too long"),
    "raw packets": (
        "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)' && echo open || echo shut",
        "shut",
        "open",
    ),
    "the routes": ("ip route del unreachable 169.254.169.254 && echo open || echo shut", "shut", "open"),
    "the network": (
        "ip addr add 192.0.2.9 dev lo && ip addr del 192.0.2.9/32 dev lo && echo open || echo shut",
        "shut",
        "open",
    ),
}


HOSTNAME = "#cloud-config\nhostname: asked-for\n"


@pytest.fixture(scope="module")
def machines(ec2: Any, key: tuple[str, Path], group: str, base: str) -> Iterator[tuple[Machines, dict[str, str]]]:
    """Give a machine as usual and a privileged one, each of which was asked to have another hostname."""
    launcher = Machines(ec2, key[1], key[0], group, base)
    how: dict[str, Any] = {"usual": {}, "privileged": {"TagSpecifications": PRIVILEGED_MACHINE}}
    yield launcher, {name: launcher.launch(UserData=HOSTNAME, **more)[0] for name, more in how.items()}
    launcher.terminate()


@pytest.fixture(scope="module")
def both(machines: tuple[Machines, dict[str, str]]) -> dict[str, Callable[[str], str]]:
    """Give what runs a script as root on each; it returns the last line."""
    launcher, ids = machines

    def runner(machine: str) -> Callable[[str], str]:
        return lambda script: launcher.ssh(
            machine, shlex.join(["sudo", "sh", "-c", f"exec 2>&1; {script}"])
        ).splitlines()[-1]

    return {name: runner(one) for name, one in ids.items()}


@pytest.mark.parametrize(("script", "usual", "privileged"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_attempts(both: dict[str, Callable[[str], str]], script: str, usual: str, privileged: str) -> None:
    """Root can do it on a privileged machine alone, or on none."""
    assert (usual, privileged) == (both["usual"](script), both["privileged"](script))


@pytest.mark.parametrize("away", AWAY)
def test_the_metadata_of_the_hosts_cloud_is_away(both: dict[str, Callable[[str], str]], away: str) -> None:
    """Packets to the addresses where a cloud has its metadata leave no machine."""
    assert "unreachable" in both["usual"](f"ip route get {away} || ip route show {away}")


def test_a_machine_of_each_kind_is_whole(both: dict[str, Callable[[str], str]]) -> None:
    """Whatever its rights, systemd has started everything, and the hostname is its own, whatever user-data says."""
    for run in both.values():
        assert "running" == run("systemctl is-system-running --wait")
        assert run("hostname").startswith("ip-")


def test_a_usual_machine_never_has_the_rights(
    machines: tuple[Machines, dict[str, str]], both: dict[str, Callable[[str], str]]
) -> None:
    """Not its container has them, so not what Docker starts in it either, whatever is on its disk; seccomp filters."""
    masks = {name: int(run("sed -n 's/^CapBnd:.//p' /proc/1/status"), 16) for name, run in both.items()}
    lost = {number for number in range(64) if masks["privileged"] >> number & 1 and not masks["usual"] >> number & 1}
    container = docker("ps", "--quiet", "--filter", f"label=bakehouse.instance={machines[1]['usual']}").strip()
    within = docker("exec", container, "sed", "-n", "s/^Cap[BE].*:.//p", "/proc/self/status").split()

    assert {12, 13, 21, 27} == lost  # NET_ADMIN, NET_RAW, SYS_ADMIN, MKNOD
    assert [masks["usual"]] * 2 == [int(mask, 16) for mask in within]
    assert ["2", "2"] == [run("sed -n 's/^Seccomp:.//p' /proc/1/status") for run in both.values()]


BOMB = """
import os, signal, time
children = []
try:
    while len(children) < 10_000:
        children.append(os.fork())
        if not children[-1]:
            time.sleep(60)
except OSError as error:
    print(len(children), error.strerror)
for child in children:
    os.kill(child, signal.SIGKILL)
"""


def test_a_fork_bomb_stays_in_its_machine(both: dict[str, Callable[[str], str]]) -> None:
    """A machine of 2 GiB makes 2,048 processes at most, its threads included."""
    made, _, why = both["usual"](f"python3 -c {shlex.quote(BOMB)}").partition(" ")

    assert "Resource temporarily unavailable" == why
    assert 1500 < int(made) < 2048


def test_a_machine_has_the_memory_of_its_type(both: dict[str, Callable[[str], str]]) -> None:
    """One of 2 GiB can have 1 GiB, and not 3: who takes too much is killed, and the host has its memory."""
    take = "python3 -c 'b\"x\" * ({} << 30)'; echo $?"

    assert ["0", "137"] == [both["usual"](take.format(gib)) for gib in (1, 3)]
