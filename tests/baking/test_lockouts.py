"""Lockouts: each way in which a role can lock everybody out of its image's machines is named, on a real machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ec2_fixtures import Machines
from role_fixtures import Host, shell

from bakehouse.settings import ROOT

pytestmark = pytest.mark.docker

MORE = "/etc/ssh/sshd_config.d/hard.conf"
NFTABLES_FILE = "/etc/nftables.conf"
NFTABLES = "table inet filter {\n  chain input {\n    type filter hook input priority 0; policy drop;\n  }\n}\n"


def ssh(line: str) -> tuple[str, str]:
    """Return how sshd gets a line of configuration, and how it loses it."""
    return f'printf "# hardened\\n{line.replace("%", "%%")}\\n" >{MORE}', f"rm {MORE}"


def nftables(rules: str) -> tuple[str, str]:
    """Return how rules of nftables are set, and how they are undone."""
    keep = f"cp -p {NFTABLES_FILE} /srv; systemctl -q enable nftables"
    return f'{keep}; printf "{rules}" >{NFTABLES_FILE}', "mv /srv/nftables.conf /etc; systemctl -q disable nftables"


def ufw(rule: str) -> tuple[str, str]:
    """Return how ufw gets a rule and is switched on, and how that is undone."""
    files = "/etc/ufw/ufw.conf /etc/ufw/user.rules"
    return (
        f'mkdir -p /etc/ufw; echo ENABLED=yes | tee {files} >/dev/null; echo "{rule}" >>/etc/ufw/user.rules',
        f"rm {files}",
    )


# How the machine is changed, how that is undone, what is said of it, and where. What comes with "" is no lockout.
WAYS: dict[str, tuple[tuple[str, str], str, str]] = {
    "nothing": (("true", "true"), "", ""),
    "another port": (ssh("Port 2222"), "sshd listens on port 2222, not on 22", f"{MORE}:2"),
    "two ports": (ssh("Port 2222\\nPort 22"), "", ""),
    "this host alone": (ssh("ListenAddress 127.0.0.1"), "sshd listens at 127.0.0.1:22 alone", f"{MORE}:2"),
    "no keys": (ssh("PubkeyAuthentication no"), "sshd takes no keys", f"{MORE}:2"),
    "keys elsewhere": (
        ssh("AuthorizedKeysFile /etc/ssh/keys/%u"),
        "sshd reads /etc/ssh/keys/admin, where cloud-init puts no key",
        f"{MORE}:2",
    ),
    "keys there too": (ssh("AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u"), "", ""),
    "a password too": (
        ssh("AuthenticationMethods publickey,password"),
        "a key alone is not enough: publickey,password",
        f"{MORE}:2",
    ),
    "files alone": (ssh("ForceCommand internal-sftp"), "sshd runs nothing but internal-sftp", f"{MORE}:2"),
    "others": (ssh("AllowUsers deploy ops@10.0.0.*"), "admin is not among AllowUsers deploy ops@10.0.0.*", f"{MORE}:2"),
    "all of a pattern": (ssh("AllowUsers adm*"), "", ""),
    "a group of others": (ssh("AllowGroups ssh-users"), "admin is not among AllowGroups ssh-users", f"{MORE}:2"),
    "not this one": (ssh("DenyUsers admin"), "admin is among DenyUsers admin", f"{MORE}:2"),
    "a word that sshd doesn't know": (ssh("Nosuch yes"), f"sshd can't start: {MORE}: line 2: Bad configuration", ""),
    "no shell": (
        ("usermod --shell /usr/sbin/nologin admin", "usermod --shell /bin/bash admin"),
        "admin's shell is /usr/sbin/nologin",
        "/etc/passwd:",
    ),
    "an account that ended": (
        ("chage --expiredate 2001-01-01 admin", "chage --expiredate -1 admin"),
        "admin's account has ended",
        "/etc/shadow:",
    ),
    "sudo with a password": (
        (
            'mkdir /srv/d; mv /etc/sudoers.d/* /srv/d; echo "admin ALL=(ALL) ALL" >/etc/sudoers.d/admin',
            "rm /etc/sudoers.d/admin; mv /srv/d/* /etc/sudoers.d; rmdir /srv/d",
        ),
        "admin can't become root with sudo: sudo: a password is required",
        "/etc/sudoers.d/admin:1",
    ),
    "sshd is off": (("systemctl -q disable ssh", "systemctl -q enable ssh"), "sshd doesn't start at boot", ""),
    "nftables": (nftables(NFTABLES), "nftables.service lets nobody in at port 22", f"{NFTABLES_FILE}:3"),
    "nftables with a port": (nftables(NFTABLES.replace("drop;", "drop; tcp dport 22 accept")), "", ""),
    "ufw": (ufw(""), "ufw lets nobody in at port 22", "/etc/ufw/ufw.conf:1"),
    "ufw with a port": (ufw("### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"), "", ""),
}


@pytest.fixture(scope="module")
def host(shared: tuple[Machines, str], tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Give the machine that everybody is locked out of."""
    return Host(*shared, tmp_path_factory.mktemp("lockouts"))


@pytest.fixture(scope="module")
def told(host: Host) -> dict[str, Any]:
    """Give what is told of the machine that was changed in each way, one after the other."""
    host.put({"lockouts.py": (ROOT / "bakehouse/baking/lockouts.py").read_bytes()})
    look = "python3 /srv/lockouts.py admin; echo"
    script = "\n".join(f"{change}\n{look}\n{undo}" for (change, undo), _, _ in WAYS.values())
    host.put({"all": script.encode()})
    said = host.run("sh -eu /srv/all").decode().splitlines()
    return dict(zip(WAYS, map(json.loads, said), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_lockout_is_named(told: dict[str, Any], way: str) -> None:
    """What locks everybody out is named, with the file and line, and nothing else is."""
    _, what, at = WAYS[way]
    found_by_sudo = way == "an account that ended"  # too
    assert len(told[way]) == bool(what) + found_by_sudo, told[way]
    for found in told[way][:1]:
        assert found["what"].startswith(what)
        assert found["at"].startswith(at) and bool(found["at"]) == bool(at)


def test_a_bake_ends_with_the_file_and_the_line(host: Host) -> None:
    """The tasks of a bake fail with all that was found in one line, and pass on a machine that lets its user in."""
    look = {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/lockouts.yml")}
    change, undo = ssh("PubkeyAuthentication no\\nAllowUsers deploy")

    host.play([look], {"bakehouse_kit": str(ROOT)}).succeeded()
    [said] = host.play([shell("Harden", change), look], {"bakehouse_kit": str(ROOT)}).messages()
    host.run(undo)

    found = f"sshd takes no keys, at {MORE}:2; admin is not among AllowUsers deploy, at {MORE}:3"
    assert f"nobody could enter a machine of this image: {found}. hint: docs/roles.md" in said
