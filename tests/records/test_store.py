"""Records: written at a bake, kept by image, and read back or set aside."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bakehouse.records import provenances, store
from bakehouse.records.contents import Contents
from bakehouse.settings import ROOT, Settings

READ: dict[str, Callable[[Settings, str], Any]] = {
    store.INPUTS: store.inputs,
    store.SBOM: lambda settings, image: store.sbom(settings, image, ""),
    store.PROVENANCE: lambda settings, image: store.provenance(settings, image, ""),
}
ANSWER: dict[str, Any] = {
    "system": {"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)", "architecture": "x86_64"},
    "packages": [
        {"kind": "deb", "name": "zlib", "version": "1", "architecture": "amd64", "source": "", "licences": ["Zlib"]}
    ],
    "services": {},
    "ports": {},
    "users": {},
    "setuid": {},
    "files": {},
    "repositories": {"https://example.com/InRelease": f"sha256:{'b' * 64}"},
}


def digest(text: str) -> str:
    """Return the digest of a text, as an image tells it."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """Return the files that a bake of a machine with ANSWER's contents has written for its image."""
    begun = provenances.statement("r-1", datetime(2026, 1, 1, tzinfo=UTC), "none", {}, {})
    (tmp_path / store.PROVENANCE).write_text(json.dumps(begun))
    line = [sys.executable, "-m", "bakehouse.records.store", str(tmp_path), "bakehouse-web-r-1", "r-1"]
    subprocess.run(line, cwd=ROOT, input=json.dumps(ANSWER), text=True, check=True)
    return {name: (tmp_path / name).read_text() for name in (store.SBOM, store.PROVENANCE)}


def test_keep(settings: Settings, written: dict[str, str]) -> None:
    """What a bake recorded is kept by image; of another image nothing is known."""
    store.keep(settings, "ami-1", {**written, store.INPUTS: '{"kit": "1"}'})

    assert {"kit": "1"} == store.inputs(settings, "ami-1")
    assert Contents.from_answer(ANSWER) == store.sbom(settings, "ami-1", digest(written[store.SBOM]))
    assert json.loads(written[store.PROVENANCE]) == store.provenance(settings, "ami-1", "")
    assert [None] * 3 == [read(settings, "ami-2") for read in READ.values()]


def test_the_provenance_is_of_the_sbom(written: dict[str, str]) -> None:
    """The provenance names the SBOM, by its digest, as its subject."""
    [subject] = json.loads(written[store.PROVENANCE])["subject"]

    assert ("sbom.cdx.json", {"image": "bakehouse-web-r-1"}) == (subject["name"], subject["annotations"])
    assert digest(written[store.SBOM]) == f"sha256:{subject['digest']['sha256']}"


def test_another_than_was_written(
    settings: Settings, written: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A record that isn't the one that the image tells of is set aside too."""
    store.keep(settings, "ami-1", written)

    assert store.sbom(settings, "ami-1", "sha256:0") is None
    assert "sbom.cdx.json is not the one that was written at the bake and was set aside" in capsys.readouterr().err


MALFORMED = {
    "inputs.json": ["", "{", "[]", '{"kit": 1}', "\udc80"],
    "sbom.cdx.json": ["", "[]", "{}", '{"components": [], "properties": [{"name": "bakehouse:x:y"}]}', "\udc80"],
    "provenance.json": ["", "[]", "{}"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in MALFORMED.items() for text in texts])
def test_malformed(settings: Settings, capsys: pytest.CaptureFixture[str], name: str, text: str) -> None:
    """A record that can't be read is named and set aside once, and the image then has none."""
    read = READ[name]
    file = store.place(settings, "ami-1") / name
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode(errors="surrogateescape"))

    assert (None, None) == (read(settings, "ami-1"), read(settings, "ami-1"))
    assert f"the record {file} is malformed and was set aside as {name}.aside\n" == capsys.readouterr().err
    assert text.encode(errors="surrogateescape") == file.with_name(f"{name}.aside").read_bytes()
