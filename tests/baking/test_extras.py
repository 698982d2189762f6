"""Extras: what a person adds for one bake is taken as it is meant, is an input, and switches no safeguard off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bakehouse import system
from bakehouse.baking import extras
from bakehouse.errors import InputError
from bakehouse.settings import ROOT

TAKEN: dict[str, tuple[list[str], dict[str, Any]]] = {
    "a pair": (["web_port=80"], {"web_port": "80"}),
    "two pairs, one with a blank": (["a=1 b='x y'"], {"a": "1", "b": "x y"}),
    "a value with =": (["a=b=c"], {"a": "b=c"}),
    "no value": (["a="], {"a": ""}),
    "a map": (["{web_port: 80, names: [a, b]}"], {"web_port": 80, "names": ["a", "b"]}),
    "JSON": (['{"a": true}'], {"a": True}),
    "the last of two": (["a=1", "a=2"], {"a": "2"}),
}


@pytest.mark.parametrize(("given", "expected"), TAKEN.values(), ids=TAKEN)
def test_parse(given: list[str], expected: dict[str, Any]) -> None:
    """Variables are taken in the three forms that ansible-playbook takes."""
    assert expected == extras.parse(given).variables


REFUSED = {
    "no value": (["web_port"], "", "--extra-vars web_port names no value"),
    "nothing": ([""], "", "--extra-vars  names no value"),
    "half a quotation": (["a='b"], "", "--extra-vars a='b: a quotation mark is missing"),
    "no YAML": (["{a: ["], "", "--extra-vars {a: [ is no YAML"),
    "no name": (["a-b=1"], "", "'a-b' can't be the name of a variable"),
    "the kit's own": (["bakehouse_run=1"], "", "bakehouse_run is the kit's own"),
    "the kit's own in a map": (["{bakehouse_service: {}}"], "", "bakehouse_service is the kit's own"),
    "no file": (["@/no/where.yml"], "", "--extra-vars @/no/where.yml can't be read: No such file or directory"),
    "a file of a list": (["@LIST"], "", "is not a map"),
    "a file with the kit's own": (["@OURS"], "", "bakehouse_run is the kit's own"),
    "all that every image needs": ([], "always", "--skip-tags always would leave out what every image needs"),
    "all": ([], "x,all", "--skip-tags all would leave out what every image needs"),
    "too long": ([], "x" * 300, "--skip-tags is too long"),
}


@pytest.mark.parametrize(("given", "skip", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, given: list[str], skip: str, message: str) -> None:
    """What can't be meant is one line that names the flag and the thing."""
    (tmp_path / "list").write_text("[a]\n")
    (tmp_path / "ours").write_text("bakehouse_run: 1\n")
    typed = [one.replace("LIST", str(tmp_path / "list")).replace("OURS", str(tmp_path / "ours")) for one in given]
    with pytest.raises(InputError) as refused:
        extras.parse(typed, "", skip)
    assert message in refused.value.text


def test_they_are_inputs(tmp_path: Path) -> None:
    """A variable, a file, its content and tags each make another bake; no value and no path is in the inputs."""
    file, vaulted = tmp_path / "more.yml", tmp_path / "vaulted.yml"
    file.write_text("a: s3cret\n")
    vaulted.write_text("$ANSIBLE_VAULT;1.1;AES256\n31\n")
    typed: list[tuple[list[str], str, str]] = [
        ([], "", ""),
        (["a=s3cret"], "", ""),
        (["a=other"], "", ""),
        ([f"@{file}"], "", ""),
        ([f"@{vaulted}"], "", ""),
        ([], "web", ""),
        ([], "", "web"),
    ]
    told = [extras.parse(*one).inputs(b"key") for one in typed]
    file.write_text("a: changed\n")
    told.append(extras.parse([f"@{file}"]).inputs(b"key"))

    assert {} == told[0]
    assert len(told) == len({str(one) for one in told})
    assert "s3cret" not in str(told) and str(tmp_path) not in str(told)


def test_arguments_hold_no_variable(tmp_path: Path) -> None:
    """Ansible gets files by their paths and tags by their flags; variables get to it in a file of the run's."""
    file = tmp_path / "more.yml"
    file.write_text("a: 1\n")

    added = extras.parse(["a=s3cret", f"@{file}"], "web,config", "slow")

    assert ["--extra-vars", f"@{file}", "--tags", "web,config", "--skip-tags", "slow"] == added.arguments
    assert "--tags web,config --skip-tags slow" == added.part


def test_a_play_that_asks(tmp_path: Path) -> None:
    """A variable that a play asks for must be given, also in a playbook that is imported; its file is named."""
    (tmp_path / "web.yml").write_text("- import_playbook: more.yml\n- hosts: web\n")
    (tmp_path / "more.yml").write_text("- hosts: web\n  vars_prompt: [{name: pass_phrase}]\n")

    with pytest.raises(
        InputError, match=r"^more.yml asks for pass_phrase \(vars_prompt\), and nobody answers"
    ) as refused:
        extras.insist_on_answers(extras.Extras(), tmp_path, "web.yml")
    assert "give it: --extra-vars pass_phrase=VALUE" == refused.value.hint
    extras.insist_on_answers(extras.parse(["pass_phrase=x"]), tmp_path, "web.yml")


def test_what_every_image_needs_runs_with_any_tags(tmp_path: Path) -> None:
    """With tags that no task has a bake does all of the kit's own, and nothing of the recipe."""
    (tmp_path / "tiny.yml").write_text("- hosts: tiny\n  gather_facts: false\n  tasks: [{name: Mine, debug: }]\n")
    (tmp_path / "hosts").write_text("[tiny]\ntiny-image ansible_connection=local\n")
    line = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(tmp_path / "hosts"), "--list-tasks"]
    playbook = os.path.relpath(tmp_path / "tiny.yml", ROOT)
    line += ["-e", "bakehouse_recipe=tiny", "-e", f"bakehouse_playbook={playbook}", "-e", "bakehouse_run=1"]
    ours = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}

    def listed(*more: str) -> list[str]:
        argv = [*line, *more, str(ROOT / "playbooks/bake.yml")]
        done = system.call(argv, system.environment(**ours), capture_output=True, text=True, check=False)
        assert isinstance(done, subprocess.CompletedProcess) and done.returncode == 0, done.stderr
        tasks = (one.partition("TAGS:")[0].strip() for one in done.stdout.splitlines() if "TAGS:" in one)
        return [one for one in tasks if not one.startswith("play #")]

    assert "Mine" in listed()
    assert [one for one in listed() if one != "Mine"] == listed("--tags", "nosuch")
