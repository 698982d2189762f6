"""Images: what our bakes made of which base, found by their tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bakehouse.accounts import PAGED, TAG, Account, tag_list, tags_of, wait
from bakehouse.errors import CloudError, InputError, NotFoundError
from bakehouse.recipes import Base

REVOKED = f"{TAG}revoked"
"""The tag of an image that nobody may use any more; its value tells why."""

DEPRECATED = f"{TAG}deprecated"
"""The tag of an image or a snapshot that goes at the next cleanup; its value tells since when."""

_REPOSITORY = f"{TAG}repository-"
_REPOSITORIES = 30  # of the 50 tags that EC2 allows
_TAG_LENGTH = 256  # characters, as EC2 allows
_ID = re.compile(r"ami-([0-9a-f]{8}|[0-9a-f]{17})")


@dataclass(frozen=True)
class Image:
    """Hold one image (an AMI).

    Attributes: id; name; state, EC2's word for it (``available``, ``pending``); created, when; root_device, the name
    under which a machine finds its root volume; snapshots, the IDs of its volumes' snapshots; size, of its volumes in
    GiB; imdsv2, whether a machine of it answers metadata requests with a token only; tags, all of them, ours with their
    prefix.
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
    tags: Mapping[str, str]

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Image:
        """Read one of the Images of a DescribeImages answer."""
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
            tags=tags_of(answer),
        )

    @property
    def recipe(self) -> str:
        """Return the recipe it was baked from; empty when it isn't ours."""
        return self.tags.get(f"{TAG}recipe", "")

    @property
    def run(self) -> str:
        """Return the ID of the bake that made it."""
        return self.tags.get(f"{TAG}run", "")

    @property
    def base(self) -> str:
        """Return the ID of the image that it was baked upon."""
        return self.tags.get(f"{TAG}base", "")

    @property
    def revoked(self) -> str:
        """Return why it was revoked; empty when it wasn't."""
        return self.tags.get(REVOKED, "")

    @property
    def deprecated(self) -> bool:
        """Tell whether it goes at the next cleanup."""
        return DEPRECATED in self.tags

    @property
    def user(self) -> str:
        """Return the user that its machines are entered as over SSH."""
        return self.tags.get(f"{TAG}user", "")

    @property
    def verdict(self) -> str:
        """Return ``pass`` or ``fail``, as its proof says; empty when there was none."""
        return self.tags.get(f"{TAG}verdict", "").partition(" ")[0]

    @property
    def repositories(self) -> tuple[str, ...]:
        """Return the URLs of the indexes by which its bake installed packages."""
        tags = sorted(key for key in self.tags if key.startswith(_REPOSITORY))
        return tuple(self.tags[key] for key in tags)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Return the packages in it that only stand in for the real ones."""
        return tuple(key.removeprefix(TAG) for key, value in self.tags.items() if value == "stand-in")


def newest(images: list[Image]) -> list[Image]:
    """Return the images newest first; the run's ID decides where two were made in one second."""
    return sorted(images, key=lambda image: (image.created, image.run), reverse=True)


def find(account: Account, recipe: str) -> list[Image]:
    """Return our images of a recipe, newest first; those still being made are among them."""
    return newest(owned(account, **{f"tag:{TAG}recipe": recipe, f"tag:{TAG}kind": "image"}))


def owned(account: Account, **filters: str) -> list[Image]:
    """Return the account's own images, ours and others, that these filters let through."""
    which = {"Owners": ["self"], "Filters": [_filter(name, value) for name, value in filters.items()]}
    answers = account.ec2.pages("describe_images", "Images", **which, PaginationConfig=PAGED)
    return [Image.from_aws(answer) for answer in answers]


def latest(account: Account, recipe: str) -> Image:
    """Return the newest image of a recipe that can and may be launched; raises NotFoundError when there is none."""
    for image in find(account, recipe):
        if image.state == "available" and not revocation(account, image):
            return image
    raise NotFoundError(f"there is no image of recipe {recipe} on account {account.name}", "./inv bake makes one")


def get(account: Account, image_id: str, recipe: str = "") -> Image:
    """Return the image of this ID; refuses one that is malformed, unknown, half baked, not ours or another recipe's.

    Where no recipe is named it may be of any.
    """
    if not _ID.fullmatch(image_id):
        raise InputError(
            f"{image_id!r} is not an image ID",
            "one looks like ami-0a1b2c3d4e5f60718; ./inv images lists them",
        )
    image = _look(account, image_id)
    if image is None:
        raise NotFoundError(f"there is no image {image_id} on account {account.name}", "./inv images lists them")
    if image.tags.get(f"{TAG}kind") == "bake":
        raise InputError(f"image {image_id} is still being baked", "wait for its bake to end, or name another image")
    if not image.recipe:
        raise InputError(f"image {image_id} is none of ours: it carries no tag {TAG}recipe", "./inv images lists ours")
    if recipe and image.recipe != recipe:
        raise InputError(f"image {image_id} is of recipe {image.recipe}, not {recipe}", f"add --recipe {image.recipe}")
    return image


def usable(account: Account, image_id: str, recipe: str) -> Image:
    """Return the image that is meant: the one of this ID, or else the recipe's newest; refuses one that was revoked."""
    if not image_id:
        return latest(account, recipe)
    image = get(account, image_id, recipe)
    refuse_revoked(account, image)
    return image


