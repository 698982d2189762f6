"""Start the embedded EC2, stop it, say what is in it, and take it away without a trace."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request

from bakehouse import console, documents, endings, patience, system, tools
from bakehouse.errors import InputError, ToolError, VerdictError
from bakehouse.local import signatures
from bakehouse.local.folders import digest
from bakehouse.local.labels import BASE, CHECKOUT, IMAGE, KIND
from bakehouse.settings import Settings

if TYPE_CHECKING:
    from bakehouse.local import checkouts
    from bakehouse.local.bases import Described
    from bakehouse.local.bodies import Bodies

COLUMNS = ("what", "state")

REGION = "us-east-1"
"""The one region of the local EC2, whatever the person has set."""

LOG = "server.log"
_START_SECONDS = 60
_ANSWER_SECONDS = 10
_STOP_SECONDS = 40
_GRACE_SECONDS = 5  # to a server that has not answered

SILENT_SECONDS = 60
"""So long a server that is there may be silent: a laptop's lid was shut, the host swaps."""

LOCK = "server.lock"
"""The file in the folder of the local EC2 whose lock a server holds as long as it lives."""

_STOPS_AT_ONCE = 32

INOTIFY = 1024
"""So many inotify instances a user of the host should have: the usual 128 are enough for 16 machines."""

_INOTIFY_FILE = "/proc/sys/fs/inotify/max_user_instances"


_UNUSABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP)

Given = ParamSpec("Given")
Found = TypeVar("Found")


def _on_the_disk(work: Callable[Given, Found]) -> Callable[Given, Found]:
    """Have a work raise InputError, which names the file, where the disk is full or can't be written."""

    @wraps(work)
    def working(*given: Given.args, **more: Given.kwargs) -> Found:
        try:
            return work(*given, **more)
        except OSError as error:
            if error.errno not in _UNUSABLE:
                raise
            raise _unusable(error) from error

    return working


def _unusable(error: OSError, place: str | Path = "") -> InputError:
    what = error.filename or place or "the state folder"
    return InputError(f"{what} can't be used: {error.strerror}", "free some space, or make the state folder writable")


@dataclass(frozen=True)
class Endpoint:
    """Hold where a running local EC2 is.

    Attributes:
        pid: the server's process.
        code: the digest of what the server was started from, and its folder.
        endpoint: the server's URL.
        variables: the AWS_* variables that make a program use it: its endpoint, its region, the checkout's key.
        told: what the server has to say of its state, a line each: what was damaged or lost, and what is used instead.
        docker: whether the Docker engine answers the server.
        engine: the words that say which Docker engine the server uses.
    """

    pid: int
    code: str
    endpoint: str
    variables: Mapping[str, str] = field(repr=False)
    told: Sequence[str]
    docker: bool
    engine: str = ""


@_on_the_disk
def up(settings: Settings, base: str = "", known: Mapping[str, Described] | None = None) -> Endpoint:
    """Return the checkout's server, started if needed; ``base`` (a base's name) is made if it isn't there yet.

    Raises ToolError when Docker can't be had, and what ``bases.make`` raises.
    """
    from bakehouse.local import checkouts

    with _alone(settings):
        server = _find(settings) or _awaited(settings)
        if server is None:
            tools.ensure("docker")
        if server is not None and server.code != f"{digest(Path(__file__).parent)} {_folder(settings).resolve()}":
            console.say("the local EC2 was started by another version of the kit, or in another folder: it starts anew")
            _end(settings)
            server = None
        if server is not None and server.engine != engine():
            console.say(f"the local EC2 uses {server.engine}, and not {engine()}: it starts anew")
            _end(settings)
            server = None
        if server is not None and not server.docker:
            tools.ensure("docker")
        if server is None:
            _insist_on_our_users(_bodies(settings).docker)
            _give_inotify()
            with console.step("start the local EC2"):
                server = _start(settings)
            checkouts.register(_bodies(settings).docker, checkout(settings), _folder(settings).resolve())
            for line in server.told:
                console.say(line)
    if base:  # under a lock of its own: who only reads doesn't wait for a base
        tools.ensure("docker")  # the server may reach an engine that doesn't let this person in
        with _alone_with_bases(settings):
            _have_base(settings, base, known or {}, server)
    return server


