"""Dossiers: all that is known of an image, and how the contents of two images differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bakehouse import console, contents, images, records
from bakehouse.cloud import TAG, Cloud
from bakehouse.contents import SECTIONS, Change, Contents
from bakehouse.errors import NotFoundError
from bakehouse.images import Image
from bakehouse.settings import Settings

COLUMNS = ("part", "what", "value")
CHANGES = ("part", "change", "what", "before", "after")

_WHERE = f"it is where the image was baked, and in it: ./inv ssh -- sudo cat /usr/share/bakehouse/{records.SBOM}"
_DIGEST = len("sha256:") + 12  # as much of a digest as a person compares


@dataclass(frozen=True)
class Dossier:
    """Hold all that is known of an image.

    Attributes: image; lineage, the image, the one it was baked upon, and so on; contents, provenance (SLSA's statement)
    and inputs, as they were recorded at the bake, None where there is no such record here.
    """

    image: Image
    lineage: tuple[Image, ...]
    contents: Contents | None
    provenance: Mapping[str, Any] | None
    inputs: Mapping[str, str] | None


@dataclass(frozen=True)
class Difference:
    """Hold how the contents of two images differ: before, the one; after, the other; changes, from one to the other."""

    before: Image
    after: Image
    changes: tuple[Change, ...]


def find(cloud: Cloud, settings: Settings, image_id: str = "") -> Dossier:
    """Return the dossier of an image, by default the newest of the recipe that the settings name.

    Says so where there is no record of its contents.
    """
    image = images.get(cloud, image_id, settings.recipe) if image_id else images.latest(cloud, settings.recipe)
    told = records.sbom(settings, image.id, image.tags.get(f"{TAG}sbom", ""))
    if told is None:
        console.say(f"{_missing(image)}; {_WHERE}")
    statement = records.provenance(settings, image.id, image.tags.get(f"{TAG}provenance", ""))
    return Dossier(image, tuple(images.lineage(cloud, image)), told, statement, records.inputs(settings, image.id))


def pair(cloud: Cloud, recipe: str, before: str, after: str) -> tuple[Image, Image]:
    """Return the two images of these IDs, which may be of different recipes; that is said.

    By default the later one is the recipe's newest, and the other the one baked before it. Raises NotFoundError where
    there is none.
    """
    later = images.get(cloud, after) if after else images.latest(cloud, recipe)
    if not before:
        of_recipe = [one for one in images.find(cloud, later.recipe) if one.state == "available"]
        older = next((one for one in of_recipe if one.created < later.created), None)
        if older is None:
            raise NotFoundError(f"there is no image of recipe {later.recipe} before {later.id}", "--from ID --to ID")
        return older, later
    earlier = images.get(cloud, before)
    if earlier.recipe != later.recipe:
        console.say(f"{earlier.id} is of recipe {earlier.recipe}, {later.id} of recipe {later.recipe}")
    return earlier, later


def compare(settings: Settings, before: Image, after: Image) -> Difference:
    """Return how two images differ; raises NotFoundError where the contents of one aren't recorded here."""
    was, now = _contents(settings, before), _contents(settings, after)
    return Difference(before, after, tuple(contents.changes(was, now)))


def as_rows(dossier: Dossier, now: datetime) -> list[list[str]]:
    """Return a dossier as the rows of a table, under ``COLUMNS``; digests are shortened."""
    facts = zip(images.COLUMNS, images.as_row(dossier.image, now), strict=True)
    ours = {key.removeprefix(TAG): value for key, value in dossier.image.tags.items() if key.startswith(TAG)}
    rows = [["image", name, value] for name, value in facts]
    rows += [["tag", name, _short(value)] for name, value in sorted(ours.items())]
    rows += [["lineage", one.id, one.name] for one in dossier.lineage]
    if dossier.lineage[-1].base:
        rows.append(["lineage", dossier.lineage[-1].base, "not there any more"])
    if dossier.contents:
        rows += [["system", name, value] for name, value in dossier.contents.system.items()]
        for part in SECTIONS:
            rows += [[part, name, _short(value)] for name, value in sorted(dossier.contents.section(part).items())]
    return [*rows, *(["input", name, _short(value)] for name, value in sorted((dossier.inputs or {}).items()))]


def as_data(dossier: Dossier) -> dict[str, Any]:
    """Return a dossier as a program reads it."""
    return {
        **images.as_data(dossier.image),
        "lineage": [{"image": one.id, "name": one.name} for one in dossier.lineage],
        "contents": asdict(dossier.contents) if dossier.contents else None,
        "statement": dossier.provenance,
        "inputs": dossier.inputs,
    }


def as_change_rows(difference: Difference) -> list[list[str]]:
    """Return the changes as the rows of a table, under ``CHANGES``; digests are shortened."""
    return [[one.section, _kind(one), one.name, _short(one.was), _short(one.now)] for one in difference.changes]


def as_difference_data(difference: Difference) -> dict[str, Any]:
    """Return a difference as a program reads it."""
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


def _kind(change: Change) -> str:
    return "changed" if change.was and change.now else "added" if change.now else "removed"


def _short(value: str) -> str:
    return value[:_DIGEST] if value.startswith("sha256:") else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _contents(settings: Settings, image: Image) -> Contents:
    told = records.sbom(settings, image.id, image.tags.get(f"{TAG}sbom", ""))
    if told is None:
        raise NotFoundError(_missing(image), _WHERE)
    return told


def _missing(image: Image) -> str:
    return f"there is no record here of what is in image {image.id}"
