"""Copies: copy an image to other regions, with its tags, its snapshots and the channels that point to it."""

from __future__ import annotations

from bakehouse import console, endings, images, patience
from bakehouse.accounts import TAG, Account, connect, encryption, tag_specifications, wait
from bakehouse.errors import CloudError, InputError
from bakehouse.images import Image, channels
from bakehouse.settings import Settings

_ORIGIN = f"{TAG}copy-of"


def copy(settings: Settings, image_id: str, regions: str) -> dict[str, Image]:
    """Copy an image to regions and return the copies by region when they are available.

    ``regions`` are names with commas between. An existing copy, finished or not, is not made again, so that an
    interrupted copy can be repeated. The channels that point to the image are copied too: in each region they point to
    the copy there. Raises InputError when a region is unknown, not enabled, or the image's own.
    """
    account = connect(settings)
    regional = [account.at(region) for region in _enabled(account, regions)]
    image = images.usable(account, image_id, settings.recipe)
    with endings.stating("copies that were begun go on", f"./inv copy {image_id} {regions} waits for them"):
        begun = {there.region: _find(there, account, image) or _begin(there, account, image) for there in regional}
        copies = {there.region: _finish(there, begun[there.region]) for there in regional}
        for channel in channels.find(account, image.recipe):
            for there in regional if channel.image == image.id else ():
                _point(there, account, channel.name, copies[there.region])
    return copies


def _enabled(account: Account, regions: str) -> list[str]:
    """Return the regions that are named; raises InputError when one of them can't take a copy."""
    wanted = list(dict.fromkeys(filter(None, regions.split(","))))
    if not wanted:
        raise InputError("--region is missing", "give regions with commas between: --region eu-west-1,eu-central-1")
    told = account.ec2.describe_regions(AllRegions=True)["Regions"]
    enabled = {one["RegionName"]: one["OptInStatus"] != "not-opted-in" for one in told}
    for region in wanted:
        if region == account.region:
            raise InputError(f"the image is in region {region} already", "give another region")
        if region not in enabled:
            raise InputError(f"there is no region {region}", f"known: {', '.join(sorted(enabled))}")
        if not enabled[region]:
            raise InputError(f"region {region} is not enabled on account {account.name}", "enable it, or give another")
    return wanted


def _find(there: Account, home: Account, image: Image) -> Image | None:
    """Return the image's copy that exists or is being made; a failed copy does not count."""
    found = images.owned(there, **{f"tag:{_ORIGIN}": f"{home.region}/{image.id}"})
    return next((one for one in images.newest(found) if one.state in ("available", "pending")), None)


def _begin(there: Account, home: Account, image: Image) -> Image:
    own = {key: value for key, value in image.tags.items() if not key.startswith("aws:") and key != images.DEPRECATED}
    tags = {**own, **there.site.tags, _ORIGIN: f"{home.region}/{image.id}"}
    copied = there.ec2.copy_image(
        SourceImageId=image.id,
        SourceRegion=home.region,
        Name=image.name,
        TagSpecifications=tag_specifications(tags, "image", "snapshot"),
        **encryption.disk(there, encryption.key(there)),
    )
    return images.there(there, copied["ImageId"])


def _finish(there: Account, copied: Image) -> Image:
    """Wait until a copy is available, make it require IMDSv2, which EC2 doesn't copy, and return it."""

    def look() -> Image | None:
        found = images.there(there, copied.id)
        return found if found.state != "pending" else None

    with console.step(f"{copied.id} available in {there.region}"):
        found = wait(f"image {copied.id} to be available in {there.region}", look, patience.COPIED, every=2)
        if found.state != "available":
            raise CloudError(f"image {found.id}, the copy in {there.region}, is {found.state}", "copy it again")
    return found if found.imdsv2 else images.require_imdsv2(there, found.id)


def _point(there: Account, home: Account, name: str, copied: Image) -> None:
    known = channels.read(there, copied.recipe, name)
    if known.image != copied.id:
        why = f"copied from {home.region}"
        channels.move(there, known, copied.id, why, copied.stand_ins)
        console.say(f"channel {name} in {there.region}: {known.image or 'new'} -> {copied.id}")
