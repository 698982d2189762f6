"""Launches: from an image to machines that are healthy, or to the reasons why they are not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from bakehouse import cloud, console, images, machines, probes, recipes, services, shells
from bakehouse.cloud import Cloud
from bakehouse.errors import DeadlineError
from bakehouse.machines import Machine
from bakehouse.probes import Verdict
from bakehouse.services import Service
from bakehouse.settings import Settings


def launch(
    settings: Settings,
    *,
    image_id: str = "",
    count: str = "1",
    instance_type: str = "",
    allow: str = "",
    user_data: str = "",
    terminate: bool = False,
) -> list[Machine]:
    """Launch machines of an image, by default the recipe's newest, and return them when a probe finds them healthy.

    The words are as a person types them. Raises InputError before anything is made, and VerdictError, after saying what
    was found, when a machine doesn't get healthy; the machines then stay unless they are to be terminated.
    """
    recipe, service = recipes.load(settings), services.load(settings)
    wanted = machines.order(instance_type or recipe.instance_type, count=count, allow=allow, user_data=user_data)
    account = cloud.connect(settings)
    image = images.get(account, image_id, recipe.name) if image_id else images.latest(account, recipe.name)
    console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
    launched = machines.launch(account, settings, image, wanted, [service.port])
    try:
        launched = machines.running(account, [machine.id for machine in launched])
        verdicts = _settled(settings, service, launched, recipe.boot_budget)
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


def _settled(settings: Settings, service: Service, launched: Sequence[Machine], seconds: float) -> list[Verdict]:
    """Wait until the machines have booted and serve, ``seconds`` at most from when the first may be entered.

    What doesn't come true is a finding like others, so that one machine doesn't hide what the others are.
    """
    deadline = 0.0
    for machine in launched:
        with suppress(DeadlineError):
            shells.reachable(settings, machine)
            shells.booted(settings, machine)
            deadline = deadline or time.monotonic() + seconds
            _serving(service, machine, deadline - time.monotonic())
    return probes.probe(settings, service, launched)


def _serving(service: Service, machine: Machine, seconds: float) -> None:
    def look() -> bool | None:
        return all(probes.look(page).ok for page in probes.pages(service, machine)) or None

    with console.step(f"{machine.id} serves {service.url(machine.address)}"):
        cloud.wait(f"machine {machine.id} to serve {service.url(machine.address)}", look, seconds)


def _explain(account: Cloud, settings: Settings, service: Service, verdict: Verdict) -> None:
    """Say what a machine that isn't healthy showed, and what it says itself; of a healthy one nothing."""
    for finding in verdict.failed:
        console.say(f"{verdict.machine.id}: {finding.name}: {finding.evidence}")
    if not verdict.ok:
        for line in probes.ailing(account, settings, service, verdict.machine):
            console.say(line)
