"""Debian 12: its base, and the Java that it gets from what stands in for Adoptium's repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ec2_fixtures import LocalEc2, Machines, wait_for_state
from role_fixtures import Host, Told, chapter, role, shell, survived

pytestmark = pytest.mark.docker

SOURCE = "/etc/apt/sources.list.d/adoptium.sources"


@pytest.fixture(scope="module")
def bookworm(ec2: object, key: tuple[str, Path], group: str, bookworm_base: str) -> Iterator[tuple[Machines, str]]:
    """Give one machine of the Debian 12 base."""
    machines = Machines(ec2, key[1], key[0], group, bookworm_base)
    one = machines.launch()[0]
    yield machines, one
    machines.ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")


@pytest.fixture(scope="module")
def java(
    local_ec2: LocalEc2, bookworm: tuple[Machines, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    """Apply the role with the stand-in's repository: with another key pinned than its own, with its own, and again."""
    told = local_ec2.ask("stand-in", seconds=900, package="java", family="debian")
    repository = {f"java_repository_{name}": told[name] for name in ("url", "key_url")}
    tasks = [
        chapter("another key"),
        survived(role("java", java_repository_key_fingerprint="0" * 40)),
        shell("Look what is left", f"ls -d {SOURCE} /usr/lib/jvm 2>/dev/null || true"),
        chapter("first"),
        role("java"),
        chapter("second"),
        role("java"),
    ]
    variables = {**repository, "java_repository_key_fingerprint": told["fingerprint"]}
    host = Host(*bookworm, tmp_path_factory.mktemp("java"))
    return dict(host.play(tasks, variables).apart())


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


def test_java_of_another_key_is_refused(java: dict[str, Told]) -> None:
    """With another key pinned than the repository's nothing is installed, and no source stays."""
    told = java["another key"]
    [said] = told.messages()

    assert f"but {'0' * 40} is pinned; nothing was trusted or installed" in said
    assert "" == told.said("Look what is left")


def test_java_on_debian_12(bookworm: tuple[Machines, str], java: dict[str, Told]) -> None:
    """The role installs a Temurin that finds what draws text; a second run changes nothing."""
    machines, one = bookworm

    assert java["first"].succeeded().changes()
    assert [] == java["second"].succeeded().changes()

    home = "/usr/lib/jvm/temurin-21-jre-$(dpkg --print-architecture)"
    assert "Temurin-21.0.8+9" in machines.ssh(one, f"{home}/bin/java -version 2>&1")
    assert machines.ssh(one, f"realpath {home}/bin/java") == machines.ssh(one, "realpath /usr/bin/java")
    told = machines.ssh(one, "dpkg-query --show --showformat='${Version} ${Description}' temurin-21-jre")
    assert "~standin1 stand-in for Adoptium's package" in told
