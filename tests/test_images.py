"""Images: found by our tags, refused without them, and taken out of service with their snapshots."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from bakehouse import images
from bakehouse.cloud import TAG, Cloud, tag_list
from bakehouse.errors import BakehouseError, InputError, NotFoundError
from bakehouse.images import Image
from bakehouse.recipes import Base

ANSWER = {
    "ImageId": "ami-0a1b2c3d4e5f60718",
    "Name": "bakehouse-jenkins-20261122-081500-a1b2",
    "State": "available",
    "CreationDate": "2026-11-22T08:15:00.000Z",
    "RootDeviceName": "/dev/xvda",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1"}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    ],
    "ImdsSupport": "v2.0",
    "Tags": tag_list({f"{TAG}recipe": "jenkins", f"{TAG}user": "admin", f"{TAG}jenkins": "stand-in", "Name": "x"}),
}

NUMBERS = count()

DEBIAN = Base("debian-13", "debian", "debian-13-amd64-*", "136693071363", "admin", "/dev/xvda")


def image(**changes: Any) -> Image:
    """Return an image that differs from ANSWER in its answer's keys."""
    return Image.from_aws({**ANSWER, **changes})


def baked(cloud: Cloud, recipe: str = "jenkins", **tags: str) -> str:
    """Have an image made with our tags, and return its ID."""
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot(cloud), "VolumeSize": 1}}
    name = f"bakehouse-{recipe}-{next(NUMBERS)}"
    image_id = cloud.ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[disk])["ImageId"]
    ours = {f"{TAG}recipe": recipe, f"{TAG}kind": "image", **{f"{TAG}{key}": value for key, value in tags.items()}}
    return images.tag(cloud, image_id, ours).id


def snapshot(cloud: Cloud) -> str:
    """Have a snapshot of an empty volume made, and return its ID."""
    volume = cloud.ec2.create_volume(Size=1, AvailabilityZone="us-east-1a")["VolumeId"]
    return str(cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])


def test_from_aws() -> None:
    """An answer becomes a record: snapshots of volumes only, and what our tags say."""
    read = image()

    assert ("ami-0a1b2c3d4e5f60718", "jenkins", "admin", ("snap-1",), ("jenkins",), True) == (
        read.id,
        read.recipe,
        read.user,
        read.snapshots,
        read.stand_ins,
        read.imdsv2,
    )
    assert datetime(2026, 11, 22, 8, 15, tzinfo=UTC) == read.created


@pytest.mark.parametrize(
    ("indexes", "kept"),
    [
        ([f"http://deb/{number}" for number in range(30)], 30),
        ([f"http://deb/{number}" for number in range(31)], 0),
        (["http://deb/1", f"http://deb/{'x' * 245}"], 2),
        (["http://deb/1", f"http://deb/{'x' * 246}"], 0),
    ],
)
def test_repository_tags(indexes: list[str], kept: int) -> None:
    """All of the indexes are in tags that EC2 can hold, or none is."""
    tags = images.repository_tags(indexes)

    assert kept == len(tags)
    assert tuple(tags.values()) == tuple(indexes[:kept])


@pytest.mark.local
def test_lineage(cloud: Cloud) -> None:
    """The lineage goes from an image to the one it was baked upon, as far as they are there, and never round."""
    base = cloud.ec2.register_image(Name="a base")["ImageId"]
    lower = baked(cloud, base=base)
    upper = baked(cloud, base=lower)
    orphan = baked(cloud, base="ami-0123456789abcdef0")
    round_ = baked(cloud)
    images.tag(cloud, round_, {f"{TAG}base": round_})

    expected = {upper: [upper, lower, base], orphan: [orphan], round_: [round_]}
    assert expected == {one: [each.id for each in images.lineage(cloud, images.get(cloud, one))] for one in expected}


def test_newest_first() -> None:
    """Of two images made in one second, the one of the later run comes first; an older one comes last."""
    first = image(ImageId="ami-1", Tags=tag_list({f"{TAG}run": "20261122-081459-ffff"}))
    second = image(ImageId="ami-2", Tags=tag_list({f"{TAG}run": "20261122-081500-0000"}))
    old = image(ImageId="ami-3", CreationDate="2026-11-21T08:15:00.000Z", Tags=tag_list({f"{TAG}run": "z"}))

    assert ["ami-2", "ami-1", "ami-3"] == [one.id for one in images.newest([old, first, second])]


@pytest.mark.local
def test_find_sees_only_finished_images_of_the_recipe(cloud: Cloud) -> None:
    """Neither another recipe's image, nor a bake's own, nor one without our tags is found."""
    wanted = baked(cloud)
    baked(cloud, recipe="nginx")
    bakes_own = baked(cloud)
    cloud.ec2.create_tags(Resources=[bakes_own], Tags=tag_list({f"{TAG}kind": "bake"}))
    stripped = baked(cloud)
    cloud.ec2.delete_tags(Resources=[stripped], Tags=[{"Key": f"{TAG}recipe"}])

    assert [wanted] == [one.id for one in images.find(cloud, "jenkins")]


@pytest.mark.local
def test_latest_is_one_that_can_be_launched(cloud: Cloud) -> None:
    """Without an image of the recipe, latest says how to make one; with one, it is that."""
    with pytest.raises(NotFoundError, match="no image of recipe jenkins") as raised:
        images.latest(cloud, "jenkins")
    assert "bake" in raised.value.hint

    assert baked(cloud) == images.latest(cloud, "jenkins").id


