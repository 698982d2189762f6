"""Machines: launched closed to strangers, found by our tags, entered by their ID, ended for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import MACHINE

from bakehouse import machines
from bakehouse.accounts import TAG, Account, access, tag_list, tags_of
from bakehouse.errors import BakehouseError, CloudError, InputError, NotFoundError
from bakehouse.images import Image
from bakehouse.local.bodies import PRIVILEGED
from bakehouse.machines import Machine, launches
from bakehouse.machines.launches import Request
from bakehouse.settings import Settings

ONE = Request(1, ("t3.medium",), "192.0.2.7/32", b"")


def launch(account: Account, settings: Settings, image: Image, order: Request = ONE) -> list[Machine]:
    """Launch machines and return them when they run."""
    return machines.running(account, [one.id for one in launches.begin(account, settings, image, order, [8080])])


def instance(account: Account, machine_id: str) -> dict[str, Any]:
    """Return what EC2 says of a machine."""
    [reservation] = account.ec2.describe_instances(InstanceIds=[machine_id])["Reservations"]
    found: dict[str, Any] = reservation["Instances"][0]
    return found


def test_from_aws() -> None:
    """An answer becomes a record; what EC2 leaves out is empty."""
    answer = {"InstanceId": "i-1", "State": {"Name": "pending"}, "LaunchTime": MACHINE.launched}

    read = Machine.from_aws(answer)

    assert Machine("i-1", "pending", "", "", "", "", "", "", "", MACHINE.launched) == read


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"count": "0"}, "--count 0 "),
        ({"count": "-1"}, "--count -1 "),
        ({"count": "x"}, "--count x "),
        ({"count": "1.5"}, "--count 1.5 "),
        ({"count": "²"}, "--count ² "),
        ({"instance_type": "huge"}, "--type huge "),
        ({"allow": "192.0.2.300/32"}, "--allow 192.0.2.300/32 "),
        ({"allow": "192.0.2.7/24"}, "--allow 192.0.2.7/24 .*host bits"),
        ({"allow": "everyone"}, "--allow everyone "),
        ({"user_data": "no/such/file"}, "--user-data no/such/file can't be read: No such file"),
    ],
)
def test_an_order_that_makes_no_sense(flags: dict[str, str], words: str) -> None:
    """Each flag that makes no sense is named with what was given, before anything is made."""
    with pytest.raises(InputError, match=words):
        launches.request(**{"instance_type": "t3.medium", **flags})


@pytest.mark.parametrize(("size", "fits"), [(0, True), (16384, True), (16385, False)])
def test_user_data_has_a_limit(tmp_path: Path, size: int, fits: bool) -> None:
    """User-data of 16 KiB is taken as it is; one byte more is refused with both sizes."""
    file = tmp_path / "user-data"
    file.write_bytes(b"\xff" * size)

    if fits:
        assert b"\xff" * size == launches.request("t3.medium", user_data=str(file)).user_data
    else:
        with pytest.raises(InputError, match="has 16385 bytes; EC2 takes 16384"):
            launches.request("t3.medium", user_data=str(file))


def test_an_order() -> None:
    """What a person typed becomes an order; an address alone is a network of one."""
    expected = Request(3, ("m7i-flex.large",), "192.0.2.7/32", b"")

    assert expected == launches.request("m7i-flex.large", count="3", allow="192.0.2.7")


@pytest.mark.local
def test_launch(account: Account, settings: Settings, image: Image) -> None:
    """A launched machine requires IMDSv2, has an encrypted root volume, our key, our group and our tags."""
    [machine] = launch(account, settings, image)

    found = instance(account, machine.id)
    [mapping] = found["BlockDeviceMappings"]
    [volume] = account.ec2.describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    expected = {"Name": "bakehouse-jenkins", f"{TAG}kind": "machine", f"{TAG}recipe": "jenkins", f"{TAG}user": "admin"}
    expected[f"{TAG}owner"] = account.caller_arn()
    assert ("required", "enabled", 1) == (
        found["MetadataOptions"]["HttpTokens"],
        found["MetadataOptions"]["HttpEndpoint"],
        found["MetadataOptions"]["HttpPutResponseHopLimit"],
    )
    assert (image.root_device, image.root_snapshot, True) == (
        mapping["DeviceName"],
        volume["SnapshotId"],
        volume["Encrypted"],
    )
    assert (expected, expected) == (tags_of(found), tags_of(volume))
    assert [access.group(account, "jenkins", machine.key, [22, 8080], "192.0.2.7/32")] == [
        group["GroupId"] for group in found["SecurityGroups"]
    ]
    assert (access.keys(settings) / machine.key).is_file()
    assert ("running", "admin", "jenkins", image.id) == (machine.state, machine.user, machine.recipe, machine.image)


@pytest.mark.local
def test_launch_for_a_run(account: Account, settings: Settings, image: Image) -> None:
    """A run's own machine carries its tag, and so does its volume, so that both go with the run."""
    [machine] = launches.begin(account, settings, image, ONE, [8080], run="20261122-080000-abcd")

    found = instance(account, machine.id)
    volume = found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    [disk] = account.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    assert ["20261122-080000-abcd"] * 2 == [tags_of(one)[f"{TAG}run"] for one in (found, disk)]
    assert "bakehouse-20261122-080000-abcd" == found["SecurityGroups"][0]["GroupName"]


