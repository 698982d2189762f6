"""Machines: find, wait for, reboot, stop, start and terminate the EC2 instances of our images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from bakehouse import console, patience
from bakehouse.accounts import TAG, WORD, Account, each, filters, sound, sound_tags, wait
from bakehouse.errors import CloudError, InputError, NotFoundError
from bakehouse.sites import Bastion, Site

COLUMNS = ("machine", "state", "address", "type", "launched", "image")

_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
_ADDRESS = re.compile(r"[0-9.]{1,15}|[0-9a-fA-F:]{2,39}")
_ALIVE = ("pending", "running", "stopping", "stopped")

HERE = (*_ALIVE, "shutting-down")
"""The states of a machine that is there, be it that its end has begun."""


@dataclass(frozen=True)
class Machine:
    """Hold one machine (an EC2 instance).

    Attributes:
        id: its ID.
        state: its state in EC2's words, such as ``running``.
        why: EC2's reason for the state; may be empty.
        address: the IP address at which it is reached: the public one, or where it has none by intention the private
            one; empty while it has none.
        type: its instance type.
        image: the ID of the image that it runs.
        recipe: the name of its recipe; empty when it isn't ours.
        user: the name of the user for SSH.
        key: the name of its key pair.
        launched: when it was launched.
        bastion: the bastion through which SSH leads to it; None where it needs none.
    """

    id: str
    state: str
    why: str
    address: str
    type: str
    image: str
    recipe: str
    user: str
    key: str
    launched: datetime
    bastion: Bastion | None = None

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any], site: Site | None = None) -> Machine:
        """Read one instance from the answer of DescribeInstances; raises UnsoundError when it can't be used.

        ``site`` says how things are made on its account; by default as usual.
        """
        site = site or Site()
        called = f"machine {answer['InstanceId']}"
        tags = sound_tags(called, answer)
        if f"{TAG}recipe" in tags:
            sound(called, "key pair", answer.get("KeyName") or "none", WORD)
        address = answer.get("PublicIpAddress" if site.associate_public_ip else "PrivateIpAddress") or ""
        sound(called, "address", address or "0", _ADDRESS)
        return cls(
            id=answer["InstanceId"],
            state=answer["State"]["Name"],
            why=answer.get("StateReason", {}).get("Message", ""),
            address=address,
            type=answer.get("InstanceType", ""),
            image=answer.get("ImageId", ""),
            recipe=tags.get(f"{TAG}recipe", ""),
            user=tags.get(f"{TAG}user", ""),
            key=answer.get("KeyName", ""),
            launched=answer["LaunchTime"],
            bastion=site.bastion,
        )


def newest(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines newest first."""
    return sorted(machines, key=lambda machine: (machine.launched, machine.id), reverse=True)


def find(account: Account, recipe: str, states: Sequence[str] = _ALIVE) -> list[Machine]:
    """Return our machines of a recipe that are in one of these states, by default not terminated, newest first."""
    wanted = {
        f"tag:{TAG}recipe": recipe,
        f"tag:{TAG}kind": "machine",
        "instance-state-name": states,
    }
    return newest(_described(account, Filters=filters(wanted)))


def get(account: Account, machine_id: str, recipe: str, states: Sequence[str] = _ALIVE) -> Machine:
    """Return the machine of this ID.

    Raises NotFoundError when there is no such machine in one of the states, by default not terminated, and InputError
    when the ID is malformed, or the machine isn't ours or is of another recipe.
    """
    if not _ID.fullmatch(machine_id):
        raise InputError(
            f"{machine_id!r} is not a machine ID",
            "a machine ID looks like i-0a1b2c3d4e5f60718; ./inv machines lists the machines",
        )
    machine = _look(account, machine_id)
    if machine is None or machine.state not in states:
        fate = f"is {machine.state}" if machine else f"does not exist on account {account.name}"
        raise NotFoundError(f"machine {machine_id} {fate}", "./inv machines lists the machines")
    if not machine.recipe:
        raise InputError(
            f"machine {machine_id} was not launched by Bakehouse: it has no tag {TAG}recipe",
            "./inv machines lists the machines",
        )
    if machine.recipe != recipe:
        raise InputError(
            f"machine {machine_id} is of recipe {machine.recipe}, not {recipe}",
            f"add --recipe {machine.recipe}",
        )
    return machine


def some(account: Account, recipe: str, machine_id: str = "") -> list[Machine]:
    """Return the machine of this ID, or all of the recipe when the ID is empty; raises NotFoundError if there is none.

    The list is never empty.
    """
    found = [get(account, machine_id, recipe)] if machine_id else find(account, recipe)
    if not found:
        raise NotFoundError(
            f"there is no machine of recipe {recipe} on account {account.name}", "./inv launch starts one"
        )
    return found


def one(account: Account, recipe: str, machine_id: str = "") -> Machine:
    """Return the machine of this ID, or the recipe's newest when the ID is empty; prints which if there are several."""
    found = some(account, recipe, machine_id)
    if len(found) > 1:
        console.say(f"machine {found[0].id}, the newest of {len(found)}")
    return found[0]


