"""Usage: what on the account uses an image or a snapshot, and what of that could not be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bakehouse.accounts import PAGED, Account
from bakehouse.errors import BakehouseError, CloudError

_ID = re.compile(r"\b(?:ami|snap)-[0-9a-f]{8,17}\b")
_ALIAS = "resolve:ssm:"
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
            yield from _named(version["LaunchTemplateData"], user)
            alias = version["LaunchTemplateData"].get("ImageId", "")
            if alias.startswith(_ALIAS):
                yield from _named(_resolved(account, alias.removeprefix(_ALIAS)), user)


def _launch_configurations(account: Account) -> Use:
    """Find the IDs in the launch configurations, from which older Auto Scaling groups start their machines."""
    scaling = account.client("autoscaling")
    for one in scaling.pages("describe_launch_configurations", "LaunchConfigurations"):
        yield from _named(one, f"launch configuration {one['LaunchConfigurationName']}")


def _parameters(account: Account) -> Use:
    """Find the IDs in the values of all SSM parameters that are not secret."""
    plain = [{"Key": "Type", "Values": ["String", "StringList"]}]
    names = [one["Name"] for one in account.ssm.pages("describe_parameters", "Parameters", ParameterFilters=plain)]
    for begin in range(0, len(names), _AT_ONCE):
        for one in account.ssm.get_parameters(Names=names[begin : begin + _AT_ONCE])["Parameters"]:
            yield from _named(one["Value"], f"parameter {one['Name']}")


def _resolved(account: Account, parameter: str) -> str:
    """Return a parameter's value; empty when there is none. The name may end in a colon and a version or label."""
    try:
        return str(account.ssm.get_parameter(Name=parameter)["Parameter"]["Value"])
    except CloudError as error:
        if error.aws_code in ("ParameterNotFound", "ParameterVersionNotFound"):
            return ""
        raise


def _named(data: Any, user: str) -> Use:
    """Find the IDs of images and snapshots anywhere in a text or in an answer of AWS."""
    for one in dict.fromkeys(_ID.findall(json.dumps(data, default=str))):
        yield one, user


_SOURCES: Mapping[str, Callable[[Account], Use]] = {
    "the machines": _machines,
    "the launch templates": _launch_templates,
    "the launch configurations of Auto Scaling groups": _launch_configurations,
    "the parameters": _parameters,
}
