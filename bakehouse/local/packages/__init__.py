"""Build the package that stands in for one that can't be reached, and serve it signed to the machines.

A folder here is a package: its ``build``, run as root in a throwaway machine of the base, leaves the ``.deb``
in the folder it is told. What is Jenkins's own stays in ``jenkins/``. Docker comes as an argument.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakehouse.errors import BakehouseError
from bakehouse.local.packages import apt

if TYPE_CHECKING:
    from docker import DockerClient

_HERE = Path(__file__).parent
_PACKAGE = "jenkins"

_KIND = "bakehouse.kind"
_CONTENT = "bakehouse.content"  # the digest of what a container serves: another content, another container

_HOST = "packages.bakehouse.internal"  # in the Docker network; .internal is nobody's on the Internet
_PORT = 8000
_BUILD_SECONDS = 600
_ANSWER_SECONDS = 30

_BUILD = 'mkdir /out; sh build /out; for deb in /out/*.deb; do dpkg-deb --field "$deb" >"$deb.control"; done'
_ANSWERS = """
import sys, time, urllib.request
deadline = time.monotonic() + float(sys.argv[2])
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=5).read()
        break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(str(error))
        time.sleep(0.05)
"""


@dataclass(frozen=True)
class Repository:
    """Hold where the stand-in's apt repository is, as the machines on its network see it.

    Attributes: url, for ``URIs:`` with ``Suites: binary/``; key_url, its public key, armoured; fingerprint,
    of that key, 40 hexadecimal digits; stands_in_for, the package's name; version, the package's.
    """

    url: str
    key_url: str
    fingerprint: str
    stands_in_for: str
    version: str


@dataclass(frozen=True)
class _Place:
    """Where containers are made: of which image, on which network, with which labels."""

    docker: DockerClient
    image: str
    network: str
    labels: Mapping[str, str]

    def create(self, command: list[str], kind: str, **more: Any) -> Any:
        labels = {**self.labels, _KIND: kind, **more.pop("labels", {})}
        return self.docker.containers.create(self.image, command, network=self.network, labels=labels, **more)

    def found(self, kind: str) -> list[Any]:
        wanted = [f"{name}={value}" for name, value in {**self.labels, _KIND: kind}.items()]
        return list(self.docker.containers.list(all=True, filters={"label": wanted}))


def up(
    docker: DockerClient,
    *,
    image: str,
    network: str,
    labels: Mapping[str, str],
    state: Path,
    say: Callable[[str], None],
) -> Repository:
    """Serve the repository on a Docker network, built first when it is missing or its sources have changed.

    ``image`` is a Debian 13 base; ``network`` one made by somebody (Docker's default network knows no names);
    ``labels`` go on all that is made and tell what is ours; ``state`` keeps the key and what was built.
    Raises BakehouseError when the package can't be built or the repository doesn't answer.
    """
    place = _Place(docker, image, network, labels)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(state):
        built = state / f"{_PACKAGE}-{_digest(_HERE)}"
        if not built.is_dir():
            say(f"building the package that stands in for {_PACKAGE}")
            debs = _build(place, _HERE / _PACKAGE, log=state / "build.log")
            _keep(debs, apt.Key(state / "gnupg"), built)
        _serve(place, built, say)
        return Repository(**json.loads((built / "repository.json").read_text()))


def down(docker: DockerClient, *, labels: Mapping[str, str]) -> None:
    """Remove the container that serves the repository, if there is one; what was built stays."""
    for container in _Place(docker, "", "", labels).found("packages"):
        container.remove(force=True)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(folder: Path) -> str:
    """Return a digest, 16 hexadecimal digits, of every file's name, executable bit and content."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder)} {file.stat().st_mode & 0o100} {content}\n".encode())
    return digest.hexdigest()[:16]


def _build(place: _Place, folder: Path, log: Path) -> list[apt.Deb]:
    container = place.create(["sh", "-euc", _BUILD], "packages-build", working_dir="/package")
    try:
        container.put_archive("/", _tar(folder, "package"))
        container.start()
        code = _ended(container)
        log.write_bytes(container.logs())
        if code:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise BakehouseError(f"{folder.name}'s stand-in can't be built: {last}", f"the whole log: {log}")
        return _debs(b"".join(container.get_archive("/out")[0]))
    finally:
        container.remove(force=True)


def _ended(container: Any) -> int:
    """Wait for the container's end, _BUILD_SECONDS at most; return its exit code."""
    from requests.exceptions import RequestException

    try:
        code: int = container.wait(timeout=_BUILD_SECONDS)["StatusCode"]
    except RequestException as error:
        raise BakehouseError(f"building the stand-in did not end in {_BUILD_SECONDS} s") from error
    return code


def _debs(archive: bytes) -> list[apt.Deb]:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                files[Path(member.name).name] = file.read()
    names = sorted(name for name in files if name.endswith(".deb"))
    return [apt.Deb(name, files[f"{name}.control"].decode(), files[name]) for name in names]


def _keep(debs: list[apt.Deb], key: apt.Key, built: Path) -> None:
    """Write the signed repository aside and move it to its place whole; drop what older sources gave."""
    url = f"http://{_HOST}:{_PORT}/deb"
    key_name = f"{_PACKAGE}.asc"
    field = debs[0].field
    about = Repository(url, f"{url}/{key_name}", key.make(), field("Package"), field("Version"))
    files = {key_name: key.public(), **apt.repository(debs, key, datetime.now(UTC))}
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        for name, content in files.items():
            path = Path(scratch, "new", "deb", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        Path(scratch, "new", "repository.json").write_text(json.dumps(asdict(about)))
        for old in built.parent.glob(f"{_PACKAGE}-*"):
            shutil.rmtree(old)
        Path(scratch, "new").rename(built)


def _serve(place: _Place, built: Path, say: Callable[[str], None]) -> None:
    content = _digest(built)
    wanted = (content, place.docker.networks.get(place.network).id)
    container = next((each for each in place.found("packages") if _served(each) == wanted), None)
    if container is None:
        down(place.docker, labels=place.labels)
        say("starting the repository of stand-ins")
        container = _create(place, built, content)
    container.start()  # no error where it runs already
    url = f"http://127.0.0.1:{_PORT}/deb/{apt.SUITE}/Release"
    code, told = container.exec_run(["python3", "-c", _ANSWERS, url, str(_ANSWER_SECONDS)])
    if code:
        reason = told.decode(errors="replace").strip()
        hint = f"docker logs {container.name}"
        raise BakehouseError(f"the repository of stand-ins doesn't answer: {reason}", hint)


def _served(container: Any) -> tuple[str, str]:
    """Return what a container serves, and on which network: a network made anew has another ID."""
    if container.status == "created":  # and never started: nobody knows whether its files got into it
        return "", ""
    [network] = container.attrs["NetworkSettings"]["Networks"].values()
    return container.labels.get(_CONTENT, ""), network["NetworkID"]


def _create(place: _Place, built: Path, content: str) -> Any:
    """Make the container with its files in it: no rights, no port on the host, nothing it could change."""
    whose = [value for label, value in place.labels.items() if label != _KIND]
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", "-".join(["bakehouse-packages", *whose]))
    container = place.create(
        ["python3", "-m", "http.server", "--directory", "/srv/packages", str(_PORT)],
        "packages",
        name=name,
        labels={_CONTENT: content},
        networking_config={place.network: place.docker.api.create_endpoint_config(aliases=[_HOST])},
        user="65534:65534",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        stop_signal="SIGKILL",  # as PID 1 Python doesn't hear SIGTERM, and nothing is lost
    )
    container.put_archive("/srv", _tar(built, "packages"))
    return container


def _tar(folder: Path, name: str) -> bytes:
    """Return a folder as a tar whose files belong to root and can be read by all."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, name, filter=plain)
    return packed.getvalue()