@pytest.mark.local
@pytest.mark.parametrize(
    ("image_id", "kind", "words"),
    [
        ("ami-xyz", InputError, "'ami-xyz' is not an image ID"),
        ("", InputError, "'' is not an image ID"),
        ("ami-0123456789abcdef0", NotFoundError, "no image ami-0123456789abcdef0 on account local"),
        ("theirs", InputError, "is none of ours"),
        ("half baked", InputError, "is still being baked"),
        ("another recipe's", InputError, "is of recipe nginx, not jenkins"),
    ],
)
def test_get_refuses(cloud: Cloud, image_id: str, kind: type[BakehouseError], words: str) -> None:
    """A malformed or unknown ID, an image of others and one of another recipe are refused in a line with a hint."""
    if image_id == "theirs":
        image_id = cloud.ec2.register_image(Name="theirs")["ImageId"]
    elif image_id == "half baked":
        image_id = baked(cloud)
        cloud.ec2.create_tags(Resources=[image_id], Tags=tag_list({f"{TAG}kind": "bake"}))
        cloud.ec2.delete_tags(Resources=[image_id], Tags=[{"Key": f"{TAG}recipe"}])
    elif image_id == "another recipe's":
        image_id = baked(cloud, recipe="nginx")

    with pytest.raises(kind, match=words) as raised:
        images.get(cloud, image_id, "jenkins")
    assert raised.value.hint and 2 == raised.value.code


@pytest.mark.local
def test_what_was_revoked_is_not_used(cloud: Cloud) -> None:
    """A revoked image, and one baked upon it, is passed over where none is named, and refused where it is."""
    good = baked(cloud, run="1")
    bad = baked(cloud, run="2", revoked="a hole", base="unknown")
    upon = baked(cloud, run="3", base=bad)

    assert good == images.latest(cloud, "jenkins").id == images.usable(cloud, "", "jenkins").id
    assert good == images.usable(cloud, good, "jenkins").id
    for image_id, words in ((bad, f"image {bad} was"), (upon, f"image {bad}, upon which {upon} was baked, was")):
        with pytest.raises(InputError, match=f"{words} revoked: a hole"):
            images.usable(cloud, image_id, "jenkins")
    assert [upon, bad] == [one.id for one in images.lineage(cloud, images.get(cloud, upon, "jenkins"))]
    ours = Base("ours", "debian", "bakehouse-jenkins-*", "self", "admin", "/dev/xvda")
    assert good == images.base(cloud, ours).id


@pytest.mark.local
def test_base_is_the_newest_match(cloud: Cloud) -> None:
    """A base is found by its name pattern and its owner, whatever moto's images of other names are."""
    ubuntu = Base("ubuntu", "debian", "ubuntu/images/*", "099720109477", "ubuntu", "/dev/sda1")

    found = images.base(cloud, ubuntu)

    assert found.name.startswith("ubuntu/images/")
    every = cloud.ec2.describe_images(Filters=[{"Name": "name", "Values": ["ubuntu/images/*"]}])["Images"]
    assert max(one["CreationDate"] for one in every) == f"{found.created:%Y-%m-%dT%H:%M:%S}.000Z"


@pytest.mark.local
def test_base_without_a_match_names_the_filter(cloud: Cloud) -> None:
    """Where no image matches, the error names the base, the pattern and the owner."""
    with pytest.raises(NotFoundError, match=r"debian-13: .* debian-13-amd64-\* .*136693071363"):
        images.base(cloud, DEBIAN)


@pytest.mark.local
def test_tag_reaches_the_snapshots(cloud: Cloud) -> None:
    """A tag put on an image is on each of its snapshots too, and on the record that comes back."""
    tagged = images.tag(cloud, baked(cloud), {f"{TAG}commit": "abc"})

    snapshots = cloud.ec2.describe_snapshots(SnapshotIds=list(tagged.snapshots))["Snapshots"]
    assert "abc" == tagged.tags[f"{TAG}commit"]
    assert [{"Key": f"{TAG}commit", "Value": "abc"}] == [
        tag for one in snapshots for tag in one["Tags"] if tag["Key"] == f"{TAG}commit"
    ]


def test_descendants() -> None:
    """What was baked upon an image, or upon what was, are its descendants; others' bases don't matter."""
    made = [
        image(
            ImageId=f"ami-{one}", CreationDate=f"2026-11-2{day}T00:00:00Z", Tags=tag_list({f"{TAG}base": f"ami-{base}"})
        )
        for one, base, day in (("c", "b", 3), ("b", "a", 2), ("d", "x", 1), ("e", "a", 4))
    ]

    found = images.descendants(image(ImageId="ami-a"), made)

    assert ["ami-b", "ami-c", "ami-e"] == [one.id for one in found]


@pytest.mark.local
def test_restore(cloud: Cloud) -> None:
    """What is restored is neither revoked nor deprecated, and the same as before."""
    before = images.get(cloud, baked(cloud), "jenkins")
    changed = images.tag(cloud, before.id, {images.REVOKED: "a hole", images.DEPRECATED: "today"})
    assert ("a hole", True) == (changed.revoked, changed.deprecated)

    images.restore(cloud, changed)

    assert before == images.get(cloud, before.id, "jenkins")
