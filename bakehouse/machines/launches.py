"""Launches: launch machines of an image, wait until they are healthy, or say why they are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bakehouse import accounts, console, endings, images, machines, patience, recipes, sites
from bakehouse.accounts import TAG, Account, access, encryption, networks, rights, tag_specifications
from bakehouse.accounts.networks import Place
from bakehouse.errors import CloudError, DeadlineError, InputError
from bakehouse.images import Image, channels
from bakehouse.machines import Machine, probes, shells
from bakehouse.machines.probes import Finding, Verdict
from bakehouse.recipes import services
from bakehouse.recipes.services import Service
from bakehouse.settings import Settings

USER_DATA_LIMIT = 16 * 1024  # bytes before base64: EC2's own limit


@dataclass(frozen=True)
class Request:
    """Hold what is to be launched.

    Attributes:
        count: the number of machines.
        types: their instance types, in the order in which they are tried.
        allow: the network that may connect to them, as a CIDR block or a prefix list; empty for what is usual there.
        user_data: the user data that they get.
    """

    count: int
    types: tuple[str, ...]
    allow: str
    user_data: bytes


def request(instance_type: str, *, count: str = "1", allow: str = "", user_data: str = "") -> Request:
    """Read the flags of a launch; ``user_data`` names a file. Raises InputError, which names the flag that is wrong."""
    if not (count.isascii() and count.isdigit() and int(count)):
        raise InputError(f"--count {count} is not a number of machines", "give a whole number from 1 up")
    return Request(
        int(count),
        (sites.check_type(instance_type, "--type"),),
        sites.check_network(allow, "--allow") if allow else "",
        _contents(user_data) if user_data else b"",
    )


@dataclass(frozen=True)
class Preparation:
    """Hold what a launch needs: the places in which it is tried in turn, and the other arguments of RunInstances."""

    places: Sequence[Place]
    how: Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """Hold what is known of machines that were waited for, by ID.

    Attributes:
        since: when each was first seen to serve, in seconds of the monotonic clock.
        unknown: of which it isn't known, because they gave no answer, and what was waited for.
    """

    since: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def watched(self, machine: Machine) -> Iterator[None]:
        """Note when it isn't known whether a machine has come up; a deadline is no error here."""
        try:
            yield
        except DeadlineError as error:
            if error.silent:
                self.unknown[machine.id] = error.text

    def note(self, machine: Machine, finding: Finding) -> None:
        """Note what one look at a machine's service has found."""
        self.unknown.pop(machine.id, None)
        if finding.ok:
            self.since[machine.id] = time.monotonic()
        elif finding.ok is None:
            self.unknown[machine.id] = finding.evidence


def usual(account: Account, wanted: Request) -> Request:
    """Return a request with the instance types that accounts.yml names, if it names any."""
    return replace(wanted, types=account.site.instance_types or wanted.types)


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
    everyone: bool = False,
) -> list[Machine]:
    """Launch machines of an image, by default the recipe's newest, and return them when they are healthy.

    The newest is that of the owner's own images, or with ``everyone`` that of all. ``channel`` names a channel whose
    image is launched. All arguments are as a person types them. Raises InputError before anything
    is made. When a machine does not get healthy it prints the findings and raises VerdictError; with ``terminate`` the
    machines are then terminated, otherwise they stay.
    """
    if image_id and channel:
        raise InputError("--image and --channel exclude each other", "give one of them, or none for the newest image")
    recipe, service = recipes.load(settings), services.load(settings)
    wanted = request(instance_type or recipe.instance_type, count=count, allow=allow, user_data=user_data)
    with endings.stating("nothing was launched", "./inv launch starts again"):
        account = accounts.connect(settings)
        wanted = wanted if instance_type else usual(account, wanted)
        if channel:
            image_id = channels.get(account, recipe.name, channel).image
        image = images.usable(account, image_id, recipe.name, "" if everyone else account.owner(settings))
        console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
        prepared = prepare(account, settings, image, wanted, service.ports)
    launched, fate = list[Machine](), "machines may have been launched"
    with endings.stating(lambda: fate, "./inv machines lists them"):
        try:
            with endings.uncut():
                launched = start(account, prepared)
            launched = machines.running(account, [machine.id for machine in launched], recipe.boot_budget)
            insist = partial(machines.insist_on, account, launched)
            settled(settings, service, launched, recipe.boot_budget, insist)
            verdicts = probes.probe(settings, service, launched)
            for verdict in verdicts:
                _explain(account, settings, service, verdict)
            probes.insist(verdicts, "--on-failure keep leaves the machines for a look" if terminate else "")
        except BaseException:  # an interruption too
            if launched:
                fate = _part_with(account, settings, launched, terminate)
            raise
    return launched


def _part_with(account: Account, settings: Settings, launched: Sequence[Machine], terminate: bool) -> str:
    """Terminate machines that didn't get healthy, if that was asked for, and say what has become of them."""
    ids = " ".join(machine.id for machine in launched)
    stays = accounts.Stays()
    with endings.undisturbed(), stays.told(ids):
        if terminate:
            end(account, settings, launched)
            return f"{ids} terminated"
    console.say(f"still there: {ids}")
    return f"still there: {ids}"


def begin(
    account: Account, settings: Settings, image: Image, wanted: Request, ports: Sequence[int], run: str = ""
) -> list[Machine]:
    """Launch machines of an image and return them without waiting for them; the arguments are those of ``prepare``."""
    return start(account, prepare(account, settings, image, wanted, ports, run))


