"""Retirements: images go step by step, and who is killed leaves nothing between."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from moto_fixtures import Killed, counted, protected, refused
from samples import baked, channel, image, machine, parameter

from bakehouse import images
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import CloudError, InputError
from bakehouse.images import DEPRECATED, channels, details, retention, retirements
from bakehouse.images.retention import Retention, Terms
from bakehouse.images.retirements import Retirement
from bakehouse.images.usage import Usage


def test_a_retirement_says_what_goes() -> None:
    """The plan names what still uses the image, the channels, the image with its name and time, and each snapshot."""
    users = {image().id: ("machine i-1", "parameter /bakehouse/web/stable"), "ami-x": ("machine i-2",)}

    plan = Retirement(
        image(), ("snap-1",), (channel("x"),), ("111111111111",), Usage(users, ("the parameters can't be read: no",))
    )

    assert [
        "still in use: machine i-1",
        "maybe in use: the parameters can't be read: no",
        "shared with 111111111111, who may use it",
        "delete channel stable, which points to it, with its history",
        "deregister image ami-0a1b2c3d4e5f60718 (bakehouse-jenkins-20261122-081500-a1b2, 2026-11-22 08:15)",
        "delete snapshot snap-1",
    ] == plan.lines


def there(account: Account) -> tuple[set[str], set[str]]:
    """Return the account's images and those of its snapshots that carry our tag."""
    mine = [{"Name": "tag-key", "Values": [f"{TAG}recipe"]}]
    disks = account.ec2.describe_snapshots(Filters=mine)["Snapshots"]
    return {one.id for one in images.owned(account)}, {one["SnapshotId"] for one in disks}


def disks_of(account: Account, *image_ids: str) -> set[str]:
    """Return the snapshots of images."""
    return {one for each in image_ids for one in images.get(account, each, "jenkins").snapshots}


def clean(account: Account, **wanted: Any) -> Retention:
    """Clean up as the task does, and return the plan."""
    plan = retirements.plan(account, Terms(**wanted))
    retirements.apply(account, plan, Terms(**wanted))
    return plan


@pytest.mark.local
def test_retire(account: Account) -> None:
    """After a retirement the image, its channel and its snapshot are gone; another image's are there."""
    going, staying = baked(account), baked(account)
    for name, image_id in (("candidate", going), ("stable", staying)):
        channels.move(account, channels.read(account, "jenkins", name), image_id)
    user = machine(account, going)
    disks = disks_of(account, staying)

    plan = retirements.retirement(account, images.get(account, going, "jenkins"))
    assert [f"still in use: machine {user}", "delete channel candidate, which points to it, with its history"] == (
        plan.lines[:2]
    )
    retirements.retire(account, plan)

    assert ({staying}, disks) == there(account)
    assert ["stable"] == [one.name for one in channels.find(account)]
    retirements.retire(account, plan)


@pytest.mark.local
def test_a_snapshot_without_our_tag_stays(account: Account) -> None:
    """Of an image that goes, a snapshot that lacks our tag stays as it is."""
    found = images.get(account, baked(account), "jenkins")
    account.ec2.delete_tags(Resources=list(found.snapshots), Tags=[{"Key": f"{TAG}recipe"}])

    clean(account, keep=0)
    before = account.ec2.describe_snapshots(SnapshotIds=list(found.snapshots))["Snapshots"]
    assert DEPRECATED not in [tag["Key"] for one in before for tag in one["Tags"]]
    clean(account, keep=0)

    assert (set(), set()) == there(account)
    assert before == account.ec2.describe_snapshots(SnapshotIds=list(found.snapshots))["Snapshots"]


@pytest.mark.local
def test_cleanup(account: Account) -> None:
    """What nothing uses is deprecated first, and goes with its snapshots at the next run, unless it's restored."""
    going, restored, shared, used, kept = (baked(account, run=str(number)) for number in range(5))
    account.ec2.modify_image_attribute(ImageId=shared, LaunchPermission={"Add": [{"UserId": "111111111111"}]})
    parameter(account, "golden", used)
    foreign = account.ec2.register_image(Name="theirs")["ImageId"]
    before = there(account)
    staying = {*disks_of(account, restored, shared, used, kept)}

    planned = retirements.plan(account, Terms(keep=1))
    assert {going, restored} == {thing.id for thing in planned.of("deprecate")}
    assert before == there(account)
    retirements.apply(account, planned, Terms(keep=1))
    assert before == there(account)
    for image_id, ends in ((going, True), (restored, True), (shared, False)):
        [told] = account.ec2.describe_images(ImageIds=[image_id])["Images"]
        assert [ends, ends] == ["DeprecationTime" in told, images.get(account, image_id, "jenkins").deprecated]

    images.restore(account, images.get(account, restored, "jenkins"))
    assert [going] == [thing.id for thing in clean(account, keep=1).of("delete")]

    assert ({restored, shared, used, kept, foreign}, staying) == there(account)
    retirements.apply(
        account, planned, Terms(keep=1)
    )  # of another run, as it were, which begins when this one has ended
    assert ({restored, shared, used, kept, foreign}, staying) == there(account)
    assert [["delete", restored, "jenkins"]] == [
        row[:3] for row in retention.as_rows(retirements.plan(account, Terms(keep=1))) if row[0] != "stay"
    ]


