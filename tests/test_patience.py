"""Patience: limits come from one room and can be stretched, and no answer in time is neither a yes nor a no."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from samples import MACHINE, baked

from bakehouse import machines, packers, patience, settings, system, tools
from bakehouse.accounts import TAG, Account, access, tags_of
from bakehouse.errors import DeadlineError, InputError, NotKnownError, VerdictError
from bakehouse.machines import Machine, launches, probes, shells
from bakehouse.machines.probes import Finding, Probe, Verdict
from bakehouse.patience import Limit
from bakehouse.proving import proofs
from bakehouse.recipes.services import Service
from bakehouse.settings import ROOT, Settings
from bakehouse.tools import TOOLS


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each limit be half a second."""
    monkeypatch.setattr(Limit, "seconds", 0.5)
    monkeypatch.setattr(Limit, "least", lambda *_: 0.5)


SILENT = "exec /bin/sleep 60"


def have(folder: Path, monkeypatch: pytest.MonkeyPatch, others: str = "", **scripts: str) -> None:
    """Have these programs on PATH, before the others that are named; an empty script doesn't answer."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script or SILENT}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{others}")


def test_a_slow_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor stretches each limit, and what a recipe allows."""
    limit = Limit(20, "")
    assert (20, 30) == (limit.seconds, limit.least(30))

    monkeypatch.setenv("BAKEHOUSE_PATIENCE", "2.5")

    assert (50, 75, 50) == (limit.seconds, limit.least(30), limit.least(10))


@pytest.mark.parametrize("told", ["0.5", "0", "-1", "much", "inf", "nan"])
def test_no_factor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str) -> None:
    """What is no factor from 1 up is refused by its name."""
    monkeypatch.setenv("BAKEHOUSE_PATIENCE", told)

    with pytest.raises(InputError, match=f"BAKEHOUSE_PATIENCE is '{told}', which is no factor"):
        settings.load(root=tmp_path)


def test_each_limit_has_its_reason() -> None:
    """Nobody waits without knowing why."""
    limits = {name: one for name, one in vars(patience).items() if isinstance(one, Limit)}

    assert limits
    assert {} == {name: one for name, one in limits.items() if len(one.why) < 10}


ASKED: dict[str, tuple[list[str], Callable[[Path], object], str]] = {
    "a tool": (["git"], lambda _: tools.ensure("git"), "git --version"),
    "packer": (["packer"], packers.get, "packer version"),
    "the engine": ([], lambda _: tools.ensure("docker"), "docker version"),
    "root": (["sudo"], lambda _: system.become_root(), "sudo -n"),
    "a package": (["apt-cache"], lambda _: system.having(("x",)), "apt-cache policy"),
}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("silent", "ask", "words"), ASKED.values(), ids=ASKED)
def test_a_program_that_does_not_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: list[str],
    ask: Callable[[Path], object],
    words: str,
) -> None:
    """It is not taken for missing, another one or down: nothing is installed or started, and the line names it."""
    note = f"echo ${{0##*/}} >>{tmp_path}/asked"
    docker = f'[ "$1" = version ] && {SILENT}; echo Docker version 26.1.3'
    noting = dict.fromkeys(("apt-get", "service", "systemctl"), note)
    have(tmp_path, monkeypatch, docker=docker, **dict.fromkeys(silent, ""), **noting)
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if "sudo" in silent else 0)

    with pytest.raises(NotKnownError, match=rf"{words} gave no answer in 0 s$") as raised:
        ask(tmp_path)

    assert "BAKEHOUSE_PATIENCE=4" in raised.value.hint
    assert not (tmp_path / "asked").exists()


@pytest.mark.usefixtures("short")
def test_doctor_names_what_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that doesn't answer is told as such; nobody is sent to install it."""
    have(tmp_path, monkeypatch, git="")

    [row] = [row for row in tools.doctor() if row.tool == "git"]

    assert (f"{tmp_path}/git --version gave no answer in 0 s", patience.LONGER) == (row.found, row.remedy)
    assert not row.blocking


