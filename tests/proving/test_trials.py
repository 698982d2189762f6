"""Trials: what Molecule says becomes steps and a verdict, and its machines come and go with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import LocalEc2, wait
from samples import PARTS

from bakehouse import recipes, settings
from bakehouse.errors import InputError, NotFoundError, RegistryError, VerdictError
from bakehouse.junit import Case, Suite
from bakehouse.proving import driver, trials
from bakehouse.proving.scenarios import Scenario
from bakehouse.proving.trials import Trial, TrialStep
from bakehouse.settings import ROOT

_TASK = "TASK [web : Write the page] ****\n{}: [debian-13]{}\n\nPLAY RECAP ****\ndebian-13 : ok=1  failed=0\n"
_REFUSED = 'fatal: [debian-13]: FAILED! => {"changed": false, "msg": "no space left"}'

JUDGED = {
    "good": ("converge", "Successful", _TASK.format("changed", ""), ""),
    "a check that changes nothing": ("check", "Successful", _TASK.format("ok", ""), ""),
    "a check that would": ("check", "Successful", _TASK.format("changed", ""), "not idempotent: web : Write the page"),
    "a second run that changes": ("idempotence", "Failed", _TASK.format("changed", ""), "not idempotent: web : Write"),
    "a task that fails": ("converge", "Failed", f"TASK [Write] ***\n{_REFUSED}", "Write: no space left"),
    "no playbook": ("verify", "Missing", "", "Molecule says: Missing"),
    "killed": ("verify", "", "TASK [Look] ****", "Molecule says: TASK [Look] ****"),
    "killed in silence": ("verify", "", "", "Molecule says: nothing"),
}


@pytest.mark.parametrize(("action", "outcome", "said", "expected"), JUDGED.values(), ids=JUDGED)
def test_judge(action: str, outcome: str, said: str, expected: str) -> None:
    """A step is good when Molecule says so and nothing changed that must not; else its reason names the task."""
    told = trials.judge(action, outcome, said.splitlines())

    assert told.startswith(expected) and bool(told) == bool(expected)


def test_watch(capsys: pytest.CaptureFixture[str]) -> None:
    """Molecule's lines become steps with names of ours, shown as they end; its own destroy is none of them."""
    log = [
        "INFO     [web > destroy] Executing",
        "INFO     [web > destroy] Executed: Successful",
        "INFO     [web > syntax] Executing",
        "INFO     [web > syntax] Executed: Successful",
        "INFO     [web > verify] Executing",
        *f"TASK [Look] ****\n{_REFUSED}".splitlines(),
        "ERROR    [web > verify] \x1b[31mExecuted: Failed\x1b[0m",
    ]

    steps = trials.watch(log, "web on debian-13", ["destroy", "syntax", "look", "destroy"])

    assert [("syntax", ""), ("look", "Look: no space left")] == [(one.name, one.failure) for one in steps]
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("ok   web on debian-13: syntax ")
    assert told[1].startswith("FAIL web on debian-13: look ") and told[2].endswith("Look: no space left")


GOOD = Trial("default", "debian-13", (TrialStep("converge", 4.04), TrialStep("verify", 1.5)))
BAD = Trial(
    "web", "debian-13", (TrialStep("converge", 4), TrialStep("verify", 1, "Look: no\x1b page")), log=Path("/log")
)
SKIPPED = Trial("default", "rocky-9", skipped="base rocky-9 needs an image registry")


def test_rows() -> None:
    """Each step is a row, each trial ends with one for the whole, and what was skipped is named."""
    assert [
        ["default", "debian-13", "converge", "ok", "4.0"],
        ["default", "debian-13", "verify", "ok", "1.5"],
        ["default", "debian-13", "all", "ok", "5.5"],
        ["web", "debian-13", "converge", "ok", "4.0"],
        ["web", "debian-13", "verify", "FAIL", "1.0"],
        ["web", "debian-13", "all", "FAIL", "5.0"],
        ["default", "rocky-9", "all", "skipped", "0.0"],
    ] == trials.as_rows([GOOD, BAD, SKIPPED])


def test_as_suites() -> None:
    """A report holds a suite for each trial and a case for each step; a trial that was skipped is one case."""
    assert [
        Suite("web on debian-13", "web.debian-13", (_case("converge", 4), _case("verify", 1, "Look: no\x1b page"))),
        Suite("default on rocky-9", "default.rocky-9", (Case("all", 0, "skipped", SKIPPED.skipped),)),
    ] == trials.as_suites([BAD, SKIPPED])


