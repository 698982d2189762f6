"""Encryption: with which KMS key volumes and images are encrypted, as accounts.yml says."""

from __future__ import annotations

from typing import Any

from bakehouse import sites
from bakehouse.accounts import Account, blamed
from bakehouse.errors import InputError

_GONE = ("NotFound", "InvalidArn", "Validation")  # of an alias, an ARN, an ID


def key(account: Account) -> str:
    """Return the ARN of the key of the account's region, after a look whether it can be used; empty for AWS's own key.

    With a key that can't be used EC2 launches a machine that ends by itself and doesn't say why. Raises InputError,
    which names the key and its state.
    """
    wanted = account.site.kms_key
    if not wanted:
        return ""
    with blamed(account, "kms_key", *_GONE):
        told: dict[str, Any] = account.client("kms").describe_key(KeyId=wanted)["KeyMetadata"]
    for name, needed in (("KeyState", "Enabled"), ("KeySpec", "SYMMETRIC_DEFAULT"), ("KeyUsage", "ENCRYPT_DECRYPT")):
        if told.get(name, needed) != needed:
            raise InputError(
                f"{sites.place(account.name, 'kms_key')}: {wanted} can't encrypt volumes: its {name} is {told[name]}",
                f"EC2 needs a key whose {name} is {needed}",
            )
    return str(told["Arn"])


def disk(account: Account, kms_key: str) -> dict[str, Any]:
    """Return what CopyImage and a volume's Ebs say of their encryption; ``kms_key`` is what ``key`` returned."""
    if not (kms_key or account.site.encrypted):
        return {}
    return {"Encrypted": True, **({"KmsKeyId": kms_key} if kms_key else {})}
