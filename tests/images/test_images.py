"""Images: found by our tags, refused without them, and taken out of service with their snapshots."""

from __future__ import annotations

import platform
from datetime import UTC, datetime

import pytest
from samples import baked, image

from bakehouse import images
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import BakehouseError, InputError, NotFoundError
from bakehouse.recipes import Base

DEBIAN = Base("debian-13", "debian", "debian-13-amd64-*", "136693071363", "admin", "/dev/xvda")


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
def test_lineage(account: Account) -> None:
    """The lineage goes from an image to the one it was baked upon, as far as they are there, and never round."""
    base = account.ec2.register_image(Name="a base")["ImageId"]
    lower = baked(account, base=base)
    upper = baked(account, base=lower)
    orphan = baked(account, base="ami-0123456789abcdef0")
    round_ = baked(account)
    images.tag(account, round_, {f"{TAG}base": round_})

    expected = {upper: [upper, lower, base], orphan: [orphan], round_: [round_]}
    assert expected == {
        one: [each.id for each in images.lineage(account, images.get(account, one))] for one in expected
    }


def test_newest_first() -> None:
    """Of two images made in one second, the one of the later run comes first; an older one comes last."""
    first = image(ImageId="ami-1", Tags=tag_list({f"{TAG}run": "20261122-081459-ffff"}))
    second = image(ImageId="ami-2", Tags=tag_list({f"{TAG}run": "20261122-081500-0000"}))
    old = image(ImageId="ami-3", CreationDate="2026-11-21T08:15:00.000Z", Tags=tag_list({f"{TAG}run": "z"}))

    assert ["ami-2", "ami-1", "ami-3"] == [one.id for one in images.newest([old, first, second])]


@pytest.mark.local
def test_find_sees_only_finished_images_of_the_recipe(account: Account) -> None:
    """Neither another recipe's image, nor a bake's own, nor one without our tags is found."""
    wanted = baked(account)
    baked(account, recipe="nginx")
    bakes_own = baked(account)
    account.ec2.create_tags(Resources=[bakes_own], Tags=tag_list({f"{TAG}kind": "bake"}))
    stripped = baked(account)
    account.ec2.delete_tags(Resources=[stripped], Tags=[{"Key": f"{TAG}recipe"}])

    assert [wanted] == [one.id for one in images.find(account, "jenkins")]


@pytest.mark.local
def test_latest_is_one_that_can_be_launched(account: Account) -> None:
    """Without an image of the recipe, latest says how to make one; with one, it is that."""
    with pytest.raises(NotFoundError, match="no image of recipe jenkins") as raised:
        images.latest(account, "jenkins")
    assert "bake" in raised.value.hint

    assert baked(account) == images.latest(account, "jenkins").id


@pytest.mark.local
def test_latest_of_an_owner(account: Account) -> None:
    """Of several people's images the newest of one is told; where they have none, the newest of the others is named."""
    mine, others = baked(account, owner="me"), baked(account, owner="you", run="later")

    assert mine == images.latest(account, "jenkins", "me").id == images.usable(account, "", "jenkins", "me").id
    assert others == images.latest(account, "jenkins").id
    with pytest.raises(NotFoundError, match="no image of recipe jenkins on account local belongs to them") as raised:
        images.latest(account, "jenkins", "them")
    assert f"add --everyone, or --image {others}" in raised.value.hint