def _case(name: str, seconds: float, failure: str = "") -> Case:
    return Case(name, seconds, "failure" if failure else "good", failure)


def test_insist() -> None:
    """A failed trial is an error that names its step, its reason and its log; skipped ones are none."""
    trials.insist([GOOD, SKIPPED])

    with pytest.raises(VerdictError) as refused:
        trials.insist([GOOD, BAD, SKIPPED])

    assert "1 of 3 failed: web on debian-13: verify: Look: no\x1b page" == refused.value.text
    assert "the whole log: /log" == refused.value.hint


def test_without_an_image_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A platform that needs a registry is skipped by name with the reason; one that was asked for is refused."""

    def refuse(*_: object, base: str) -> None:
        raise RegistryError(f"base {base} needs an image registry")

    monkeypatch.setattr(trials, "connect", refuse)
    given, chosen = settings.load("local", root=tmp_path), [(Scenario("default", (), ("rocky-9",), ()), "rocky-9")]

    assert [SKIPPED] == trials.run(given, chosen, asked=False, keep=False)
    assert "skipped: default on rocky-9: base rocky-9 needs an image registry\n" == capsys.readouterr().err
    with pytest.raises(RegistryError):
        trials.run(given, chosen, asked=True, keep=False)


def test_a_role_that_is_not_here(tmp_path: Path) -> None:
    """What requirements.yml names is installed before a trial that uses it; a role that is missing then is named."""
    theirs = tmp_path / "theirs"
    (theirs / "tasks").mkdir(parents=True)
    (theirs / "tasks/main.yml").write_text("[]\n")
    (theirs / "meta").mkdir()
    (theirs / "meta/main.yml").write_text("galaxy_info: {author: a, description: d, license: MIT}\n")
    subprocess.run(["tar", "-czf", tmp_path / "theirs.tar.gz", "-C", tmp_path, "theirs"], check=True)
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(ROOT / "ansible.cfg", root)
    (root / "requirements.yml").write_text(f"roles: [{{name: theirs, src: '{tmp_path}/theirs.tar.gz'}}]\n")
    told = settings.Settings(root, tmp_path / "state", "local", "", "web")

    with pytest.raises(
        NotFoundError, match=r"^scenario alone uses the role nobodys, which is neither in roles/ nor from"
    ):
        trials.run(told, [(Scenario("alone", ("theirs", "nobodys"), ("debian-13",), ()), "debian-13")], True, False)

    assert (root / ".bakehouse/galaxy/roles/theirs/tasks/main.yml").is_file()


def test_a_package_that_some_platforms_can_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A platform that can't install the package is skipped by name; one that was asked for is refused."""

    def refuse(*_: object, base: str) -> None:
        raise RegistryError(f"base {base} needs an image registry")

    monkeypatch.setattr(trials, "connect", refuse)
    (tmp_path / "jenkins.deb").write_bytes(b"!<arch>\ndebian-binary")
    given, deb = settings.load("local"), {"jenkins": tmp_path / "jenkins.deb"}
    on = [(Scenario("default", ("jenkins",), (), ()), platform) for platform in ("debian-13", "rocky-9")]
    unfit = f"{tmp_path}/jenkins.deb is not an RPM package, which base rocky-9 needs"

    tried = trials.run(given, on, asked=False, keep=False, files=deb)

    assert ["base debian-13 needs an image registry", unfit] == [one.skipped for one in tried]
    assert f"skipped: default on rocky-9: {unfit}" in capsys.readouterr().err
    for which, files in ((on[1:], deb), (on, {"jenkins": tmp_path / "none.deb"})):
        with pytest.raises(InputError):
            trials.run(given, which, asked=len(which) == 1, keep=False, files=files)


