"""Access: the key pair that is made once and never lost sight of, and the group whose rules follow the caller."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bakehouse.accounts import TAG, Account, access, tags_of
from bakehouse.accounts.access import Permission
from bakehouse.settings import Settings

HERE, THERE = "192.0.2.7/32", "198.51.100.9/32"
KEY = "bakehouse-jenkins-0123456789ab"


def opened(account: Account, group: str) -> set[tuple[int, int, str]]:
    """Return what a group lets in, as EC2 tells it: first port, last port, network."""
    found = account.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    return {(one["FromPort"], one["ToPort"], item["CidrIp"]) for one in found for item in one["IpRanges"]}


SSH, WEB = access.permission(22, HERE), access.permission(8080, HERE)
ALL = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}


@pytest.mark.parametrize(
    ("present", "missing", "surplus"),
    [
        ([], [SSH, WEB], []),
        ([SSH, WEB], [], []),
        ([access.permission(22, THERE), WEB], [SSH], [access.permission(22, THERE)]),
        ([{**SSH, "IpRanges": [{"CidrIp": THERE}, {"CidrIp": HERE}]}, WEB], [], [access.permission(22, THERE)]),
        ([{**SSH, "IpRanges": [{"CidrIp": HERE, "Description": "mine"}]}, WEB], [], []),
        ([SSH, WEB, ALL], [], [ALL]),
        ([SSH, WEB, {**SSH, "ToPort": 99}], [], [{**SSH, "ToPort": 99}]),
    ],
)
def test_plan(present: list[Permission], missing: list[Permission], surplus: list[Permission]) -> None:
    """What is missing is added, and everything else than what is wanted goes, of whatever kind it is."""
    assert (missing, surplus) == access.plan(present, [SSH, WEB])


@pytest.mark.local
def test_the_group_follows_the_caller(account: Account) -> None:
    """A caller whose address changed gets in by the same group, and the former address no longer does."""
    first = access.group(account, "jenkins", KEY, [22, 8080], HERE)
    assert {(22, 22, HERE), (8080, 8080, HERE)} == opened(account, first)

    again = access.group(account, "jenkins", KEY, [22, 8080], THERE)
    assert first == again
    assert {(22, 22, THERE), (8080, 8080, THERE)} == opened(account, again)


@pytest.mark.local
def test_two_people_on_one_account(account: Account) -> None:
    """Who has another key has another group, so that nobody takes the other's way in."""
    mine = access.group(account, "jenkins", KEY, [22], HERE)
    theirs = access.group(account, "jenkins", "bakehouse-jenkins-ba9876543210", [22], THERE)

    assert {(22, 22, HERE)} == opened(account, mine)
    assert {(22, 22, THERE)} == opened(account, theirs)
    assert mine == access.group(account, "jenkins", KEY, [22], HERE)


@pytest.mark.local
def test_a_runs_own_group(account: Account) -> None:
    """A run has a group of its own, tagged so that it goes with the run; the recipe's keeps its rules."""
    group = access.group(account, "jenkins", KEY, [22], THERE)

    own = access.group(account, "jenkins", KEY, [22], HERE, run="20261122-080000-abcd")

    [found] = account.ec2.describe_security_groups(GroupIds=[own])["SecurityGroups"]
    assert ("20261122-080000-abcd", "proof") == (tags_of(found)[f"{TAG}run"], tags_of(found)[f"{TAG}kind"])
    assert {(22, 22, HERE)} == opened(account, own)
    assert {(22, 22, THERE)} == opened(account, group)
    assert group == access.group(account, "jenkins", KEY, [22], THERE)


@pytest.mark.local
def test_the_group_loses_what_others_opened(account: Account) -> None:
    """Rules that someone added by hand go, whether they open a range, to IPv6 or to another group."""
    group = access.group(account, "jenkins", KEY, [22], HERE)
    everything = [
        {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 99, "IpRanges": [{"CidrIp": HERE}]},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
    ]
    account.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)

    access.group(account, "jenkins", KEY, [22], HERE)

    left = account.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [("tcp", 22, 22, [HERE], [], [])] == [
        (
            one["IpProtocol"],
            one["FromPort"],
            one["ToPort"],
            [item["CidrIp"] for item in one["IpRanges"]],
            one["Ipv6Ranges"],
            one["UserIdGroupPairs"],
        )
        for one in left
    ]


@pytest.mark.local
def test_each_recipe_has_its_group(account: Account) -> None:
    """Two recipes don't share a group, and each group carries our tags."""
    one, other = (
        access.group(account, "jenkins", KEY, [22], HERE),
        access.group(account, "nginx", "bakehouse-nginx-1", [22], HERE),
    )

    found = account.ec2.describe_security_groups(GroupIds=[one, other])["SecurityGroups"]
    assert {one: ("group", "jenkins"), other: ("group", "nginx")} == {
        group["GroupId"]: (tags_of(group)[f"{TAG}kind"], tags_of(group)[f"{TAG}recipe"]) for group in found
    }


@pytest.mark.local
def test_the_key_pair_is_reused(account: Account, settings: Settings) -> None:
    """The second launch takes the first one's key pair: ed25519, ours by its tags, private to its owner."""
    name = access.key_pair(account, settings, "jenkins")

    assert name == access.key_pair(account, settings, "jenkins")
    [found] = account.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    private = access.keys(settings) / name
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(private)], capture_output=True, text=True, check=True)
    assert (name, "ed25519", "key") == (found["KeyName"], found["KeyType"], tags_of(found)[f"{TAG}kind"])
    assert public.stdout.split()[:2] == found["PublicKey"].split()[:2]
    assert (0o600, 0o700) == (private.stat().st_mode & 0o777, private.parent.stat().st_mode & 0o777)
    assert [name] == [file.name for file in private.parent.iterdir()]


def _lose(private: Path) -> None:
    private.unlink()


def _damage(private: Path) -> None:
    private.write_text(private.read_text()[:80])


def _replace(private: Path) -> None:
    private.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)], check=True)


@pytest.mark.local
@pytest.mark.parametrize("mishap", [_lose, _damage, _replace])
def test_a_private_key_that_is_no_longer_ours(account: Account, settings: Settings, mishap: object) -> None:
    """Where the file is gone, damaged or another key's, a new key pair is made and the old one is left alone."""
    assert callable(mishap)
    before = access.key_pair(account, settings, "jenkins")
    mishap(access.keys(settings) / before)

    after = access.key_pair(account, settings, "jenkins")

    assert before != after
    assert {before, after} == {one["KeyName"] for one in account.ec2.describe_key_pairs()["KeyPairs"]}


@pytest.mark.local
def test_a_key_pair_that_the_account_lost(account: Account, settings: Settings) -> None:
    """Where the account no longer has the key pair, the same key is imported again."""
    name = access.key_pair(account, settings, "jenkins")
    account.ec2.delete_key_pair(KeyName=name)

    assert name == access.key_pair(account, settings, "jenkins")
    assert [name] == [one["KeyName"] for one in account.ec2.describe_key_pairs()["KeyPairs"]]
