"""The tasks. Each is its name, its help, one call into the package and one print; what they do is in bakehouse/.

The package is imported where it is used, so that listing the tasks costs nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import invoke.parser.parser
import invoke.tasks
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.context import ParserContext

from bakehouse.errors import InputError, ToolError, VerdictError
from bakehouse.settings import RECIPE

if TYPE_CHECKING:
    from bakehouse.settings import Settings

task = partial(invoke.tasks.task, auto_shortflags=False)

ACCOUNT = {"account": "where: local (the default) or the name of an AWS profile"}
WHICH = {"recipe": f"a recipe's name: {RECIPE} (the default) or another file of packer/recipes", **ACCOUNT}
MACHINE = {"machine": "a machine's ID; the newest one by default", **WHICH}
JSON = {"json": "print JSON instead"}
CHANNEL = {"channel": "the channel's name; stable by default", "why": "the reason, for the history"}
CHANGE = {"dry-run": "only say what would be done", "yes": "don't ask"}


@task(
    help={
        **WHICH,
        **JSON,
        "base": "start from this base of packer/bases.auto.pkrvars.hcl instead of the recipe's own",
        "jenkins-package": "install this .deb or .rpm instead of one from Jenkins's repository",
        "force": "bake although there is an image that was baked of the same",
        "plan": "only say whether a bake is due, and why; print the ID of the image that spares it",
        "on-failure": "what to do with the machine of a bake that fails: cleanup (the default) or keep",
        "prove": "prove the image too, as ./inv prove does, unless it is; it stays, whatever the verdict",
        "debug": "have Packer log everything, and show the traceback of an error",
    }
)
def bake(
    c: Context,
    recipe: str = "",
    account: str = "",
    base: str = "",
    jenkins_package: str = "",
    force: bool = False,
    plan: bool = False,
    on_failure: str = "cleanup",
    prove: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Bake an image of the recipe, if one is due, and print its ID."""
    from pathlib import Path

    from bakehouse import bakes, console, images, plans, proofs

    if debug:
        os.environ["BAKEHOUSE_DEBUG"] = "1"
    settings = _settings(account, recipe)
    files = {"jenkins": Path(jenkins_package)} if jenkins_package else {}
    if plan:
        drawn = plans.draw(settings, base, files)
        plans.tell(drawn)
        if drawn.image:
            console.data(drawn.image.id)
        return
    image = bakes.bake(
        settings,
        base=base,
        package_files=files,
        force=force,
        keep_on_failure=_one_of("on-failure", on_failure, "cleanup", "keep") == "keep",
        debug=debug,
    )
    if json:
        console.data_json(images.as_data(image))
    else:
        console.data(image.id)
    if prove:
        proofs.ensure(settings, image)
    console.say(f"next: ./inv launch{_same(settings)}")


@task(help={**WHICH, **JSON, "image": "the image's ID; the recipe's newest image by default"})
def prove(c: Context, image: str = "", json: bool = False, recipe: str = "", account: str = "") -> None:
    """Prove that an image is fit, on two machines of it."""
    from bakehouse import console, proofs, reports

    settings = _settings(account, recipe)
    proof = proofs.prove(settings, image)
    page = proofs.page(settings, proof)
    if json:
        console.data_json({**reports.as_data(proof), "page": page})
    else:
        for row in [*reports.as_rows(proof), [proof.verdict, str(page)]]:
            console.data("\t".join(row))
    proofs.insist(settings, proof)


