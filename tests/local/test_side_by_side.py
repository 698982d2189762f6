"""The local EC2 does many things at once: machines come up side by side, and nobody who asks waits for a copy."""

from __future__ import annotations

import json
import statistics
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from ec2_fixtures import Machines, describe, docker, wait

pytestmark = pytest.mark.docker


def test_eight_machines_come_up_side_by_side(ec2: Any, machines: Machines) -> None:
    """Of eight machines started by one call half or more boot at the same time, each at its own addresses."""
    more = {"KeyName": machines.key_name, "SecurityGroupIds": [machines.group]}
    asked = ec2.run_instances(ImageId=machines.base, MinCount=8, MaxCount=8, InstanceType="t3.small", **more)
    ids = [one["InstanceId"] for one in asked["Instances"]]
    machines.launched += ids
    up: dict[str, datetime] = {}

    def all_up() -> bool:
        for one in describe(ec2, *ids):
            if one["State"]["Name"] == "running":
                up.setdefault(one["InstanceId"], datetime.now(UTC))
        return len(up) == len(ids)

    wait(all_up)

    boots = [(begun(one), up[one]) for one in ids]
    assert most_at_once(boots) >= 4, boots
    found = describe(ec2, *ids)
    assert 8 == len({one["PublicIpAddress"] for one in found}) == len({one["PrivateIpAddress"] for one in found})


def begun(instance_id: str) -> datetime:
    """Return when the container of an instance was started."""
    [container] = docker("ps", "--quiet", "--filter", f"label=bakehouse.instance={instance_id}").split()
    started = json.loads(docker("inspect", container))[0]["State"]["StartedAt"]
    return datetime.fromisoformat(started)


def most_at_once(spans: list[tuple[datetime, datetime]]) -> int:
    """Return how many of these spans of time overlap at most."""
    return max(sum(first <= begin < last for first, last in spans) for begin, _ in spans)


def test_calls_that_make_nothing_are_quick(ec2: Any, shared: tuple[Machines, str]) -> None:
    """Describe calls answer in a fraction of a second."""
    times = []
    for _ in range(20):
        for call in (ec2.describe_instances, ec2.describe_images, ec2.describe_security_groups, ec2.describe_key_pairs):
            asked = time.perf_counter()
            call()
            times.append(time.perf_counter() - asked)
    assert statistics.median(times) < 0.5  # ten times what is usual


def test_requests_do_not_wait_for_each_other(ec2: Any, shared: tuple[Machines, str]) -> None:
    """A client that asks during a long copy is answered meanwhile, again and again."""
    machines, one = shared
    machines.ssh(one, "sudo dd if=/dev/urandom of=/srv/large bs=1M count=200 status=none")
    image = ec2.create_image(InstanceId=one, Name="large", NoReboot=True)["ImageId"]
    answers = []
    while "available" not in answers:
        answers.append(ec2.describe_images(ImageIds=[image])["Images"][0]["State"])
    assert answers.count("pending") >= 5
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
