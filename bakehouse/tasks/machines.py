"""Tasks for machines: launch, probe, enter, list and terminate them."""

from __future__ import annotations

from invoke.context import Context

from bakehouse.errors import InputError
from bakehouse.tasks import (
    CHANGE,
    EVERYONE,
    JSON,
    MACHINE,
    OWNER,
    VAULT,
    WHICH,
    agreed,
    load_settings,
    one_of,
    same_recipe,
    task,
)


@task(
    help={
        **WHICH,
        **JSON,
        **OWNER,
        **EVERYONE,
        **VAULT,
        "image": "the image's ID; the newest image of the recipe that is yours by default",
        "channel": "launch the image that this channel points to",
        "count": "the number of machines; 1 by default",
        "type": "the EC2 instance type; the recipe's by default",
        "allow": "the network that may connect, as a CIDR block; only your own address by default",
        "user-data": "a file for cloud-init: a cloud-config or a script",
        "on-failure": "what happens to machines that don't get healthy: keep (the default) or terminate",
    },
    examples=("", "--channel stable --count 2", "--recipe nginx --on-failure terminate", "--user-data FILE"),
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
    owner: str = "",
    everyone: bool = False,
    vault_password_file: str = "",
    json: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Launch healthy machines of an image, and print their IDs and URLs."""
    from bakehouse import console, machines
    from bakehouse.machines import launches
    from bakehouse.recipes import services

    settings = load_settings(account, recipe, owner, vault_password_file)
    launched = launches.launch(
        settings,
        image_id=image,
        channel=channel,
        count=count,
        instance_type=type,
        allow=allow,
        user_data=user_data,
        terminate=one_of("on-failure", on_failure, "keep", "terminate") == "terminate",
        everyone=everyone,
    )
    service = services.load(settings)
    if json:
        console.data_json([{**machines.as_data(one), "url": service.url(one.address)} for one in launched])
    for machine in launched if not json else ():
        console.data(f"{machine.id}\t{service.url(machine.address)}")
    first = ["password"] if service.password_file else []
    console.say(f"next: {', '.join(f'./inv {name}{same_recipe(settings)}' for name in (*first, 'ssh', 'probe'))}")


@task(
    help={
        **WHICH,
        **JSON,
        **VAULT,
        "machine": "a machine's ID; all machines of the recipe by default",
        "junit": "also write a JUnit report to this file",
    },
    examples=("", "--machine i-0a1b2c3d4e5f60718", "--junit probe.xml"),
)
def probe(
    c: Context,
    machine: str = "",
    junit: str = "",
    vault_password_file: str = "",
    json: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Check whether machines are healthy, and print the evidence."""
    from bakehouse import accounts, console, endings, machines
    from bakehouse import junit as report
    from bakehouse.machines import probes
    from bakehouse.recipes import services

    if junit:
        report.insist_writable(junit)
    settings = load_settings(account, recipe, vault_password_file=vault_password_file)
    service = services.load(settings)
    with endings.stating("nothing is known of the machines", "./inv probe looks again"):
        found = machines.some(accounts.connect(settings), settings.recipe, machine)
        verdicts = probes.probe(settings, service, found)
    if json:
        console.data_json(probes.as_data(verdicts))
    else:
        console.table(probes.COLUMNS, probes.as_rows(verdicts))
    if junit:
        report.write(junit, "bakehouse probe", probes.as_suites(verdicts))
    probes.insist(verdicts)


@task(help=MACHINE, examples=("", "-- systemctl --failed", "--machine i-0a1b2c3d4e5f60718"))
def ssh(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Enter a machine, or run a command there: ./inv ssh -- COMMAND."""
    from bakehouse import accounts, machines, system
    from bakehouse.machines import shells

    settings = load_settings(account, recipe)
    line = shells.line(settings, machines.one(accounts.connect(settings), settings.recipe, machine), c.remainder)
    system.become(line, system.environment())  # SSH has the terminal, and its exit code is ours


@task(help=MACHINE, examples=("", "--machine i-0a1b2c3d4e5f60718"))
def password(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Print the first admin password of a machine's service."""
    from bakehouse import accounts, console, machines
    from bakehouse.machines import shells
    from bakehouse.recipes import services

    settings = load_settings(account, recipe)
    service = services.with_password(settings)
    found = machines.one(accounts.connect(settings), settings.recipe, machine)
    console.data(shells.first_password(settings, service, found))


@task(name="open", help=MACHINE, examples=("", "--machine i-0a1b2c3d4e5f60718"))
def open_(c: Context, machine: str = "", recipe: str = "", account: str = "") -> None:
    """Print the URL of a machine's service."""
    from bakehouse import accounts, console, machines
    from bakehouse.recipes import services

    settings = load_settings(account, recipe)
    service = services.load(settings)
    found = machines.one(accounts.connect(settings), settings.recipe, machine)
    console.data(service.url(machines.address(found)))


@task(name="machines", help={**WHICH, **JSON}, examples=("", "--recipe nginx --json"))
def machines_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the machines of the recipe, newest first."""
    from bakehouse import accounts, console, machines

    settings = load_settings(account, recipe)
    found = machines.find(accounts.connect(settings), settings.recipe)
    if json:
        console.data_json([machines.as_data(machine) for machine in found])
    else:
        console.table(machines.COLUMNS, [machines.as_row(machine) for machine in found])


@task(
    help={**WHICH, **CHANGE, **JSON, "machine": "the machine's ID", "all": "terminate all machines of the recipe"},
    examples=("--machine i-0a1b2c3d4e5f60718", "--all --dry-run", "--all --yes"),
)
def terminate(
    c: Context,
    machine: str = "",
    all: bool = False,  # noqa: A002, the flag is --all
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Terminate a machine, or all machines of the recipe."""
    from bakehouse import accounts, console, endings, machines
    from bakehouse.machines import launches

    if machine and all:
        raise InputError("--machine and --all exclude each other", "give one of them")
    if not machine and not all:
        raise InputError("--machine or --all is missing", "give --machine ID, or --all")
    settings = load_settings(account, recipe)
    there = accounts.connect(settings)
    found = (
        machines.find(there, settings.recipe, machines.HERE)
        if all
        else [machines.get(there, machine, settings.recipe, machines.HERE)]
    )
    if found and agreed(machines.plan(found), "Terminate?", dry_run=dry_run, yes=yes):
        ids = " ".join(one.id for one in found)
        with endings.stating(f"{ids} may be there for a while", "./inv machines lists what is"):
            launches.end(there, settings, found)
    if json:
        console.data_json([machines.as_data(one) for one in found])
