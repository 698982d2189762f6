"""Shares: let other AWS accounts launch an image and copy its snapshots, and take it back from them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bakehouse import console, images, patience
from bakehouse.accounts import Account, connect, wait
from bakehouse.errors import InputError
from bakehouse.images import Image, usage
from bakehouse.settings import Settings

_ACCOUNT = re.compile(r"[0-9]{12}")
_EVERYBODY = "all"
_HINT = "give IDs of 12 digits with commas between; an image is never shared with everybody"


def share(settings: Settings, image_id: str, accounts: str) -> Image:
    """Let other AWS accounts launch an image and use its snapshots, and return the image when they may.

    ``accounts`` are IDs with commas between. Raises InputError when one of them is not an account's ID (an image can't
    be shared with everybody), and when the image is encrypted with a key that can't be shared.
    """
    ids = _accounts(accounts)
    if not ids:
        raise InputError("--account-id is missing", _HINT)
    account = connect(settings)
    image = images.usable(account, image_id, settings.recipe)
    if image.state != "available":
        raise InputError(f"image {image.id} is {image.state}", "wait until ./inv images shows it as available")
    disks = images.snapshots(account, **{"snapshot-id": image.snapshots})
    keys = list(dict.fromkeys(one.key for one in disks if one.key))
    _refuse_keys_of_aws(account, image, keys)
    _change(account, image, [one.id for one in disks], "add", ids)
    for key in keys:
        console.say(f"the policy of key {key} has to let these accounts use the key too")
    return image


def unshare(settings: Settings, image_id: str, accounts: str = "") -> Image:
    """Take an image and its snapshots back from other AWS accounts, by default from all, and return the image.

    ``accounts`` are IDs with commas between. Machines that they have launched, and copies that they have made, stay.
    """
    ids = _accounts(accounts)
    account = connect(settings)
    image = images.get(account, image_id, settings.recipe)
    ours = [one.id for one in images.snapshots(account, **{"snapshot-id": image.snapshots})]
    shared = usage.shares(account, image.id, tuple(ours))
    going = [one for one in shared if not ids or one in ids]
    if not going:
        console.say(f"image {image.id} is not shared{f' with {accounts}' if accounts else ''}")
        return image
    _change(account, image, ours, "remove", going)
    return image


def _change(account: Account, image: Image, snapshots: Sequence[str], how: str, whom: Sequence[str]) -> None:
    """Change with whom an image and its snapshots are shared, and return when that is so."""
    named, everybody = [one for one in whom if one != _EVERYBODY], _EVERYBODY in whom
    for snapshot in snapshots:
        account.ec2.modify_snapshot_attribute(
            SnapshotId=snapshot,
            Attribute="createVolumePermission",
            OperationType=how,
            **({"UserIds": named} if named else {}),
            **({"GroupNames": [_EVERYBODY]} if everybody else {}),
        )
    permissions = [{"UserId": one} for one in named] + ([{"Group": _EVERYBODY}] if everybody else [])
    account.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission={how.capitalize(): permissions})

    def look() -> bool | None:
        each = [usage.shares(account, image.id, ()), *(usage.shares(account, "", (one,)) for one in snapshots)]
        return all(set(whom) <= set(now) if how == "add" else not set(whom) & set(now) for now in each) or None

    wait(
        f"image {image.id} to be {'shared' if how == 'add' else 'no longer shared'} with {', '.join(whom)}",
        look,
        patience.VISIBLE,
    )


def _accounts(typed: str) -> list[str]:
    ids = list(dict.fromkeys(filter(None, typed.split(","))))
    for one in ids:
        if not _ACCOUNT.fullmatch(one):
            raise InputError(f"--account-id {one} is not an account's ID", _HINT)
    return ids


def _refuse_keys_of_aws(account: Account, image: Image, keys: Sequence[str]) -> None:
    """Raise InputError when an image is encrypted with a key that AWS manages: no other account can use such a key."""
    for key in keys:
        if account.client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyManager"] == "AWS":
            raise InputError(
                f"image {image.id} is encrypted with {key}, AWS's own key, which can't be shared",
                "copy it with a key of yours, and share the copy: aws ec2 copy-image --kms-key-id",
            )
