"""Shares: other accounts that may launch an image and copy its snapshots."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bakehouse import console, images
from bakehouse.accounts import TAG, Account, connect, wait
from bakehouse.errors import InputError
from bakehouse.images import Image, usage
from bakehouse.settings import Settings

_DEFAULT_KEY = "alias/aws/ebs"
_ACCOUNT = re.compile(r"[0-9]{12}")


def share(settings: Settings, image_id: str, accounts: str) -> Image:
    """Let accounts, with commas between, launch an image and use its snapshots; return the image when they may.

    Raises InputError for what is no account, the whole world say, and for an image whose key can't be shared.
    """
    ids = _accounts(accounts)
    account = connect(settings)
    image = images.usable(account, image_id, settings.recipe)
    if image.state != "available":
        raise InputError(f"image {image.id} is {image.state}", "wait until ./inv images says that it's available")
    ours, keys = _snapshots(account, image)
    _refuse_keys_of_aws(account, image, keys)
    for snapshot in ours:
        account.ec2.modify_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=ids
        )
    permission = {"Add": [{"UserId": one} for one in ids]}
    account.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission=permission)
    _look_again(account, image, ours, ids)
    for key in keys:
        console.say(f"its policy has to let them use key {key} too")
    return image


def _accounts(typed: str) -> list[str]:
    ids = list(dict.fromkeys(filter(None, typed.split(","))))
    for one in ids or [""]:
        if not _ACCOUNT.fullmatch(one):
            hint = "12 digits each, with commas between; an image is never shared with everybody"
            raise InputError(f"--account-id {one} is not an account's ID", hint)
    return ids


def _snapshots(account: Account, image: Image) -> tuple[list[str], list[str]]:
    """Return those of an image's snapshots that are ours, and the keys with which they are encrypted."""
    filters = [
        {"Name": "snapshot-id", "Values": list(image.snapshots)},
        {"Name": "tag-key", "Values": [f"{TAG}recipe"]},
    ]
    found = list(account.ec2.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=filters))
    keys = dict.fromkeys(one.get("KmsKeyId") or _DEFAULT_KEY for one in found if one["Encrypted"])
    return [one["SnapshotId"] for one in found], list(keys)


def _refuse_keys_of_aws(account: Account, image: Image, keys: Sequence[str]) -> None:
    """Raise InputError where an image is encrypted with the key that AWS manages, which no other account can use."""
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
