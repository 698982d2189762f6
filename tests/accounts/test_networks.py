"""Networks: the subnets, groups and callers that accounts.yml names, and one line where EC2 doesn't have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from moto_fixtures import enforced
from samples import baked

from bakehouse import accounts, images
from bakehouse.accounts import Account, access, networks, rights, tag_specifications
from bakehouse.accounts.networks import Network, Place
from bakehouse.errors import CloudError, InputError
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.settings import Settings
from bakehouse.sites import Site, Sites

pytestmark = pytest.mark.local

LIST = "pl-0123456789abcdef0"


@dataclass(frozen=True)
class Made:
    """Hold what a test has made: two VPCs, two subnets and a group of the first, a subnet and a group of the second."""

    vpc: str
    subnets: tuple[str, ...]
    group: str
    other: str
    outside: str
    stranger: str


@pytest.fixture
def made(account: Account) -> Made:
    """Make two VPCs beside the default one."""
    ec2, found = account.ec2, list[tuple[str, tuple[str, ...], str]]()
    for number in (1, 2):
        vpc = ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"]
        tags = tag_specifications({"tier": f"private-{number}"}, "subnet")
        blocks = [f"10.{number}.{part}.0/24" for part in (1, 2)]
        own = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=one, TagSpecifications=tags)["Subnet"]["SubnetId"] for one in blocks
        ]
        group = ec2.create_security_group(GroupName="theirs", Description="x", VpcId=vpc)["GroupId"]
        found.append((vpc, tuple(own), group))
    (vpc, subnets, group), (other, outside, stranger) = found
    return Made(vpc, subnets, group, other, outside[0], stranger)


def of(account: Account, **keys: Any) -> Account:
    """Return the account with an entry in accounts.yml."""
    return replace(account, sites=Sites(Site(**keys)))


def groups_of(told: Mapping[str, Any]) -> list[str]:
    """Return the IDs of the groups of a machine's network interface."""
    return [one["GroupId"] for one in told["NetworkInterfaces"][0]["Groups"]]


GOOD: dict[str, tuple[Callable[[Made], Mapping[str, Any]], Callable[[Made], Network]]] = {
    "nothing": (lambda _: {}, lambda _: Network()),
    "subnets keep their order": (
        lambda it: {"subnets": it.subnets[::-1]},
        lambda it: Network(it.vpc, it.subnets[::-1]),
    ),
    "by tags": (
        lambda _: {"subnet_tags": {"tier": "private-1"}},
        lambda it: Network(it.vpc, tuple(sorted(it.subnets))),
    ),
    "a VPC's": (lambda it: {"vpc": it.vpc}, lambda it: Network(it.vpc, tuple(sorted(it.subnets)))),
    "own groups": (
        lambda it: {"subnets": it.subnets, "security_groups": (it.group,)},
        lambda it: Network(it.vpc, it.subnets, (it.group,)),
    ),
}


@pytest.mark.parametrize(("said", "expected"), GOOD.values(), ids=GOOD)
def test_look(account: Account, made: Made, said: Any, expected: Any) -> None:
    """The network is what accounts.yml names, found on the account."""
    assert expected(made) == networks.look(of(account, **said(made)))


GONE = "0123456789abcdef0"
WRONG: dict[str, tuple[Callable[[Made], Mapping[str, Any]], str]] = {
    "no such subnet": (lambda _: {"subnets": (f"subnet-{GONE}",)}, "subnets: .*InvalidSubnetID.NotFound"),
    "no subnet with the tags": (
        lambda _: {"subnet_tags": {"tier": "x"}},
        "subnet_tags: there is no such subnet in reg",
    ),
    "no such VPC": (lambda _: {"vpc": f"vpc-{GONE}"}, "vpc: there is no such subnet in region us-east-1"),
    "two VPCs": (lambda it: {"subnets": (it.subnets[0], it.outside)}, "subnets: the subnets are not of one VPC"),
    "another VPC": (lambda it: {"subnets": it.subnets, "vpc": it.other}, "subnets: the subnets are not of one VPC"),
    "no such group": (lambda _: {"security_groups": (f"sg-{GONE}",)}, "security_groups: .*InvalidGroup.NotFound"),
    "a group of another VPC": (
        lambda it: {"subnets": it.subnets, "security_groups": (it.stranger,)},
        "security_groups: sg-.* is of vpc-.*, and the subnets are of vpc-",
    ),
    "no such prefix list": (lambda _: {"allow": LIST}, "allow: .*InvalidPrefixListId.NotFound"),
    "no such type": (lambda _: {"instance_types": ("t3.enormous",)}, "instance_types: .*InvalidInstanceType"),
    "no default VPC": (lambda _: {}, "vpc: .*VPCIdNotSpecified"),
}


