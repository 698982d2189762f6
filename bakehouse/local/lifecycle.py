"""The lives of machines and images: bodies are changed in the background, and the instances' states follow."""

from __future__ import annotations

import base64
import ipaddress
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason

from bakehouse.local.bodies import Birth, Bodies, BodyError
from bakehouse.local.coalescing import Coalesced
from bakehouse.local.ports import GateDriver, GateError, public_block, rules
from bakehouse.local.state import State

log = logging.getLogger(__name__)

_AT_ONCE = 32


class Lifecycle:
    """Hold the one lock under which moto's backends change, and move bodies outside of it."""

    def __init__(self, bodies: Bodies, gate: GateDriver, state: State) -> None:
        self.bodies = bodies
        self.lock = state.lock
        self.unopened: Mapping[str, str] = {}
        self._gate = gate
        self._state = state
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="life")
        self._turns: dict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self.restarting: set[str] = set()
        self._gate_image = ""
        self._opening = Coalesced(self._open)

    # -- the state of the world ------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the backends alone; on leaving the new state is on the disk."""
        with self.lock:
            yield
        self._state.keep()

    def backends(self) -> list[Any]:
        """Return the EC2 backend of each region that was used."""
        return [backend for regions in ec2_backends.values() for backend in regions.values()]

    def instances(self) -> list[Any]:
        """Return every instance that isn't forgotten."""
        return [instance for backend in self.backends() for instance in backend.all_instances()]

    @property
    def unfenced(self) -> str:
        """Say why a machine can't have a port that a program has at all addresses of the host; empty when it can."""
        return self._gate.unfenced

    def open_ports(self) -> None:
        """Let the open ports follow the rules and the machines; on return they do."""
        self._opening()

    def _open(self) -> None:
        self.unopened = self._gate.follow(self._table, self._gate_image)
        if self.unopened:
            log.warning("ports that could not be opened: %s", self.unopened)

    def _table(self) -> Mapping[str, Mapping[str, Any]]:
        with self.lock:
            return {
                instance.public_ip: {"to": instance.private_ip, "pid": instance.pid, "rules": rules(instance)}
                for instance in self.instances()
                if instance.reachable and instance.public_ip
            }

    # -- moves, called by the API while it holds the lock --------------------------------------------------------------

    def bear(self, instance: Any, image: Any, key: Any) -> None:
        """Give a new instance its addresses, and have its machine made and switched on."""
        nic = instance.nics[0]
        nic.private_ip_addresses[0]["PrivateIpAddress"] = nic.private_ip_address = self._private_address()
        self.give_public_address(instance)
        birth = Birth(
            instance_id=instance.id,
            snapshot_id=image.ebs_snapshot.id,
            address=instance.private_ip,
            hostname="ip-" + instance.private_ip.replace(".", "-"),
            public_key=key.public_key.strip() if key else "",
            user_data=_user_data(instance),
        )
        self.later(instance, lambda: self.boot(instance, lambda: self.bodies.birth(birth)), only="pending")

    def start(self, instance: Any) -> None:
        """Switch a machine on, at a new public address."""
        instance.health = "initializing"
        self.give_public_address(instance)
        self.later(instance, lambda: self.boot(instance, lambda: self.bodies.start(instance.id)), only="pending")

    def stop(self, instance: Any) -> None:
        """Shut a machine down."""
        self.later(instance, lambda: self._halt(instance), only="stopping")

    def reboot(self, instance: Any) -> None:
        """Restart a machine, which keeps its addresses."""
        self.later(instance, lambda: self._restart(instance), only="running")

    def terminate(self, instance: Any) -> None:
        """Remove a machine."""
        self.later(instance, lambda: self._end(instance), only="shutting-down")

    def snapshot(self, instance: Any, image: Any, reboot: bool) -> None:
        """Copy a machine's disk, shut down and restarted around it if ``reboot``, and make the image available."""
        self.later(instance, lambda: self._image(instance, image, reboot))

    def copy(self, source: Any, image: Any) -> None:
        """Give an image's content to another, and make that available."""
        self._pool.submit(
            self.logged,
            lambda: self._fill(image, lambda: self.bodies.copy(source.ebs_snapshot.id, image.ebs_snapshot.id)),
        )

    def forget(self, backend: Any, snapshot_id: str) -> None:
        """Remove a deleted snapshot's content; what can't be removed yet is when Docker is back."""
        backend.forgetting.add(snapshot_id)
        self._pool.submit(self.logged, lambda: self._forget(backend, snapshot_id))

    def console(self, instance_id: str) -> bytes:
        """Return what a machine wrote to its console; nothing when Docker doesn't answer."""
        try:
            self.bodies.ping()
            return self.bodies.console(instance_id)
        except BodyError as error:
            return f"no console: {error}\n".encode()

    # -- in the background -----------------------------------------------------------------------------------------

    def moves(self, instance: Any = None) -> bool:
        """Tell whether a body is being moved or waits for it: an instance's, or any."""
        return bool(self._turns[instance.id] if instance else any(self._turns.values()))

    def later(self, instance: Any, move: Callable[[], None], only: str = "") -> None:
        """Move one instance's body after its earlier moves; not at all if it has left state ``only`` by then."""

        def turn() -> None:
            if only in ("", instance.state):
                move()

        with self.lock:
            waiting = self._turns[instance.id]
            waiting.append(turn)
            if len(waiting) == 1:
                self._pool.submit(self._take_turns, waiting)

    def _take_turns(self, waiting: deque[Callable[[], None]]) -> None:
        while waiting:
            self.logged(waiting[0])
            with self.lock:
                waiting.popleft()

    def logged(self, move: Callable[[], None]) -> None:
        """Make a move; a fault is logged and ends nothing."""
        try:
            move()
        except (BodyError, GateError) as error:
            log.warning("%s; the next adoption takes it up again", error)
        except Exception:
            log.exception("a move failed")

    def boot(self, instance: Any, switch_on: Callable[[], None]) -> None:
        """Switch a machine on and wait until it is up; one that can't be is terminated."""
        try:
            switch_on()
            self._come_up(instance)
        except (BodyError, GateError) as error:
            log.warning("%s: %s", instance.id, error)
            self._end(instance, StateReason(f"Server.InternalError: {error}", "Server.InternalError"))

    def _come_up(self, instance: Any) -> None:
        """Wait for sshd, open the ports and say running; whether cloud-init gets done is seen by the way."""
        on = ("pending", "running")
        has_sshd = self.bodies.wait_for_sshd(instance.id, instance.private_ip, lambda: instance.state in on)
        with self.lock:
            if instance.state not in on:
                return
            instance.pid = self.bodies.pid(instance.id)
            instance.reachable = bool(instance.pid)
        self.open_ports()
        self._refuse_unopened(instance)
        with self.changing():
            if instance.state == "pending":
                instance.become("running")
                instance.reachable = bool(instance.pid)
            instance.health = "initializing" if has_sshd else "impaired"
        if has_sshd:
            self._pool.submit(self.logged, lambda: self._see_cloud_init(instance, instance.pid))

    def _see_cloud_init(self, instance: Any, pid: int) -> None:
        done = self.bodies.wait_for_cloud_init(instance.id)
        with self.changing():
            if instance.state == "running" and instance.pid == pid:
                instance.health = "ok" if done else "impaired"

    def _refuse_unopened(self, instance: Any) -> None:
        for door, why in self.unopened.items():
            if door.startswith(f"{instance.public_ip}:"):
                raise BodyError(f"{door} can't be opened: {why}; something on this host listens there")

    def _halt(self, instance: Any) -> None:
        self.open_ports()
        self.bodies.stop(instance.id)
        with self.changing():
            if instance.state == "stopping":
                self.now_stopped(instance, instance.state_reason)

    def _restart(self, instance: Any, while_off: Callable[[], None] = lambda: None) -> None:
        """Switch a machine off and on; its state stays running all the while, as EC2's does."""
        self.restarting.add(instance.id)
        try:
            with self.changing():
                instance.health, instance.reachable = "initializing", False
            self.open_ports()
            self.bodies.stop(instance.id)
            while_off()
            self.bodies.start(instance.id)
        finally:
            self.restarting.discard(instance.id)
        self._come_up(instance)

    def _end(self, instance: Any, reason: StateReason | None = None) -> None:
        if reason:
            with self.changing():
                instance.become("shutting-down", reason)
        self.open_ports()
        self.bodies.remove(instance.id)
        with self.changing():
            now_terminated(instance, instance.state_reason)

    def _forget(self, backend: Any, snapshot_id: str) -> None:
        self.bodies.forget(snapshot_id)
        with self.changing():
            backend.forgetting.discard(snapshot_id)

    def _image(self, instance: Any, image: Any, reboot: bool) -> None:
        def take() -> None:
            self._fill(image, lambda: self.bodies.commit(instance.id, image.ebs_snapshot.id, record(image)))

        try:
            if reboot:
                self._restart(instance, while_off=take)
            else:
                take()
        except (BodyError, GateError) as error:
            with self.changing():
                if image.state == "pending":
                    failed(image, str(error))
            raise

    def _fill(self, image: Any, fill: Callable[[], None]) -> None:
        try:
            fill()
        except BodyError as error:
            log.warning("%s: %s", image.id, error)
            with self.changing():
                failed(image, str(error))
        else:
            with self.changing():
                available(image)

    def use_gate_image(self, docker_image: str) -> None:
        """Say from which Docker image the gate takes its Python and its nft."""
        self._gate_image = docker_image

    def now_stopped(self, instance: Any, reason: StateReason) -> None:
        """Note that a machine is off."""
        instance.become("stopped", reason)
        instance.pid = 0
        instance.nics[0].public_ip = None

    # -- addresses ----------------------------------------------------------------------------------------------------

    def _private_address(self) -> str:
        network = ipaddress.ip_network(self.bodies.subnet())
        taken = {instance.private_ip for instance in self.instances() if instance.state != "terminated"}
        for address in list(network.hosts())[9:]:
            if str(address) not in taken:
                return str(address)
        raise BodyError(f"network {network} has no free address")

    def give_public_address(self, instance: Any) -> None:
        """Give an instance a public address that no other has."""
        taken = {one.public_ip for one in self.instances() if one.state != "terminated"}
        block = ipaddress.ip_network(public_block(self.bodies.checkout))
        instance.nics[0].public_ip = next(str(one) for one in list(block.hosts())[1:] if str(one) not in taken)


def record(image: Any) -> dict[str, Any]:
    """Return what an image's body says of it, so that it can be registered again when the state is lost."""
    return {
        "id": image.id,
        "name": image.name,
        "description": image.description,
        "root_device": image.root_device_name,
        "source_image_id": image.source_image_id,
        "size": image.ebs_snapshot.volume_size,
        "tags": {tag["key"]: tag["value"] for tag in image.get_tags()},
    }


def available(image: Any) -> None:
    """Note that an image can be launched."""
    image.state, image.ebs_snapshot.status = "available", "completed"


def failed(image: Any, why: str) -> None:
    """Note that an image came to nothing, and why."""
    image.state, image.ebs_snapshot.status = "failed", "error"
    image.state_reason = {"Code": "Server.InternalError", "Message": f"Server.InternalError: {why}"}


def now_terminated(instance: Any, reason: StateReason) -> None:
    """Note that a machine is gone."""
    instance.terminate()
    instance.become("terminated", reason)
    instance.ended = time.time()


def _user_data(instance: Any) -> bytes:
    return base64.b64decode(str(instance.user_data)) if instance.user_data else b""
