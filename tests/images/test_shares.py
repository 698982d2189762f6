"""Shares: an image and its snapshots for other accounts, never for everybody, and not where the key can't be shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from samples import baked

from bakehouse import images
from bakehouse.accounts import TAG, Account
from bakehouse.errors import InputError
from bakehouse.images import Image, promotions, shares, usage
from bakehouse.settings import Settings

pytestmark = pytest.mark.local

ONE, OTHER = "111111111111", "222222222222"


@pytest.fixture
def share(settings: Settings, account: Account, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Image]:
    """Give the task."""
    monkeypatch.setattr(shares, "connect", lambda _: account)
    return lambda image, accounts: shares.share(settings, image, accounts)


def encrypt(account: Account, image: str, key: str) -> None:
    """Encrypt an image's snapshot with a key; without one, with that which AWS keeps for disks."""
    from moto.ec2.models import ec2_backends

    [snapshot] = images.get(account, image, "jenkins").snapshots
    found = ec2_backends["123456789012"]["us-east-1"].snapshots[snapshot]
    found.encrypted, found.kms_key_id = True, key


def test_share(account: Account, share: Callable[[str, str], Image]) -> None:
    """The accounts may launch the image and use its snapshots that are ours; sharing again changes nothing."""
    image = images.get(account, baked(account), "jenkins")

    share(image.id, f"{ONE},{OTHER}")

    for _ in range(2):
        assert {ONE, OTHER} == set(usage.shares(account, image.id, ()))
        assert {ONE, OTHER} == set(usage.shares(account, "", image.snapshots))
        share(image.id, ONE)


@pytest.mark.parametrize("accounts", ["", "all", "11111111111", f"{ONE},all", "arn:aws:iam::111111111111:root"])
def test_with_nobody(account: Account, share: Callable[[str, str], Image], accounts: str) -> None:
    """What is no account's ID is refused, and with it the whole world."""
    image = baked(account)

    with pytest.raises(InputError, match=r"is not an account's ID|--account-id is missing") as raised:
        share(image, accounts)
    assert "never shared with everybody" in raised.value.hint
    assert () == usage.shares(account, image, ())


def test_a_key_that_cant_be_shared(account: Account, share: Callable[[str, str], Image]) -> None:
    """What AWS's own key encrypts is refused before anything is shared."""
    disk = account.ec2.create_volume(Size=1, AvailabilityZone="us-east-1a", Encrypted=True)
    for key in (disk["KmsKeyId"], ""):
        image = baked(account)
        encrypt(account, image, key)

        with pytest.raises(
            InputError, match=f"image {image} is encrypted with .*, AWS's own key, which can't be shared"
        ):
            share(image, ONE)
        assert () == usage.shares(account, image, images.get(account, image, "jenkins").snapshots)


def test_a_key_that_can_be_shared(
    account: Account, share: Callable[[str, str], Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """What one's own key encrypts is shared, and it's said that the key's policy has to let the others use it."""
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    image = baked(account)
    encrypt(account, image, key)

    share(image, ONE)

    assert (ONE,) == usage.shares(account, image, images.get(account, image, "jenkins").snapshots)
    assert f"the policy of key {key} has to let these accounts use the key too" in capsys.readouterr().err


def test_a_snapshot_without_our_tag(account: Account, share: Callable[[str, str], Image]) -> None:
    """A snapshot of the image that lacks our tag stays as it is."""
    image = images.get(account, baked(account), "jenkins")
    account.ec2.delete_tags(Resources=list(image.snapshots), Tags=[{"Key": f"{TAG}recipe"}])

    share(image.id, ONE)

    assert (ONE,) == usage.shares(account, image.id, ())
    assert () == usage.shares(account, "", image.snapshots)


def test_unshare(account: Account, share: Callable[[str, str], Image], settings: Settings) -> None:
    """The image is taken back from one account, then from all, even if everybody had it; again it changes nothing."""
    image = images.get(account, baked(account), "jenkins")
    share(image.id, f"{ONE},{OTHER}")
    everybody = {"Attribute": "createVolumePermission", "OperationType": "add", "GroupNames": ["all"]}
    account.ec2.modify_image_attribute(ImageId=image.id, LaunchPermission={"Add": [{"Group": "all"}]})
    account.ec2.modify_snapshot_attribute(SnapshotId=image.snapshots[0], **everybody)

    shares.unshare(settings, image.id, ONE)
    assert {OTHER, "all"} == set(usage.shares(account, image.id, ())) == set(usage.shares(account, "", image.snapshots))
    images.tag(account, image.id, {images.REVOKED: "a hole"})
    for _ in range(2):
        shares.unshare(settings, image.id)
        assert () == usage.shares(account, image.id, image.snapshots)


def test_a_revoked_image_tells_with_whom_it_is_shared(
    account: Account,
    share: Callable[[str, str], Image],
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others see no tag: who revokes is told of each image that they have, also of those that were baked upon it."""
    monkeypatch.setattr(promotions, "connect", lambda _: account)
    image = baked(account)
    upon = baked(account, base=image)
    for one in (image, upon):
        share(one, ONE)

    promotions.revoke(settings, image, "a hole")

    told = capsys.readouterr().err
    for one in (image, upon):
        assert f"image {one} is shared with {ONE}, who see no tag: ./inv unshare {one}" in told
