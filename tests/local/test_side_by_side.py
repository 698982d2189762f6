"""What has to be quick, measured in seconds: the last tests to run, and each of them alone."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ec2_fixtures import ROOT, Machines, describe

from bakehouse import images
from bakehouse.accounts import TAG, Account
from bakehouse.images import details, retirements
from bakehouse.images.retention import Terms


def within(bar: float, work: Callable[[], Any], tries: int = 2, before: Callable[[], None] = lambda: None) -> Any:
    """Do something and return what it gives; fail when it takes ``bar`` seconds or more each time that it's tried."""
    taken = []
    for _ in range(tries):
        before()
        begun = time.monotonic()
        done = work()
        taken.append(time.monotonic() - begun)
        if taken[-1] < bar:
            return done
    raise AssertionError(f"not within {bar} s: {taken}")


def test_a_task_is_listed_quickly() -> None:
    """./inv --list takes under a second, since nothing heavy is imported for it."""
    within(1, lambda: subprocess.run([ROOT / "inv", "--list"], capture_output=True, check=True, timeout=100), tries=3)
    environ = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    told = subprocess.run([ROOT / "inv", "--list"], capture_output=True, check=True, text=True, env=environ).stderr
    imports = set(re.findall(r"\| +(\w+)$", told, re.MULTILINE))

    assert {"invoke"} == {"ansible", "boto3", "docker", "invoke", "molecule", "moto"} & imports


@pytest.mark.local
def test_a_thousand_images(account: Account) -> None:
    """A thousand images and three hundred machines are all seen, over many pages, in less than five seconds."""
    from moto.ec2.models import ec2_backends

    [backend] = [ec2_backends["123456789012"]["us-east-1"]]
    for number in range(1000):
        one = backend.register_image(f"bakehouse-jenkins-{number}")
        tags = {f"{TAG}recipe": "jenkins", f"{TAG}kind": "image", f"{TAG}run": f"{number:04}", f"{TAG}base": "ami-1"}
        one.add_tags(tags)
        one.ebs_snapshot.add_tags(tags)
    first = images.find(account, "jenkins")[-1].id
    for _ in range(3):
        account.ec2.run_instances(ImageId=first, MinCount=100, MaxCount=100, InstanceType="t3.small")

    found = within(5, lambda: details.entries(account, images.find(account, "jenkins")))
    plan = within(5, lambda: retirements.plan(account, Terms()))

    assert [f"{number:04}" for number in reversed(range(1000))] == [one.image.run for one in found]
    assert 300 == len(found[-1].users)
    assert {"stay": 4, "deprecate": 20, "later": 976} == {
        step: len(plan.of(step)) for step in ("stay", "deprecate", "later")
    }
    assert f"machine {_first(account)} and 299 more" in [fate.why for fate in plan.fates]


def _first(account: Account) -> str:
    pages = account.ec2.pages("describe_instances", "Reservations")
    return min(str(one["InstanceId"]) for each in pages for one in each["Instances"])


@pytest.mark.docker
def test_eight_machines_come_up_together(ec2: Any, machines: Machines) -> None:
    """Eight machines started by one call are running in under 15 s on 2 cores, each at its own addresses."""
    ids = within(15, lambda: machines.launch(count=8), before=machines.terminate)

    found = describe(ec2, *ids)
    assert 8 == len({one["PublicIpAddress"] for one in found}) == len({one["PrivateIpAddress"] for one in found})


@pytest.mark.docker
def test_calls_that_make_nothing_are_quick(ec2: Any, shared: tuple[Machines, str]) -> None:
    """Describe calls answer in under 50 ms."""
    times = []
    for _ in range(20):
        for call in (ec2.describe_instances, ec2.describe_images, ec2.describe_security_groups, ec2.describe_key_pairs):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    assert statistics.median(times) < 0.05


@pytest.mark.docker
def test_requests_do_not_wait_for_each_other(ec2: Any, shared: tuple[Machines, str]) -> None:
    """A client that asks during a long copy is answered at once."""
    machines, one = shared
    machines.ssh(one, "sudo dd if=/dev/urandom of=/srv/large bs=1M count=200 status=none")
    with ThreadPoolExecutor() as pool:
        made = pool.submit(machines.image, one, "large", NoReboot=True)
        worst = 0.0
        while not made.done():
            begun = time.perf_counter()
            ec2.describe_images(Owners=["self"])
            worst = max(worst, time.perf_counter() - begun)
    assert worst < 1
    ec2.deregister_image(ImageId=made.result(), DeleteAssociatedSnapshots=True)
