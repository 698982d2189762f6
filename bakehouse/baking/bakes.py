"""Bakes: run Packer on a recipe, and tag and record the image that it makes."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bakehouse import __version__, console, documents, endings, images, patience, recipes, runs, system
from bakehouse.accounts import TAG, Account, access, filters, lending, networks, tag_list
from bakehouse.accounts.networks import Place
from bakehouse.baking import orders, plans, reads
from bakehouse.baking.extras import NOTHING, Extras
from bakehouse.baking.orders import Order
from bakehouse.baking.plans import Plan
from bakehouse.baking.vigils import Vigil
from bakehouse.errors import BakeError, BakehouseError
from bakehouse.images import Image, channels
from bakehouse.packers import Packer
from bakehouse.recipes import inputs, roles
from bakehouse.records import contents, provenances, store
from bakehouse.runs import Run, leftovers, programs
from bakehouse.runs.transcripts import Began, Ended, Event, Failed, Named, Skipped, event, failure, plain
from bakehouse.settings import ROOT, Settings

_COPY = "template"
_SLOT = re.compile(r"^ *# metadata_options are put here .*\n", re.MULTILINE)
_IMDSV2 = '  metadata_options { http_tokens = "required" }\n'  # one line, so that the lines keep their numbers


def bake(
    settings: Settings,
    *,
    base: str = "",
    package_files: Mapping[str, Path] | None = None,
    architecture: str = "",
    instance_type: str = "",
    added: Extras = NOTHING,
    force: bool = False,
    keep_on_failure: bool = False,
    debug: bool = False,
) -> Image:
    """Bake the settings' recipe and return the image, or an existing image that was baked from the same inputs.

    ``base``, ``package_files`` and ``added`` are as for ``plans.draw``; ``force`` bakes even if nothing has changed;
    ``debug`` makes Packer write its debug log into the run's folder. Raises BakeError, which names the reason, when the
    bake fails. Before that, everything that the bake made for itself is deleted; with ``keep_on_failure`` the machine
    stays, and it is printed how to enter it.
    """
    with endings.stating("it made no image", "./inv bake starts again"):
        plan = plans.draw(settings, base, package_files, architecture, instance_type, added)
        plans.tell(plan, force=force)
        if plan.image and not force:
            return plan.image
        orders.insist_on_launch(plan.account, plan.order)
        leftovers.clear(plan.account, settings)
        with runs.begin(settings) as run:
            image = _carry_out(settings, plan, run, keep_on_failure, debug)
    with endings.stating(f"image {image.id} is complete", "./inv images shows its channels"):
        channels.nominate(plan.account, image)
    for notice in plan.order.notices:
        console.say(notice)
    return image


def command(settings: Settings, account: Account, order: Order, run: Run, place: Place, on_error: str) -> list[str]:
    """Return Packer's command line. It holds no secret: of the private keys only the file names."""
    bastion = account.site.bastion
    told = {
        "base": order.base.name,
        "base_image": order.start.id,
        "name": image_name(account, order, run),
        "fixed_tags": json.dumps(dict(account.site.tags)),
        "run": run.id,
        "ssh_seconds": f"{patience.PACKER_ENTRY.seconds:.0f}",
        "run_folder": str(run.alias),
        "ansible_playbook": str(run.alias / run.ansible_playbook.name),
        "ansible_arguments": json.dumps(order.extras.arguments),
        "scratch": str(run.scratch),
        "root": str(settings.root),
        "region": account.region,
        "endpoint": account.endpoint,
        "group_ids": json.dumps(place.groups),
        "subnet_id": place.subnet,
        "is_public": json.dumps(place.is_public),
        "bastion": json.dumps(asdict(bastion) if bastion else {}),
        "encrypted": json.dumps(bool(order.encryption)),
        "kms_key_id": order.encryption.get("KmsKeyId", ""),
        "instance_profile": account.site.bake_profile,
        "instance_type": place.type,
        "key_name": key_name(account, run),
        "key_file": str(run.alias / run.key.name),
    }
    recipe_file = recipes.path(settings.root, order.recipe.name)
    return [
        *system.with_us(str(order.packer.path), "build", "-color=false", "-timestamp-ui"),
        f"-on-error={on_error}",
        f"-var-file={recipe_file}",
        *(part for key, value in told.items() for part in ("-var", f"{key}={value}")),
        str(template(settings.root / "packer", order.packer, run)),
    ]


def template(folder: Path, packer: Packer, run: Run) -> Path:
    """Return the folder of the template for a Packer: ``folder``, or a copy of it that demands IMDSv2 for the machine.

    Packer 1.6 can't demand that, and asks for nothing. Later ones would ask for IMDSv1.
    """
    if not packer.plugins:
        return folder
    copy = run.scratch / _COPY
    copy.mkdir(exist_ok=True)
    for file in folder.glob("*.hcl"):
        (copy / file.name).write_text(_SLOT.sub(_IMDSV2, file.read_text()))
    return copy


