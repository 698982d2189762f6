"""Promotions: move a channel to another image, forward or back, if the image is fit; revoke and restore images."""

from __future__ import annotations

from bakehouse import console, images
from bakehouse.accounts import Account, connect
from bakehouse.errors import InputError, NotFoundError
from bakehouse.images import Image, channels, usage
from bakehouse.images.channels import Channel
from bakehouse.records import store
from bakehouse.settings import Settings

STABLE = "stable"
"""The default channel."""


def promote(
    settings: Settings, *, image_id: str = "", channel: str = STABLE, why: str = "", allow_stand_in: bool = False
) -> Channel:
    """Move a channel forward to an image, by default the recipe's newest proven one, and return the moved channel.

    Anyone who may tag can write a verdict on an image. It counts only if this checkout has the proof. Raises InputError
    when the image isn't fit, or when somebody else has moved the channel meanwhile, and NotFoundError when there is no
    such image.
    """
    _check(channel, why)
    account = connect(settings)
    if allow_stand_in and not account.promotes_stand_ins:
        raise InputError(
            f"--allow-stand-in is not allowed on account {account.name}", "bake an image with the real packages"
        )
    known = channels.read(account, settings.recipe, channel)
    image = images.get(account, image_id, settings.recipe) if image_id else _newest_proven(account, settings)
    _refuse_unfit(account, image)
    if not store.proven(settings, image.id, image.proof):
        raise InputError(
            f"image {image.id} is tagged as proven, but its proof is not in this checkout",
            f"./inv prove --image {image.id}",
        )
    _refuse_stand_ins(account, image, allow_stand_in)
    return _move(account, known, image, why)


def roll_back(settings: Settings, *, channel: str = STABLE, to: str = "", why: str = "") -> Channel:
    """Move a channel back to an image that it pointed to, by default the last fit one, and return the moved channel.

    Raises NotFoundError when there is no such channel or no such image, and InputError as ``promote`` does.
    """
    _check(channel, why)
    account = connect(settings)
    known = channels.get(account, settings.recipe, channel)
    if to and to not in [one.image for one in known.moves]:
        raise InputError(
            f"channel {channel} never pointed to {to!r}", f"to move it there anyway: ./inv promote --image {to}"
        )
    image = _fit(account, known, to) if to else _nearest(account, known)
    return _move(account, known, image, why)


def revoke(settings: Settings, image_id: str, why: str) -> Image:
    """Revoke an image and return it: it and all images that were baked upon it may not be used any more.

    Prints these images, the channels that point to any of them, and with whom they are shared. Raises InputError when
    the reason is missing.
    """
    if not channels.check_why(why):
        raise InputError("--why is missing", "give the reason: --why TEXT")
    account = connect(settings)
    image = images.get(account, image_id, settings.recipe)
    revoked = images.tag(account, image.id, {images.REVOKED: why})
    upon = images.descendants(image, images.owned(account))
    for one in upon:
        console.say(f"image {one.id} of recipe {one.recipe} was baked upon it and may not be used either")
    for channel in channels.find(account):
        if channel.image in [image.id, *(one.id for one in upon)]:
            how = "the next bake moves it" if channel.name == channels.CANDIDATE else "./inv rollback moves it back"
            console.say(f"channel {channel.name} of recipe {channel.recipe} points to {channel.image}: {how}")
    for one in [image, *upon]:
        if whom := usage.shares(account, one.id, ()):
            console.say(f"image {one.id} is shared with {', '.join(whom)}, who see no tag: ./inv unshare {one.id}")
    return revoked


def restore(settings: Settings, image_id: str) -> Image:
    """Undo the revocation and the deprecation of an image, and return it."""
    account = connect(settings)
    image = images.get(account, image_id, settings.recipe)
    if not (image.revoked or image.deprecated):
        console.say(f"image {image.id} was neither revoked nor deprecated")
    images.restore(account, image)
    return image


def _check(channel: str, why: str) -> None:
    channels.check_why(why)
    if channels.check(channel) == channels.CANDIDATE:
        raise InputError(f"only bakes move channel {channel}", "choose another channel, such as --channel stable")


def _newest_proven(account: Account, settings: Settings) -> Image:
    for image in images.find(account, settings.recipe):
        proven = image.verdict == "pass" and store.proven(settings, image.id, image.proof)
        if proven and image.state == "available" and not images.revocation(account, image):
            return image
    raise NotFoundError(
        f"no image of recipe {settings.recipe} is proven on account {account.name}", "./inv prove proves the newest"
    )


def _refuse_unfit(account: Account, image: Image) -> None:
    """Raise InputError unless a channel may point to an image; stand-ins are not looked at."""
    if image.state != "available":
        raise InputError(f"image {image.id} is {image.state}", "wait until ./inv images shows it as available")
    images.refuse_revoked(account, image)
    images.refuse_unencrypted(account, image)
    if image.deprecated:
        raise InputError(
            f"image {image.id} is deprecated and will be deleted soon", f"to keep it: ./inv restore {image.id}"
        )
    if image.verdict == "fail":
        raise InputError(f"image {image.id} failed its proof", "choose another image; ./inv prove shows the reasons")
    if image.verdict != "pass":
        raise InputError(f"image {image.id} is not proven", f"./inv prove --image {image.id}")


def _refuse_stand_ins(account: Account, image: Image, allowed: bool) -> None:
    if image.stand_ins and not allowed:
        hint = (
            "add --allow-stand-in; the channel's history records it"
            if account.promotes_stand_ins
            else "bake an image with the real packages"
        )
        raise InputError(f"image {image.id} has stand-ins in place of: {', '.join(image.stand_ins)}", hint)


def _fit(account: Account, channel: Channel, image_id: str) -> Image:
    image = images.get(account, image_id, channel.recipe)
    _refuse_unfit(account, image)
    return image


def _nearest(account: Account, channel: Channel) -> Image:
    """Return the nearest predecessor of a channel that is fit; prints why the nearer ones are not."""
    for image_id in channel.predecessors:
        try:
            return _fit(account, channel, image_id)
        except (InputError, NotFoundError) as error:
            console.say(f"skipped: {error.text}")
    raise NotFoundError(
        f"channel {channel.name} has no earlier image that is fit", "./inv promote moves it to another image"
    )


def _move(account: Account, channel: Channel, image: Image, why: str) -> Channel:
    if channel.settled and channel.image == image.id:
        console.say(f"channel {channel.name} points to {image.id} already")
        return channel
    moved = channels.move(account, channel, image.id, why, image.stand_ins)
    console.say(f"channel {channel.name}: {channel.image or 'new'} -> {image.id} ({image.name})")
    for package in image.stand_ins:
        console.say(f"{package} is a stand-in")
    return moved
