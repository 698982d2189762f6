"""Move the bodies of machines and images in the background, and let the API's states follow them.

One lock guards moto's backends. Docker is never asked while a thread holds it, because everybody who asks the API
waits for that lock. What a request needs to know of Docker is asked beforehand, by ``Lifecycle.prepare``.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import StateReason
from moto.ec2.models.key_pairs import KeyPair

from bakehouse.errors import printable
from bakehouse.local.bodies import PRIVILEGED, Birth, Bodies, BodyError
from bakehouse.local.coalescing import Coalesced
from bakehouse.local.drivers import DriverError
from bakehouse.local.ports import GateDriver, public_block, rules
from bakehouse.local.state import State
from bakehouse.local.things import Ami, Instance

log = logging.getLogger(__name__)

_AT_ONCE = 32
"""So many calls at once let Docker make, start, stop, copy or remove a body."""

_TURNS_AT_ONCE = 512
"""So many machines take turns at once. Most of them only wait, for an sshd or for their place among ``_AT_ONCE``."""

_PATIENCE_SECONDS = 20  # less than any client waits for an answer

_NOT_ASKED = "Docker was not asked before the lock was taken"


BY_HOST = ("Server.InternalError: the machine went off while the local EC2 was away", "Server.InternalError")
"""Why a machine is stopped, or terminated, of which Docker says that it's off, or not there."""


class UnopenedError(BodyError):
    """Say that a port of a machine can't be opened."""


class _Asked(threading.local):
    """Hold what one thread's request has asked of Docker before it took the lock.

    Attributes:
        refusal: why no body can be moved; empty when bodies can be moved.
        subnet: the subnet of the checkout's Docker network.
        room: how many machines can be switched on.
        roomless: why that is not known; empty when it is.
        console: what the machine that the request is about wrote to its console.
    """

    refusal = _NOT_ASKED
    subnet = ""
    room = 0
    roomless = _NOT_ASKED
    console = b""


