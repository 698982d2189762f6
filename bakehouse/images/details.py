"""Details: all that is known of an image, lists of images, and how the contents of two images differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from bakehouse import console, images
from bakehouse.accounts import TAG, Account
from bakehouse.errors import BakehouseError, NotFoundError
from bakehouse.images import Image, channels, usage
from bakehouse.images.channels import Channel
from bakehouse.records import contents, store
from bakehouse.records.contents import SECTIONS, Change, Contents
from bakehouse.settings import Settings

ENTRIES = (
    "image",
    "recipe",
    "state",
    "age",
    "verdict",
    "channels",
    "in use by",
    "base",
    "size",
    "commit",
    "stand-ins",
    "name",
)
COLUMNS = ("part", "what", "value")
CHANGES = ("part", "change", "what", "before", "after")

_WHERE = (
    "the record is in the checkout that baked the image, and in the image: "
    f"./inv ssh -- sudo cat /usr/share/bakehouse/{store.SBOM}"
)
_DIGEST = len("sha256:") + 12  # a person compares no more of a digest


@dataclass(frozen=True)
class Entry:
    """Hold one image of a list.

    Attributes:
        image: the image.
        channels: the names of the channels that point to it.
        users: what else uses it, such as machines and launch templates.
    """

    image: Image
    channels: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Details:
    """Hold all that is known of an image.

    Attributes:
        entry: the image, its channels and its users.
        lineage: the image, the image that it was baked upon, and so on.
        contents: what was in it when it was baked; None when there is no record here.
        provenance: the SLSA statement of its bake; None when there is no record here.
        inputs: the inputs of its bake, by name; None when there is no record here.
    """

    entry: Entry
    lineage: tuple[Image, ...]
    contents: Contents | None
    provenance: Mapping[str, Any] | None
    inputs: Mapping[str, str] | None


@dataclass(frozen=True)
class Difference:
    """Hold how the contents of two images differ: the changes from the image ``before`` to the image ``after``."""

    before: Image
    after: Image
    changes: tuple[Change, ...]


def entries(account: Account, found: Sequence[Image]) -> list[Entry]:
    """Return images of one recipe with their channels and users; prints which of these can't be read."""
    used, known, unread = usage.find(account), list[Channel](), ""
    try:
        known = channels.find(account, found[0].recipe) if found else []
    except BakehouseError as error:
        unread = f"the channels can't be read: {error.text}"
    for what in filter(None, [unread, *used.unread]):
        console.say(what)
    own = [f"parameter {channel.parameter}" for channel in known]
    return [
        Entry(
            image,
            tuple(channel.name for channel in known if channel.image == image.id),
            tuple(user for user in used.users.get(image.id, ()) if user not in own),
        )
        for image in found
    ]


def find(account: Account, settings: Settings, name: str) -> Details:
    """Return all that is known of an image.

    ``name`` is its ID, or a channel of the settings' recipe. Prints a notice when its contents are not recorded here.
    """
    image = _named(account, settings.recipe, name)
    told = store.sbom(settings, image.id, image.tags.get(f"{TAG}sbom", ""))
    if told is None:
        console.say(f"{_missing(image)}; {_WHERE}")
    statement = store.provenance(settings, image.id, image.tags.get(f"{TAG}provenance", ""))
    [entry] = entries(account, [image])
    return Details(entry, tuple(images.lineage(account, image)), told, statement, store.inputs(settings, image.id))


def pair(account: Account, recipe: str, before: str, after: str) -> tuple[Image, Image]:
    """Return two images, each given by ID or by a channel of the recipe; prints a notice when their recipes differ."""
    one, other = _named(account, recipe, before), _named(account, recipe, after)
    if one.recipe != other.recipe:
        console.say(f"{one.id} is of recipe {one.recipe}, {other.id} of recipe {other.recipe}")
    return one, other


def compare(settings: Settings, before: Image, after: Image) -> Difference:
    """Return how two images differ; raises NotFoundError when the contents of one are not recorded here."""
    was, now = _contents(settings, before), _contents(settings, after)
    return Difference(before, after, tuple(contents.changes(was, now)))


