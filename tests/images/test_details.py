"""Details: all that is known of an image, and the differences of two, told in three ways."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
from moto_fixtures import refused
from samples import CONTENTS, DIGEST, baked, parameter

from bakehouse import documents, images
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import NotFoundError
from bakehouse.images import Image, channels, details
from bakehouse.images.details import Details, Difference, Entry
from bakehouse.records import contents, store
from bakehouse.records.contents import Change, Contents
from bakehouse.settings import Settings

NOW = datetime(2026, 1, 3, tzinfo=UTC)


def image(name: str, **tags: str) -> Image:
    """Return an image of this ID, with these tags."""
    ours = tag_list({f"{TAG}{key}": value for key, value in tags.items()})
    created = "2026-01-01T00:00:00.000Z"
    return Image.from_aws(
        {"ImageId": name, "Name": f"n-{name}", "State": "available", "CreationDate": created, "Tags": ours}
    )


DIFFERENCE = Difference(
    image("ami-1"),
    image("ami-2"),
    (
        Change("packages", "curl", "1", "2"),
        Change("packages", "nmap", "", "7"),
        Change("files", "/etc/a|b", DIGEST, ""),
    ),
)


def test_row_of_an_image() -> None:
    """A row tells in words how old an image is, that it goes soon, what uses it, and only that its commit is dirty."""
    one = image("ami-2", recipe="web", base="ami-1", commit=f"{'a' * 40}-dirty", deprecated="2026-01-02 UTC")
    entry = Entry(replace(one, size=8), ("candidate", "stable"), ("machine i-2", "machine i-1"))

    row = details.as_entry_row(entry, one.created + timedelta(hours=47))

    used = ["candidate stable", "machine i-1 and 1 more"]
    expected = ["web", "available deprecated", "47 h", "", *used, "ami-1", "8 GiB", "aaaaaaa-dirty", "", "n-ami-2"]
    assert ["ami-2", *expected] == row
    ages = [details.as_entry_row(entry, one.created + timedelta(minutes=at))[3] for at in (59.9, 48 * 60)]
    assert ["59 min", "2 d"] == ages


@pytest.mark.local
def test_entries(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """A channel is named once, not as the parameter that it is; other parameters are users, and so are machines."""
    older, newer, other = baked(account), baked(account), baked(account, "web")
    for recipe, name, one in (("jenkins", "stable", older), ("jenkins", "next", older), ("web", "stable", other)):
        channels.move(account, channels.read(account, recipe, name), one)
    parameter(account, "golden", older)
    [run] = account.ec2.run_instances(ImageId=newer, MinCount=1, MaxCount=1, InstanceType="t3.small")["Instances"]

    found = details.entries(account, images.find(account, "jenkins"))

    told = {entry.image.id: (entry.channels, entry.users) for entry in found}
    used = {older: (("next", "stable"), ("parameter golden",)), newer: ((), (f"machine {run['InstanceId']}",))}
    assert (used, "") == (told, capsys.readouterr().err)
    assert [] == details.entries(account, [])


@pytest.mark.local
def test_entries_without_rights(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """Who may not read parameters still sees the images, and hears what is missing."""
    one = images.get(account, baked(account))

    assert [Entry(one)] == details.entries(refused(account, "ssm"), [one])

    said = capsys.readouterr().err.splitlines()
    assert ["the channels can't be read", "the parameters can't be read"] == [line.partition(":")[0] for line in said]


def test_rows_of_details() -> None:
    """All of it is there: facts, tags, lineage to what is gone, system, each part of the contents, inputs."""
    one = image("ami-2", recipe="web", base="ami-1", sbom=DIGEST)
    rows = details.as_rows(Details(Entry(one, ("stable",)), (one,), CONTENTS, {}, {"kit": "0.1"}), NOW)

    assert {"image", "tag", "lineage", "system", *contents.SECTIONS, "input"} == {row[0] for row in rows}
    for row in (
        ["image", "age", "2 d"],
        ["image", "channels", "stable"],
        ["tag", "sbom", "sha256:aaaaaaaaaaaa"],
        ["lineage", "ami-2", "n-ami-2"],
        ["lineage", "ami-1", "not found"],
        ["packages", "kernel", "6.1-1 6.2-1"],
        ["files", "/etc/motd", "sha256:aaaaaaaaaaaa"],
        ["input", "kit", "0.1"],
    ):
        assert row in rows


def test_rows_without_records() -> None:
    """Of an image that was baked elsewhere there is what the account tells."""
    one = image("ami-2", recipe="web")

    assert {"image", "tag", "lineage"} == {
        row[0] for row in details.as_rows(Details(Entry(one), (one,), None, None, None), NOW)
    }


def test_data_of_details() -> None:
    """A program gets the whole of it, which is plain JSON."""
    one = image("ami-2", recipe="web")
    told = details.as_data(Details(Entry(one), (one,), CONTENTS, {"_type": "x"}, {"kit": "0.1"}))

    assert {"image": "ami-2", "name": "n-ami-2"} == told["lineage"][0]
    assert (asdict(CONTENTS), {"_type": "x"}, {"kit": "0.1"}) == (told["contents"], told["statement"], told["inputs"])
    assert "ami-2" in json.dumps(told, default=str)


def test_rows_of_a_difference() -> None:
    """Each change is a row with its kind; digests are shortened."""
    assert [
        ["packages", "changed", "curl", "1", "2"],
        ["packages", "added", "nmap", "", "7"],
        ["files", "removed", "/etc/a|b", "sha256:aaaaaaaaaaaa", ""],
    ] == details.as_change_rows(DIFFERENCE)


def test_data_of_a_difference() -> None:
    """A program gets both images and each change with whole digests."""
    told = details.as_difference_data(DIFFERENCE)

    assert ("ami-1", "ami-2", 3) == (told["from"], told["to"], len(told["changes"]))
    assert {"part": "files", "change": "removed", "what": "/etc/a|b", "before": DIGEST, "after": ""} == told["changes"][
        2
    ]


MARKDOWN = """\
## n-ami-2 (ami-2)

