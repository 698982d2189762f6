"""Where the local EC2 differs from EC2: one test for each row of the table in docs/local-ec2.md."""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import socket
from pathlib import Path
from typing import Any

import boto3
import pytest
from ec2_fixtures import ROOT, Machines, code_of, describe, state_of, status_of, wait

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_the_kernel_and_the_cpus_are_the_hosts(shared: tuple[Machines, str]) -> None:
    """A t3.small has the host's kernel and all its CPUs."""
    machines, one = shared
    assert machines.ssh(one, "uname -r; nproc").split() == [platform.release(), str(len(os.sched_getaffinity(0)))]


def test_the_public_address_is_loopback(ec2: Any, shared: tuple[Machines, str]) -> None:
    """A machine's public address is in 127.0.0.0/8."""
    assert ipaddress.ip_address(describe(ec2, shared[1])[0]["PublicIpAddress"]).is_loopback


def test_the_private_address_is_dockers(ec2: Any, shared: tuple[Machines, str]) -> None:
    """A machine's private address is the container's, which the subnet doesn't hold."""
    machines, one = shared
    described = describe(ec2, one)[0]
    subnet = ec2.describe_subnets(SubnetIds=[described["SubnetId"]])["Subnets"][0]["CidrBlock"]
    assert described["PrivateIpAddress"] in machines.ssh(one, "hostname -I")
    assert ipaddress.ip_address(described["PrivateIpAddress"]) not in ipaddress.ip_network(subnet)


def test_there_is_no_public_dns_name(ec2: Any, shared: tuple[Machines, str]) -> None:
    """PublicDnsName is empty, as in a VPC without DNS hostnames."""
    assert describe(ec2, shared[1])[0]["PublicDnsName"] == ""


def test_there_is_no_metadata_service(shared: tuple[Machines, str]) -> None:
    """Nothing answers at the metadata service's address, and cloud-init's data source is NoCloud."""
    machines, one = shared
    ask = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('169.254.169.254', 80)))"
    assert machines.ssh(one, f'python3 -c "{ask}"') != "0"
    wait(lambda: "NoCloud" in machines.ssh(one, "sudo cloud-init status --long || true"))


def test_machines_reach_each_other_unguarded(ec2: Any, machines: Machines) -> None:
    """A machine whose group has no rule at all can be reached by another at its private address."""
    closed = ec2.create_security_group(GroupName="closed", Description="closed")["GroupId"]
    (inner,) = machines.launch(SecurityGroupIds=[closed])
    (outer,) = machines.launch()
    private = describe(ec2, inner)[0]["PrivateIpAddress"]
    ask = f"import socket; print(socket.create_connection(('{private}', 22), 20).recv(4).decode())"
    assert machines.ssh(outer, f'python3 -c "{ask}"') == "SSH-"
    ec2.terminate_instances(InstanceIds=[inner])
    wait(lambda: state_of(ec2, inner) == "terminated")
    ec2.delete_security_group(GroupId=closed)


def test_a_caller_without_a_rule_is_reset(ec2: Any, shared: tuple[Machines, str]) -> None:
    """Port 22, open to 127.0.0.1 alone, takes a connection from 127.0.0.2 and resets it."""
    address = describe(ec2, shared[1])[0]["PublicIpAddress"]
    with socket.create_connection((address, 22), timeout=20, source_address=("127.0.0.1", 0)) as welcome:
        assert welcome.recv(4) == b"SSH-"
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((address, 22), timeout=20, source_address=("127.0.0.2", 0)) as stranger,
    ):
        stranger.recv(4)


def test_volumes_are_only_told(ec2: Any, machines: Machines) -> None:
    """A second volume is described and tagged, but the machine has no such device."""
    mapping = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}]
    (one,) = machines.launch(BlockDeviceMappings=mapping)
    assert [found["DeviceName"] for found in describe(ec2, one)[0]["BlockDeviceMappings"]] == ["/dev/xvda", "/dev/sdf"]
    assert machines.ssh(one, "ls /dev/sdf 2>/dev/null || echo none") == "none"


def test_every_key_may_do_everything(local_ec2: Any, base: str) -> None:
    """Another key of the checkout than the kit's sees the same images, and no policy limits it."""
    assert local_ec2.client("ec2", key="somebody").describe_images(ImageIds=[base])["Images"]


def test_everybody_may_be_any_role(local_ec2: Any, base: str) -> None:
    """A role that trusts nobody is assumed all the same, and without a policy it sees the images."""
    iam = local_ec2.client("iam")
    role = iam.create_role(RoleName="aloof", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    keys = local_ec2.client("sts").assume_role(RoleArn=role, RoleSessionName="me")["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name="us-east-1")
    assert session.client("ec2", endpoint_url=local_ec2.endpoint).describe_images(ImageIds=[base])["Images"]
    iam.delete_role(RoleName="aloof")


def test_snapshots_come_from_images_only(ec2: Any, shared: tuple[Machines, str]) -> None:
    """RegisterImage and CreateSnapshot are refused rather than answered with something empty."""
    volume = describe(ec2, shared[1])[0]["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert code_of(ec2.create_snapshot, VolumeId=volume) == "UnsupportedOperation"
    assert code_of(ec2.register_image, Name="registered") == "UnsupportedOperation"


@pytest.mark.parametrize(("specified", "state"), [(["image"], "available"), ([], "pending")])
def test_create_image_answers_when_the_image_is_there(
    ec2: Any, machines: Machines, specified: list[str], state: str
) -> None:
    """An image that gets its tags as it's made is available when its ID is told; another one is pending."""
    (one,) = machines.launch()
    tags = [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b"}]} for kind in specified]
    more = {"TagSpecifications": tags} if tags else {}
    image = ec2.create_image(InstanceId=one, Name=f"soon {state}", **more)["ImageId"]
    assert ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == state
    wait(lambda: ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_a_terminated_machine_has_no_console(ec2: Any, machines: Machines) -> None:
    """The console of a terminated machine is empty; EC2 keeps it for a while."""
    (one,) = machines.launch()
    wait(lambda: status_of(ec2, one) == "ok")
    assert ec2.get_console_output(InstanceId=one)["Output"]
    ec2.terminate_instances(InstanceIds=[one])
    wait(lambda: state_of(ec2, one) == "terminated")
    assert ec2.get_console_output(InstanceId=one).get("Output", "") == ""


def test_every_difference_has_its_test() -> None:
    """Each row of the table names a test that exists, and each test here is in the table."""
    told = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/local-ec2.md").read_text()))
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    elsewhere = "".join(Path(__file__).with_name(f"test_{room}.py").read_text() for room in ("local_ec2", "ports"))
    there = set(re.findall(r"^def (test_\w+)", elsewhere, re.MULTILINE))
    assert told - here - there == set()
    assert here - told == {"test_every_difference_has_its_test"}
