"""Encryption: the key that accounts.yml names encrypts all, and one that can't is one line before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from moto_fixtures import enforced
from samples import baked
from samples import image as sample

from bakehouse import images
from bakehouse.accounts import Account, encryption, rights
from bakehouse.errors import InputError
from bakehouse.images import copies, promotions
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.settings import Settings
from bakehouse.sites import Site, Sites

pytestmark = pytest.mark.local

WANTED = Request(1, ("t3.small",), "192.0.2.7/32", b"")


def of(account: Account, **keys: Any) -> Account:
    """Return the account with an entry in accounts.yml."""
    return replace(account, sites=Sites(Site(**keys)))


def made(account: Account, **how: Any) -> str:
    """Make a key and return its ID."""
    return str(account.client("kms").create_key(**how)["KeyMetadata"]["KeyId"])


def _disabled(account: Account) -> str:
    key = made(account)
    account.client("kms").disable_key(KeyId=key)
    return key


def _deleted(account: Account) -> str:
    key = made(account)
    account.client("kms").schedule_key_deletion(KeyId=key)
    return key


WRONG: dict[str, tuple[Callable[[Account], str], str]] = {
    "no such alias": (lambda _: "alias/nobody", "describe_key: .*NotFound"),
    "no such ID": (lambda _: "12345678-1234-1234-1234-123456789012", "describe_key: .*NotFound"),
    "no such ARN": (lambda _: "arn:aws:kms:us-east-1:123456789012:key/1234", "describe_key: .*NotFound"),
    "disabled": (_disabled, "[0-9a-f-]+ can't encrypt volumes: its KeyState is Disabled"),
    "to be deleted": (_deleted, "[0-9a-f-]+ can't encrypt volumes: its KeyState is PendingDeletion"),
    "of two halves": (
        lambda account: made(account, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"),
        "[0-9a-f-]+ can't encrypt volumes: its KeySpec is RSA_2048",
    ),
    "for signatures": (
        lambda account: made(account, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"),
        "[0-9a-f-]+ can't encrypt volumes: its KeySpec is HMAC_256",
    ),
}


@pytest.mark.parametrize(("key", "words"), WRONG.values(), ids=WRONG)
def test_a_key_that_can_not_be_used(account: Account, settings: Settings, key: Any, words: str) -> None:
    """It is one line with the account, the key and why, exit code 2, and no machine is launched."""
    there = of(account, kms_key=key(account))

    with pytest.raises(InputError, match=f"^accounts.yml: local: kms_key: {words}") as refused:
        launches.begin(there, settings, images.get(account, baked(account)), WANTED, [])

    assert (2, 1) == (refused.value.code, len(refused.value.text.splitlines()))
    assert [] == account.ec2.describe_instances()["Reservations"]


def test_the_key_encrypts_machines_and_copies(
    account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's volume and a copy's snapshot are encrypted with the region's key, under a policy that allows it."""
    kms = account.client("kms")
    for region in ("us-east-1", "eu-west-1"):
        there = account.at(region).client("kms")
        there.create_alias(AliasName="alias/baker", TargetKeyId=there.create_key()["KeyMetadata"]["KeyId"])
    here = of(account, kms_key="alias/baker")
    limited, denied, _ = enforced(account, rights.policy(["launch", "copy"], here.site))
    limited = replace(limited, sites=here.sites)
    image = images.get(account, baked(account))
    monkeypatch.setattr(copies, "connect", lambda _: limited)

    [machine] = launches.begin(limited, settings, image, WANTED, [])
    copied = copies.copy(settings, image.id, "eu-west-1")["eu-west-1"]

    arn = kms.describe_key(KeyId="alias/baker")["KeyMetadata"]["Arn"]
    [volume] = account.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [machine.id]}])[
        "Volumes"
    ]
    assert (True, arn) == (volume["Encrypted"], volume["KmsKeyId"])
    [told] = account.at("eu-west-1").ec2.describe_snapshots(SnapshotIds=[*copied.snapshots])["Snapshots"]
    assert (True, "eu-west-1") == (told["Encrypted"], told["KmsKeyId"].split(":")[3])
    assert [] == denied


@pytest.mark.parametrize(
    ("keys", "key", "expected"),
    [
        ({}, "", {}),
        ({"encrypted": "required"}, "", {"Encrypted": True}),
        ({"kms_key": "alias/a"}, "arn", {"Encrypted": True, "KmsKeyId": "arn"}),
    ],
)
def test_disk(account: Account, keys: dict[str, str], key: str, expected: dict[str, Any]) -> None:
    """What is required is encrypted, with the key if there is one."""
    assert expected == encryption.disk(of(account, **keys), key)


def test_what_is_not_encrypted_is_refused(
    account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where encryption is required, an image without it is not used, and doesn't get into a channel."""
    there = of(account, encrypted="required")
    monkeypatch.setattr(promotions, "connect", lambda _: there)
    bare = baked(account, verdict="pass sha256:0")
    words = f"image {bare} is not encrypted, which accounts.yml: local: encrypted requires"

    for refuse in (
        lambda: images.usable(there, bare, "jenkins"),
        lambda: images.usable(there, "", "jenkins"),
        lambda: promotions.promote(settings, image_id=bare),
    ):
        with pytest.raises(InputError, match=words):
            refuse()
    told = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1", "Encrypted": True}}, {"DeviceName": "/dev/sdb"}]
    assert [True, False] == [sample(BlockDeviceMappings=told).encrypted, sample().encrypted]