@pytest.mark.local
@pytest.mark.parametrize(
    ("image_id", "kind", "words"),
    [
        ("ami-xyz", InputError, "'ami-xyz' is not an image ID"),
        ("", InputError, "'' is not an image ID"),
        ("ami-0123456789abcdef0", NotFoundError, "no image ami-0123456789abcdef0 on account local"),
        ("theirs", InputError, "was not baked by Bakehouse"),
        ("half baked", InputError, "is still being baked"),
        ("another recipe's", InputError, "is of recipe nginx, not jenkins"),
    ],
)
def test_get_refuses(account: Account, image_id: str, kind: type[BakehouseError], words: str) -> None:
    """A malformed or unknown ID, an image of others and one of another recipe are refused in a line with a hint."""
    if image_id == "theirs":
        image_id = account.ec2.register_image(Name="theirs")["ImageId"]
    elif image_id == "half baked":
        image_id = baked(account)
        account.ec2.create_tags(Resources=[image_id], Tags=tag_list({f"{TAG}kind": "bake"}))
        account.ec2.delete_tags(Resources=[image_id], Tags=[{"Key": f"{TAG}recipe"}])
    elif image_id == "another recipe's":
        image_id = baked(account, recipe="nginx")

    with pytest.raises(kind, match=words) as raised:
        images.get(account, image_id, "jenkins")
    assert raised.value.hint and 2 == raised.value.code


@pytest.mark.local
def test_what_was_revoked_is_not_used(account: Account) -> None:
    """A revoked image, and one baked upon it, is passed over where none is named, and refused where it is."""
    good = baked(account, run="1")
    bad = baked(account, run="2", revoked="a hole", base="unknown")
    upon = baked(account, run="3", base=bad)

    assert good == images.latest(account, "jenkins").id == images.usable(account, "", "jenkins").id
    assert good == images.usable(account, good, "jenkins").id
    for image_id, words in ((bad, f"image {bad} was"), (upon, f"image {bad}, upon which {upon} was baked, was")):
        with pytest.raises(InputError, match=f"{words} revoked: a hole"):
            images.usable(account, image_id, "jenkins")
    assert [upon, bad] == [one.id for one in images.lineage(account, images.get(account, upon, "jenkins"))]
    ours = Base("ours", "debian", "bakehouse-jenkins-*", "self", "admin", "/dev/xvda")
    assert good == images.base(account, ours).id


@pytest.mark.local
def test_base_is_the_newest_match(account: Account) -> None:
    """A base is found by its name pattern and its owner, whatever moto's images of other names are."""
    ubuntu = Base("ubuntu", "debian", "ubuntu/images/*", "099720109477", "ubuntu", "/dev/sda1")

    found = images.base(account, ubuntu)

    assert found.name.startswith("ubuntu/images/")
    every = account.ec2.describe_images(Filters=[{"Name": "name", "Values": ["ubuntu/images/*"]}])["Images"]
    assert max(one["CreationDate"] for one in every) == f"{found.created:%Y-%m-%dT%H:%M:%S}.000Z"


@pytest.mark.local
def test_base_of_an_architecture(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base is of the account's architecture, that of the local EC2's host, or of the one that is named."""
    base = Base("ours", "debian", "ours-{debian}", "self", "admin", "/dev/xvda")
    made = {name: account.ec2.register_image(Name=f"ours-{name}")["ImageId"] for name in ("amd64", "arm64")}

    assert made["arm64"] == images.base(account, base, "arm64").id
    for machine, name in (("x86_64", "amd64"), ("aarch64", "arm64")):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert made[name] == images.base(account, base).id


@pytest.mark.local
def test_base_without_a_match_names_the_filter(account: Account) -> None:
    """Where no image matches, the error names the base, the pattern and the owner."""
    with pytest.raises(NotFoundError, match=r"debian-13: .* debian-13-amd64-\* .*136693071363"):
        images.base(account, DEBIAN)


@pytest.mark.local
def test_tag_reaches_the_snapshots(account: Account) -> None:
    """A tag put on an image is on each of its snapshots too, and on the record that comes back."""
    tagged = images.tag(account, baked(account), {f"{TAG}commit": "abc"})

    snapshots = account.ec2.describe_snapshots(SnapshotIds=list(tagged.snapshots))["Snapshots"]
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
def test_restore(account: Account) -> None:
    """What is restored is neither revoked nor deprecated, and the same as before."""
    before = images.get(account, baked(account), "jenkins")
    changed = images.tag(account, before.id, {images.REVOKED: "a hole", images.DEPRECATED: "today"})
    assert ("a hole", True) == (changed.revoked, changed.deprecated)

    images.restore(account, changed)

    assert before == images.get(account, before.id, "jenkins")
