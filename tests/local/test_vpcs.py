"""Networks of the local EC2: several VPCs, no default one, and machines that only a bastion reaches."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ec2_fixtures import Machines, code_of, connects, describe, wait_for_state
from stand_in_fixtures import StandIn, served


@contextlib.contextmanager
def network(ec2: Any, **subnet: Any) -> Iterator[tuple[str, str, str]]:
    """Give a VPC with one subnet and one group of ours: their IDs."""
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24", **subnet)["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="theirs", Description="x", VpcId=vpc)["GroupId"]
    try:
        yield vpc, made, group
    finally:
        ec2.delete_security_group(GroupId=group)
        ec2.delete_subnet(SubnetId=made)
        ec2.delete_vpc(VpcId=vpc)


def without_default_vpc(ec2: Any) -> None:
    """Take the default VPC away, as companies do."""
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for vpc in ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]:
        ec2.delete_vpc(VpcId=vpc["VpcId"])


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Give one server without Docker to all tests of this module."""
    with served(tmp_path_factory.mktemp("local")) as server:
        yield server


def test_a_group_of_another_network(stand_in: StandIn) -> None:
    """A group and a subnet of two VPCs don't go together, however they are named."""
    ec2 = stand_in.ec2
    launch = {"ImageId": stand_in.base, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}
    own = ec2.create_security_group(GroupName="own", Description="x")["GroupId"]
    with network(ec2) as (_, subnet, group):
        nic = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [own]}

        assert "InvalidParameter" == code_of(ec2.run_instances, **launch, SubnetId=subnet, SecurityGroupIds=[own])
        assert "InvalidParameter" == code_of(ec2.run_instances, **launch, SecurityGroupIds=[group])
        assert "InvalidParameter" == code_of(ec2.run_instances, **launch, NetworkInterfaces=[nic])


@pytest.mark.parametrize(
    ("of_subnet", "asked", "public"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_who_gets_a_public_address(stand_in: StandIn, of_subnet: bool, asked: bool | None, public: bool) -> None:
    """A launch says whether a machine has a public address, else its subnet does; that stays so when it starts."""
    ec2 = stand_in.ec2
    with network(ec2) as (_, subnet, group):
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": of_subnet})
        nic: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group]}
        if asked is not None:
            nic["AssociatePublicIpAddress"] = asked
        [made] = ec2.run_instances(ImageId=stand_in.base, MinCount=1, MaxCount=1, NetworkInterfaces=[nic])["Instances"]
        one = made["InstanceId"]
        wait_for_state(ec2, one, "running")
        first = "PublicIpAddress" in describe(ec2, one)[0]
        ec2.stop_instances(InstanceIds=[one])
        wait_for_state(ec2, one, "stopped")
        ec2.start_instances(InstanceIds=[one])
        wait_for_state(ec2, one, "running")

        assert (public, public) == (first, "PublicIpAddress" in describe(ec2, one)[0])
        ec2.terminate_instances(InstanceIds=[one])
        wait_for_state(ec2, one, "terminated")


def test_without_room(stand_in: StandIn) -> None:
    """A type is refused where somebody has asked for it, everywhere or in one subnet, until that is lifted."""
    ec2, launch = stand_in.ec2, {"ImageId": stand_in.base, "MinCount": 1, "MaxCount": 1}
    with network(ec2) as (_, subnet, _):
        stand_in.lack(f"t3.small,t3.large@{subnet}")

        small, large = ({**launch, "InstanceType": kind} for kind in ("t3.small", "t3.large"))
        assert "InsufficientInstanceCapacity" == code_of(ec2.run_instances, **small)
        assert "InsufficientInstanceCapacity" == code_of(ec2.run_instances, **large, SubnetId=subnet)
        made = [ec2.run_instances(**large)["Instances"][0]["InstanceId"]]
        stand_in.lack("none")
        made.append(ec2.run_instances(**small)["Instances"][0]["InstanceId"])
        ec2.terminate_instances(InstanceIds=made)
        for one in made:
            wait_for_state(ec2, one, "terminated")


def test_without_a_default_vpc(stand_in: StandIn) -> None:
    """Without a default VPC a group needs its VPC, and a launch its subnet; there they work."""
    ec2 = stand_in.ec2
    without_default_vpc(ec2)
    launch = {"ImageId": stand_in.base, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}

    assert "VPCIdNotSpecified" == code_of(ec2.create_security_group, GroupName="x", Description="x")
    assert "VPCIdNotSpecified" == code_of(ec2.run_instances, **launch)
    with network(ec2) as (_, subnet, group):
        [made] = ec2.run_instances(**launch, SubnetId=subnet, SecurityGroupIds=[group])["Instances"]
        assert subnet == made["SubnetId"]
        ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
        wait_for_state(ec2, made["InstanceId"], "terminated")


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_only_a_bastion_reaches_a_machine_without_a_public_address(
    ec2: Any, machines: Machines, shared: tuple[Machines, str]
) -> None:
    """A program of this host can't connect to it, also after it has booted again; a machine beside it can."""
    bastion = shared[1]
    nic = {"DeviceIndex": 0, "Groups": [machines.group], "AssociatePublicIpAddress": False}
    one = machines.launch(NetworkInterfaces=[nic], SecurityGroupIds=[])[0]
    address = describe(ec2, one)[0]["PrivateIpAddress"]

    def told() -> tuple[bool, str]:
        jump = f"admin@{describe(ec2, bastion)[0]['PublicIpAddress']}"
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
        to = ["ssh", "-F", "none", "-i", str(machines.key_file), *(part for o in options for part in ("-o", o))]
        line = [*to, "-o", f"ProxyCommand={' '.join(to)} -W %h:%p {jump}", f"admin@{address}", "hostname"]
        answer = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
        return connects(address, 22), answer.stdout.strip() or answer.stderr

    name = "ip-" + address.replace(".", "-")
    assert "PublicIpAddress" not in describe(ec2, one)[0]
    assert (False, name) == told()
    ec2.stop_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "stopped")
    ec2.start_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "running")
    assert (False, name) == told()