class Lifecycle:
    """Hold the one lock under which moto's backends change, and move bodies outside of it.

    Attributes:
        bodies: the bodies that are moved.
        lock: the lock.
        refused: set when a move was refused; who looks again what is to be done clears it.
        unopened: "address:port" -> why that port, which a rule opens, could not be opened.
        restarting: the IDs of the machines that are off for a moment because they are being restarted.
        noting: called when an image has become available.
        gate_ended: set when the gate has ended by itself; who has it made anew clears it.
    """

    def __init__(self, bodies: Bodies, gate: GateDriver, state: State) -> None:
        self.bodies = bodies
        self.lock = state.lock
        self.unopened: Mapping[str, str] = {}
        self.noting: Callable[[], None] = lambda: None
        self.gate_ended = gate.ended
        self._gate = gate
        self._state = state
        self._pool = ThreadPoolExecutor(_TURNS_AT_ONCE, thread_name_prefix="life")
        self._working = threading.BoundedSemaphore(_AT_ONCE)
        self._turns: dict[str, deque[Callable[[], None]]] = {}  # by the ID of a machine or image; never an empty one
        self._asked = _Asked()
        self.restarting: set[str] = set()
        self.refused = threading.Event()
        self._looked_at: set[tuple[str, int]] = set()  # (instance ID, process ID) where cloud-init is waited for
        self._gate_image = ""
        self._opening = Coalesced(self._open)

    # -- the state of the world ------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let nobody else change the backends meanwhile; the new state is on the disk when the block is left."""
        with self.lock:
            yield
        self._state.keep()

    def backends(self) -> list[Any]:
        """Return the EC2 backend of each region that was used."""
        return [backend for regions in ec2_backends.values() for backend in regions.values()]

    def instances(self) -> list[Instance]:
        """Return every instance that isn't forgotten."""
        return [instance for backend in self.backends() for instance in backend.all_instances()]

    @property
    def unfenced(self) -> str:
        """Say why a machine can't have a port that a program has at all addresses of the host; empty when it can."""
        return self._gate.unfenced

    def open_ports(self) -> None:
        """Let the open ports follow the rules and the machines, and return when they do."""
        self._opening()

    def _close_ports(self) -> None:
        """Let the open ports follow before a machine goes; a gate that can't be had keeps none from going."""
        try:
            self.open_ports()
        except DriverError as error:
            log.warning("%s; the ports follow later", error)
            self.refused.set()

    def _open(self) -> None:
        self.unopened = self._gate.follow(self._table, self._gate_image)
        if self.unopened:
            log.warning("ports that could not be opened: %s", self.unopened)

    def _table(self) -> Mapping[str, Mapping[str, Any]]:
        with self.lock:
            there = [instance for instance in self.instances() if instance.reachable]
            table = {
                str(one.public_ip): {"to": one.private_ip, "pid": one.pid, "rules": rules(one)}
                for one in there
                if one.public_ip
            }
            closed = {one.address: {"to": "", "pid": 0, "rules": []} for one in there if not one.public_ip}
            return {**table, **closed}

    # -- what a request asks of Docker, without the lock -----------------------------------------------------------

    def prepare(self, moves: bool, launches: bool = False, console_of: str = "") -> None:
        """Ask Docker, without the lock, what this thread's request may want to know of it while it holds the lock.

        ``moves`` says that the request may move bodies, ``launches`` that it may switch machines on, ``console_of``
        whose console it wants.
        """
        self._asked.refusal = self._why_not() if moves else _NOT_ASKED
        self._asked.roomless = self._why_no_room() if launches else _NOT_ASKED
        self._asked.console = self._console(console_of) if console_of and self._is_known(console_of) else b""

    def _why_not(self) -> str:
        """Return why no body can be moved, empty when bodies can be; note the network's subnet."""
        try:
            self.bodies.ping()
            self._asked.subnet = self.bodies.subnet()
        except BodyError as error:
            return str(error)
        return ""

    def _why_no_room(self) -> str:
        """Return why it is not known for how many machines there is room, empty when it is; note for how many."""
        try:
            self._asked.room = self.bodies.room()
        except BodyError as error:
            return str(error)
        return ""

    def _console(self, instance_id: str) -> bytes:
        try:
            self.bodies.ping()
            return self.bodies.console(instance_id)
        except BodyError as error:
            return f"no console: {error}\n".encode()

    def _is_known(self, instance_id: str) -> bool:
        with self.lock:
            return any(instance.id == instance_id for instance in self.instances())

    @property
    def refusal(self) -> str:
        """Return why this thread's request can't move bodies, empty when it can."""
        return self._asked.refusal

    @property
    def roomless(self) -> str:
        """Return why it is not known for how many machines there is room; empty when it is."""
        return self._asked.roomless

    @property
    def room(self) -> int:
        """Return how many machines this thread's request can switch on, beside those that are about to be."""
        return self._asked.room - sum(instance.state == "pending" for instance in self.instances())

    @property
    def console(self) -> bytes:
        """Return what the machine that this thread's request is about wrote to its console."""
        return self._asked.console

    # -- moves, called by the API while it holds the lock --------------------------------------------------------------

    def bear(self, image: Ami, instances: Sequence[Instance], key: KeyPair | None) -> None:
        """Give new instances their addresses, and have their machines made and switched on.

        Raises BodyError, before any machine is made, when there is no address for each.
        """
        births = [self._birth(instance, image, key) for instance in instances]
        for instance, birth in zip(instances, births, strict=True):
            self.later(instance, partial(self._be_born, instance, birth), only=("pending",))

    def _birth(self, instance: Instance, image: Ami, key: KeyPair | None) -> Birth:
        nic = instance.nics[0]
        nic.private_ip_addresses[0]["PrivateIpAddress"] = nic.private_ip_address = self._private_address()
        self.give_public_address(instance)
        return Birth(
            instance_id=instance.id,
            snapshot_id=image.ebs_snapshot.id,
            address=instance.address,
            hostname="ip-" + instance.address.replace(".", "-"),
            public_key=key.public_key.strip() if key else "",
            user_data=_user_data(instance),
            record={
                "image_id": instance.image_id,
                "instance_type": instance.instance_type,
                "key_name": instance.key_name,
                "shutdown": instance.instance_initiated_shutdown_behavior,
                "is_public": instance.is_public,
                "tags": _tags(instance),
            },
            memory=_memory(instance.instance_type),
            disk=dict(instance.get_block_device_mapping)[instance.root_device_name].size,
            privileged=any(tag["key"] == PRIVILEGED for tag in instance.get_tags()),
        )

    def start(self, instance: Instance) -> None:
        """Switch a machine on, at a new public address if it has one."""
        instance.health = "initializing"
        self.give_public_address(instance)
        self.switch_on(instance, only=("pending",))

    def switch_on(self, instance: Instance, only: Sequence[str]) -> None:
        """Have a machine that is off switched on, if it is in one of these states by then."""
        self.later(instance, lambda: self._boot(instance, lambda: self.bodies.start(instance.id)), only)

    def come_up(self, instance: Instance) -> None:
        """Have a machine that is on followed until it is up."""
        self.later(instance, lambda: self._boot(instance, lambda: self.bodies.fit(instance.id)))

    def stop(self, instance: Instance) -> None:
        """Shut a machine down."""
        self.later(instance, lambda: self._halt(instance), only=("stopping",))

    def reboot(self, instance: Instance) -> None:
        """Restart a machine, which keeps its addresses."""
        self.later(instance, lambda: self._restart(instance), only=("running",))

    def terminate(self, instance: Instance) -> None:
        """Remove a machine."""
        self.later(instance, lambda: self._end(instance), only=("shutting-down",))

    def clear(self, instance: Instance) -> None:
        """Remove what is there of a machine that has ended."""
        self.later(instance, lambda: self._remove(instance))

    def snapshot(self, instance: Instance, image: Ami, reboot: bool) -> None:
        """Copy a machine's disk and make the image available; ``reboot`` restarts the machine around the copy."""
        self.later(instance, lambda: self._image(instance, image, reboot))

    def copy(self, source: Ami, image: Ami) -> None:
        """Give an image's content to another, and make that available."""
        snapshots = source.ebs_snapshot.id, image.ebs_snapshot.id
        self.later(image, lambda: self._fill(image, lambda: self.bodies.copy(*snapshots)))

    def forget(self, backend: Any, snapshot_id: str) -> None:
        """Remove a deleted snapshot's content; what can't be removed yet is when Docker is back."""
        backend.forgetting.add(snapshot_id)
        self._pool.submit(self.logged, lambda: self._forget(backend, snapshot_id))

    # -- in the background -----------------------------------------------------------------------------------------

    def moves(self, *ids: str | None) -> bool:
        """Tell whether a body of these machines and images is being moved or waits for it."""
        with self.lock:
            return any(self._turns.get(one) for one in ids if one)

    def wait_for_image(self, image_id: str) -> None:
        """Return when an image is no longer pending, or when somebody who waits for an answer would give up."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with self.lock:
                found = [backend.amis[image_id] for backend in self.backends() if image_id in backend.amis]
                if all(image.state != "pending" for image in found):
                    return
            time.sleep(0.05)

    def later(self, thing: Instance | Ami, move: Callable[[], None], only: Sequence[str] = ()) -> None:
        """Make a move after the earlier ones of a machine or image; not if it has left the states ``only`` by then."""

        def turn() -> None:
            if not only or thing.state in only:
                move()

        with self.lock:
            waiting = self._turns.setdefault(thing.id, deque())
            waiting.append(turn)
            if len(waiting) == 1:
                self._pool.submit(self._take_turns, thing.id, waiting)

    def _take_turns(self, thing_id: str, waiting: deque[Callable[[], None]]) -> None:
        """Take turns until none waits. ``later`` adds them under the lock, so whether more wait is asked under it."""
        while True:
            self.logged(waiting[0])
            with self.lock:
                waiting.popleft()
                if not waiting:
                    del self._turns[thing_id]
                    return

    def logged(self, move: Callable[[], None]) -> None:
        """Make a move; a fault is logged and ends nothing, and a refusal is noted for ``Watch.look_again``."""
        try:
            move()
        except (BodyError, DriverError) as error:
            log.warning("%s; what was promised is taken up again", error)
            self.refused.set()
        except Exception:
            log.exception("a move failed")

    def _be_born(self, instance: Instance, birth: Birth) -> None:
        """Make a machine and wait until it is up; terminate one that can't be."""
        try:
            with self._working:
                self.bodies.birth(birth)
            self._come_up(instance)
        except (BodyError, DriverError) as error:
            log.warning("%s: %s", instance.id, error)
            self.refused.set()  # Docker may make it all the same, only later
            self._end(instance, _failure(str(error)))

    def _boot(self, instance: Instance, switch_on: Callable[[], None]) -> None:
        """Switch a machine on and wait until it is up; one that can't be is stopped, and keeps its disk."""
        self._switch_on(instance, switch_on)
        self._be_up(instance)

    def _switch_on(self, instance: Instance, switch_on: Callable[[], None]) -> None:
        try:
            with self._working:
                switch_on()
        except BodyError as error:
            self._give_up(instance, error)
            raise

    def _be_up(self, instance: Instance) -> None:
        try:
            self._come_up(instance)
        except UnopenedError as error:
            with self._working:
                self.bodies.stop(instance.id)
            self._give_up(instance, error)

    def _give_up(self, instance: Instance, error: BodyError) -> None:
        """Note that a machine is off because it could not be switched on."""
        with self.changing():
            if instance.state in ("pending", "running"):
                self.now_stopped(instance, _failure(str(error)))
        self.open_ports()

    def _come_up(self, instance: Instance) -> None:
        """Wait for sshd, open the ports and say running; look by the way whether cloud-init gets done."""
        on = ("pending", "running")
        if not instance.is_public:  # the fence would keep us out too
            with self.lock:
                instance.reachable = False
            self.open_ports()
        has_sshd = self.bodies.wait_for_sshd(instance.id, instance.address, lambda: instance.state in on)
        pid = self.bodies.pid(instance.id)
        if not pid and not self.bodies.reboots(instance.id):
            self.went_off(instance, _failure(f"the machine went off while it booted{self._last_words(instance.id)}"))
        with self.lock:
            if not pid or instance.state not in on:
                return
            instance.pid, instance.reachable = pid, True
        self.open_ports()
        self._refuse_unopened(instance)
        with self.changing():
            if instance.state == "pending":
                instance.become("running")
                instance.reachable = True
            instance.health = "initializing" if has_sshd else "impaired"
        if has_sshd:
            self._watch_cloud_init(instance, instance.pid)

    def _last_words(self, instance_id: str) -> str:
        """Return the last line of a machine's console, with a colon before it; empty when it wrote none."""
        lines = printable(self.bodies.console(instance_id).decode(errors="replace")).split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    def _watch_cloud_init(self, instance: Instance, pid: int) -> None:
        """Look when cloud-init is done, in a thread that takes nobody's turn and doesn't delay the server's end."""
        with self.lock:
            self._looked_at.add((instance.id, pid))
        look = threading.Thread(
            target=self.logged,
            args=(lambda: self._see_cloud_init(instance, pid),),
            name=f"cloud-init {instance.id}",
            daemon=True,
        )
        look.start()

    def looks_at(self, instance: Instance) -> bool:
        """Tell whether somebody looks when the cloud-init of a machine, as it runs now, is done."""
        return (instance.id, instance.pid) in self._looked_at

    def _see_cloud_init(self, instance: Instance, pid: int) -> None:
        try:
            done = self.bodies.wait_for_cloud_init(instance.id)
        finally:
            with self.lock:
                self._looked_at.discard((instance.id, pid))
        with self.changing():
            if instance.state == "running" and instance.pid == pid:
                instance.health = "ok" if done else "impaired"

    def _refuse_unopened(self, instance: Instance) -> None:
        for opening, why in self.unopened.items():
            if opening.startswith(f"{instance.public_ip}:"):
                raise UnopenedError(f"{opening} can't be opened: {why}; something on this host listens there")

    def _halt(self, instance: Instance) -> None:
        self._close_ports()
        with self._working:
            self.bodies.stop(instance.id)
        with self.changing():
            if instance.state == "stopping":
                self.now_stopped(instance, instance.state_reason)

    def _restart(self, instance: Instance, while_off: Callable[[], None] = lambda: None) -> None:
        """Switch a machine off and on; its state stays running meanwhile, as EC2's does."""
        self.restarting.add(instance.id)
        try:
            with self.changing():
                instance.health, instance.reachable = "initializing", False
            self._close_ports()
            with self._working:
                self.bodies.stop(instance.id)
            while_off()
            self._switch_on(instance, lambda: self.bodies.start(instance.id))
        finally:
            self.restarting.discard(instance.id)
        self._be_up(instance)

    def went_off(self, instance: Instance, reason: StateReason) -> None:
        """Note that a machine has gone off by itself, and have it terminated where its launch says so."""
        with self.changing():
            if instance.state not in ("pending", "running"):
                return
            if instance.instance_initiated_shutdown_behavior == "terminate":
                instance.become("shutting-down", reason)
                self.terminate(instance)
            else:
                self.now_stopped(instance, reason)
        self.open_ports()

    def _end(self, instance: Instance, reason: StateReason | None = None) -> None:
        if reason:
            with self.changing():
                instance.become("shutting-down", reason)
        self._close_ports()
        self._remove(instance)
        with self.changing():
            now_terminated(instance, instance.state_reason)

    def _remove(self, instance: Instance) -> None:
        with self._working:
            self.bodies.remove(instance.id)

    def _forget(self, backend: Any, snapshot_id: str) -> None:
        with self._working:
            self.bodies.forget(snapshot_id)
        with self.changing():
            backend.forgetting.discard(snapshot_id)

    def _image(self, instance: Instance, image: Ami, reboot: bool) -> None:
        def take() -> None:
            self._fill(image, lambda: self.bodies.commit(instance.id, image.ebs_snapshot.id, record(image)))

        try:
            if reboot:
                self._restart(instance, while_off=take)
            else:
                take()
        except (BodyError, DriverError) as error:
            with self.changing():
                if image.state == "pending":
                    failed(image, str(error))
            raise

    def _fill(self, image: Ami, fill: Callable[[], None]) -> None:
        try:
            with self._working:
                fill()
        except BodyError as error:
            log.warning("%s: %s", image.id, error)
            with self.changing():
                failed(image, str(error))
        else:
            with self.changing():
                available(image)
            self.noting()

    def use_gate_image(self, docker_image: str) -> None:
        """Say from which Docker image the gate takes its Python and its nft, and the fitter its Python."""
        self._gate_image = docker_image
        self.bodies.use_ground(docker_image)

    def now_stopped(self, instance: Instance, reason: StateReason) -> None:
        """Note that a machine is off."""
        instance.become("stopped", reason)
        instance.pid = 0
        instance.nics[0].public_ip = None

    # -- addresses ----------------------------------------------------------------------------------------------------

    def _private_address(self) -> str:
        network = ipaddress.ip_network(self._asked.subnet)
        taken = {instance.private_ip for instance in self.instances() if instance.state != "terminated"}
        for address in list(network.hosts())[9:]:
            if str(address) not in taken:
                return str(address)
        raise BodyError(f"network {network} has no free address")

    def give_public_address(self, instance: Instance) -> None:
        """Give an instance a public address that no other has, unless it shall have none."""
        if not instance.is_public:
            instance.nics[0].public_ip = None
            return
        taken = {one.public_ip for one in self.instances() if one.state != "terminated"}
        block = ipaddress.ip_network(public_block(self.bodies.checkout))
        free = [str(one) for one in list(block.hosts())[1:] if str(one) not in taken]
        if not free:
            raise BodyError(f"the block {block} has no free public address")
        instance.nics[0].public_ip = free[0]


