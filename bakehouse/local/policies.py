"""Policies: decide as IAM does whether a policy allows a request, so that the tasks' rights can be tried out here.

Known are the effects, actions and resources, the condition operators in ``_OPERATORS``, and the condition keys
``aws:RequestTag/…``, ``aws:ResourceTag/…``, ``ec2:CreateAction``, ``iam:PassedToService`` and ``kms:ViaService``. Which
resources a request names is known for the operations of the kit (``_NAMED``, ``_MADE``); of all others the resource is
``*``. The role of an instance profile counts as having its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bakehouse.errors import InputError

FILE = "policy.json"
"""The name of the file with the policy that is enforced, in the local EC2's folder."""

Tags = Callable[[str, str], Mapping[str, str]]
"""Returns the tags of a resource, given its type in EC2's word and its ID or name."""

# The resources that a request names, by operation: their types, each with the parameters that name them.
_NAMED: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "RunInstances": (
        ("image", ("ImageId",)),
        ("key-pair", ("KeyName",)),
        ("security-group", ("SecurityGroupId",)),
        ("snapshot", ("SnapshotId",)),
        ("subnet", ("SubnetId",)),
    ),
    "CreateImage": (("instance", ("InstanceId",)),),
    "CreateSecurityGroup": (("vpc", ("VpcId",)),),
    "ImportKeyPair": (),
    "CopyImage": (),
    **dict.fromkeys(("CreateTags", "DeleteTags"), (("", ("ResourceId",)),)),
    **dict.fromkeys(
        (
            *("GetConsoleOutput", "RebootInstances", "StartInstances", "StopInstances", "TerminateInstances"),
            "ModifyInstanceAttribute",
        ),
        (("instance", ("InstanceId",)),),
    ),
    **dict.fromkeys(
        ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "DeleteSecurityGroup"),
        (("security-group", ("GroupId", "GroupName")),),
    ),
    **dict.fromkeys(
        ("DeregisterImage", "DisableImageDeprecation", "EnableImageDeprecation", "ModifyImageAttribute"),
        (("image", ("ImageId",)),),
    ),
    **dict.fromkeys(("DeleteSnapshot", "ModifySnapshotAttribute"), (("snapshot", ("SnapshotId",)),)),
    "DeleteVolume": (("volume", ("VolumeId",)),),
    "DeleteKeyPair": (("key-pair", ("KeyName", "KeyPairId")),),
}

# The types of the resources that a request makes.
_MADE: Mapping[str, tuple[str, ...]] = {
    "RunInstances": ("instance", "volume", "network-interface"),
    "CreateImage": ("image", "snapshot"),
    "CreateSecurityGroup": ("security-group",),
    "ImportKeyPair": ("key-pair",),
    "CopyImage": ("image", "snapshot"),
}

_OPERATORS: Mapping[str, Callable[[Sequence[str], Sequence[str]], bool]] = {
    "StringEquals": lambda have, want: any(one in want for one in have),
    "StringNotEquals": lambda have, want: not any(one in want for one in have),
    "StringLike": lambda have, want: any(_like(one, pattern) for one in have for pattern in want),
    "StringNotLike": lambda have, want: not any(_like(one, pattern) for one in have for pattern in want),
    "ForAnyValue:StringEquals": lambda have, want: any(one in want for one in have),
    "Null": lambda have, want: [str(not have).lower()] == [one.lower() for one in want],
}


@dataclass(frozen=True)
class Access:
    """Hold one thing that a request does: the action, the ARN that it is done to, and the condition keys' values."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Hold whether an access is allowed, and the names of the statements that say so."""

    access: Access
    allowed: bool
    by: tuple[str, ...]

    def __str__(self) -> str:
        """Say it as EC2 does."""
        why = f"{'the statement ' + ', '.join(self.by) + ' denies' if self.by else 'no statement allows'} it"
        return f"not authorized to perform {self.access.action} on {self.access.resource}: {why}"


@dataclass(frozen=True)
class Statement:
    """Hold one statement of a policy; ``conditions`` are triples of operator, key and values."""

    sid: str
    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]

    def covers(self, access: Access) -> bool:
        """Tell whether the statement is about an access."""
        return (
            any(_like(access.action.lower(), one.lower()) for one in self.actions)
            and any(_like(access.resource, one) for one in self.resources)
            and all(
                _OPERATORS[operator]([access.context[key]] if key in access.context else [], values)
                for operator, key, values in self.conditions
            )
        )


@dataclass(frozen=True)
class Policy:
    """Hold a policy's statements."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, read: Any, where: str) -> Policy:
        """Read a policy from JSON; raises InputError, which names the place, when it isn't one that is understood."""
        try:
            statements = read["Statement"] if isinstance(read["Statement"], list) else [read["Statement"]]
            return cls(tuple(_statement(one, number) for number, one in enumerate(statements, 1)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} is no policy that is understood here: {error}", "./inv policy prints one that is"
            ) from error

    def decide(self, access: Access) -> Decision:
        """Decide on an access: what no statement allows is denied, and what one denies too."""
        about = [one for one in self.statements if one.covers(access)]
        denying = tuple(one.sid for one in about if not one.allows)
        allowing = tuple(one.sid for one in about if one.allows)
        # the key with which SSM encrypts lets everybody of the account decrypt, unless their own policy denies it
        allowed = not denying and bool(allowing or access.action == "kms:Decrypt")
        return Decision(access, allowed, denying or allowing)


def read(text: str, where: str) -> Policy:
    """Read a policy from a text in JSON; raises InputError when it isn't one that is understood."""
    try:
        told = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}", "./inv policy prints a policy") from error
    return Policy.parse(told, where)


