"""References: all that could start a machine of an image is found, and what can't be read is named."""

from __future__ import annotations

import pytest
from moto_fixtures import refused
from test_images import baked

from bakehouse import images, references
from bakehouse.cloud import Cloud

pytestmark = pytest.mark.local


def machine(cloud: Cloud, image: str, state: str = "running") -> str:
    """Have a machine of an image in a state, and return its ID."""
    answer = cloud.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.small")
    machine_id = str(answer["Instances"][0]["InstanceId"])
    if state == "stopped":
        cloud.ec2.stop_instances(InstanceIds=[machine_id])
    if state == "terminated":
        cloud.ec2.terminate_instances(InstanceIds=[machine_id])
    return machine_id


def template(cloud: Cloud, name: str, *image_ids: str) -> str:
    """Make a launch template with a version for each of these, and return its ID."""
    first, *others = image_ids
    made = cloud.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": first})
    for image in others:
        cloud.ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"ImageId": image})
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def parameter(cloud: Cloud, name: str, value: str, kind: str = "String") -> None:
    """Set a parameter."""
    cloud.ssm.put_parameter(Name=name, Value=value, Type=kind, Overwrite=True)


def test_machines(cloud: Cloud) -> None:
    """A machine uses its image whether it runs or not, until it is terminated; many come in pages."""
    running, stopped, terminated = (baked(cloud) for _ in range(3))
    ids = [machine(cloud, running) for _ in range(3)]
    halted = machine(cloud, stopped, "stopped")
    machine(cloud, terminated, "terminated")

    users = references.find(cloud).users

    assert {running: tuple(f"machine {one}" for one in ids), stopped: (f"machine {halted}",)} == users


def test_launch_templates(cloud: Cloud) -> None:
    """Every version of every launch template counts, also a snapshot in it and a parameter that it follows."""
    old, new, third, followed, pinned, last = (baked(cloud) for _ in range(6))
    [disk] = images.get(cloud, old, "jenkins").snapshots
    one = template(cloud, "one", old, new, third)
    for value in (pinned, followed):
        parameter(cloud, "golden", value)
    two = template(cloud, "two", "resolve:ssm:golden", "resolve:ssm:golden:1", "resolve:ssm:none")
    many = [template(cloud, f"more-{number}", last) for number in range(16)]
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": disk}}
    data = {"BlockDeviceMappings": [mapping]}
    cloud.ec2.create_launch_template_version(LaunchTemplateName="one", LaunchTemplateData=data)

    found = references.find(cloud)

    assert {
        **{image: (f"launch template {one}, version {number}",) for number, image in enumerate((old, new, third), 1)},
        disk: (f"launch template {one}, version 4",),
        followed: (f"launch template {two}, version 1", "parameter golden"),
        pinned: (f"launch template {two}, version 2",),
        last: tuple(f"launch template {each}, version 1" for each in many),
    } == found.users
    assert () == found.unread


def test_launch_configurations(cloud: Cloud) -> None:
    """What an Auto Scaling group's launch configuration names is in use, whether a machine runs or not."""
    image = baked(cloud)
    scaling = cloud.service("autoscaling")
    scaling.create_launch_configuration(LaunchConfigurationName="old", ImageId=image, InstanceType="t3.small")

    assert {image: ("launch configuration old",)} == references.find(cloud).users


def test_parameters(cloud: Cloud) -> None:
    """An ID anywhere in a parameter's value counts, under whatever name; a secret isn't read."""
    one, another, third = (baked(cloud) for _ in range(3))
    for number in range(12):
        parameter(cloud, f"/none/{number}", "ami-none and snap-none")
    parameter(cloud, "/deep/down/json", f'{{"ami": "{one}"}}')
    parameter(cloud, "list", f"{one},{another}", "StringList")
    parameter(cloud, "secret", third, "SecureString")

    users = {image: set(users) for image, users in references.find(cloud).users.items()}

    assert {one: {"parameter /deep/down/json", "parameter list"}, another: {"parameter list"}} == users


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        ("ec2.DescribeInstances", "the machines"),
        ("ec2.DescribeLaunchTemplates", "the launch templates"),
        ("ec2.DescribeLaunchTemplateVersions", "the launch templates"),
        ("ssm.GetParameter", "the launch templates"),
        ("auto-scaling.DescribeLaunchConfigurations", "the launch configurations of Auto Scaling groups"),
        ("ssm.DescribeParameters", "the parameters"),
        ("ssm.GetParameters", "the parameters"),
    ],
)
def test_what_cant_be_read(cloud: Cloud, operation: str, what: str) -> None:
    """What could not be read is named with the reason; all else is there."""
    image = baked(cloud)
    parameter(cloud, "golden", image)
    template(cloud, "one", "resolve:ssm:golden")
    machine(cloud, image)

    found = references.find(refused(cloud, operation))

    [unread] = found.unread
    assert unread.startswith(f"{what} can't be read: ") and "not authorized" in unread
    assert (3 if what.startswith("the launch conf") else 2) == len(found.users[image])


def test_shares(cloud: Cloud) -> None:
    """Whom an image or a snapshot of it is shared with, each named once."""
    image = images.get(cloud, baked(cloud), "jenkins")
    assert () == references.shares(cloud, image.id, image.snapshots)
    added = [{"UserId": "111111111111"}, {"UserId": "222222222222"}]
    cloud.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission={"Add": added})
    for snapshot in image.snapshots:
        cloud.ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            OperationType="add",
            UserIds=["222222222222", "333333333333"],
        )

    assert {"111111111111", "222222222222"} == set(references.shares(cloud, image.id, ()))
    assert {"222222222222", "333333333333"} == set(references.shares(cloud, "", image.snapshots))
    assert 3 == len(references.shares(cloud, image.id, image.snapshots))
