"""Debian 12: its base, and the Java that it gets from what stands in for Adoptium's repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ec2_fixtures import LocalEc2, Machines, describe, wait_for_state

from bakehouse import local

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parent.parent
PLAYBOOK = "- hosts: all\n  become: true\n  gather_facts: false\n  roles: [java]\n"
SOURCE = "/etc/apt/sources.list.d/adoptium.sources"

Java = Callable[..., tuple[int, int, str]]


@pytest.fixture(scope="module")
def bookworm(ec2: object, key: tuple[str, Path], group: str, bookworm_base: str) -> Iterator[tuple[Machines, str]]:
    """Give one machine of the Debian 12 base."""
    machines = Machines(ec2, key[1], key[0], group, bookworm_base)
    one = machines.launch()[0]
    yield machines, one
    machines.ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")


@pytest.fixture
def java(local_ec2: LocalEc2, bookworm: tuple[Machines, str], tmp_path: Path) -> Java:
    """Give what applies the role, with the stand-in's repository: it returns exit code, changes, and what was said."""
    machines, one = bookworm
    address = describe(machines.ec2, one)[0]["PublicIpAddress"]
    (tmp_path / "hosts").write_text(f"{address} ansible_user=admin ansible_ssh_private_key_file={machines.key_file}\n")
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    environ = {**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_HOST_KEY_CHECKING": "false"}
    environ |= {"ANSIBLE_PIPELINING": "true", "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
    told = local.ask(local_ec2.endpoint, "stand-in", seconds=300, package="java", family="debian")
    repository = {f"java_repository_{name}": told[name] for name in ("url", "key_url")}
    repository["java_repository_key_fingerprint"] = told["fingerprint"]

    def apply(**variables: str) -> tuple[int, int, str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [program, "-i", "hosts", "playbook.yml", "-e", json.dumps({**repository, **variables})]
        done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        said = " ".join((done.stdout + done.stderr).split())
        changed = re.search(r"changed=(\d+)", said)
        assert changed, said
        return done.returncode, int(changed[1]), said

    return apply


def test_a_machine_of_the_debian_12_base(bookworm: tuple[Machines, str]) -> None:
    """Systemd and cloud-init are content, the suites are Debian 12's, nothing wakes up to take apt's lock."""
    machines, one = bookworm

    assert "running" == machines.ssh(one, "systemctl is-system-running --wait")
    assert "status: done" == machines.ssh(one, "cloud-init status --wait")
    assert "root" == machines.ssh(one, "sudo whoami")
    assert "bookworm" == machines.ssh(one, ". /etc/os-release; echo $VERSION_CODENAME")
    suites = machines.ssh(one, "sed -n 's/^Suites: //p' /etc/apt/sources.list.d/debian.sources")
    assert ["bookworm", "bookworm-updates", "bookworm-security"] == suites.split()
    assert "systemd-tmpfiles-clean.timer" == machines.ssh(one, "systemctl show '*.timer' --property=Id --value")


# The tests stand in the order in which they run: the last one installs Java.


def test_java_of_another_key_is_refused(bookworm: tuple[Machines, str], java: Java) -> None:
    """With another key pinned than the repository's nothing is installed, and no source stays."""
    code, changed, said = java(java_repository_key_fingerprint="0" * 40)

    assert (2, 0) == (code, changed), said
    assert f"but {'0' * 40} is pinned; nothing was trusted or installed" in said
    assert "0" == bookworm[0].ssh(bookworm[1], f"ls {SOURCE} /usr/lib/jvm 2>/dev/null | wc -l")


def test_java_on_debian_12(bookworm: tuple[Machines, str], java: Java) -> None:
    """The role installs a Temurin that finds what draws text; a second run changes nothing."""
    machines, one = bookworm

    code, changed, said = java()
    assert 0 == code, said
    assert changed
    code, changed, said = java()
    assert (0, 0) == (code, changed), said

    home = "/usr/lib/jvm/temurin-21-jre-$(dpkg --print-architecture)"
    assert "Temurin-21.0.8+9" in machines.ssh(one, f"{home}/bin/java -version 2>&1")
    assert machines.ssh(one, f"realpath {home}/bin/java") == machines.ssh(one, "realpath /usr/bin/java")
    told = machines.ssh(one, "dpkg-query --show --showformat='${Version} ${Description}' temurin-21-jre")
    assert "~standin1 stand-in for Adoptium's package" in told
