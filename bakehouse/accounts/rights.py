"""Rights: what the tasks may do on an AWS account, from one table; printed as a policy of IAM.

Describe operations know no resources. All else is bound to our tags: what is made must get one, except for images,
which Packer 1.6.6 tags afterwards, and what is changed or deleted must have one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bakehouse.accounts import TAG, Account, blamed
from bakehouse.errors import InputError
from bakehouse.sites import Site

_BAKES = ("bake",)
_PROVES = ("bake", "prove")
_LAUNCHES = ("launch", *_PROVES)
_ENTERS = ("machines", "probe", "open", "password", "ssh")
_SHARES = ("share", "unshare")
_DELETES = ("cleanup", "retire")
_SWEEPS = ("cleanup", *_PROVES)  # they clear away what dead runs have left
_LISTS = ("images", "show", *_DELETES)
_SHOWS = (*_LISTS, "diff", "revoke", "restore", "copy", *_SHARES, "promote", "rollback", "outputs", *_LAUNCHES)
_MOVES = ("promote", "rollback", "copy", "bake")
_CHANNELS = (*_MOVES, *_LISTS, "diff", "revoke", "channels", "outputs", "launch")

TASKS = tuple(sorted({*_SHOWS, *_CHANNELS, *_ENTERS, "terminate"}))
"""The tasks that work on an account."""


@dataclass(frozen=True)
class Scope:
    """Hold where an action may be done: the statement's name, its resources, its condition and its effect."""

    sid: str
    resources: tuple[str, ...] = ("*",)
    condition: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    effect: str = "Allow"


def _ec2(*kinds: str) -> tuple[str, ...]:
    return tuple(f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds)


_OURS = ("StringLike", f"aws:ResourceTag/{TAG}recipe", ("*",))
_TAGGED = ("StringLike", f"aws:RequestTag/{TAG}recipe", ("*",))

LOOK = Scope("Look")
CHANNELS = Scope("Channels", ("arn:aws:ssm:*:*:parameter/bakehouse", "arn:aws:ssm:*:*:parameter/bakehouse/*"))
MAKE = Scope("MakeTagged", _ec2("key-pair", "security-group"), (_TAGGED,))
MAKE_IN = Scope("MakeGroupIn", _ec2("vpc"))
OURS = Scope("ChangeOurs", condition=(_OURS,))
RUN_FROM = Scope("RunFrom", _ec2("image", "network-interface", "subnet"))
RUN_WITH_OURS = Scope("RunWithOurs", _ec2("key-pair", "security-group", "snapshot"), (_OURS,))
RUN_TAGGED = Scope("RunTagged", _ec2("instance", "volume"), (_TAGGED,))
IMAGE_OF = Scope("ImageOfOurs", _ec2("instance"), (_OURS,))
IMAGE_NEW = Scope("NewImage", _ec2("image", "snapshot"))
TAG_NEW = Scope(
    "TagWhatIsMade",
    condition=(
        (
            "StringEquals",
            "ec2:CreateAction",
            ("CopyImage", "CreateSecurityGroup", "ImportKeyPair", "RunInstances"),
        ),
    ),
)
TAG_IMAGES = Scope("TagNewImages", _ec2("image", "snapshot"), (_TAGGED,))
NO_SECRETS = Scope(
    "NoSecretParameters", condition=(("StringLike", "kms:ViaService", ("ssm.*.amazonaws.com",)),), effect="Deny"
)

Right = tuple[Scope, tuple[str, ...], tuple[str, ...]]
"""A line of the table: where, which actions, for which tasks."""

