"""Make and move the bodies: a container is a machine, a commit of it is what an image or snapshot holds."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
import requests.exceptions
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from bakehouse import tools
from bakehouse.local.drivers import Driver, DriverError
from bakehouse.local.fitting import READY
from bakehouse.local.labels import BASE, CHECKOUT, IMAGE, INSTANCE, KIND, MACHINE, SNAPSHOT

BOOT_SECONDS = 180
"""After this a machine without an sshd, or whose cloud-init isn't done, counts as impaired."""

UNBORN = -1

_NO_NAME = "<none>:<none>"

_INOTIFY = 8  # so many inotify instances a machine has: Debian 13 has 7

_FEWEST_PROCESSES = 1024  # a machine may have at least so many, else one for each MiB of its memory

_STOP_SECONDS = 30
_CONSOLE_BYTES = 65536  # as much as EC2 keeps
_SEED = "var/lib/cloud/seed/nocloud"
_REBOOTED = 128 + 1  # reboot(RB_AUTOBOOT) in a PID namespace kills its init with SIGHUP, a power-off with SIGINT

# reboot(2) in a PID namespace ends its init and says why; root sees whose a socket is
_RIGHTS = ("SYS_BOOT", "SYS_PTRACE")
_RIGHTS_ON_THE_HOST = ("SYS_ADMIN", "NET_ADMIN")  # for a privileged machine alone, which has these of Docker's too:
_NOT_FOR_ALL = ("MKNOD", "NET_RAW")

PRIVILEGED = "bakehouse:privileged"
"""The tag of an instance whose root has the rights that are root's on the host too."""

AWAY = ("169.254.169.254", "169.254.170.2", "168.63.129.16")
"""Where the host is itself a cloud's machine, here are its metadata and so its credentials: not ours to reach."""

# What needs rights on the host is done from outside, by fitting.py, and systemd starts when that is done.
_INIT = f"""
i=0
until [ -e {READY} ]; do
    [ $((i += 1)) -lt 1200 ] || exit 70
    sleep .05
done
exec /lib/systemd/systemd
"""
_FITTING = Path(__file__).with_name("fitting.py")
_OF_FITTING = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_CHROOT")  # to enter namespaces, to mount, to set routes
_CLOUD_INIT_DONE = "i=0; until [ -s /run/cloud-init/result.json ]; do [ $((i+=1)) -lt {n} ] || exit 1; sleep .2; done"


class BodyError(Exception):
    """Say in one line what Docker could not do for a machine."""


@dataclass(frozen=True)
class Birth:
    """Hold what makes one machine itself.

    Attributes:
        instance_id: the instance that the machine is the body of.
        snapshot_id: the snapshot whose content the machine's disk starts with.
        address: the machine's private IPv4 address.
        hostname: the machine's own name for itself.
        public_key: the key pair's public key in OpenSSH's format, empty without a key pair.
        user_data: the user-data as it was given, decoded.
        record: what the instance is, for the case that the state is lost.
        memory: how many MiB of memory it may use; 0 for no limit.
        disk: the size of its root volume in GiB.
        privileged: whether its root has the rights that are root's on the host too.
    """

    instance_id: str
    snapshot_id: str
    address: str
    hostname: str
    public_key: str
    user_data: bytes
    record: Mapping[str, Any]
    memory: int
    disk: int
    privileged: bool