@pytest.mark.parametrize(("said", "words"), WRONG.values(), ids=WRONG)
def test_one_line_for_what_is_not_there(
    account: Account, settings: Settings, made: Made, monkeypatch: pytest.MonkeyPatch, said: Any, words: str
) -> None:
    """What EC2 doesn't have is one line with the account, the key and EC2's word for it, exit code 2; nothing runs."""
    there = of(account, **said(made))
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")
    if words.startswith("vpc: .*VPCId"):  # plain moto has no account without one
        monkeypatch.setattr(type(account.ec2), "create_security_group", _no_default_vpc, raising=False)

    wanted = launches.usual(there, Request(1, ("t3.small",), "", b""))
    with pytest.raises(InputError, match=f"^accounts.yml: local: {words}") as refused:
        launches.begin(there, settings, images.get(account, baked(account)), wanted, [80])

    assert (2, 1) == (refused.value.code, len(refused.value.text.splitlines()))
    assert [] == account.ec2.describe_instances()["Reservations"]


def _no_default_vpc(*_: Any, **__: Any) -> None:
    from bakehouse.accounts import _refusal

    raise _refusal("create_security_group", {"Code": "VPCIdNotSpecified", "Message": "No default VPC for this user"})


def test_a_launch_in_a_private_subnet(account: Account, settings: Settings, made: Made) -> None:
    """A machine is in the first subnet and in a group of its VPC, has no public address, and opens to the VPC alone."""
    there = of(account, subnets=made.subnets, associate_public_ip=False)
    limited, denied, _ = enforced(account, rights.policy(["launch"], there.site))
    image = images.get(account, baked(account))

    limited = replace(limited, sites=there.sites)
    [machine] = launches.begin(limited, settings, image, Request(1, ("t3.small",), "", b""), [80])

    [told] = account.ec2.describe_instances()["Reservations"][0]["Instances"]
    assert (made.subnets[0], made.vpc) == (told["SubnetId"], told["VpcId"])
    assert "PublicIpAddress" not in told
    assert told["PrivateIpAddress"] == machine.address
    [group] = account.ec2.describe_security_groups(GroupIds=[groups_of(told)[0]])["SecurityGroups"]
    assert made.vpc == group["VpcId"]
    assert {"10.1.0.0/16"} == {one["CidrIp"] for rule in group["IpPermissions"] for one in rule["IpRanges"]}
    assert [] == denied


def test_own_groups(account: Account, settings: Settings, made: Made) -> None:
    """Where accounts.yml names groups, machines get them, under a policy that names them too, and none is made."""
    there = of(account, subnets=made.subnets, security_groups=(made.group,))
    limited, denied, _ = enforced(account, rights.policy(["launch"], there.site))
    image, before = images.get(account, baked(account)), len(account.ec2.describe_security_groups()["SecurityGroups"])

    launches.begin(replace(limited, sites=there.sites), settings, image, Request(1, ("t3.small",), "", b""), [80])

    [told] = account.ec2.describe_instances()["Reservations"][0]["Instances"]
    assert [made.group] == groups_of(told)
    assert before == len(account.ec2.describe_security_groups()["SecurityGroups"])
    assert [] == denied


