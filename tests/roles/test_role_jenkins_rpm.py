"""The role jenkins where dnf installs: on a machine that presents itself as Amazon Linux 2023."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import LocalEc2, Machines
from role_fixtures import NOTHING, SERVED, Host, Task, Told, chapter, role, shell, survived

from bakehouse.local.packages.keys import Key

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a wrong fingerprint": ({"jenkins_repository_key_fingerprint": "A" * 40}, (f"but {'A' * 40} is pinned",)),
    "a repository that is down": (
        {"jenkins_repository_url": "http://127.0.0.1:9/rpm"},
        ("can't be installed from http://127.0.0.1:9/rpm",),
    ),
    "an unsigned repository": ({"jenkins_repository_url": "file:///srv/unsigned"}, ("repomd.xml.asc",)),
    "a repository that another key has signed": (
        {"jenkins_repository_url": "file:///srv/forged"},
        ("can't be installed from file:///srv/forged", "GPG"),
    ),
    "a version that does not exist": ({"jenkins_version": "0.0.1"}, ("can't be installed", "jenkins-0.0.1")),
    "a package with another checksum": (
        {"jenkins_package_file": "FOLDER/jenkins.rpm", "jenkins_package_sha256": NOTHING},
        (f"but {NOTHING} is wanted; nothing was installed",),
    ),
}
LEFT = "ls -d /etc/yum.repos.d/jenkins.repo /etc/systemd/system/jenkins* /usr/bin/jenkins 2>/dev/null || true"


@pytest.fixture(scope="module")
def amazon(
    local_ec2: LocalEc2,
    ec2: Any,
    key: tuple[str, Path],
    group: str,
    rpm_base: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Told]]:
    """Apply the role to the machine: bad inputs, a pin, twice, a file, started."""
    folder = tmp_path_factory.mktemp("rpm")
    about = local_ec2.ask("stand-in", seconds=900, package="jenkins", family="redhat")
    served = local_ec2.folder / "packages/served/jenkins-redhat"
    files = {str(file.relative_to(served)): file.read_bytes() for file in served.rglob("*") if file.is_file()}
    stranger, signature = Key(folder / "stranger"), "repodata/repomd.xml.asc"
    stranger.make()
    forged = {**files, signature: stranger.sign(files["repodata/repomd.xml"])}
    unsigned = {name: content for name, content in files.items() if name != signature}
    [rpm] = (name for name in files if name.endswith(".rpm"))
    (folder / "jenkins.rpm").write_bytes(files[rpm])
    machines = Machines(ec2, key[1], key[0], group, rpm_base)
    machines.user = "ec2-user"
    try:
        host = Host(machines, machines.launch()[0], folder)
        host.put({f"forged/{name}": content for name, content in forged.items()})
        host.put({f"unsigned/{name}": content for name, content in unsigned.items()})
        variables = {f"jenkins_repository_{name}": about[name] for name in ("url", "key_url")}
        variables |= {"jenkins_repository_key_fingerprint": about["fingerprint"], "jenkins_version": about["version"]}
        yield dict(host.play(list(of_amazon(folder)), variables).apart())
    finally:
        machines.terminate()


def of_amazon(folder: Path) -> Iterator[Task]:
    """Yield the chapters."""
    yield role("java")
    for name, (wrong, _) in REFUSED.items():
        told = {key: value.replace("FOLDER", str(folder)) for key, value in wrong.items()}
        yield chapter(name)
        yield survived(role("jenkins", **told))
        yield shell("Look what is left", LEFT)
    yield chapter("first")
    yield from [role("jenkins"), role("jenkins", "verify_at_rest")]
    yield chapter("second")
    yield role("jenkins")
    yield chapter("a file, served")
    changed = {**SERVED, "jenkins_package_file": str(folder / "jenkins.rpm")}
    yield from [role("jenkins", **changed), role("jenkins", "verify_in_service", **changed)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_input_is_refused(amazon: dict[str, Told], name: str) -> None:
    """With dnf too a bad input fails with a message that names it, and Jenkins isn't installed."""
    said = " ".join(amazon[name].messages())
    for words in REFUSED[name][1]:
        assert words in said
    assert "" == amazon[name].said("Look what is left")


def test_it_is_installed_once(amazon: dict[str, Told]) -> None:
    """The pinned version is installed by dnf, not started; a second run changes nothing."""
    assert "Install | Jenkins with dnf" in amazon["first"].succeeded().changes()
    assert [] == amazon["second"].succeeded().changes()


def test_a_file_takes_the_repositorys_place_and_serves(amazon: dict[str, Told]) -> None:
    """A package that was given is installed, here the same again, its repository goes, and Jenkins serves."""
    changes = amazon["a file, served"].succeeded().changes()
    assert {"Install | Copy the package", "Install | Drop the repository"} <= set(changes)
