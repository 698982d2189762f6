"""Documents: what YAML and HCL files hold, and one line for each way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bakehouse import documents
from bakehouse.errors import InputError
from bakehouse.recipes import services
from bakehouse.recipes.services import Service
from bakehouse.settings import Settings


@dataclass(frozen=True)
class Sample:
    """Hold a field of each kind."""

    name: str
    number: int
    maps: Mapping[str, Mapping[str, str]]
    several: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    flag: bool = False


GOOD: dict[str, Any] = {"name": "a", "number": 1, "maps": {"b": {"c": "d"}}}


def test_a_vaulted_value_counts_as_none(tmp_path: Path) -> None:
    """Values with tags of Ansible's own don't keep the others of a file from being read."""
    (tmp_path / "a.yml").write_text(
        "secret: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\nraw: !unsafe '{{ x }}'\nb: 1\n"
    )

    read = documents.read_yaml(tmp_path / "a.yml", tmp_path)

    assert (1, False, "!vault …", False) == (read["b"], bool(read["secret"]), repr(read["secret"]), bool(read["raw"]))


def test_group_vars_with_a_vault(settings: Settings) -> None:
    """A vaulted variable beside what machines offer refuses neither launch nor probe."""
    file = settings.root / "inventory/group_vars/jenkins.yml"
    file.parent.mkdir(parents=True)
    file.write_text("token: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\nbakehouse_service: {unit: a.service}\n")

    assert Service(unit="a.service") == services.load(settings)


@pytest.mark.parametrize(
    ("read", "name", "content", "words"),
    [
        (documents.read_yaml, "a.yml", b"a: 1\nb: [", "a.yml:2: syntax error: "),
        (documents.read_yaml, "a.yml", b"a: \x01", "a.yml: syntax error: "),
        (documents.read_yaml, "a.yml", b"\xff", "a.yml can't be read: "),
        (documents.read_yaml, "no.yml", b"", "no.yml can't be read: No such file or directory"),
        (documents.read_hcl, "a.hcl", b"a = 1\nb = = 2", "a.hcl:2: syntax error"),
        (documents.read_hcl, "a.hcl", b"\xff", "a.hcl can't be read: "),
        (documents.read_hcl, "no.hcl", b"", "no.hcl can't be read: No such file or directory"),
    ],
)
def test_a_file_that_is_wrong(
    tmp_path: Path, read: Callable[[Path, Path], Any], name: str, content: bytes, words: str
) -> None:
    """What can't be read is one line with the file, the line where there is one, and the reason."""
    if not name.startswith("no"):
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError) as refused:
        read(tmp_path / name, tmp_path)

    assert refused.value.text.startswith(words)
    assert 1 == len(refused.value.text.splitlines())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "here: unknown key colour"),
        ({"name": None}, "here: name is not a string: None"),
        ({"name": "${x}"}, "here: name is not a string: '${x}'"),
        ({"name": "{{ x }}"}, "here: name is not a string: '{{ x }}'"),
        ({"number": True}, "here: number is not a whole number: True"),
        ({"number": documents.Tagged("!vault")}, "here: number is not a whole number: !vault …"),
        ({"maps": {"b": "c"}}, "here: maps is not a map of maps of strings: {'b': 'c'}"),
        ({"maps": {"b": {"c": 1}}}, "here: maps is not a map of maps of strings: {'b': {'c': 1}}"),
        ({"several": "a"}, "here: several is not a list: 'a'"),
        ({"tags": {"b": 1}}, "here: tags is not a map of strings: {'b': 1}"),
        ({"flag": "yes"}, "here: flag is not true or false: 'yes'"),
    ],
)
def test_checked(changes: dict[str, Any], words: str) -> None:
    """A record's fields are all there, of their kind, and no others."""
    assert GOOD == documents.checked(Sample, GOOD, "here")

    with pytest.raises(InputError) as refused:
        documents.checked(Sample, GOOD | changes, "here")

    assert words == refused.value.text


def test_the_nearest_key_is_named() -> None:
    """An unknown key that is like a known one gets that one told, and all known ones."""
    with pytest.raises(InputError) as refused:
        documents.checked(Sample, GOOD | {"severel": []}, "here")

    assert "did you mean several? known: name, number, maps, several, tags, flag" == refused.value.hint


def test_missing() -> None:
    """A field without a default has to be there, and a record is a map."""
    for read, words in (({"name": "a"}, "here: number is missing"), (["name"], "here is not a map")):
        with pytest.raises(InputError, match=f"^{words}$"):
            documents.checked(Sample, read, "here")