def environment(of_account: Mapping[str, str], run: Run, debug: bool) -> dict[str, str]:
    """Return the environment of Packer: the account's, with all temporary files in the run's scratch folder."""
    here = {
        **system.PACKER,
        "ANSIBLE_HOME": str(run.scratch),
        "ANSIBLE_TIMEOUT": f"{patience.CONNECTION.seconds:.0f}",
        "TMPDIR": str(run.scratch),
        "PACKER_TMP_DIR": str(run.scratch),
        "PACKER_CACHE_DIR": str(run.scratch / "cache"),
    }
    log = {"PACKER_LOG": "1", "PACKER_LOG_PATH": str(run.folder / "packer-debug.log")} if debug else {}
    return {**of_account, **here, **log}


def key_name(account: Account, run: Run) -> str:
    """Return the name of a run's key pair and of its security group."""
    return account.site.named(f"bakehouse-{run.id}")


def image_name(account: Account, order: Order, run: Run) -> str:
    """Return the name of the image that a run bakes."""
    return account.site.named(f"bakehouse-{order.recipe.name}-{run.id}")


def _carry_out(settings: Settings, plan: Plan, run: Run, keep: bool, debug: bool) -> Image:
    """Bake in a run; whether that succeeds or not, what the run made for itself is cleared away at the end."""
    account, order = plan.account, plan.order
    console.say(f"bake {run.id}, log: {run.log}")
    _prepare(settings, plan, run)
    try:
        places = _make_key_and_group(account, order, run)
        with lending.environ(account, *system.ANSIBLE) as lent:
            environ = environment({**lent, **order.packer.environ, **order.faster}, run, debug)
            for place in places:
                argv = command(settings, account, order, run, place, on_error="abort" if keep else "cleanup")
                error = _drive(account, argv, environ, run, settings.root, _own(order, run))
                if error is None:
                    break
                if place is places[-1] or not networks.lacks_room(error.text):
                    raise error
                console.say(f"no room for {place}: {error.text}")
        return _finish(settings, plan, run)
    except BakeError:
        if keep:
            _keep(settings, account, order, run)
        raise
    finally:
        if not run.kept:
            leftovers.sweep(account, run)


def _prepare(settings: Settings, plan: Plan, run: Run) -> None:
    """Write the files that Ansible reads: the variables of the roles, and the begun provenance of the image.

    Write also the program that runs Ansible.
    """
    run.ansible_playbook.touch(mode=0o700)
    run.ansible_playbook.write_text(reads.program(run.reads))
    order = plan.order
    told = provenances.statement(
        run.id,
        datetime.now(UTC),
        plan.commit,
        inputs.outside(plan.inputs),
        {"recipe": order.recipe.name, "base": order.base.name},
        **{"bakehouse": __version__, **order.tools},
    )
    run.record.mkdir()
    (run.record / store.PROVENANCE).write_text(json.dumps(told))
    ours = {
        "kit": str(ROOT),
        "record": str(run.record),
        "image": image_name(plan.account, order, run),
        "run": run.id,
    }
    variables = {**order.variables, **{f"bakehouse_{key}": value for key, value in ours.items()}}
    run.variables.write_text(json.dumps(variables))
    # Packer's own inventory names the host, but not the connection.
    way = shlex.join(access.through(settings, plan.account.site.bastion))
    connection = {"ansible_connection": "ssh", "ansible_ssh_common_args": way}
    run.connection.write_text(json.dumps({"all": {"hosts": {inputs.host(order.recipe.name): connection}}}))


def _own(order: Order, run: Run) -> dict[str, str]:
    """Return the tags of what a run makes for itself."""
    return {f"{TAG}kind": "bake", f"{TAG}recipe": order.recipe.name, f"{TAG}run": run.id}


def _make_key_and_group(account: Account, order: Order, run: Run) -> list[Place]:
    """Make the run's key pair, and a security group that opens SSH to the caller alone; return where to bake.

    Where accounts.yml names groups, these are taken.
    """
    network = networks.look(account)
    access.make_key(run.key)
    name = key_name(account, run)
    tags = {"Name": name, **_own(order, run)}
    access.import_key(account, name, run.key, tags)
    groups = network.groups
    if not groups:
        about = "Lets in the one who bakes, while the bake lasts"
        groups = (access.new_group(account, name, tags, about, network.vpc)["GroupId"],)
        access.let_in(account, groups[0], [access.permission(22, networks.allowed(account, network))])
    return networks.places(account, network, order.types, groups)


def _drive(
    account: Account, argv: list[str], env: Mapping[str, str], run: Run, root: Path, tags: Mapping[str, str]
) -> BakeError | None:
    """Run Packer to its end, show its steps, and return its error, if any.

    An interruption ends Packer too, and so does the end of its machine, for which it would wait five minutes.
    ``tags`` are those of what the run makes for itself.
    """
    steps = console.Steps()
    with programs.started(
        argv, run=run, log=run.log, folder=root, environment=env, patience=patience.PACKER_STOPS
    ) as packer:
        vigil = Vigil(account, packer.end)
        try:
            for line in packer.lines():
                happened = event(plain(line))
                match happened:
                    case Named(name) if name.startswith("ami-"):
                        _claim(account, name, tags)
                    case Named(name) if name.startswith("i-"):
                        vigil.begin(name)
                    case Began("stop" | "machine cleared away"):
                        vigil.end()
                if happened is not None:
                    _show(steps, happened)
        except endings.Interrupted:
            console.say("interrupted: Packer cleans up ...")
            raise
        finally:
            vigil.end()
            steps.end(ok=packer.code == 0)
    if packer.code and vigil.found:
        return BakeError(vigil.found, f"the whole log: {run.log}")
    return _error(packer.code, run) if packer.code else None


