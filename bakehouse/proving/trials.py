"""Trials: one scenario of Molecule on one platform, whose machine is one of the local EC2, with what became of it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bakehouse import console, machines, recipes, runs, tools
from bakehouse.accounts import Account, connect
from bakehouse.errors import RegistryError, VerdictError
from bakehouse.junit import Case, Suite
from bakehouse.proving import driver, scenarios
from bakehouse.proving.scenarios import Scenario
from bakehouse.runs import Run, leftovers, programs
from bakehouse.runs.transcripts import ansible_failure, changes
from bakehouse.settings import Settings

COLUMNS = ("scenario", "platform", "step", "outcome", "seconds")

_CANCEL_SECONDS = 20
_BEGAN = re.compile(r"\[[^\]]+ > (?P<action>\w+)\] Executing$")
_ENDED = re.compile(r"\[[^\]]+ > \w+\] Executed: (?P<outcome>\w+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CHANGES_NOTHING = ("check", "idempotence")


@dataclass(frozen=True)
class TrialStep:
    """Hold one step of a trial: its name, how many seconds it took, and why it failed, which is empty if it did not."""

    name: str
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """Hold what became of one scenario on one platform.

    Attributes: scenario and platform, their names; steps, those that were taken; skipped, why there were none, or
    empty; log, the file with all that was said.
    """

    scenario: str
    platform: str
    steps: tuple[TrialStep, ...] = ()
    skipped: str = ""
    log: Path = Path()

    @property
    def failed(self) -> TrialStep | None:
        """Return the step that failed."""
        return next((step for step in self.steps if step.failure), None)

    @property
    def seconds(self) -> float:
        """Return how long all steps took."""
        return sum(step.seconds for step in self.steps)


def run(settings: Settings, chosen: Sequence[tuple[Scenario, str]], asked: bool, keep: bool) -> list[Trial]:
    """Try each scenario on its platform, one after the other, and return what became of them.

    A platform that needs an image registry where none can be reached is skipped, or refused if it was ``asked`` for.
    All that was made goes, whatever happens; ``keep`` leaves the machines. Raises VerdictError when interrupted.
    """
    tools.ensure("ssh")
    with runs.interruptible(_interrupted):
        clouds = _clouds(settings, [platform for _, platform in chosen], asked)
        return [_try(settings, scenario, platform, clouds[platform], keep) for scenario, platform in chosen]


def insist(trials: Sequence[Trial]) -> None:
    """Raise VerdictError, which names the first step of each trial that failed, with its reason, unless none did."""
    failed = [(one, one.failed) for one in trials if one.failed]
    if failed:
        what = "; ".join(
            f"{one.scenario} on {one.platform}: {step.name}: {step.failure}" for one, step in failed if step
        )
        raise VerdictError(f"{len(failed)} of {len(trials)} failed: {what}", f"the whole log: {failed[0][0].log}")


def watch(lines: Iterable[str], title: str, names: Sequence[str]) -> list[TrialStep]:
    """Read what Molecule says as steps, each shown with its time; ``names`` are those of all that may come."""
    taken = []
    left, said = iter(names), iter(_ESCAPE.sub("", line).rstrip() for line in lines)
    for line in said:
        if began := _BEGAN.search(line):
            name = next(left, began["action"])
            if name != "destroy":  # that is ours to do
                taken.append(_watch_step(said, title, name, began["action"]))
    return taken


def judge(action: str, outcome: str, said: Sequence[str]) -> str:
    """Return why a step of Molecule failed, from its outcome and what was said in it; empty when it's good.

    Molecule lets a check pass that would change something; here it fails, as that comes after converge.
    """
    changed = changes(said) if action in _CHANGES_NOTHING else []
    if outcome == "Successful" and not changed:
        return ""
    told = f"not idempotent: {', '.join(changed)}" if changed else ""
    return ansible_failure(said) or told or f"Molecule says: {outcome or next(iter(said[-1:]), 'nothing')}"


def as_rows(trials: Sequence[Trial]) -> list[list[str]]:
    """Return trials as the rows of a table, under ``COLUMNS``: a row for each step, and one for the whole."""
    rows = []
    for one in trials:
        place = [one.scenario, one.platform]
        rows += [[*place, step.name, "FAIL" if step.failure else "ok", f"{step.seconds:.1f}"] for step in one.steps]
        outcome = "skipped" if one.skipped else "FAIL" if one.failed else "ok"
        rows.append([*place, "all", outcome, f"{one.seconds:.1f}"])
    return rows


def as_suites(trials: Sequence[Trial]) -> list[Suite]:
    """Return trials for a report: a suite for each, a case for each of its steps."""
    return [
        Suite(f"{one.scenario} on {one.platform}", f"{one.scenario}.{one.platform}", tuple(_cases(one)))
        for one in trials
    ]


def _cases(trial: Trial) -> list[Case]:
    if trial.skipped:
        return [Case("all", 0, "skipped", trial.skipped)]
    return [Case(step.name, step.seconds, "failure" if step.failure else "good", step.failure) for step in trial.steps]


def _interrupted(signal_name: str) -> VerdictError:
    return VerdictError(f"the trial was interrupted by {signal_name}", "./inv test-role starts anew")


def _clouds(settings: Settings, platforms: Sequence[str], asked: bool) -> dict[str, Account | RegistryError]:
    """Return for each platform the account that has its base, or why it can't have it here."""
    found: dict[str, Account | RegistryError] = {}
    for platform in dict.fromkeys(platforms):
        try:
            found[platform] = connect(settings, base=platform)
        except RegistryError as error:
            if asked:
                raise
            found[platform] = error
    return found


