"""Driver: launches and clears away Molecule's machines on the local EC2, for its create.yml and destroy.yml."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bakehouse import console, documents, images, machines, recipes, runs
from bakehouse import settings as settings_
from bakehouse.accounts import TAG, Account, access, connect
from bakehouse.baking import orders
from bakehouse.errors import BakehouseError
from bakehouse.machines import launches, shells
from bakehouse.proving import scenarios
from bakehouse.recipes import Base
from bakehouse.runs import Run, leftovers
from bakehouse.settings import Settings

RECIPE = "trial"
"""The machines of trials are tagged with this word in place of a recipe."""

_TYPE = "t3.medium"


def create(settings: Settings, molecule: Mapping[str, str]) -> None:
    """Launch a machine for each platform of Molecule's configuration, and write Molecule's instance config.

    Molecule's create.yml runs this; ``molecule`` is the environment that Molecule gives its playbooks.
    """
    import yaml

    config = documents.read_yaml(Path(molecule["MOLECULE_FILE"]), settings.root)
    grounds = [recipes.base(settings.root, platform["name"]) for platform in config["platforms"]]
    privileged = [platform["name"] for platform in config["platforms"] if platform.get("privileged")]
    account = connect(settings)
    for ground in grounds:
        connect(settings, base=ground.name)
    with _its_run(account, settings) as within:
        made = _launch(account, settings, within, grounds, privileged)
        if runs.VARIABLE not in os.environ:
            roles = scenarios.roles(Path(molecule["MOLECULE_SCENARIO_DIRECTORY"]), settings.root)
            for ground in grounds:
                tell_packages(account, settings, roles, ground, Path(molecule["MOLECULE_EPHEMERAL_DIRECTORY"]))
        Path(molecule["MOLECULE_INSTANCE_CONFIG"]).write_text(yaml.safe_dump(made))


def destroy(settings: Settings, molecule: Mapping[str, str]) -> None:
    """Clear away what ``create`` made, if anything; Molecule's destroy.yml runs this."""
    file = Path(molecule["MOLECULE_INSTANCE_CONFIG"])
    made = documents.read_yaml(file, settings.root) if file.is_file() else None
    for run_id in {one["run"] for one in made or ()}.intersection(runs.known(settings)):
        account = connect(settings)
        leftovers.apply(account, leftovers.of_run(account, runs.known(settings)[run_id]))
    file.unlink(missing_ok=True)


def tell_packages(
    account: Account,
    settings: Settings,
    roles: Sequence[str],
    ground: Base,
    folder: Path,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Find the packages of the roles that need a stand-in, print them, and write variables for the roles.

    The variables go into the inventory in Molecule's ``folder``, for the machine of this base. They make the packages
    come from stand-in repositories, and those that ``files`` names from files.
    """
    given = {package: file for package, file in (files or {}).items() if package in roles}
    packages: dict[str, str] = {}
    for name in recipes.names(settings.root):
        packages |= recipes.load(settings, name).repositories(ground)
    stand_ins = {}
    for package, url in packages.items():
        needed = package in roles and package not in given
        if repository := account.stand_in(package, ground.family, url) if needed else None:
            stand_ins[package] = repository
            console.say(orders.notice(f"the {package} on {ground.name}", url, repository))
    told = {"bakehouse_stand_ins": [*stand_ins], **orders.variables(stand_ins, given)}
    file = folder / "inventory" / f"{ground.name}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"all": {"hosts": {ground.name: told}}}))


@contextmanager
def _its_run(account: Account, settings: Settings) -> Iterator[Run]:
    """Yield the run in which Molecule was started, or a new one that is kept until Molecule destroys its machines."""
    if runs.VARIABLE in os.environ:
        yield runs.known(settings)[os.environ[runs.VARIABLE]]
        return
    with runs.begin(settings) as within:
        try:
            yield within
            within.keep()
        finally:
            if not within.kept:
                leftovers.sweep(account, within)


def _launch(
    account: Account, settings: Settings, within: Run, grounds: Sequence[Base], privileged: Collection[str]
) -> list[dict[str, str]]:
    """Launch a machine of each base, wait until all have booted, and return them as Molecule's instance config.

    ``privileged`` names the bases whose machines are privileged.
    """
    begun = []
    for ground in grounds:
        image = images.base(account, ground)
        more = {f"{TAG}privileged": "yes"} if ground.name in privileged else {}
        ours = replace(image, tags={f"{TAG}recipe": RECIPE, f"{TAG}user": ground.user, **more})
        begun += launches.begin(account, settings, ours, launches.request(_TYPE), [], within.id)
    running = machines.running(account, [machine.id for machine in begun])
    for machine in running:
        shells.booted(settings, machine)
    return [
        {
            "instance": ground.name,
            "connection": "ssh",
            "address": machine.address,
            "user": machine.user,
            "port": "22",
            "identity_file": str(access.keys(settings) / machine.key),
            "run": within.id,
        }
        for ground, machine in zip(grounds, running, strict=True)
    ]


if __name__ == "__main__":
    try:
        {"create": create, "destroy": destroy}[sys.argv[1]](settings_.load("local"), os.environ)
    except BakehouseError as refusal:
        sys.exit(f"{refusal.text}; {refusal.hint}")
