"""Tasks for the local EC2, named local.…: start it, stop it, look at it and delete it."""

from __future__ import annotations

from invoke.context import Context

from bakehouse.tasks import CHANGE, JSON, agreed, load_settings, task


@task(
    help={
        "base": "the base to make if it is missing; the recipe's own by default",
        "policy": "a file with a policy of IAM that limits the tasks from now on, as on AWS; none lifts it",
        "scarce": "instance types, or TYPE@SUBNET, for which there is no room from now on; none lifts it",
    },
    examples=("", "--base debian-12", "--policy FILE", "--scarce t3.medium,t3.large"),
)
def up(c: Context, base: str = "", policy: str = "", scarce: str = "") -> None:
    """Start the local EC2, with a base to bake on, and print its endpoint."""
    from bakehouse import console, local, recipes

    settings = load_settings("local")
    wanted = recipes.base(settings.root, base or recipes.load(settings).base)
    if policy:
        local.enforce(settings, policy)
    if scarce:
        local.lack(settings, scarce)
    console.data(local.up(settings, wanted.name, recipes.bases(settings.root)).endpoint)


@task(examples=("",))
def env(c: Context) -> None:
    """Print lines for eval that make a shell's programs use the local EC2."""
    from shlex import quote

    from bakehouse import console, local

    for name, value in local.up(load_settings("local")).variables.items():
        console.data(f"export {name}={quote(value)}")
    console.data("unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    console.data('export NO_PROXY="${NO_PROXY:+$NO_PROXY,}127.0.0.1" no_proxy="${no_proxy:+$no_proxy,}127.0.0.1"')


@task
def down(c: Context) -> None:
    """Stop the local machines and the local EC2; nothing is deleted."""
    from bakehouse import local

    local.down(load_settings("local"))


@task(
    help={**JSON, "everywhere": "tell instead what all checkouts have on this Docker engine, vanished ones too"},
    examples=("", "--json", "--everywhere"),
)
def status(c: Context, everywhere: bool = False, json: bool = False) -> None:
    """Print the state, bases and machines of the local EC2."""
    from dataclasses import asdict

    from bakehouse import console, local
    from bakehouse.local import checkouts

    if everywhere:
        all_ = local.everywhere()
        if json:
            console.data_json([asdict(one) for one in all_])
        else:
            console.table(checkouts.COLUMNS, checkouts.as_rows(all_))
        return
    found = local.status(load_settings("local"))
    if json:
        console.data_json(found)
    else:
        console.table(local.COLUMNS, local.as_rows(found))


@task(
    help={**CHANGE, "gone": "delete instead what checkouts have left on this Docker engine whose folders are gone"},
    examples=("--dry-run", "--yes", "--gone"),
)
def reset(c: Context, gone: bool = False, dry_run: bool = False, yes: bool = False) -> None:
    """Delete all that this checkout's local EC2 has made."""
    from bakehouse import local, runs
    from bakehouse.local import checkouts

    if gone:
        left = [one for one in local.everywhere() if one.state == "gone"]
        if agreed(checkouts.plan(left), "Delete what they have left?", dry_run=dry_run, yes=yes):
            local.reset_gone(left)
        return
    settings = load_settings("local")
    plan = local.plan_of_reset(local.status(settings))
    if agreed(plan, "Delete all of the local EC2?", dry_run=dry_run, yes=yes):
        local.reset(settings)
        runs.forget(settings)