def _try(settings: Settings, scenario: Scenario, platform: str, account: Account | RegistryError, keep: bool) -> Trial:
    title = f"{scenario.name} on {platform}"
    if isinstance(account, RegistryError):
        console.say(f"skipped: {title}: {account.text}")
        return Trial(scenario.name, platform, skipped=account.text)
    leftovers.clear(account, settings)
    with runs.begin(settings) as within:
        log = within.folder / "molecule.log"
        try:
            steps = _carry_out(account, settings, scenario, platform, within, log)
            if not keep:
                steps.append(_clear(account, within, title))
        finally:
            if keep:
                _leave(account, within)
            else:
                leftovers.sweep(account, within)
    return Trial(scenario.name, platform, tuple(steps), log=log)


def _carry_out(
    account: Account, settings: Settings, scenario: Scenario, platform: str, within: Run, log: Path
) -> list[TrialStep]:
    """Run Molecule to its end and return the steps that it took; interrupted, end it."""
    folder = within.folder / "molecule"
    ground = recipes.base(settings.root, platform)
    driver.tell_stand_ins(account, settings, scenario.roles, ground, folder)
    argv = [
        str(Path(sys.executable).with_name("molecule")),
        "--base-config",
        scenarios.CONFIG,
        "test",
        "--scenario-name",
        scenario.name,
        "--destroy=never",
    ]
    environment = _environment(account, settings, platform, within, folder)
    with programs.started(
        argv, log=log, folder=settings.root, environment=environment, patience=_CANCEL_SECONDS
    ) as molecule:
        steps = watch(molecule.lines(), f"{scenario.name} on {platform}", scenario.steps)
    if molecule.code and not any(step.failure for step in steps):
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        steps.append(TrialStep("molecule", 0, _ESCAPE.sub("", " ".join(last)) or "Molecule said nothing"))
    return steps


def _environment(account: Account, settings: Settings, platform: str, within: Run, folder: Path) -> dict[str, str]:
    scratch = str(within.scratch)
    return {
        **account.environ(),
        runs.VARIABLE: within.id,
        "BAKEHOUSE_STATE": str(settings.state),
        "BAKEHOUSE_PLATFORM": platform,
        "MOLECULE_EPHEMERAL_DIRECTORY": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # This is how transcripts.py reads it.
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": scratch,
        "ANSIBLE_SSH_CONTROL_PATH_DIR": scratch,
    }


def _watch_step(lines: Iterator[str], title: str, name: str, action: str) -> TrialStep:
    begun, said, outcome = time.monotonic(), [], ""
    failure = VerdictError("")
    try:
        with console.step(f"{title}: {name}"):
            for line in lines:
                if ended := _ENDED.search(line):
                    outcome = ended["outcome"]
                    break
                said.append(line)
            failure = VerdictError(judge(action, outcome, said))
            if failure.text:
                raise failure
    except VerdictError as error:
        console.say(f"     {error.text}")
    return TrialStep(name, time.monotonic() - begun, failure.text)


def _clear(account: Account, within: Run, title: str) -> TrialStep:
    begun = time.monotonic()
    with console.step(f"{title}: destroy"):
        leftovers.apply(account, leftovers.of_run(account, within))
    return TrialStep("destroy", time.monotonic() - begun)


def _leave(account: Account, within: Run) -> None:
    within.keep()
    for machine in machines.find(account, driver.RECIPE):
        console.say(f"machine {machine.id} stays: ./inv ssh --recipe {driver.RECIPE} --machine {machine.id}")
    console.say("clear it away when you are done: ./inv cleanup --leftovers --yes")
