"""Channels: names that point to one image of a recipe, each an SSM parameter whose versions are its history."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from bakehouse import console
from bakehouse.accounts import Account, wait
from bakehouse.errors import BakehouseError, CloudError, InputError, NotFoundError
from bakehouse.images import Image

CANDIDATE = "candidate"
"""The channel that every bake moves to its image."""

COLUMNS = ("channel", "image", "when", "from", "by", "why")

ROOT = "/bakehouse"
"""The path under which the channels' parameters are."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_WHY = 256  # characters: the description of a parameter's version takes 1024, and holds more
_SECONDS = 60  # SSM looks whether the image is there before a version comes


@dataclass(frozen=True)
class Move:
    """Hold one version of a channel's parameter.

    Attributes: version; image; when; origin, the image that the channel pointed to before; by, who moved it (an ARN);
    why; stand_ins, the packages in the image that are not the real ones; after, the version that was read before it was
    moved. Of a version that somebody made otherwise neither origin nor why is known, and after is None.
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
        """Read one of the Parameters of a GetParameterHistory answer."""
        by = answer.get("LastModifiedUser", "")
        foreign = cls(answer["Version"], answer["Value"], answer["LastModifiedDate"], by=by)
        try:
            note = json.loads(answer.get("Description", ""))
            if note["image"] != foreign.image:
                return foreign  # somebody changed the value and left our note as it was
            origin, by, why = (str(note[key]) for key in ("origin", "by", "why"))
            return replace(
                foreign, origin=origin, by=by, why=why, stand_ins=tuple(note["stand_ins"]), after=int(note["after"])
            )
        except (ValueError, KeyError, TypeError):
            return foreign


@dataclass(frozen=True)
class Channel:
    """Hold one channel of a recipe: its name, and those of its versions that SSM still has, oldest first."""

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

        SSM takes every version. Of two people who moved the channel after the same version the first one has done so;
        the other's doesn't count, and is put right by whoever sees it.
        """
        counted: list[Move] = []
        for move in self.versions:
            if not counted or move.after is None or move.after >= counted[-1].version:
                counted.append(move)
        return counted

    @property
    def image(self) -> str:
        """Return the ID of the image that it points to; empty when it never did."""
        return self.moves[-1].image if self.versions else ""

    @property
    def settled(self) -> bool:
        """Tell whether the last version counts, so that everybody sees the image that it points to."""
        return not self.versions or self.versions[-1].image == self.image

    @property
    def predecessors(self) -> list[str]:
        """Return the images to roll back to, nearest first: who went back to an image has left those after it."""
        line: list[str] = []
        for move in self.moves:
            if move.image in line:
                del line[line.index(move.image) :]
            line.append(move.image)
        return line[-2::-1]


def check(name: str) -> str:
    """Return a channel's name; raises InputError when it is none."""
    if not _NAME.fullmatch(name):
        raise InputError(f"channel {name!r} is not a name", "small letters, digits and dashes, such as stable")
    return name


def check_why(why: str) -> str:
    """Return a reason; raises InputError when there is no room for it."""
    if len(why) > _WHY:
        raise InputError(f"--why has {len(why)} characters; there is room for {_WHY}", "say it shorter")
    return why


def read(account: Account, recipe: str, name: str) -> Channel:
    """Return a channel of a recipe, without versions when it never pointed to an image."""
    channel = Channel(recipe, check(name))
    try:
        found = list(account.ssm.pages("get_parameter_history", "Parameters", Name=channel.parameter))
    except CloudError as error:
        if error.aws_code == "ParameterNotFound":
            return channel
        raise
    return Channel(recipe, name, tuple(sorted(map(Move.from_aws, found), key=lambda move: move.version)))


def find(account: Account, recipe: str = "") -> list[Channel]:
    """Return the channels of a recipe, or of all recipes, by name."""
    path = f"{ROOT}/{recipe}" if recipe else ROOT
    found = account.ssm.pages("get_parameters_by_path", "Parameters", Path=path, Recursive=True)
    names = [answer["Name"].removeprefix(f"{ROOT}/").split("/") for answer in found]
    ours = [name for name in names if len(name) == 2 and _NAME.fullmatch(name[1])]
    return [read(account, *name) for name in sorted(ours)]


def get(account: Account, recipe: str, name: str) -> Channel:
    """Return a channel that points to an image; raises NotFoundError when there is none of this name."""
    channel = read(account, recipe, name)
    if not channel.image:
        known = ", ".join(one.name for one in find(account, recipe)) or "none; ./inv promote makes one"
        raise NotFoundError(f"recipe {recipe} has no channel {name} on account {account.name}", f"known: {known}")
    return channel


def move(account: Account, channel: Channel, image: str, why: str = "", stand_ins: Sequence[str] = ()) -> Channel:
    """Point a channel, as it was read, to an image, and return it as it is then.

    Raises InputError when somebody else has moved it since it was read; then it points to what they chose.
    """
    version = _put(account, channel, image, why, stand_ins)
    now = _at_least(account, channel, version)
    if version in [one.version for one in now.moves]:
        return now
    while not now.settled:
        now = _at_least(account, now, _put(account, now, now.image, f"version {version} had not seen this one"))
    raise InputError(
        f"channel {channel.name} was moved to {now.image} meanwhile, by {now.moves[-1].by}: there it stays",
        "./inv channels shows what happened",
    )


def delete(account: Account, channel: Channel) -> None:
    """Delete a channel with its history; that it is gone already is fine."""
    account.ssm.delete_parameters(Names=[channel.parameter])


def nominate(account: Account, image: Image) -> None:
    """Move the channel candidate to an image that was just baked; if it can't be, say so: the image is complete."""
    try:
        move(account, read(account, image.recipe, CANDIDATE), image.id, f"bake {image.run}", image.stand_ins)
    except BakehouseError as error:
        console.say(f"channel {CANDIDATE} does not point to the image, which is complete: {error.text}")
        if error.hint:
            console.say(f"hint: {error.hint}")


def as_rows(channels: Iterable[Channel]) -> list[list[str]]:
    """Return the moves of channels as rows under ``COLUMNS``, of each channel the newest first."""
    return [
        [channel.name, one.image, f"{one.when:%Y-%m-%d %H:%M}", one.origin, one.by, _reason(one)]
        for channel in channels
        for one in reversed(channel.moves)
    ]


def as_data(channel: Channel) -> dict[str, Any]:
    """Return a channel as a program reads it, its history oldest first."""
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
    answer = account.ssm.put_parameter(
        Name=channel.parameter,
        Value=image,
        Type="String",
        DataType="aws:ec2:image",
        Description=json.dumps(note, ensure_ascii=False),
        Overwrite=True,
    )
    return int(answer["Version"])


def _at_least(account: Account, channel: Channel, version: int) -> Channel:
    """Return a channel when it has come to a version."""

    def look() -> Channel | None:
        found = read(account, channel.recipe, channel.name)
        return found if found.versions and found.versions[-1].version >= version else None

    return wait(f"channel {channel.name} to take its version {version}", look, _SECONDS)
