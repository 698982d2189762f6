"""Shares: let other AWS accounts launch an image and copy its snapshots."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bakehouse import console, images
from bakehouse.accounts import Account, connect, wait
from bakehouse.errors import InputError
from bakehouse.images import Image, usage
from bakehouse.settings import Settings

_ACCOUNT = re.compile(r"[0-9]{12}")


def share(settings: Settings, image_id: str, accounts: str) -> Image:
    """Let other AWS accounts launch an image and use its snapshots, and return the image when they may.

    ``accounts`` are IDs with commas between. Raises InputError when one of them is not an account's ID (an image can't
    be shared with everybody), and when the image is encrypted with a key that can't be shared.
    """
    ids = _accounts(accounts)
    account = connect(settings)
    image = images.usable(account, image_id, settings.recipe)
    if image.state != "available":
        raise InputError(f"image {image.id} is {image.state}", "wait until ./inv images shows it as available")
    disks = images.snapshots(account, **{"snapshot-id": image.snapshots})
    ours, keys = [one.id for one in disks], list(dict.fromkeys(one.key for one in disks if one.key))
    _refuse_keys_of_aws(account, image, keys)
    for snapshot in ours:
        account.ec2.modify_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=ids
        )
    permission = {"Add": [{"UserId": one} for one in ids]}
    account.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission=permission)
    _look_again(account, image, ours, ids)
    for key in keys:
        console.say(f"the policy of key {key} has to let these accounts use the key too")
    return image


def _accounts(typed: str) -> list[str]:
    ids = list(dict.fromkeys(filter(None, typed.split(","))))
    for one in ids or [""]:
        if not _ACCOUNT.fullmatch(one):
            hint = "give IDs of 12 digits with commas between; an image is never shared with everybody"
            raise InputError(f"--account-id {one} is not an account's ID" if one else "--account-id is missing", hint)
    return ids


def _refuse_keys_of_aws(account: Account, image: Image, keys: Sequence[str]) -> None:
    """Raise InputError when an image is encrypted with a key that AWS manages: no other account can use such a key."""
    for key in keys:
        if account.client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyManager"] == "AWS":
            raise InputError(
                f"image {image.id} is encrypted with {key}, AWS's own key, which can't be shared",
                "copy it with a key of yours, and share the copy: aws ec2 copy-image --kms-key-id",
            )


def _look_again(account: Account, image: Image, snapshots: Sequence[str], ids: Sequence[str]) -> None:
    def look() -> bool | None:
        each = [usage.shares(account, image.id, ()), *(usage.shares(account, "", (one,)) for one in snapshots)]
        return all(set(ids) <= set(whom) for whom in each) or None

    wait(f"image {image.id} to be shared with {', '.join(ids)}", look, seconds=60)
