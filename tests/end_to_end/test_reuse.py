"""The kit with other things than its own Jenkins: a second recipe, and roles of others, with no change to the kit."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ec2_fixtures import Checkout, LocalEc2, describe, docker, git
from hostile import VARIABLES, Proxy, home

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


WHICH = ("--recipe", "nginx")


@pytest.fixture(scope="module")
def baked_nginx(local_ec2: LocalEc2) -> Iterator[subprocess.CompletedProcess[str]]:
    """Give what a bake of the second recipe said; its image goes in the end."""
    done = local_ec2.inv("bake", *WHICH)
    yield done
    local_ec2.inv("retire", *WHICH, done.stdout.strip(), "--yes")


def test_nginx(local_ec2: LocalEc2, baked_nginx: subprocess.CompletedProcess[str]) -> None:
    """The second recipe bakes, launches, is healthy and serves, and goes: all with the tasks of the first."""
    which, image = WHICH, baked_nginx.stdout.strip()
    machine, url = local_ec2.inv("launch", *which, "--image", image).stdout.strip().split("\t")
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.read() == b"<h1>It serves</h1>\n"
    [verdict] = json.loads(local_ec2.inv("probe", *which, "--json").stdout)
    assert {"No unit has failed", "Nginx serves its page", "GET /missing"} <= {
        one["name"] for one in verdict["findings"]
    }
    local_ec2.inv("ssh", *which, "--", "sudo systemctl stop nginx")
    probe = [str(local_ec2.program), "probe", *which, "--json"]
    done = subprocess.run(probe, env=local_ec2.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, verdict["machine"]) == (1, machine)
    assert "nginx.service is inactive" in done.stdout
    local_ec2.inv("terminate", *which, "--machine", machine, "--yes")


def test_a_hostile_shell_changes_nothing(
    local_ec2: LocalEc2,
    baked_nginx: subprocess.CompletedProcess[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """With all that people export and configure, every task does and says what it does and says without.

    Only what is outside is fetched through the proxy, and nothing of this host.
    """
    there = LocalEc2(local_ec2.state)
    proxy = Proxy()
    request.addfinalizer(proxy.close)
    there.environ = {**local_ec2.environ, **VARIABLES, **proxy.variables, "HOME": str(home(tmp_path / "home"))}
    image = baked_nginx.stdout.strip()
    said = {name: local_ec2.inv(name, *WHICH, "--json").stdout for name in READS}

    assert image == there.inv("bake", *WHICH, "--plan").stdout.strip()
    assert said == {name: there.inv(name, *WHICH, "--json").stdout for name in READS}
    forced = there.inv("bake", *WHICH, "--force")
    second = forced.stdout.strip()
    try:
        assert steps(baked_nginx.stderr) == steps(forced.stderr)
        assert "" == local_ec2.inv("diff", image, second, *WHICH).stdout.strip().partition("\n")[2]
        assert origin(local_ec2, image) == origin(local_ec2, second)
        there.inv("prove", "--image", second, *WHICH)
        machine, url = there.inv("launch", "--image", second, *WHICH).stdout.strip().split("\t")
        assert findings(local_ec2) == findings(there)
        assert url == there.inv("open", *WHICH).stdout.strip()
        assert machine == there.inv("ssh", *WHICH, "--", "cat /var/lib/cloud/data/instance-id").stdout.strip()
        assert local_ec2.inv("cleanup").stdout == there.inv("cleanup").stdout
        there.inv("terminate", *WHICH, "--all", "--yes")
    finally:
        there.inv("retire", *WHICH, second, "--yes")
    assert [] == [host for host in proxy.asked if host == "localhost" or host[:1].isdigit()]
    assert not list((tmp_path / "home").rglob("known_hosts*"))
    assert not (tmp_path / "home/.ansible/tmp").exists()


READS = ("images", "channels", "machines")


def findings(kit: LocalEc2) -> list[tuple[str, bool]]:
    """Return the names and outcomes of the findings of a probe."""
    [verdict] = json.loads(kit.inv("probe", *WHICH, "--json").stdout)
    return [(one["name"], one["ok"]) for one in verdict["findings"]]


def steps(said: str) -> list[str]:
    """Return the names of the steps that a bake has told, without times and IDs."""
    told = [re.sub(r"  [\d.]+ s$| (ami|i)-[0-9a-f]+", "", line) for line in said.splitlines()]
    return [line for line in told if line.startswith(("ok ", "FAIL "))][-20:]


def origin(kit: LocalEc2, image: str) -> Any:
    """Return what an image's provenance says it was baked of and with."""
    told = json.loads((kit.state / "images/local" / image / "provenance.json").read_text())
    tags = json.loads(kit.inv("images", *WHICH, "--json").stdout)
    [ours] = [one["provenance"] for one in tags if one["image"] == image]
    return (
        told["predicate"]["buildDefinition"],
        {name: ours[name] for name in ("commit", "base", "kit", "packer", "ansible", "inputs")},
    )


HOOKS = {
    "bake_roles_before": ["their.own.first"],
    "bake_roles_after": ["last"],
}
NOTE = """
- name: Write what is known
  ansible.builtin.shell: echo {word} {{{{ ansible_facts['distribution'] }}}} >>/etc/order
  changed_when: true
"""


def write(path: Path, text: str) -> Path:
    """Write a file into a folder that may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def repository(folder: Path, word: str) -> Path:
    """Make a git repository that holds a role, which notes a word."""
    write(folder / "tasks/main.yml", NOTE.format(word=word))
    write(
        folder / "meta/main.yml", "galaxy_info: {author: x, description: x, license: x, min_ansible_version: '2.9'}\n"
    )
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


USES = """
- name: Hand the secret to a program
  ansible.builtin.shell: cat >/run/secret
  args: {stdin: "{{ mine_password }}"}
  changed_when: true
