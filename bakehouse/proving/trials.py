"""Trials: run a scenario of Molecule on one platform, with a machine of the local EC2, and report its steps."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bakehouse import console, endings, machines, patience, recipes, runs, system, tools
from bakehouse.accounts import Account, connect
from bakehouse.baking import orders
from bakehouse.errors import BakehouseError, InputError, NotFoundError, RegistryError, VerdictError
from bakehouse.junit import Case, Suite
from bakehouse.proving import driver, scenarios
from bakehouse.proving.scenarios import Scenario
from bakehouse.recipes import roles
from bakehouse.runs import Run, leftovers, programs
from bakehouse.runs.transcripts import ansible_failure, changes
from bakehouse.settings import Settings

COLUMNS = ("scenario", "platform", "step", "outcome", "seconds")

_BEGAN = re.compile(r"\[[^\]]+ > (?P<action>\w+)\] Executing$")
_ENDED = re.compile(r"\[[^\]]+ > \w+\] Executed: (?P<outcome>\w+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CHANGES_NOTHING = ("check", "idempotence")


@dataclass(frozen=True)
class TrialStep:
    """Hold one step of a trial: its name, how many seconds it took, and why it failed; empty when it did not fail."""

    name: str
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """Hold the result of one scenario on one platform.

    Attributes:
        scenario: the scenario's name.
        platform: the platform's name.
        steps: the steps that were taken.
        skipped: why the trial was skipped; empty when it was not.
        log: the file with all that Molecule printed.
    """

    scenario: str
    platform: str
    steps: tuple[TrialStep, ...] = ()
    skipped: str = ""
    log: Path = Path()

    @property
    def failed(self) -> TrialStep | None:
        """Return the first step that failed; None when none did."""
        return next((step for step in self.steps if step.failure), None)

    @property
    def seconds(self) -> float:
        """Return how many seconds all steps took together."""
        return sum(step.seconds for step in self.steps)


def run(
    settings: Settings,
    chosen: Sequence[tuple[Scenario, str]],
    asked: bool,
    keep: bool,
    files: Mapping[str, Path] | None = None,
) -> list[Trial]:
    """Try each scenario on its platform, one after the other, and return the results.

    ``files`` maps packages to the files that they are installed from. A platform that can't install one of them, or
    whose base needs an image registry that can't be reached, is skipped; if the platform was ``asked`` for, InputError
    or RegistryError is raised, as it is when no platform can. Everything that a trial made is cleared away in any case,
    except with ``keep``, which leaves the machines.
    """
    tools.ensure("ssh")
    _insist_on_roles(settings, [one for one, _ in chosen])
    platforms = list(dict.fromkeys(platform for _, platform in chosen))
    unfit = _unfit(settings, platforms, files or {}, asked)
    with endings.stating("nothing is known of the roles", "./inv test-role starts again"):
        clouds = _clouds(settings, [platform for platform in platforms if platform not in unfit], asked)
        found = {**clouds, **unfit}
        return [_try(settings, one, platform, found[platform], keep, files or {}) for one, platform in chosen]


def insist(trials: Sequence[Trial]) -> None:
    """Raise VerdictError when trials failed; it names the first failed step of each, and the reason."""
    failed = [(one, one.failed) for one in trials if one.failed]
    if failed:
        what = "; ".join(
            f"{one.scenario} on {one.platform}: {step.name}: {step.failure}" for one, step in failed if step
        )
        raise VerdictError(f"{len(failed)} of {len(trials)} failed: {what}", f"the whole log: {failed[0][0].log}")


def watch(lines: Iterable[str], title: str, names: Sequence[str]) -> list[TrialStep]:
    """Read the output of Molecule, show each step with its time, and return the steps.

    ``names`` are the names of all steps in their order; ``destroy`` is left out.
    """
    taken = []
    left, said = iter(names), iter(_ESCAPE.sub("", line).rstrip() for line in lines)
    for line in said:
        if began := _BEGAN.search(line):
            name = next(left, began["action"])
            if name != "destroy":  # we destroy the machines ourselves
                taken.append(_watch_step(said, title, name, began["action"]))
    return taken


def judge(action: str, outcome: str, said: Sequence[str]) -> str:
    """Return why a step of Molecule failed, from its outcome and its output; empty when it is good.

    For Molecule a check is good even if it would change something. Here it fails then, because it comes after converge.
    """
    changed = changes(said) if action in _CHANGES_NOTHING else []
    if outcome == "Successful" and not changed:
        return ""
    told = f"not idempotent: {', '.join(changed)}" if changed else ""
    return ansible_failure(said) or told or f"Molecule says: {outcome or next(iter(said[-1:]), 'nothing')}"


def as_rows(trials: Sequence[Trial]) -> list[list[str]]:
    """Return trials as the rows of a table, under ``COLUMNS``: a row for each step, and one for the whole trial."""
    rows = []
    for one in trials:
        place = [one.scenario, one.platform]
        rows += [[*place, step.name, "FAIL" if step.failure else "ok", f"{step.seconds:.1f}"] for step in one.steps]
        outcome = "skipped" if one.skipped else "FAIL" if one.failed else "ok"
        rows.append([*place, "all", outcome, f"{one.seconds:.1f}"])
    return rows


def as_suites(trials: Sequence[Trial]) -> list[Suite]:
    """Return trials for a report: a suite for each trial, a case for each of its steps."""
    return [
        Suite(f"{one.scenario} on {one.platform}", f"{one.scenario}.{one.platform}", tuple(_cases(one)))
        for one in trials
    ]


def _cases(trial: Trial) -> list[Case]:
    if trial.skipped:
        return [Case("all", 0, "skipped", trial.skipped)]
    return [Case(step.name, step.seconds, "failure" if step.failure else "good", step.failure) for step in trial.steps]


def _insist_on_roles(settings: Settings, tried: Iterable[Scenario]) -> None:
    """Install the roles that requirements.yml names if a scenario uses one; raises NotFoundError if one is missing."""
    for one in tried:
        if missing := roles.get(settings.root, one.roles, playbook=f"{scenarios.FOLDER}/{one.name}/converge.yml"):
            raise NotFoundError(
                f"scenario {one.name} uses the role {missing[0]}, which is neither in roles/ nor from {roles.FILE}",
                f"put it into roles/, or name it in {roles.FILE}",
            )


def _unfit(
    settings: Settings, platforms: Sequence[str], files: Mapping[str, Path], asked: bool
) -> dict[str, InputError]:
    """Return for each platform that can't install a file the error that says why; raises it if none is left."""
    found: dict[str, InputError] = {}
    for platform in platforms:
        try:
            for package, file in files.items():
                orders.check_file(recipes.base(settings.root, platform), package, file)
        except InputError as error:
            found[platform] = error
    if found and (asked or len(found) == len(platforms)):
        raise next(iter(found.values()))
    return found


