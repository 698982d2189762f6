"""Retirements: images and snapshots go, step by step, as was decided of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from bakehouse import console, images
from bakehouse.accounts import PAGED, TAG, Account, tag_list
from bakehouse.errors import BakehouseError, CloudError
from bakehouse.images import DEPRECATED, Image, channels, retention, usage
from bakehouse.images.channels import Channel
from bakehouse.images.retention import Plan, Snapshot, Survey, Terms, Thing
from bakehouse.images.usage import Usage

_GONE = ("InvalidAMIID.", "InvalidSnapshot.NotFound")  # how AWS's error codes begin for what isn't there any more
_AHEAD = timedelta(minutes=2)  # EC2 takes whole minutes, and none in the past


@dataclass(frozen=True)
class Retirement:
    """Hold what taking one image out of service means.

    Attributes: image; snapshots, those of its that are ours; channels, which point to it and go with it; references,
    what else uses it, and what could not be read.
    """

    image: Image
    snapshots: tuple[str, ...]
    channels: tuple[Channel, ...] = ()
    references: Usage = field(default_factory=Usage)

    @property
    def lines(self) -> list[str]:
        """Return the plan as a person reads it."""
        return [
            *(f"still in use: {user}" for user in self._users()),
            *(f"maybe in use: {what}" for what in self.references.unread),
            *(f"delete channel {channel.name}, which points to it, with its history" for channel in self.channels),
            f"deregister image {self.image.id} ({self.image.name}, {self.image.created:%Y-%m-%d %H:%M})",
            *(f"delete snapshot {snapshot}" for snapshot in self.snapshots),
        ]

    def _users(self) -> list[str]:
        own = [f"parameter {channel.parameter}" for channel in self.channels]
        return [user for user in self.references.users.get(self.image.id, ()) if user not in own]


def plan(account: Account, wanted: Terms) -> Plan:
    """Survey the account and say what becomes of each of our images and snapshots.

    Whom a thing is shared with takes a question for each: it is asked of those only whose turn it would be.
    """
    found, now = _survey(account), datetime.now(UTC)
    while True:
        planned = retention.decide(found, wanted, now)
        due = [thing for thing in (*planned.of("deprecate"), *planned.of("delete")) if thing.id not in found.shares]
        if not due:
            return planned
        found = _ask_for_shares(account, found, due)


def apply(account: Account, planned: Plan) -> None:
    """Have everything take its step; what has gone meanwhile is fine."""
    for thing in planned.of("deprecate"):
        with console.step(f"{thing.id} deprecated"):
            deprecate(account, thing)
    for thing in planned.of("delete"):
        with console.step(f"{thing.id} deleted"):
            delete(account, thing)


def insist(planned: Plan) -> None:
    """Raise CloudError when something could not be read, and therefore nothing may go."""
    if planned.unread:
        raise CloudError(f"nothing goes: {'; '.join(planned.unread)}", "README lists the rights that the tasks need")


def deprecate(account: Account, thing: Thing) -> None:
    """Announce that a thing goes at the next cleanup; ``images.restore`` takes it back."""
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
    """Deregister an image and delete its snapshots, or delete a snapshot; one that another image has stays."""
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
    """Say what taking an image out of service takes away, and what still uses it."""
    pointing = [channel for channel in channels.find(account, image.recipe) if channel.image == image.id]
    return Retirement(image, _disks(account, image), tuple(pointing), usage.find(account))


def retire(account: Account, planned: Retirement) -> None:
    """Take an image out of service as planned: first its channels, so that none points to what isn't there."""
    for channel in planned.channels:
        channels.delete(account, channel)
    delete(account, planned.image)


def _survey(account: Account) -> Survey:
    """Look at the account; images and snapshots must be readable, or there is nothing to plan."""
    ours = [{"Name": f"tag:{TAG}kind", "Values": ["image"]}, {"Name": "tag-key", "Values": [f"{TAG}recipe"]}]
    which = {"OwnerIds": ["self"], "Filters": ours, "PaginationConfig": PAGED}
    known, unread = list[Channel](), tuple[str, ...]()
    try:
        known = channels.find(account)
    except BakehouseError as error:
        unread = (f"the channels can't be read: {error.text}",)
    # snapshots before images: one that is made in between must not look as if it had none
    disks = [Snapshot.from_aws(one) for one in account.ec2.pages("describe_snapshots", "Snapshots", **which)]
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
            return replace(found, unread=(f"whom {thing.id} is shared with can't be read: {error.text}",))
    return replace(found, shares=shares)


def _disks(account: Account, thing: Thing) -> tuple[str, ...]:
    """Return the snapshots of an image that are ours, without our tag they stay; of a snapshot itself."""
    if isinstance(thing, Snapshot) or not thing.snapshots:
        return (thing.id,) if isinstance(thing, Snapshot) else ()
    wanted = {"snapshot-id": list(thing.snapshots), "tag-key": [f"{TAG}recipe"]}
    filters = [{"Name": name, "Values": values} for name, values in wanted.items()]
    answers = account.ec2.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=filters)
    ours = {answer["SnapshotId"] for answer in answers}
    return tuple(snapshot for snapshot in thing.snapshots if snapshot in ours)