Since n-ami-1 (ami-1):

### Packages

| What | Before | After |
| --- | --- | --- |
| curl | 1 | 2 |
| nmap |  | 7 |

### Files

| What | Before | After |
| --- | --- | --- |
| /etc/a\\|b | sha256:aaaaaaaaaaaa |  |"""


def test_markdown() -> None:
    """Release notes have a table for each part that differs, and say so where none does."""
    assert MARKDOWN == details.as_markdown(DIFFERENCE)
    same = replace(DIFFERENCE, changes=())
    assert "## n-ami-2 (ami-2)\n\nSince n-ami-1 (ami-1):\n\nNo difference." == details.as_markdown(same)


def recorded(account: Account, settings: Settings, told: Contents, recipe: str = "jenkins") -> Image:
    """Have an image made, with the record of these contents."""
    text = contents.as_sbom(told, "an image", "r-1", "0.1", NOW)
    image_id = baked(account, recipe, sbom=documents.digest(text.encode()))
    store.keep(settings, image_id, {store.SBOM: text})
    return images.get(account, image_id)


@pytest.mark.local
def test_compare(account: Account, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of two recipes can be compared, which is said."""
    one = recorded(account, settings, CONTENTS)
    other = recorded(account, settings, replace(CONTENTS, services={}), "nginx")

    found = details.compare(settings, *details.pair(account, "jenkins", one.id, other.id))

    assert (one, other) == (found.before, found.after)
    assert {"getty@.service", "ssh.service"} == {change.name for change in found.changes}
    assert f"{one.id} is of recipe jenkins, {other.id} of recipe nginx\n" == capsys.readouterr().err


@pytest.mark.local
def test_compare_without_a_record(account: Account, settings: Settings) -> None:
    """An image whose contents aren't recorded here is named, with where the record is."""
    one, other = recorded(account, settings, CONTENTS), baked(account)

    with pytest.raises(NotFoundError, match=f"the contents of image {other} are not recorded here") as refused:
        details.compare(settings, one, images.get(account, other))
    assert "/usr/share/bakehouse/sbom.cdx.json" in refused.value.hint


@pytest.mark.local
def test_find(account: Account, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Details are of an image or of a channel's image; a notice says that its contents are not recorded."""
    one = recorded(account, settings, CONTENTS)
    named, told = details.find(account, settings, one.id), capsys.readouterr().err
    (store.place(settings, one.id) / store.SBOM).unlink()
    channels.move(account, channels.read(account, "jenkins", "stable"), one.id)
    pointed = details.find(account, settings, "stable")

    assert named.contents
    assert (set(CONTENTS.packages), "") == (set(named.contents.packages), told)
    assert (one.id, None) == (pointed.entry.image.id, pointed.contents)
    assert f"the contents of image {one.id} are not recorded here" in capsys.readouterr().err


@pytest.mark.local
def test_pair(account: Account) -> None:
    """Images are named by ID or channel; a channel that there isn't is refused with those that there are."""
    one, other = baked(account), baked(account)
    channels.move(account, channels.read(account, "jenkins", "stable"), one)

    assert (one, other) == tuple(found.id for found in details.pair(account, "jenkins", "stable", other))
    with pytest.raises(NotFoundError, match="recipe jenkins has no channel stabel") as refused:
        details.pair(account, "jenkins", "stabel", other)
    assert "known: stable" == refused.value.hint