def promote(account: Account, image_id: str) -> None:
    """Put an image on the channel stable."""
    channels.move(account, channels.read(account, "jenkins", "stable"), image_id)


def share(account: Account, image_id: str) -> None:
    """Share an image with another account."""
    account.ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"UserId": "111111111111"}]})


def untag(account: Account, image_id: str) -> None:
    """Take away what makes an image ours."""
    account.ec2.delete_tags(Resources=[image_id], Tags=[{"Key": f"{TAG}recipe"}])


def name_its_snapshot(account: Account, image_id: str) -> None:
    """Name the snapshot of an image in a parameter."""
    parameter(account, "golden-disk", *disks_of(account, image_id))


MEANWHILE: dict[str, tuple[Callable[[Account, str], Any], str]] = {
    "a channel": (promote, "channel stable"),
    "a share": (share, "shared with 111111111111"),
    "a machine": (machine, "machine i-"),
    "its snapshot": (name_its_snapshot, "parameter golden-disk"),
    "a parameter": (lambda account, image_id: parameter(account, "golden", image_id), "parameter golden"),
}


@pytest.mark.local
@pytest.mark.parametrize(("use", "why"), MEANWHILE.values(), ids=MEANWHILE)
def test_what_is_used_since_the_plan_stays(
    account: Account, capsys: pytest.CaptureFixture[str], use: Callable[[Account, str], Any], why: str
) -> None:
    """Between the plan and the deletion somebody uses the image: it stays, whole, and the reason is said."""
    going, other = baked(account), baked(account)
    planned = retirements.plan(account, Terms(keep=0, at_once=True))
    retirement = retirements.retirement(account, images.get(account, going, "jenkins"))
    use(account, going)

    with pytest.raises(CloudError, match=f"image {going} stays.*{why}"):
        retirements.retire(account, retirement)
    assert {going, other} == there(account)[0]
    retirements.apply(account, planned, Terms(keep=0, at_once=True))

    assert ({going}, disks_of(account, going)) == there(account)
    assert why in next(line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{going} stays: "))
    assert ["stable"] * (use is promote) == [one.name for one in channels.find(account)]


@pytest.mark.local
def test_what_is_not_ours_any_more_stays(account: Account) -> None:
    """Between the plan and the deletion somebody takes our tag away: the image is theirs."""
    theirs, other = baked(account), baked(account)
    planned = retirements.plan(account, Terms(keep=0, at_once=True))
    retirement = retirements.retirement(account, images.get(account, theirs, "jenkins"))
    untag(account, theirs)

    with pytest.raises(InputError, match=f"image {theirs} was not baked by Bakehouse"):
        retirements.retire(account, retirement)
    retirements.apply(account, planned, Terms(keep=0, at_once=True))

    assert {theirs} == there(account)[0]
    assert other not in there(account)[0]


@pytest.mark.local
def test_a_channel_that_was_moved_since_the_plan_stays(account: Account) -> None:
    """A retirement takes along the channels that point to the image by now, and no channel that was moved away."""
    going, staying = baked(account), baked(account)
    promote(account, going)
    planned = retirements.retirement(account, images.get(account, going, "jenkins"))
    [before] = channels.find(account)
    promote(account, staying)

    with pytest.raises(InputError, match=f"channel stable was moved to {staying} meanwhile by .* and stays there"):
        channels.delete(account, before)
    retirements.retire(account, planned)

    assert {staying} == there(account)[0]
    assert [staying] == [one.image for one in channels.find(account)]


@pytest.mark.local
def test_one_that_cant_be_deleted_stops_no_other(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that is protected stays, with the reason; the others go, and the exit code is 1."""
    stone, *others = (baked(account, run=str(number)) for number in range(3))
    wanted = Terms(keep=0, at_once=True)
    planned = retirements.plan(account, wanted)

    with pytest.raises(CloudError, match=f"could not be deleted: {stone}$") as raised:
        retirements.apply(protected(account, [stone]), planned, wanted)

    assert 1 == raised.value.code
    assert f"{stone} stays: deregister_image: {stone} is protected" in capsys.readouterr().err
    assert ({stone}, disks_of(account, stone)) == there(account)
    assert [] == [one for one in others if one in there(account)[0]]


@pytest.mark.local
def test_others_images_stay(account: Account) -> None:
    """A cleanup takes its owner's things alone, unless it is told to take everyone's."""
    mine, others, nobodys = baked(account, owner="me"), baked(account, owner="you"), baked(account)

    plan = retirements.plan(account, Terms(keep=0, owner="me"))

    whys = {fate.thing.id: (fate.step, fate.why) for fate in plan.fates}
    assert ("deprecate", "nothing uses it") == whys[mine]
    assert [("stay", "belongs to you"), ("stay", "has no owner")] == [whys[others], whys[nobodys]]
    assert {"deprecate"} == {fate.step for fate in retirements.plan(account, Terms(keep=0)).fates}


@pytest.mark.local
@pytest.mark.parametrize("operation", ["ec2.DescribeInstances", "ec2.DescribeImageAttribute", "ssm"])
def test_what_cant_be_read(account: Account, operation: str) -> None:
    """Where something can't be read nothing goes, and what it was is said; exit 1, for a cleanup wanted otherwise."""
    baked(account)
    before = there(account)

    plan = clean(refused(account, operation), keep=0, at_once=True)

    assert before == there(account)
    assert {"stay"} == {fate.step for fate in plan.fates}
    with pytest.raises(CloudError, match=r"nothing is deleted: .* can't be read: .*not authorized") as raised:
        retirements.insist(plan)
    assert 1 == raised.value.code


@pytest.mark.local
def test_only_those_whose_turn_it_is_are_asked_for_shares(account: Account) -> None:
    """Shared images don't use up the limit: so many are asked as it takes to fill it."""
    shared = [baked(account, run=str(number)) for number in range(3)]
    for image_id in shared:
        account.ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"UserId": "111111111111"}]})
    others = [baked(account, run=str(number)) for number in range(3, 6)]

    plan = retirements.plan(account, Terms(keep=0, limit=2))

    steps = {fate.thing.id: fate.step for fate in plan.fates}
    assert 2 == sorted(steps[one] for one in others).count("deprecate")
    assert not {"deprecate"} & {steps[one] for one in shared}


