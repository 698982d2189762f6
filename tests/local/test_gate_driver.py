"""The gate's driver: a gate that gives no answer is made anew."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import LocalEc2, Machines, connects, describe, docker, mark, permission, wait

from bakehouse.local.drivers import DriverError
from bakehouse.local.ports import GateDriver

log = logging.getLogger(__name__)

GATE = """#!{python}
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    print(sys.argv[1], file=calls)
if sys.argv[1] != "run":
    sys.exit()
number = len(list(folder.glob("gate-*")))
(folder / f"gate-{{number}}").touch()
for _ in range(json.loads((folder / "plan").read_text())[number]):
    if not sys.stdin.readline():
        sys.exit()
    print(json.dumps({{"failed": {{}}, "unfenced": f"gate {{number}}"}}), flush=True)
time.sleep(600)  # it hangs, and reads nothing more
"""

Drive = Callable[..., GateDriver]

SMALL: dict[str, Any] = {"127.0.0.7": {"to": "192.0.2.1", "pid": 1, "rules": []}}
LARGE: dict[str, Any] = {f"127.0.{n // 256}.{n % 256}": {"to": "192.0.2.1", "pid": n, "rules": []} for n in range(5000)}
"""More than a pipe holds."""


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    """Give what returns a driver of gates that answer so many tables each, and then hang."""
    program = tmp_path / "docker"
    program.write_text(GATE.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver = GateDriver("gate", "127.0.0.0/24", {})
    driver.answer_seconds, driver.start_seconds = 0.5, 5

    def plan(*answers: int) -> GateDriver:
        (tmp_path / "plan").write_text(json.dumps(answers))
        return driver

    yield plan
    driver.close()


@pytest.mark.parametrize("table", [SMALL, LARGE], ids=["small", "large"])
def test_a_gate_that_hangs_is_made_anew(drive: Drive, table: dict[str, Any], tmp_path: Path) -> None:
    """A table that one gate doesn't answer, or doesn't even read, another answers, and the first is removed."""
    driver = drive(1, 9)
    assert {} == driver.follow(lambda: SMALL, "image")
    assert "gate 0" == driver.unfenced

    begun = time.monotonic()
    assert {} == driver.follow(lambda: table, "image")
    took = time.monotonic() - begun

    assert "gate 1" == driver.unfenced
    assert took < 5
    words = (tmp_path / "calls").read_text().split()
    assert ["rm", "run", "rm", "run"] == words


def test_a_gate_that_hangs_at_once_is_made_anew(drive: Drive) -> None:
    """A new gate that never answers makes place for another."""
    driver = drive(0, 9)

    driver.follow(lambda: SMALL, "image")

    assert "gate 1" == driver.unfenced


def test_two_gates_that_hang_are_a_fault(drive: Drive) -> None:
    """Where the second gate doesn't answer either, the caller is told, and the next one finds a third gate."""
    driver = drive(0, 0, 9)
    with pytest.raises(DriverError, match="the gate did not answer within 5 s"):
        driver.follow(lambda: SMALL, "image")

    driver.follow(lambda: SMALL, "image")

    assert "gate 2" == driver.unfenced


def test_the_end_of_a_gate_is_told(drive: Drive) -> None:
    """That a gate which has answered ends by itself is told within a second; its end by us is not."""
    driver = drive(1, 1, 1)
    driver.follow(lambda: SMALL, "image")
    assert not driver.ended.wait(0.1)
    assert driver._process

    driver._process.kill()

    assert driver.ended.wait(1)
    driver.ended.clear()
    driver.follow(lambda: SMALL, "image")
    assert "gate 1" == driver.unfenced
    driver.follow(lambda: SMALL, "image")  # it hangs and makes place for the third
    assert "gate 2" == driver.unfenced
    assert not driver.ended.wait(0.1)


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_a_gate_that_is_paused_or_killed(ec2: Any, local_ec2: LocalEc2, machines: Machines) -> None:
    """A change of the rules takes effect while the gate's container stands still; one that ends is made anew."""
    gate = f"bakehouse-{mark(local_ec2.state)}-gate"
    (one,) = machines.launch()
    address = describe(ec2, one)[0]["PublicIpAddress"]
    assert connects(address, 22)
    other = ec2.create_security_group(GroupName="paused", Description="no rule")["GroupId"]
    docker("pause", gate)

    begun = time.monotonic()
    ec2.modify_instance_attribute(InstanceId=one, Groups=[other])
    took = time.monotonic() - begun

    log.info("with a gate that is paused a change of the rules takes %.1f s", took)
    assert not connects(address, 22)
    assert 15 < took < 60  # else it stood still not at all
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=permission(22, "127.0.0.1/32"))
    assert connects(address, 22)
    docker("kill", gate)
    wait(lambda: connects(address, 22), seconds=20)  # usually within two
    ec2.modify_instance_attribute(InstanceId=one, Groups=[machines.group])
    ec2.delete_security_group(GroupId=other)