def test_a_package_comes_from_its_file(tmp_path: Path) -> None:
    """The role is told the file, and nothing stands in for the package; another role's packages are no affair of it."""
    given, ground = settings.load("local"), recipes.base(settings.ROOT, "debian-13")
    files = {"jenkins": Path("/srv/jenkins.deb"), "nginx": Path("/srv/nginx.deb")}

    driver.tell_packages(None, given, ["jenkins"], ground, tmp_path, files)  # type: ignore[arg-type]  # isn't asked

    told = json.loads((tmp_path / "inventory/debian-13.yml").read_text())
    expected = {"bakehouse_stand_ins": [], "jenkins_package_file": "/srv/jenkins.deb"}
    assert {"all": {"hosts": {"debian-13": expected}}} == told


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with a scenario of its own, which is not idempotent."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    subprocess.run(["git", "init", "--quiet", folder], check=True)  # at its root Molecule looks for .config
    own = folder / "molecule" / "own"
    own.mkdir()
    (own / "molecule.yml").write_text(
        "platforms: [{name: debian-13}]\n"
        "ansible: {playbooks: {converge: converge.yml}}\n"
        "scenario: {test_sequence: [destroy, create, converge, idempotence, destroy]}\n"
    )
    (own / "converge.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - {name: Say the time, ansible.builtin.command: date}\n"
        "  roles: []\n"
    )
    return folder


def _environment(local_ec2: LocalEc2) -> dict[str, str]:
    return {**local_ec2.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _test_role(local_ec2: LocalEc2, checkout: Path, *flags: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "invoke", "test-role", *flags]
    return subprocess.Popen(
        argv, cwd=checkout, env=_environment(local_ec2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _things(ec2: Any) -> list[str]:
    """Return what trials make: machines, groups, and key pairs of their own."""
    ours = [{"Name": "tag-key", "Values": ["bakehouse:run"]}]
    machines = [one for each in ec2.describe_instances(Filters=ours)["Reservations"] for one in each["Instances"]]
    return [
        *(one["InstanceId"] for one in machines if one["State"]["Name"] != "terminated"),
        *(one["GroupId"] for one in ec2.describe_security_groups(Filters=ours)["SecurityGroups"]),
    ]


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_a_trial_that_fails(local_ec2: LocalEc2, ec2: Any, checkout: Path) -> None:
    """It exits 1 naming step and Ansible task; with --keep its machine stays, until the leftovers are cleared away."""
    process = _test_role(local_ec2, checkout, "--scenario", "own", "--keep", "--junit", "report.xml")
    table, told = process.communicate(timeout=1500)

    assert 1 == process.returncode, told
    rows = [line.split("\t")[:4] for line in table.splitlines()]
    expected = [("create", "ok"), ("converge", "ok"), ("idempotence", "FAIL"), ("all", "FAIL")]
    assert [["own", "debian-13", *row] for row in expected] == rows[1:], told
    reason = "own on debian-13: idempotence: not idempotent: Say the time"
    assert f"error: 1 of 1 failed: {reason}" == told.splitlines()[-2]
    log = Path(told.splitlines()[-1].removeprefix("hint: the whole log: "))
    assert "Idempotence test failed" in log.read_text()
    assert 'message="not idempotent: Say the time"' in (checkout / "report.xml").read_text()
    machine = _things(ec2)[0]
    assert f"./inv ssh --recipe trial --machine {machine}" in told

    local_ec2.inv("cleanup", "--leftovers", "--yes")
    assert [] == _things(ec2)


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_an_interrupted_trial_leaves_nothing(local_ec2: LocalEc2, ec2: Any, checkout: Path) -> None:
    """Ctrl-C while the machine is there takes it away, with all that was made for it."""
    process = _test_role(local_ec2, checkout, "--scenario", "own")
    wait(lambda: any(one.startswith("i-") for one in _things(ec2)), seconds=300)
    process.send_signal(signal.SIGINT)
    table, told = process.communicate(timeout=600)

    assert (130, "") == (process.returncode, table)
    assert "error: ./inv test-role was interrupted by SIGINT: nothing is known of the roles" in told
    assert [] == _things(ec2)


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_molecule_alone(local_ec2: LocalEc2, ec2: Any, checkout: Path) -> None:
    """Molecule by itself makes the same machine, enters it, and takes it away."""

    def molecule(*words: str) -> None:
        argv = ["molecule", *words, "--scenario-name", "own"]
        done = subprocess.run(
            argv, cwd=checkout, env=_environment(local_ec2), capture_output=True, text=True, timeout=1000, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    molecule("converge")
    assert _things(ec2)
    molecule("destroy")
    assert [] == _things(ec2)
