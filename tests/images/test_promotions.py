"""Promotions: only what is fit gets on a channel, and a channel goes back to what was fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from moto_fixtures import Killed
from samples import baked

from bakehouse import documents
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import BakehouseError, InputError, NotFoundError
from bakehouse.images import channels, promotions
from bakehouse.images.channels import Channel
from bakehouse.records import store
from bakehouse.settings import Settings

pytestmark = pytest.mark.local

PROVEN = "pass sha256:0"


class Promoter:
    """Promote and roll back in an account, as the tasks do."""

    def __init__(self, account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.account, self._settings, self._monkeypatch = account, settings, monkeypatch
        self.enter(account)

    def enter(self, account: Account) -> None:
        """Have the tasks come in by this connection."""
        self._monkeypatch.setattr(promotions, "connect", lambda _: account)

    def promote(self, image: str = "", **more: Any) -> Channel:
        """Promote an image."""
        return promotions.promote(self._settings, image_id=image, **more)

    def roll_back(self, **more: Any) -> Channel:
        """Roll back."""
        return promotions.roll_back(self._settings, **more)

    def tag(self, image: str, **tags: str) -> None:
        """Put tags of ours on an image."""
        self.account.ec2.create_tags(Resources=[image], Tags=tag_list({f"{TAG}{key}": tags[key] for key in tags}))

    def proven(self, **tags: str) -> str:
        """Have an image made that this checkout has proven, and return its ID."""
        image = baked(self.account, **tags)
        proof = self._settings.kept("proofs") / image / store.PROOF
        proof.parent.mkdir(parents=True)
        proof.write_text(json.dumps({"image": image, "verdict": "pass"}))
        self.tag(image, verdict=f"pass {documents.digest(proof.read_bytes())}")
        return image

    @property
    def stable(self) -> str:
        """Return the image that stable points to."""
        return channels.read(self.account, "jenkins", "stable").image


@pytest.fixture
def promoter(account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Promoter:
    """Give an account without images."""
    return Promoter(account, settings, monkeypatch)


def test_the_newest_proven_image(promoter: Promoter) -> None:
    """Where none is named the newest image is promoted that is proven and may be used."""
    with pytest.raises(NotFoundError, match="no image of recipe jenkins is proven on account local") as raised:
        promoter.promote()
    assert "./inv prove" in raised.value.hint
    wanted = promoter.proven(run="1")
    for run, tags in enumerate(({"revoked": "a hole"}, {"verdict": "fail sha256:0"}, {}), 2):
        baked(promoter.account, run=str(run), **tags)

    assert wanted == promoter.promote(why="it is time").image
    assert ("it is time", ()) == (promoter.promote().moves[-1].why, promoter.promote().moves[-1].stand_ins)
    assert 1 == len(promoter.promote().moves)


@pytest.mark.parametrize(
    ("tags", "words", "hint"),
    [
        ({}, "image ID is not proven", "./inv prove --image ID"),
        ({"verdict": "fail sha256:0"}, "image ID failed its proof", "./inv prove"),
        ({"revoked": "a hole"}, "image ID was revoked: a hole", "./inv images"),
        ({"jenkins": "stand-in"}, "image ID has stand-ins in place of: jenkins", "--allow-stand-in"),
        ({"recipe": "nginx"}, "image ID is of recipe nginx, not jenkins", "--recipe nginx"),
        ({"kind": "bake"}, "image ID is still being baked", "wait"),
    ],
)
def test_what_is_not_fit(promoter: Promoter, tags: dict[str, str], words: str, hint: str) -> None:
    """What is unproven, unfit, revoked, of another recipe, not done or stands in is refused, and stable stays."""
    before = promoter.promote(promoter.proven())
    image = promoter.proven() if tags else baked(promoter.account)
    promoter.tag(image, **tags)

    with pytest.raises(InputError, match=words.replace("ID", image)) as raised:
        promoter.promote(image)
    assert hint.replace("ID", image) in raised.value.hint
    assert before == channels.read(promoter.account, "jenkins", "stable")


FORGED = {
    "no proof": ("", True),
    "another image's proof": ('{"image": "ami-00000000", "verdict": "pass"}', True),
    "a failed proof": ('{"image": "IMAGE", "verdict": "fail"}', True),
    "no record": ("[]", True),
    "no JSON": ("pass", True),
    "another proof than the tag's": ('{"image": "IMAGE", "verdict": "pass"}', False),
}


@pytest.mark.parametrize(("content", "same"), FORGED.values(), ids=FORGED)
def test_a_forged_verdict(promoter: Promoter, settings: Settings, content: str, same: bool) -> None:
    """A verdict that somebody has written on an image counts for nothing without the proof, and stable stays."""
    image = baked(promoter.account)
    proof = content.replace("IMAGE", image).encode()
    if content:
        place = settings.kept("proofs") / image
        place.mkdir(parents=True)
        (place / store.PROOF).write_bytes(proof)
    promoter.tag(image, verdict=f"pass {documents.digest(proof)}" if same else PROVEN)

    with pytest.raises(InputError, match=f"image {image} is tagged as proven, but its proof is not in this checkout"):
        promoter.promote(image)
    with pytest.raises(NotFoundError, match="no image of recipe jenkins is proven"):
        promoter.promote()
    assert "" == promoter.stable


def test_a_base_that_was_revoked(promoter: Promoter) -> None:
    """An image that was baked upon a revoked one, however far below, is no more fit than that."""
    ground = baked(promoter.account, revoked="a hole")
    middle = baked(promoter.account, base=ground)
    image = promoter.proven(base=middle)

    with pytest.raises(InputError, match=f"image {ground}, upon which {image} was baked, was revoked: a hole"):
        promoter.promote(image)


def test_stand_ins(promoter: Promoter, capsys: pytest.CaptureFixture[str]) -> None:
    """On the local EC2 what stands in may be promoted on demand, which is said and recorded; on AWS it may not."""
    image = promoter.proven(jenkins="stand-in")

    moved = promoter.promote(allow_stand_in=True)

    assert (image, ("jenkins",)) == (moved.image, moved.moves[-1].stand_ins)
    assert f"channel stable: new -> {image} (bakehouse-jenkins-" in capsys.readouterr().err
    promoter.enter(replace(promoter.account, name="mine", endpoint=""))
    with pytest.raises(InputError, match="--allow-stand-in is not allowed on account mine"):
        promoter.promote(allow_stand_in=True)


@pytest.mark.parametrize("name", ["candidate", "No Name"])
def test_channels_that_cant_be_promoted_to(promoter: Promoter, name: str) -> None:
    """The candidate follows the bakes alone, and a channel's name is one."""
    promoter.proven()

    for task in (promoter.promote, promoter.roll_back):
        with pytest.raises(InputError, match=f"(only bakes move channel {name}|channel name '{name}' is not valid)"):
            task(channel=name)