def test_a_sound_program_behind_a_silent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one on PATH is taken."""
    monkeypatch.setattr(Limit, "seconds", 2)
    have(tmp_path, monkeypatch, os.environ["PATH"], git="")

    assert not tools.find(TOOLS["git"]).trouble


@pytest.fixture
def machine(settings: Settings) -> Machine:
    """Return a machine whose key is here."""
    access.keys(settings).mkdir(parents=True)
    (access.keys(settings) / MACHINE.key).touch()
    return replace(MACHINE, address="127.0.0.1")


SERVICE = Service("x.service", 0, ())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("ssh", ["", "echo 'ssh: connect to host x: Connection timed out' >&2; exit 255"])
def test_ssh_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, machine: Machine, ssh: str
) -> None:
    """Whatever looks at a machine over SSH finds nothing then, neither good nor bad."""
    have(tmp_path, monkeypatch, ssh=ssh)
    look = Probe("SSH", lambda: probes._entered(settings, machine))

    with pytest.raises(NotKnownError, match=f"machine {machine.id} gave no answer"):
        shells.enter(settings, machine, "true")
    finding = probes.look(look)
    assert (None, True) == (finding.ok, f"machine {machine.id} gave no answer" in finding.evidence)
    with pytest.raises(DeadlineError, match=f"to boot anew: machine {machine.id} gave no answer") as late:
        shells.rebooted(settings, machine, "before")
    assert late.value.silent
    assert [machine.id] == list(launches.settled(settings, SERVICE, [machine], 0).unknown)


def test_ssh_that_says_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, machine: Machine
) -> None:
    """A machine that lets nobody in is not healthy: that is an answer."""
    monkeypatch.setattr(patience, "ENTRY", Limit(0, "the test doesn't wait"))
    have(tmp_path, monkeypatch, ssh="echo 'admin@127.0.0.1: Permission denied (publickey).' >&2; exit 255")

    assert launches.Served() == launches.settled(settings, SERVICE, [machine], 0)
    finding = probes.look(Probe("SSH", lambda: probes._entered(settings, machine)))
    assert (False, "admin@127.0.0.1: Permission denied (publickey).") == (finding.ok, finding.evidence)


def raising(error: Exception) -> Callable[[], str]:
    """Return a look that raises an error."""

    def look() -> str:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "ok"),
    [(NotKnownError("no answer"), None), (TimeoutError("timed out"), None), (ConnectionRefusedError("refused"), False)],
)
def test_a_look_has_three_outcomes(error: Exception, ok: bool | None) -> None:
    """Silence is no bad finding; being refused is."""
    assert ok is probes.look(Probe("port 22", raising(error))).ok


GOOD, BAD, UNKNOWN = (Finding("x", ok, "") for ok in (True, False, None))


@pytest.mark.parametrize(
    ("findings", "ok", "error"),
    [
        ((GOOD, GOOD), True, None),
        ((GOOD, UNKNOWN), None, NotKnownError),
        ((UNKNOWN, BAD), False, VerdictError),
        ((), False, VerdictError),
    ],
)
def test_a_verdict_has_three_outcomes(findings: tuple[Finding, ...], ok: bool | None, error: type[Exception]) -> None:
    """Something bad makes a verdict bad; else, something unknown keeps it from being one."""
    verdict = Verdict(MACHINE, findings)

    assert ok is verdict.ok
    if error:
        with pytest.raises(error):
            probes.insist([verdict])
    else:
        probes.insist([verdict])


@pytest.mark.local
@pytest.mark.usefixtures("short")
def test_a_slow_look_is_no_failed_proof(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, machine: Machine
) -> None:
    """The proof ends in one line, the image's tag stays as it was, and so does an earlier proof."""
    image = baked(account, user="admin", verdict="pass sha256:0")
    earlier = settings.kept("proofs") / image / "proof.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    monkeypatch.setattr(proofs, "connect", lambda _: account)
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")
    monkeypatch.setattr(machines, "running", lambda _, ids, __: [replace(machine, id=one) for one in ids])
    ssh = f'[ "$1" = -V ] && exec echo OpenSSH_9.2p1; {SILENT}'
    have(tmp_path, monkeypatch, os.environ["PATH"], ssh=ssh)

    with pytest.raises(NotKnownError, match=r"gave no answer over SSH in 0 s: nothing is proven of image"):
        proofs.prove(replace(settings, root=ROOT), image)

    tags = tags_of(account.ec2.describe_images(ImageIds=[image])["Images"][0])
    assert ("pass sha256:0", "{}") == (tags[f"{TAG}verdict"], earlier.read_text())
