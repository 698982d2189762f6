"""Retirements: images go step by step, and who is killed leaves nothing between."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from moto_fixtures import Killed, refused
from test_fates import channel
from test_images import baked, image
from test_references import machine, parameter

from bakehouse import channels, fates, images, retirements
from bakehouse.cloud import TAG, Cloud, tag_list
from bakehouse.errors import CloudError
from bakehouse.fates import Plan, Terms
from bakehouse.images import DEPRECATED
from bakehouse.references import References
from bakehouse.retirements import Retirement


def test_a_retirement_says_what_goes() -> None:
    """The plan names what still uses the image, the channels, the image with its name and time, and each snapshot."""
    users = {image().id: ("machine i-1", "parameter /bakehouse/web/stable"), "ami-x": ("machine i-2",)}

    plan = Retirement(image(), ("snap-1",), (channel("x"),), References(users, ("the parameters can't be read: no",)))

    assert [
        "still in use: machine i-1",
        "maybe in use: the parameters can't be read: no",
        "delete channel stable, which points to it, with its history",
        "deregister image ami-0a1b2c3d4e5f60718 (bakehouse-jenkins-20261122-081500-a1b2, 2026-11-22 08:15)",
        "delete snapshot snap-1",
    ] == plan.lines


def there(cloud: Cloud) -> tuple[set[str], set[str]]:
    """Return the account's images and those of its snapshots that carry our tag."""
    mine = [{"Name": "tag-key", "Values": [f"{TAG}recipe"]}]
    disks = cloud.ec2.describe_snapshots(Filters=mine)["Snapshots"]
    return {one.id for one in images.owned(cloud)}, {one["SnapshotId"] for one in disks}


def disks_of(cloud: Cloud, *image_ids: str) -> set[str]:
    """Return the snapshots of images."""
    return {one for each in image_ids for one in images.get(cloud, each, "jenkins").snapshots}


def clean(cloud: Cloud, **wanted: Any) -> Plan:
    """Clean up as the task does, and return the plan."""
    plan = retirements.plan(cloud, Terms(**wanted))
    retirements.apply(cloud, plan)
    return plan


@pytest.mark.local
def test_retire(cloud: Cloud) -> None:
    """After a retirement the image, its channel and its snapshot are gone; another image's are there."""
    going, staying = baked(cloud), baked(cloud)
    for name, image_id in (("candidate", going), ("stable", staying)):
        channels.move(cloud, channels.read(cloud, "jenkins", name), image_id)
    user = machine(cloud, going)
    disks = disks_of(cloud, staying)

    plan = retirements.retirement(cloud, images.get(cloud, going, "jenkins"))
    assert [f"still in use: machine {user}", "delete channel candidate, which points to it, with its history"] == (
        plan.lines[:2]
    )
    retirements.retire(cloud, plan)

    assert ({staying}, disks) == there(cloud)
    assert ["stable"] == [one.name for one in channels.find(cloud)]
    retirements.retire(cloud, plan)


@pytest.mark.local
def test_a_snapshot_without_our_tag_stays(cloud: Cloud) -> None:
    """Of an image that goes, a snapshot that lacks our tag stays as it is."""
    found = images.get(cloud, baked(cloud), "jenkins")
    cloud.ec2.delete_tags(Resources=list(found.snapshots), Tags=[{"Key": f"{TAG}recipe"}])

    clean(cloud, keep=0)
    before = cloud.ec2.describe_snapshots(SnapshotIds=list(found.snapshots))["Snapshots"]
    assert DEPRECATED not in [tag["Key"] for one in before for tag in one["Tags"]]
    clean(cloud, keep=0)

    assert (set(), set()) == there(cloud)
    assert before == cloud.ec2.describe_snapshots(SnapshotIds=list(found.snapshots))["Snapshots"]


