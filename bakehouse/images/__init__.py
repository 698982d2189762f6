"""Images: the machine images (AMIs) that our bakes made. They are recognized by their tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bakehouse import patience, sites
from bakehouse.accounts import PAGED, TAG, Account, each, filters, sound_tags, tag_list, wait
from bakehouse.errors import CloudError, InputError, NotFoundError
from bakehouse.recipes import Base

REVOKED = f"{TAG}revoked"
"""The tag of a revoked image, which nobody may use any more; its value is the reason."""

DEPRECATED = f"{TAG}deprecated"
"""The tag of an image or snapshot that the next cleanup may delete; its value is the time of the deprecation."""

_REPOSITORY = f"{TAG}repository-"
_REPOSITORIES = 30  # of the 50 tags that EC2 allows
_TAG_LENGTH = 256  # characters, as EC2 allows
_DEFAULT_KEY = "alias/aws/ebs"  # AWS encrypts with it where no other key is named
_ID = re.compile(r"ami-([0-9a-f]{8}|[0-9a-f]{17})")


@dataclass(frozen=True)
class Image:
    """Hold one image (an AMI).

    Attributes:
        id: its ID.
        name: its name.
        state: its state in EC2's words (``available``, ``pending``).
        created: when it was created.
        root_device: the device name of the root volume, such as ``/dev/xvda``.
        root_snapshot: the ID of the root volume's snapshot; empty when there is none.
        snapshots: the IDs of the snapshots of all its volumes.
        size: the size of all its volumes together, in GiB.
        imdsv2: whether its machines require IMDSv2, that is a token with each metadata request.
        encrypted: whether all its volumes are encrypted.
        tags: all its tags; ours begin with the prefix ``TAG``.
    """

    id: str
    name: str
    state: str
    created: datetime
    root_device: str
    root_snapshot: str
    snapshots: tuple[str, ...]
    size: int
    imdsv2: bool
    encrypted: bool
    tags: Mapping[str, str]

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Image:
        """Read one image from the answer of DescribeImages; raises UnsoundError when it can't be used."""
        mappings = answer.get("BlockDeviceMappings", ())
        disks = {
            one["DeviceName"]: one["Ebs"]["SnapshotId"] for one in mappings if one.get("Ebs", {}).get("SnapshotId")
        }
        root = answer.get("RootDeviceName", "")
        return cls(
            id=answer["ImageId"],
            name=answer.get("Name", ""),
            state=answer["State"],
            created=datetime.fromisoformat(answer["CreationDate"]),
            root_device=root,
            root_snapshot=disks.get(root, ""),
            snapshots=tuple(disks.values()),
            size=sum(one.get("Ebs", {}).get("VolumeSize", 0) for one in mappings),
            imdsv2=answer.get("ImdsSupport") == "v2.0",
            encrypted=all(one["Ebs"].get("Encrypted", False) for one in mappings if "Ebs" in one),
            tags=sound_tags(f"image {answer['ImageId']}", answer),
        )

    @property
    def recipe(self) -> str:
        """Return the name of the recipe that it was baked from; empty when it isn't ours."""
        return self.tags.get(f"{TAG}recipe", "")

    @property
    def run(self) -> str:
        """Return the ID of the run that baked it."""
        return self.tags.get(f"{TAG}run", "")

    @property
    def base(self) -> str:
        """Return the ID of the image that it was baked upon."""
        return self.tags.get(f"{TAG}base", "")

    @property
    def owner(self) -> str:
        """Return whose it is, as the one who baked it said; empty when nothing tells it."""
        return self.tags.get(f"{TAG}owner", "")

    @property
    def revoked(self) -> str:
        """Return why it was revoked; empty when it was not."""
        return self.tags.get(REVOKED, "")

    @property
    def deprecated(self) -> bool:
        """Tell whether the next cleanup may delete it."""
        return DEPRECATED in self.tags

    @property
    def user(self) -> str:
        """Return the name of the user for SSH on its machines."""
        return self.tags.get(f"{TAG}user", "")

    @property
    def privileged(self) -> bool:
        """Tell whether its recipe says that its machines are privileged on the local EC2."""
        return f"{TAG}privileged" in self.tags

    @property
    def verdict(self) -> str:
        """Return the verdict of its proof, ``pass`` or ``fail``; empty when it was never proven."""
        return self.tags.get(f"{TAG}verdict", "").partition(" ")[0]

    @property
    def proof(self) -> str:
        """Return the digest of its proof's record; empty when it was never proven."""
        return self.tags.get(f"{TAG}verdict", "").partition(" ")[2]

    @property
    def repositories(self) -> tuple[str, ...]:
        """Return the URLs of the repository indexes from which its bake installed packages."""
        tags = sorted(key for key in self.tags if key.startswith(_REPOSITORY))
        return tuple(self.tags[key] for key in tags if self.tags[key].startswith(("http://", "https://")))

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Return the names of the packages in it that only stand in for the real ones."""
        return tuple(key.removeprefix(TAG) for key, value in self.tags.items() if value == "stand-in")

    @property
    def origin(self) -> dict[str, str]:
        """Return its base, commit and the versions of the programs that baked it, by name, as its tags tell them."""
        names = ("base", "commit", "kit", "packer", "ansible")
        return {name: self.tags[f"{TAG}{name}"] for name in names if f"{TAG}{name}" in self.tags}


@dataclass(frozen=True)
class Snapshot:
    """Hold one snapshot of ours.

    Attributes:
        id: its ID.
        state: its state in EC2's words.
        created: when it was created.
        tags: all its tags; ours begin with the prefix ``TAG``.
        key: the KMS key with which it is encrypted; empty when it is not encrypted.
    """

    id: str
    state: str
    created: datetime
    tags: Mapping[str, str]
    key: str = ""

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Snapshot:
        """Read one snapshot from the answer of DescribeSnapshots."""
        return cls(
            id=answer["SnapshotId"],
            state=answer["State"],
            created=answer["StartTime"],
            tags=sound_tags(f"snapshot {answer['SnapshotId']}", answer),
            key=answer.get("KmsKeyId") or _DEFAULT_KEY if answer.get("Encrypted") else "",
        )

    @property
    def recipe(self) -> str:
        """Return the name of the recipe of the image that it belongs to."""
        return self.tags.get(f"{TAG}recipe", "")

    @property
    def owner(self) -> str:
        """Return whose it is; empty when nothing tells it."""
        return self.tags.get(f"{TAG}owner", "")

    @property
    def deprecated(self) -> bool:
        """Tell whether the next cleanup may delete it."""
        return DEPRECATED in self.tags


def newest(images: list[Image]) -> list[Image]:
    """Return the images newest first; two images of the same second are ordered by the IDs of their runs."""
    return sorted(images, key=lambda image: (image.created, image.run), reverse=True)


def find(account: Account, recipe: str) -> list[Image]:
    """Return our images of a recipe, newest first, including those that are still being made.

    An image that is not sound is told and left out.
    """
    return newest([*each(Image.from_aws, _owned(account, **{f"tag:{TAG}recipe": recipe, f"tag:{TAG}kind": "image"}))])


def owned(account: Account, **wanted: str) -> list[Image]:
    """Return the images that the account owns and that match these filters, baked by us or not.

    Raises UnsoundError when one is not sound: who deletes or revokes by this list may miss none.
    """
    return [Image.from_aws(answer) for answer in _owned(account, **wanted)]


def snapshots(account: Account, **wanted: str | Sequence[str]) -> list[Snapshot]:
    """Return our snapshots that match these filters; ours are those with a recipe in their tags."""
    which = {"OwnerIds": ["self"], "Filters": filters({"tag-key": f"{TAG}recipe", **wanted})}
    answers = account.ec2.pages("describe_snapshots", "Snapshots", **which, PaginationConfig=PAGED)
    return [Snapshot.from_aws(answer) for answer in answers]


def latest(account: Account, recipe: str, owner: str = "") -> Image:
    """Return a recipe's newest image that is available and not revoked; with ``owner``, the newest of theirs.

    Raises NotFoundError when there is none.
    """
    others = []
    for image in find(account, recipe):
        if image.state == "available" and not revocation(account, image):
            if owner in ("", image.owner):
                return image
            others.append(image.id)
    if others:
        raise NotFoundError(
            f"no image of recipe {recipe} on account {account.name} belongs to {owner}",
            f"the newest of others is {others[0]}: add --everyone, or --image {others[0]}",
        )
    raise NotFoundError(f"there is no image of recipe {recipe} on account {account.name}", "./inv bake makes one")


def get(account: Account, image_id: str, recipe: str = "") -> Image:
    """Return the image of this ID.

    Raises NotFoundError when there is no such image, and InputError when the ID is malformed or the image is still
    being baked, isn't ours, or is of another recipe. An empty recipe allows every recipe.
    """
    if not _ID.fullmatch(image_id):
        raise InputError(
            f"{image_id!r} is not an image ID",
            "an image ID looks like ami-0a1b2c3d4e5f60718; ./inv images lists the images",
        )
    image = _look(account, image_id)
    if image is None:
        raise NotFoundError(f"there is no image {image_id} on account {account.name}", "./inv images lists the images")
    if image.tags.get(f"{TAG}kind") == "bake":
        raise InputError(f"image {image_id} is still being baked", "wait for its bake to end, or choose another image")
    if not image.recipe:
        raise InputError(
            f"image {image_id} was not baked by Bakehouse: it has no tag {TAG}recipe", "./inv images lists the images"
        )
    if recipe and image.recipe != recipe:
        raise InputError(f"image {image_id} is of recipe {image.recipe}, not {recipe}", f"add --recipe {image.recipe}")
    return image


def usable(account: Account, image_id: str, recipe: str, owner: str = "") -> Image:
    """Return the image of this ID, or the recipe's newest when the ID is empty.

    With ``owner``, only the images of that owner count as the newest. Raises InputError if it is revoked, or not
    encrypted where accounts.yml requires that.
    """
    if image_id:
        image = get(account, image_id, recipe)
        refuse_revoked(account, image)
    else:
        image = latest(account, recipe, owner)
    refuse_unencrypted(account, image)
    return image


def refuse_unencrypted(account: Account, image: Image) -> None:
    """Raise InputError when accounts.yml requires encrypted images and this one isn't."""
    if account.site.encrypted and not image.encrypted:
        raise InputError(
            f"image {image.id} is not encrypted, which {sites.place(account.name, 'encrypted')} requires",
            "./inv bake --force bakes one that is",
        )