def prepare(
    account: Account, settings: Settings, image: Image, wanted: Request, ports: Sequence[int], run: str = ""
) -> Preparation:
    """Make the key pair and the group that machines of an image need, and return all that their launch needs.

    SSH and ``ports`` are open to ``wanted.allow``, by default as accounts.yml says, else to the caller alone. With
    ``run``, the ID of a run, the machines belong to that run and are cleared away with it.
    """
    rights.insist_profile(account, "launch_profile")
    network = networks.look(account)
    key = access.key_pair(account, settings, image.recipe)
    groups = network.groups
    if not groups:
        source = networks.allowed(account, network, wanted.allow)
        groups = (access.group(account, image.recipe, key, (22, *ports), source, run, network.vpc),)
    tags = {
        "Name": account.site.named(f"bakehouse-{image.recipe}"),
        f"{TAG}kind": "machine",
        f"{TAG}recipe": image.recipe,
        f"{TAG}user": image.user,
        f"{TAG}owner": account.owner(settings),
        **({f"{TAG}privileged": "yes"} if image.privileged else {}),
        **({f"{TAG}run": run} if run else {}),
    }
    disk = {"SnapshotId": image.root_snapshot, "Encrypted": True, "DeleteOnTermination": True}
    disk |= encryption.disk(account, encryption.key(account))
    how = dict(
        ImageId=image.id,
        MinCount=wanted.count,
        MaxCount=wanted.count,
        KeyName=key,
        UserData=wanted.user_data,
        MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[{"DeviceName": image.root_device, "Ebs": disk}],
        **({"IamInstanceProfile": {"Name": profile}} if (profile := account.site.launch_profile) else {}),
        TagSpecifications=tag_specifications(account.marked(tags), "instance", "volume", "network-interface"),
    )
    return Preparation(networks.places(account, network, wanted.types, groups), how)


def start(account: Account, prepared: Preparation) -> list[Machine]:
    """Launch machines as prepared, in the first of the places that has room."""
    answer = _run(account, prepared.places, prepared.how)
    return [Machine.from_aws(instance, account.site) for instance in answer["Instances"]]


def _run(account: Account, places: Sequence[Place], how: Mapping[str, Any]) -> dict[str, Any]:
    """Launch in the first of the places that has room, and return EC2's answer."""
    [place, *others] = places
    try:
        return account.ec2.run_instances(**place.arguments(), **how)
    except CloudError as error:
        if not others or not networks.lacks_room(error.text):
            raise
        console.say(f"no room for {place}: {error.text}")
    return _run(account, others, how)


def end(account: Account, settings: Settings, found: Sequence[Machine]) -> None:
    """Terminate machines, wait until they are terminated, and delete their host keys here."""
    machines.terminate(account, found)
    for machine in found:
        access.known_hosts(settings, machine.id).unlink(missing_ok=True)


def settled(
    settings: Settings,
    service: Service,
    launched: Sequence[Machine],
    budget: float,
    insist: Callable[[], None] = lambda: None,
) -> Served:
    """Wait until machines have booted and serve, at most ``budget`` seconds after the first one accepts SSH.

    A machine that is late raises nothing: the probes find it, so that one machine doesn't hide the state of the others.
    ``insist`` is called at each look, and may raise.
    """
    deadline, booted, served = 0.0, [], Served()
    entry = time.monotonic() + patience.ENTRY.least(budget)  # one deadline for all: they were launched together
    for machine in launched:
        with served.watched(machine):
            shells.reachable(settings, machine, max(0, entry - time.monotonic()), insist)
            deadline = deadline or time.monotonic() + budget * patience.factor()
            shells.booted(settings, machine, deadline - time.monotonic(), insist)
            booted.append(machine)
            if not service.port:  # there is nothing else to wait for
                served.since[machine.id] = time.monotonic()
    if len(booted) > len(served.since):
        with suppress(DeadlineError):
            _serving(settings, service, booted, deadline - time.monotonic(), served, insist)
    return served


def _contents(user_data: str) -> bytes:
    try:
        contents = Path(user_data).read_bytes()
    except OSError as error:
        raise InputError(f"--user-data {user_data} can't be read: {error.strerror}", "give an existing file") from error
    if len(contents) > USER_DATA_LIMIT:
        raise InputError(
            f"--user-data {user_data} has {len(contents)} bytes; EC2 takes {USER_DATA_LIMIT}",
            "let user-data download the rest, or bake it into the image",
        )
    return contents


def _serving(
    settings: Settings,
    service: Service,
    launched: Sequence[Machine],
    seconds: float,
    served: Served,
    insist: Callable[[], None],
) -> None:
    """Wait until every machine serves."""
    serving = ", ".join(f"{machine.id} serves {service.url(machine.address)}" for machine in launched)

    def look() -> bool | None:
        insist()
        for machine in launched:
            if machine.id not in served.since:
                served.note(machine, probes.look(probes.up(settings, service, machine)))
        return len(served.since) == len(launched) or None

    with console.step(serving):
        accounts.wait(f"this to be seen: {serving}", look, seconds)


def _explain(account: Account, settings: Settings, service: Service, verdict: Verdict) -> None:
    """Print the failed findings on a machine that isn't healthy, with its console and journal."""
    for finding in (*verdict.failed, *verdict.unknown):
        console.say(f"{verdict.machine.id}: {finding.name}: {finding.evidence}")
    if not verdict.ok:
        for line in probes.ailing(account, settings, service, verdict.machine):
            console.say(line)
