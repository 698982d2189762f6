"""Networks: where on an account machines are launched and who may connect to them, as accounts.yml says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakehouse import sites
from bakehouse.accounts import Account, blamed, filters
from bakehouse.errors import InputError

_NO_ROOM = (
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientFreeAddressesInSubnet"),
    "(Unsupported)",  # by boto3: the type isn't to be had in the subnet's zone
    "Unsupported: ",  # by Packer
)


@dataclass(frozen=True)
class Network:
    """Hold where machines are launched.

    Attributes:
        vpc: the ID of the VPC; empty for the default one.
        subnets: the IDs of its subnets, in the order in which they are tried; empty where EC2 chooses.
        groups: the IDs of the security groups that machines get; empty where the kit makes one.
    """

    vpc: str = ""
    subnets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Hold where one machine is launched, and on what.

    Attributes:
        type: its instance type.
        subnet: the ID of its subnet; empty where EC2 chooses.
        groups: the IDs of its security groups.
        is_public: whether it gets a public address.
    """

    type: str
    subnet: str
    groups: tuple[str, ...]
    is_public: bool

    def __str__(self) -> str:
        """Say it to a person."""
        return f"{self.type} in {self.subnet}" if self.subnet else self.type

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of RunInstances that put a machine there."""
        if self.is_public and not self.subnet:
            return {"InstanceType": self.type, "SecurityGroupIds": [*self.groups]}
        interface = {
            "DeviceIndex": 0,
            "AssociatePublicIpAddress": self.is_public,
            "Groups": [*self.groups],
            **({"SubnetId": self.subnet} if self.subnet else {}),
        }
        return {"InstanceType": self.type, "NetworkInterfaces": [interface]}


def look(account: Account) -> Network:
    """Return the network that accounts.yml names, after a look whether it is there.

    Raises InputError, which names the key, when a subnet or a group isn't there, and when they don't belong together.
    """
    site = account.site
    vpc, subnets = _subnets(account) if site.subnets or site.subnet_tags or site.vpc else ("", ())
    if site.security_groups:
        _check_groups(account, vpc)
    return Network(vpc, subnets, site.security_groups)


def places(account: Account, network: Network, types: Sequence[str], groups: Sequence[str]) -> list[Place]:
    """Return the places where a machine may be launched, in the order in which they are tried; it is never empty.

    Raises InputError, which names the key, when accounts.yml names a type that the region doesn't have.
    """
    if set(types) <= set(account.site.instance_types):
        with blamed(account, "instance_types", "InvalidInstanceType"):
            account.ec2.describe_instance_types(InstanceTypes=[*types])
    subnets, is_public = network.subnets or ("",), account.site.associate_public_ip
    return [Place(one, subnet, tuple(groups), is_public) for one in types for subnet in subnets]


def lacks_room(told: str) -> bool:
    """Tell whether EC2 has refused a launch because there is no room for it, by what it told."""
    return any(code in told for code in _NO_ROOM)


def allowed(account: Account, network: Network, wanted: str = "") -> str:
    """Return who may connect to machines: a CIDR block, or the ID of a prefix list.

    ``wanted`` stands before what accounts.yml says; by default it is the caller's address. Machines without a public
    address are reached from within, so there it is their VPC's block.
    """
    if wanted or account.site.allow:
        return wanted or account.site.allow
    if account.site.associate_public_ip:
        return account.caller()
    which = {"vpc-id": network.vpc} if network.vpc else {"is-default": "true"}
    [vpc] = account.ec2.describe_vpcs(Filters=filters(which))["Vpcs"]
    return str(vpc["CidrBlock"])


def _subnets(account: Account) -> tuple[str, tuple[str, ...]]:
    """Return the VPC and the subnets that the account's entry names."""
    site = account.site
    key = next(one for one in ("subnets", "subnet_tags", "vpc") if getattr(site, one))
    if site.subnets:
        which: dict[str, Any] = {"SubnetIds": [*site.subnets]}
    else:
        tags = {f"tag:{name}": value for name, value in site.subnet_tags.items()}
        which = {"Filters": filters({**tags, **({"vpc-id": site.vpc} if site.vpc else {})})}
    with blamed(account, key, "InvalidSubnetID"):
        found = {one["SubnetId"]: one["VpcId"] for one in account.ec2.describe_subnets(**which)["Subnets"]}
    where = sites.place(account.name, key)
    if not found:
        raise InputError(f"{where}: there is no such subnet in region {account.region}", f"it says {_said(site, key)}")
    vpcs = sorted({*found.values(), *([site.vpc] if site.vpc else [])})
    if len(vpcs) > 1:
        raise InputError(f"{where}: the subnets are not of one VPC, but of {' and '.join(vpcs)}", "name those of one")
    return vpcs[0], site.subnets or tuple(sorted(found))


def _said(site: sites.Site, key: str) -> str:
    value = getattr(site, key)
    return ", ".join(f"{name}: {one}" for name, one in value.items()) if isinstance(value, Mapping) else str(value)


def _check_groups(account: Account, vpc: str) -> None:
    with blamed(account, "security_groups", "InvalidGroup"):
        groups = account.ec2.describe_security_groups(GroupIds=[*account.site.security_groups])["SecurityGroups"]
    for one in groups:
        if vpc and one["VpcId"] != vpc:
            raise InputError(
                f"{sites.place(account.name, 'security_groups')}: {one['GroupId']} is of {one['VpcId']},"
                f" and the subnets are of {vpc}",
                "name groups of the subnets' VPC",
            )