def lineage(account: Account, image: Image) -> list[Image]:
    """Return an image, the image that it was baked upon, and so on, as far as these images still exist."""
    line = [image]
    while _ID.fullmatch(line[-1].base) and line[-1].base not in [one.id for one in line]:
        below = _look(account, line[-1].base)
        if below is None:
            break
        line.append(below)
    return line


def descendants(image: Image, among: Iterable[Image]) -> list[Image]:
    """Return those of the images ``among`` that were baked upon an image, directly or indirectly, oldest first."""
    found: list[Image] = []
    for one in sorted(among, key=lambda one: one.created):  # a base is older than what is baked upon it
        if one.base in [image.id, *(other.id for other in found)]:
            found.append(one)
    return found


def revocation(account: Account, image: Image) -> str:
    """Return why an image may not be used: it or an image below it was revoked. Empty when it may be used."""
    for one in lineage(account, image):
        if one.revoked:
            what = f"image {image.id}" if one is image else f"image {one.id}, upon which {image.id} was baked,"
            return f"{what} was revoked: {one.revoked}"
    return ""


def refuse_revoked(account: Account, image: Image) -> None:
    """Raise InputError when an image, or an image that it was baked upon, was revoked."""
    why = revocation(account, image)
    if why:
        raise InputError(why, "choose another image; ./inv images lists the images")


