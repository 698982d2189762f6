"""Launches: from an image to machines that are healthy, or to the reasons why they are not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from bakehouse import channels, cloud, console, images, machines, probes, recipes, services, shells
from bakehouse.cloud import Cloud
from bakehouse.errors import DeadlineError, InputError
from bakehouse.machines import Machine
from bakehouse.probes import Verdict
from bakehouse.services import Service
from bakehouse.settings import Settings

ENTRY_SECONDS = 180
"""In this time machines that run have to let us in."""


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
    wanted = machines.order(instance_type or recipe.instance_type, count=count, allow=allow, user_data=user_data)
    account = cloud.connect(settings)
    if channel:
        image_id = channels.get(account, recipe.name, channel).image
    image = images.usable(account, image_id, recipe.name)
    console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
    launched = machines.launch(account, settings, image, wanted, service.ports)
    try:
        launched = machines.running(account, [machine.id for machine in launched])
        settled(settings, service, launched, recipe.boot_budget)
        verdicts = probes.probe(settings, service, launched)
        for verdict in verdicts:
            _explain(account, settings, service, verdict)
        probes.insist(verdicts, "--on-failure keep leaves the machines for a look" if terminate else "")
    except BaseException:  # an interruption too
        if terminate:
            machines.terminate(account, settings, launched)
        else:
            console.say(f"still there: {' '.join(machine.id for machine in launched)}")
        raise
    return launched


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


def _serving(service: Service, launched: Sequence[Machine], seconds: float, seen: dict[str, float]) -> None:
    """Note for each machine when what tells that its service is up is first there."""
    serving = ", ".join(f"{machine.id} serves {service.url(machine.address)}" for machine in launched)

    def look() -> bool | None:
        for machine in launched:
            if machine.id not in seen and probes.look(probes.up(service, machine)).ok:
                seen[machine.id] = time.monotonic()
        return len(seen) == len(launched) or None

    with console.step(serving):
        cloud.wait(f"this to be seen: {serving}", look, seconds)


def _explain(account: Cloud, settings: Settings, service: Service, verdict: Verdict) -> None:
    """Say what a machine that isn't healthy showed, and what it says itself; of a healthy one nothing."""
    for finding in verdict.failed:
        console.say(f"{verdict.machine.id}: {finding.name}: {finding.evidence}")
    if not verdict.ok:
        for line in probes.ailing(account, settings, service, verdict.machine):
            console.say(line)
