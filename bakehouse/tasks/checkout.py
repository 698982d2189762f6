"""Tasks for this checkout: its recipes, tools, linters and tests."""

from __future__ import annotations

import os
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from invoke.context import Context
from invoke.exceptions import Exit

from bakehouse import system
from bakehouse.errors import ToolError, VerdictError
from bakehouse.tasks import JSON, load_settings, task

_OF_TESTS = ("CI", "PYTEST_ADDOPTS")

LINTERS = (
    "ansible-lint",  # takes longest
    "mypy --strict .",
    "ruff check",
    "ruff format --check",
    "lint-imports",
    "yamllint --strict .",
    "shellcheck inv .ci/run examples/aws-cli.sh tests/bench/floor.sh",
    *(f"packer fmt -check {folder}" for folder in ("packer", "packer/plugins", "packer/recipes", "tests/bench")),
)

ALL_TESTS = "pytest --numprocesses=3 --no-loadscope-reorder"
"""Runs three workers, each with its own local EC2: two compute while the machines of the third boot."""


@task(
    name="new-recipe",
    help={
        "name": "the new recipe's name, also the Ansible group of its machines",
        "roles": "the roles to bake, separated by commas: names or paths",
        "base": "the base to start from; by default the first in packer/bases.auto.pkrvars.hcl",
    },
    examples=("web nginx", "web roles/web,nginx --base debian-12"),
)
def new_recipe(c: Context, name: str, roles: str, base: str = "") -> None:
    """Write the three files of a new recipe, and print their names."""
    from bakehouse import console
    from bakehouse.recipes import scaffold

    for path in scaffold.write(load_settings(), name, roles, base):
        console.data(str(path))
    console.say(f"next: fill in inventory/group_vars/{name}.yml, then ./inv bake --recipe {name}")


@task(help=JSON, examples=("", "--json"))
def doctor(c: Context, json: bool = False) -> None:
    """Show which programs are here, and how to get the others."""
    from dataclasses import asdict

    from bakehouse import console, packers, tools

    rows = [*packers.rows(load_settings().state), *tools.doctor()]
    if json:
        console.data_json([asdict(row) for row in rows])
    else:
        console.table(
            ("tool", "found", "wanted", "what for", "how to get it"),
            [(row.tool, row.found, row.wanted, row.purpose, row.remedy) for row in rows],
        )
    if missing := [row.tool for row in rows if row.blocking]:
        raise ToolError(f"missing: {', '.join(missing)}", "the last column says how to get it")


