"""What an account says is data: no tag, name or description runs a program, and none is a command to a terminal."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ANSWER, MACHINE
from task_fixtures import Outcome, Run

from bakehouse import images, local, system
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import UnsoundError
from bakehouse.images import Image, Snapshot, retention, retirements
from bakehouse.junit import Case, Suite, as_junit
from bakehouse.machines import Machine, inventories, shells
from bakehouse.settings import ROOT, Settings

INSTANCE: dict[str, Any] = {
    "InstanceId": MACHINE.id,
    "State": {"Name": "running"},
    "PublicIpAddress": "127.4.5.6",
    "KeyName": "bakehouse-jenkins-0",
    "LaunchTime": MACHINE.launched,
    "Tags": tag_list({f"{TAG}recipe": "jenkins", f"{TAG}user": "admin"}),
}

TOUCH = "touch PLACE"
ATTACKS = {
    "an option of ssh": f'-oProxyCommand=sh -c "{TOUCH}"',
    "a template": f"{{{{ lookup('pipe', '{TOUCH}') }}}}",
    "a shell's command": f"$({TOUCH})",
    "two words": "admin root",
    "a path": "../../admin",
    "capitals": "Admin",
    "a line end": "admin\n",
    "an escape": "\x1b]0;mine\x07admin",
    "nothing but a dash": "-",
    "thirty-three letters": "a" * 33,
}


def instance(**tags: str) -> dict[str, Any]:
    """Return EC2's answer on a machine with these tags of ours besides."""
    known = {"recipe": "jenkins", "user": "admin", **tags}
    return {**INSTANCE, "Tags": tag_list({f"{TAG}{name}": value for name, value in known.items()})}


@pytest.mark.parametrize("user", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("kind", ["machine", "image"])
def test_a_user_that_can_not_be_one_is_refused(kind: str, user: str) -> None:
    """The record is refused in one line that names the resource and the tag."""
    image: dict[str, Any] = {**ANSWER, "Tags": tag_list({f"{TAG}recipe": "jenkins", f"{TAG}user": user})}

    with pytest.raises(UnsoundError, match=f"tag {TAG}user is ") as refused:
        Machine.from_aws(instance(user=user)) if kind == "machine" else Image.from_aws(image)

    assert (MACHINE.id if kind == "machine" else str(image["ImageId"])) in refused.value.text
    assert 2 == refused.value.code
    assert 1 == len(refused.value.text.splitlines())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recipe", "../jenkins"),
        ("recipe", "{{ 1 }}"),
        ("run", "a b"),
        ("kind", "\x1b[31m"),
        ("base", "$(id)"),
        ("commit", "none\nnext"),
        ("kit", "0 1"),
    ],
)
def test_a_word_that_can_not_be_one_is_refused(name: str, value: str) -> None:
    """The other tags that are used further are single words."""
    with pytest.raises(UnsoundError, match=f"tag {TAG}{name} is "):
        Machine.from_aws(instance(**{name: value}))


@pytest.mark.parametrize(("key", "value"), [("KeyName", "../../.ssh/id"), ("PublicIpAddress", "-oProxyCommand=id")])
def test_what_ec2_says_is_checked_too(key: str, value: str) -> None:
    """The name of a key pair is no path, and an address is an address."""
    with pytest.raises(UnsoundError):
        Machine.from_aws({**INSTANCE, key: value})


def test_one_bad_machine_keeps_none_from_being_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """In a list a machine that can't be used is told and left out."""
    from bakehouse.accounts import each

    found = [*each(Machine.from_aws, [instance(user="-l"), instance()])]

    assert ["admin"] == [one.user for one in found]
    assert f"left out: machine {MACHINE.id} is not used: its tag {TAG}user is '-l'\n" == capsys.readouterr().err


