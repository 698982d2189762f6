"""Usage: all that could start a machine of an image is found, and what can't be read is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from moto_fixtures import refused
from samples import baked, machine, parameter

from bakehouse import accounts, images
from bakehouse.accounts import Account
from bakehouse.images import usage

pytestmark = pytest.mark.local


def template(account: Account, name: str, *image_ids: str) -> str:
    """Make a launch template with a version for each of these, and return its ID."""
    first, *others = image_ids
    made = account.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": first})
    for image in others:
        account.ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"ImageId": image})
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def test_machines(account: Account) -> None:
    """A machine uses its image whether it runs or not, until it is terminated; many come in pages."""
    running, stopped, terminated = (baked(account) for _ in range(3))
    ids = [machine(account, running) for _ in range(3)]
    halted = machine(account, stopped, "stopped")
    machine(account, terminated, "terminated")

    users = usage.find(account).users

    assert {running: tuple(f"machine {one}" for one in ids), stopped: (f"machine {halted}",)} == users


def test_launch_templates(account: Account) -> None:
    """Every version of every launch template counts, also a snapshot in it and a parameter that it follows."""
    old, new, third, followed, pinned, last = (baked(account) for _ in range(6))
    [disk] = images.get(account, old, "jenkins").snapshots
    one = template(account, "one", old, new, third)
    for value in (pinned, followed):
        parameter(account, "golden", value)
    two = template(account, "two", "resolve:ssm:golden", "resolve:ssm:golden:1", "resolve:ssm:none")
    many = [template(account, f"more-{number}", last) for number in range(16)]
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": disk}}
    data = {"BlockDeviceMappings": [mapping]}
    account.ec2.create_launch_template_version(LaunchTemplateName="one", LaunchTemplateData=data)

    found = usage.find(account)

    assert {
        **{image: (f"launch template {one}, version {number}",) for number, image in enumerate((old, new, third), 1)},
        disk: (f"launch template {one}, version 4",),
        followed: (f"launch template {two}, version 1", "parameter golden"),
        pinned: (f"launch template {two}, version 2",),
        last: tuple(f"launch template {each}, version 1" for each in many),
    } == found.users
    assert () == found.unread


def test_launch_configurations(account: Account) -> None:
    """What an Auto Scaling group's launch configuration names is in use, whether a machine runs or not."""
    image = baked(account)
    scaling = account.client("autoscaling")
    scaling.create_launch_configuration(LaunchConfigurationName="old", ImageId=image, InstanceType="t3.small")

    assert {image: ("launch configuration old",)} == usage.find(account).users


ANSWERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "an override of a mixed instances policy": (
        "auto-scaling.DescribeAutoScalingGroups",
        {
            "AutoScalingGroups": [
                {
                    "AutoScalingGroupName": "mixed",
                    "MixedInstancesPolicy": {"LaunchTemplate": {"Overrides": [{"ImageId": "IMAGE"}]}},
                }
            ]
        },
        "Auto Scaling group mixed",
    ),
    "an override of a fleet": (
        "ec2.DescribeFleets",
        {
            "Fleets": [
                {
                    "FleetId": "fleet-1",
                    "FleetState": "active",
                    "LaunchTemplateConfigs": [{"Overrides": [{"ImageId": "IMAGE"}]}],
                },
                {
                    "FleetId": "fleet-2",
                    "FleetState": "deleted",
                    "LaunchTemplateConfigs": [{"Overrides": [{"ImageId": "GONE"}]}],
                },
            ]
        },
        "fleet fleet-1",
    ),
    "a parameter in a fleet": (
        "ec2.DescribeFleets",
        {
            "Fleets": [
                {
                    "FleetId": "fleet-1",
                    "FleetState": "modifying",
                    "LaunchTemplateConfigs": [{"Overrides": [{"ImageId": "resolve:ssm:golden"}]}],
                }
            ]
        },
        "fleet fleet-1",
    ),
    "a spot fleet request": (
        "ec2.DescribeSpotFleetRequests",
        {
            "SpotFleetRequestConfigs": [
                {
                    "SpotFleetRequestId": f"sfr-{number}",
                    "SpotFleetRequestState": state,
                    "SpotFleetRequestConfig": {"LaunchSpecifications": [{"ImageId": image}]},
                }
                for number, (state, image) in enumerate((("active", "IMAGE"), ("cancelled", "GONE")), 1)
            ]
        },
        "spot fleet request sfr-1",
    ),
    "a spot request": (
        "ec2.DescribeSpotInstanceRequests",
        {
            "SpotInstanceRequests": [
                {"SpotInstanceRequestId": f"sir-{number}", "State": state, "LaunchSpecification": {"ImageId": image}}
                for number, (state, image) in enumerate((("open", "IMAGE"), ("closed", "GONE")), 1)
            ]
        },
        "spot request sir-1",
    ),
}


