"""What machines do by themselves, and what was there before a start: the API's states follow it."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from moto.ec2.models.instances import StateReason

from bakehouse.local.lifecycle import Lifecycle, available, failed, now_terminated

log = logging.getLogger(__name__)

_FORGET_AFTER = 3600  # a terminated instance can be described for about an hour, as in EC2

_BY_HOST = ("Server.InternalError: the machine went off while the local EC2 was away", "Server.InternalError")
_BY_ITSELF = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown", "Client.InstanceInitiatedShutdown"
)


class Watch:
    """Hold the lifecycle whose machines are watched."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.bodies = lifecycle.bodies

    def watch(self) -> None:
        """Follow what machines do by themselves, for ever: power off, reboot, die with the Docker engine."""
        while True:
            self.lifecycle.logged(self._follow_bodies)
            time.sleep(2)  # the engine is away: look again until it's back

    def _follow_bodies(self) -> None:
        self.adopt()
        for instance_id, reboots in self.bodies.deaths():
            self._died(instance_id, reboots)

    def adopt(self) -> None:
        """Let the backends agree with what is there: finished, lost or deleted snapshots, machines on, off or gone."""
        with self.lifecycle.lock:
            still = [instance for instance in self.lifecycle.instances() if not self.lifecycle.moves(instance)]
        pids = self.bodies.running()
        with self.lifecycle.changing():
            for instance in still:  # a fault with one must not keep the others
                self.lifecycle.logged(partial(self._adopt, instance, pids.get(instance.id)))
            for backend in self.lifecycle.backends():
                _forget_ended(backend)
                for snapshot_id in backend.forgetting:
                    self.lifecycle.forget(backend, snapshot_id)
                for image in backend.amis.values():
                    if image.state == "pending":
                        self._settle(image)
        self.lifecycle.open_ports()

    def _adopt(self, instance: Any, pid: int | None) -> None:
        if instance.state == "terminated" or self.lifecycle.moves(instance):
            return
        if pid is None:
            off = instance.state in ("shutting-down", "stopped")
            now_terminated(instance, instance.state_reason if off else StateReason(*_BY_HOST))
        elif instance.state == "shutting-down":
            self.lifecycle.terminate(instance)
        elif instance.state == "stopping":
            self.lifecycle.stop(instance)
        elif pid == 0:
            if instance.state != "stopped":
                self.lifecycle.now_stopped(instance, StateReason(*_BY_HOST))
        elif instance.state == "stopped":
            instance.become("pending")
            self.lifecycle.give_public_address(instance)
            self.lifecycle.later(instance, lambda: self.lifecycle.boot(instance, lambda: None))
        elif instance.pid != pid or instance.health == "initializing":
            self.lifecycle.later(instance, lambda: self.lifecycle.boot(instance, lambda: None))

    def _settle(self, image: Any) -> None:
        if self.bodies.has(image.ebs_snapshot.id):
            available(image)
        elif not self.lifecycle.moves():
            failed(image, "the local EC2 ended while the snapshot was being taken")

    def _died(self, instance_id: str, reboots: bool) -> None:
        with self.lifecycle.lock:
            found = [one for one in self.lifecycle.instances() if one.id == instance_id]
            if not found or instance_id in self.lifecycle.restarting or found[0].state not in ("running", "pending"):
                return
            instance = found[0]
        if reboots:
            with self.lifecycle.changing():
                instance.health = "initializing"
            self.lifecycle.later(
                instance, lambda: self.lifecycle.boot(instance, lambda: self.bodies.start(instance.id)), only="running"
            )
        elif instance.state == "pending":
            return  # it died while booting: wait_for_sshd sees it, and the machine is impaired
        elif instance.instance_initiated_shutdown_behavior == "terminate":
            with self.lifecycle.changing():
                instance.become("shutting-down", _BY_ITSELF)
                self.lifecycle.terminate(instance)
        else:
            with self.lifecycle.changing():
                self.lifecycle.now_stopped(instance, _BY_ITSELF)
            self.lifecycle.open_ports()


def _forget_ended(backend: Any) -> None:
    for reservation in list(backend.reservations.values()):
        reservation.instances = [
            instance
            for instance in reservation.instances
            if instance.state != "terminated" or time.time() - getattr(instance, "ended", 0) < _FORGET_AFTER
        ]
        if not reservation.instances:
            del backend.reservations[reservation.id]
