"""Policies: what a policy of IAM allows is decided as IAM does; what isn't understood is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bakehouse import local
from bakehouse.errors import InputError
from bakehouse.local import policies
from bakehouse.local.policies import Access, Policy
from bakehouse.settings import Settings

TAG = "aws:ResourceTag/x"


def policy(*statements: dict[str, Any]) -> Policy:
    """Return a policy of these statements, which allow ec2:Stop everywhere where they don't say otherwise."""
    usual = {"Effect": "Allow", "Action": "ec2:Stop", "Resource": "*"}
    return Policy.parse({"Statement": [{**usual, **one} for one in statements]}, "a test")


def conditioned(operator: str, value: Any) -> Policy:
    """Return a policy with one condition on the tag x."""
    return policy({"Condition": {operator: {TAG: value}}})


STOP = Access("ec2:Stop", "arn:aws:ec2:eu-west-1:1:instance/i-1", {TAG: "web"})
BARE = Access("ec2:Stop", STOP.resource)

CASES: dict[str, tuple[Policy, Access, bool]] = {
    "allowed": (policy({}), STOP, True),
    "no statement": (policy(), STOP, False),
    "another action": (policy({"Action": "ec2:Start"}), STOP, False),
    "one of several actions": (policy({"Action": ["ec2:Start", "ec2:Stop"]}), STOP, True),
    "a pattern of actions": (policy({"Action": "ec2:St*"}), STOP, True),
    "an action in small letters": (policy({"Action": "EC2:stop"}), STOP, True),
    "the resource's type": (policy({"Resource": "arn:aws:ec2:*:*:instance/*"}), STOP, True),
    "another type": (policy({"Resource": ["arn:aws:ec2:*:*:volume/*"]}), STOP, False),
    "a pattern is no regular expression": (policy({"Resource": "arn:aws:ec2:eu.west.1:1:instance/i-1"}), STOP, False),
    "a single character": (policy({"Resource": "arn:aws:ec2:eu-west-?:1:instance/i-1"}), STOP, True),
    "denied": (policy({}, {"Effect": "Deny"}), STOP, False),
    "denied elsewhere": (policy({}, {"Effect": "Deny", "Resource": "arn:aws:s3:::x"}), STOP, True),
    "equal": (conditioned("StringEquals", "web"), STOP, True),
    "equal to one": (conditioned("StringEquals", ["db", "web"]), STOP, True),
    "equal takes no pattern": (conditioned("StringEquals", "w*"), STOP, False),
    "not equal": (conditioned("StringNotEquals", "web"), STOP, False),
    "like": (conditioned("StringLike", "w?b"), STOP, True),
    "not like": (conditioned("StringNotLike", "w*"), STOP, False),
    "there": (conditioned("Null", "false"), STOP, True),
    "not there": (conditioned("Null", "true"), STOP, False),
    "equal, and not there": (conditioned("StringEquals", "web"), BARE, False),
    "like, and not there": (conditioned("StringLike", "*"), BARE, False),
    "not equal, and not there": (conditioned("StringNotEquals", "web"), BARE, True),
    "nothing there": (conditioned("Null", "true"), BARE, True),
    "two conditions": (
        policy({"Condition": {"StringLike": {TAG: "*"}, "StringEquals": {"aws:RequestTag/y": "1"}}}),
        STOP,
        False,
    ),
}


@pytest.mark.parametrize(("rules", "access", "allowed"), CASES.values(), ids=CASES)
def test_decide(rules: Policy, access: Access, allowed: bool) -> None:
    """What a statement allows and none denies is allowed."""
    assert allowed == rules.decide(access).allowed