def accesses(service: str, action: str, form: Mapping[str, Any], region: str, tags: Tags) -> list[Access]:
    """Return all that a request does. ``form`` holds its parameters, ``tags`` tells the tags that resources have."""
    if service == "ssm":
        return list(_of_ssm(action, form, region))
    if service in ("iam", "sts"):
        return [*_of_iam(service, action, form)]
    if service != "ec2" or action not in _NAMED:
        return [Access(f"{service}:{action}", "*")]
    return list(_of_ec2(action, form, region, tags))


def _of_ec2(action: str, form: Mapping[str, Any], region: str, tags: Tags) -> Iterator[Access]:
    account = f"arn:aws:ec2:{region}:123456789012"
    of_request = _request_tags(form, "Tag")
    told = {f"aws:RequestTag/{key}": value for key, value in of_request.items()}
    for kind, parameters in _NAMED[action]:
        found = [one for parameter in parameters for one in _values(form, parameter)]
        for one in found:
            known = kind or _kind(one)
            has = {f"aws:ResourceTag/{key}": value for key, value in tags(known, one).items()}
            yield Access(f"ec2:{action}", f"{account}:{known}/{one}", {**told, **has})
        if not found and kind in ("subnet", "vpc"):
            yield Access(f"ec2:{action}", f"{account}:{kind}/default")
    for one in _values(form, "IamInstanceProfile.Name") if action == "RunInstances" else ():
        passed = {"iam:PassedToService": "ec2.amazonaws.com"}
        yield Access("iam:PassRole", f"arn:aws:iam::123456789012:role/{one}", passed)
    for kind in _MADE.get(action, ()):
        new = {f"aws:RequestTag/{key}": value for key, value in _specified(form, kind).items()}
        yield Access(f"ec2:{action}", f"{account}:{kind}/new", new)
        if new:
            yield Access("ec2:CreateTags", f"{account}:{kind}/new", {**new, "ec2:CreateAction": action})


def _of_iam(service: str, action: str, form: Mapping[str, Any]) -> Iterator[Access]:
    [role] = _values(form, "RoleArn") or [""]
    [profile] = _values(form, "InstanceProfileName") or [""]
    named = role or (f"arn:aws:iam::123456789012:instance-profile/{profile}" if profile else "*")
    yield Access(f"{service}:{action}", named)


def _of_ssm(action: str, form: Mapping[str, Any], region: str) -> Iterator[Access]:
    named = [form[key] for key in ("Name", "Path") if isinstance(form.get(key), str)]
    named += [one for one in form.get("Names", ()) if isinstance(one, str)]
    tags = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in form.get("Tags", ())}
    for one in named:
        for done in (action, *(["AddTagsToResource"] if tags else [])):
            yield Access(f"ssm:{done}", f"arn:aws:ssm:{region}:123456789012:parameter/{one.strip('/')}", tags)
    if not named:
        yield Access(f"ssm:{action}", "*")
    if form.get("WithDecryption"):
        yield Access("kms:Decrypt", "*", {"kms:ViaService": f"ssm.{region}.amazonaws.com"})


def _values(form: Mapping[str, Any], parameter: str) -> list[str]:
    """Return the values of a parameter that may stand alone, in a list, or within another parameter."""
    name = re.compile(rf"(.*\.)?{parameter}(\.\d+)?")
    found = [value for key, value in form.items() if name.fullmatch(key)]
    return [one for value in found for one in (value if isinstance(value, list) else [value])]


def _specified(form: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return the tags that a request gives to the new resources of a type."""
    found: dict[str, str] = {}
    for key, value in form.items():
        told = re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", key)
        if told and kind in (value if isinstance(value, list) else [value]):
            found |= _request_tags(form, f"{told[1]}.Tag")
    return found


def _request_tags(form: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found = {}
    for key, value in form.items():
        told = re.fullmatch(rf"({re.escape(prefix)}\.\d+)\.Key", key)
        if told:
            other = form.get(f"{told[1]}.Value", "")
            name, text = (one[0] if isinstance(one, list) else one for one in (value, other))
            found[name] = text
    return found


_KINDS = {
    "ami": "image",
    "i": "instance",
    "snap": "snapshot",
    "vol": "volume",
    "sg": "security-group",
    "key": "key-pair",
    "subnet": "subnet",
    "vpc": "vpc",
    "eni": "network-interface",
}


def _kind(one: str) -> str:
    """Return the type of a resource by the beginning of its ID."""
    return _KINDS.get(one.partition("-")[0], "unknown")


def _statement(told: Mapping[str, Any], number: int) -> Statement:
    known = {"Sid", "Effect", "Action", "Resource", "Condition"}
    if strange := set(told) - known:
        raise ValueError(f"statement {number} has {', '.join(sorted(strange))}")
    conditions = []
    for operator, keys in told.get("Condition", {}).items():
        if operator not in _OPERATORS:
            raise ValueError(f"statement {number} has the condition operator {operator}")
        conditions += [(operator, key, _texts(values)) for key, values in keys.items()]
    if told["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"statement {number} has the effect {told['Effect']}")
    return Statement(
        str(told.get("Sid", number)),
        told["Effect"] == "Allow",
        _texts(told["Action"]),
        _texts(told["Resource"]),
        tuple(conditions),
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _like(text: str, pattern: str) -> bool:
    """Match as IAM does: ``*`` is any text, ``?`` any character."""
    parts = (".*" if one == "*" else "." if one == "?" else re.escape(one) for one in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None