@pytest.mark.local
def test_a_privileged_recipes_machine(account: Account, settings: Settings, image: Image) -> None:
    """The machines of an image whose recipe is privileged are so too, in proofs as well; those of others aren't."""
    privileged = replace(image, tags={**image.tags, PRIVILEGED: "yes"})

    [usual] = launches.begin(account, settings, image, ONE, [8080])
    machines = [launches.begin(account, settings, privileged, ONE, [8080], run=run)[0] for run in ("", "a-run")]

    assert PRIVILEGED not in tags_of(instance(account, usual.id))
    assert ["yes", "yes"] == [tags_of(instance(account, one.id))[PRIVILEGED] for one in machines]


@pytest.mark.local
def test_several_with_user_data(account: Account, settings: Settings, image: Image) -> None:
    """Three machines ordered are three launched, with the user-data as it was given."""
    launched = launch(account, settings, image, Request(3, ("t3.medium",), "192.0.2.7/32", b"#!/bin/sh\n\xff"))

    told = account.ec2.describe_instance_attribute(InstanceId=launched[0].id, Attribute="userData")
    assert 3 == len({machine.id for machine in launched})
    assert "IyEvYmluL3NoCv8=" == told["UserData"]["Value"]


@pytest.mark.local
def test_a_machine_that_ends_instead(account: Account, settings: Settings, image: Image) -> None:
    """Waiting for a machine that was terminated ends at once, naming it and its state."""
    [machine] = launch(account, settings, image)
    account.ec2.terminate_instances(InstanceIds=[machine.id])

    with pytest.raises(CloudError, match=f"machine {machine.id} is (shutting-down|terminated): "):
        machines.running(account, [machine.id])


@pytest.mark.local
def test_find_sees_only_our_machines_that_are_there(account: Account, settings: Settings, image: Image) -> None:
    """Neither a terminated machine, nor a bake's own, nor another recipe's, nor one without tags is found."""
    wanted, gone, bakes_own, other = launch(account, settings, image, Request(4, ("t3.medium",), "192.0.2.7/32", b""))
    account.ec2.run_instances(ImageId=image.id, MinCount=1, MaxCount=1)
    account.ec2.create_tags(Resources=[bakes_own.id], Tags=tag_list({f"{TAG}kind": "bake"}))
    account.ec2.create_tags(Resources=[other.id], Tags=tag_list({f"{TAG}recipe": "nginx"}))
    launches.end(account, settings, [gone])
    account.ec2.stop_instances(InstanceIds=[wanted.id])

    assert [(wanted.id, "stopped")] == [(one.id, one.state) for one in machines.find(account, "jenkins")]
    assert {wanted.id, other.id} == {one.id for one in machines.find(account, "*")}


