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
from ec2_fixtures import PRIVILEGED_MACHINE, Machines

from bakehouse.local.bodies import AWAY

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

DENIED = "Operation not permitted"


def syscall(words: str) -> str:
    """Return a script that calls the kernel and prints its answer."""
    told = f"ctypes.CDLL(None, use_errno=True).syscall({words}); print(os.strerror(ctypes.get_errno()))"
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
    "kernel modules": (syscall("313, -1, b'', 0"), DENIED, DENIED),
    "bpf": (syscall("321, 5, bytes(72), 72"), DENIED, "Argument list too long"),
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


@pytest.fixture(scope="module")
def both(ec2: Any, key: tuple[str, Path], group: str, base: str) -> Iterator[dict[str, Callable[[str], str]]]:
    """Give what runs a script as root on a machine as usual, and on a privileged one; it returns the last line."""
    launcher = Machines(ec2, key[1], key[0], group, base)
    ids = {"usual": launcher.launch()[0], "privileged": launcher.launch(TagSpecifications=PRIVILEGED_MACHINE)[0]}

    def runner(machine: str) -> Callable[[str], str]:
        return lambda script: launcher.ssh(
            machine, shlex.join(["sudo", "sh", "-c", f"exec 2>&1; {script}"])
        ).splitlines()[-1]

    yield {name: runner(one) for name, one in ids.items()}
    launcher.terminate()


@pytest.mark.parametrize(("script", "usual", "privileged"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_attempts(both: dict[str, Callable[[str], str]], script: str, usual: str, privileged: str) -> None:
    """Root can do it on a privileged machine alone, or on none."""
    assert (usual, privileged) == (both["usual"](script), both["privileged"](script))


@pytest.mark.parametrize("away", AWAY)
def test_the_metadata_of_the_hosts_cloud_is_away(both: dict[str, Callable[[str], str]], away: str) -> None:
    """Packets to the addresses where a cloud has its metadata leave no machine."""
    assert "unreachable" in both["usual"](f"ip route get {away} || ip route show {away}")


def test_a_machine_of_each_kind_is_whole(both: dict[str, Callable[[str], str]]) -> None:
    """Whatever its rights, systemd has started everything, and the hostname is the machine's own."""
    for run in both.values():
        assert "running" == run("systemctl is-system-running --wait")
        assert run("hostname").startswith("ip-")


def test_the_rights_are_gone_for_good(both: dict[str, Callable[[str], str]]) -> None:
    """The init of a machine as usual has not the rights any more; seccomp filters the system calls of both."""
    masks = {name: int(run("sed -n 's/^CapBnd:.//p' /proc/1/status"), 16) for name, run in both.items()}
    lost = {number for number in range(64) if masks["privileged"] >> number & 1 and not masks["usual"] >> number & 1}

    assert {12, 13, 21, 27} == lost  # NET_ADMIN, NET_RAW, SYS_ADMIN, MKNOD
    assert ["2", "2"] == [run("sed -n 's/^Seccomp:.//p' /proc/1/status") for run in both.values()]