def base(account: Account, wanted: Base, architecture: str = "") -> Image:
    """Return the newest image that matches a base's name pattern and owner and is not revoked.

    Raises NotFoundError, which names the pattern and the owner, when there is none.
    """
    pattern = wanted.pattern(architecture or account.architecture)
    named = filters({"name": pattern, "state": "available"})
    answers = account.ec2.pages("describe_images", "Images", Owners=[wanted.owner], Filters=named)
    for found in newest([*each(Image.from_aws, answers)]):
        if not revocation(account, found):
            return found
    raise NotFoundError(
        f"base {wanted.name}: no image is named {pattern} and owned by {wanted.owner} in {account.region}",
        "correct the base in packer/bases.auto.pkrvars.hcl, or choose another: --base NAME",
    )


def tag(account: Account, image_id: str, tags: Mapping[str, str]) -> Image:
    """Put tags on an image and on its snapshots, and return the image with its new tags."""
    image = there(account, image_id)
    account.ec2.create_tags(Resources=[image.id, *image.snapshots], Tags=tag_list(tags))
    return there(account, image_id)


def repository_tags(indexes: Iterable[str], fixed: int = 0) -> dict[str, str]:
    """Return the tags that record the URLs of the repository indexes from which a bake installed packages.

    They are empty when they don't fit in an image's tags, of which the account fixes the number ``fixed``. Then the
    next bake can't find out that nothing has changed, and bakes anew.
    """
    tags = {f"{_REPOSITORY}{number}": index for number, index in enumerate(indexes, start=1)}
    fit = len(tags) + fixed <= _REPOSITORIES and all(len(index) <= _TAG_LENGTH for index in tags.values())
    return tags if fit else {}