@task(
    help={
        **WHICH,
        "image": "the image's ID; the recipe's newest image by default",
        "channel": "a channel's name, for the image that it points to",
        "count": "how many machines; 1 by default",
        "type": "the EC2 instance type; the recipe's by default",
        "allow": "who may reach the machines, as a CIDR block; your own address alone by default",
        "user-data": "a file that cloud-init gets: a cloud-config or a script",
        "on-failure": "what to do with machines that don't get healthy: keep (the default) or terminate",
    }
)
def launch(
    c: Context,
    image: str = "",
    channel: str = "",
    count: str = "1",
    type: str = "",  # noqa: A002, the flag is --type
    allow: str = "",
    user_data: str = "",
    on_failure: str = "keep",
    recipe: str = "",
    account: str = "",
) -> None:
    """Launch machines of an image, healthy, and print their IDs and URLs."""
    from bakehouse import console, launches, services

    settings = _settings(account, recipe)
    launched = launches.launch(
        settings,
        image_id=image,
        channel=channel,
        count=count,
        instance_type=type,
        allow=allow,
        user_data=user_data,
        terminate=_one_of("on-failure", on_failure, "keep", "terminate") == "terminate",
    )
    service = services.load(settings)
    for machine in launched:
        console.data(f"{machine.id}\t{service.url(machine.address)}")
    first = ["password"] if service.password_file else []
    console.say(f"next: {', '.join(f'./inv {name}{_same(settings)}' for name in (*first, 'ssh', 'probe'))}")


@task(
    help={
        **WHICH,
        **JSON,
        "machine": "a machine's ID; all machines of the recipe by default",
        "junit": "also write a JUnit report to this file",
    }
)
def probe(
    c: Context, machine: str = "", junit: str = "", json: bool = False, recipe: str = "", account: str = ""
) -> None:
    """Look whether machines are healthy, and print the evidence."""
    from bakehouse import cloud, console, machines, probes, services, suites

    if junit:
        suites.insist_writable(junit)
    settings = _settings(account, recipe)
    service = services.load(settings)
    found = machines.some(cloud.connect(settings), settings.recipe, machine)
    verdicts = probes.probe(settings, service, found)
    if json:
        console.data_json(probes.as_data(verdicts))
    else:
        console.table(probes.COLUMNS, probes.as_rows(verdicts))
    if junit:
        suites.write(junit, "bakehouse probe", probes.as_suites(verdicts))
    probes.insist(verdicts)


@task(
    name="new-recipe",
    help={
        "name": "the new recipe's name; its machines are in the Ansible group of this name",
        "roles": "what is baked, with commas between: names of roles, or paths",
        "base": "the base to start from; the first of packer/bases.auto.pkrvars.hcl by default",
    },
)
def new_recipe(c: Context, name: str, roles: str, base: str = "") -> None:
    """Write the three files of a new recipe, and print their names."""
    from bakehouse import console, drafts

    for path in drafts.write(_settings(), name, roles, base):
        console.data(str(path))
    console.say(f"next: fill in inventory/group_vars/{name}.yml, then ./inv bake --recipe {name}")


