"""The lives of machines and images: bodies are changed in the background, and the instances' states follow."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason

from bakehouse.local.machines import Birth, Bodies, BodyError
from bakehouse.local.ports import Gate, GateError
from bakehouse.local.state import State
from bakehouse.local.together import Together

log = logging.getLogger(__name__)

_FORGET_AFTER = 3600  # a terminated instance can be described for about an hour, as in EC2
_AT_ONCE = 32


class Lifecycle:
    """Hold the one lock under which moto's backends change, and move bodies outside of it."""

    def __init__(self, bodies: Bodies, gate: Gate, state: State) -> None:
        self.bodies = bodies
        self.lock = state.lock
        self.unopened: Mapping[str, str] = {}
        self._gate = gate
        self._state = state
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="life")
        self._turns: dict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self._restarting: set[str] = set()
        self._gate_image = ""
        self._opening = Together(self._open)

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
                instance.public_ip: {"to": instance.private_ip, "pid": instance.pid, "rules": _rules(instance)}
                for instance in self.instances()
                if instance.reachable and instance.public_ip
            }

    # -- moves, called by the API while it holds the lock --------------------------------------------------------------

    def bear(self, instance: Any, image: Any, key: Any) -> None:
        """Give a new instance its addresses, and have its machine made and switched on."""
        nic = instance.nics[0]
        nic.private_ip_addresses[0]["PrivateIpAddress"] = nic.private_ip_address = self._private_address()
        self._give_public_address(instance)
        birth = Birth(
            instance_id=instance.id,
            snapshot_id=image.ebs_snapshot.id,
            address=instance.private_ip,
            hostname="ip-" + instance.private_ip.replace(".", "-"),
            public_key=key.public_key.strip() if key else "",
            user_data=_user_data(instance),
        )
        self._later(instance, lambda: self._boot(instance, lambda: self.bodies.birth(birth)), only="pending")

    def start(self, instance: Any) -> None:
        """Switch a machine on, at a new public address."""
        instance.health = "initializing"
        self._give_public_address(instance)
        self._later(instance, lambda: self._boot(instance, lambda: self.bodies.start(instance.id)), only="pending")

    def stop(self, instance: Any) -> None:
        """Shut a machine down."""
        self._later(instance, lambda: self._halt(instance), only="stopping")

    def reboot(self, instance: Any) -> None:
        """Restart a machine, which keeps its addresses."""
        self._later(instance, lambda: self._restart(instance), only="running")

    def terminate(self, instance: Any) -> None:
        """Remove a machine."""
        self._later(instance, lambda: self._end(instance), only="shutting-down")

    def snapshot(self, instance: Any, image: Any, reboot: bool) -> None:
        """Copy a machine's disk, shut down and restarted around it if ``reboot``, and make the image available."""
        self._later(instance, lambda: self._image(instance, image, reboot))

    def copy(self, source: Any, image: Any) -> None:
        """Give an image's content to another, and make that available."""
        self._pool.submit(
            self._logged,
            lambda: self._fill(image, lambda: self.bodies.copy(source.ebs_snapshot.id, image.ebs_snapshot.id)),
        )

    def forget(self, backend: Any, snapshot_id: str) -> None:
        """Remove a deleted snapshot's content; what can't be removed yet is when Docker is back."""
        backend.forgetting.add(snapshot_id)
        self._pool.submit(self._logged, lambda: self._forget(backend, snapshot_id))

    def console(self, instance_id: str) -> bytes:
        """Return what a machine wrote to its console; nothing when Docker doesn't answer."""
        try:
            self.bodies.ping()
            return self.bodies.console(instance_id)
        except BodyError as error:
            return f"no console: {error}\n".encode()

    # -- in the background -----------------------------------------------------------------------------------------

    def _later(self, instance: Any, move: Callable[[], None], only: str = "") -> None:
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
            self._logged(waiting[0])
            with self.lock:
                waiting.popleft()

    def _logged(self, move: Callable[[], None]) -> None:
        try:
            move()
        except (BodyError, GateError) as error:
            log.warning("%s; the next adoption takes it up again", error)
        except Exception:
            log.exception("a move failed")

    def _boot(self, instance: Any, switch_on: Callable[[], None]) -> None:
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
            self._pool.submit(self._logged, lambda: self._see_cloud_init(instance, instance.pid))

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
                self._now_stopped(instance, instance.state_reason)

    def _restart(self, instance: Any, while_off: Callable[[], None] = lambda: None) -> None:
        """Switch a machine off and on; its state stays running all the while, as EC2's does."""
        self._restarting.add(instance.id)
        try:
            with self.changing():
                instance.health, instance.reachable = "initializing", False
            self.open_ports()
            self.bodies.stop(instance.id)
            while_off()
            self.bodies.start(instance.id)
        finally:
            self._restarting.discard(instance.id)
        self._come_up(instance)

    def _end(self, instance: Any, reason: StateReason | None = None) -> None:
        if reason:
            with self.changing():
                instance.become("shutting-down", reason)
        self.open_ports()
        self.bodies.remove(instance.id)
        with self.changing():
            _now_terminated(instance, instance.state_reason)

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
                    _failed(image, str(error))
            raise

    def _fill(self, image: Any, fill: Callable[[], None]) -> None:
        try:
            fill()
        except BodyError as error:
            log.warning("%s: %s", image.id, error)
            with self.changing():
                _failed(image, str(error))
        else:
            with self.changing():
                _available(image)

    # -- after a start, and while nobody asks --------------------------------------------------------------------------

    def watch(self) -> None:
        """Follow what machines do by themselves, for ever: power off, reboot, die with the Docker engine."""
        while True:
            self._logged(self._follow_bodies)
            time.sleep(2)  # the engine is away: look again until it's back

    def _follow_bodies(self) -> None:
        self.adopt()
        for instance_id, reboots in self.bodies.deaths():
            self._died(instance_id, reboots)

    def adopt(self) -> None:
        """Let the backends agree with what is there: finished, lost or deleted snapshots, machines on, off or gone."""
        with self.lock:
            still = [instance for instance in self.instances() if not self._turns[instance.id]]
        pids = self.bodies.running()
        with self.changing():
            for instance in still:  # a fault with one must not keep the others
                self._logged(partial(self._adopt, instance, pids.get(instance.id)))
            for backend in self.backends():
                _forget_ended(backend)
                for snapshot_id in backend.forgetting:
                    self.forget(backend, snapshot_id)
                for image in backend.amis.values():
                    if image.state == "pending":
                        self._settle(image)
        self.open_ports()

    def use_gate_image(self, docker_image: str) -> None:
        """Say from which Docker image the gate takes its Python and its nft."""
        self._gate_image = docker_image

    def _adopt(self, instance: Any, pid: int | None) -> None:
        if instance.state == "terminated" or self._turns[instance.id]:
            return
        if pid is None:
            off = instance.state in ("shutting-down", "stopped")
            _now_terminated(instance, instance.state_reason if off else StateReason(*_BY_HOST))
        elif instance.state == "shutting-down":
            self.terminate(instance)
        elif instance.state == "stopping":
            self.stop(instance)
        elif pid == 0:
            if instance.state != "stopped":
                self._now_stopped(instance, StateReason(*_BY_HOST))
        elif instance.state == "stopped":
            instance.become("pending")
            self._give_public_address(instance)
            self._later(instance, lambda: self._boot(instance, lambda: None))
        elif instance.pid != pid or instance.health == "initializing":
            self._later(instance, lambda: self._boot(instance, lambda: None))

    def _settle(self, image: Any) -> None:
        if self.bodies.has(image.ebs_snapshot.id):
            _available(image)
        elif not any(self._turns.values()):
            _failed(image, "the local EC2 ended while the snapshot was being taken")

    def _died(self, instance_id: str, reboots: bool) -> None:
        with self.lock:
            found = [one for one in self.instances() if one.id == instance_id]
            if not found or instance_id in self._restarting or found[0].state not in ("running", "pending"):
                return
            instance = found[0]
        if reboots:
            with self.changing():
                instance.health = "initializing"
            self._later(instance, lambda: self._boot(instance, lambda: self.bodies.start(instance.id)), only="running")
        elif instance.state == "pending":
            return  # it died while booting: wait_for_sshd sees it, and the machine is impaired
        elif instance.instance_initiated_shutdown_behavior == "terminate":
            with self.changing():
                instance.become("shutting-down", _BY_ITSELF)
                self.terminate(instance)
        else:
            with self.changing():
                self._now_stopped(instance, _BY_ITSELF)
            self.open_ports()

    def _now_stopped(self, instance: Any, reason: StateReason) -> None:
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

    def _give_public_address(self, instance: Any) -> None:
        taken = {one.public_ip for one in self.instances() if one.state != "terminated"}
        block = ipaddress.ip_network(public_block(self.bodies.checkout))
        instance.nics[0].public_ip = next(str(one) for one in list(block.hosts())[1:] if str(one) not in taken)


