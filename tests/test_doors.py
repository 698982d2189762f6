"""Doors: the key pair that is made once and never lost sight of, and the group whose rules follow the caller."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bakehouse import doors
from bakehouse.cloud import TAG, Cloud, tags_of
from bakehouse.doors import Permission
from bakehouse.settings import Settings

HERE, THERE = "192.0.2.7/32", "198.51.100.9/32"
KEY = "bakehouse-jenkins-0123456789ab"


def opened(cloud: Cloud, group: str) -> set[tuple[int, int, str]]:
    """Return what a group lets in, as EC2 tells it: first port, last port, network."""
    found = cloud.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    return {(one["FromPort"], one["ToPort"], item["CidrIp"]) for one in found for item in one["IpRanges"]}


SSH, WEB = doors.permission(22, HERE), doors.permission(8080, HERE)
ALL = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}


@pytest.mark.parametrize(
    ("present", "missing", "surplus"),
    [
        ([], [SSH, WEB], []),
        ([SSH, WEB], [], []),
        ([doors.permission(22, THERE), WEB], [SSH], [doors.permission(22, THERE)]),
        ([{**SSH, "IpRanges": [{"CidrIp": THERE}, {"CidrIp": HERE}]}, WEB], [], [doors.permission(22, THERE)]),
        ([{**SSH, "IpRanges": [{"CidrIp": HERE, "Description": "mine"}]}, WEB], [], []),
        ([SSH, WEB, ALL], [], [ALL]),
        ([SSH, WEB, {**SSH, "ToPort": 99}], [], [{**SSH, "ToPort": 99}]),
    ],
)
def test_plan(present: list[Permission], missing: list[Permission], surplus: list[Permission]) -> None:
    """What is missing is added, and everything else than what is wanted goes, of whatever kind it is."""
    assert (missing, surplus) == doors.plan(present, [SSH, WEB])


@pytest.mark.local
def test_the_group_follows_the_caller(cloud: Cloud) -> None:
    """A caller whose address changed gets in by the same group, and the former address no longer does."""
    first = doors.group(cloud, "jenkins", KEY, [22, 8080], HERE)
    assert {(22, 22, HERE), (8080, 8080, HERE)} == opened(cloud, first)

    again = doors.group(cloud, "jenkins", KEY, [22, 8080], THERE)
    assert first == again
    assert {(22, 22, THERE), (8080, 8080, THERE)} == opened(cloud, again)


@pytest.mark.local
def test_two_people_on_one_account(cloud: Cloud) -> None:
    """Who has another key has another group, so that nobody takes the other's way in."""
    mine = doors.group(cloud, "jenkins", KEY, [22], HERE)
    theirs = doors.group(cloud, "jenkins", "bakehouse-jenkins-ba9876543210", [22], THERE)

    assert {(22, 22, HERE)} == opened(cloud, mine)
    assert {(22, 22, THERE)} == opened(cloud, theirs)
    assert mine == doors.group(cloud, "jenkins", KEY, [22], HERE)


@pytest.mark.local
def test_a_runs_own_group(cloud: Cloud) -> None:
    """A run has a group of its own, tagged so that it goes with the run; the recipe's keeps its rules."""
    group = doors.group(cloud, "jenkins", KEY, [22], THERE)

    own = doors.group(cloud, "jenkins", KEY, [22], HERE, run="20261122-080000-abcd")

    [found] = cloud.ec2.describe_security_groups(GroupIds=[own])["SecurityGroups"]
    assert ("20261122-080000-abcd", "proof") == (tags_of(found)[f"{TAG}run"], tags_of(found)[f"{TAG}kind"])
    assert {(22, 22, HERE)} == opened(cloud, own)
    assert {(22, 22, THERE)} == opened(cloud, group)
    assert group == doors.group(cloud, "jenkins", KEY, [22], THERE)


@pytest.mark.local
def test_the_group_loses_what_others_opened(cloud: Cloud) -> None:
    """Rules that someone added by hand go, whether they open a range, to IPv6 or to another group."""
    group = doors.group(cloud, "jenkins", KEY, [22], HERE)
    everything = [
        {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 99, "IpRanges": [{"CidrIp": HERE}]},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
    ]
    cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)

    doors.group(cloud, "jenkins", KEY, [22], HERE)

    left = cloud.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
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
def test_each_recipe_has_its_group(cloud: Cloud) -> None:
    """Two recipes don't share a group, and each group carries our tags."""
    one, other = (
        doors.group(cloud, "jenkins", KEY, [22], HERE),
        doors.group(cloud, "nginx", "bakehouse-nginx-1", [22], HERE),
    )

    found = cloud.ec2.describe_security_groups(GroupIds=[one, other])["SecurityGroups"]
    assert {one: ("group", "jenkins"), other: ("group", "nginx")} == {
        group["GroupId"]: (tags_of(group)[f"{TAG}kind"], tags_of(group)[f"{TAG}recipe"]) for group in found
    }


@pytest.mark.local
def test_the_key_pair_is_reused(cloud: Cloud, settings: Settings) -> None:
    """The second launch takes the first one's key pair: ed25519, ours by its tags, private to its owner."""
    name = doors.key_pair(cloud, settings, "jenkins")

    assert name == doors.key_pair(cloud, settings, "jenkins")
    [found] = cloud.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    private = doors.keys(settings) / name
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
def test_a_private_key_that_is_no_longer_ours(cloud: Cloud, settings: Settings, mishap: object) -> None:
    """Where the file is gone, damaged or another key's, a new key pair is made and the old one is left alone."""
    assert callable(mishap)
    before = doors.key_pair(cloud, settings, "jenkins")
    mishap(doors.keys(settings) / before)

    after = doors.key_pair(cloud, settings, "jenkins")

    assert before != after
    assert {before, after} == {one["KeyName"] for one in cloud.ec2.describe_key_pairs()["KeyPairs"]}


@pytest.mark.local
def test_a_key_pair_that_the_account_lost(cloud: Cloud, settings: Settings) -> None:
    """Where the account no longer has the key pair, the same key is imported again."""
    name = doors.key_pair(cloud, settings, "jenkins")
    cloud.ec2.delete_key_pair(KeyName=name)

    assert name == doors.key_pair(cloud, settings, "jenkins")
    assert [name] == [one["KeyName"] for one in cloud.ec2.describe_key_pairs()["KeyPairs"]]
