"""The collection: what is in it, and that others apply it with nothing of the kit at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ec2_fixtures import CALLER, ROOT, LocalEc2, Machines, describe, permission

from bakehouse import __version__

NAME = "bakehouse.images"
PORT = 8181
MAY_HOLD = (
    r"(roles|plugins|docs)/.+|meta/runtime\.yml|(README|CHANGELOG|ARCHITECTURE)\.md|LICENSE|(MANIFEST|FILES)\.json"
)

PLAYBOOK = """
- hosts: ci
  become: true
  roles:
    - role: {prefix}java
    - role: {prefix}jenkins
      vars: {{jenkins_service_state: started}}
  tasks:
    - name: Verify
      ansible.builtin.include_role:
        name: {prefix}jenkins
        tasks_from: verify_in_service
"""


def run(program: str, *words: str, folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Run a program of the venv and return what it printed; fail with all that it said when it fails."""
    line = [str(Path(sys.executable).with_name(program)), *words]
    done = subprocess.run(line, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the collection."""
    folder = tmp_path_factory.mktemp("built")
    run("ansible-galaxy", "collection", "build", "--output-path", str(folder), folder=ROOT)
    [built] = folder.iterdir()
    return built


def test_content(tarball: Path) -> None:
    """The collection has the kit's version and holds roles, plugins and docs, every role whole, and nothing else."""
    with tarfile.open(tarball) as tar:
        held = {member.name for member in tar.getmembers() if member.isfile()}

    assert f"{NAME.replace('.', '-')}-{__version__}.tar.gz" == tarball.name
    assert [] == [name for name in sorted(held) if not re.fullmatch(MAY_HOLD, name)]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "roles"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert there == {name for name in held if name.startswith("roles/")}


@pytest.fixture(scope="module")
def server(local_ec2: LocalEc2, ec2: Any, key: tuple[str, Path], group: str, base: str) -> Iterator[tuple[str, Path]]:
    """Give the address of a plain machine and the key that lets in to it."""
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission(PORT, CALLER))
    machines = Machines(ec2, key[1], key[0], group, base)
    [one] = machines.launch()
    yield describe(ec2, one)[0]["PublicIpAddress"], key[1]
    machines.terminate()


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_an_ordinary_server(tarball: Path, server: tuple[str, Path], local_ec2: LocalEc2, tmp_path: Path) -> None:
    """Installed alone, it makes a running Jenkins of a plain machine; the same roles by path change nothing more."""
    address, key = server
    repository = local_ec2.ask("stand-in", seconds=900, package="jenkins")
    told = {
        "ansible_user": "admin",
        "ansible_ssh_private_key_file": str(key),
        "ansible_python_interpreter": "/usr/bin/python3",
        **{f"jenkins_repository_{name}": repository[name] for name in ("url", "key_url")},
        "jenkins_port": PORT,
        "jenkins_repository_key_fingerprint": repository["fingerprint"],
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"ci": {"hosts": {address: told}}}))
    (tmp_path / "site.yml").write_text(PLAYBOOK.format(prefix=f"{NAME}."))
    (tmp_path / "by_path.yml").write_text(PLAYBOOK.format(prefix=""))
    play = ("-i", "hosts.yml")
    environ = {**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "false", "ANSIBLE_PIPELINING": "true"}
    alone = environ | {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}

    run("ansible-galaxy", "collection", "install", "--offline", str(tarball), folder=tmp_path, environ=alone)
    run("ansible-playbook", *play, "site.yml", folder=tmp_path, environ=alone)

    with urllib.request.urlopen(f"http://{address}:{PORT}/login", timeout=60) as answer:
        assert (200, True) == (answer.status, bool(answer.headers["X-Jenkins"]))
    by_path = environ | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    assert " changed=0 " in run("ansible-playbook", *play, "by_path.yml", folder=tmp_path, environ=by_path)