WRONG = {
    "no JSON": ("{", "is no JSON"),
    "no statement": ("{}", "'Statement'"),
    "no effect": ('{"Statement": [{"Action": "a", "Resource": "*"}]}', "'Effect'"),
    "another effect": ('{"Statement": [{"Effect": "allow", "Action": "a", "Resource": "*"}]}', "has the effect allow"),
    "an unknown operator": (
        '{"Statement": {"Effect": "Allow", "Action": "a", "Resource": "*", "Condition": {"IpAddress": {"a": "b"}}}}',
        "statement 1 has the condition operator IpAddress",
    ),
    "an unknown key": (
        '{"Statement": [{"Effect": "Allow", "NotAction": "a", "Action": "a", "Resource": "*"}]}',
        "statement 1 has NotAction",
    ),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_is_not_understood(tmp_path: Path, settings: Settings, text: str, words: str) -> None:
    """A policy that isn't understood as a whole is refused, with the file, and the one before it stays."""
    file = tmp_path / "policy.json"
    file.write_text('{"Statement": []}')
    local.enforce(settings, str(file))
    file.write_text(text)

    with pytest.raises(InputError, match=f"--policy {file} .*{words}"):
        local.enforce(settings, str(file))

    place = settings.state / "local" / policies.FILE
    assert '{"Statement": []}' == place.read_text()
    local.enforce(settings, "none")
    assert not place.exists()
    with pytest.raises(InputError, match="--policy /nowhere can't be read"):
        local.enforce(settings, "/nowhere")


def tags(kind: str, one: str) -> dict[str, str]:
    """Return a tag that tells of which resource it is."""
    return {"of": f"{kind} {one}"}


def test_a_launch_is_many_accesses() -> None:
    """RunInstances is decided on for each resource that it names or makes, and for each tag that it gives."""
    form = {
        "ImageId": ["ami-1"],
        "KeyName": ["mine"],
        "SecurityGroupId.1": ["sg-1"],
        "NetworkInterface.1.SecurityGroupId.1": ["sg-2"],
        "TagSpecification.1.ResourceType": ["instance"],
        "TagSpecification.1.Tag.1.Key": ["x"],
        "TagSpecification.1.Tag.1.Value": ["1"],
    }

    found = {
        (one.action.partition(":")[2], one.resource.rpartition(":")[2]): dict(one.context)
        for one in policies.accesses("ec2", "RunInstances", form, "us-east-1", tags)
    }

    given = {"aws:RequestTag/x": "1"}
    assert {
        ("RunInstances", "image/ami-1"): {"aws:ResourceTag/of": "image ami-1"},
        ("RunInstances", "key-pair/mine"): {"aws:ResourceTag/of": "key-pair mine"},
        ("RunInstances", "security-group/sg-1"): {"aws:ResourceTag/of": "security-group sg-1"},
        ("RunInstances", "security-group/sg-2"): {"aws:ResourceTag/of": "security-group sg-2"},
        ("RunInstances", "subnet/default"): {},
        ("RunInstances", "instance/new"): given,
        ("CreateTags", "instance/new"): {**given, "ec2:CreateAction": "RunInstances"},
        ("RunInstances", "volume/new"): {},
        ("RunInstances", "network-interface/new"): {},
    } == found


def test_other_requests() -> None:
    """Tags name resources of any type; parameters are named with their path; what isn't known is about everything."""
    form = {"ResourceId.1": ["i-1"], "ResourceId.2": "snap-1", "Tag.1.Key": "x", "Tag.1.Value": "1"}
    told = policies.accesses("ec2", "CreateTags", form, "us-east-1", tags)
    secret = {"Names": ["/a/b", "c"], "WithDecryption": True}

    assert ["instance/i-1", "snapshot/snap-1"] == [one.resource.rpartition(":")[2] for one in told]
    assert [("1", "instance i-1"), ("1", "snapshot snap-1")] == [
        (one.context["aws:RequestTag/x"], one.context["aws:ResourceTag/of"]) for one in told
    ]
    assert [
        ("ssm:GetParameters", "arn:aws:ssm:us-east-1:123456789012:parameter/a/b"),
        ("ssm:GetParameters", "arn:aws:ssm:us-east-1:123456789012:parameter/c"),
        ("kms:Decrypt", "*"),
    ] == [(one.action, one.resource) for one in policies.accesses("ssm", "GetParameters", secret, "us-east-1", tags)]
    assert [Access("iam:CreateUser", "*")] == policies.accesses("iam", "CreateUser", {"UserName": "x"}, "x", tags)