def test_a_prefix_list_may_connect(account: Account) -> None:
    """A prefix list stands in the place of a CIDR block, and goes again when another network comes."""
    entries = [{"Cidr": "198.51.100.0/24"}]
    told = account.ec2.create_managed_prefix_list(
        PrefixListName="offices", MaxEntries=5, AddressFamily="IPv4", Entries=entries
    )
    name = told["PrefixList"]["PrefixListId"]

    group = access.group(account, "jenkins", "key", [22], name)
    [rule] = account.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    access.group(account, "jenkins", "key", [22], "192.0.2.7/32")

    assert [name] == [one["PrefixListId"] for one in rule["PrefixListIds"]]
    [rule] = account.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert ([], ["192.0.2.7/32"]) == (rule["PrefixListIds"], [one["CidrIp"] for one in rule["IpRanges"]])


def test_places(account: Account, made: Made) -> None:
    """Each type is tried in each subnet before the next type is."""
    there = of(account, subnets=made.subnets, associate_public_ip=False)

    found = [*networks.places(there, networks.look(there), ["a.x", "b.x"], ["sg-1"])]

    first, second = made.subnets
    assert [("a.x", first), ("a.x", second), ("b.x", first), ("b.x", second)] == [
        (one.type, one.subnet) for one in found
    ]
    assert {"InstanceType": "a.x", "SecurityGroupIds": ["sg-1"]} == Place("a.x", "", ("sg-1",), True).arguments()


@pytest.mark.parametrize(
    ("full", "launched", "told"),
    [
        ([], ("t3.small", 0), 0),
        ([("t3.small", 0)], ("t3.small", 1), 1),
        ([("t3.small", 0), ("t3.small", 1)], ("t3.medium", 0), 2),
    ],
)
def test_the_next_place_is_tried(
    account: Account,
    settings: Settings,
    made: Made,
    capsys: pytest.CaptureFixture[str],
    full: list[tuple[str, int]],
    launched: tuple[str, int],
    told: int,
) -> None:
    """Where there is no room for a machine, the next subnet is tried and then the next type, and that is told."""
    there = of(account, subnets=made.subnets, instance_types=("t3.small", "t3.medium"))
    without = {(kind, made.subnets[number]) for kind, number in full}
    there = replace(crowded(account, without), sites=there.sites)
    wanted = launches.usual(there, Request(1, ("t3.large",), "192.0.2.7/32", b""))

    [machine] = launches.begin(there, settings, images.get(account, baked(account)), wanted, [])

    [found] = account.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"]
    assert (launched[0], made.subnets[launched[1]]) == (found["InstanceType"], found["SubnetId"])
    assert told == capsys.readouterr().err.count("no room for t3.small in subnet-")


def test_nowhere_is_room(account: Account, settings: Settings) -> None:
    """Where the last place has no room either, EC2's refusal is the error; another refusal is one at once."""
    there = of(crowded(account, {("t3.small", ""), ("t3.medium", "")}), instance_types=("t3.small", "t3.medium"))
    wanted = launches.usual(there, Request(1, ("t3.large",), "192.0.2.7/32", b""))

    with pytest.raises(CloudError, match=r"t3.medium.*InsufficientInstanceCapacity"):
        launches.begin(there, settings, images.get(account, baked(account)), wanted, [])
    assert not networks.lacks_room("run_instances: no (InstanceLimitExceeded)")


def crowded(account: Account, full: set[tuple[str, str]]) -> Account:
    """Return the there of somebody for whom these instance types have no room in these subnets."""
    from botocore.exceptions import ClientError

    there = accounts._local(account.variables)

    def look(model: Any, params: Any, **_: Any) -> None:
        body = params["body"]
        place = body.get("InstanceType"), body.get("NetworkInterface.1.SubnetId", "")
        if model.name == "RunInstances" and place in full:
            told = {"Code": "InsufficientInstanceCapacity", "Message": f"no {place[0]} here"}
            raise ClientError({"Error": told}, model.name)

    there.session.events.register("before-call.ec2", look)
    return there
