"""The role sysprep, on a machine: each concern takes away what is its own, and what stays or is secret is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import ROOT, Machines, describe

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

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

PLAYBOOK = """
- hosts: all
  become: true
  gather_facts: false
  tasks:
    - block:
        - ansible.builtin.include_role: {name: sysprep}
      always:
        - ansible.builtin.shell: for path in {{ planted | join(' ') }}; do if [ -s $path ]; then echo $path; fi; done
          register: seen
          changed_when: false
        - ansible.builtin.copy: {content: "{{ seen.stdout_lines | to_json }}", dest: "{{ seen_file }}", mode: "0600"}
          become: false
          delegate_to: localhost
          connection: local
"""

Sysprep = Callable[..., tuple[int, str, set[str]]]


@pytest.fixture(scope="module")
def machine(shared: tuple[Machines, str]) -> tuple[Machines, str]:
    """Give a machine with all that is planted there."""
    machines, one = shared
    paths = " ".join(path for planted in PLANTED.values() for path in planted)
    plant = f"for path in {paths}; do if [ ! -s $path ]; then mkdir -p $(dirname $path); echo x >$path; fi; done"
    machines.ssh(one, f"sudo sh -euc '{plant}'")
    return machines, one


@pytest.fixture
def sysprep(machine: tuple[Machines, str], tmp_path: Path) -> Sysprep:
    """Give what applies the role: it returns the exit code, what was said, and what of the planted is still there."""
    machines, one = machine
    address = describe(machines.ec2, one)[0]["PublicIpAddress"]
    host = f"{address} ansible_user=admin ansible_ssh_private_key_file={machines.key_file}\n"
    (tmp_path / "hosts").write_text(host)
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    environ = {**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_HOST_KEY_CHECKING": "false"}
    environ |= {"ANSIBLE_PIPELINING": "true", "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}

    def apply(*concerns: str, **variables: Any) -> tuple[int, str, set[str]]:
        seen = tmp_path / "seen.json"
        told = {"planted": [path for planted in PLANTED.values() for path in planted], "seen_file": str(seen)}
        switches = {f"sysprep_{concern}": concern in concerns for concern in PLANTED}
        program = Path(sys.executable).with_name("ansible-playbook")
        argv = [str(program), "-i", "hosts", "playbook.yml", "-e", json.dumps({**told, **switches, **variables})]
        done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        return done.returncode, " ".join((done.stdout + done.stderr).split()), set(json.loads(seen.read_text()))

    return apply


def of(*concerns: str) -> set[str]:
    """Return what is planted for these concerns."""
    return {path for concern in concerns for path in PLANTED[concern]}


# The tests stand in the order in which they run: what is taken away stays away.


def test_refused(machine: tuple[Machines, str], sysprep: Sysprep) -> None:
    """A private key and a file of one's own patterns are refused before anything is removed."""
    machine[0].ssh(machine[1], "sudo sh -c 'echo x >/root/.ssh/id_ed25519; echo x >/etc/token'")

    code, told, left = sysprep(*PLANTED, sysprep_forbidden_paths=["/etc/tok*"])

    assert (2, of(*PLANTED)) == (code, left), told
    assert "the image would hold /root/.ssh/id_ed25519, /etc/token, which no image of this kind may" in told


def test_first_concerns(sysprep: Sysprep) -> None:
    """Each concern that is on takes all away that is its own; those that are off take and refuse nothing."""
    code, told, left = sysprep(*FIRST)

    assert (0, of("logs", "identity", "access")) == (code, left), told


def test_other_concerns_and_what_stays(machine: tuple[Machines, str], sysprep: Sysprep) -> None:
    """The others do so likewise; what can't be found by them, in the home of nobody, fails the last assertion."""
    ghost = "/home/ghost/.ssh"
    machine[0].ssh(
        machine[1], f"sudo sh -c 'rm /root/.ssh/id_ed25519; mkdir -p {ghost}; echo x >{ghost}/authorized_keys'"
    )

    code, told, left = sysprep("logs", "identity", "access")

    assert (2, set()) == (code, left), told
    assert f"the image would hold {ghost}/authorized_keys" in told