def engine() -> str:
    """Return the words that say which Docker engine is used; the usual one has one word, however it was named."""
    usual = ("unix:///var/run/docker.sock", "unix:///run/docker.sock")
    return "the Docker engine" if os.environ.get("DOCKER_HOST") in usual else tools.engine_place()


def _insist_on_our_users(docker: Any) -> None:
    """Raise ToolError where the engine gives the users of its containers other numbers (``userns-remap``).

    There systemd can't make its control groups, and no container may share the host's network, as the gate does.
    """
    if "name=userns" in docker.info()["SecurityOptions"]:
        raise ToolError(
            f"{tools.engine_place()} maps users (userns-remap): no machine boots there",
            "use an engine without it: DOCKER_HOST, or a context of Docker's, names one",
        )


def _give_inotify() -> None:
    """Raise the host's limit of inotify instances where we may; where not, launches are refused when there are none."""
    file = Path(_INOTIFY_FILE)
    with suppress(OSError, ValueError):  # it is root's, or there is none
        if 0 < int(file.read_text()) < INOTIFY:
            file.write_text(f"{INOTIFY}\n")
            console.say(f"fs.inotify.max_user_instances of this host is {INOTIFY} now: each machine needs some")


@_on_the_disk
def down(settings: Settings) -> None:
    """Shut the machines down side by side and end the server; everything is kept.

    Raises VerdictError, which names them, when machines could not be shut down.
    """
    from concurrent.futures import ThreadPoolExecutor

    with _alone_with_bases(settings), _alone(settings):
        _end(settings)
        bodies = _bodies(settings)
        if not (_folder(settings) / LOG).exists():
            return  # nothing was ever started
        if not bodies.answers():
            raise VerdictError(
                f"{tools.engine_place()} does not answer: the machines are not shut down", "./inv doctor"
            )
        with ThreadPoolExecutor(_STOPS_AT_ONCE) as pool:  # a machine may take its 30 s
            left = [why for why in pool.map(_stop, _containers(bodies)) if why]
    if left:
        raise VerdictError(f"not shut down: {'; '.join(left)}", "./inv local.down again, or docker kill")


def _stop(container: Any) -> str:
    """Stop a container, and return why it could not be; empty when it is off, or gone, as the gate goes by itself."""
    import docker.errors
    from requests.exceptions import RequestException

    try:
        container.stop(timeout=30)
    except docker.errors.NotFound:
        return ""
    except (docker.errors.DockerException, RequestException) as error:
        return f"{container.name} ({getattr(error, 'explanation', None) or error})"
    return ""


@_on_the_disk
def enforce(settings: Settings, file: str) -> None:
    """Let the kit's own key do only what the policy of IAM in a file allows; ``none`` lifts that.

    Raises InputError when the file holds no policy that is understood.
    """
    from bakehouse.local import policies

    place = _folder(settings) / policies.FILE
    if file == "none":
        place.unlink(missing_ok=True)
        return
    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--policy {file} can't be read: {error}", "./inv policy >FILE writes a policy") from error
    policies.read(text, f"--policy {file}")
    documents.replace(place, text.encode())


@_on_the_disk
def lack(settings: Settings, types: str) -> None:
    """Let there be no room for instance types, which have commas between; ``none`` lifts that.

    ``TYPE@SUBNET`` lets a type have no room in one subnet.
    """
    from bakehouse.local.ec2 import SCARCE

    words = [] if types == "none" else types.split(",")
    documents.replace(_folder(settings) / SCARCE, "\n".join(words).encode())


@_on_the_disk
def reset(settings: Settings) -> None:
    """Delete every container, image and file that the checkout's local EC2 has made, and nothing else."""
    with _alone_with_bases(settings), _alone(settings):
        _end(settings)
        if (_folder(settings) / LOG).exists():
            tools.ensure("docker")  # what was made on it can't go without it
        bodies = _bodies(settings)
        if bodies.answers():
            _remove_all(bodies)
        shutil.rmtree(_folder(settings))
        for kind in ("keys", "known_hosts", "images", "proofs"):
            with suppress(FileNotFoundError):
                shutil.rmtree(settings.kept(kind))
            with suppress(OSError):  # it holds another account's
                settings.kept(kind).parent.rmdir()