def _claim(account: Account, image_id: str, tags: Mapping[str, str]) -> None:
    """Tag an image as the run's own as soon as it has an ID, because Packer tags it only at its end."""
    with suppress(BakehouseError):
        account.ec2.create_tags(Resources=[image_id], Tags=tag_list(account.marked(tags)))


def _finish(settings: Settings, plan: Plan, run: Run) -> Image:
    """Finish what Packer made and return the image.

    Makes it require IMDSv2, which Packer's oldest version can't, keeps its records, and tags it as a finished image.
    Until then it belongs to the run and is cleared away with it.
    """
    if not (run.record / store.SBOM).exists():
        raise BakeError(
            "the bake left no record of what is in the image", "playbooks/tasks/record.yml makes it; see the run's log"
        )
    builds = json.loads(run.manifest.read_text())["builds"]
    image_id = builds[-1]["artifact_id"].rpartition(":")[2]
    images.require_imdsv2(plan.account, image_id)
    told = {name: (run.record / name).read_text() for name in (store.SBOM, store.PROVENANCE)}
    offered = plans.fetched(plan.inputs, contents.of_sbom(told[store.SBOM]).repositories)
    whole = plans.whole({**plan.inputs, **_read(settings, plan, run)}, offered)
    store.keep(settings, image_id, {**told, store.INPUTS: json.dumps(whole, indent=1)})
    sources = images.repository_tags(offered, len(plan.account.site.tags))
    if offered and not sources:
        console.say("the next bake will bake anew: the image's tags have no room for its package repositories")
    more = {
        **sources,
        f"{TAG}owner": plan.account.owner(settings),
        f"{TAG}inputs": inputs.digest(whole),
        f"{TAG}sbom": documents.digest(told[store.SBOM].encode()),
        f"{TAG}provenance": documents.digest(told[store.PROVENANCE].encode()),
    }
    with endings.undisturbed():  # from here on the image is there
        return images.tag(plan.account, image_id, {**plan.order.provenance(run.id, plan.commit), **more})


def _read(settings: Settings, plan: Plan, run: Run) -> dict[str, str]:
    """Return as inputs what Ansible has read, and nobody knew before, and what it has looked up elsewhere."""
    files, lookups = reads.of(run.reads)
    root, galaxy = settings.root.resolve(), roles.installed(settings.root).resolve()
    ours = [root / "bakehouse", root / ".venv", run.scratch.resolve(), run.folder.resolve(), settings.state.resolve()]
    theirs = [
        file
        for file in files
        if file.resolve().is_relative_to(galaxy) or not any(file.resolve().is_relative_to(one) for one in ours)
    ]
    recipe, key = plan.order.recipe, inputs.own_key(settings.state)
    more = inputs.beyond(root, recipe.name, recipe.playbook, plan.used, theirs, key)
    return {**more, **{f"{inputs.LOOKUP}{name}": "looked up by the bake" for name in lookups}}


def _error(code: int, run: Run) -> BakeError:
    if code < 0:
        return BakeError(f"Packer was ended by {signal.Signals(-code).name}", f"the whole log: {run.log}")
    told = run.log.read_text(errors="replace").replace(f"{run.scratch / _COPY}/", "packer/")
    return BakeError(failure(told.splitlines()), f"the whole log: {run.log}")


def _keep(settings: Settings, account: Account, order: Order, run: Run) -> None:
    """Keep the machine of a failed bake and print how to enter it; without a machine nothing is kept."""
    ours = filters({f"tag:{TAG}run": run.id, "instance-state-name": "running"})
    for page in account.ec2.pages("describe_instances", "Reservations", Filters=ours):
        for machine in page["Instances"]:
            run.keep()
            public = machine.get("PublicIpAddress") if account.site.associate_public_ip else ""
            there = f"{order.base.user}@{public or machine['PrivateIpAddress']}"
            hosts = ["-o", f"UserKnownHostsFile={run.known_hosts}", "-o", "StrictHostKeyChecking=accept-new"]
            hosts += access.through(settings, account.site.bastion)
            console.say(f"machine {machine['InstanceId']} is kept; to enter it:")
            console.say(
                f"  {shlex.join(['ssh', '-F', 'none', '-i', str(run.key), '-o', 'IdentitiesOnly=yes', *hosts, there])}"
            )
            console.say("delete it when you are done: ./inv cleanup --leftovers --yes")


def _show(steps: console.Steps, happened: Event) -> None:
    """Show one event of Packer's log."""
    match happened:
        case Began(step):
            steps.begin(step)
        case Named(name):
            steps.name(name)
        case Failed(ignored):
            steps.fail(ignored=ignored)
        case Skipped():
            steps.drop()
        case Ended():
            steps.end()