def test_why_is_short(promoter: Promoter) -> None:
    """A reason for which there is no room is refused before anything is done."""
    with pytest.raises(InputError, match="--why has 257 characters; there is room for 256"):
        promoter.promote(promoter.proven(), why="x" * 257)

    assert "" == promoter.stable
    assert "š" * 256 == promoter.promote(why="š" * 256).moves[-1].why


def test_the_same_image_again(promoter: Promoter, killed_after: Callable[[int], Account]) -> None:
    """Promoting what a channel points to changes nothing, unless somebody was killed before putting that right."""
    image, late = promoter.proven(), promoter.proven()
    begin = channels.read(promoter.account, "jenkins", "stable")
    moved = promoter.promote(image)
    assert moved == promoter.promote(image)
    with pytest.raises(Killed):
        channels.move(killed_after(3), begin, late)
    assert (image, False) == (promoter.stable, channels.read(promoter.account, "jenkins", "stable").settled)

    assert (image, True) == (promoter.promote(image).image, promoter.promote(image).settled)


def test_revoke(promoter: Promoter, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Who revokes an image hears which others were baked upon it, and which channels lead to one, with what to do."""
    image = promoter.proven()
    upon = baked(promoter.account, "web", base=image)
    promoter.promote(image)
    for recipe, one in (("jenkins", image), ("web", upon)):
        channels.move(promoter.account, channels.read(promoter.account, recipe, "candidate"), one)
    capsys.readouterr()

    assert "a hole" == promotions.revoke(settings, image, "a hole").revoked

    assert [
        f"image {upon} of recipe web was baked upon it and may not be used either",
        f"channel candidate of recipe jenkins points to {image}: the next bake moves it",
        f"channel stable of recipe jenkins points to {image}: ./inv rollback moves it back",
        f"channel candidate of recipe web points to {upon}: the next bake moves it",
    ] == capsys.readouterr().err.splitlines()
    with pytest.raises(InputError, match=r"--why is missing"):
        promotions.revoke(settings, image, "")


def test_roll_back(promoter: Promoter, capsys: pytest.CaptureFixture[str]) -> None:
    """Rolling back goes step by step, over what is no longer fit, until there is nothing to go back to."""
    first, second, third, fourth = (promoter.proven() for _ in range(4))
    for image in (first, second, third, fourth):
        promoter.promote(image)
    promoter.tag(second, revoked="a hole")

    assert third == promoter.roll_back(why="it crashes").image
    assert "it crashes" == channels.read(promoter.account, "jenkins", "stable").moves[-1].why
    assert first == promoter.roll_back().image
    assert f"skipped: image {second} was revoked: a hole" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="channel stable has no earlier image that is fit"):
        promoter.roll_back()
    assert fourth == promoter.roll_back(to=fourth).image
    assert [first, second, third, fourth, third, first, fourth] == [
        move.image for move in channels.read(promoter.account, "jenkins", "stable").moves
    ]


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"channel": "beta"}, NotFoundError, "recipe jenkins has no channel beta on account local"),
        ({"to": "never"}, InputError, "channel stable never pointed to 'never'"),
        ({"to": "revoked"}, InputError, "was revoked: a hole"),
        ({"to": "gone"}, NotFoundError, "there is no image ami-"),
    ],
)
def test_roll_back_refuses(promoter: Promoter, more: dict[str, str], kind: type[BakehouseError], words: str) -> None:
    """There is no going back to a channel, or an image, that isn't there, may not be used or never was on it."""
    named = {name: promoter.proven() for name in ("revoked", "gone", "present")}
    for image in named.values():
        promoter.promote(image)
    promoter.tag(named["revoked"], revoked="a hole")
    promoter.account.ec2.deregister_image(ImageId=named["gone"])

    with pytest.raises(kind, match=words):
        promoter.roll_back(**{key: named.get(value, value) for key, value in more.items()})
    assert named["present"] == promoter.stable


def test_killed(promoter: Promoter, killed_after: Callable[[int], Account]) -> None:
    """A promotion or roll-back that is killed after any call leaves the old or the new image; the next one goes on."""
    old, new = promoter.proven(), promoter.proven()
    seen: dict[str, list[str]] = {new: [], old: []}
    promoter.promote(old)
    for calls in count():
        for image, task in ((new, promoter.promote), (old, promoter.roll_back)):
            promoter.enter(killed_after(calls))
            try:
                task(**({"image": new} if image == new else {}))
                seen[image].append("done")
            except Killed:
                assert promoter.stable in (old, new)
                seen[image].append("killed")
            promoter.enter(promoter.account)
            promoter.promote(image)
            assert image == promoter.stable
        if all(states[-1] == "done" for states in seen.values()):
            break
    assert all(states.count("killed") > 3 for states in seen.values())
