"""Channels: names that each point to one image of a recipe.

A channel is an SSM parameter: its value is the image's ID, and its versions are the channel's history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from bakehouse import console, endings, patience
from bakehouse.accounts import Account, tag_list, wait
from bakehouse.errors import BakehouseError, CloudError, InputError, NotFoundError
from bakehouse.images import Image

CANDIDATE = "candidate"
"""The channel that every bake moves to its image."""

COLUMNS = ("channel", "image", "when", "from", "by", "why")

ROOT = "/bakehouse"
"""The SSM path that holds the parameters of all channels."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_WHY = 256  # characters: the description of a parameter's version has room for 1024 and holds other facts too


@dataclass(frozen=True)
class Move:
    """Hold one move of a channel: one version of its parameter.

    A version that was made without Bakehouse has an empty origin, an empty why, and None as after.

    Attributes:
        version: the version's number.
        image: the ID of the image that the channel was moved to.
        when: when it was moved.
        origin: the ID of the image that it pointed to before; empty when there was none.
        by: the ARN of the person or program that moved it.
        why: the reason that was given.
        stand_ins: the names of the packages in the image that only stand in for the real ones.
        after: the version that was read before the move; 0 when there was none.
    """

    version: int
    image: str
    when: datetime
    origin: str = ""
    by: str = ""
    why: str = ""
    stand_ins: tuple[str, ...] = ()
    after: int | None = None

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Move:
        """Read one version from the answer of GetParameterHistory."""
        by = answer.get("LastModifiedUser", "")
        foreign = cls(answer["Version"], answer["Value"], answer["LastModifiedDate"], by=by)
        try:
            note = json.loads(answer.get("Description", ""))
            if note["image"] != foreign.image:
                return foreign  # somebody changed the value and kept our description
            origin, by, why = (str(note[key]) for key in ("origin", "by", "why"))
            return replace(
                foreign, origin=origin, by=by, why=why, stand_ins=tuple(note["stand_ins"]), after=int(note["after"])
            )
        except (ValueError, KeyError, TypeError):
            return foreign


@dataclass(frozen=True)
class Channel:
    """Hold one channel of a recipe: its name, and the versions that SSM still has, oldest first."""

    recipe: str
    name: str
    versions: tuple[Move, ...] = ()

    @property
    def parameter(self) -> str:
        """Return the name of its SSM parameter."""
        return f"{ROOT}/{self.recipe}/{self.name}"

    @property
    def moves(self) -> list[Move]:
        """Return the versions that count, oldest first.

        SSM accepts every version. When two people move a channel after they read the same version, only the first move
        counts. Whoever notices the second one moves the channel back.
        """
        counted: list[Move] = []
        for move in self.versions:
            if not counted or move.after is None or move.after >= counted[-1].version:
                counted.append(move)
        return counted

    @property
    def image(self) -> str:
        """Return the ID of the image that it points to; empty when it never pointed to one."""
        return self.moves[-1].image if self.versions else ""

    @property
    def settled(self) -> bool:
        """Tell whether the parameter's value is the image that the channel points to, so that everybody sees it."""
        return not self.versions or self.versions[-1].image == self.image

    @property
    def predecessors(self) -> list[str]:
        """Return the IDs of the images to roll back to, nearest first.

        When a channel was rolled back to an image, the images that came after that one are left out.
        """
        line: list[str] = []
        for move in self.moves:
            if move.image in line:
                del line[line.index(move.image) :]
            line.append(move.image)
        return line[-2::-1]


