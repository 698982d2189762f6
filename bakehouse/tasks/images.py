"""Tasks for images: bake, prove, list, show, compare, copy and share them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from invoke.context import Context

from bakehouse.tasks import JSON, OWNER, VAULT, WHICH, load_settings, one_of, same_recipe, task


@task(
    help={
        **WHICH,
        **JSON,
        **OWNER,
        **VAULT,
        "base": "start from this base of packer/bases.auto.pkrvars.hcl instead of the recipe's own",
        "arch": "x86_64 or arm64; by default the recipe's, else the account's own",
        "type": "the EC2 instance type to bake on; the recipe's by default",
        "jenkins-package": "install this .deb or .rpm instead of one from Jenkins's repository",
        "extra-vars": "NAME=VALUE, {NAME: VALUE} or @FILE: variables for this bake, before all others; may be repeated",
        "tags": "run only the recipe's tasks with these tags, which have commas between",
        "skip-tags": "leave out the recipe's tasks with these tags",
        "force": "bake even if an image with the same inputs exists",
        "plan": "only say whether a bake is due, and why; if not, print the ID of the existing image",
        "on-failure": "what happens to the machine when the bake fails: cleanup (the default) or keep",
        "prove": "also prove the image, as ./inv prove does, if it isn't proven; the image stays in any case",
        "debug": "make Packer log everything, and print the traceback of an error",
    },
    examples=("", "--recipe nginx --prove", "--plan", "--base debian-12 --force"),
    iterable=["extra_vars"],
)
def bake(
    c: Context,
    recipe: str = "",
    account: str = "",
    base: str = "",
    arch: str = "",
    type: str = "",  # noqa: A002, the flag is --type
    jenkins_package: str = "",
    extra_vars: Sequence[str] = (),
    tags: str = "",
    skip_tags: str = "",
    force: bool = False,
    plan: bool = False,
    on_failure: str = "cleanup",
    prove: bool = False,
    owner: str = "",
    vault_password_file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Bake an image of the recipe, if one is due, and print its ID."""
    from pathlib import Path

    from bakehouse import console, images
    from bakehouse.baking import bakes, extras, plans
    from bakehouse.proving import proofs

    if debug:
        os.environ["BAKEHOUSE_DEBUG"] = "1"
    settings = load_settings(account, recipe, owner, vault_password_file)
    files = {"jenkins": Path(jenkins_package)} if jenkins_package else {}
    added = extras.parse(extra_vars or (), tags, skip_tags)
    if plan:
        drawn = plans.draw(settings, base, files, arch, type, added)
        plans.tell(drawn)
        if drawn.image:
            console.data(drawn.image.id)
        return
    image = bakes.bake(
        settings,
        base=base,
        package_files=files,
        architecture=arch,
        instance_type=type,
        added=added,
        force=force,
        keep_on_failure=one_of("on-failure", on_failure, "cleanup", "keep") == "keep",
        debug=debug,
    )
    if json:
        console.data_json(images.as_data(image))
    else:
        console.data(image.id)
    if prove:
        proofs.ensure(settings, image)
    console.say(f"next: ./inv launch{same_recipe(settings)}")


@task(
    help={**WHICH, **JSON, **VAULT, "image": "the image's ID; the recipe's newest image by default"},
    examples=("", "--image ami-0a1b2c3d4e5f60718", "--recipe nginx --json"),
)
def prove(
    c: Context,
    image: str = "",
    vault_password_file: str = "",
    json: bool = False,
    recipe: str = "",
    account: str = "",
) -> None:
    """Prove that an image is fit, on two machines of it."""
    from bakehouse import console
    from bakehouse.proving import proofs, reports

    settings = load_settings(account, recipe, vault_password_file=vault_password_file)
    proof = proofs.prove(settings, image)
    page = proofs.page(settings, proof)
    if json:
        console.data_json({**reports.as_data(proof), "page": page})
    else:
        for row in [*reports.as_rows(proof), [proof.verdict, str(page)]]:
            console.data("\t".join(row))
    proofs.insist(settings, proof)


