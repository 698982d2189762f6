"""Images, machines and contents that tests of several wings start from."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from bakehouse import images
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.images import Image
from bakehouse.images.channels import Channel, Move
from bakehouse.machines import Machine
from bakehouse.records.contents import Contents, Package

PACKER = "BAKEHOUSE_TEST_PACKER"
"""The variable that names the folder of the Packer that tests bake with, if it isn't the system's."""

ANSWER = {
    "ImageId": "ami-0a1b2c3d4e5f60718",
    "Name": "bakehouse-jenkins-20261122-081500-a1b2",
    "State": "available",
    "CreationDate": "2026-11-22T08:15:00.000Z",
    "RootDeviceName": "/dev/xvda",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1"}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    ],
    "ImdsSupport": "v2.0",
    "Tags": tag_list({f"{TAG}recipe": "jenkins", f"{TAG}user": "admin", f"{TAG}jenkins": "stand-in", "Name": "x"}),
}

NUMBERS = count()

NOW = datetime(2026, 11, 22, tzinfo=UTC)

DIGEST = f"sha256:{'a' * 64}"

CURL = Package("deb", "curl", "8.14.1-2+deb13u1", "amd64", "curl", ("ISC", "curl"))

CONTENTS = Contents(
    system={"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)", "architecture": "x86_64"},
    packages=(
        CURL,
        Package("deb", "libstdc++6", "14.2.0-19", "amd64", "gcc-14", ()),
        Package("rpm", "shadow-utils", "2:4.9-12.amzn2023", "x86_64", "shadow-utils-4.9-12.src.rpm", ("GPL-2.0-only",)),
        Package("rpm", "kernel", "6.1-1", "x86_64", "kernel-6.1-1.src.rpm", ("GPL-2.0-only AND MIT",)),
        Package("rpm", "kernel", "6.2-1", "x86_64", "kernel-6.2-1.src.rpm", ("GPL-2.0-only AND MIT",)),
    ),
    services={"ssh.service": "enabled", "getty@.service": "enabled"},
    ports={"tcp 0.0.0.0:22": "sshd", "udp 127.0.0.1:323": ""},
    users={"root": "0:0 /root /bin/bash"},
    setuid={"/usr/bin/su": "4755:root:root", "/etc/odd": "2755:root:adm"},
    files={"/etc/motd": DIGEST, "/etc/localtime": "-> /usr/share/zoneinfo/UTC", "/etc/odd": DIGEST},
    repositories={"https://example.com/debian/dists/stable/InRelease": DIGEST},
)

MACHINE = Machine(
    id="i-0a1b2c3d4e5f60718",
    state="running",
    why="",
    address="127.4.5.6",
    type="t3.medium",
    image="ami-0a1b2c3d4e5f60718",
    recipe="jenkins",
    user="admin",
    key="bakehouse-jenkins-0123456789ab",
    launched=datetime(2026, 11, 22, 8, 15, tzinfo=UTC),
)

PARTS = (
    *(".config", "bakehouse", "inventory", "molecule", "packer", "playbooks", "roles"),
    *("ansible.cfg", "requirements.yml", "tasks.py"),
)


def image(**changes: Any) -> Image:
    """Return an image that differs from ANSWER in its answer's keys."""
    return Image.from_aws({**ANSWER, **changes})


def baked(account: Account, recipe: str = "jenkins", **tags: str) -> str:
    """Have an image made with our tags, and return its ID."""
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot(account), "VolumeSize": 1}}
    name = f"bakehouse-{recipe}-{next(NUMBERS)}"
    image_id = account.ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[disk])["ImageId"]
    ours = {f"{TAG}recipe": recipe, f"{TAG}kind": "image", **{f"{TAG}{key}": value for key, value in tags.items()}}
    return images.tag(account, image_id, ours).id


def snapshot(account: Account) -> str:
    """Have a snapshot of an empty volume made, and return its ID."""
    volume = account.ec2.create_volume(Size=1, AvailabilityZone="us-east-1a")["VolumeId"]
    return str(account.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])


def machine(account: Account, image: str, state: str = "running") -> str:
    """Have a machine of an image in a state, and return its ID."""
    answer = account.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.small")
    machine_id = str(answer["Instances"][0]["InstanceId"])
    if state == "stopped":
        account.ec2.stop_instances(InstanceIds=[machine_id])
    if state == "terminated":
        account.ec2.terminate_instances(InstanceIds=[machine_id])
    return machine_id


def parameter(account: Account, name: str, value: str, kind: str = "String") -> None:
    """Set a parameter."""
    account.ssm.put_parameter(Name=name, Value=value, Type=kind, Overwrite=True)


def channel(*names: str) -> Channel:
    """Return the channel stable of recipe web, moved from image to image."""
    moves = [Move(number, f"ami-{name}", NOW, after=number - 1) for number, name in enumerate(names, 1)]
    return Channel("web", "stable", tuple(moves))
