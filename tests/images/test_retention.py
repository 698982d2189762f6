"""Retention: what is in use never goes, the rest goes step by step, in whatever order it is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import NOW, channel, image

from bakehouse import images
from bakehouse.accounts import TAG, tag_list
from bakehouse.errors import InputError
from bakehouse.images import Image, Snapshot, retention
from bakehouse.images.retention import Survey, Terms
from bakehouse.images.usage import Usage

NONE = Terms(keep=0)


def made(name: str, days: int = 10, state: str = "available", kind: str = "image", **tags: str) -> Image:
    """Return an image of recipe web that was made so many days ago."""
    ours = {f"{TAG}{key}": value for key, value in {"recipe": "web", "kind": kind, **tags}.items() if value}
    when = f"{NOW - timedelta(days=days):%Y-%m-%dT%H:%M:%S}.000Z"
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": f"snap-{name}"}}]
    return image(ImageId=f"ami-{name}", CreationDate=when, State=state, Tags=tag_list(ours), BlockDeviceMappings=disks)


def disk(name: str, days: int = 10, state: str = "completed", **tags: str) -> Snapshot:
    """Return a snapshot of ours."""
    ours = {f"{TAG}{key}": value for key, value in {"recipe": "web", **tags}.items()}
    return Snapshot(f"snap-{name}", state, NOW - timedelta(days=days), ours)


def told(found: Survey, wanted: Terms = NONE) -> dict[str, str]:
    """Return what becomes of each thing, the step and why."""
    plan = retention.decide(found, wanted, NOW)
    return {fate.thing.id.partition("-")[2]: f"{fate.step}: {fate.why}" for fate in plan.fates}


GOES, GONE = "deprecate: nothing uses it", "delete: nothing uses it"
MAKING = "stay: images are being made"

CASES: dict[str, tuple[Survey, Terms, dict[str, str]]] = {
    "nothing uses it": (Survey([made("a"), made("b", deprecated="x")]), NONE, {"a": GOES, "b": GONE}),
    "at once": (Survey([made("a")]), replace(NONE, at_once=True), {"a": GONE}),
    "without our tag": (Survey([made("a", recipe=""), made("b", kind="bake"), made("c", kind="")]), NONE, {}),
    "the newest": (
        Survey([made("a", 1), made("b", 2, revoked="x"), made("c", 3, state="failed"), made("d", 4), made("e", 5)]),
        Terms(keep=2),
        {**dict.fromkeys("abcd", "stay: one of the newest 2"), "e": GOES},
    ),
    "of each recipe": (
        Survey([made("a", 1), made("b", 2, recipe="db"), made("c", 3, recipe="db")]),
        Terms(keep=1),
        {**dict.fromkeys("ab", "stay: one of the newest 1"), "c": GOES},
    ),
    "a bake's own is not yet one": (
        Survey([made("a", 0, kind="bake"), made("b", 1)]), Terms(keep=1), {"b": "stay: one of the newest 1"}
    ),
    "young": (
        Survey([made("a", 2), made("b", 3)]), Terms(keep=0, days=3), {"a": "stay: younger than 3 days", "b": GOES}
    ),
    "a channel": (
        Survey([made(one) for one in "abcde"], channels=[channel(*"abcded")]),
        NONE,
        {
            "d": "stay: channel stable points to it",
            **dict.fromkeys("bc", "stay: channel stable can go back to it"),
            **dict.fromkeys("ae", GOES),
        },
    ),
    "references": (
        Survey([made("a"), made("b")], references=Usage({"ami-a": ("machine i-2", "machine i-1", "parameter x")})),
        NONE,
        {"a": "stay: machine i-1 and 2 more", "b": GOES},
    ),
    "shares": (
        Survey([made("a"), made("b")], [disk("x"), disk("y")], shares={"ami-a": "12", "ami-b": "", "snap-x": "3"}),
        NONE,
        {"a": "stay: shared with 1, 2", "b": GOES, "x": "stay: shared with 3", "y": "deprecate: no image has it"},
    ),
    "a base": (
        Survey([made("a", 3), made("b", 2, base="ami-a"), made("c", 1, base="ami-b")]),
        NONE,
        {"a": "stay: ami-b was baked upon it", "b": "stay: ami-c was baked upon it", "c": GOES},
    ),
    "a base of what isn't ours": (
        Survey([made("a"), made("b", recipe="", base="ami-a")]), NONE, {"a": "stay: ami-b was baked upon it"}
    ),
    "snapshots": (
        Survey([made("a"), made("b", recipe="")], [disk("a"), disk("b"), disk("c"), disk("d", deprecated="x")]),
        NONE,
        {"a": GOES, "c": "deprecate: no image has it", "d": "delete: no image has it"},
    ),
    "while images are being made": (
        Survey([made("a", state="pending"), made("b")], [disk("c")]),
        NONE,
        {"a": MAKING, "b": GOES, "c": MAKING},
    ),
    "a snapshot that is being made": (Survey([], [disk("a", state="pending")]), NONE, {"a": MAKING}),
    "the oldest first": (
        Survey([made("a", 1), made("b", 3), made("c", 2), made("d", 5, deprecated="x"), made("e", 4, deprecated="x")]),
        Terms(keep=0, limit=1),
        {
            "a": "later: nothing uses it; the limit is 1 at a time",
            "b": GOES,
            "c": "later: nothing uses it; the limit is 1 at a time",
            "d": GONE,
            "e": "later: nothing uses it; the limit is 1 at a time",
        },
    ),
    "what couldn't be read": (
        Survey([made("a", deprecated="x")], [disk("b")], Usage({}, ("the machines can't be read: no",))),
        NONE,
        dict.fromkeys("ab", "stay: not everything could be read"),
    ),
    "channels that couldn't be read": (
        Survey([made("a")], unread=("no rights",)), NONE, {"a": "stay: not everything could be read"}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "wanted", "expected"), CASES.values(), ids=CASES.keys())
def test_decide(found: Survey, wanted: Terms, expected: dict[str, str]) -> None:
    """Each of our things stays or takes a step, and the plan says why."""
    assert expected == told(found, wanted)


NAMES = "abcdefgh"
IDS = st.sampled_from([f"ami-{name}" for name in NAMES] + [f"snap-{name}" for name in NAMES])
IMAGES = st.builds(
    lambda name, days, state, kind, recipe, base, marked: made(
        name, days, state, kind, recipe=recipe, base=f"ami-{base}" if base else "", deprecated=marked
    ),
    *(st.sampled_from(NAMES), st.integers(0, 9), st.sampled_from([*["available"] * 9, "pending", "failed"])),
    *(st.sampled_from([*["image"] * 9, "bake", ""]), st.sampled_from([*["web"] * 5, "db", ""])),
    *(st.sampled_from(["", *NAMES]), st.sampled_from(["", "x"])),
)
DISKS = st.builds(
    lambda name, days, marked: disk(name, days, **({"deprecated": marked} if marked else {})),
    *(st.sampled_from(NAMES), st.integers(0, 9), st.sampled_from(["", "x"])),
)
ACCOUNTS = st.builds(
    Survey,
    images=st.lists(IMAGES, min_size=2, max_size=8, unique_by=lambda one: one.id),
    snapshots=st.lists(DISKS, max_size=8, unique_by=lambda one: one.id),
    references=st.builds(
        Usage,
        st.dictionaries(
            IDS, st.lists(st.sampled_from(["machine i-1", "parameter x"]), min_size=1).map(tuple), max_size=3
        ),
        st.sampled_from([*[()] * 9, ("the machines can't be read: no",)]),
    ),
    channels=st.lists(
        st.builds(
            lambda name, names: replace(channel(*names), name=name),
            st.sampled_from(["stable", "beta"]),
            st.lists(st.sampled_from(NAMES), min_size=1),
        ),
        unique_by=lambda one: one.name,
    ),
    shares=st.dictionaries(IDS, st.sampled_from([(), ("111111111111",)]), max_size=3),
)
TERMS = st.builds(Terms, st.integers(0, 2), st.integers(0, 4), st.integers(0, 5), st.booleans())


@given(ACCOUNTS, TERMS)
def test_nothing_in_use_ever_goes(found: Survey, wanted: Terms) -> None:
    """On no account goes what is in use, not ours, too new, or anything while something could not be read."""
    plan = retention.decide(found, wanted, NOW)
    going = [thing for step in ("deprecate", "delete", "later") for thing in plan.of(step)]
    ids = {thing.id for thing in going}

    assert not (ids and found.references.unread)
    assert set() == ids & set(found.references.users)
    assert set() == ids & {one for one, whom in found.shares.items() if whom}
    assert set() == ids & {back for one in found.channels for back in (one.image, *one.predecessors[:2])}
    assert set() == ids & {one.base for one in found.images}
    assert set() == ids & {disk for one in found.images for disk in one.snapshots}
    assert all(thing.recipe and now_old(thing, wanted) and thing.state != "pending" for thing in going)
    for recipe in ("web", "db"):
        ours = [one for one in found.images if one.recipe == recipe and one.tags.get(f"{TAG}kind") == "image"]
        assert set() == ids & {one.id for one in images.newest(ours)[: wanted.keep] if distinct(ours)}
    assert all(len(plan.of(step)) <= wanted.limit for step in ("deprecate", "delete"))
    assert all(thing.deprecated or wanted.at_once for thing in plan.of("delete"))


def now_old(thing: Image | Snapshot, wanted: Terms) -> bool:
    """Tell whether a thing is old enough to go."""
    return NOW - thing.created >= timedelta(days=wanted.days)


def distinct(found: list[Image]) -> bool:
    """Tell whether no two images were made at the same time, so that one order of theirs is right."""
    return len({one.created for one in found}) == len(found)


@settings(max_examples=300)  # an image and its snapshot must both be in use
@given(ACCOUNTS, TERMS, st.randoms())
def test_the_order_does_not_matter(found: Survey, wanted: Terms, chance: Any) -> None:
    """In whatever order AWS tells of things, the plan is the same."""

    def shuffled(things: Any) -> Any:
        return chance.sample(list(things), len(things))

    users = {one: tuple(shuffled(found.references.users[one])) for one in shuffled(found.references.users)}
    other = Survey(
        *(shuffled(found.images), shuffled(found.snapshots), Usage(users, found.references.unread)),
        *(shuffled(found.channels), {one: found.shares[one] for one in shuffled(found.shares)}),
    )

    assert retention.decide(found, wanted, NOW) == retention.decide(other, wanted, NOW)


@given(ACCOUNTS, TERMS)
def test_planning_is_all_that_is_planned(found: Survey, wanted: Terms) -> None:
    """Each of our images has one fate, and once a plan has been carried out the next one takes nothing back."""
    plan = retention.decide(found, wanted, NOW)
    ours = {one.id for one in found.images if one.recipe and one.tags.get(f"{TAG}kind") == "image"}

    assert ours == {fate.thing.id for fate in plan.fates if isinstance(fate.thing, Image)}
    assert len(plan.fates) == len({fate.thing.id for fate in plan.fates})
    assert plan == retention.decide(found, wanted, NOW)
    gone = [thing.id for thing in plan.of("delete")]
    left = [one for one in found.images if one.id not in gone]
    later = retention.decide(replace(found, images=left), wanted, NOW)
    stayed = {fate.thing.id for fate in plan.fates if fate.step == "stay"}
    assert set() == {thing.id for thing in later.of("delete")} & stayed - {one.base for one in found.images}


@pytest.mark.parametrize("flag", ["keep", "older-than", "limit"])
@pytest.mark.parametrize("text", ["-1", "x", "1.5", ""])
def test_terms(flag: str, text: str) -> None:
    """What is no number from 0 up is refused by the name of its flag."""
    typed = {"keep": "3", "older_than": "0", "limit": "20"}
    assert Terms() == retention.terms(**typed, at_once=False)

    with pytest.raises(InputError, match=f"--{flag} {text} is not a number"):
        retention.terms(**{**typed, flag.replace("-", "_"): text}, at_once=False)