def check(name: str) -> str:
    """Return a channel's name; raises InputError when it is not valid."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"channel name {name!r} is not valid",
            "use a small letter, then up to 31 small letters, digits and dashes: stable",
        )
    return name


def check_why(why: str) -> str:
    """Return the reason of a move; raises InputError when it is too long."""
    if len(why) > _WHY:
        raise InputError(f"--why has {len(why)} characters; there is room for {_WHY}", "give a shorter reason")
    return why


def read(account: Account, recipe: str, name: str) -> Channel:
    """Return a channel of a recipe; it has no versions when it never pointed to an image."""
    channel = Channel(recipe, check(name))
    try:
        found = list(account.ssm.pages("get_parameter_history", "Parameters", Name=channel.parameter))
    except CloudError as error:
        if error.aws_code == "ParameterNotFound":
            return channel
        raise
    return Channel(recipe, name, tuple(sorted(map(Move.from_aws, found), key=lambda move: move.version)))


def find(account: Account, recipe: str = "") -> list[Channel]:
    """Return the channels of a recipe, or of all recipes, sorted by name."""
    path = f"{ROOT}/{recipe}" if recipe else ROOT
    found = account.ssm.pages("get_parameters_by_path", "Parameters", Path=path, Recursive=True)
    names = [answer["Name"].removeprefix(f"{ROOT}/").split("/") for answer in found]
    ours = [name for name in names if len(name) == 2 and _NAME.fullmatch(name[1])]
    return [read(account, *name) for name in sorted(ours)]


def get(account: Account, recipe: str, name: str) -> Channel:
    """Return the channel of this name; raises NotFoundError when it points to no image."""
    channel = read(account, recipe, name)
    if not channel.image:
        known = ", ".join(one.name for one in find(account, recipe)) or "none; ./inv promote makes one"
        raise NotFoundError(f"recipe {recipe} has no channel {name} on account {account.name}", f"known: {known}")
    return channel


def move(account: Account, channel: Channel, image: str, why: str = "", stand_ins: Sequence[str] = ()) -> Channel:
    """Move a channel to an image and return the moved channel.

    ``channel`` is the channel as it was read before. Raises InputError when somebody else has moved it since then; the
    channel keeps pointing to the image that they chose.
    """
    with endings.stating(f"channel {channel.name} may have moved", "./inv channels shows where it points"):
        return _move(account, channel, image, why, stand_ins)


def _move(account: Account, channel: Channel, image: str, why: str, stand_ins: Sequence[str]) -> Channel:
    version = _put(account, channel, image, why, stand_ins)
    now = _at_least(account, channel, version)
    own = next(one for one in now.versions if one.version == version)
    if any(replace(one, version=own.version, when=own.when) == own for one in now.moves):
        return now  # maybe as the version before: a request whose answer gets lost is sent again
    while not now.settled:
        now = _at_least(account, now, _put(account, now, now.image, f"moved back: version {version} came too late"))
    raise InputError(
        f"channel {channel.name} was moved to {now.image} meanwhile by {now.moves[-1].by} and stays there",
        "./inv channels shows the history",
    )


def delete(account: Account, channel: Channel) -> None:
    """Delete a channel with its history; it is no error when it was deleted before.

    ``channel`` is the channel as it was read before. Raises InputError when somebody else has moved it since then.
    """
    now = read(account, channel.recipe, channel.name)
    if now.versions and now.image != channel.image:
        raise InputError(
            f"channel {channel.name} was moved to {now.image} meanwhile by {now.moves[-1].by} and stays there",
            "./inv channels shows the history",
        )
    account.ssm.delete_parameters(Names=[channel.parameter])


def nominate(account: Account, image: Image) -> None:
    """Move the channel candidate to an image that was just baked.

    Prints what prevents it and raises nothing, because the image is complete.
    """
    try:
        move(account, read(account, image.recipe, CANDIDATE), image.id, f"bake {image.run}", image.stand_ins)
    except BakehouseError as error:
        console.say(f"the image is complete, but channel {CANDIDATE} could not be moved to it: {error.text}")
        if error.hint:
            console.say(f"hint: {error.hint}")


def as_rows(channels: Iterable[Channel]) -> list[list[str]]:
    """Return the moves of channels as rows under ``COLUMNS``; each channel's newest move comes first."""
    return [
        [channel.name, one.image, f"{one.when:%Y-%m-%d %H:%M}", one.origin, one.by, _reason(one)]
        for channel in channels
        for one in reversed(channel.moves)
    ]


def as_data(channel: Channel) -> dict[str, Any]:
    """Return a channel as data for JSON; its history begins with the oldest move."""
    known = {"recipe": channel.recipe, "channel": channel.name, "image": channel.image, "parameter": channel.parameter}
    return {**known, "history": [asdict(one) for one in channel.moves]}


def _reason(move: Move) -> str:
    return "; ".join([*filter(None, [move.why]), *(f"{name} is a stand-in" for name in move.stand_ins)])


def _put(account: Account, channel: Channel, image: str, why: str, stand_ins: Sequence[str] = ()) -> int:
    note = {
        "image": image,
        "origin": channel.image,
        "by": account.caller_arn(),
        "why": why,
        "stand_ins": stand_ins,
        "after": channel.moves[-1].version if channel.versions else 0,
    }
    told = {
        "Name": channel.parameter,
        "Value": image,
        "Type": "String",
        "DataType": "aws:ec2:image",
        "Description": json.dumps(note, ensure_ascii=False),
    }
    if account.site.tags and not channel.versions:  # SSM takes tags only where it overwrites nothing
        try:
            return int(account.ssm.put_parameter(**told, Tags=tag_list(account.site.tags))["Version"])
        except CloudError as error:
            if error.aws_code != "ParameterAlreadyExists":
                raise
    return int(account.ssm.put_parameter(**told, Overwrite=True)["Version"])


def _at_least(account: Account, channel: Channel, version: int) -> Channel:
    """Wait until SSM shows a version of a channel or a later one, and return the channel."""

    def look() -> Channel | None:
        found = read(account, channel.recipe, channel.name)
        return found if found.versions and found.versions[-1].version >= version else None

    return wait(f"channel {channel.name} to take its version {version}", look, patience.VISIBLE)
