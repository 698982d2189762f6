"""Retention: which of our images and snapshots may be deleted, which stay, and why.

This module only decides: it sends no requests and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bakehouse.accounts import TAG
from bakehouse.errors import InputError
from bakehouse.images import Image, Snapshot, usage
from bakehouse.images.channels import Channel
from bakehouse.images.usage import Usage

COLUMNS = ("step", "what", "recipe", "made", "why")

_BACK = 2  # predecessors of each channel that stay, so that it can be rolled back


Thing = Image | Snapshot


@dataclass(frozen=True)
class Terms:
    """Hold the terms of a cleanup.

    Attributes:
        keep: how many of each recipe's newest usable images stay in any case.
        days: how old an image or snapshot must be before it may be deleted, in days.
        limit: how many things are deprecated, and how many are deleted, in one run at most.
        at_once: whether things are deleted that no earlier run has deprecated.
        owner: whose things may be deprecated and deleted; empty for everyone's.
    """

    keep: int = 3
    days: int = 0
    limit: int = 20
    at_once: bool = False
    owner: str = ""


@dataclass(frozen=True)
class Survey:
    """Hold what was found on an account.

    Attributes:
        images: all images that the account owns; only ours may be deleted.
        snapshots: our snapshots.
        references: what uses images and snapshots.
        channels: the channels of all recipes.
        shares: with whom a thing is shared, by the thing's ID; only for the things that were asked about.
        unread: what could not be read, and why.
    """

    images: Sequence[Image] = ()
    snapshots: Sequence[Snapshot] = ()
    references: Usage = field(default_factory=Usage)
    channels: Sequence[Channel] = ()
    shares: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fate:
    """Hold the decision on one thing, and its reason.

    ``step`` is ``stay``, ``deprecate``, ``delete``, or ``later``: it may be deleted, but not in this run.
    """

    thing: Thing
    step: str
    why: str


@dataclass(frozen=True)
class Retention:
    """Hold the decisions on our images and snapshots; everything stays when something is ``unread``."""

    fates: tuple[Fate, ...]
    unread: tuple[str, ...] = ()

    def of(self, step: str) -> list[Thing]:
        """Return the things for which a step was decided."""
        return [fate.thing for fate in self.fates if fate.step == step]


def terms(*, keep: str, older_than: str, limit: str, at_once: bool) -> Terms:
    """Read the flags of a cleanup; raises InputError, which names the flag, when one is not a number from 0 up."""
    typed = {"keep": keep, "older-than": older_than, "limit": limit}
    for flag, text in typed.items():
        if not (text.isascii() and text.isdigit()):
            raise InputError(f"--{flag} {text} is not a number", "give a whole number from 0 up")
    return Terms(int(keep), int(older_than), int(limit), at_once)


def decide(found: Survey, wanted: Terms, now: datetime) -> Retention:
    """Decide for each of our images, and for each of our snapshots without an image, whether it stays and why.

    The oldest things go first. A thing is deprecated in one run and deleted in a later one.
    """
    ours = sorted(_ours(found), key=lambda thing: (thing.created, thing.id))
    unread = (*found.references.unread, *found.unread)
    if unread:
        return Retention(tuple(Fate(thing, "stay", "not everything could be read") for thing in ours), unread)
    held, left = _held(found, wanted, now), {"deprecate": wanted.limit, "delete": wanted.limit}
    fates = []
    for thing in ours:
        step, why = "stay", held.get(thing.id, "")
        if not why:
            step = "delete" if thing.deprecated or wanted.at_once else "deprecate"
            why = "nothing uses it" if isinstance(thing, Image) else "no image has it"
            left[step] -= 1
            if left[step] < 0:
                step, why = "later", f"{why}; the limit is {wanted.limit} at a time"
        fates.append(Fate(thing, step, why))
    return Retention(tuple(fates))


def as_data(planned: Retention) -> list[dict[str, Any]]:
    """Return the decisions as data for JSON."""
    return [
        {"step": one.step, **{key: getattr(one.thing, key) for key in ("id", "recipe", "created")}, "why": one.why}
        for one in planned.fates
    ]


def as_rows(planned: Retention) -> list[list[str]]:
    """Return the decisions as rows under ``COLUMNS``."""
    return [
        [fate.step, fate.thing.id, fate.thing.recipe, f"{fate.thing.created:%Y-%m-%d %H:%M}", fate.why]
        for fate in planned.fates
    ]


def _finished(found: Survey) -> list[Image]:
    return [image for image in found.images if image.recipe and image.tags.get(f"{TAG}kind") == "image"]


def _ours(found: Survey) -> list[Thing]:
    """Return our finished images, and our snapshots that belong to no image."""
    had = {snapshot for image in found.images for snapshot in image.snapshots}
    return [*_finished(found), *(snapshot for snapshot in found.snapshots if snapshot.id not in had)]


def _held(found: Survey, wanted: Terms, now: datetime) -> dict[str, str]:
    """Return the things that stay, by ID, each with the first reason."""
    held: dict[str, str] = {}
    for one, why in (*_used(found), *_spared(found, wanted, now)):
        held.setdefault(one, why)
    return held


def _used(found: Survey) -> Iterator[tuple[str, str]]:
    """Yield the IDs of the things that are in use, each with its use."""
    for channel in sorted(found.channels, key=lambda channel: channel.parameter):
        yield channel.image, f"channel {channel.name} points to it"
        for image_id in channel.predecessors[:_BACK]:
            yield image_id, f"channel {channel.name} can go back to it"
    of_image = {snapshot: image.id for image in found.images for snapshot in image.snapshots}
    used = [(one, usage.in_words(users)) for one, users in sorted(found.references.users.items())]
    yield from used
    for one, why in used:
        if one in of_image:
            yield of_image[one], f"its snapshot: {why}"
    for one, whom in sorted(found.shares.items()):
        if whom:
            yield one, f"shared with {', '.join(sorted(whom))}"
    for image in sorted(found.images, key=lambda image: image.id):
        yield image.base, f"{image.id} was baked upon it"


def _spared(found: Survey, wanted: Terms, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the IDs of the things that stay though nothing uses them, each with the reason."""
    for thing in _ours(found):
        if wanted.owner not in ("", thing.owner):
            yield thing.id, f"belongs to {thing.owner}" if thing.owner else "has no owner"
    for image in _newest(_finished(found), wanted.keep):
        yield image.id, f"one of the newest {wanted.keep}"
    making = any(image.state == "pending" for image in found.images)
    for thing in _ours(found):
        if thing.state == "pending" or (making and isinstance(thing, Snapshot)):
            yield thing.id, "images are being made"
        if now - thing.created < timedelta(days=wanted.days):
            yield thing.id, f"younger than {wanted.days} days"


def _newest(found: Iterable[Image], keep: int) -> list[Image]:
    """Return each recipe's newest images, as many as it takes to have ``keep`` usable ones among them."""
    usable, newest = Counter[str](), []
    for image in sorted(found, key=lambda image: (image.created, image.run, image.id), reverse=True):
        if usable[image.recipe] < keep:
            newest.append(image)
            usable[image.recipe] += image.state == "available" and not image.revoked
    return newest