@task(help=MACHINE)
def ssh(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Enter a machine, or run a command there: ./inv ssh -- COMMAND."""
    from bakehouse import cloud, machines, shells

    settings = _settings(account, recipe)
    line = shells.line(settings, machines.one(cloud.connect(settings), settings.recipe, machine), c.remainder)
    os.execvp(line[0], line)  # noqa: S606, SSH's exit code is ours, and the terminal its own


@task(help=MACHINE)
def password(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Print the first admin password of a machine's service."""
    from bakehouse import cloud, console, machines, services, shells

    settings = _settings(account, recipe)
    path = services.password_file(settings)
    found = machines.one(cloud.connect(settings), settings.recipe, machine)
    console.data(shells.read(settings, found, path))


@task(name="open", help=MACHINE)
def open_(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Print the URL of a machine's service."""
    from bakehouse import cloud, console, machines, services

    settings = _settings(account, recipe)
    service = services.load(settings)
    found = machines.one(cloud.connect(settings), settings.recipe, machine)
    console.data(service.url(machines.address(found)))


@task(name="machines", help={**WHICH, **JSON})
def machines_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the machines of the recipe, newest first."""
    from bakehouse import cloud, console, machines

    settings = _settings(account, recipe)
    found = machines.find(cloud.connect(settings), settings.recipe)
    if json:
        console.data_json([machines.as_data(machine) for machine in found])
    else:
        console.table(machines.COLUMNS, [machines.as_row(machine) for machine in found])


@task(name="images", help={**WHICH, **JSON})
def images_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the images of the recipe, newest first, with what uses them."""
    from datetime import UTC, datetime

    from bakehouse import cloud, console, dossiers, images

    settings = _settings(account, recipe)
    door = cloud.connect(settings)
    found = dossiers.entries(door, images.find(door, settings.recipe))
    if json:
        console.data_json([dossiers.as_entry_data(entry) for entry in found])
    else:
        console.table(dossiers.ENTRIES, [dossiers.as_entry_row(entry, datetime.now(UTC)) for entry in found])


@task(help={**WHICH, **JSON, "image": "the image's ID, or a channel's name"})
def show(c: Context, image: str, json: bool = False, recipe: str = "", account: str = "") -> None:
    """Show all that is known of an image: origin, lineage, contents."""
    from datetime import UTC, datetime

    from bakehouse import cloud, console, dossiers

    settings = _settings(account, recipe)
    found = dossiers.find(cloud.connect(settings), settings, image)
    if json:
        console.data_json(dossiers.as_data(found))
    else:
        console.table(dossiers.COLUMNS, dossiers.as_rows(found, datetime.now(UTC)))


@task(
    help={
        **WHICH,
        **JSON,
        "before": "an image's ID, or a channel's name",
        "after": "another's",
        "markdown": "print release notes in Markdown instead",
    }
)
def diff(
    c: Context,
    before: str,
    after: str,
    json: bool = False,
    markdown: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Tell how the contents of two images differ."""
    from bakehouse import cloud, console, dossiers

    settings = _settings(account, recipe)
    found = dossiers.compare(settings, *dossiers.pair(cloud.connect(settings), settings.recipe, before, after))
    if json:
        console.data_json(dossiers.as_difference_data(found))
    elif markdown:
        console.data(dossiers.as_markdown(found))
    else:
        console.table(dossiers.CHANGES, dossiers.as_change_rows(found))


@task(
    help={
        **WHICH,
        **CHANNEL,
        "image": "the image's ID; the recipe's newest proven image by default",
        "allow-stand-in": "take an image with a package that stands in; on the local EC2 only, and recorded",
    }
)
def promote(
    c: Context,
    image: str = "",
    channel: str = "stable",
    why: str = "",
    allow_stand_in: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Move a channel forward to a proven image, and print its ID."""
    from bakehouse import console, promotions

    settings = _settings(account, recipe)
    console.data(
        promotions.promote(settings, image_id=image, channel=channel, why=why, allow_stand_in=allow_stand_in).image
    )
    console.say(f"next: ./inv launch --channel {channel}{_same(settings)}")


@task(help={**WHICH, **CHANNEL, "to": "the image's ID; the one before the present one by default"})
def rollback(
    c: Context, channel: str = "stable", to: str = "", why: str = "", recipe: str = "", account: str = ""
) -> None:
    """Move a channel back to an image that it pointed to, and print its ID."""
    from bakehouse import console, promotions

    settings = _settings(account, recipe)
    console.data(promotions.roll_back(settings, channel=channel, to=to, why=why).image)


@task(name="channels", help={**WHICH, **JSON})
def channels_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the channels of the recipe with their history, newest first."""
    from bakehouse import channels, cloud, console

    settings = _settings(account, recipe)
    found = channels.find(cloud.connect(settings), settings.recipe)
    if json:
        console.data_json([channels.as_data(channel) for channel in found])
    else:
        console.table(channels.COLUMNS, channels.as_rows(found))


@task(
    help={
        **WHICH,
        "channel": "the channel's name; stable by default",
        "format": "json (the default), tfvars, env or github",
    }
)
def outputs(
    c: Context,
    channel: str = "stable",
    format: str = "json",  # noqa: A002, the flag is --format
    recipe: str = "",
    account: str = "",
) -> None:
    """Print what other tools want to know of a channel's image."""
    from bakehouse import console, outputs

    write = outputs.FORMATS[_one_of("format", format, *outputs.FORMATS)]
    console.data(write(outputs.of_channel(_settings(account, recipe), channel)))


@task(
    help={
        **WHICH,
        "image": "the image's ID",
        "region": "the regions to copy it to, with commas between",
    }
)
def copy(c: Context, image: str, region: str, recipe: str = "", account: str = "") -> None:
    """Copy an image to other regions, and print the copies' IDs."""
    from bakehouse import console, copies

    for there, copied in copies.copy(_settings(account, recipe), image, region).items():
        console.data(f"{there}\t{copied.id}")


@task(
    help={
        **WHICH,
        "image": "the image's ID",
        "account-id": "the IDs of the accounts to share it with, with commas between",
    }
)
def share(c: Context, image: str, account_id: str, recipe: str = "", account: str = "") -> None:
    """Let other accounts launch an image, and print its ID."""
    from bakehouse import console, shares

    console.data(shares.share(_settings(account, recipe), image, account_id).id)


@task(help={**WHICH, **CHANGE, "machine": "the machine's ID", "all": "all machines of the recipe"})
def terminate(
    c: Context,
    machine: str = "",
    all: bool = False,  # noqa: A002, the flag is --all
    dry_run: bool = False,
    yes: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Terminate a machine, or all of the recipe."""
    from bakehouse import cloud, machines

    if bool(machine) == all:
        raise InputError("terminate which machines?", "./inv terminate --machine ID, or ./inv terminate --all")
    settings = _settings(account, recipe)
    door = cloud.connect(settings)
    found = machines.find(door, settings.recipe) if all else machines.some(door, settings.recipe, machine)
    if found and _agreed(machines.plan(found), "Terminate?", dry_run=dry_run, yes=yes):
        machines.terminate(door, settings, found)


@task(help={**WHICH, **CHANGE, "image": "the image's ID"})
def retire(
    c: Context, image: str, dry_run: bool = False, yes: bool = False, recipe: str = "", account: str = ""
) -> None:
    """Deregister an image and delete its snapshots."""
    from bakehouse import cloud, images, retirements

    settings = _settings(account, recipe)
    door = cloud.connect(settings)
    plan = retirements.retirement(door, images.get(door, image, settings.recipe))
    if _agreed(plan.lines, "Retire?", dry_run=dry_run, yes=yes):
        retirements.retire(door, plan)


@task(help={**WHICH, "image": "the image's ID", "why": "the reason, for whoever wants to use it"})
def revoke(c: Context, image: str, why: str = "", recipe: str = "", account: str = "") -> None:
    """Have an image, and all baked upon it, not be used any more."""
    from bakehouse import console, promotions

    settings = _settings(account, recipe)
    console.data(promotions.revoke(settings, image, why).id)
    console.say(f"next: ./inv restore {image}{_same(settings)} takes it back")


@task(help={**WHICH, "image": "the image's ID"})
def restore(c: Context, image: str, recipe: str = "", account: str = "") -> None:
    """Take back that an image was revoked or deprecated."""
    from bakehouse import console, promotions

    console.data(promotions.restore(_settings(account, recipe), image).id)


@task(
    help={
        **ACCOUNT,
        "keep": "how many usable images of each recipe stay in any case; 3 by default",
        "older-than": "only what is older than so many days goes; 0 by default",
        "limit": "how many are deprecated, and how many deleted, in one run; 20 by default",
        "now": "delete what wasn't deprecated in an earlier run too",
        "leftovers": "instead, what dead bakes, proofs and trials, and failed bakes that were kept, have left",
        "yes": "do it, instead of only saying so",
    }
)
def cleanup(
    c: Context,
    keep: str = "3",
    older_than: str = "0",
    limit: str = "20",
    now: bool = False,
    leftovers: bool = False,
    yes: bool = False,
    account: str = "",
) -> None:
    """Tell which images and snapshots may go and why, or clear them away."""
    from bakehouse import cleanups, cloud, console, fates, retirements

    terms = fates.terms(keep=keep, older_than=older_than, limit=limit, at_once=now)
    settings = _settings(account)
    door = cloud.connect(settings)
    if leftovers:
        found = cleanups.leftovers(door, settings, kept=True)
        if _agreed(found.lines, "Clear away?", dry_run=not yes, yes=yes):
            cleanups.apply(door, found)
    else:
        plan = retirements.plan(door, terms)
        console.table(fates.COLUMNS, fates.as_rows(plan))
        if yes:
            retirements.apply(door, plan)
        retirements.insist(plan)
    if not yes:
        console.say("nothing was done: --yes does it")


@task
def doctor(c: Context) -> None:
    """Look which programs are here, and how to get the others."""
    from bakehouse import console, tools

    rows = tools.doctor()
    console.table(
        ("tool", "found", "wanted", "what for", "how to get it"),
        [(row.tool, row.found, row.wanted, row.purpose, row.remedy) for row in rows],
    )
    if missing := [row.tool for row in rows if row.blocking]:
        raise ToolError(f"missing: {', '.join(missing)}", "the last column tells how to get it")


@task
def lint(c: Context) -> None:
    """Run every linter."""
    from bakehouse import console, recipes, settings, tools

    packer = shlex.quote(str(tools.ensure("packer")))
    files = [recipes.path(settings.ROOT, name).relative_to(settings.ROOT) for name in recipes.names(settings.ROOT)]
    failed = []
    for command in (*LINTERS, *(f"packer validate -var-file={file} packer" for file in files)):
        try:
            with console.step(command), c.cd(str(settings.ROOT)):
                _run(c, command.replace("packer", packer, 1) if command.startswith("packer") else command)
        except VerdictError as error:
            console.say(error.text)
            failed.append(" ".join(command.split()[:2]))
    if failed:
        raise VerdictError(f"these complain: {', '.join(failed)}")


@task(help={"only": "run only the tests whose names match this (pytest's -k), and no linter"})
def test(c: Context, only: str = "") -> None:  # noqa: PT028, a task and no test
    """Run the linters and all tests: what CI runs."""
    from bakehouse import settings, tools

    if not only:
        lint(c)
        tools.ensure("docker")  # before two workers do
    with c.cd(str(settings.ROOT)):
        done = c.run(f"pytest -k {shlex.quote(only)}" if only else ALL_TESTS, warn=True)
    if not done:
        raise VerdictError("the tests fail")


@task(
    name="test-role",
    help={
        "role": "only the scenarios that apply this role",
        "scenario": "only this one of the folders in molecule/",
        "platform": "only on this base",
        "keep": "leave the machines for a look; ./inv cleanup --leftovers --yes clears them away",
        "junit": "also write a JUnit report to this file",
    },
)
def try_role(
    c: Context, role: str = "", scenario: str = "", platform: str = "", keep: bool = False, junit: str = ""
) -> None:
    """Try the roles with Molecule, on machines of the local EC2."""
    from bakehouse import console, scenarios, suites, trials

    if junit:
        suites.insist_writable(junit)
    settings = _settings("local")
    chosen = scenarios.choose(scenarios.load(settings.root), role, scenario, platform)
    tried = trials.run(settings, chosen, asked=bool(platform), keep=keep)
    console.table(trials.COLUMNS, trials.as_rows(tried))
    if junit:
        suites.write(junit, "bakehouse test-role", trials.as_suites(tried))
    trials.insist(tried)


@task(help={**JSON, "rounds": "how many rounds, each of three bakes; 3 by default"})
def bench(c: Context, rounds: str = "3", json: bool = False) -> None:
    """Measure a bake against one shell script over SSH."""
    from bakehouse import settings

    with c.cd(str(settings.ROOT)):
        outcome = c.run(f"python -m tests.bench --rounds {shlex.quote(rounds)}{' --json' if json else ''}", warn=True)
    if not outcome:
        raise Exit(code=outcome.exited)


@task(help={"base": "the base to make if it isn't there; the recipe's own by default"})
def up(c: Context, base: str = "") -> None:
    """Start the local EC2, with a base to bake on, and print its endpoint."""
    from bakehouse import console, local, recipes

    settings = _settings("local")
    wanted = recipes.base(settings.root, base or recipes.load(settings).base)
    console.data(local.up(settings, wanted.name).endpoint)


@task
def down(c: Context) -> None:
    """Shut the local machines down and end the local EC2; all is kept."""
    from bakehouse import local

    local.down(_settings("local"))


@task(help=JSON)
def status(c: Context, json: bool = False) -> None:
    """Print what there is of the local EC2."""
    from bakehouse import console, local

    found = local.status(_settings("local"))
    if json:
        console.data_json(found)
    else:
        console.table(("what", "state"), _rows(found))


@task(help=CHANGE)
def reset(c: Context, dry_run: bool = False, yes: bool = False) -> None:
    """Delete all that this checkout's local EC2 has made."""
    from bakehouse import local

    settings = _settings("local")
    found = local.status(settings)
    plan = [
        *(f"delete machine {machine} ({state})" for machine, state in found["machines"].items()),
        *([f"delete images of bakes: {found['images']}"] if found["images"] else []),
        *(f"delete base {base['base']}" for base in found["bases"] if base["image"]),
        "delete its groups, key pairs, tags and log",
    ]
    if _agreed(plan, "Delete all of the local EC2?", dry_run=dry_run, yes=yes):
        local.reset(settings)


LINTERS = (
    "ruff check",
    "ruff format --check",
    "mypy --strict .",
    "lint-imports",
    "yamllint --strict .",
    "ansible-lint",
    "shellcheck inv .ci/run examples/aws-cli.sh tests/bench/floor.sh",
    *(f"packer fmt -check {folder}" for folder in ("packer", "packer/plugins", "packer/recipes", "tests/bench")),
)

ALL_TESTS = "pytest --numprocesses=2 --no-loadscope-reorder"
"""Two workers, each with a local EC2 of its own: while one's machines boot the other computes."""


def _settings(account: str = "", recipe: str = "") -> Settings:
    from bakehouse import settings

    return settings.load(account, recipe)


def _same(settings: Settings) -> str:
    """Return the flag by which the next task means the same recipe."""
    return "" if settings.recipe == RECIPE else f" --recipe {settings.recipe}"


def _one_of(flag: str, word: str, *words: str) -> str:
    if word not in words:
        raise InputError(f"--{flag} {word} is not known", f"known: {', '.join(words)}")
    return word


def _agreed(plan: Sequence[str], question: str, *, dry_run: bool, yes: bool) -> bool:
    """Show a plan and return whether to go on with it, which a dry run never does."""
    from bakehouse import console

    if plan and not dry_run:
        return console.confirm(plan, question, yes)
    for line in plan or ["there is nothing to do"]:
        console.say(line)
    return False


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        *((what, str(found[what] or "none")) for what in ("endpoint", "pid", "log")),
        *((f"base {base['base']}", f"{base['image']} ({base['how']})".strip()) for base in found["bases"]),
        ("images", str(found["images"])),
        *((f"machine {machine}", state) for machine, state in found["machines"].items()),
    ]


def _run(c: Context, command: str) -> None:
    outcome = c.run(command, hide=True, warn=True)
    if not outcome:
        raise VerdictError(f"{outcome.stdout}{outcome.stderr}".strip())


class UsageError(ParseError, InputError):
    """Refuse a command line that can't be read; Invoke's own error would exit 1, as a failed verdict does."""

    message = ""  # Invoke prints an error of the command line as such, and must not print it again as an exit

    def __init__(self, told: str, context: ParserContext | None = None) -> None:
        name = context.name if context else None
        InputError.__init__(self, told, f"./inv --help {name}" if name else "./inv --list")
        self.context = context

    def __str__(self) -> str:
        return f"error: {self.text}\nhint: {self.hint}"


setattr(invoke.parser.parser, "ParseError", UsageError)  # noqa: B010, as mypy would not have it assigned

ns = Collection(
    *(
        bake,
        prove,
        launch,
        probe,
        new_recipe,
        ssh,
        password,
        open_,
        machines_,
        images_,
        promote,
        rollback,
        channels_,
        outputs,
        show,
        diff,
        copy,
        share,
        terminate,
        retire,
        revoke,
        restore,
        cleanup,
        doctor,
        lint,
        test,
        try_role,
        bench,
    ),
    Collection("local", up, down, status, reset),
)