def _memory(instance_type: str) -> int:
    """Return the memory of an instance type in MiB; 0 when nothing is known of it."""
    told = INSTANCE_TYPES.get(instance_type, {}).get("MemoryInfo", {})
    return int(told.get("SizeInMiB", 0))


def _failure(why: str) -> StateReason:
    return StateReason(f"Server.InternalError: {why}", "Server.InternalError")


def record(image: Ami) -> dict[str, Any]:
    """Return what an image's body says of it, so that it can be registered again when the state is lost."""
    return {
        "id": image.id,
        "region": image.ec2_backend.region_name,
        "snapshot": image.ebs_snapshot.id,
        "name": image.name,
        "description": image.description,
        "root_device": image.root_device_name,
        "source_image_id": image.source_image_id,
        "size": image.ebs_snapshot.volume_size,
        "encrypted": image.ebs_snapshot.encrypted,
        "kms_key_id": image.ebs_snapshot.kms_key_id,
        "tags": _tags(image),
        "snapshot_tags": _tags(image.ebs_snapshot),
        "deprecation_time": image.deprecation_time,
        "imds_support": image.imds_support,
    }


def _tags(thing: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in thing.get_tags()}


def available(image: Ami) -> None:
    """Note that an image can be launched."""
    image.state, image.ebs_snapshot.status = "available", "completed"


def failed(image: Ami, why: str) -> None:
    """Note that an image came to nothing, and why."""
    image.state, image.ebs_snapshot.status = "failed", "error"
    image.state_reason = {"Code": "Server.InternalError", "Message": f"Server.InternalError: {why}"}


def now_terminated(instance: Instance, reason: StateReason) -> None:
    """Note that a machine is gone."""
    instance.terminate()
    instance.become("terminated", reason)
    instance.ended = time.time()


def _user_data(instance: Instance) -> bytes:
    return base64.b64decode(str(instance.user_data)) if instance.user_data else b""
