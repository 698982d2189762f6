"""Machines: running instances of our images, launched for their caller alone, entered over SSH, ended for good."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from bakehouse import console, doors
from bakehouse.cloud import TAG, Cloud, tag_specifications, tags_of, wait
from bakehouse.errors import CloudError, InputError, NotFoundError
from bakehouse.settings import Settings

COLUMNS = ("machine", "state", "address", "type", "launched", "image")

USER_DATA_LIMIT = 16 * 1024  # bytes before they are encoded: EC2's own limit

_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_ALIVE = ("pending", "running", "stopping", "stopped")


@dataclass(frozen=True)
class Machine:
    """Hold one machine (an EC2 instance).

    Attributes: id; state, EC2's word for it; why, its reason; address, the public one, empty while it has none; type;
    image, the ID of the image it runs; recipe, empty when it isn't ours; user, whom it is entered as; key, the name of
    its key pair; launched, when.
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

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Machine:
        """Read one of the Instances of a DescribeInstances answer."""
        tags = tags_of(answer)
        return cls(
            id=answer["InstanceId"],
            state=answer["State"]["Name"],
            why=answer.get("StateReason", {}).get("Message", ""),
            address=answer.get("PublicIpAddress") or "",
            type=answer.get("InstanceType", ""),
            image=answer.get("ImageId", ""),
            recipe=tags.get(f"{TAG}recipe", ""),
            user=tags.get(f"{TAG}user", ""),
            key=answer.get("KeyName", ""),
            launched=answer["LaunchTime"],
        )


class Launchable(Protocol):
    """Say what a launch needs to know of an image."""

    @property
    def id(self) -> str:
        """Return its ID."""

    @property
    def recipe(self) -> str:
        """Return its recipe."""

    @property
    def user(self) -> str:
        """Return whom its machines are entered as."""

    @property
    def root_device(self) -> str:
        """Return the name under which a machine finds its root volume."""

    @property
    def root_snapshot(self) -> str:
        """Return the ID of the snapshot that the root volume is made from."""


@dataclass(frozen=True)
class Order:
    """Hold what is to be launched: how many, of which type, for whom (empty for the caller alone), told what."""

    count: int
    type: str
    allow: str
    user_data: bytes


def order(instance_type: str, *, count: str = "1", allow: str = "", user_data: str = "") -> Order:
    """Read what a person typed; ``user_data`` names a file. Raises InputError naming what is wrong with which flag."""
    if not (count.isascii() and count.isdigit() and int(count)):
        raise InputError(f"--count {count} is not a number of machines", "give a whole number from 1 up")
    if not _TYPE.fullmatch(instance_type):
        raise InputError(f"--type {instance_type} is not an instance type", "one looks like t3.medium")
    return Order(
        int(count),
        instance_type,
        _network(allow) if allow else "",
        _contents(user_data) if user_data else b"",
    )