@task(name="images", help={**WHICH, **JSON}, examples=("", "--recipe nginx", "--json"))
def images_(c: Context, json: bool = False, recipe: str = "", account: str = "") -> None:
    """List the images of the recipe, newest first, with what uses them."""
    from datetime import UTC, datetime

    from bakehouse import accounts, console, images
    from bakehouse.images import details

    settings = load_settings(account, recipe)
    there = accounts.connect(settings)
    found = details.entries(there, images.find(there, settings.recipe))
    if json:
        console.data_json([details.as_entry_data(entry) for entry in found])
    else:
        console.table(details.ENTRIES, [details.as_entry_row(entry, datetime.now(UTC)) for entry in found])


@task(
    help={**WHICH, **JSON, "image": "an image's ID or a channel's name"},
    examples=("stable", "ami-0a1b2c3d4e5f60718 --json"),
)
def show(c: Context, image: str, json: bool = False, recipe: str = "", account: str = "") -> None:
    """Show all that is known of an image: origin, lineage, contents."""
    from datetime import UTC, datetime

    from bakehouse import accounts, console
    from bakehouse.images import details

    settings = load_settings(account, recipe)
    found = details.find(accounts.connect(settings), settings, image)
    if json:
        console.data_json(details.as_data(found))
    else:
        console.table(details.COLUMNS, details.as_rows(found, datetime.now(UTC)))


@task(
    help={
        **WHICH,
        **JSON,
        "before": "the older image: its ID or a channel's name",
        "after": "the newer image: its ID or a channel's name",
        "markdown": "print release notes in Markdown instead",
    },
    examples=("stable candidate", "stable candidate --markdown"),
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
    """Show how the contents of two images differ."""
    from bakehouse import accounts, console
    from bakehouse.images import details

    settings = load_settings(account, recipe)
    found = details.compare(settings, *details.pair(accounts.connect(settings), settings.recipe, before, after))
    if json:
        console.data_json(details.as_difference_data(found))
    elif markdown:
        console.data(details.as_markdown(found))
    else:
        console.table(details.CHANGES, details.as_change_rows(found))


@task(
    help={
        **WHICH,
        "image": "the image's ID",
        "region": "the regions to copy it to, separated by commas",
    },
    examples=("ami-0a1b2c3d4e5f60718 eu-west-1,eu-central-1 --account production",),
)
def copy(c: Context, image: str, region: str, recipe: str = "", account: str = "") -> None:
    """Copy an image to other regions, and print the copies' IDs."""
    from bakehouse import console
    from bakehouse.images import copies

    for there, copied in copies.copy(load_settings(account, recipe), image, region).items():
        console.data(f"{there}\t{copied.id}")


@task(
    help={
        **WHICH,
        "image": "the image's ID",
        "account-id": "the IDs of the accounts to share it with, separated by commas",
    },
    examples=("ami-0a1b2c3d4e5f60718 123456789012 --account production",),
)
def share(c: Context, image: str, account_id: str, recipe: str = "", account: str = "") -> None:
    """Let other accounts launch an image, and print its ID."""
    from bakehouse import console
    from bakehouse.images import shares

    console.data(shares.share(load_settings(account, recipe), image, account_id).id)


@task(
    help={
        **WHICH,
        "image": "the image's ID",
        "account-id": "the IDs of the accounts to take it back from, separated by commas; all by default",
    },
    examples=("ami-0a1b2c3d4e5f60718 --account production",),
)
def unshare(c: Context, image: str, account_id: str = "", recipe: str = "", account: str = "") -> None:
    """Take an image back from other accounts, and print its ID."""
    from bakehouse import console
    from bakehouse.images import shares

    console.data(shares.unshare(load_settings(account, recipe), image, account_id).id)
