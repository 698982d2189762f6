"""Sites: what accounts.yml can say, one line for each way in which it can be wrong, and what it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moto_fixtures import enforced
from samples import baked

from bakehouse import images, sites
from bakehouse.accounts import TAG, Account, access, rights, tags_of
from bakehouse.errors import AccountError, InputError
from bakehouse.images import channels, copies
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.settings import ROOT, Settings
from bakehouse.sites import Bastion, Site, Sites

EXAMPLE = ROOT / "accounts.example.yml"


def write(root: Path, text: str) -> None:
    """Write the file, in which the account is called acme."""
    (root / sites.FILE).write_text(text)


def test_nothing_is_said(tmp_path: Path) -> None:
    """Without a file, and for an account that isn't in it, everything is made as usual."""
    assert Sites() == sites.load(tmp_path, "acme")
    write(tmp_path, "other: {name: 'x-{name}'}\n")
    assert Sites() == sites.load(tmp_path, "acme")
    assert "bakehouse-a" == Site().named("bakehouse-a")


def test_a_region_differs(tmp_path: Path) -> None:
    """What a region says stands in place of what the account says."""
    write(tmp_path, "acme: {name: 'x-{name}', tags: {team: a}, regions: {eu-west-1: {tags: {team: b}}}}\n")

    told = sites.load(tmp_path, "acme")

    assert Site(tags={"team": "a"}, name="x-{name}") == told.at("us-east-1")
    assert Site(tags={"team": "b"}, name="x-{name}") == told.at("eu-west-1")


def test_a_region_has_its_own_subnets(tmp_path: Path) -> None:
    """A region that finds its subnets in another way has none of the account's; the tag may be any."""
    write(tmp_path, "acme: {subnets: [subnet-12345678], regions: {eu-west-1: {subnet_tags: {Name: private-*}}}}\n")

    told = sites.load(tmp_path, "acme").at("eu-west-1")

    assert ((), {"Name": "private-*"}) == (told.subnets, told.subnet_tags)


def test_the_example_has_every_key() -> None:
    """The example is right, and shows each key; docs/accounts.md has a row for each."""
    told = sites.load(ROOT, "company", EXAMPLE.name)
    page = (ROOT / "docs/accounts.md").read_text()

    assert Sites() != told
    assert [] == [key for key in sites.KEYS if not re.search(rf"^  (# )?{key}:", EXAMPLE.read_text(), re.MULTILINE)]
    assert [] == [key for key in sites.KEYS if f"\n| `{key}` |" not in page]