def public_block(checkout: str) -> str:
    """Return the CIDR block of a checkout's public addresses, on loopback."""
    seed = hashlib.sha256(checkout.encode()).digest()
    return f"127.{seed[0] % 254 + 1}.{seed[1]}.0/24"


_BY_HOST = ("Server.InternalError: the machine went off while the local EC2 was away", "Server.InternalError")
_BY_ITSELF = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown", "Client.InstanceInitiatedShutdown"
)


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


def _available(image: Any) -> None:
    image.state, image.ebs_snapshot.status = "available", "completed"


def _failed(image: Any, why: str) -> None:
    image.state, image.ebs_snapshot.status = "failed", "error"
    image.state_reason = {"Code": "Server.InternalError", "Message": f"Server.InternalError: {why}"}


def _now_terminated(instance: Any, reason: StateReason) -> None:
    instance.terminate()
    instance.become("terminated", reason)
    instance.ended = time.time()


def _forget_ended(backend: Any) -> None:
    for reservation in list(backend.reservations.values()):
        reservation.instances = [
            instance
            for instance in reservation.instances
            if instance.state != "terminated" or time.time() - getattr(instance, "ended", 0) < _FORGET_AFTER
        ]
        if not reservation.instances:
            del backend.reservations[reservation.id]


def rules_of(groups: Iterable[Any]) -> list[list[Any]]:
    """Return [first port, last port, [CIDR block, ...]] for each rule of the groups that lets TCP in."""
    found = []
    for group in groups:
        for rule in group.ingress_rules:
            if rule.ip_protocol in ("tcp", "-1") and (rule.cidr_ipv4 or rule.cidr_ipv6):
                first, last = (0, 65535) if rule.from_port in (None, -1) else (rule.from_port, rule.to_port)
                found.append([first, last, [rule.cidr_ipv4 or rule.cidr_ipv6]])
    return found


def _rules(instance: Any) -> list[list[Any]]:
    return rules_of(instance.security_groups or instance.nics[0].group_set)


def _user_data(instance: Any) -> bytes:
    return base64.b64decode(str(instance.user_data)) if instance.user_data else b""
