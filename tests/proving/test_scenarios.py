"""Scenarios: what Molecule's files say of them, and which are meant by what a person typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bakehouse import recipes
from bakehouse.errors import BakehouseError, InputError, NotFoundError
from bakehouse.proving import scenarios
from bakehouse.proving.scenarios import Scenario
from bakehouse.settings import ROOT

ONE = Scenario("default", ("java", "web"), ("debian-13", "rocky-9"), ())
TWO = Scenario("rpm", ("web",), ("rpm-stand-in",), ())


def test_ours() -> None:
    """Our scenarios run on bases that there are, ``default`` first, and take the whole sequence."""
    found = scenarios.load(ROOT)

    assert "default" == found[0].name and ("java", "jenkins") == found[0].roles
    assert set() == {name for one in found for name in one.platforms} - set(recipes.bases(ROOT))
    assert (
        *("destroy", "syntax", "create", "converge", "check", "idempotence", "verify_at_rest", "start"),
        *("idempotence again", "verify_in_service", "destroy"),
    ) == found[0].steps


def test_a_scenario_wins_over_what_all_have_in_common(tmp_path: Path) -> None:
    """What its molecule.yml doesn't say comes from the common file, and what neither says from Molecule."""
    for path, text in {
        ".config/molecule/config.yml": "platforms: [{name: '${X:-a}', bases: [a, b]}]\n",
        "molecule/one/molecule.yml": "---\n",
        "molecule/one/converge.yml": "- {hosts: all, roles: [x, {role: y}, x]}\n",
        "molecule/two/molecule.yml": (
            "platforms: [{name: c}]\n"
            "ansible: {playbooks: {converge: ../one/converge.yml}}\n"
            "scenario: {test_sequence: [converge, verify look.yml, verify look.yml]}\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    one, two = scenarios.load(tmp_path)

    assert ("one", ("x", "y"), ("a", "b")) == (one.name, one.roles, one.platforms)
    assert "converge" in one.steps and "verify" in one.steps
    assert Scenario("two", ("x", "y"), ("c",), ("converge", "look", "look again")) == two
    assert ("x", "y") == scenarios.roles(tmp_path / "molecule" / "two", tmp_path)


CHOSEN = [
    ({}, [(ONE, "debian-13"), (ONE, "rocky-9"), (TWO, "rpm-stand-in")]),
    ({"role": "java"}, [(ONE, "debian-13"), (ONE, "rocky-9")]),
    ({"scenario": "rpm"}, [(TWO, "rpm-stand-in")]),
    ({"platform": "rocky-9"}, [(ONE, "rocky-9")]),
]


@pytest.mark.parametrize(("words", "expected"), CHOSEN)
def test_choose(words: dict[str, str], expected: list[tuple[Scenario, str]]) -> None:
    """Each word restricts what is tried; without one it's all."""
    assert expected == scenarios.choose([ONE, TWO], **words)


REFUSED: list[tuple[dict[str, str], type[BakehouseError], str, str]] = [
    ({"role": "db"}, NotFoundError, "there is no role with a scenario db", "known: java, web"),
    ({"scenario": "x"}, NotFoundError, "there is no scenario x", "known: default, rpm"),
    ({"platform": "x"}, NotFoundError, "there is no platform x", "known: debian-13, rocky-9, rpm-stand-in"),
    ({"scenario": "rpm", "platform": "debian-13"}, InputError, "no scenario has all of rpm, debian-13", "rpm: web"),
    ({"scenario": "rpm", "role": "java"}, InputError, "no scenario has all of java, rpm", "rpm: web on rpm-stand-in"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "kind", "text", "hint"), REFUSED)
def test_what_is_not_there_is_refused(words: dict[str, str], kind: type[BakehouseError], text: str, hint: str) -> None:
    """A word that fits nothing is named with those that do, and so is what doesn't go together."""
    with pytest.raises(kind) as refused:
        scenarios.choose([ONE, TWO], **words)

    assert text == refused.value.text and hint in refused.value.hint


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("molecule.yml", "a: [", "molecule/one/molecule.yml:1: syntax error"),
        ("molecule.yml", "[1]", "molecule/one/molecule.yml is not a map: [1]"),
        ("molecule.yml", "platforms: [debian-13]", "molecule/one/molecule.yml: platforms: number 1 is not a map"),
        ("molecule.yml", "platforms: [{}]", "molecule/one/molecule.yml: platform 1: name is missing"),
        ("molecule.yml", "platforms: [{bases: x}]", "molecule/one/molecule.yml: platform 1: bases is not a list: 'x'"),
        ("molecule.yml", "scenario: [1]", "molecule/one/molecule.yml: scenario is not a map: [1]"),
        ("molecule.yml", "scenario: {test_sequence: [1]}", "scenario.test_sequence: number 1 is not a string: 1"),
        ("molecule.yml", "scenario: {test_sequence: verify}", "scenario.test_sequence is not a list: 'verify'"),
        ("molecule.yml", "ansible: {playbooks: [x]}", "molecule/one/molecule.yml: ansible.playbooks is not a map"),
        ("molecule.yml", "ansible: {playbooks: {converge: no.yml}}", "molecule/one/no.yml can't be read"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, file: str, text: str, words: str) -> None:
    """A scenario's file that is broken or not there is named."""
    (tmp_path / "molecule" / "one").mkdir(parents=True)
    (tmp_path / "molecule" / "one" / "converge.yml").write_text("- {hosts: all, roles: !unsafe [x]}\n- 1\n")
    (tmp_path / "molecule" / "one" / file).write_text(text)

    with pytest.raises(InputError) as refused:
        scenarios.load(tmp_path)

    assert words in refused.value.text
    assert 1 == len(refused.value.text.splitlines())
