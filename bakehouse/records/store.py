"""The store: keeps the records of each image as files in a folder of its own.

It is also a program that makes the records that are copied into the image:
``python -m bakehouse.records.store FOLDER NAME RUN`` reads the machine's contents from stdin, writes the SBOM into the
folder, and makes the SBOM the subject of the provenance in that folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bakehouse import __version__, console, documents
from bakehouse.records import contents, provenances
from bakehouse.records.contents import Contents
from bakehouse.settings import Settings

T = TypeVar("T")

INPUTS = "inputs.json"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.json"
PROOF = "proof.json"


def keep(settings: Settings, image_id: str, files: Mapping[str, str]) -> None:
    """Keep the records of an image, file name to text; each file is written whole or not at all."""
    folder = place(settings, image_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        documents.replace(folder / name, text.encode())


def place(settings: Settings, image_id: str) -> Path:
    """Return the folder in which an image's records are kept."""
    return settings.kept("images") / image_id


def proofs(settings: Settings, image_id: str) -> Path:
    """Return the folder in which an image's proof is kept."""
    return settings.kept("proofs") / image_id


def inputs(settings: Settings, image_id: str) -> dict[str, str] | None:
    """Return the inputs of an image's bake, by name; None when there is no such record here."""
    return _read(place(settings, image_id) / INPUTS, _strings)


def sbom(settings: Settings, image_id: str, expected: str) -> Contents | None:
    """Return what was in an image when it was baked; None when there is no such record here.

    ``expected`` is the record's digest as the image's tag has it. A record with another digest is set aside.
    """
    return _read(place(settings, image_id) / SBOM, contents.of_sbom, expected)


def provenance(settings: Settings, image_id: str, expected: str) -> dict[str, Any] | None:
    """Return the provenance statement of an image; None when there is no such record here.

    ``expected`` is the record's digest as the image's tag has it. A record with another digest is set aside.
    """
    return _read(place(settings, image_id) / PROVENANCE, _statement, expected)


def proven(settings: Settings, image_id: str, expected: str) -> bool:
    """Tell whether the proof of an image is here and says that it has passed.

    ``expected`` is the digest of the proof as the image's tag has it.
    """
    try:
        text = (proofs(settings, image_id) / PROOF).read_bytes()
        told = json.loads(text)
        return bool(documents.digest(text) == expected and (told["image"], told["verdict"]) == (image_id, "pass"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(folder: Path, name: str, run: str, answer: str) -> None:
    """Write the SBOM of a machine's contents into a folder, and complete the provenance there with it.

    ``name`` is the image's name, ``run`` the run's ID, and ``answer`` what ``inspector.contents`` printed. Raises
    ValueError, KeyError or TypeError when the answer is malformed.
    """
    told = Contents.from_answer(json.loads(answer))
    listed = contents.as_sbom(told, name, run, __version__, datetime.now(UTC))
    begun = json.loads((folder / PROVENANCE).read_text())
    (folder / SBOM).write_text(listed)
    statement = provenances.with_subject(begun, name, SBOM, documents.digest(listed.encode()), told.repositories)
    (folder / PROVENANCE).write_text(json.dumps(statement, indent=1))


def _read(file: Path, parse: Callable[[str], T], expected: str = "") -> T | None:
    """Return what a record says; None when there is none.

    A record that is malformed, or that isn't the one that was written at the bake, counts as none and is set aside.
    """
    try:
        text = file.read_text()
        read = parse(text)
    except FileNotFoundError:
        return None
    except ValueError:
        why = "is malformed"
    else:
        if not expected or documents.digest(text.encode()) == expected:
            return read
        why = "is not the one that was written at the bake"
    aside = file.with_name(f"{file.name}.aside")
    os.replace(file, aside)
    console.say(f"the record {file} {why} and was set aside as {aside.name}")
    return None


def _strings(text: str) -> dict[str, str]:
    read: Any = json.loads(text)
    if not isinstance(read, dict) or not all(isinstance(value, str) for value in read.values()):
        raise ValueError("not a map of strings")
    return read


def _statement(text: str) -> dict[str, Any]:
    read: Any = json.loads(text)
    if not isinstance(read, dict) or "predicate" not in read:
        raise ValueError("not a statement")
    return read


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.stdin.read())