@pytest.mark.local
def test_cleanup(cloud: Cloud) -> None:
    """What nothing uses is deprecated first, and goes with its snapshots at the next run, unless it's restored."""
    going, restored, shared, used, kept = (baked(cloud, run=str(number)) for number in range(5))
    cloud.ec2.modify_image_attribute(ImageId=shared, LaunchPermission={"Add": [{"UserId": "111111111111"}]})
    parameter(cloud, "golden", used)
    foreign = cloud.ec2.register_image(Name="theirs")["ImageId"]
    before = there(cloud)
    staying = {*disks_of(cloud, restored, shared, used, kept)}

    planned = retirements.plan(cloud, Terms(keep=1))
    assert {going, restored} == {thing.id for thing in planned.of("deprecate")}
    assert before == there(cloud)
    retirements.apply(cloud, planned)
    assert before == there(cloud)
    for image_id, ends in ((going, True), (restored, True), (shared, False)):
        [told] = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
        assert [ends, ends] == ["DeprecationTime" in told, images.get(cloud, image_id, "jenkins").deprecated]

    images.restore(cloud, images.get(cloud, restored, "jenkins"))
    assert [going] == [thing.id for thing in clean(cloud, keep=1).of("delete")]

    assert ({restored, shared, used, kept, foreign}, staying) == there(cloud)
    retirements.apply(cloud, planned)  # of another run, as it were, which begins when this one has ended
    assert ({restored, shared, used, kept, foreign}, staying) == there(cloud)
    assert [["delete", restored, "jenkins"]] == [
        row[:3] for row in fates.as_rows(retirements.plan(cloud, Terms(keep=1))) if row[0] != "stay"
    ]


@pytest.mark.local
@pytest.mark.parametrize("operation", ["ec2.DescribeInstances", "ec2.DescribeImageAttribute", "ssm"])
def test_what_cant_be_read(cloud: Cloud, operation: str) -> None:
    """Where something can't be read nothing goes, and what it was is said; exit 1, for a cleanup wanted otherwise."""
    baked(cloud)
    before = there(cloud)

    plan = clean(refused(cloud, operation), keep=0, at_once=True)

    assert before == there(cloud)
    assert {"stay"} == {fate.step for fate in plan.fates}
    with pytest.raises(CloudError, match=r"nothing goes: .* can't be read: .*not authorized") as raised:
        retirements.insist(plan)
    assert 1 == raised.value.code


@pytest.mark.local
def test_only_those_whose_turn_it_is_are_asked_for_shares(cloud: Cloud) -> None:
    """Shared images don't use up the limit: so many are asked as it takes to fill it."""
    shared = [baked(cloud, run=str(number)) for number in range(3)]
    for image_id in shared:
        cloud.ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"UserId": "111111111111"}]})
    others = [baked(cloud, run=str(number)) for number in range(3, 6)]

    plan = retirements.plan(cloud, Terms(keep=0, limit=2))

    steps = {fate.thing.id: fate.step for fate in plan.fates}
    assert 2 == sorted(steps[one] for one in others).count("deprecate")
    assert not {"deprecate"} & {steps[one] for one in shared}


@pytest.mark.local
@pytest.mark.parametrize("step", ["cleanup", "retire"])
def test_killed(cloud: Cloud, killed_after: Callable[[int], Cloud], step: str) -> None:
    """Whenever a cleanup or a retirement is killed, the next one brings it to its end, and nothing in use is lost."""
    used, based, pointed = baked(cloud), baked(cloud), baked(cloud)
    machine(cloud, used)
    cloud.ec2.create_tags(Resources=[used], Tags=tag_list({f"{TAG}base": based}))
    channels.move(cloud, channels.read(cloud, "jenkins", "stable"), pointed)
    left = {used, based, pointed}, disks_of(cloud, used, based, pointed)

    def carry_out(door: Cloud, image_id: str) -> None:
        if step == "cleanup":
            clean(door, keep=0)
        elif images._look(door, image_id):
            retirements.retire(door, retirements.retirement(door, images.get(door, image_id, "jenkins")))

    for calls in count():
        going = baked(cloud)
        channels.move(cloud, channels.read(cloud, "jenkins", "candidate"), going if step == "retire" else pointed)
        try:
            carry_out(killed_after(calls), going)
            break
        except Killed:
            assert {one.image for one in channels.find(cloud)} <= there(cloud)[0]
        for _ in range(2):
            carry_out(cloud, going)
        clean(cloud, keep=0, at_once=True)  # a snapshot whose image was retired
        assert left == there(cloud)
    assert calls > 8
