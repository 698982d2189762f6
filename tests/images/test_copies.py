"""Copies: an image gets to other regions once, whole, and with the channels that point to it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from moto_fixtures import Killed, disturbed
from samples import baked

from bakehouse import images
from bakehouse.accounts import TAG, Account
from bakehouse.errors import CloudError, InputError
from bakehouse.images import Image, channels, copies
from bakehouse.settings import Settings

pytestmark = pytest.mark.local

REGION = "eu-west-1"


@pytest.fixture
def copy(settings: Settings, account: Account, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Image]]:
    """Give the task, which enters the account by another there on demand."""

    def carry_out(image: str, regions: str = REGION, there: Account = account) -> dict[str, Image]:
        monkeypatch.setattr(copies, "connect", lambda _: there)
        return copies.copy(settings, image, regions)

    return carry_out


def test_copy(account: Account, copy: Callable[..., dict[str, Image]]) -> None:
    """A copy has the image's name and tags, on its snapshots too, demands IMDSv2, and channels point to it there."""
    image = images.get(
        account, baked(account, verdict="pass sha256:0", jenkins="stand-in", deprecated="today"), "jenkins"
    )
    channels.move(account, channels.read(account, "jenkins", "stable"), image.id)
    channels.move(account, channels.read(account, "jenkins", "beta"), baked(account))

    made = copy(image.id, f"{REGION},us-west-2")

    assert [REGION, "us-west-2"] == list(made)
    for region, copied in made.items():
        there = account.at(region)
        tags = {**image.tags, f"{TAG}copy-of": f"us-east-1/{image.id}"}
        del tags[images.DEPRECATED]
        assert (image.name, tags, True) == (copied.name, copied.tags, copied.imdsv2)
        disks = there.ec2.describe_snapshots(SnapshotIds=list(copied.snapshots))["Snapshots"]
        assert [tags] == [{tag["Key"]: tag["Value"] for tag in disk["Tags"]} for disk in disks]
        [stable] = channels.find(there)
        move = stable.moves[-1]
        assert ("stable", copied.id, "copied from us-east-1") == (stable.name, move.image, move.why)
        assert ("jenkins",) == move.stand_ins
    assert made == copy(image.id, f"{REGION},us-west-2")
    assert 1 == len(channels.find(account.at(REGION))[0].moves)


def test_killed(
    account: Account, copy: Callable[..., dict[str, Image]], killed_after: Callable[[int], Account], tmp_path: Path
) -> None:
    """Whenever a copy is killed, the next one ends it: one copy, whole, and the channel points to it."""
    for calls in count():
        image = baked(account, run=str(calls))
        channels.move(account, channels.read(account, "jenkins", "stable"), image)
        try:
            copy(image, there=killed_after(calls))
            break
        except Killed:
            pass
        copied = copy(image)[REGION]
        there = account.at(REGION)
        assert [copied.id] == [one.id for one in images.find(there, "jenkins") if one.run == str(calls)]
        assert (copied.id, True) == (channels.get(there, "jenkins", "stable").image, copied.imdsv2)
    assert calls > 10


def test_a_copy_that_fails(account: Account, copy: Callable[..., dict[str, Image]]) -> None:
    """A copy that EC2 can't finish is said to have failed, and the next one is made anew."""
    from moto.ec2.models import ec2_backends

    copied = ec2_backends["123456789012"][REGION].amis

    def fail() -> None:
        for one in copied.values():
            one.state = "failed"

    image = baked(account)
    with pytest.raises(CloudError, match=f"image ami-[0-9a-f]+, the copy in {REGION}, is failed"):
        copy(image, there=disturbed(account, fail, lambda _: True))

    assert "available" == copy(image)[REGION].state
    assert ["available", "failed"] == sorted(one.state for one in images.find(account.at(REGION), "jenkins"))


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ("", "--region is missing"),
        ("us-east-1", "the image is in region us-east-1 already"),
        ("mars-1", "there is no region mars-1"),
        (f"{REGION},me-south-1", "region me-south-1 is not enabled on account local"),
    ],
)
def test_where_it_cant_go(account: Account, copy: Callable[..., dict[str, Image]], regions: str, words: str) -> None:
    """A region that is the image's own, none at all or not enabled is refused before anything is copied."""
    image = baked(account)

    with pytest.raises(InputError, match=words) as raised:
        copy(image, regions)
    assert raised.value.hint
    assert [] == images.owned(account.at(REGION))


def test_what_was_revoked_is_not_copied(account: Account, copy: Callable[..., dict[str, Image]]) -> None:
    """A revoked image stays where it is."""
    with pytest.raises(InputError, match="was revoked: a hole"):
        copy(baked(account, revoked="a hole"))