def lineage(account: Account, image: Image) -> list[Image]:
    """Return an image, the image that it was baked upon, the one below, and so on, as far as they are there."""
    line = [image]
    while _ID.fullmatch(line[-1].base) and line[-1].base not in [one.id for one in line]:
        below = _look(account, line[-1].base)
        if below is None:
            break
        line.append(below)
    return line


def descendants(image: Image, among: Iterable[Image]) -> list[Image]:
    """Return those images that were baked upon one, or upon one that was, oldest first."""
    found: list[Image] = []
    for one in sorted(among, key=lambda one: one.created):  # a base is older than what is baked upon it
        if one.base in [image.id, *(other.id for other in found)]:
            found.append(one)
    return found


def revocation(account: Account, image: Image) -> str:
    """Return why an image may not be used: it, or one that it was baked upon, was revoked; empty when it may be."""
    for one in lineage(account, image):
        if one.revoked:
            what = f"image {image.id}" if one is image else f"image {one.id}, upon which {image.id} was baked,"
            return f"{what} was revoked: {one.revoked}"
    return ""


def refuse_revoked(account: Account, image: Image) -> None:
    """Raise InputError when an image, or one that it was baked upon, was revoked."""
    why = revocation(account, image)
    if why:
        raise InputError(why, "take another image: ./inv images lists them")


def base(account: Account, wanted: Base) -> Image:
    """Return the newest image that a base's name pattern and owner match, and that was not revoked.

    Raises NotFoundError naming the pattern and the owner.
    """
    filters = [_filter("name", wanted.image_name), _filter("state", "available")]
    answers = account.ec2.pages("describe_images", "Images", Owners=[wanted.owner], Filters=filters)
    for found in newest([Image.from_aws(answer) for answer in answers]):
        if not revocation(account, found):
            return found
    raise NotFoundError(
        f"base {wanted.name}: no image is named {wanted.image_name} and owned by {wanted.owner} in {account.region}",
        "look at packer/bases.auto.pkrvars.hcl, or take another base: --base NAME",
    )


def tag(account: Account, image_id: str, tags: Mapping[str, str]) -> Image:
    """Put tags on an image and on its snapshots; return it as it is then."""
    image = there(account, image_id)
    account.ec2.create_tags(Resources=[image.id, *image.snapshots], Tags=tag_list(tags))
    return there(account, image_id)


def repository_tags(indexes: Iterable[str]) -> dict[str, str]:
    """Return the tags by which an image tells the URLs of the indexes by which its bake installed packages.

    Where tags can't hold them all there are none: then no later bake takes the image for its own, whatever is offered.
    """
    tags = {f"{_REPOSITORY}{number}": index for number, index in enumerate(indexes, start=1)}
    fit = len(tags) <= _REPOSITORIES and all(len(index) <= _TAG_LENGTH for index in tags.values())
    return tags if fit else {}


def restore(account: Account, image: Image) -> None:
    """Take back that an image was revoked or deprecated."""
    account.ec2.disable_image_deprecation(ImageId=image.id)
    tags = [{"Key": key} for key in (REVOKED, DEPRECATED)]
    account.ec2.delete_tags(Resources=[image.id, *image.snapshots], Tags=tags)


def gone(account: Account, image_id: str) -> None:
    """Deregister an image and return when it is gone; that it was so already is fine."""
    try:
        account.ec2.deregister_image(ImageId=image_id)
    except CloudError as error:
        if not error.aws_code.startswith("InvalidAMIID."):
            raise
    wait(f"image {image_id} to be gone", lambda: _look(account, image_id) is None or None, seconds=120)


def require_imdsv2(account: Account, image_id: str) -> Image:
    """Have every machine of an image answer metadata requests with a token only; return the image as it is then."""
    account.ec2.modify_image_attribute(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
    return wait(f"image {image_id} to require IMDSv2", lambda: _with_imdsv2(there(account, image_id)), seconds=60)


def as_data(image: Image) -> dict[str, Any]:
    """Return an image as a program reads it, with its provenance."""
    ours = {key.removeprefix(TAG): value for key, value in image.tags.items() if key.startswith(TAG)}
    known = {"image": image.id, "name": image.name, "state": image.state, "created": image.created, "size": image.size}
    return {**known, "imdsv2": image.imdsv2, "snapshots": image.snapshots, "provenance": ours}


def _filter(name: str, *values: str) -> dict[str, Any]:
    return {"Name": name, "Values": list(values)}


def _look(account: Account, image_id: str) -> Image | None:
    try:
        found = account.ec2.describe_images(ImageIds=[image_id])["Images"]
    except CloudError as error:
        if error.aws_code in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
            return None
        raise
    return Image.from_aws(found[0]) if found and found[0]["State"] != "deregistered" else None


def there(account: Account, image_id: str) -> Image:
    """Return the image of this ID, whosever it is; raises NotFoundError when it isn't there."""
    image = _look(account, image_id)
    if image is None:
        raise NotFoundError(f"there is no image {image_id} on account {account.name}")
    return image


def _with_imdsv2(image: Image) -> Image | None:
    return image if image.imdsv2 else None