@task
def lint(c: Context) -> None:
    """Run every linter."""
    from bakehouse import console, packers, recipes, settings

    found = packers.get(load_settings().state)
    packer = shlex.quote(str(found.path))
    files = [recipes.path(settings.ROOT, name).relative_to(settings.ROOT) for name in recipes.names(settings.ROOT)]
    commands = (*LINTERS, *(f"packer validate -var-file={file} packer" for file in files))
    console.say(f"running {len(commands)} linters, as many at once as there are CPUs ...")
    environ, failed = {**_environment(), **found.environ}, []
    with c.cd(str(settings.ROOT)), ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(_seconds, c, re.sub("^packer", packer, one), environ): one for one in commands}
        try:
            for done in as_completed(running):
                seconds, said = done.result()
                console.finished(running[done], seconds, ok=not said)
                if said:
                    console.say(said)
                    failed.append(" ".join(running[done].split()[:2]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # those that run end by themselves, in a minute at most
    if failed:
        raise VerdictError(f"these linters complain: {', '.join(failed)}")


@task(
    help={
        "only": "run only the tests whose names match (pytest's -k), and no linter",
        "account": "run on this AWS profile only the tests that a real account can be used for; it costs a little",
    },
    examples=("", "--only channels"),
)
def test(c: Context, only: str = "", account: str = "") -> None:  # noqa: PT028, a task and no test
    """Run the linters and all tests: what CI runs."""
    from bakehouse import patience, settings, tools
    from bakehouse.runs import programs

    command = f"pytest -k {shlex.quote(only)}" if only else ALL_TESTS
    if account:
        command = f"pytest -m aws --account {shlex.quote(account)}"
    elif not only:
        lint(c)
        tools.ensure("docker")  # before several workers try it at once
    environ = _environment(account)
    if programs.attended(command, folder=settings.ROOT, environment=environ, patience=patience.TESTS_STOP):
        raise VerdictError("the tests fail")


@task(
    name="test-role",
    help={
        "role": "run only the scenarios that apply this role",
        "scenario": "run only this scenario: a folder in molecule/",
        "platform": "run only on this base",
        "jenkins-package": "install this .deb or .rpm, on the platforms that can, instead of one from the repository",
        "keep": "keep the machines; ./inv cleanup --leftovers --yes clears them away",
        "junit": "also write a JUnit report to this file",
    },
    examples=("", "--role java --platform debian-12", "--scenario alternative --keep", "--jenkins-package FILE"),
)
def try_role(
    c: Context,
    role: str = "",
    scenario: str = "",
    platform: str = "",
    jenkins_package: str = "",
    keep: bool = False,
    junit: str = "",
) -> None:
    """Try the roles with Molecule, on machines of the local EC2."""
    from pathlib import Path

    from bakehouse import console
    from bakehouse import junit as report
    from bakehouse.proving import scenarios, trials

    if junit:
        report.insist_writable(junit)
    settings = load_settings("local")
    chosen = scenarios.choose(scenarios.load(settings.root), role, scenario, platform)
    files = {"jenkins": Path(jenkins_package)} if jenkins_package else {}
    tried = trials.run(settings, chosen, asked=bool(platform), keep=keep, files=files)
    console.table(trials.COLUMNS, trials.as_rows(tried))
    if junit:
        report.write(junit, "bakehouse test-role", trials.as_suites(tried))
    trials.insist(tried)


@task(
    help={**JSON, "rounds": "the number of rounds, of three bakes each; 3 by default"},
    examples=("", "--rounds 5 --json"),
)
def bench(c: Context, rounds: str = "3", json: bool = False) -> None:
    """Measure a bake against one shell script over SSH."""
    from bakehouse import patience, settings
    from bakehouse.runs import programs

    command = f"python -m tests.bench --rounds {shlex.quote(rounds)}{' --json' if json else ''}"
    environ = _environment()
    code = programs.attended(command, folder=settings.ROOT, environment=environ, patience=patience.TESTS_STOP)
    if code:
        raise Exit(code=code)


def _environment(account: str = "") -> dict[str, str]:
    """Return the environment of linters and tests; only those on a real account get the person's AWS_* variables."""
    aws = [name for name in os.environ if name.startswith("AWS_")] if account else []
    return system.environment(*system.OUTSIDE, *system.DOCKER, *_OF_TESTS, *aws, **system.PACKER)


def _seconds(c: Context, linter: str, environ: dict[str, str]) -> tuple[float, str]:
    """Run a linter, and return how long that took and what it complains of, empty when of nothing."""
    begun = time.monotonic()
    outcome = c.run(linter, hide=True, warn=True, env=environ, replace_env=True)
    complaint = "" if outcome else f"{outcome.stdout}{outcome.stderr}".strip() or "it failed without a word"
    return time.monotonic() - begun, complaint


@task(
    help={
        "task": "only the rights that these tasks need, with commas between; those of all tasks by default",
        "account": "the account whose entry in accounts.yml counts; its credentials are not used",
    },
    examples=("", "--task bake,launch,terminate", "--account NAME"),
)
def policy(c: Context, task: str = "", account: str = "") -> None:
    """Print the least policy of IAM that lets somebody run the tasks on AWS."""
    from bakehouse import console, sites
    from bakehouse.accounts import rights

    settings = load_settings(account)
    site = sites.load(settings.root, settings.account).at(settings.region)
    console.data_json(rights.policy([*filter(None, task.split(","))] or rights.TASKS, site))