def running(account: Account, ids: Sequence[str], budget: float = 0) -> list[Machine]:
    """Wait until all machines of these IDs run, and return them; raises CloudError when one ends or fails instead.

    ``budget`` is how many seconds they may take to boot.
    """

    def look() -> list[Machine] | None:
        found = _found(account, ids)
        for machine in found:
            if machine.state not in _ALIVE or (machine.state == "stopped" and machine.why.startswith("Server.")):
                raise CloudError(f"machine {machine.id} is {machine.state}: {machine.why or 'EC2 does not say why'}")
        ready = [machine for machine in found if machine.state == "running" and machine.address]
        return ready if len(ready) == len(ids) else None

    with console.step(f"{' '.join(ids)} running"):
        return wait(f"{' '.join(ids)} to run", look, patience.RUNNING.least(budget))


def insist_on(account: Account, machines: Sequence[Machine]) -> None:
    """Raise CloudError when one of these machines, which have run, runs no more; EC2 may still call one pending."""
    for machine in _described(account, InstanceIds=[machine.id for machine in machines]):
        if machine.state not in ("running", "pending"):
            raise CloudError(f"machine {machine.id} is {machine.state}: {machine.why or 'EC2 does not say why'}")


def stop(account: Account, machine: Machine) -> None:
    """Tell a machine to stop; ``stopped`` waits until it has."""
    account.ec2.stop_instances(InstanceIds=[machine.id])


def stopped(account: Account, machine: Machine) -> Machine:
    """Wait until a machine has stopped, and return it."""

    def look() -> Machine | None:
        found = _look(account, machine.id)
        return found if found and found.state == "stopped" else None

    with console.step(f"{machine.id} stopped"):
        return wait(f"machine {machine.id} to stop", look, patience.STOPPED)


def reboot(account: Account, machine: Machine) -> None:
    """Tell a machine to reboot; ``shells.rebooted`` waits until it has, which EC2's state doesn't show."""
    account.ec2.reboot_instances(InstanceIds=[machine.id])


def start(account: Account, machine: Machine, budget: float = 0) -> Machine:
    """Start a stopped machine, wait until it runs as ``running`` does, and return it with its new address."""
    account.ec2.start_instances(InstanceIds=[machine.id])
    return running(account, [machine.id], budget)[0]


def as_row(machine: Machine) -> list[str]:
    """Return a machine as a row of a table, under ``COLUMNS``."""
    return [
        machine.id,
        machine.state,
        machine.address,
        machine.type,
        f"{machine.launched:%Y-%m-%d %H:%M}",
        machine.image,
    ]


def as_data(machine: Machine) -> dict[str, Any]:
    """Return a machine as data for JSON."""
    read = asdict(machine)
    del read["bastion"]
    return {"machine": read.pop("id"), **read}


def plan(machines: Sequence[Machine]) -> list[str]:
    """Return a line for each machine that would be terminated."""
    return [f"terminate machine {m.id} ({m.state}, launched {m.launched:%Y-%m-%d %H:%M})" for m in machines]


def terminate(account: Account, machines: Sequence[Machine]) -> None:
    """Terminate machines and wait until they are terminated."""
    ids = [machine.id for machine in machines]
    account.ec2.terminate_instances(InstanceIds=ids)

    def gone() -> bool | None:
        return all(machine.state == "terminated" for machine in _found(account, ids)) or None

    with console.step(f"{' '.join(ids)} terminated"):
        wait(f"{' '.join(ids)} to be terminated", gone, patience.TERMINATED)


def address(machine: Machine) -> str:
    """Return the address at which a machine is reached; raises InputError while it has none."""
    if not machine.address:
        raise InputError(
            f"machine {machine.id} is {machine.state} and has no address", "./inv machines shows the addresses"
        )
    return machine.address


def console_output(account: Account, machine: Machine) -> str:
    """Return what a machine wrote on its console; empty while EC2 has no output of it."""
    output: str = account.ec2.get_console_output(InstanceId=machine.id).get("Output") or ""
    return output.replace("\r", "").rstrip()


def _look(account: Account, machine_id: str) -> Machine | None:
    try:
        found = _described(account, InstanceIds=[machine_id])
    except CloudError as error:
        if error.aws_code == "InvalidInstanceID.NotFound":
            return None
        raise
    return found[0] if found else None


def _found(account: Account, ids: Sequence[str]) -> list[Machine]:
    """Return those of the machines of these IDs that EC2 knows by now; raises UnsoundError when one can't be used."""
    return [_read(account)(answer) for answer in _answers(account, Filters=filters({"instance-id": ids}))]


def _described(account: Account, **which: Any) -> list[Machine]:
    if "InstanceIds" in which:  # who asks for one by its ID is told why it can't be used
        return [_read(account)(answer) for answer in _answers(account, **which)]
    return [*each(_read(account), _answers(account, **which))]


def _read(account: Account) -> Callable[[Mapping[str, Any]], Machine]:
    return partial(Machine.from_aws, site=account.site)


def _answers(account: Account, **which: Any) -> list[Mapping[str, Any]]:
    reservations = account.ec2.pages("describe_instances", "Reservations", **which)
    return [answer for reservation in reservations for answer in reservation["Instances"]]