def restore(account: Account, image: Image) -> None:
    """Undo the revocation and the deprecation of an image."""
    account.ec2.disable_image_deprecation(ImageId=image.id)
    tags = [{"Key": key} for key in (REVOKED, DEPRECATED)]
    account.ec2.delete_tags(Resources=[image.id, *image.snapshots], Tags=tags)


def gone(account: Account, image_id: str) -> None:
    """Deregister an image and wait until it is gone; it is no error when it was gone before."""
    try:
        account.ec2.deregister_image(ImageId=image_id)
    except CloudError as error:
        if not error.aws_code.startswith("InvalidAMIID."):
            raise
    wait(f"image {image_id} to be gone", lambda: _look(account, image_id) is None or None, patience.GONE)


def require_imdsv2(account: Account, image_id: str) -> Image:
    """Make the machines of an image require IMDSv2 (a token with each metadata request), and return the image."""
    account.ec2.modify_image_attribute(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
    return wait(f"image {image_id} to require IMDSv2", lambda: _with_imdsv2(there(account, image_id)), patience.VISIBLE)


def as_data(image: Image) -> dict[str, Any]:
    """Return an image as data for JSON; ``provenance`` holds its Bakehouse tags."""
    ours = {key.removeprefix(TAG): value for key, value in image.tags.items() if key.startswith(TAG)}
    known = {"image": image.id, "name": image.name, "state": image.state, "created": image.created, "size": image.size}
    told = {"imdsv2": image.imdsv2, "encrypted": image.encrypted}
    return {**known, **told, "snapshots": image.snapshots, "provenance": ours}


def _owned(account: Account, **wanted: str) -> Iterator[dict[str, Any]]:
    which = {"Owners": ["self"], "Filters": filters(wanted)}
    return account.ec2.pages("describe_images", "Images", **which, PaginationConfig=PAGED)


def _look(account: Account, image_id: str) -> Image | None:
    try:
        found = account.ec2.describe_images(ImageIds=[image_id])["Images"]
    except CloudError as error:
        if error.aws_code in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
            return None
        raise
    return Image.from_aws(found[0]) if found and found[0]["State"] != "deregistered" else None


def there(account: Account, image_id: str) -> Image:
    """Return the image of this ID, whoever owns it; raises NotFoundError when there is none."""
    image = _look(account, image_id)
    if image is None:
        raise NotFoundError(f"there is no image {image_id} on account {account.name}")
    return image


def _with_imdsv2(image: Image) -> Image | None:
    return image if image.imdsv2 else None
