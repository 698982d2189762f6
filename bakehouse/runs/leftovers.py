"""Leftovers: finds what dead runs left on the account and on the disk, and deletes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bakehouse import console, endings, patience, runs
from bakehouse.accounts import TAG, Account, Stays, filters, tag_list, tags_of, wait
from bakehouse.errors import BakehouseError, CloudError
from bakehouse.runs import Run
from bakehouse.settings import Settings

_FILES = "private files"

# How each kind is deleted: the operation, its parameter, and the beginning of AWS's error code for what is gone.
# In this order nothing is still in use when its turn comes.
_DELETIONS = {
    "instance": ("terminate_instances", "InstanceIds", "InvalidInstanceID.NotFound"),
    "image": ("deregister_image", "ImageId", "InvalidAMIID."),
    "snapshot": ("delete_snapshot", "SnapshotId", "InvalidSnapshot.NotFound"),
    "volume": ("delete_volume", "VolumeId", "InvalidVolume.NotFound"),
    "security group": ("delete_security_group", "GroupId", "InvalidGroup.NotFound"),
    "key pair": ("delete_key_pair", "KeyName", "InvalidKeyPair.NotFound"),
}


@dataclass(frozen=True)
class Leftover:
    """Hold one resource that a bake or proof made for itself.

    Attributes:
        kind: its kind, a key of ``_DELETIONS``, or private files.
        id: its ID; of a key pair its name, of files their path.
        run: the ID of its run.
        recipe: the name of its recipe if it has no tag that says so yet; else empty.
    """

    kind: str
    id: str
    run: str
    recipe: str = ""


@dataclass(frozen=True)
class Leftovers:
    """Hold what may be deleted.

    Attributes:
        leftovers: the things to delete.
        notes: lines for a person about what is left alone, and why.
        runs: the runs that made the leftovers, by their IDs.
    """

    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """Return the plan as lines for a person."""
        return [
            *(f"delete {one.kind} {one.id}, left by run {one.run}" for one in self.leftovers),
            *self.notes,
        ]


def decide(found: Iterable[Leftover], ended: Mapping[str, Run], staying: Mapping[str, str]) -> Leftovers:
    """Decide which of the things that were found may be deleted: those of runs that have ended.

    ``ended`` holds these runs by their IDs. ``staying`` maps the ID of each other run of this checkout to why its
    things stay; with an empty reason they are not mentioned. A run that is in neither belongs to another checkout:
    its things are left alone, and a note names them.
    """
    things = list(found)
    left: dict[str, list[str]] = {}
    for one in things:
        if one.run not in ended and staying.get(one.run) != "":
            left.setdefault(one.run, []).append(one.id)
    notes = [
        f"left alone: {', '.join(ids)} of run {run}, {staying.get(run, 'which another checkout runs or ran')}"
        for run, ids in left.items()
    ]
    going = tuple(one for one in things if one.run in ended)
    return Leftovers(going, tuple(notes), {one.run: ended[one.run] for one in going})


def find(account: Account, settings: Settings, kept: bool = False) -> Leftovers:
    """Return what dead runs have left on the account and on the disk; with ``kept``, also what kept runs have left."""
    ended, staying = {}, {}
    for run in runs.known(settings).values():
        if run.lives:
            staying[run.id] = ""
        elif run.kept and not kept:
            staying[run.id] = "which was kept: ./inv cleanup --leftovers --yes"
        else:
            ended[run.id] = run
    files = [Leftover(_FILES, str(run.folder), run.id) for run in ended.values() if not run.wiped and not run.kept]
    return decide([*_made(account), *files], ended, staying)


def of_run(account: Account, run: Run) -> Leftovers:
    """Return what one run has made for itself, whether or not the run still lives."""
    files = Leftover(_FILES, str(run.folder), run.id)
    return decide([one for one in (*_made(account), files) if one.run == run.id], {run.id: run}, {})


def as_data(plan: Leftovers) -> list[dict[str, str]]:
    """Return what may be deleted as data for JSON."""
    return [{"kind": one.kind, "id": one.id, "run": one.run} for one in plan.leftovers]


def apply(account: Account, plan: Leftovers) -> None:
    """End the runs' processes, and delete what the plan names. It is no error when something is gone already.

    Raises CloudError in the end when something could not be deleted; the rest is.
    """
    stays = Stays()
    for run in plan.runs.values():
        runs.end(run)
    still = _made(account)  # tags may have changed since the plan
    for kind in _DELETIONS:
        going = []
        for left in (left for left in plan.leftovers if left.kind == kind and left in still):
            with stays.told(f"{kind} {left.id}"):
                _delete(account, left)
                going.append(left.id)
        if kind == "instance" and going:
            with stays.told(f"{kind} {', '.join(going)}"):
                _wait_for_the_end(account, going)
    for run in plan.runs.values():
        run.wipe()
    stays.insist()


def clear(account: Account, settings: Settings) -> None:
    """Delete what dead runs have left, and print what it is, and what of it stays: the next bake tries again."""
    plan = find(account, settings)
    for line in plan.lines:
        console.say(line)
    with suppress(CloudError):  # apply has told what stays, and why
        apply(account, plan)


def sweep(account: Account, run: Run) -> None:
    """Delete what a run made for itself, without being interrupted. Errors are printed: the next bake tries again."""
    with endings.undisturbed():
        try:
            apply(account, of_run(account, run))
        except BakehouseError as error:
            console.say(f"run {run.id} could not be cleared away completely, the next bake tries again: {error.text}")


def _made(account: Account) -> list[Leftover]:
    """Return every resource that runs made for themselves on the account: also of proofs, but no finished image."""
    ours = filters({f"tag:{TAG}kind": ("bake", "proof", "machine"), "tag-key": f"{TAG}run"})
    found = []
    for reservation in account.ec2.pages("describe_instances", "Reservations", Filters=ours):
        found += [_read("instance", "InstanceId", one) for one in reservation["Instances"] if _there(one)]
    for image in account.ec2.pages("describe_images", "Images", Owners=["self"], Filters=ours):
        found += [_read("image", "ImageId", image), *_disks_of(image)]
    for kind, operation, key, name in (
        ("snapshot", "describe_snapshots", "Snapshots", "SnapshotId"),
        ("volume", "describe_volumes", "Volumes", "VolumeId"),
        ("security group", "describe_security_groups", "SecurityGroups", "GroupId"),
    ):
        found += [_read(kind, name, one) for one in account.ec2.pages(operation, key, Filters=ours)]
    found += [_read("key pair", "KeyName", one) for one in account.ec2.describe_key_pairs(Filters=ours)["KeyPairs"]]
    return list({(one.kind, one.id, one.run): one for one in found}.values())


def _read(kind: str, key: str, answer: Mapping[str, Any]) -> Leftover:
    return Leftover(kind, answer[key], tags_of(answer)[f"{TAG}run"])


def _there(instance: Mapping[str, Any]) -> bool:
    return bool(instance["State"]["Name"] != "terminated")


def _disks_of(image: Mapping[str, Any]) -> list[Leftover]:
    """Return the snapshots of an unfinished image. They may have no tags of their own: Packer tags them last."""
    disks = [mapping.get("Ebs", {}).get("SnapshotId") for mapping in image.get("BlockDeviceMappings", ())]
    tags = tags_of(image)
    recipe = tags.get(f"{TAG}recipe", "")
    return [Leftover("snapshot", disk, tags[f"{TAG}run"], recipe) for disk in disks if disk]


def _delete(account: Account, left: Leftover) -> None:
    operation, parameter, gone = _DELETIONS[left.kind]
    try:
        if left.recipe:  # our rights are for what has our tag
            tags = {f"{TAG}kind": "bake", f"{TAG}recipe": left.recipe, f"{TAG}run": left.run}
            account.ec2.create_tags(Resources=[left.id], Tags=tag_list(tags))
        getattr(account.ec2, operation)(**{parameter: [left.id] if parameter.endswith("s") else left.id})
    except CloudError as error:
        if not error.aws_code.startswith((gone, "InvalidID")):
            raise


def _wait_for_the_end(account: Account, ids: list[str]) -> None:
    """Wait until instances are terminated, so that their volumes and groups are no longer in use."""
    these = filters({"instance-id": ids})

    def ended() -> bool | None:
        answers = account.ec2.pages("describe_instances", "Reservations", Filters=these)
        return None if any(_there(one) for answer in answers for one in answer["Instances"]) else True

    wait(f"{', '.join(ids)} to be terminated", ended, patience.TERMINATED)
