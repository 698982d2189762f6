"""Retirements: deprecate and delete images and snapshots, as ``retention`` or a person decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from bakehouse import console, endings, images
from bakehouse.accounts import TAG, Account, Stays, tag_list
from bakehouse.errors import BakehouseError, CloudError, NotFoundError
from bakehouse.images import DEPRECATED, Image, Snapshot, channels, retention, usage
from bakehouse.images.channels import Channel
from bakehouse.images.retention import Fate, Retention, Survey, Terms, Thing
from bakehouse.images.usage import Usage

_GONE = ("InvalidAMIID.", "InvalidSnapshot.NotFound")  # AWS's error codes for what was deleted begin like this
_AHEAD = timedelta(minutes=2)  # EC2 rounds to whole minutes and refuses a time in the past


@dataclass(frozen=True)
class Retirement:
    """Hold what the retirement of one image deletes.

    Attributes:
        image: the image.
        snapshots: the IDs of its snapshots that are ours.
        channels: the channels that point to it; they are deleted with it.
        shares: with whom it is shared.
        references: what else uses images, and what could not be read.
    """

    image: Image
    snapshots: tuple[str, ...]
    channels: tuple[Channel, ...] = ()
    shares: tuple[str, ...] = ()
    references: Usage = field(default_factory=Usage)

    @property
    def lines(self) -> list[str]:
        """Return the plan in words, a line for each step."""
        return [
            *(f"still in use: {user}" for user in self._users()),
            *(f"maybe in use: {what}" for what in self.references.unread),
            *(f"shared with {whom}, who may use it" for whom in self.shares),
            *(f"delete channel {channel.name}, which points to it, with its history" for channel in self.channels),
            f"deregister image {self.image.id} ({self.image.name}, {self.image.created:%Y-%m-%d %H:%M})",
            *(f"delete snapshot {snapshot}" for snapshot in self.snapshots),
        ]

    def _users(self) -> list[str]:
        own = [f"parameter {channel.parameter}" for channel in self.channels]
        found = (user for one in (self.image.id, *self.image.snapshots) for user in self.references.users.get(one, ()))
        return [user for user in dict.fromkeys(found) if user not in own]


def plan(account: Account, wanted: Terms) -> Retention:
    """Survey the account and decide which of our images and snapshots may be deleted.

    Asking with whom things are shared takes a request for each, so it is done only for those that would be deprecated
    or deleted.
    """
    found, now = _survey(account), datetime.now(UTC)
    while True:
        planned = retention.decide(found, wanted, now)
        due = [thing for thing in (*planned.of("deprecate"), *planned.of("delete")) if thing.id not in found.shares]
        if not due:
            return planned
        found = _ask_for_shares(account, found, due)


def apply(account: Account, planned: Retention, wanted: Terms) -> None:
    """Carry out the decisions of a retention; it is no error when a thing was deleted meanwhile.

    Right before each deletion the account is surveyed again: what is in use by now stays. Raises CloudError in the end
    when something could not be deprecated or deleted; the rest is.
    """
    stays = Stays()
    for thing in planned.of("deprecate"):
        with stays.told(thing.id), console.step(f"{thing.id} deprecated"):
            deprecate(account, thing)
    for thing in planned.of("delete"):
        with stays.told(thing.id):
            fate = _fate(account, thing, wanted)
            if fate.step == "delete":
                with console.step(f"{thing.id} deleted"):
                    delete(account, thing)
            else:
                console.say(f"{thing.id} stays: {fate.why}")
    stays.insist()


def insist(planned: Retention) -> None:
    """Raise CloudError when something could not be read, because then nothing may be deleted."""
    if planned.unread:
        raise CloudError(
            f"nothing is deleted: {'; '.join(planned.unread)}", "docs/aws.md lists the rights that the tasks need"
        )


def deprecate(account: Account, thing: Thing) -> None:
    """Mark a thing as one that the next cleanup may delete; ``images.restore`` undoes it."""
    now = datetime.now(UTC)
    tags = tag_list({DEPRECATED: f"{now:%Y-%m-%d %H:%M} UTC"})
    try:
        if isinstance(thing, Image):
            account.ec2.enable_image_deprecation(ImageId=thing.id, DeprecateAt=now + _AHEAD)
        account.ec2.create_tags(Resources=list(dict.fromkeys([thing.id, *_disks(account, thing)])), Tags=tags)
    except CloudError as error:
        if not error.aws_code.startswith(_GONE):
            raise


def delete(account: Account, thing: Thing) -> None:
    """Deregister an image and delete its snapshots, or delete a snapshot; a snapshot that another image uses stays."""
    disks = _disks(account, thing)
    if isinstance(thing, Image):
        images.gone(account, thing.id)
    for disk in disks:
        try:
            account.ec2.delete_snapshot(SnapshotId=disk)
        except CloudError as error:
            if error.aws_code == "InvalidSnapshot.InUse":
                console.say(f"snapshot {disk} stays: {error.text}")
            elif not error.aws_code.startswith(_GONE):
                raise


def retirement(account: Account, image: Image) -> Retirement:
    """Return what the retirement of an image would delete, and what still uses the image."""
    pointing = [channel for channel in channels.find(account, image.recipe) if channel.image == image.id]
    disks = _disks(account, image)
    try:
        shares = usage.shares(account, image.id, disks)
    except CloudError as error:
        if not error.aws_code.startswith(_GONE):
            raise
        shares = ()
    return Retirement(image, disks, tuple(pointing), shares, usage.find(account))


def retire(account: Account, planned: Retirement) -> None:
    """Delete an image as planned; its channels go first, so that none points to a deleted image.

    Right before each deletion its reasons are read again. Raises CloudError, and deletes nothing more, when the image
    is used by now in a way that the plan doesn't tell.
    """
    image = planned.image.id
    with endings.stating(f"image {image} may be gone in part", f"./inv retire {image} deletes what is left"):
        for channel in _as_planned(account, planned).channels:
            channels.delete(account, channel)
        delete(account, _as_planned(account, planned).image)


def _as_planned(account: Account, planned: Retirement) -> Retirement:
    """Return what a retirement would delete now; raises CloudError when it is more than was planned."""
    try:
        image = images.get(account, planned.image.id)
    except NotFoundError:  # somebody was quicker
        image = planned.image
    now = retirement(account, image)
    if new := [line for line in now.lines if line not in planned.lines]:
        raise CloudError(
            f"image {planned.image.id} stays, because it is not as it was planned any more: {'; '.join(new)}",
            f"look again: ./inv retire {planned.image.id} --dry-run",
        )
    return now


def _fate(account: Account, thing: Thing, wanted: Terms) -> Fate:
    """Decide on one thing anew, by a fresh survey of the account."""
    found, now = _ask_for_shares(account, _survey(account), [thing]), datetime.now(UTC)
    unlimited = replace(wanted, limit=len(found.images) + len(found.snapshots))
    fates = retention.decide(found, unlimited, now).fates
    return next(
        (one for one in fates if one.thing.id == thing.id), Fate(thing, "stay", "it is gone, or not ours any more")
    )


def _survey(account: Account) -> Survey:
    """Look at the account; raises CloudError when images or snapshots can't be read: then nothing can be planned."""
    known, unread = list[Channel](), tuple[str, ...]()
    try:
        known = channels.find(account)
    except BakehouseError as error:
        unread = (f"the channels can't be read: {error.text}",)
    # snapshots before images: otherwise the snapshot of an image that is made in between would seem to have no image
    disks = images.snapshots(account, **{f"tag:{TAG}kind": "image"})
    return Survey(
        images=images.owned(account),
        snapshots=disks,
        references=usage.find(account),
        channels=known,
        unread=unread,
    )


def _ask_for_shares(account: Account, found: Survey, due: Iterable[Thing]) -> Survey:
    shares = dict(found.shares)
    for thing in due:
        image, disks = (thing.id, thing.snapshots) if isinstance(thing, Image) else ("", (thing.id,))
        try:
            shares[thing.id] = usage.shares(account, image, disks)
        except BakehouseError as error:
            return replace(found, unread=(f"the shares of {thing.id} can't be read: {error.text}",))
    return replace(found, shares=shares)


def _disks(account: Account, thing: Thing) -> tuple[str, ...]:
    """Return the IDs of the snapshots to delete: those of an image that have our tag, or a snapshot itself."""
    if isinstance(thing, Snapshot) or not thing.snapshots:
        return (thing.id,) if isinstance(thing, Snapshot) else ()
    ours = {one.id for one in images.snapshots(account, **{"snapshot-id": thing.snapshots})}
    return tuple(snapshot for snapshot in thing.snapshots if snapshot in ours)