def _clouds(settings: Settings, platforms: Sequence[str], asked: bool) -> dict[str, Account | RegistryError]:
    """Return for each platform the account that has its base, or the error that says why it can't have it."""
    found: dict[str, Account | RegistryError] = {}
    for platform in platforms:
        try:
            found[platform] = connect(settings, base=platform)
        except RegistryError as error:
            if asked:
                raise
            found[platform] = error
    return found


def _try(
    settings: Settings,
    scenario: Scenario,
    platform: str,
    account: Account | BakehouseError,
    keep: bool,
    files: Mapping[str, Path],
) -> Trial:
    title = f"{scenario.name} on {platform}"
    if isinstance(account, BakehouseError):
        console.say(f"skipped: {title}: {account.text}")
        return Trial(scenario.name, platform, skipped=account.text)
    leftovers.clear(account, settings)
    with runs.begin(settings) as within:
        log = within.folder / "molecule.log"
        try:
            folder = within.folder / "molecule"
            ground = recipes.base(settings.root, platform)
            given = {package: orders.check_file(ground, package, file) for package, file in files.items()}
            driver.tell_packages(account, settings, scenario.roles, ground, folder, given)
            steps = _carry_out(account, settings, scenario, platform, within, folder, log)
            if not keep:
                steps.append(_clear(account, within, title))
        finally:
            if keep:
                _leave(account, within)
            else:
                leftovers.sweep(account, within)
    return Trial(scenario.name, platform, tuple(steps), log=log)


def _carry_out(
    account: Account, settings: Settings, scenario: Scenario, platform: str, within: Run, folder: Path, log: Path
) -> list[TrialStep]:
    """Run Molecule to its end and return its steps; an interruption ends Molecule too."""
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
        argv,
        run=within,
        log=log,
        folder=settings.root,
        environment=environment,
        patience=patience.MOLECULE_STOPS,
    ) as molecule:
        steps = watch(molecule.lines(), f"{scenario.name} on {platform}", scenario.steps)
    if molecule.code and not any(step.failure for step in steps):
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        steps.append(TrialStep("molecule", 0, _ESCAPE.sub("", " ".join(last)) or "Molecule said nothing"))
    return steps


def _environment(account: Account, settings: Settings, platform: str, within: Run, folder: Path) -> dict[str, str]:
    scratch = str(within.scratch)
    return {
        # The driver, which Molecule starts, asks the local EC2 and Docker.
        **account.environ(*system.ANSIBLE, *system.DOCKER),
        "BAKEHOUSE_STATE": str(settings.state),
        "BAKEHOUSE_PLATFORM": platform,
        "MOLECULE_EPHEMERAL_DIRECTORY": str(folder),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # transcripts.py reads this format.
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": scratch,
        "ANSIBLE_TIMEOUT": f"{patience.CONNECTION.seconds:.0f}",
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
        console.say(
            f"machine {machine.id} is kept; to enter it: ./inv ssh --recipe {driver.RECIPE} --machine {machine.id}"
        )
    console.say("delete it when you are done: ./inv cleanup --leftovers --yes")
