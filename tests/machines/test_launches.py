"""Launches: real machines on the local EC2, found healthy or with the reasons why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import MACHINE

from bakehouse import accounts, images, machines, patience
from bakehouse.accounts import TAG, Account, access
from bakehouse.errors import CloudError, InputError, VerdictError
from bakehouse.images import retirements
from bakehouse.machines import Machine, launches, probes, shells
from bakehouse.patience import Limit
from bakehouse.recipes import services
from bakehouse.settings import ROOT, Settings

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

RECIPE = """
recipe        = "web"
base          = "debian-13"
instance_type = "t3.small"
volume_size   = 8
playbook      = "playbooks/verify.yml"
boot_budget   = 20
packages      = {}
"""

GROUP_VARS = """
bakehouse_service:
  unit: web.service
  port: 8000
  password_file: /root/password
  set_up: /srv/web/set-up
  pages:
    - {path: /, status: 200, header: Server}
    - {path: /none, status: 404}
"""

VERIFY = """
- hosts: web
  become: true
  gather_facts: false
  tasks:
    - name: Look at the unit
      ansible.builtin.command: {argv: [systemctl, is-active, web.service]}
      register: seen
      changed_when: false
      failed_when: false
    - name: The unit is active
      ansible.builtin.assert:
        that: seen.stdout == 'active'
        success_msg: web.service is {{ seen.stdout }}
        fail_msg: web.service is {{ seen.stdout }}
"""

INSTALL = """
sudo sh -c 'mkdir /srv/web; echo secret >/root/password; chmod 600 /root/password
cat >/usr/lib/systemd/system/web.service; systemctl enable web.service; sync' <<END
[Service]
WorkingDirectory=/srv/web
ExecStart=python3 -m http.server 8000
[Install]
WantedBy=multi-user.target
END
"""

BREAK = """#cloud-config
bootcmd:
  - [systemctl, mask, --now, web.service]