@contextmanager
def docker_errors(what: str) -> Iterator[None]:
    """Raise what Docker's client raises as a BodyError, which names ``what``."""
    try:
        yield
    except docker.errors.APIError as error:
        raise BodyError(f"{what}: {(error.explanation or str(error)).strip()}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise BodyError(f"{what}: the Docker engine does not answer ({error})") from error


class _Api(docker.APIClient):
    # requests would take the person's proxies for an engine that is met over TCP.
    trust_env = property(lambda _: False, lambda *_: None)


class _Client(docker.DockerClient):
    def __init__(self, **how: Any) -> None:
        self.api = _Api(**how)


def client(seconds: int) -> Any:
    """Return a client of the Docker engine that waits so long for an answer; to make it is to ask for its version."""
    return _Client(timeout=seconds, **_place())


def socket_file() -> Path | None:
    """Return the file of the socket on which the engine listens; None when it is met in another way."""
    url = urlsplit(_place().get("base_url") or "unix:///var/run/docker.sock")
    return Path(url.path) if url.scheme in ("unix", "http+unix") else None


def _place() -> dict[str, Any]:
    """Return where the engine is: where DOCKER_HOST says, else where the context of Docker's command line does."""
    how: dict[str, Any] = {**kwargs_from_env()}
    name = tools.docker_context()
    if not name:
        return how
    context = ContextAPI.get_context(name)
    if context is None:
        raise docker.errors.DockerException(f"there is no Docker context {name}")
    return {"base_url": context.Host, "tls": context.TLSConfig or False}


class Bodies:
    """Make, move and remove the containers and Docker images that carry one checkout's label."""

    def __init__(self, checkout: str) -> None:
        self.checkout = checkout
        self.repository = f"bakehouse/{checkout}"
        self._network = f"bakehouse-{checkout}"
        self._subnet = ""
        self._networking = Lock()
        self._ground = ""
        self._has_quotas = True  # as far as is known
        rights = (part for right in _OF_FITTING for part in ("--cap-add", right))
        self._fitter = Driver(
            "the fitter",
            f"bakehouse-{checkout}-fitter",
            self.labels("fitter"),
            (*rights, "--network", "none", "--pid", "host", "--cgroupns", "host"),
            (str(_FITTING),),
        )

    def use_ground(self, docker_image: str) -> None:
        """Say from which Docker image of a base the fitter takes its Python: none that a machine has written."""
        self._ground = docker_image

    def close(self) -> None:
        """End the fitter."""
        self._fitter.close()

    @cached_property
    def docker(self) -> Any:
        """Return the client; to make it is to ask the Docker engine for its version."""
        return client(300)

    @cached_property
    def _impatient(self) -> Any:
        return client(5)

    def labels(self, kind: str, **more: str) -> dict[str, str]:
        """Return the labels of a thing of ours."""
        return {CHECKOUT: self.checkout, KIND: kind, **more}

    def ping(self) -> None:
        """Raise BodyError unless the Docker engine answers within 5 s."""
        with docker_errors("Docker"):
            self._impatient.ping()

    def answers(self) -> bool:
        """Tell whether the Docker engine answers within 5 s."""
        try:
            self.ping()
        except BodyError:
            return False
        return True

    def network(self) -> Any:
        """Return the checkout's Docker network, made if missing, with a subnet that Docker found free."""
        with self._networking, docker_errors(f"network {self._network}"):  # Docker would make two of one name
            found = self.docker.networks.list(names=[f"^{self._network}$"])
            if not found:
                self._make_network()
                found = self.docker.networks.list(names=[f"^{self._network}$"])
            return found[0]

    def _make_network(self) -> None:
        # an address can be given only in a network whose subnet was given: let Docker choose one first
        trial = self.docker.networks.create(self._network, labels=self.labels("network"))
        trial.reload()
        pools = trial.attrs["IPAM"]["Config"]
        trial.remove()
        ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=pools[0]["Subnet"])])
        self.docker.networks.create(self._network, ipam=ipam, labels=self.labels("network"))
        self._subnet = ""

    def subnet(self) -> str:
        """Return the network's IPv4 subnet as a CIDR block."""
        if not self._subnet:
            self._subnet = self.network().attrs["IPAM"]["Config"][0]["Subnet"]
        return self._subnet

    def reference(self, snapshot_id: str) -> str:
        """Return the Docker image that a snapshot's content is."""
        return f"{self.repository}:{snapshot_id}"

    def birth(self, birth: Birth) -> None:
        """Create a machine and switch it on."""
        told = json.dumps({**birth.record, "address": birth.address})
        with docker_errors(f"machine {birth.instance_id}"):
            api = self.docker.api
            place = api.create_endpoint_config(ipv4_address=birth.address)
            made = self._create(
                birth,
                self.reference(birth.snapshot_id),
                command=["sh", "-c", _INIT],
                name=self._name(birth.instance_id),
                hostname=birth.hostname,
                labels=self.labels("machine", **{INSTANCE: birth.instance_id, MACHINE: told, IMAGE: "", SNAPSHOT: ""}),
                environment={"container": "docker"},
                tty=True,  # without a terminal systemd's console output is lost
                stop_signal="SIGRTMIN+3",
                networking_config=api.create_networking_config({self.network().name: place}),
            )
            api.put_archive(made, "/", _seed(birth))
        self.start(birth.instance_id)

    def _create(self, birth: Birth, docker_image: str, **how: Any) -> str:
        """Create a machine's container with its limits and return its ID; its disk is limited where Docker can."""
        api = self.docker.api
        limits = api.create_host_config(
            cap_add=[*_RIGHTS, *(_RIGHTS_ON_THE_HOST if birth.privileged else ())],
            cap_drop=[] if birth.privileged else [*_NOT_FOR_ALL],
            security_opt=["apparmor=unconfined"],
            tmpfs={"/run": "", "/run/lock": ""},
            mem_limit=f"{birth.memory}m" if birth.memory else None,
            memswap_limit=f"{birth.memory}m" if birth.memory else None,  # no swap besides, as on EC2
            pids_limit=max(_FEWEST_PROCESSES, birth.memory) if birth.memory else None,
            storage_opt={"size": f"{birth.disk}G"} if self._has_quotas else None,
        )
        limits["CgroupnsMode"] = "private"
        try:
            return str(api.create_container(docker_image, host_config=limits, **how)["Id"])
        except docker.errors.APIError as error:
            if not self._has_quotas or "storage-opt" not in (error.explanation or ""):
                raise
            self._has_quotas = False
            return self._create(birth, docker_image, **how)

    def start(self, instance_id: str) -> None:
        """Switch a stopped machine on."""
        with docker_errors(f"machine {instance_id}"):
            self._container(instance_id).start()
        try:
            self.fit(instance_id)
        except BodyError:
            self._kill(instance_id)  # it would wait for what doesn't come
            raise

    def _kill(self, instance_id: str) -> None:
        with docker_errors(f"machine {instance_id}"), suppress(docker.errors.APIError):  # it is off
            self._container(instance_id).kill()

    def fit(self, instance_id: str) -> None:
        """Fit a machine that is on out with what needs rights on the host; do nothing where that is done."""
        with docker_errors(f"machine {instance_id}"):
            container = self._container(instance_id)
        if pid := container.attrs["State"]["Pid"]:
            refused = self._ask_fitter({"container": container.id, "pid": pid, "away": AWAY})["refused"]
            if refused:
                raise BodyError(f"machine {instance_id} can't be fitted out: {refused}")

    def room(self) -> int:
        """Return for how many further machines the host has inotify instances; a machine's systemd can't do without."""
        if not self._ground:
            return 0  # there is no base, so there is no machine
        told = self._ask_fitter({"inotify": True})
        return max(0, int(told["most"]) - int(told["used"])) // _INOTIFY

    def _ask_fitter(self, question: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._fitter.ask(question, self._ground)
        except DriverError as error:
            raise BodyError(str(error)) from error

    def stop(self, instance_id: str) -> None:
        """Shut a machine down as its power button does, and by force when it is still on after 30 s."""
        with docker_errors(f"machine {instance_id}"):
            self._container(instance_id).stop(timeout=_STOP_SECONDS)

    def remove(self, instance_id: str) -> None:
        """Remove a machine with its disk; do nothing when it is gone."""
        with docker_errors(f"machine {instance_id}"):
            try:
                container = self._container(instance_id)
            except docker.errors.NotFound:
                return
            docker_image = container.attrs["Image"]
            container.remove(force=True, v=True)
            self._remove_if_forgotten(docker_image)

    def commit(self, instance_id: str, snapshot_id: str, record: Mapping[str, Any]) -> None:
        """Copy a machine's disk into a snapshot; a running machine stands still. ``record`` describes the image."""
        told = {SNAPSHOT: snapshot_id, IMAGE: json.dumps(record), INSTANCE: "", MACHINE: "", BASE: ""}
        labels = self.labels("image", **told)
        with docker_errors(f"snapshot {snapshot_id}"):
            self._container(instance_id).commit(
                repository=self.repository, tag=snapshot_id, pause=True, conf={"Labels": labels}
            )

    def copy(self, snapshot_id: str, copy_id: str) -> None:
        """Give a snapshot's content a second snapshot's name."""
        self.tag(self.reference(snapshot_id), copy_id)

    def tag(self, docker_image: str, snapshot_id: str) -> None:
        """Let a Docker image be a snapshot's content."""
        with docker_errors(f"snapshot {snapshot_id}"):
            self.docker.images.get(docker_image).tag(self.repository, snapshot_id)

    def forget(self, snapshot_id: str) -> None:
        """Remove a snapshot's content, as soon as no machine stands on it; do nothing when it is gone."""
        with docker_errors(f"snapshot {snapshot_id}"):
            try:
                self.docker.images.remove(self.reference(snapshot_id), force=True)
            except docker.errors.ImageNotFound:
                return

    def has(self, snapshot_id: str) -> bool:
        """Tell whether a snapshot's content is there."""
        with docker_errors(f"snapshot {snapshot_id}"):
            try:
                self.docker.images.get(self.reference(snapshot_id))
            except docker.errors.ImageNotFound:
                return False
            return True

    def images(self) -> list[tuple[str, dict[str, str], list[str]]]:
        """Return (Docker image ID, labels, tags) of each image that carries the checkout's label."""
        with docker_errors("images"):
            # what lists and then asks for each would fail when one goes in between
            rows = self.docker.api.images(filters={"label": [f"{CHECKOUT}={self.checkout}"]})
        return [(row["Id"], row["Labels"], [one for one in row["RepoTags"] or () if one != _NO_NAME]) for row in rows]

    def running(self) -> dict[str, int]:
        """Return each machine's instance ID with its init's process ID on the host.

        That is 0 when the machine is off, and ``UNBORN`` when it never was on.
        """
        with docker_errors("machines"):
            filters = {"label": [f"{CHECKOUT}={self.checkout}", f"{KIND}=machine"]}
            rows = self.docker.containers.list(all=True, filters=filters, ignore_removed=True)
            states = {row.labels[INSTANCE]: row.attrs["State"] for row in rows}
            return {one: UNBORN if state["Status"] == "created" else state["Pid"] for one, state in states.items()}

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return what each machine's instance was at its launch, and its private ``address``, by the instance ID."""
        with docker_errors("machines"):
            filters = {"label": [f"{CHECKOUT}={self.checkout}", f"{KIND}=machine"]}
            rows = self.docker.api.containers(all=True, filters=filters)
            return {row["Labels"][INSTANCE]: json.loads(row["Labels"].get(MACHINE) or "{}") for row in rows}

    def note(self, image_id: str, record: Mapping[str, Any], at: int) -> None:
        """Have Docker remember what an image was at a time (ns since 1970), in the labels of a volume without files.

        The labels of the image's own body were written when it was made, and can't be changed.
        """
        told = {SNAPSHOT: str(record["snapshot"]), IMAGE: json.dumps({**record, "noted": at})}
        with docker_errors(f"image {image_id}"):
            before = self._notes(image_id)
            name = f"bakehouse-{self.checkout}-{image_id}-{time.time_ns()}"
            self.docker.volumes.create(name, labels=self.labels("note", **told))
            for one in before:
                one.remove()

    def unnote(self, image_id: str) -> None:
        """Have Docker forget what an image was."""
        with docker_errors(f"image {image_id}"):
            for one in self._notes(image_id):
                one.remove()

    def notes(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Return what Docker remembers of each image, and of which time, as ``note`` was told it, by the image's ID."""
        with docker_errors("images"):
            told = [json.loads(one.attrs["Labels"][IMAGE]) for one in self._notes()]
        dated = sorted(((int(one.pop("noted")), one) for one in told), key=lambda pair: pair[0])
        return {one["id"]: (at, one) for at, one in dated}

    def _notes(self, image_id: str = "") -> list[Any]:
        filters = {"label": [f"{CHECKOUT}={self.checkout}", f"{KIND}=note"], "name": image_id}
        found: list[Any] = self.docker.volumes.list(filters=filters)
        return found

    def pid(self, instance_id: str) -> int:
        """Return the process ID on the host of a machine's init, 0 when it's off or gone."""
        with docker_errors(f"machine {instance_id}"):
            try:
                pid: int = self._container(instance_id).attrs["State"]["Pid"]
            except docker.errors.NotFound:
                return 0
            return pid

    def reboots(self, instance_id: str) -> bool:
        """Tell whether a machine is off because it has asked for a reboot."""
        with docker_errors(f"machine {instance_id}"):
            try:
                state = self._container(instance_id).attrs["State"]
            except docker.errors.NotFound:
                return False
            return not state["Pid"] and state["ExitCode"] == _REBOOTED

    def console(self, instance_id: str) -> bytes:
        """Return the last 64 KiB that the machine wrote to its console."""
        with docker_errors(f"machine {instance_id}"):
            try:
                text: bytes = self._container(instance_id).logs(tail=2000)
            except docker.errors.NotFound:
                return b""
            return text[-_CONSOLE_BYTES:]

    def wait_for_sshd(self, instance_id: str, address: str, wanted: Callable[[], bool]) -> bool:
        """Wait until a machine's sshd shows its banner; return False when it went off, isn't wanted or time ran out."""
        deadline = time.monotonic() + BOOT_SECONDS
        looks = 0
        while wanted() and time.monotonic() < deadline:
            if _banner(address):
                return True
            looks += 1
            if looks % 10 == 0 and not self.pid(instance_id):
                return False
            time.sleep(0.1)
        return False

    def wait_for_cloud_init(self, instance_id: str) -> bool:
        """Wait until cloud-init has written its result; return False when the machine went off or time ran out."""
        command = ["sh", "-c", _CLOUD_INIT_DONE.format(n=BOOT_SECONDS * 5)]
        with docker_errors(f"machine {instance_id}"):
            code: int | None = self._container(instance_id).exec_run(command).exit_code
            return code == 0

    def deaths(self) -> Iterator[tuple[str, bool]]:
        """Yield (instance ID, whether it asked for a reboot) whenever a machine goes off."""
        filters = {"type": "container", "event": "die", "label": [f"{CHECKOUT}={self.checkout}", f"{KIND}=machine"]}
        with docker_errors("events"):
            for event in self.docker.events(decode=True, filters=filters):
                told = event["Actor"]["Attributes"]
                yield told[INSTANCE], told.get("exitCode") == str(_REBOOTED)

    def _remove_if_forgotten(self, docker_image: str) -> None:
        """Remove a Docker image whose snapshot was deleted while machines still stood on it."""
        try:
            if not self.docker.images.get(docker_image).tags:
                self.docker.images.remove(docker_image)
        except docker.errors.ImageNotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # another machine stands on it
                raise

    def _container(self, instance_id: str) -> Any:
        return self.docker.containers.get(self._name(instance_id))

    def _name(self, instance_id: str) -> str:
        return f"bakehouse-{self.checkout}-{instance_id}"


def _banner(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _seed(birth: Birth) -> bytes:
    meta: dict[str, Any] = {"instance-id": birth.instance_id, "local-hostname": birth.hostname}
    if birth.public_key:
        meta["public-keys"] = [birth.public_key]
    # a JSON document is a YAML document
    files = {"meta-data": json.dumps(meta).encode(), "user-data": birth.user_data or b"#cloud-config\n{}\n"}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder in ("var/lib/cloud", "var/lib/cloud/seed", _SEED):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{_SEED}/{name}")
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
