"""Tasks for channels, and for taking images out of service."""

from __future__ import annotations

from invoke.context import Context

from bakehouse.tasks import (
    ACCOUNT,
    CHANGE,
    CHANNEL,
    EVERYONE,
    JSON,
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
        **CHANNEL,
        "image": "the image's ID; the recipe's newest proven image by default",
        "allow-stand-in": "allow an image with a stand-in package, and record it; on the local EC2 only",
    },
    examples=("", "--allow-stand-in", '--image ami-0a1b2c3d4e5f60718 --why "new kernel" --account production'),
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
    from bakehouse import console
    from bakehouse.images import promotions

    settings = load_settings(account, recipe)
    console.data(
        promotions.promote(settings, image_id=image, channel=channel, why=why, allow_stand_in=allow_stand_in).image
    )
    console.say(f"next: ./inv launch --channel {channel}{same_recipe(settings)}")


@task(
    help={**WHICH, **CHANNEL, "to": "the image's ID; the channel's previous image by default"},
    examples=("", '--why "the new one is slow"', "--to ami-0a1b2c3d4e5f60718"),
)
def rollback(
    c: Context, channel: str = "stable", to: str = "", why: str = "", recipe: str = "", account: str = ""
) -> None:
    """Move a channel back to an image that it pointed to, and print its ID."""
    from bakehouse import console
    from bakehouse.images import promotions

    settings = load_settings(account, recipe)
    console.data(promotions.roll_back(settings, channel=channel, to=to, why=why).image)


@task(name="channels", help={**WHICH, **JSON}, examples=("", "--recipe nginx --json"))
def channels_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the channels of the recipe with their history, newest first."""
    from bakehouse import accounts, console
    from bakehouse.images import channels

    settings = load_settings(account, recipe)
    found = channels.find(accounts.connect(settings), settings.recipe)
    if json:
        console.data_json([channels.as_data(channel) for channel in found])
    else:
        console.table(channels.COLUMNS, channels.as_rows(found))


@task(
    help={
        **WHICH,
        "channel": "the channel's name; stable by default",
        "format": "json (the default), tfvars, env or github",
    },
    examples=("", "--format tfvars", "--channel candidate --format env"),
)
def outputs(
    c: Context,
    channel: str = "stable",
    format: str = "json",  # noqa: A002, the flag is --format
    recipe: str = "",
    account: str = "",
) -> None:
    """Print a channel's image in a form that other tools read."""
    from bakehouse import console
    from bakehouse.images import outputs

    write = outputs.FORMATS[one_of("format", format, *outputs.FORMATS)]
    console.data(write(outputs.of_channel(load_settings(account, recipe), channel)))


@task(
    help={**WHICH, "image": "the image's ID", "why": "the reason, which whoever tries to use the image is told"},
    examples=('ami-0a1b2c3d4e5f60718 --why "holds a vulnerable library"',),
)
def revoke(c: Context, image: str, why: str = "", recipe: str = "", account: str = "") -> None:
    """Forbid the use of an image and of all images baked upon it."""
    from bakehouse import console
    from bakehouse.images import promotions

    settings = load_settings(account, recipe)
    console.data(promotions.revoke(settings, image, why).id)
    console.say(f"next: ./inv restore {image}{same_recipe(settings)} takes it back")


@task(help={**WHICH, "image": "the image's ID"}, examples=("ami-0a1b2c3d4e5f60718",))
def restore(c: Context, image: str, recipe: str = "", account: str = "") -> None:
    """Undo the revocation or deprecation of an image."""
    from bakehouse import console
    from bakehouse.images import promotions

    console.data(promotions.restore(load_settings(account, recipe), image).id)


@task(
    help={**WHICH, **CHANGE, "image": "the image's ID"},
    examples=("ami-0a1b2c3d4e5f60718 --dry-run", "ami-0a1b2c3d4e5f60718 --yes"),
)
def retire(
    c: Context, image: str, dry_run: bool = False, yes: bool = False, recipe: str = "", account: str = ""
) -> None:
    """Deregister an image and delete its snapshots."""
    from bakehouse import accounts, images
    from bakehouse.images import retirements

    settings = load_settings(account, recipe)
    there = accounts.connect(settings)
    plan = retirements.retirement(there, images.get(there, image, settings.recipe))
    if agreed(plan.lines, "Retire?", dry_run=dry_run, yes=yes):
        retirements.retire(there, plan)


@task(
    help={
        **ACCOUNT,
        **JSON,
        **EVERYONE,
        "owner": "whose images and snapshots may go; yours by default, by your ARN",
        "keep": "how many of the newest usable images of each recipe stay; 3 by default",
        "older-than": "only what is older than this many days may go; 0 by default",
        "limit": "at most this many are deprecated, and as many deleted, in one run; 20 by default",
        "now": "also delete what no earlier run has deprecated",
        "leftovers": "instead clear away what dead bakes, proofs and trials and kept failed bakes have left",
        "yes": "do it; without this flag, cleanup only tells what it would do",
    },
    examples=("", "--keep 5 --older-than 30 --yes", "--leftovers --yes"),
)
def cleanup(
    c: Context,
    keep: str = "3",
    older_than: str = "0",
    limit: str = "20",
    now: bool = False,
    leftovers: bool = False,
    owner: str = "",
    everyone: bool = False,
    json: bool = False,
    yes: bool = False,
    account: str = "",
) -> None:
    """Tell which images and snapshots may go and why, or clear them away."""
    from dataclasses import replace

    from bakehouse import accounts, console, endings
    from bakehouse.images import retention, retirements
    from bakehouse.runs import leftovers as left

    terms = retention.terms(keep=keep, older_than=older_than, limit=limit, at_once=now)
    settings = load_settings(account, owner=owner)
    there = accounts.connect(settings)
    if leftovers:
        found = left.find(there, settings, kept=True)
        if json:
            console.data_json(left.as_data(found))
        if agreed(found.lines, "Clear away?", dry_run=not yes, yes=yes):
            with endings.stating("the rest is still there", "./inv cleanup --leftovers --yes goes on"):
                left.apply(there, found)
    else:
        terms = replace(terms, owner="" if everyone else there.owner(settings))
        plan = retirements.plan(there, terms)
        if json:
            console.data_json(retention.as_data(plan))
        else:
            console.table(retention.COLUMNS, retention.as_rows(plan))
        if yes:
            with endings.stating("the rest is still there", "./inv cleanup --yes goes on"):
                retirements.apply(there, plan, terms)
        retirements.insist(plan)
    if not yes:
        console.say("nothing was done; add --yes to do it")
