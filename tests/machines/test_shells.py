"""Shells: how SSH is told to enter a machine, and what it says when that can't be."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import MACHINE

from bakehouse.accounts import access
from bakehouse.errors import CloudError, InputError
from bakehouse.machines import shells
from bakehouse.settings import Settings
from bakehouse.sites import Bastion


@pytest.mark.parametrize("folder", ["plain", "a folder", "100%done", "%h"])
def test_a_machine_is_known_by_its_id(settings: Settings, tmp_path: Path, folder: str) -> None:
    """What SSH makes of our options: our key alone, no question, the host key filed under the machine's ID."""
    here = replace(settings, state=tmp_path / folder)
    key = access.keys(here) / MACHINE.key
    key.parent.mkdir(parents=True)
    key.touch()
    argv = shells.line(here, MACHINE, "exit 3")

    told = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True).stdout
    effective = dict(entry.split(" ", 1) for entry in told.splitlines())
    expected = {
        "user": "admin",
        "hostname": "127.4.5.6",
        "hostkeyalias": "i-0a1b2c3d4e5f60718",
        "userknownhostsfile": str(here.state / "known_hosts/local/i-0a1b2c3d4e5f60718"),
        "stricthostkeychecking": "accept-new",
        "batchmode": "yes",
        "identitiesonly": "yes",
        "identityfile": str(key),
    }
    assert expected == {name: effective[name].replace("%%", "%") for name in expected}
    assert ["-l", "admin", "--", "127.4.5.6", "exit 3"] == argv[-5:]


def test_a_bastion(settings: Settings, tmp_path: Path) -> None:
    """With a configuration of the kit's own, ssh goes through the bastion that it names; our options stand first."""
    (tmp_path / "config").write_text("Host *\n  ProxyJump bastion.example.org\n  AddKeysToAgent yes\n")
    there = replace(settings, ssh_config=str(tmp_path / "config"))

    line = ["ssh", "-G", *shells.options(there, MACHINE), "host"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()

    assert {"proxyjump bastion.example.org", "addkeystoagent false"} <= set(told)


BASTION = Bastion("jump", "127.255.255.254", 2222, "/a folder/100%key")


def test_the_bastion_of_accounts_yml(settings: Settings, tmp_path: Path) -> None:
    """SSH is led through the bastion as its user, with its key and a host key that is kept, whatever is in a path."""
    here = replace(settings, state=tmp_path / "50%")
    there = replace(MACHINE, bastion=replace(BASTION, key=str(tmp_path / "a 100%key")))

    line = ["ssh", "-G", *shells.options(here, there), "-l", "admin", "10.0.0.7"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    [command] = [entry.removeprefix("proxycommand ") for entry in told if entry.startswith("proxycommand ")]
    words = shlex.split(command.replace("%%", "%"))
    inner = subprocess.run([words[0], "-G", *words[1:-2]], capture_output=True, text=True, check=True).stdout
    effective = dict(entry.split(" ", 1) for entry in inner.splitlines())

    expected = {
        "user": "jump",
        "hostname": "127.255.255.254",
        "port": "2222",
        "identityfile": f"{tmp_path}/a 100%%key",
        "identitiesonly": "yes",
        "stricthostkeychecking": "accept-new",
        "userknownhostsfile": f"{tmp_path}/50%/known_hosts/local/127.255.255.254",
    }
    assert expected == {name: effective[name] for name in expected}
    assert ["-W", "[%h]:%p"] == words[-2:]


def test_a_bastion_that_does_not_answer(settings: Settings) -> None:
    """Where the bastion can't be reached, a port and a page behind it are not either, and ssh says why."""
    there = replace(MACHINE, bastion=BASTION)

    with pytest.raises(OSError, match="refused"):
        shells.knock(settings, there, 8080)
    with shells.connected(settings, there, 8080) as connection:
        assert b"" == connection.recv(1)


@pytest.mark.parametrize(
    ("changes", "words"), [({}, "private key of machine .* isn't here: "), ({"address": ""}, "has no address")]
)
def test_no_way_in(settings: Settings, changes: dict[str, Any], words: str) -> None:
    """Without the private key, or an address to go to, the error names the machine."""
    with pytest.raises(InputError, match=words):
        shells.line(settings, replace(MACHINE, **changes))


def test_a_machine_that_does_not_answer(settings: Settings) -> None:
    """Where SSH itself fails, that is the answer, with SSH's exit code; reading a file is an error then."""
    nobody = replace(MACHINE, address="127.255.255.254")
    access.keys(settings).mkdir(parents=True)
    (access.keys(settings) / MACHINE.key).touch()

    answer = shells.enter(settings, nobody, "true")

    assert 255 == answer.returncode
    assert "onnection refused" in answer.stderr
    with pytest.raises(CloudError, match=f"machine {nobody.id}: /etc/x can't be read: .*onnection refused"):
        shells.read(settings, nobody, "/etc/x")