"""

NEVER_READY = """#cloud-config
bootcmd:
  - mkdir -p /run/systemd/system/web.service.d
  - printf '[Service]\\nType=notify\\nTimeoutStartSec=600\\n' >/run/systemd/system/web.service.d/slow.conf
  - systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def settings(local_ec2: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return the settings of a checkout with a recipe of its own, on the tests' local EC2."""
    root = tmp_path_factory.mktemp("checkout")
    texts = {
        "packer/recipes/web.pkrvars.hcl": RECIPE,
        "inventory/group_vars/web.yml": GROUP_VARS,
        "playbooks/verify.yml": VERIFY,
        "ansible.cfg": (ROOT / "ansible.cfg").read_text(),
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "inventory" / "machines.py").symlink_to(ROOT / "inventory" / "machines.py")
    return Settings(root=root, state=local_ec2.state, account="local", region="", recipe="web")


@pytest.fixture(scope="module")
def account(settings: Settings) -> Account:
    """Return the account of the local EC2."""
    return accounts.connect(settings)


@pytest.fixture(scope="module", autouse=True)
def image(account: Account, settings: Settings, shared: tuple[Any, str]) -> Iterator[str]:
    """Make an image of a machine with a small web server, as a bake would tag it; retire it after all tests."""
    launcher, machine_id = shared
    launcher.ssh(machine_id, INSTALL)
    image_id = launcher.image(machine_id, "bakehouse-web")
    tags = {"recipe": "web", "kind": "image", "user": "admin", "owner": account.caller_arn()}
    images.tag(account, image_id, {f"{TAG}{name}": value for name, value in tags.items()})
    yield image_id
    retirements.delete(account, images.get(account, image_id, "web"))
    assert [] == images.find(account, "web")


@pytest.fixture(autouse=True)
def _nothing_left(account: Account, settings: Settings, image: str) -> Iterator[None]:
    """Terminate what a test launched."""
    yield
    if found := machines.find(account, "web"):
        launches.end(account, settings, found)


def test_launch_and_live(account: Account, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """A machine is launched and found healthy, and stays so, and known, through a reboot and a stop."""
    service = services.load(settings)
    [machine] = launches.launch(settings)
    said = capfd.readouterr().err
    assert all(word in said for word in ("running", "SSH", "cloud-init", f"serves {service.url(machine.address)}"))
    assert "secret" == shells.first_password(settings, service, machine)
    shells.enter(settings, machine, "sudo mv /root/password /srv")
    with pytest.raises(CloudError, match="/root/password can't be read: cat: "):
        shells.first_password(settings, service, machine)
    shells.enter(settings, machine, "sudo touch /srv/web/set-up")
    with pytest.raises(InputError, match=f"machine {machine.id} has no first password any more: somebody has set up"):
        shells.first_password(settings, service, machine)
    known = (settings.state / "known_hosts/local" / machine.id).read_text()

    before = shells.boot(settings, machine)
    machines.reboot(account, machine)
    shells.rebooted(settings, machine, before)
    machines.stop(account, machine)
    assert "stopped" == machines.stopped(account, machine).state
    machine = machines.start(account, machine)
    shells.reachable(settings, machine, patience.ENTRY)
    shells.booted(settings, machine)
    [verdict] = probes.probe(settings, service, [machine])

    assert verdict.ok, verdict.failed
    assert ["port 22", "SSH", "cloud-init", "port 8000", "GET /", "GET /none", "The unit is active"] == [
        finding.name for finding in verdict.findings
    ]
    assert known == (settings.state / "known_hosts/local" / machine.id).read_text()
    assert "Debian" in machines.console_output(account, machine)


def test_two_together_in_ansible(settings: Settings) -> None:
    """Two machines launched at once answer to Ansible by the inventory folder, with the recipe's group_vars."""
    launched = launches.launch(settings, count="2")

    pinged = _ansible(settings, "-m", "ping")
    shown = _ansible(settings, "-m", "debug", "-a", "var=bakehouse_service.port")

    assert sorted(machine.id for machine in launched) == sorted(re.findall(r"^(\S+) \| SUCCESS", pinged, re.MULTILINE))
    assert 2 == shown.count("8000")


def test_never_healthy(account: Account, settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a machine whose service doesn't start the findings, its console and its journal are told, and it stays."""
    (tmp_path / "break").write_text(BREAK)

    with pytest.raises(VerdictError, match=r"not healthy: i-\w+: port 8000, GET /, GET /none, The unit is active"):
        launches.launch(settings, user_data=str(tmp_path / "break"))

    [machine] = machines.find(account, "web")
    said = capfd.readouterr().err
    assert f"{machine.id}: GET /: Connection refused\n" in said
    assert f"{machine.id}: The unit is active: web.service is inactive\n" in said
    assert f"--- console of {machine.id}\n" in said
    assert "--- journal of web.service\n" in said
    assert f"still there: {machine.id}\n" in said


def test_never_ready_and_terminated(
    account: Account, settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A machine with a unit that never gets ready is waited for until the budget ends, and terminated as asked."""
    (tmp_path / "slow").write_text(NEVER_READY)

    with pytest.raises(VerdictError, match=r"not healthy: i-\w+: cloud-init, The unit is active") as raised:
        launches.launch(settings, user_data=str(tmp_path / "slow"), terminate=True)

    assert "keep" in raised.value.hint
    assert "cloud-init: cloud-init is running; systemd is still starting web.service\n" in capfd.readouterr().err
    assert [] == machines.find(account, "web")


def test_a_lost_key_gets_a_new_pair(settings: Settings) -> None:
    """After its private key is gone, the next launch works with a new pair, and the first machine is out of reach."""
    [first] = launches.launch(settings)
    (access.keys(settings) / first.key).unlink()

    [second] = launches.launch(settings)

    assert first.key != second.key
    assert "second" == shells.enter(settings, second, "echo second").stdout.strip()


def test_a_machine_that_dies_is_told(
    account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that goes off while it is waited for ends the launch at once, with why, and not when its time is up."""
    (tmp_path / "off").write_text("#!/bin/sh\nsystemctl poweroff\n")
    begun = time.monotonic()

    with pytest.raises(CloudError, match=r"machine i-\w+ is stopped: \w+\.\w+: "):
        launches.launch(settings, user_data=str(tmp_path / "off"))

    assert time.monotonic() - begun < 60  # a third of the time that it has


def test_machines_that_let_nobody_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Machines that let nobody in are waited for together and not one after the other; each is looked at."""
    monkeypatch.setattr(patience, "ENTRY", Limit(1, ""))
    reachable, left = shells.reachable, list[float]()

    def noted(settings: Settings, machine: Machine, seconds: float, insist: Callable[[], None]) -> None:
        left.append(seconds)
        reachable(settings, machine, seconds, insist)

    monkeypatch.setattr(shells, "reachable", noted)
    access.keys(settings).mkdir(parents=True, exist_ok=True)
    (access.keys(settings) / MACHINE.key).touch()
    closed = [replace(MACHINE, id=f"i-{number:08x}", address="127.255.255.254") for number in range(8)]

    assert launches.Served() == launches.settled(settings, services.load(settings), closed, 1)

    assert [0] * 7 == left[1:]
    assert 8 == capfd.readouterr().err.count("FAIL i-0000000")


def _ansible(settings: Settings, *module: str) -> str:
    """Return what a module says for the recipe's machines, called as in an activated venv."""
    line = ["ansible", "-i", "inventory", "web", *module]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "BAKEHOUSE_STATE": str(settings.state)}
    outcome = subprocess.run(line, cwd=settings.root, env=environment, capture_output=True, text=True, check=False)
    assert (0, "") == (outcome.returncode, outcome.stderr), outcome.stdout + outcome.stderr
    return outcome.stdout