@pytest.mark.local
def test_what_deletes_or_revokes_misses_no_image(
    account: Account, settings: Settings, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list leaves out an image that is not sound; a cleanup and a revocation do nothing, and say why."""
    account.ec2.create_tags(Resources=[image.id], Tags=tag_list({f"{TAG}user": "-oProxyCommand=id"}))

    assert [] == images.find(account, "jenkins")
    assert f"left out: image {image.id} is not used" in capsys.readouterr().err
    with pytest.raises(UnsoundError, match=f"image {image.id} is not used"):
        retirements.plan(account, retention.terms(keep="0", older_than="0", limit="9", at_once=True))
    with pytest.raises(UnsoundError, match=f"image {image.id} is not used"):
        images.owned(account)


@pytest.mark.parametrize("user", ATTACKS.values(), ids=ATTACKS)
def test_ssh_runs_nothing_of_it(settings: Settings, tmp_path: Path, user: str) -> None:
    """Even past that check, ssh takes a user for a user: none of the attacks runs its command."""
    place = tmp_path / "place"
    key = settings.kept("keys") / MACHINE.key
    key.parent.mkdir(parents=True)
    key.touch(mode=stat.S_IRUSR)
    evil = replace(MACHINE, user=user.replace("PLACE", str(place)), address="127.255.255.254")

    answer = shells.enter(settings, evil, "true", 20)

    assert 255 == answer.returncode
    assert not place.exists()


def test_ansible_runs_nothing_of_it(settings: Settings, tmp_path: Path) -> None:
    """Even past that check, a template in a value of the inventory stays text."""
    place = tmp_path / "place"
    evil = replace(MACHINE, image=f"{{{{ lookup('pipe', 'touch {place}') }}}}")
    for name, told in (
        ("script.sh", f"#!/bin/sh\ncat <<'END'\n{json.dumps(inventories.inventory(settings, [evil]))}\nEND\n"),
        ("static.json", json.dumps(inventories.static(settings, [evil]))),
    ):
        (tmp_path / name).write_text(told)
        (tmp_path / name).chmod(0o755)
        ours = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")}
        line = [
            "ansible",
            "-i",
            str(tmp_path / name),
            "all",
            "-m",
            "ansible.builtin.debug",
            "-a",
            "var=bakehouse_image",
        ]

        done = system.call(line, system.environment(**ours), capture_output=True, text=True, check=False)

        assert f"touch {place}" in done.stdout, done.stdout + done.stderr
        assert not place.exists(), name


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x", "gopher://x", "/etc/hostname"])
def test_only_the_web_is_read(url: str) -> None:
    """The URL in a tag leads to no file of this host; such a tag counts as none."""
    with pytest.raises(ValueError, match="neither http nor https"):
        system.open_url(url, 5)
    tags = tag_list({f"{TAG}recipe": "jenkins", f"{TAG}repository-1": url, f"{TAG}repository-2": "https://a/b"})
    assert ("https://a/b",) == Image.from_aws({**ANSWER, "Tags": tags}).repositories


text = st.text(min_size=0, max_size=80)


@given(text, text, text)
def test_any_text_is_data(name: str, why: str, other: str) -> None:
    """Any text in any tag or name makes a record or a refusal; nothing of it commands a terminal or breaks XML."""
    tags = tag_list({f"{TAG}recipe": "jenkins", f"{TAG}user": other, f"{TAG}revoked": why, "Name": name})
    answers: tuple[tuple[Callable[[Mapping[str, Any]], Any], dict[str, Any]], ...] = (
        (Image.from_aws, {**ANSWER, "Name": name, "Tags": tags}),
        (Machine.from_aws, {**INSTANCE, "Tags": tags, "StateReason": {"Message": why}}),
        (Snapshot.from_aws, {"SnapshotId": "snap-1", "State": "x", "StartTime": MACHINE.launched, "Tags": tags}),
    )
    fits = other == "" or re.fullmatch("[a-z_][a-z0-9_-]{0,31}", other) is not None
    for make, answer in answers:
        with nullcontext() if fits else pytest.raises(UnsoundError) as refused:
            make(answer)
        if refused:
            assert all(char.isprintable() or char == "\n" for char in refused.value.message)
    report = as_junit("title", [Suite(name, why, (Case(other, 0, "failure", why),))])
    assert all(char.isprintable() or char in "\n\t" for char in report)


SPEAK = """
import sys
from bakehouse import console
told = sys.argv[1]
console.say(told); console.data(told); console.table(("a", "b"), [[told, told]]); console.finished(told, 1.0)
with console.step(told): pass
"""


def test_no_control_character_reaches_a_terminal() -> None:
    """Whatever the kit says, escapes and other control characters in it are left out; a table keeps its lines."""
    told = "[\x1b[31m\x1b]0;mine\x07\x9b2J\r\x08\u202eab\tc\nd]"
    line, environ = [sys.executable, "-c", SPEAK, told], {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)

    assert all(char.isprintable() or char in "\n\t" for char in done.stdout + done.stderr)
    assert "a\tb\n[[31m]0;mine2Jab c d]\t[[31m]0;mine2Jab c d]\n" in done.stdout


OWN_TAGS = (
    *("user", "recipe", "run", "kind", "base", "owner", "verdict", "revoked", "deprecated", "inputs", "sbom"),
    *("provenance", "repository-1", "repository-2", "jenkins", "commit", "kit", "packer", "privileged", "copied-from"),
)
# Tasks that read what the account says, each with its exit code where all is sound but no image has records or a proof.
READERS = {
    "images": 0,
    "machines --json": 0,
    "channels": 0,
    "outputs --format env": 0,
    "outputs --format github": 0,
    "show stable": 0,
    "diff IMAGE stable": 2,
    "promote --image IMAGE --allow-stand-in": 2,
    "rollback": 2,
    "revoke IMAGE --why x": 0,
    "restore IMAGE": 0,
    "retire IMAGE --dry-run": 0,
    "cleanup": 0,
    "cleanup --leftovers": 0,
    "terminate --machine MACHINE --dry-run": 0,
    "open": 0,
    "ssh -- true": 1,
    "password": 1,
    "share IMAGE --account-id 111111111111": 0,
}
in_xml = st.text(max_size=60).map(lambda told: "".join(one for one in told if " " <= one < "\ufffe"))


class Programs:
    """Stand in for the programs that tasks start: note their command lines, and let each fail."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []

    def call(self, argv: list[Any], *_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        """Note a program, which then fails as ssh does where nobody answers."""
        self.lines.append([str(word) for word in argv])
        return subprocess.CompletedProcess(argv, 255, "", "")

    def become(self, argv: list[Any], *_: Any) -> None:
        """Note a program that would take the task's place."""
        self.call(argv)
        raise SystemExit(1)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Let tasks start no program."""
    noted = Programs()
    monkeypatch.setattr(system, "call", noted.call)
    monkeypatch.setattr(system, "become", noted.become)
    return noted


@pytest.mark.local
@pytest.mark.parametrize(("words", "code"), READERS.items(), ids=READERS)
def test_no_task_stumbles_over_any_text(
    account: Account,
    image: Image,
    settings: Settings,
    run_task: Run,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
) -> None:
    """Any text in any tag, name or description: each task ends with 0, 1 or 2, and commands no terminal and no program.

    A text that can't be a user's name is in no command line.
    """
    endpoint = local.Endpoint(1, "", account.endpoint, account.variables, "", docker=True)
    monkeypatch.setattr(local, "up", lambda *_: endpoint)
    ours = {"recipe": "jenkins", "user": "admin"}
    usual = {"image": {**ours, "kind": "image", "run": "1"}, "machine": {**ours, "kind": "machine"}}
    key = settings.kept("keys") / "bakehouse-jenkins-0"
    key.parent.mkdir(parents=True)
    key.touch(mode=stat.S_IRUSR)
    account.ec2.create_key_pair(KeyName=key.name)
    launch = {"ImageId": image.id, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small", "KeyName": key.name}
    [made] = account.ec2.run_instances(**launch)["Instances"]
    ids = {"image": image.id, "machine": str(made["InstanceId"]), "snapshot": image.snapshots[0]}
    line = words.replace("IMAGE", ids["image"]).replace("MACHINE", ids["machine"]).split()
    environ = {"PATH": os.environ["PATH"], "HOME": str(settings.root), "BAKEHOUSE_STATE": str(settings.state)}

    def end(kind: str, name: str, value: str, note: str) -> Outcome:
        """Run the task where one tag of one thing, and the description of the channel's parameter, are as given."""
        for one, told in {**usual, "snapshot": usual["image"]}.items():
            tags = {**{f"{TAG}{key}": text for key, text in told.items()}, **({name: value} if one == kind else {})}
            account.ec2.create_tags(Resources=[ids[one]], Tags=tag_list(tags))
        parameter = {"Name": "/bakehouse/jenkins/stable", "Type": "String", "Overwrite": True}
        account.ssm.put_parameter(**parameter, Value=image.id, Description=note)
        programs.lines.clear()
        outcome = run_task(ROOT, environ, *line)
        account.ec2.delete_tags(Resources=[ids[kind]], Tags=[{"Key": name}])
        return outcome

    @hypothesis.settings(max_examples=2, deadline=None)
    @hypothesis.example("machine", f"{TAG}user", "-oProxyCommand=id", "\x1b]0;mine\x07")
    @hypothesis.example("image", "Name", "\x9b2Jmine\u202e", "")
    @given(st.sampled_from([*ids]), st.sampled_from([*(f"{TAG}{name}" for name in OWN_TAGS), "Name"]), in_xml, text)
    def any_text(kind: str, name: str, value: str, note: str) -> None:
        outcome = end(kind, name, value, note)

        told = outcome.stdout + outcome.stderr
        assert outcome.returncode in (0, 1, 2), told
        assert "Traceback" not in told
        assert [] == [char for char in told if not (char.isprintable() or char in "\n\t")]
        sound = re.fullmatch("[a-z_][a-z0-9_-]{0,31}", value) is not None
        assert sound or len(value) < 3 or [] == [one for one in programs.lines if value in " ".join(one)]

    assert code == end("image", "Name", "an image", "").returncode
    any_text()