@pytest.mark.local
def test_a_thousand_images(account: Account) -> None:
    """A thousand images and three hundred machines are all seen, by as many calls as they have pages."""
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

    there, calls = counted(account)
    found = details.entries(there, images.find(there, "jenkins"))
    to_list = dict(calls)
    calls.clear()
    plan = retirements.plan(there, Terms())
    to_plan = dict(calls)

    assert [f"{number:04}" for number in reversed(range(1000))] == [one.image.run for one in found]
    assert 300 == len(found[-1].users)
    assert {"stay": 4, "deprecate": 20, "later": 976} == {
        step: len(plan.of(step)) for step in ("stay", "deprecate", "later")
    }
    assert f"machine {min(_machines(account))} and 299 more" in [fate.why for fate in plan.fates]
    others = (
        *("DescribeInstances", "DescribeLaunchConfigurations", "DescribeLaunchTemplates", "DescribeParameters"),
        *("DescribeAutoScalingGroups", "DescribeFleets", "DescribeSpotFleetRequests", "DescribeSpotInstanceRequests"),
    )
    every = {**dict.fromkeys(others, 1), "GetParametersByPath": 1, "DescribeImages": 2}
    assert every == to_list
    shares = {"DescribeImageAttribute": 20, "DescribeSnapshotAttribute": 20}  # of those whose turn it is
    assert {**every, "DescribeSnapshots": 2, **shares} == to_plan


def _machines(account: Account) -> list[str]:
    pages = account.ec2.pages("describe_instances", "Reservations")
    return [str(one["InstanceId"]) for each in pages for one in each["Instances"]]


@pytest.mark.local
@pytest.mark.parametrize("step", ["cleanup", "retire"])
def test_killed(account: Account, killed_after: Callable[..., Account], step: str) -> None:
    """Whatever change a cleanup or a retirement is killed before, the next one ends it, and nothing in use is lost."""
    used, based, pointed = baked(account), baked(account), baked(account)
    machine(account, used)
    account.ec2.create_tags(Resources=[used], Tags=tag_list({f"{TAG}base": based}))
    channels.move(account, channels.read(account, "jenkins", "stable"), pointed)
    left = {used, based, pointed}, disks_of(account, used, based, pointed)

    def carry_out(there: Account, image_id: str) -> None:
        if step == "cleanup":
            clean(there, keep=0)
        elif images._look(there, image_id):
            retirements.retire(there, retirements.retirement(there, images.get(there, image_id, "jenkins")))

    for changes in count():
        going = baked(account)
        channels.move(account, channels.read(account, "jenkins", "candidate"), going if step == "retire" else pointed)
        try:
            carry_out(killed_after(changes=changes), going)
            break
        except Killed:
            assert {one.image for one in channels.find(account)} <= there(account)[0]
        for _ in range(2):
            carry_out(account, going)
        clean(account, keep=0, at_once=True)  # a snapshot whose image was retired
        assert left == there(account)
    assert changes >= 2