LONG = "x" * 257
WRONG = {
    "no map": ("[acme]", "accounts.yml is not a map: ['acme']"),
    "no YAML": ("acme: [", "accounts.yml:2: syntax error: "),
    "an account without a map": ("acme: 1", "accounts.yml: acme is not a map"),
    "an unknown key": ("acme: {tag: {}}", "accounts.yml: acme: unknown key tag"),
    "an unknown key in a region": (
        "acme: {regions: {eu-west-1: {tag: {}}}}",
        "accounts.yml: acme: regions: eu-west-1: unknown key tag",
    ),
    "regions in a region": ("acme: {regions: {a: {regions: {}}}}", "accounts.yml: acme: regions: a: unknown key reg"),
    "a region without a map": ("acme: {regions: {a: 1}}", "accounts.yml: acme: regions is not a map of maps: "),
    "a wrong value in a region": (
        "acme: {regions: {a: {name: b}}}",
        "accounts.yml: acme: regions: a: name 'b' is no pattern of names",
    ),
    "another account": ("other: {tag: {}}", "accounts.yml: other: unknown key tag"),
    "tags in a list": ("acme: {tags: [a]}", "accounts.yml: acme: tags is not a map of strings: ['a']"),
    "a number in a tag": ("acme: {tags: {cost: 42}}", "accounts.yml: acme: tags is not a map of strings: {'cost': 42}"),
    "a tag of AWS's": ("acme: {tags: {'aws:x': a}}", "accounts.yml: acme: tags: 'aws:x' can't be the key of a tag"),
    "a tag of ours": ("acme: {tags: {'bakehouse:x': a}}", "accounts.yml: acme: tags: 'bakehouse:x' can't be the key"),
    "the name's tag": ("acme: {tags: {Name: a}}", "accounts.yml: acme: tags: 'Name' can't be the key of a tag"),
    "an empty key": ("acme: {tags: {'': a}}", "accounts.yml: acme: tags: '' can't be the key of a tag"),
    "a long value": (f"acme: {{tags: {{a: {LONG}}}}}", f"accounts.yml: acme: tags: a: '{LONG}' can't be the value"),
    "a value with a star": ("acme: {tags: {a: '*'}}", "accounts.yml: acme: tags: a: '*' can't be the value of a tag"),
    "an expression in a tag": ("acme: {tags: {a: '${x}'}}", "accounts.yml: acme: tags is not a map of strings: "),
    "many tags": (
        f"acme: {{tags: {{{', '.join(f't{number}: a' for number in range(16))}}}}}",
        "accounts.yml: acme: tags: there are 16 tags; 15 are the most",
    ),
    "a name without a place": ("acme: {name: acme}", "accounts.yml: acme: name 'acme' is no pattern of names"),
    "a name of two": ("acme: {name: '{name}{name}'}", "accounts.yml: acme: name '{name}{name}' is no pattern of names"),
    "a name with a blank": ("acme: {name: 'a {name}'}", "accounts.yml: acme: name 'a {name}' is no pattern of names"),
    "a name that begins with a dash": ("acme: {name: '-{name}'}", "accounts.yml: acme: name '-{name}' is no pattern"),
    "a subnet that is none": (
        "acme: {subnets: [sn-1]}",
        "accounts.yml: acme: subnets: 'sn-1' is not the ID of a ",
    ),
    "one subnet": ("acme: {subnets: subnet-12345678}", "accounts.yml: acme: subnets is not a list: 'subnet-12345678'"),
    "a subnet that is a number": ("acme: {subnets: [1]}", "accounts.yml: acme: subnets: 1 is not the ID of a subnet"),
    "a group that is none": (
        "acme: {security_groups: [default]}",
        "accounts.yml: acme: security_groups: 'default' is not the ID of a security group",
    ),
    "a VPC that is none": ("acme: {vpc: default}", "accounts.yml: acme: vpc: 'default' is not the ID of a VPC"),
    "subnets in two ways": (
        "acme: {subnets: [subnet-12345678], subnet_tags: {tier: a}}",
        "accounts.yml: acme: subnets and subnet_tags exclude each other",
    ),
    "a tag of subnets": (
        "acme: {subnet_tags: {'': a}}",
        "accounts.yml: acme: subnet_tags: '' can't be the key of ",
    ),
    "yes": ("acme: {associate_public_ip: 'no'}", "accounts.yml: acme: associate_public_ip is not true or false: 'no'"),
    "everybody": ("acme: {allow: all}", "accounts.yml: acme: allow: all is not a network: "),
    "host bits": ("acme: {allow: 10.0.0.1/8}", "accounts.yml: acme: allow: 10.0.0.1/8 is not a network: "),
    "half a prefix list": ("acme: {allow: pl-1}", "accounts.yml: acme: allow: 'pl-1' is not the ID of a prefix list"),
    "a bastion without a user": (
        "acme: {proxy_jump: bastion, proxy_jump_key: a}",
        "accounts.yml: acme: proxy_jump: 'bastion' is not a bastion",
    ),
    "a bastion that is an option": (
        "acme: {proxy_jump: 'a@-oProxyCommand=x', proxy_jump_key: a}",
        "accounts.yml: acme: proxy_jump: 'a@-oProxyCommand=x' is not a bastion",
    ),
    "a bastion without a key": ("acme: {proxy_jump: a@b}", "accounts.yml: acme: proxy_jump needs proxy_jump_key too"),
    "a key without a bastion": ("acme: {proxy_jump_key: a}", "accounts.yml: acme: proxy_jump_key needs proxy_jump too"),
    "a key with a blank": ("acme: {kms_key: a key}", "accounts.yml: acme: kms_key: 'a key' is not a key of KMS"),
    "a key of S3": ("acme: {kms_key: 'arn:aws:s3:::x'}", "accounts.yml: acme: kms_key: 'arn:aws:s3:::x' is not a key"),
    "no encryption": ("acme: {encrypted: 'no'}", "accounts.yml: acme: encrypted: 'no' is not required"),
    "encryption by a switch": ("acme: {encrypted: true}", "accounts.yml: acme: encrypted is not a string: True"),
    "a role without its ARN": ("acme: {role: baker}", "accounts.yml: acme: role: 'baker' can't be one"),
    "a role that is a user": (
        "acme: {role: 'arn:aws:iam::123456789012:user/a'}",
        "accounts.yml: acme: role: 'arn:aws:iam::123456789012:user/a' can't be one",
    ),
    "an external ID alone": ("acme: {external_id: abc}", "accounts.yml: acme: external_id needs role too"),
    "a short external ID": (
        "acme: {role: 'arn:aws:iam::123456789012:role/a', external_id: a}",
        "accounts.yml: acme: external_id: 'a' can't be one",
    ),
    "a profile's ARN": (
        "acme: {bake_profile: 'arn:aws:iam::1:instance-profile/a'}",
        "accounts.yml: acme: bake_profile: 'arn:aws:iam::1:instance-profile/a' can't be one",
    ),
    "a profile with a blank": ("acme: {launch_profile: a b}", "accounts.yml: acme: launch_profile: 'a b' can't be one"),
    "a type that is none": (
        "acme: {instance_types: [large]}",
        "accounts.yml: acme: instance_types: large is not an instance type",
    ),
    "one type": ("acme: {instance_types: t3.micro}", "accounts.yml: acme: instance_types is not a list: 't3.micro'"),
    "a variable of Ansible's": (
        "acme: {variables: {ansible_host: a}}",
        "accounts.yml: acme: variables: 'ansible_host' can't be a role's variable",
    ),
    "a variable with a dash": ("acme: {variables: {a-b: c}}", "accounts.yml: acme: variables: 'a-b' can't be a role's"),
    "a template": ("acme: {variables: {a: '{{ b }}'}}", "accounts.yml: acme: variables is not a map of strings: "),
    "a name that is a number": ("acme: {name: 1}", "accounts.yml: acme: name is not a string: 1"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_one_line_for_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    """Whatever is wrong is one line with the account and the key, a hint, and exit code 2."""
    write(tmp_path, f"{text}\n")

    with pytest.raises(InputError) as refused:
        sites.load(tmp_path, "acme")

    assert refused.value.text.startswith(words)
    assert (2, 1) == (refused.value.code, len(refused.value.text.splitlines()))
    assert refused.value.hint


def test_the_bastions_key_is_looked_for(tmp_path: Path) -> None:
    """A key that isn't here is one line, for the account that is used; the file may name others' for other accounts."""
    write(tmp_path, f"acme: {{proxy_jump: 'a@b.example:2222', proxy_jump_key: {tmp_path}/key}}\n")
    site = sites.load(tmp_path, "acme").everywhere

    with pytest.raises(InputError, match=r"acme: proxy_jump_key: .*/key is no file that you can read"):
        sites.insist_usable(site, "acme")
    (tmp_path / "key").touch()
    sites.insist_usable(site, "acme")
    assert Bastion("a", "b.example", 2222, f"{tmp_path}/key") == site.bastion


TAGS = {"team": "platform", "cost": "4711"}
TAGGED = Site(tags=TAGS, name="acme-{name}-x")

# What an organisation demands: nothing may be made without the tag, at that moment.
DEMAND = [
    {
        "Sid": f"Demand{number}",
        "Effect": "Deny",
        "Action": action,
        "Resource": [f"arn:aws:*:*:*:{kind}" for kind in kinds],
        "Condition": {"Null": {"aws:RequestTag/team": "true"}},
    }
    for number, (action, kinds) in enumerate(
        {
            "ec2:CreateSecurityGroup": ("security-group/*",),
            "ec2:ImportKeyPair": ("key-pair/*",),
            "ec2:RunInstances": ("instance/*", "volume/*", "network-interface/*"),
            "ec2:CopyImage": ("image/new", "snapshot/new"),
            "ssm:PutParameter": ("parameter/bakehouse/jenkins/new",),
        }.items()
    )
]


def _launch(account: Account, settings: Settings, image: str) -> Any:
    return launches.begin(account, settings, images.get(account, image), Request(1, ("t3.small",), "", b""), [80])


DEEDS: dict[str, Callable[[Account, Settings, str], Any]] = {
    "launch": _launch,
    "prove": lambda account, settings, image: launches.begin(
        account, settings, images.get(account, image), Request(2, ("t3.small",), "", b""), [], "a-run"
    ),
    "promote": lambda account, _, image: channels.move(account, channels.read(account, "jenkins", "new"), image),
    "copy": lambda _, settings, image: copies.copy(settings, image, "eu-west-1"),
}


@pytest.mark.local
@pytest.mark.parametrize("deed", DEEDS)
def test_everything_is_tagged_when_it_is_made(
    account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    """Where an organisation demands tags at creation, an account whose entry has them works, and no other does."""
    image = baked(account, run="1")
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")
    policy = rights.policy(site=TAGGED)
    policy["Statement"] += DEMAND
    limited, denied, _ = enforced(account, policy)
    there = replace(limited, sites=Sites(TAGGED))

    monkeypatch.setattr(copies, "connect", lambda _: limited)
    with pytest.raises(AccountError, match=r"the statement Demand\d denies it"):
        DEEDS[deed](limited, settings, image)
    denied.clear()
    monkeypatch.setattr(copies, "connect", lambda _: there)
    DEEDS[deed](there, settings, image)

    assert [] == denied


@pytest.mark.local
def test_names_follow_the_pattern(account: Account, settings: Settings) -> None:
    """The pattern is in each name that the kit gives, and a key pair is found again by it."""
    there = replace(account, sites=Sites(TAGGED))
    image = images.get(account, baked(account))
    wanted = Request(1, ("t3.small",), "192.0.2.7/32", b"")

    [machine] = launches.begin(there, settings, image, wanted, [])
    key = access.key_pair(there, settings, "jenkins")

    assert machine.key == key
    assert key.startswith("acme-bakehouse-jenkins-") and key.endswith("-x")
    [told] = account.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"]
    assert {"Name": "acme-bakehouse-jenkins-x", **TAGS}.items() <= tags_of(told).items()
    assert [key] == [group["GroupName"] for group in told["SecurityGroups"]]
    assert "jenkins" == tags_of(told)[f"{TAG}recipe"]


@pytest.mark.local
def test_a_channel_that_is_there_keeps_its_tags(account: Account) -> None:
    """A channel gets its tags when it is made; when it moves, SSM takes none, and none are needed."""
    there = replace(account, sites=Sites(TAGGED))
    first, second = baked(account), baked(account)
    for image in (first, second):
        channels.move(there, channels.read(there, "jenkins", "new"), image)

    told = account.ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId="/bakehouse/jenkins/new")
    assert TAGS == {tag["Key"]: tag["Value"] for tag in told["TagList"]}