@_on_the_disk
def status(settings: Settings) -> dict[str, Any]:
    """Return what is there: endpoint, pid, log, variables, policy, docker, bases, images, machines.

    ``endpoint`` and ``variables`` are empty and ``pid`` is 0 while it is down. ``variables`` make a program use it;
    ``policy`` is the file with the policy that is enforced, empty when there is none.
    ``docker`` is empty, or says that the engine doesn't answer: then bases, images and machines are None, not known.
    """
    from bakehouse.local import policies

    server = _find(settings)
    policy = _folder(settings) / policies.FILE
    found: dict[str, Any] = {
        "endpoint": server.endpoint if server else "",
        "pid": server.pid if server else 0,
        "log": str(_folder(settings) / LOG),
        "variables": server.variables if server else {},
        "policy": str(policy) if policy.exists() else "",
        "docker": "",
        "bases": None,
        "images": None,
        "machines": None,
    }
    bodies = _bodies(settings)
    if not bodies.answers():
        return {**found, "docker": f"{tools.engine_place()} does not answer"}
    from bakehouse.local.bases import MAKINGS

    images = bodies.images()
    made = {labels[BASE]: labels for _, labels, _ in images if labels.get(KIND) == "base"}
    found["bases"] = []
    for name in MAKINGS:
        told = json.loads(made[name][IMAGE]) if name in made else {}
        how = told.get("how", "not made yet")
        found["bases"].append({"base": name, "image": told.get("image_name", ""), "how": how})
    found["images"] = sum(labels.get(KIND) == "image" for _, labels, _ in images)
    found["machines"] = {name: "on" if pid > 0 else "off" for name, pid in bodies.running().items()}
    return found


def plan_of_reset(found: Mapping[str, Any]) -> list[str]:
    """Say what ``reset`` deletes of what ``status`` returned, a line each."""
    if found["docker"]:
        return [f"delete the files of the local EC2; {found['docker']}: what is there can't be told"]
    return [
        *(f"delete machine {machine} ({state})" for machine, state in found["machines"].items()),
        *([f"delete images of bakes: {found['images']}"] if found["images"] else []),
        *(f"delete base {base['base']}" for base in found["bases"] if base["image"]),
        "delete its groups, key pairs, tags and log, and the keys, records, proofs and logs of its images",
    ]


