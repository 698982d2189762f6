"""Fates: which images and snapshots of ours may go and which stay, and why. It asks nobody and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bakehouse.accounts import TAG, tags_of
from bakehouse.errors import InputError
from bakehouse.images import DEPRECATED, Image, usage
from bakehouse.images.channels import Channel
from bakehouse.images.usage import Usage

COLUMNS = ("step", "what", "recipe", "made", "why")

_BACK = 2  # predecessors of a channel that stay, so that there is something to roll back to


@dataclass(frozen=True)
class Snapshot:
    """Hold one snapshot of ours: id; state, EC2's word for it; created, when; tags."""

    id: str
    state: str
    created: datetime
    tags: Mapping[str, str]

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Snapshot:
        """Read one of the Snapshots of a DescribeSnapshots answer."""
        return cls(answer["SnapshotId"], answer["State"], answer["StartTime"], tags_of(answer))

    @property
    def recipe(self) -> str:
        """Return the recipe of the image that it was made for."""
        return self.tags.get(f"{TAG}recipe", "")

    @property
    def deprecated(self) -> bool:
        """Tell whether it goes at the next cleanup."""
        return DEPRECATED in self.tags


Thing = Image | Snapshot


@dataclass(frozen=True)
class Terms:
    """Hold on which terms things may go.

    Attributes: keep, how many usable images of each recipe stay whatever else; days, how old the others must be; limit,
    how many take each step in one run; at_once, whether they go without having been deprecated in an earlier run.
    """

    keep: int = 3
    days: int = 0
    limit: int = 20
    at_once: bool = False


@dataclass(frozen=True)
class Survey:
    """Hold what was found on an account.

    Attributes: images, all of its own, of which only ours may go; snapshots, ours; references; channels; shares, for
    each thing whom it is shared with, as far as that was asked; unread, what could not be read, and why.
    """

    images: Sequence[Image] = ()
    snapshots: Sequence[Snapshot] = ()
    references: Usage = field(default_factory=Usage)
    channels: Sequence[Channel] = ()
    shares: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fate:
    """Hold what becomes of a thing, and why: it stays, is deprecated, is deleted, or goes later."""

    thing: Thing
    step: str
    why: str


@dataclass(frozen=True)
class Plan:
    """Hold what becomes of each of our images and snapshots, and what could not be read, for which all stay."""

    fates: tuple[Fate, ...]
    unread: tuple[str, ...] = ()

    def of(self, step: str) -> list[Thing]:
        """Return the things that take a step."""
        return [fate.thing for fate in self.fates if fate.step == step]


def terms(*, keep: str, older_than: str, limit: str, at_once: bool) -> Terms:
    """Read what a person typed. Raises InputError naming the flag that has no number from 0 up."""
    typed = {"keep": keep, "older-than": older_than, "limit": limit}
    for flag, text in typed.items():
        if not (text.isascii() and text.isdigit()):
            raise InputError(f"--{flag} {text} is not a number", "give a whole number from 0 up")
    return Terms(int(keep), int(older_than), int(limit), at_once)


def decide(found: Survey, wanted: Terms, now: datetime) -> Plan:
    """Say of each of our images, and of each snapshot of ours that no image has, whether it stays and why.

    What may go does so oldest first: it is deprecated in one run and deleted in a later one.
    """
    ours = sorted(_ours(found), key=lambda thing: (thing.created, thing.id))
    unread = (*found.references.unread, *found.unread)
    if unread:
        return Plan(tuple(Fate(thing, "stay", "not everything could be read") for thing in ours), unread)
    held, left = _held(found, wanted, now), {"deprecate": wanted.limit, "delete": wanted.limit}
    fates = []
    for thing in ours:
        step, why = "stay", held.get(thing.id, "")
        if not why:
            step = "delete" if thing.deprecated or wanted.at_once else "deprecate"
            why = "nothing uses it" if isinstance(thing, Image) else "no image has it"
            left[step] -= 1
            if left[step] < 0:
                step, why = "later", f"{why}; {wanted.limit} go at a time"
        fates.append(Fate(thing, step, why))
    return Plan(tuple(fates))


def as_rows(planned: Plan) -> list[list[str]]:
    """Return a plan as rows under ``COLUMNS``."""
    return [
        [fate.step, fate.thing.id, fate.thing.recipe, f"{fate.thing.created:%Y-%m-%d %H:%M}", fate.why]
        for fate in planned.fates
    ]


def _finished(found: Survey) -> list[Image]:
    return [image for image in found.images if image.recipe and image.tags.get(f"{TAG}kind") == "image"]


def _ours(found: Survey) -> list[Thing]:
    """Return our finished images, and our snapshots that no image has."""
    had = {snapshot for image in found.images for snapshot in image.snapshots}
    return [*_finished(found), *(snapshot for snapshot in found.snapshots if snapshot.id not in had)]


def _held(found: Survey, wanted: Terms, now: datetime) -> dict[str, str]:
    """Return for each thing that stays the first reason why."""
    held: dict[str, str] = {}
    for one, why in (*_used(found), *_spared(found, wanted, now)):
        held.setdefault(one, why)
    return held


def _used(found: Survey) -> Iterator[tuple[str, str]]:
    """Yield what is in use, and how."""
    for channel in sorted(found.channels, key=lambda channel: channel.parameter):
        yield channel.image, f"channel {channel.name} points to it"
        for image_id in channel.predecessors[:_BACK]:
            yield image_id, f"channel {channel.name} can go back to it"
    for one, users in found.references.users.items():
        yield one, usage.in_words(users)
    for one, whom in found.shares.items():
        if whom:
            yield one, f"shared with {', '.join(whom)}"
    for image in sorted(found.images, key=lambda image: image.id):
        yield image.base, f"{image.id} was baked upon it"


def _spared(found: Survey, wanted: Terms, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield what stays though it's not in use."""
    for image in _newest(_finished(found), wanted.keep):
        yield image.id, f"one of the newest {wanted.keep}"
    making = any(image.state == "pending" for image in found.images)
    for thing in _ours(found):
        if thing.state == "pending" or (making and isinstance(thing, Snapshot)):
            yield thing.id, "images are being made"
        if now - thing.created < timedelta(days=wanted.days):
            yield thing.id, f"younger than {wanted.days} days"


def _newest(found: Iterable[Image], keep: int) -> list[Image]:
    """Return of each recipe the newest images, so many that ``keep`` usable ones are among them."""
    usable, newest = Counter[str](), []
    for image in sorted(found, key=lambda image: (image.created, image.run, image.id), reverse=True):
        if usable[image.recipe] < keep:
            newest.append(image)
            usable[image.recipe] += image.state == "available" and not image.revoked
    return newest
