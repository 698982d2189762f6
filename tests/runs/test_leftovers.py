"""Leftovers: what dead runs left goes, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from moto_fixtures import protected

from bakehouse import runs, settings
from bakehouse.accounts import TAG, Account, tag_list, tag_specifications
from bakehouse.errors import CloudError
from bakehouse.runs import Run, leftovers
from bakehouse.runs.leftovers import Leftover
from bakehouse.settings import Settings

DEAD = Run("dead", Path("/runs/dead"))
THINGS = [Leftover("instance", f"i-{run}", run) for run in ("dead", "alive", "kept", "foreign")]


def test_decide() -> None:
    """A dead run's things go; a living one's stay in silence, a kept one's and another checkout's are named."""
    plan = leftovers.decide(THINGS, {"dead": DEAD}, {"alive": "", "kept": "which failed"})

    assert (THINGS[0],) == plan.leftovers
    assert {"dead": DEAD} == plan.runs
    assert (
        "left alone: i-kept of run kept, which failed",
        "left alone: i-foreign of run foreign, which another checkout runs or ran",
    ) == plan.notes
    assert ["delete instance i-dead, left by run dead", *plan.notes] == plan.lines


def test_decide_nothing() -> None:
    """Where nothing was left there is nothing to say."""
    assert [] == leftovers.decide([], {"dead": DEAD}, {"alive": ""}).lines


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Return the settings of an empty checkout."""
    return settings.load(root=tmp_path)


def make(account: Account, run: str, kind: str = "bake") -> dict[str, str]:
    """Make one resource of each kind with the tags of a run, and return their IDs."""
    ec2 = account.ec2
    tags = {f"{TAG}kind": kind, f"{TAG}run": run, f"{TAG}recipe": "web"}
    name = f"bakehouse-{run}"
    ec2.create_key_pair(KeyName=name, TagSpecifications=tag_specifications(tags, "key-pair"))
    group = ec2.create_security_group(
        GroupName=name, Description=name, TagSpecifications=tag_specifications(tags, "security-group")
    )["GroupId"]
    instance = ec2.run_instances(
        ImageId=ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["arm64"]}])["Images"][0]["ImageId"],
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.small",
        SecurityGroupIds=[group],
        TagSpecifications=tag_specifications(tags, "instance", "volume"),
    )["Instances"][0]["InstanceId"]
    image = ec2.create_image(InstanceId=instance, Name=name)["ImageId"]
    ec2.create_tags(Resources=[image], Tags=tag_list(tags))  # its snapshot has none yet
    disk = ec2.create_volume(
        Size=1, AvailabilityZone="us-east-1a", TagSpecifications=tag_specifications(tags, "volume")
    )
    snapshot = ec2.create_snapshot(VolumeId=disk["VolumeId"], TagSpecifications=tag_specifications(tags, "snapshot"))
    return {
        "instance": instance,
        "image": image,
        "snapshot": snapshot["SnapshotId"],
        "volume": disk["VolumeId"],
        "security group": group,
        "key pair": name,
    }


def there(account: Account) -> dict[str, set[str]]:
    """Return the IDs of all resources of the account by kind."""
    ec2 = account.ec2
    instances = [one for each in ec2.describe_instances()["Reservations"] for one in each["Instances"]]

    def ids(answers: list[dict[str, Any]], key: str) -> set[str]:
        return {answer[key] for answer in answers}

    return {
        "instance": ids([one for one in instances if one["State"]["Name"] != "terminated"], "InstanceId"),
        "image": ids(ec2.describe_images(Owners=["self"])["Images"], "ImageId"),
        "snapshot": ids(ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"], "SnapshotId"),
        "volume": ids(ec2.describe_volumes()["Volumes"], "VolumeId"),
        "security group": ids(ec2.describe_security_groups()["SecurityGroups"], "GroupId"),
        "key pair": ids(ec2.describe_key_pairs()["KeyPairs"], "KeyName"),
    }


def dead_run(given: Settings) -> Run:
    """Return a run whose process was killed, so that its private files are still there."""
    with runs.begin(given) as run:
        run.key.write_text("secret")
        run.keep()
    (run.folder / "kept").unlink()
    return run


@pytest.mark.local
@pytest.mark.parametrize("kind", ["bake", "proof", "machine"])
def test_leftovers(account: Account, given: Settings, kind: str) -> None:
    """All that a dead run made goes, its image's snapshots and its private key too, and then nothing is left."""
    before = there(account)
    run = dead_run(given)
    made = make(account, run.id, kind)

    plan = leftovers.find(account, given)
    assert {(kind, one) for kind, one in made.items()} <= {(one.kind, one.id) for one in plan.leftovers}
    leftovers.apply(account, plan)

    assert before == there(account)
    assert not run.key.exists()
    assert [] == leftovers.find(account, given).lines
    leftovers.apply(account, plan)


@pytest.mark.local
def test_one_that_stays_stops_nothing_else(
    account: Account, given: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resource that can't be deleted is named with the reason; all others go; the bake goes on."""
    stones: list[str] = []
    clumsy = protected(account, stones)
    for kind in ("instance", "snapshot", "key pair"):
        made = make(account, dead_run(given).id)
        stones[:] = [made[kind]]

        leftovers.clear(clumsy, given)

        told, left = capsys.readouterr().err, there(account)
        assert f"{kind} {made[kind]} stays: " in told and f"{made[kind]} is protected" in told
        assert {kind: made[kind]} == {other: one for other, one in made.items() if one in left[other]}
        with pytest.raises(CloudError, match=f"could not be deleted: {kind} {made[kind]}"):
            leftovers.apply(clumsy, leftovers.find(clumsy, given))
        leftovers.clear(account, given)
        assert made[kind] not in there(account)[kind]


@pytest.mark.local
def test_untouched(account: Account, given: Settings) -> None:
    """Nothing goes that is of a living run, of another checkout's, a finished image, or without our tags."""
    with runs.begin(given) as run:
        make(account, run.id)
        foreign = make(account, "20260101-000000-ffff")
        make(account, dead_run(given).id, kind="image")
        account.ec2.create_key_pair(KeyName="bakehouse-mine")
        before = there(account)

        plan = leftovers.find(account, given)
        leftovers.apply(account, plan)

        assert before == there(account)
        (note,) = plan.notes
        assert all(one in note for one in foreign.values())


@pytest.mark.local
def test_kept(account: Account, given: Settings) -> None:
    """A failed bake that was kept stays until a person asks for it to go."""
    run = dead_run(given)
    run.keep()
    made = make(account, run.id)

    leftovers.apply(account, leftovers.find(account, given))
    assert made["instance"] in there(account)["instance"]
    assert run.key.exists()

    leftovers.apply(account, leftovers.find(account, given, kept=True))
    assert made["instance"] not in there(account)["instance"]
    assert not run.key.exists()


@pytest.mark.local
def test_of_run(account: Account, given: Settings) -> None:
    """A living run clears away its own things and no other's."""
    with runs.begin(given) as run, runs.begin(given) as other:
        mine, theirs = make(account, run.id), make(account, other.id)

        leftovers.apply(account, leftovers.of_run(account, run))

        left = there(account)
        assert [] == [one for kind, one in mine.items() if one in left[kind]]
        assert [] == [one for kind, one in theirs.items() if one not in left[kind]]
        assert run.wiped
        assert not other.wiped