def as_entry_row(entry: Entry, now: datetime) -> list[str]:
    """Return an image as a row of a table, under ``ENTRIES``."""
    image = entry.image
    commit = image.tags.get(f"{TAG}commit", "")
    marks = {"revoked": image.revoked, "deprecated": image.deprecated}
    return [
        image.id,
        image.recipe,
        " ".join([image.state, *(mark for mark, is_so in marks.items() if is_so)]),
        _age(now - image.created),
        image.verdict,
        " ".join(entry.channels),
        usage.in_words(entry.users),
        image.base,
        f"{image.size} GiB",
        commit[:7] + ("-dirty" if commit.endswith("-dirty") else ""),
        " ".join(image.stand_ins),
        image.name,
    ]


def as_entry_data(entry: Entry) -> dict[str, Any]:
    """Return an image of a list as data for JSON."""
    return {**images.as_data(entry.image), "channels": entry.channels, "users": entry.users}


def as_rows(found: Details, now: datetime) -> list[list[str]]:
    """Return an image's details as the rows of a table, under ``COLUMNS``; digests are shortened."""
    facts = zip(ENTRIES, as_entry_row(found.entry, now), strict=True)
    ours = {key.removeprefix(TAG): value for key, value in found.entry.image.tags.items() if key.startswith(TAG)}
    rows = [["image", name, value] for name, value in facts]
    rows += [["tag", name, _short(value)] for name, value in sorted(ours.items())]
    rows += [["lineage", one.id, one.name] for one in found.lineage]
    if found.lineage[-1].base:
        rows.append(["lineage", found.lineage[-1].base, "not found"])
    if found.contents:
        rows += [["system", name, value] for name, value in found.contents.system.items()]
        for part in SECTIONS:
            rows += [[part, name, _short(value)] for name, value in sorted(found.contents.section(part).items())]
    return [*rows, *(["input", name, _short(value)] for name, value in sorted((found.inputs or {}).items()))]


def as_data(found: Details) -> dict[str, Any]:
    """Return an image's details as data for JSON."""
    return {
        **as_entry_data(found.entry),
        "lineage": [{"image": one.id, "name": one.name} for one in found.lineage],
        "contents": asdict(found.contents) if found.contents else None,
        "statement": found.provenance,
        "inputs": found.inputs,
    }


def as_change_rows(difference: Difference) -> list[list[str]]:
    """Return the changes as the rows of a table, under ``CHANGES``; digests are shortened."""
    return [[one.section, _kind(one), one.name, _short(one.was), _short(one.now)] for one in difference.changes]


def as_difference_data(difference: Difference) -> dict[str, Any]:
    """Return a difference as data for JSON."""
    changes = [
        {"part": one.section, "change": _kind(one), "what": one.name, "before": one.was, "after": one.now}
        for one in difference.changes
    ]
    return {"from": difference.before.id, "to": difference.after.id, "changes": changes}


def as_markdown(difference: Difference) -> str:
    """Return a difference as release notes in Markdown."""
    before, after = difference.before, difference.after
    lines = [f"## {after.name} ({after.id})", "", f"Since {before.name} ({before.id}):"]
    for section in SECTIONS:
        if rows := [one for one in difference.changes if one.section == section]:
            lines += ["", f"### {section.capitalize()}", "", "| What | Before | After |", "| --- | --- | --- |"]
            lines += [f"| {_cell(one.name)} | {_cell(_short(one.was))} | {_cell(_short(one.now))} |" for one in rows]
    return "\n".join(lines if difference.changes else [*lines, "", "No difference."])


def _named(account: Account, recipe: str, name: str) -> Image:
    return images.get(account, name if name.startswith("ami-") else channels.get(account, recipe, name).image)


def _age(since: timedelta) -> str:
    minutes = int(since.total_seconds() // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h" if minutes < 48 * 60 else f"{since.days} d"


def _kind(change: Change) -> str:
    return "changed" if change.was and change.now else "added" if change.now else "removed"


def _short(value: str) -> str:
    return value[:_DIGEST] if value.startswith("sha256:") else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _contents(settings: Settings, image: Image) -> Contents:
    told = store.sbom(settings, image.id, image.tags.get(f"{TAG}sbom", ""))
    if told is None:
        raise NotFoundError(_missing(image), _WHERE)
    return told


def _missing(image: Image) -> str:
    return f"the contents of image {image.id} are not recorded here"
