"""The role sysprep, on a machine: each concern takes away what is its own, and what stays or is secret is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ec2_fixtures import Machines
from role_fixtures import Host, Task, Told, chapter, role, shell, survived

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

# What is on the machine, or is planted there, by the concern that has to take it away.
PLANTED = {
    "cloud_init": ["/var/lib/cloud/instance", "/var/lib/cloud/seed/nocloud"],
    "packages": ["/var/lib/apt/lists/x_Packages", "/var/cache/apt/archives/x.deb", "/var/lib/rpm/__db.001"],
    "traces": ["/var/tmp/x", "/root/anaconda-ks.cfg", "/root/.cache/x", "/home/admin/.ansible/x"],
    "logs": ["/var/log/x.log", "/var/log/x.1.gz", "/var/log/apt/x.1", "/var/log/messages-20260101"],
    "identity": ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/dhcp/x.leases"],
    "access": ["/root/.bash_history", "/home/admin/.ssh/authorized_keys", "/root/.ssh/known_hosts"],
}
FIRST = ("cloud_init", "packages", "traces")

PATHS = " ".join(path for planted in PLANTED.values() for path in planted)
PLANT = f"""
for path in {PATHS}; do if [ ! -s $path ]; then mkdir -p $(dirname $path); echo x >$path; fi; done
echo x >/root/.ssh/id_ed25519; echo x >/etc/token
"""
LOOK = f"for path in {PATHS}; do if [ -s $path ]; then echo $path; fi; done"
GHOST = "/home/ghost/.ssh"


def sysprep(*concerns: str, **variables: Any) -> Task:
    """Return the task that applies the role with these concerns alone."""
    switches: dict[str, Any] = {f"sysprep_{concern}": concern in concerns for concern in PLANTED}
    return role("sysprep", **switches, **variables)


@pytest.fixture(scope="module")
def told(shared: tuple[Machines, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Give what the role says of a machine with all that is planted there, one run after the other."""
    tasks = [
        chapter("refused", PLANT),
        survived(sysprep(*PLANTED, sysprep_forbidden_paths=["/etc/tok*"])),
        shell("Look", LOOK),
        chapter("first concerns"),
        sysprep(*FIRST),
        shell("Look", LOOK),
        chapter("others", f"rm /root/.ssh/id_ed25519; mkdir -p {GHOST}; echo x >{GHOST}/authorized_keys"),
        survived(sysprep("logs", "identity", "access")),
        shell("Look", LOOK),
    ]
    return dict(Host(*shared, tmp_path_factory.mktemp("sysprep")).play(tasks, {}).apart())


def of(*concerns: str) -> set[str]:
    """Return what is planted for these concerns."""
    return {path for concern in concerns for path in PLANTED[concern]}


def test_refused(told: dict[str, Told]) -> None:
    """A private key and a file of one's own patterns are refused before anything is removed."""
    [said] = told["refused"].messages()

    assert "the image would hold /root/.ssh/id_ed25519, /etc/token, which no image of this kind may" in said
    assert of(*PLANTED) == set(told["refused"].said("Look").split())


def test_first_concerns(told: dict[str, Told]) -> None:
    """Each concern that is on takes all away that is its own; those that are off take and refuse nothing."""
    assert of("logs", "identity", "access") == set(told["first concerns"].succeeded().said("Look").split())


def test_other_concerns_and_what_stays(told: dict[str, Told]) -> None:
    """The others do so likewise; what can't be found by them, in the home of nobody, fails the last assertion."""
    [said] = told["others"].messages()

    assert f"the image would hold {GHOST}/authorized_keys" in said
    assert "" == told["others"].said("Look")
