"""Launches: from an image to machines that are healthy, or to the reasons why they are not."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bakehouse import accounts, console, images, machines, recipes
from bakehouse.accounts import TAG, Account, access, tag_specifications
from bakehouse.errors import DeadlineError, InputError
from bakehouse.images import Image, channels
from bakehouse.machines import Machine, probes, shells
from bakehouse.machines.probes import Verdict
from bakehouse.recipes import services
from bakehouse.recipes.services import Service
from bakehouse.settings import Settings

USER_DATA_LIMIT = 16 * 1024  # bytes before they are encoded: EC2's own limit

ENTRY_SECONDS = 180
"""In this time machines that run have to let us in."""

_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")


@dataclass(frozen=True)
class Request:
    """Hold what is to be launched: how many, of which type, for whom (empty for the caller alone), told what."""

    count: int
    type: str
    allow: str
    user_data: bytes


def request(instance_type: str, *, count: str = "1", allow: str = "", user_data: str = "") -> Request:
    """Read what a person typed; ``user_data`` names a file. Raises InputError naming what is wrong with which flag."""
    if not (count.isascii() and count.isdigit() and int(count)):
        raise InputError(f"--count {count} is not a number of machines", "give a whole number from 1 up")
    if not _TYPE.fullmatch(instance_type):
        raise InputError(f"--type {instance_type} is not an instance type", "one looks like t3.medium")
    return Request(
        int(count),
        instance_type,
        _network(allow) if allow else "",
        _contents(user_data) if user_data else b"",
    )


def launch(
    settings: Settings,
    *,
    image_id: str = "",
    channel: str = "",
    count: str = "1",
    instance_type: str = "",
    allow: str = "",
    user_data: str = "",
    terminate: bool = False,
) -> list[Machine]:
    """Launch machines of an image, by default the recipe's newest, and return them when a probe finds them healthy.

    ``channel`` names one that points to the image. The words are as a person types them. Raises InputError before
    anything is made, and VerdictError, after saying what was found, when a machine doesn't get healthy; the machines
    then stay unless they are to be terminated.
    """
    if image_id and channel:
        raise InputError("launch which image?", "./inv launch --image ID, or ./inv launch --channel NAME")
    recipe, service = recipes.load(settings), services.load(settings)
    wanted = request(instance_type or recipe.instance_type, count=count, allow=allow, user_data=user_data)
    account = accounts.connect(settings)
    if channel:
        image_id = channels.get(account, recipe.name, channel).image
    image = images.usable(account, image_id, recipe.name)
    console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
    launched = begin(account, settings, image, wanted, service.ports)
    try:
        launched = machines.running(account, [machine.id for machine in launched])
        settled(settings, service, launched, recipe.boot_budget)
        verdicts = probes.probe(settings, service, launched)
        for verdict in verdicts:
            _explain(account, settings, service, verdict)
        probes.insist(verdicts, "--on-failure keep leaves the machines for a look" if terminate else "")
    except BaseException:  # an interruption too
        if terminate:
            end(account, settings, launched)
        else:
            console.say(f"still there: {' '.join(machine.id for machine in launched)}")
        raise
    return launched


def begin(
    account: Account, settings: Settings, image: Image, wanted: Request, ports: Sequence[int], run: str = ""
) -> list[Machine]:
    """Launch machines of an image, with SSH and ``ports`` open to the caller alone, and return them as they begin.

    With ``run`` they are that run's own and go with it.
    """
    key = access.key_pair(account, settings, image.recipe)
    group = access.group(account, image.recipe, key, (22, *ports), wanted.allow or account.caller(), run)
    tags = {
        "Name": f"bakehouse-{image.recipe}",
        f"{TAG}kind": "machine",
        f"{TAG}recipe": image.recipe,
        f"{TAG}user": image.user,
        **({f"{TAG}run": run} if run else {}),
    }
    disk = {"SnapshotId": image.root_snapshot, "Encrypted": True, "DeleteOnTermination": True}
    answer = account.ec2.run_instances(
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


def end(account: Account, settings: Settings, found: Sequence[Machine]) -> None:
    """Terminate machines, return when they are gone, and forget their host keys."""
    machines.terminate(account, found)
    for machine in found:
        access.known_hosts(settings, machine.id).unlink(missing_ok=True)


def settled(settings: Settings, service: Service, launched: Sequence[Machine], seconds: float) -> dict[str, float]:
    """Wait until machines have booted and serve, ``seconds`` at most from when the first may be entered.

    Return for each that serves when it was first seen to, by the monotonic clock. What doesn't come true is not raised
    but left to the probes, so that one machine doesn't hide what the others are.
    """
    deadline, booted, seen = 0.0, [], dict[str, float]()
    patience = time.monotonic() + ENTRY_SECONDS  # with all of them together, as they were launched together
    for machine in launched:
        with suppress(DeadlineError):
            shells.reachable(settings, machine, max(0, patience - time.monotonic()))
            deadline = deadline or time.monotonic() + seconds
            shells.booted(settings, machine)
            booted.append(machine)
            if not service.port:  # then there is nothing else to wait for
                seen[machine.id] = time.monotonic()
    if len(booted) > len(seen):
        with suppress(DeadlineError):
            _serving(service, booted, deadline - time.monotonic(), seen)
    return seen


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


def _serving(service: Service, launched: Sequence[Machine], seconds: float, seen: dict[str, float]) -> None:
    """Note for each machine when what tells that its service is up is first there."""
    serving = ", ".join(f"{machine.id} serves {service.url(machine.address)}" for machine in launched)

    def look() -> bool | None:
        for machine in launched:
            if machine.id not in seen and probes.look(probes.up(service, machine)).ok:
                seen[machine.id] = time.monotonic()
        return len(seen) == len(launched) or None

    with console.step(serving):
        accounts.wait(f"this to be seen: {serving}", look, seconds)


def _explain(account: Account, settings: Settings, service: Service, verdict: Verdict) -> None:
    """Say what a machine that isn't healthy showed, and what it says itself; of a healthy one nothing."""
    for finding in verdict.failed:
        console.say(f"{verdict.machine.id}: {finding.name}: {finding.evidence}")
    if not verdict.ok:
        for line in probes.ailing(account, settings, service, verdict.machine):
            console.say(line)