@pytest.mark.local
def test_a_machine_whose_end_has_begun(account: Account, settings: Settings, image: Image) -> None:
    """It is still there for who terminates, and for nobody else; one that has failed is no machine that will run."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import StateReason

    backend = ec2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]
    [ending, failed] = launch(account, settings, image, Request(2, ("t3.medium",), "192.0.2.7/32", b""))
    there = backend.get_instance(ending.id)._state
    there.name, there.code = "shutting-down", 32
    account.ec2.stop_instances(InstanceIds=[failed.id])
    backend.get_instance(failed.id).state_reason = StateReason("Server.InternalError: no init", "Server.InternalError")

    assert [failed.id] == [one.id for one in machines.find(account, "jenkins")]
    assert {ending.id, failed.id} == {one.id for one in machines.find(account, "jenkins", machines.HERE)}
    assert ending.id == machines.get(account, ending.id, "jenkins", machines.HERE).id
    with pytest.raises(NotFoundError, match="is shutting-down"):
        machines.get(account, ending.id, "jenkins")
    for look in (machines.running, lambda there, ids: machines.insist_on(there, [failed])):
        with pytest.raises(CloudError, match=f"machine {failed.id} is stopped: Server.InternalError: no init"):
            look(account, [failed.id])


@pytest.mark.local
@pytest.mark.parametrize(
    ("machine_id", "kind", "words"),
    [
        ("i-xyz", InputError, "'i-xyz' is not a machine ID"),
        ("ami-0a1b2c3d4e5f60718", InputError, "is not a machine ID"),
        ("i-0123456789abcdef0", NotFoundError, "does not exist on account local"),
        ("terminated", NotFoundError, "is terminated"),
        ("theirs", InputError, "was not launched by Bakehouse"),
        ("another recipe's", InputError, "is of recipe nginx, not jenkins"),
    ],
)
def test_get_refuses(
    account: Account, settings: Settings, image: Image, machine_id: str, kind: type[BakehouseError], words: str
) -> None:
    """A malformed or unknown ID, a machine of others, a terminated one and another recipe's are refused with a hint."""
    if machine_id == "theirs":
        machine_id = account.ec2.run_instances(ImageId=image.id, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    elif " " in machine_id or machine_id == "terminated":
        [machine] = launch(account, settings, image)
        if machine_id == "terminated":
            launches.end(account, settings, [machine])
        else:
            account.ec2.create_tags(Resources=[machine.id], Tags=tag_list({f"{TAG}recipe": "nginx"}))
        machine_id = machine.id

    with pytest.raises(kind, match=words) as raised:
        machines.get(account, machine_id, "jenkins")
    assert raised.value.hint and 2 == raised.value.code


@pytest.mark.local
def test_which_machine_is_meant(
    account: Account, settings: Settings, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several the newest is taken and named; of one nothing is said; of none it is said how to launch one."""
    with pytest.raises(NotFoundError, match="no machine of recipe jenkins on account local"):
        machines.one(account, "jenkins")
    [first] = launch(account, settings, image)
    capsys.readouterr()
    assert first.id == machines.one(account, "jenkins").id
    assert "" == capsys.readouterr().err

    launch(account, settings, image)
    newest = machines.find(account, "jenkins")[0]
    capsys.readouterr()

    assert newest.id == machines.one(account, "jenkins").id
    assert f"machine {newest.id}, the newest of 2\n" == capsys.readouterr().err
    assert first.id == machines.one(account, "jenkins", first.id).id


@pytest.mark.local
def test_stop_start_terminate(account: Account, settings: Settings, image: Image) -> None:
    """Each returns when it is true, and termination takes what SSH knew of the machine."""
    [machine] = launch(account, settings, image)
    known = access.known_hosts(settings, machine.id)
    known.parent.mkdir(parents=True)
    known.write_text("a host key")

    machines.stop(account, machine)
    assert "stopped" == machines.stopped(account, machine).state
    assert "running" == machines.start(account, machine).state
    launches.end(account, settings, [machine])

    assert "terminated" == instance(account, machine.id)["State"]["Name"]
    assert not known.exists()