# Packer's own calls are among those of bake.
_RIGHTS: tuple[Right, ...] = (
    (LOOK, ("sts:GetCallerIdentity",), TASKS),
    (LOOK, ("ec2:DescribeImages",), _SHOWS),
    (LOOK, ("ec2:DescribeInstances",), (*_ENTERS, *_LAUNCHES, *_LISTS, "terminate")),
    (LOOK, ("ec2:DescribeKeyPairs", "ec2:DescribeSecurityGroups"), (*_LAUNCHES, "cleanup")),
    (LOOK, ("ec2:DescribeSnapshots",), (*_SHARES, *_DELETES, *_PROVES)),
    (LOOK, ("ec2:DescribeVolumes",), _SWEEPS),
    (LOOK, ("ec2:DescribeImageAttribute",), (*_SHARES, *_DELETES, "revoke")),
    (LOOK, ("ec2:DescribeSnapshotAttribute",), (*_SHARES, *_DELETES)),
    (LOOK, ("kms:DescribeKey",), ("share",)),
    (LOOK, ("ec2:DescribeRegions",), ("copy", "bake")),
    (
        LOOK,
        (
            *("ec2:DescribeInstanceStatus", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes"),
            *("ec2:DescribeSubnets", "ec2:DescribeVpcs", "ec2:GetInstanceMetadataDefaults"),
        ),
        _BAKES,
    ),
    (
        LOOK,
        (
            *("autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeLaunchConfigurations"),
            *("ec2:DescribeFleets", "ec2:DescribeSpotFleetRequests", "ec2:DescribeSpotInstanceRequests"),
            *("ec2:DescribeLaunchTemplates", "ec2:DescribeLaunchTemplateVersions"),
            *("ssm:DescribeParameters", "ssm:GetParameters"),
        ),
        _LISTS,
    ),
    (NO_SECRETS, ("kms:Decrypt",), _LISTS),
    (CHANNELS, ("ssm:GetParameterHistory", "ssm:GetParametersByPath"), _CHANNELS),
    (CHANNELS, ("ssm:PutParameter",), _MOVES),
    (CHANNELS, ("ssm:DeleteParameters",), ("retire",)),
    (RUN_FROM, ("ec2:RunInstances",), _LAUNCHES),
    (RUN_WITH_OURS, ("ec2:RunInstances",), _LAUNCHES),
    (RUN_TAGGED, ("ec2:RunInstances",), _LAUNCHES),
    (MAKE, ("ec2:CreateSecurityGroup", "ec2:ImportKeyPair"), _LAUNCHES),
    (MAKE_IN, ("ec2:CreateSecurityGroup",), _LAUNCHES),
    (IMAGE_OF, ("ec2:CreateImage",), _BAKES),
    (IMAGE_NEW, ("ec2:CreateImage",), _BAKES),
    (IMAGE_NEW, ("ec2:CopyImage",), ("copy",)),
    (TAG_NEW, ("ec2:CreateTags",), (*_LAUNCHES, "copy")),
    (TAG_IMAGES, ("ec2:CreateTags",), ("bake", "cleanup")),
    (OURS, ("ec2:CreateTags",), (*_PROVES, "revoke", "cleanup")),
    (OURS, ("ec2:AuthorizeSecurityGroupIngress", "ec2:GetConsoleOutput", "ec2:TerminateInstances"), _LAUNCHES),
    (OURS, ("ec2:RevokeSecurityGroupIngress",), ("launch",)),
    (OURS, ("ec2:RebootInstances", "ec2:StartInstances", "ec2:StopInstances"), _PROVES),
    (OURS, ("ec2:ModifyImageAttribute",), ("bake", "copy", *_SHARES)),
    (OURS, ("ec2:ModifySnapshotAttribute",), _SHARES),
    (OURS, ("ec2:TerminateInstances",), ("terminate", "cleanup")),
    (OURS, ("ec2:DeleteKeyPair", "ec2:DeleteSecurityGroup", "ec2:DeleteVolume"), _SWEEPS),
    (OURS, ("ec2:DeleteSnapshot", "ec2:DeregisterImage"), (*_SWEEPS, "retire")),
    (OURS, ("ec2:EnableImageDeprecation",), ("cleanup",)),
    (OURS, ("ec2:DeleteTags", "ec2:DisableImageDeprecation"), ("restore",)),
)


_OF_KEYS = (
    *("kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext"),
    *("kms:ReEncryptFrom", "kms:ReEncryptTo"),
)


def _use_of(key: str) -> Scope:
    """Return where EC2 may use a key of KMS in somebody's name."""
    by_ec2 = ("StringLike", "kms:ViaService", ("ec2.*.amazonaws.com",))
    _, is_alias, alias = key.partition("alias/")
    if is_alias:
        aliased = ("ForAnyValue:StringEquals", "kms:ResourceAliases", (f"alias/{alias}",))
        return Scope("EncryptWithKey", ("arn:aws:kms:*:*:key/*",), (by_ec2, aliased))
    return Scope("EncryptWithKey", (key if key.startswith("arn:") else f"arn:aws:kms:*:*:key/{key}",), (by_ec2,))


def _of_site(site: Site) -> Iterator[Right]:
    """Yield the lines that an account needs besides, because of what accounts.yml says of it."""
    if site.tags:
        yield CHANNELS, ("ssm:AddTagsToResource",), _MOVES
    if site.subnets or site.subnet_tags or site.vpc:
        yield LOOK, ("ec2:DescribeSubnets",), _LAUNCHES
    if not site.associate_public_ip and not site.allow:
        yield LOOK, ("ec2:DescribeVpcs",), _LAUNCHES
    if site.kms_key:
        yield LOOK, ("kms:DescribeKey",), (*_LAUNCHES, "copy")
        yield _use_of(site.kms_key), _OF_KEYS, (*_LAUNCHES, "copy")
    if site.instance_types:
        yield LOOK, ("ec2:DescribeInstanceTypes",), _LAUNCHES
    if site.role:
        yield Scope("BeTheRole", (site.role,)), ("sts:AssumeRole",), TASKS
    if profiles := [*filter(None, dict.fromkeys((site.bake_profile, site.launch_profile)))]:
        told = tuple(f"arn:aws:iam::*:instance-profile/{one}" for one in profiles)
        yield Scope("SeeProfiles", told), ("iam:GetInstanceProfile",), _LAUNCHES
        to_ec2 = ("StringEquals", "iam:PassedToService", ("ec2.amazonaws.com",))
        roles = tuple(f"arn:aws:iam::*:role/{one}" for one in profiles)
        yield Scope("PassRole", roles, (to_ec2,)), ("iam:PassRole",), _LAUNCHES
    if site.security_groups:
        groups = tuple(f"arn:aws:ec2:*:*:security-group/{one}" for one in site.security_groups)
        yield Scope("RunInYourGroups", groups), ("ec2:RunInstances",), _LAUNCHES


def policy(tasks: Collection[str] = TASKS, site: Site | None = None) -> dict[str, Any]:
    """Return the least policy of IAM that lets somebody run these tasks, by default all.

    ``site`` says how things are made on the account; by default as usual. Raises InputError when one of the tasks is
    none that works on an account.
    """
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"--task {task} is no task that needs rights", f"known: {', '.join(TASKS)}")
    actions: dict[Scope, set[str]] = {}
    for scope, names, users in (*_RIGHTS, *_of_site(site or Site())):
        if set(users) & set(tasks):
            actions.setdefault(scope, set()).update(names)
    return {"Version": "2012-10-17", "Statement": [_statement(scope, names) for scope, names in actions.items()]}


def insist_profile(account: Account, key: str) -> None:
    """Raise InputError when the instance profile that a key of the account's entry names isn't there."""
    name = getattr(account.site, key)
    if name:
        with blamed(account, key, "NoSuchEntity"):
            account.client("iam").get_instance_profile(InstanceProfileName=name)


def _statement(scope: Scope, actions: Collection[str]) -> dict[str, Any]:
    condition: dict[str, dict[str, str | list[str]]] = {}
    for operator, key, values in scope.condition:
        condition.setdefault(operator, {})[key] = values[0] if len(values) == 1 else list(values)
    told: Mapping[str, Any] = {
        "Sid": scope.sid,
        "Effect": scope.effect,
        "Action": sorted(actions),
        "Resource": "*" if scope.resources == ("*",) else list(scope.resources),
    }
    return {**told, **({"Condition": condition} if condition else {})}