def as_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what ``status`` returned as the rows of a table, under ``COLUMNS``."""
    rows = [(what, str(found[what] or "none")) for what in ("endpoint", "pid", "log")]
    if found["policy"]:
        rows.append(("policy", f"{found['policy']} is enforced"))
    if found["variables"]:
        rows.append(("used by other programs after", 'eval "$(./inv local.env)"'))
    if found["docker"]:
        return [*rows, ("bases, images, machines", f"not known: {found['docker']}")]
    return [
        *rows,
        *((f"base {base['base']}", f"{base['image']} ({base['how']})".strip()) for base in found["bases"]),
        ("images", str(found["images"])),
        *((f"machine {machine}", state) for machine, state in found["machines"].items()),
    ]


def ask(variables: Mapping[str, str], question: str, seconds: float = 10, **query: str) -> dict[str, Any]:
    """Ask the server one of the kit's own questions (under /bakehouse).

    Raises ToolError when it says no, and when the answer isn't from this checkout's server: while that is down, another
    program may have its port. ``variables`` are those that make a program use this server.
    """
    endpoint = variables["AWS_ENDPOINT_URL"]
    key = signatures.AccessKey(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    target = f"/bakehouse/{question}?{urlencode(query)}"
    asked = signatures.Asked("POST", target, {"host": urlsplit(endpoint).netloc})
    signed = signatures.sign(key, "bakehouse", REGION, asked)
    try:
        with system.open_url(Request(f"{endpoint}{target}", headers=signed, method="POST"), seconds) as answer:
            if not _is_ours(answer, key, signed):
                raise ToolError(f"what answers at {endpoint} is not this checkout's local EC2", "./inv local.up")
            told: dict[str, Any] = json.load(answer)
            return told
    except HTTPException as error:
        raise ToolError(f"what answers at {endpoint} is no web server ({error!r})", "./inv local.up") from error
    except HTTPError as error:
        if error.code == HTTPStatus.FORBIDDEN:
            said = error.read(1000).decode(errors="replace")
            raise ToolError(f"local EC2: {said}", "./inv local.status names its log") from error
        if not _is_ours(error, key, signed):
            raise ToolError(f"what answers at {endpoint} is not this checkout's local EC2", "./inv local.up") from error
        no = json.load(error)
        raise ToolError(f"local EC2: {no['error']}", no["hint"] or "./inv local.status names its log") from error


def _is_ours(answer: Any, key: signatures.AccessKey, signed: Mapping[str, str]) -> bool:
    proof = signatures.proof(key, next(signed[name] for name in signed if name.lower() == "authorization"))
    return secrets.compare_digest(answer.headers.get(signatures.PROOF, ""), proof)


def _have_base(settings: Settings, name: str, known: Mapping[str, Described], server: Endpoint) -> None:
    from bakehouse.local import bases

    bodies = _bodies(settings)
    bases.keep(_folder(settings), known)
    if not any(labels.get(BASE) == name for _, labels, _ in bodies.images()):
        if ground := bases.get(name).ground:
            _have_base(settings, ground, known, server)
        with endings.stating(f"base {name} is not made", f"./inv local.up --base {name} starts again"):
            bases.make(bodies.docker, name, known[name], bodies.labels("base"), console.say)
        ask(server.variables, "adopt")


def _awaited(settings: Settings) -> Endpoint | None:
    """Return the server that is there but did not answer, when it does; end it when it stays silent.

    A second one beside it would write the same state. Return None when there is none, or none any more.
    """
    folder = _folder(settings)
    deadline = time.monotonic() + SILENT_SECONDS * patience.factor()
    if holder := system.holder(folder / LOCK):
        console.say("waiting for the local EC2, which is there but does not answer ...")
    while holder and time.monotonic() < deadline:
        if server := _find(settings):
            return server
        time.sleep(0.2)
        holder = system.holder(folder / LOCK)
    if pid := _process(folder):
        console.say(f"the local EC2 (process {pid}) does not answer: it is ended")
        _end_process(pid, _GRACE_SECONDS * patience.factor())
    return None


def _process(folder: Path) -> int:
    """Return the process of the server that serves from a folder, also of one that doesn't answer; 0 for none."""
    told = re.search(r"\(process (\d+)\)", system.holder(folder / LOCK))
    # a server of an older kit has no lock, and shows no proof that it has the key
    pid = int(told[1]) if told else last_told(folder).get("pid", 0)
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return 0
    return pid if "bakehouse.local.server" in line and str(folder) in line else 0


def _end_process(pid: int, seconds: float) -> None:
    """End a server, by force when it is there after so many seconds."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while _lives(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _STOP_SECONDS * patience.factor()
    while _lives(pid):
        if time.monotonic() > deadline:  # it waits for a disk or the kernel, and nothing ends it
            raise ToolError(f"the local EC2 (process {pid}) does not end", "look at the disk; else restart this host")
        time.sleep(0.1)


def _start(settings: Settings) -> Endpoint:
    folder = _folder(settings)
    with open(folder / LOG, "ab") as log:
        process = system.start(
            [sys.executable, "-m", "bakehouse.local.server", str(folder), checkout(settings)],
            system.environment(*system.DOCKER, *system.OUTSIDE),
            cwd=settings.root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS * patience.factor()
    while time.monotonic() < deadline and process.poll() is None:
        server = _find(settings)
        if server is not None and server.pid == process.pid:
            return server
        time.sleep(0.1)
    process.kill()
    process.wait()
    _insist_on_space(folder)
    last = (folder / LOG).read_text(errors="replace").strip().rpartition("\n")[2]
    raise ToolError(f"the local EC2 does not start: {last}", f"its log: {folder / LOG}")


def _insist_on_space(folder: Path) -> None:
    """Raise InputError where nothing more can be written to a folder: a server can't even say so in its log then."""
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(1 << 16))
    except OSError as error:
        raise _unusable(error, folder) from error


