"""Let the API's states follow what machines do by themselves, and what was there before the server's start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from moto.ec2.models.instances import StateReason

from bakehouse.local.bodies import UNBORN
from bakehouse.local.lifecycle import BY_HOST, Lifecycle, available, failed, now_terminated
from bakehouse.local.things import Ami, Instance

log = logging.getLogger(__name__)

_FORGET_AFTER = 3600  # a terminated instance can be described for about an hour, as in EC2
_LOOK_SECONDS = 60
_AGAIN_SECONDS = 5  # after a refusal

_BY_ITSELF = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown", "Client.InstanceInitiatedShutdown"
)


class Watch:
    """Hold the lifecycle whose machines are watched, and what else follows the backends at each look."""

    def __init__(self, lifecycle: Lifecycle, follow: Callable[[], None] = lambda: None) -> None:
        self.lifecycle = lifecycle
        self._follow = follow
        self.bodies = lifecycle.bodies
        self._off: set[str] = set()  # the machines that the last look found off

    def watch(self) -> None:
        """Follow for ever what machines do by themselves: power off, reboot, die with the Docker engine."""
        while True:
            self.lifecycle.logged(self._follow_bodies)
            time.sleep(2)  # the Docker engine is away: look again until it's back

    def mend_gate(self) -> None:
        """Have for ever the gate made anew that has ended by itself: until then no machine can be reached."""
        while True:
            self.lifecycle.gate_ended.wait()
            self.lifecycle.gate_ended.clear()
            log.warning("the gate has ended; it is made anew")
            self.lifecycle.logged(self.lifecycle.open_ports)

    def look_again(self) -> None:
        """Compare for ever what Docker has with the state: each minute, and soon after it has refused a move.

        So what was promised is done, though the engine refused it at first: a machine ends, a snapshot goes. What an
        engine that is away leaves undone is taken up by ``watch`` when it is back.
        """
        while True:
            if self.lifecycle.refused.wait(_LOOK_SECONDS):
                time.sleep(_AGAIN_SECONDS)
                self.lifecycle.refused.clear()
            if self.bodies.answers():
                self.lifecycle.logged(partial(self.adopt, told=True))

    def _follow_bodies(self) -> None:
        self.adopt()
        for instance_id, reboots in self.bodies.deaths():
            self._died(instance_id, reboots)

    def adopt(self, told: bool = False) -> None:
        """Let the backends agree with the machines and snapshots that Docker has: finished, on, off, lost or gone.

        ``told`` says that Docker tells of each machine that goes off: what it has told may be just on its way, so a
        machine counts as off from the second look on.
        """
        with self.lifecycle.lock:
            still = {one.id: (one.state, one.pid) for one in self._still()}
            left = [image for image in self._pending() if not self.lifecycle.moves(image.id, image.instance_id)]
        # Docker is asked without the lock: everybody who asks the API waits for that
        pids = self.bodies.running()
        there = {image.id for image in left if self.bodies.has(image.ebs_snapshot.id)}
        with self.lifecycle.changing():
            for instance in self._still():  # a fault with one must not keep the others
                if still.get(instance.id) == (instance.state, instance.pid):  # else the answer was too old for it
                    self.lifecycle.logged(partial(self._adopt, instance, pids.get(instance.id), told))
            for image in left:
                _settle(image, image.id in there)
            for backend in self.lifecycle.backends():
                _forget_ended(backend)
                for snapshot_id in backend.forgetting:
                    self.lifecycle.forget(backend, snapshot_id)
        self.lifecycle.open_ports()
        self._follow()

    def _still(self) -> list[Instance]:
        """Return the instances whose bodies nobody moves."""
        return [one for one in self.lifecycle.instances() if not self.lifecycle.moves(one.id)]

    def _pending(self) -> list[Ami]:
        images = [image for backend in self.lifecycle.backends() for image in backend.amis.values()]
        return [image for image in images if image.state == "pending"]

    def _adopt(self, instance: Instance, pid: int | None, told: bool) -> None:
        expected = told and instance.id not in self._off
        self._off.discard(instance.id)
        if instance.state == "terminated" or pid in (None, UNBORN):
            self._adopt_ended(instance, pid)
        elif instance.state == "shutting-down":
            self.lifecycle.terminate(instance)
        elif instance.state == "stopping":
            self.lifecycle.stop(instance)
        elif not pid:
            if instance.state != "stopped" and expected:
                self._off.add(instance.id)
            elif instance.state != "stopped":
                self.lifecycle.now_stopped(instance, StateReason(*BY_HOST))
        elif instance.state == "stopped":
            self.lifecycle.give_public_address(instance)
            instance.become("pending")
            self.lifecycle.come_up(instance)
        elif instance.pid != pid or (instance.health == "initializing" and not self.lifecycle.looks_at(instance)):
            self.lifecycle.come_up(instance)

    def _adopt_ended(self, instance: Instance, pid: int | None) -> None:
        if instance.state != "terminated":
            off = instance.state in ("shutting-down", "stopped")
            now_terminated(instance, instance.state_reason if off else StateReason(*BY_HOST))
        elif pid is not None and instance.state_reason.message != BY_HOST[0]:  # Docker was late to make it
            self.lifecycle.clear(instance)

    def _died(self, instance_id: str, reboots: bool) -> None:
        with self.lifecycle.lock:
            found = [one for one in self.lifecycle.instances() if one.id == instance_id]
            if not found or instance_id in self.lifecycle.restarting or found[0].state not in ("running", "pending"):
                return
            instance = found[0]
        if reboots:
            with self.lifecycle.changing():
                instance.health = "initializing"
            self.lifecycle.switch_on(instance, only=("pending", "running"))
        elif instance.state == "running":  # the one that waits for a pending machine sees that it went off
            self.lifecycle.went_off(instance, _BY_ITSELF)


def _settle(image: Ami, there: bool) -> None:
    """Say what became of an image that was pending while nobody made it."""
    if there:
        available(image)
    else:
        failed(image, "the local EC2 ended while the snapshot was being taken")


def _forget_ended(backend: Any) -> None:
    for reservation in list(backend.reservations.values()):
        reservation.instances = [
            instance
            for instance in reservation.instances
            if instance.state != "terminated" or time.time() - instance.ended < _FORGET_AFTER
        ]
        if not reservation.instances:
            del backend.reservations[reservation.id]
