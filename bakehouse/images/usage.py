"""Usage: what on the account uses an image or a snapshot, and what of that could not be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bakehouse.accounts import PAGED, Account
from bakehouse.errors import BakehouseError

_ID = re.compile(r"\b(?:ami|snap)-[0-9a-f]{8,17}\b")
_ALIAS = re.compile(r"resolve:ssm:([^\"\\\s]+)")
_AT_ONCE = 10  # parameters that SSM returns in one answer at most

Use = Iterator[tuple[str, str]]
"""Pairs: the ID of an image or snapshot, and what uses it."""


@dataclass(frozen=True)
class Usage:
    """Hold the users of each image and snapshot by its ID; ``unread`` lists what could not be read, and why."""

    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def find(account: Account) -> Usage:
    """Return what uses images and snapshots: machines, and everything that machines could be started from."""
    users: dict[str, tuple[str, ...]] = {}
    unread = []
    for what, read in _SOURCES.items():
        try:
            for one, user in read(account):
                users[one] = (*users.get(one, ()), user)
        except BakehouseError as error:
            unread.append(f"{what} can't be read: {error.text}")
    return Usage(users, tuple(unread))


def in_words(users: Collection[str]) -> str:
    """Return the first user and how many more there are; empty when there is none."""
    more = f" and {len(users) - 1} more" if len(users) > 1 else ""
    return min(users, default="") + more


def shares(account: Account, image: str, snapshots: tuple[str, ...]) -> tuple[str, ...]:
    """Return with whom an image or any of these snapshots is shared: account IDs, ``all`` for everybody.

    ``image`` is the ID of an image, or empty to ask for the snapshots only.
    """
    found: list[dict[str, str]] = []
    if image:
        asked = {"ImageId": image, "Attribute": "launchPermission"}
        found += account.ec2.describe_image_attribute(**asked)["LaunchPermissions"]
    for snapshot in snapshots:
        asked = {"SnapshotId": snapshot, "Attribute": "createVolumePermission"}
        found += account.ec2.describe_snapshot_attribute(**asked)["CreateVolumePermissions"]
    return tuple(dict.fromkeys(whom for permission in found for whom in permission.values()))


def _machines(account: Account) -> Use:
    """Find the images of all machines that are not terminated."""
    for reservation in account.ec2.pages("describe_instances", "Reservations", PaginationConfig=PAGED):
        for machine in reservation["Instances"]:
            if machine["State"]["Name"] != "terminated":
                yield machine["ImageId"], f"machine {machine['InstanceId']}"


def _launch_templates(account: Account) -> Use:
    """Find the IDs in all versions of all launch templates; Auto Scaling groups start machines from them too."""
    for template in account.ec2.pages("describe_launch_templates", "LaunchTemplates"):
        versions = account.ec2.pages(
            "describe_launch_template_versions",
            "LaunchTemplateVersions",
            LaunchTemplateId=template["LaunchTemplateId"],
        )
        for version in versions:
            user = f"launch template {template['LaunchTemplateId']}, version {version['VersionNumber']}"
            yield from _named_or_resolved(account, version["LaunchTemplateData"], user)


def _launch_configurations(account: Account) -> Use:
    """Find the IDs in the launch configurations, from which older Auto Scaling groups start their machines."""
    scaling = account.client("autoscaling")
    for one in scaling.pages("describe_launch_configurations", "LaunchConfigurations"):
        yield from _named(one, f"launch configuration {one['LaunchConfigurationName']}")


def _scaling_groups(account: Account) -> Use:
    """Find the IDs in Auto Scaling groups: the overrides of a mixed instances policy may name images of their own."""
    scaling = account.client("autoscaling")
    for one in scaling.pages("describe_auto_scaling_groups", "AutoScalingGroups"):
        yield from _named_or_resolved(account, one, f"Auto Scaling group {one['AutoScalingGroupName']}")


def _fleets(account: Account) -> Use:
    """Find the IDs in EC2 Fleets, from which machines can still be started."""
    for one in account.ec2.pages("describe_fleets", "Fleets"):
        if not one.get("FleetState", "").startswith("deleted"):
            yield from _named_or_resolved(account, one, f"fleet {one['FleetId']}")


def _spot_fleets(account: Account) -> Use:
    """Find the IDs in spot fleet requests, from which machines can still be started."""
    for one in account.ec2.pages("describe_spot_fleet_requests", "SpotFleetRequestConfigs"):
        if not one.get("SpotFleetRequestState", "").startswith("cancelled"):
            yield from _named_or_resolved(account, one, f"spot fleet request {one['SpotFleetRequestId']}")


def _spot_requests(account: Account) -> Use:
    """Find the IDs in single spot instance requests that may still start a machine."""
    for one in account.ec2.pages("describe_spot_instance_requests", "SpotInstanceRequests"):
        if one.get("State", "") not in ("closed", "cancelled", "failed"):
            yield from _named_or_resolved(account, one, f"spot request {one['SpotInstanceRequestId']}")


def _parameters(account: Account) -> Use:
    """Find the IDs in the values of all SSM parameters that are not secret."""
    plain = [{"Key": "Type", "Values": ["String", "StringList"]}]
    names = [one["Name"] for one in account.ssm.pages("describe_parameters", "Parameters", ParameterFilters=plain)]
    for begin in range(0, len(names), _AT_ONCE):
        for one in account.ssm.get_parameters(Names=names[begin : begin + _AT_ONCE])["Parameters"]:
            yield from _named(one["Value"], f"parameter {one['Name']}")


def _named_or_resolved(account: Account, data: Any, user: str) -> Use:
    """Find the IDs in an answer of AWS, and those in the parameters that it names in place of an ID."""
    yield from _named(data, user)
    for parameter in dict.fromkeys(_ALIAS.findall(json.dumps(data, default=str))):
        yield from _named(_resolved(account, parameter), user)


def _resolved(account: Account, parameter: str) -> str:
    """Return a parameter's value; empty when there is none. The name may end in a colon and a version or label."""
    found = account.ssm.get_parameters(Names=[parameter])["Parameters"]
    return str(found[0]["Value"]) if found else ""


def _named(data: Any, user: str) -> Use:
    """Find the IDs of images and snapshots anywhere in a text or in an answer of AWS."""
    for one in dict.fromkeys(_ID.findall(json.dumps(data, default=str))):
        yield one, user


_SOURCES: Mapping[str, Callable[[Account], Use]] = {
    "the machines": _machines,
    "the launch templates": _launch_templates,
    "the launch configurations of Auto Scaling groups": _launch_configurations,
    "the Auto Scaling groups": _scaling_groups,
    "the EC2 Fleets": _fleets,
    "the spot fleet requests": _spot_fleets,
    "the spot instance requests": _spot_requests,
    "the parameters": _parameters,
}