def newest(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines newest first."""
    return sorted(machines, key=lambda machine: (machine.launched, machine.id), reverse=True)


def find(cloud: Cloud, recipe: str) -> list[Machine]:
    """Return our machines of a recipe that have not been terminated, newest first."""
    wanted = {
        f"tag:{TAG}recipe": [recipe],
        f"tag:{TAG}kind": ["machine"],
        "instance-state-name": list(_ALIVE),
    }
    return newest(_described(cloud, Filters=[{"Name": name, "Values": values} for name, values in wanted.items()]))


def get(cloud: Cloud, machine_id: str, recipe: str) -> Machine:
    """Return the machine of this ID; refuses a malformed or unknown ID, one that isn't ours and another recipe's."""
    if not _ID.fullmatch(machine_id):
        raise InputError(
            f"{machine_id!r} is not a machine ID",
            "one looks like i-0a1b2c3d4e5f60718; ./inv machines lists them",
        )
    machine = _look(cloud, machine_id)
    if machine is None or machine.state not in _ALIVE:
        fate = f"is {machine.state}" if machine else f"isn't there on account {cloud.account}"
        raise NotFoundError(f"machine {machine_id} {fate}", "./inv machines lists those there are")
    if not machine.recipe:
        raise InputError(
            f"machine {machine_id} is none of ours: it carries no tag {TAG}recipe",
            "./inv machines lists ours",
        )
    if machine.recipe != recipe:
        raise InputError(
            f"machine {machine_id} is of recipe {machine.recipe}, not {recipe}",
            f"add --recipe {machine.recipe}",
        )
    return machine


def some(cloud: Cloud, recipe: str, machine_id: str = "") -> list[Machine]:
    """Return the machines that are meant: the one of this ID, or all; raises NotFoundError when there are none."""
    found = [get(cloud, machine_id, recipe)] if machine_id else find(cloud, recipe)
    if not found:
        raise NotFoundError(
            f"there is no machine of recipe {recipe} on account {cloud.account}", "./inv launch starts one"
        )
    return found


def one(cloud: Cloud, recipe: str, machine_id: str = "") -> Machine:
    """Return the machine that is meant: the one of this ID, or the newest, which is named where there are several."""
    found = some(cloud, recipe, machine_id)
    if len(found) > 1:
        console.say(f"machine {found[0].id}, the newest of {len(found)}")
    return found[0]


def launch(
    cloud: Cloud, settings: Settings, image: Launchable, wanted: Order, ports: Sequence[int], run: str = ""
) -> list[Machine]:
    """Launch machines of an image, with SSH and ``ports`` open to the caller alone, and return them as they begin.

    With ``run`` they are that run's own and go with it.
    """
    key = doors.key_pair(cloud, settings, image.recipe)
    group = doors.group(cloud, image.recipe, key, (22, *ports), wanted.allow or cloud.caller(), run)
    tags = {
        "Name": f"bakehouse-{image.recipe}",
        f"{TAG}kind": "machine",
        f"{TAG}recipe": image.recipe,
        f"{TAG}user": image.user,
        **({f"{TAG}run": run} if run else {}),
    }
    disk = {"SnapshotId": image.root_snapshot, "Encrypted": True, "DeleteOnTermination": True}
    answer = cloud.ec2.run_instances(
        ImageId=image.id,
        InstanceType=wanted.type,
        MinCount=wanted.count,
        MaxCount=wanted.count,
        KeyName=key,
        SecurityGroupIds=[group],
        UserData=wanted.user_data,
        MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[{"DeviceName": image.root_device, "Ebs": disk}],
        TagSpecifications=tag_specifications(tags, "instance", "volume"),
    )
    return [Machine.from_aws(instance) for instance in answer["Instances"]]


def running(cloud: Cloud, ids: Sequence[str]) -> list[Machine]:
    """Return the machines of these IDs when all of them run; raises CloudError when one ends instead."""

    def look() -> list[Machine] | None:
        found = [machine for machine in (_look(cloud, machine_id) for machine_id in ids) if machine]
        for machine in found:
            if machine.state not in _ALIVE:
                raise CloudError(f"machine {machine.id} is {machine.state}: {machine.why or 'EC2 does not say why'}")
        ready = [machine for machine in found if machine.state == "running" and machine.address]
        return ready if len(ready) == len(ids) else None

    with console.step(f"{' '.join(ids)} running"):
        return wait(f"{' '.join(ids)} to run", look, seconds=300)


def stop(cloud: Cloud, machine: Machine) -> None:
    """Have a machine stop; ``stopped`` waits for it."""
    cloud.ec2.stop_instances(InstanceIds=[machine.id])


def stopped(cloud: Cloud, machine: Machine) -> Machine:
    """Return a machine that was told to stop when it has."""

    def look() -> Machine | None:
        found = _look(cloud, machine.id)
        return found if found and found.state == "stopped" else None

    with console.step(f"{machine.id} stopped"):
        return wait(f"machine {machine.id} to stop", look, seconds=300)


def reboot(cloud: Cloud, machine: Machine) -> None:
    """Have a machine reboot, which its state doesn't show; ``shells.rebooted`` waits for it."""
    cloud.ec2.reboot_instances(InstanceIds=[machine.id])


def start(cloud: Cloud, machine: Machine) -> Machine:
    """Start a stopped machine and return it, with its new address, when it runs."""
    cloud.ec2.start_instances(InstanceIds=[machine.id])
    return running(cloud, [machine.id])[0]


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
    """Return a machine as a program reads it."""
    read = asdict(machine)
    return {"machine": read.pop("id"), **read}


def plan(machines: Sequence[Machine]) -> list[str]:
    """Say what terminating these machines takes away, a line each."""
    return [f"terminate machine {m.id} ({m.state}, launched {m.launched:%Y-%m-%d %H:%M})" for m in machines]


def terminate(cloud: Cloud, settings: Settings, machines: Sequence[Machine]) -> None:
    """Terminate machines and return when they are gone."""
    ids = [machine.id for machine in machines]
    cloud.ec2.terminate_instances(InstanceIds=ids)

    def gone() -> bool | None:
        found = [_look(cloud, machine_id) for machine_id in ids]
        return all(machine is None or machine.state == "terminated" for machine in found) or None

    with console.step(f"{' '.join(ids)} terminated"):
        wait(f"{' '.join(ids)} to be terminated", gone, seconds=300)
    for machine_id in ids:
        doors.known_hosts(settings, machine_id).unlink(missing_ok=True)


def address(machine: Machine) -> str:
    """Return a machine's public address; raises InputError while it has none."""
    if not machine.address:
        raise InputError(f"machine {machine.id} is {machine.state} and has no address", "./inv machines shows them")
    return machine.address


def console_output(cloud: Cloud, machine: Machine) -> str:
    """Return what a machine wrote on its console; empty while EC2 has nothing."""
    output: str = cloud.ec2.get_console_output(InstanceId=machine.id).get("Output") or ""
    return output.replace("\r", "").rstrip()


def _network(allow: str) -> str:
    try:
        return str(ipaddress.IPv4Network(allow))
    except ValueError as error:
        raise InputError(
            f"--allow {allow} is not a network: {error}", "give a CIDR block such as 192.0.2.7/32"
        ) from error


def _contents(user_data: str) -> bytes:
    try:
        contents = Path(user_data).read_bytes()
    except OSError as error:
        raise InputError(
            f"--user-data {user_data} can't be read: {error.strerror}", "give a file that is there"
        ) from error
    if len(contents) > USER_DATA_LIMIT:
        raise InputError(
            f"--user-data {user_data} has {len(contents)} bytes; EC2 takes {USER_DATA_LIMIT}",
            "put the bulk elsewhere and have user-data fetch it, or bake it in",
        )
    return contents


def _look(cloud: Cloud, machine_id: str) -> Machine | None:
    try:
        found = _described(cloud, InstanceIds=[machine_id])
    except CloudError as error:
        if error.aws_code == "InvalidInstanceID.NotFound":
            return None
        raise
    return found[0] if found else None


def _described(cloud: Cloud, **which: Any) -> list[Machine]:
    reservations = cloud.ec2.pages("describe_instances", "Reservations", **which)
    return [Machine.from_aws(answer) for reservation in reservations for answer in reservation["Instances"]]