def _find(settings: Settings) -> Endpoint | None:
    """Return the checkout's server if it answers."""
    port = last_told(_folder(settings)).get("port", 0)
    if not port:
        return None
    endpoint = f"http://127.0.0.1:{port}"
    found = variables(endpoint, signatures.keep(_folder(settings)))
    try:
        health = ask(found, "health", _ANSWER_SECONDS * patience.factor())
    except (OSError, ToolError):  # another program has the port by now
        return None
    if health["checkout"] != checkout(settings):
        return None
    return Endpoint(
        health["pid"],
        health.get("code", ""),
        endpoint,
        found,
        health.get("told", ()),
        health["docker"],
        health.get("engine", ""),
    )


def last_told(folder: Path) -> dict[str, int]:
    """Return the ``pid`` and the ``port`` that the last server of a folder has written there; empty when none can be.

    They may be those of another program by now, or of none.
    """
    try:
        told = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return {}
    most = {"pid": 2**22, "port": 2**16 - 1}
    sound = isinstance(told, dict) and all(type(told.get(key)) is int and 0 < told[key] <= most[key] for key in most)
    return {key: told[key] for key in most} if sound else {}


def variables(endpoint: str, key: signatures.AccessKey) -> dict[str, str]:
    """Return the AWS_* variables that make a program use the local EC2 at an endpoint, and no other."""
    return {
        "AWS_ACCESS_KEY_ID": key.id,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_EC2": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _end(settings: Settings) -> None:
    if pid := _process(_folder(settings)):
        _end_process(pid, _STOP_SECONDS * patience.factor())


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def everywhere() -> list[checkouts.Checkout]:
    """Return what all checkouts have on the Docker engine; raises ToolError when it doesn't answer."""
    from bakehouse.local import bodies, checkouts

    tools.ensure("docker")
    with closing(bodies.client(60)) as docker:
        return checkouts.everywhere(docker)


def reset_gone(found: Sequence[checkouts.Checkout]) -> None:
    """Delete what checkouts have on Docker whose folders are gone."""
    from bakehouse.local.bodies import Bodies

    for one in found:
        with console.step(f"delete what {one.folder} has left"):
            _remove_all(Bodies(one.id))


def _remove_all(bodies: Bodies) -> None:
    """Delete everything that carries a checkout's label on Docker."""
    import docker.errors

    for container in _containers(bodies):
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # the gate goes by itself
                raise
    deadline = time.monotonic() + _STOP_SECONDS * patience.factor()
    while left := _containers(bodies):  # while there is one its Docker image would lose but its name
        if time.monotonic() > deadline:
            raise ToolError(f"Docker does not remove {', '.join(one.name for one in left)}", "./inv local.reset again")
        time.sleep(0.1)
    for docker_id, _, tags in bodies.images():
        for name in tags or [docker_id]:
            bodies.docker.images.remove(name, force=True)
    ours = {"label": [f"{CHECKOUT}={bodies.checkout}"]}
    bodies.docker.networks.prune(ours)
    for volume in bodies.docker.volumes.list(filters=ours):
        volume.remove()


def _containers(bodies: Bodies) -> list[Any]:
    found: list[Any] = bodies.docker.containers.list(
        all=True, filters={"label": [f"{CHECKOUT}={bodies.checkout}"]}, ignore_removed=True
    )
    return found


def _bodies(settings: Settings) -> Bodies:
    from bakehouse.local.bodies import Bodies

    return Bodies(checkout(settings))


def checkout(settings: Settings) -> str:
    """Return the ID that keeps the checkouts on one engine apart, as ``checkouts.own`` does."""
    from bakehouse.local import checkouts

    return checkouts.own(_folder(settings).resolve())


def _folder(settings: Settings) -> Path:
    folder = settings.state / "local"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Let one task at a time start or end the server."""
    with system.alone(settings.state / "local.lock", _waiting("starts or ends the local EC2")):
        yield


@contextmanager
def _alone_with_bases(settings: Settings) -> Iterator[None]:
    """Let one task at a time make bases; who needs both locks takes this one first."""
    with system.alone(settings.state / "bases.lock", _waiting("makes a base")):
        yield


def _waiting(what: str) -> Callable[[str], None]:
    return lambda holder: console.say(f"waiting for {holder}, which {what} ...")