@pytest.mark.parametrize(("operation", "answer", "user"), ANSWERS.values(), ids=ANSWERS)
def test_what_could_start_a_machine(account: Account, operation: str, answer: dict[str, Any], user: str) -> None:
    """What AWS tells of groups, fleets and spot requests counts wherever an image stands in it, unless it has ended."""
    image, gone = baked(account), baked(account)
    parameter(account, "golden", image)
    there = accounts._local(account.variables)
    told = json.loads(json.dumps(answer).replace("IMAGE", image).replace("GONE", gone))
    there.session.events.register(f"before-call.{operation}", lambda **_: (AWSResponse("", 200, {}, None), told))

    assert {image: {user, "parameter golden"}} == {one: set(users) for one, users in usage.find(there).users.items()}


def test_parameters(account: Account) -> None:
    """An ID anywhere in a parameter's value counts, under whatever name; a secret isn't read."""
    one, another, third = (baked(account) for _ in range(3))
    for number in range(12):
        parameter(account, f"/none/{number}", "ami-none and snap-none")
    parameter(account, "/deep/down/json", f'{{"ami": "{one}"}}')
    parameter(account, "list", f"{one},{another}", "StringList")
    parameter(account, "secret", third, "SecureString")

    users = {image: set(users) for image, users in usage.find(account).users.items()}

    assert {one: {"parameter /deep/down/json", "parameter list"}, another: {"parameter list"}} == users


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        ("ec2.DescribeInstances", "the machines"),
        ("ec2.DescribeLaunchTemplates", "the launch templates"),
        ("ec2.DescribeLaunchTemplateVersions", "the launch templates"),
        ("auto-scaling.DescribeLaunchConfigurations", "the launch configurations of Auto Scaling groups"),
        ("auto-scaling.DescribeAutoScalingGroups", "the Auto Scaling groups"),
        ("ec2.DescribeFleets", "the EC2 Fleets"),
        ("ec2.DescribeSpotFleetRequests", "the spot fleet requests"),
        ("ec2.DescribeSpotInstanceRequests", "the spot instance requests"),
        ("ssm.DescribeParameters", "the parameters"),
        ("ssm.GetParameters", "the parameters"),
    ],
)
def test_what_cant_be_read(account: Account, operation: str, what: str) -> None:
    """What could not be read is named with the reason; all else is there."""
    image = baked(account)
    parameter(account, "golden", image)
    template(account, "one", "resolve:ssm:golden")
    machine(account, image)

    found = usage.find(refused(account, operation))

    lost = {what} if operation != "ssm.GetParameters" else {"the launch templates", "the parameters"}
    assert lost == {one.partition(" can't be read: ")[0] for one in found.unread}
    assert all("not authorized" in one for one in found.unread)
    users = {"the machines", "the launch templates", "the parameters"}
    assert len(users - lost) == len(found.users[image])


def test_shares(account: Account) -> None:
    """Whom an image or a snapshot of it is shared with, each named once."""
    image = images.get(account, baked(account), "jenkins")
    assert () == usage.shares(account, image.id, image.snapshots)
    added = [{"UserId": "111111111111"}, {"UserId": "222222222222"}]
    account.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission={"Add": added})
    for snapshot in image.snapshots:
        account.ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            OperationType="add",
            UserIds=["222222222222", "333333333333"],
        )

    assert {"111111111111", "222222222222"} == set(usage.shares(account, image.id, ()))
    assert {"222222222222", "333333333333"} == set(usage.shares(account, "", image.snapshots))
    assert 3 == len(usage.shares(account, image.id, image.snapshots))