- name: Keep the secret's digest
  ansible.builtin.copy: {content: "{{ mine_password | hash('sha256') }}", dest: /etc/digest, mode: "0600"}
"""
VERIFIES = """
- name: Read the digest
  ansible.builtin.slurp: {src: /etc/digest}
  register: kept
- name: The secret is the vault's
  ansible.builtin.assert: {that: "kept.content | b64decode == mine_password | hash('sha256')"}
"""


def vaulted(name: str, value: str, password: Path) -> str:
    """Return a variable whose value ansible-vault has encrypted, as YAML."""
    line = ["ansible-vault", "encrypt_string", "--vault-password-file", str(password), "--stdin-name", name]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(line, input=value, env=environ, capture_output=True, text=True, check=True)
    return f"{done.stdout}\n"


class ProcessTable:
    """Read the process table again and again, as any user of this host can, and keep each command line."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self._seen.add(place.read_bytes())

    def stop(self) -> None:
        """Read no more."""
        self._over.set()
        self._thread.join()

    def having(self, word: str) -> list[bytes]:
        """Return the command lines that hold a word."""
        return [line for line in self._seen if word.encode() in line]


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Return the files in these folders that hold a secret, plain or in base64."""
    words = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")]
    found = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in found if any(word in file.read_bytes() for word in words)]


def in_docker_image(word: str, docker_image: str) -> bool:
    """Tell whether a word stands anywhere in the files of a Docker image."""
    made = docker("create", docker_image, "true").strip()
    try:
        with subprocess.Popen(["docker", "export", made], stdout=subprocess.PIPE) as exported:
            found = subprocess.run(["grep", "-qa", word], stdin=exported.stdout, check=False).returncode == 0
            exported.kill()
        return found
    finally:
        docker("rm", made)


def test_roles_of_others(local_ec2: LocalEc2, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Roles from git, from a collection and from a path bake, before, as and after the recipe's own; a machine boots.

    It offers nothing over the network, so there is nothing to look at but that. One of the roles uses a variable that
    ansible-vault has encrypted: its value is in no file, tag, image or command line in the end.
    """
    kit = Checkout(tmp_path / "checkout", local_ec2.environ)
    theirs = tmp_path / "theirs"
    write(
        theirs / "own/galaxy.yml", "{namespace: their, name: own, version: 1.0.0, readme: README.md, authors: [they]}\n"
    )
    write(theirs / "own/README.md", "x")
    write(theirs / "own/roles/first/tasks/main.yml", NOTE.format(word="before"))
    required: dict[str, Any] = {
        "roles": [
            {"name": name, "src": f"git+file://{repository(theirs / name, word)}", "version": "main"}
            for name, word in (("author.greeting", "greeting"), ("last", "after"))
        ],
        "collections": [{"name": str(theirs / "own"), "type": "dir"}],
    }
    write(kit.folder / "requirements.yml", yaml.safe_dump(required))
    write(theirs / "plain/tasks/main.yml", NOTE.format(word="plain") + USES)
    write(theirs / "plain/tasks/verify_at_rest.yml", VERIFIES)
    write(theirs / "plain/tasks/verify_in_service.yml", VERIFIES)
    secret, password = secrets.token_hex(12), write(tmp_path / "vault password", secrets.token_hex(12))
    kit.inv("new-recipe", "mine", "--roles", f"author.greeting,{theirs / 'plain'}")
    with (kit.folder / "inventory/group_vars/mine.yml").open("a") as variables:
        variables.write(yaml.safe_dump({**HOOKS, "verify_roles": [str(theirs / "plain")]}))
        variables.write(vaulted("mine_password", secret, password))
    table = ProcessTable()
    request.addfinalizer(table.stop)
    kit.environ = {**kit.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(password)}
    image = kit.inv("bake", "--recipe", "mine").stdout.strip()
    del kit.environ["ANSIBLE_VAULT_PASSWORD_FILE"]
    ec2 = local_ec2.client("ec2")
    snapshot = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    [body] = docker("images", "--filter", f"reference=bakehouse/*:{snapshot}", "--quiet").split()
    noted = docker("run", "--rm", "--entrypoint", "cat", body, "/etc/order")
    assert noted.split("\n") == ["before Debian", "greeting Debian", "plain Debian", "after Debian", ""]
    knows = ("--recipe", "mine", "--vault-password-file", str(password))
    machine, address = kit.inv("launch", *knows).stdout.strip().split("\t")
    assert address == describe(ec2, machine)[0]["PublicIpAddress"]
    [verdict] = json.loads(kit.inv("probe", *knows, "--json").stdout)
    assert ["port 22", "SSH", "cloud-init"] == [one["name"] for one in verdict["findings"]][:3]
    assert "The secret is the vault's" in [one["name"] for one in verdict["findings"]]
    table.stop()
    assert (0, True) == (len(table.having(secret)), len(table.having("ansible-playbook")) > 0)
    assert secret not in json.dumps(ec2.describe_tags()["Tags"])
    assert [] == files_with(secret, tmp_path, kit.folder, local_ec2.state)
    assert not in_docker_image(secret, body)
    assert in_docker_image(hashlib.sha256(secret.encode()).hexdigest(), body)
    kit.inv("terminate", "--recipe", "mine", "--all", "--yes")
    kit.inv("retire", "--recipe", "mine", image, "--yes")
