"""Build the packages that stand in for those that can't be reached, and serve them signed to the machines.

Each repository holds one package for one family of systems, named as Ansible does: ``debian`` is an apt repository,
``redhat`` one for dnf. A folder here is a package, whose ``build``, run as root in a throwaway machine of a base,
leaves the ``.deb`` in the folder it is told; the rpm is made of that. A ``requirements.txt`` in it names a wheel that
``build`` finds beside itself. Docker comes as an argument.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakehouse import system
from bakehouse.errors import BakehouseError, NotFoundError
from bakehouse.local.folders import digest, packed
from bakehouse.local.labels import CONTENT, KIND
from bakehouse.local.packages import apt, wheels
from bakehouse.local.packages.keys import Key

if TYPE_CHECKING:
    from docker import DockerClient

_HERE = Path(__file__).parent

_HOST = "packages.bakehouse.internal"  # in the Docker network; .internal is nobody's on the Internet
_PORT = 8000
_BUILD_SECONDS = 600
_ANSWER_SECONDS = 30

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

Files = dict[str, bytes]
"""What a folder holds: path to content."""


@dataclass(frozen=True)
class Repository:
    """Hold where a repository of stand-ins is, as the machines on its network see it.

    Attributes: url, of an apt repository for ``URIs:``, of one for dnf the ``baseurl``; key_url, its public key,
    armoured; fingerprint, of that key, 40 hexadecimal digits; stands_in_for, the package's name; version, of that;
    content, a digest of all that it holds.
    """

    url: str
    key_url: str
    fingerprint: str
    stands_in_for: str
    version: str
    content: str = ""  # none in the file that is part of it


@dataclass(frozen=True)
class _Place:
    """Where containers are made: of which images, by family, on which network, with which labels; where files are."""

    docker: DockerClient
    images: Mapping[str, str]
    network: str
    labels: Mapping[str, str]
    state: Path
    say: Callable[[str], None]

    @property
    def key(self) -> Key:
        return Key(self.state / "gnupg")

    def create(self, family: str, command: list[str], kind: str, **more: Any) -> Any:
        labels = {**self.labels, KIND: kind, **more.pop("labels", {})}
        return self.docker.containers.create(self.images[family], command, network=self.network, labels=labels, **more)


def up(
    docker: DockerClient,
    *,
    package: str,
    family: str,
    images: Mapping[str, str],
    network: str,
    labels: Mapping[str, str],
    state: Path,
    say: Callable[[str], None],
) -> Repository:
    """Serve a package's repository on a Docker network, built first when it is missing or its sources have changed.

    ``images`` names the base that a family's package is built on: Debian 13 for ``debian``, for ``redhat`` the same or
    one that has rpm's tools; ``network`` is one made by somebody (Docker's default network knows no names); ``labels``
    go on all that is made and tell what is ours; ``state`` keeps the key and what was built. Raises NotFoundError when
    nothing stands in for the package, BakehouseError when it can't be built or the repository doesn't answer.
    """
    place = _Place(docker, images, network, labels, state, say)
    if (package, family) not in _BUILDERS:
        known = ", ".join(f"{one} ({of})" for one, of in _BUILDERS)
        raise NotFoundError(f"nothing stands in for {package} on a system of the family {family}", f"known: {known}")
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with system.alone(state / "lock"):
        folder = _have(place, package, family)
        _serve(place, folder.name)
        return replace(_about(folder)[0], content=digest(folder))


def down(docker: DockerClient, *, labels: Mapping[str, str]) -> None:
    """Remove the container that serves the repository, if there is one; what was built stays."""
    for container in _found(docker, labels):
        container.remove(force=True)


def _found(docker: DockerClient, labels: Mapping[str, str]) -> list[Any]:
    wanted = [f"{name}={value}" for name, value in {**labels, KIND: "packages"}.items()]
    return list(docker.containers.list(all=True, filters={"label": wanted}))


def _have(place: _Place, package: str, family: str) -> Path:
    """Return the folder of a repository, signed and whole; built when it's missing or of older sources."""
    folder = place.state / "served" / f"{package}-{family}"
    sources = digest(_HERE)
    if folder.is_dir() and _about(folder)[1] == sources:
        return folder
    place.say(f"building the package that stands in for {package} ({family})")
    version, files = _BUILDERS[package, family](place, package)
    url = f"http://{_HOST}:{_PORT}/{folder.name}"
    about = Repository(url, f"{url}/{package}.asc", place.key.make(), package, version)
    told = json.dumps({"sources": sources, "repository": asdict(about)})
    _keep(folder, {**files, f"{package}.asc": place.key.public(), _ABOUT: told.encode()})
    return folder


_ABOUT = "repository.json"


def _about(folder: Path) -> tuple[Repository, str]:
    """Return what a repository is, and the digest of the sources it was built of."""
    told = json.loads((folder / _ABOUT).read_text())
    return Repository(**told["repository"]), told["sources"]


def _keep(folder: Path, files: Files) -> None:
    """Write a folder aside and move it to its place whole."""
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as scratch:
        for name, content in files.items():
            path = Path(scratch, "new", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        Path(scratch, "new").rename(folder)


_DEB = 'mkdir /out; sh build /out; for deb in /out/*.deb; do dpkg-deb --field "$deb" >"$deb.control"; done'


def _deb(layout: apt.Layout, place: _Place, package: str) -> tuple[str, Files]:
    """Return a package's version and its apt repository, laid out as the official one."""
    with tempfile.TemporaryDirectory(dir=place.state) as scratch:
        folder = Path(shutil.copytree(_HERE / package, Path(scratch, "package")))
        if (folder / wheels.REQUIREMENTS).exists():
            place.say(f"fetching what the package that stands in for {package} is made of")
            wheels.fetch(folder, place.docker.info()["Architecture"])
        files = _built(place, "debian", package, _DEB, packed(folder, "package"))
    place.key.make()
    names = sorted(name for name in files if name.endswith(".deb"))
    debs = [apt.Deb(name, files[f"{name}.control"].decode(), files[name]) for name in names]
    return debs[0].field("Version"), apt.repository(debs, layout, place.key, datetime.now(UTC))


def _rpm(place: _Place, package: str) -> tuple[str, Files]:
    """Return a package's version and its repository for dnf, made of its deb; the key signs in the container."""
    debian = _have(place, package, "debian")
    with tempfile.TemporaryDirectory(dir=place.state) as scratch:
        for file in (_HERE / "rpm.sh", _HERE / package / f"{package}.spec", *debian.rglob("*.deb")):
            shutil.copy(file, scratch)
        Path(scratch, "key.asc").write_bytes(place.key.private())
        folder = packed(Path(scratch), "package")
    files = _built(place, "redhat", package, "mkdir /out; sh rpm.sh /out", folder)
    return _about(debian)[0].version, files


_BUILDERS: Mapping[tuple[str, str], Callable[[_Place, str], tuple[str, Files]]] = {
    ("jenkins", "debian"): partial(_deb, apt.Layout("binary/")),
    ("jenkins", "redhat"): _rpm,
    ("java", "debian"): partial(_deb, apt.Layout("bookworm", "main")),
}


def _built(place: _Place, family: str, package: str, script: str, folder: bytes) -> Files:
    """Run a script in a throwaway machine with a folder (a tar) at /package, and return what it left in /out."""
    log = place.state / "build.log"
    container = place.create(family, ["sh", "-euc", script], "packages-build", working_dir="/package")
    try:
        container.put_archive("/", folder)
        container.start()
        code = _ended(container)
        log.write_bytes(container.logs())
        if code:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise BakehouseError(f"{package}'s stand-in can't be built: {last}", f"the whole log: {log}")
        return _files(b"".join(container.get_archive("/out")[0]))
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


def _files(archive: bytes) -> Files:
    """Return the files of a folder's tar, named from that folder on."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = ((member.name.partition("/")[2], tar.extractfile(member)) for member in tar)
        return {name: file.read() for name, file in found if file}


def _serve(place: _Place, name: str) -> None:
    """Have a container serve all that was built, and wait until it serves the repository of this name."""
    served = place.state / "served"
    content = digest(served)
    wanted = (content, place.docker.networks.get(place.network).id)
    container = next((each for each in _found(place.docker, place.labels) if _served(each) == wanted), None)
    if container is None:
        down(place.docker, labels=place.labels)
        place.say("starting the repository of stand-ins")
        container = _create(place, served, content)
    container.start()  # no error where it runs already
    url = f"http://127.0.0.1:{_PORT}/{name}/{_ABOUT}"
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
    return container.labels.get(CONTENT, ""), network["NetworkID"]


def _create(place: _Place, served: Path, content: str) -> Any:
    """Make the container with its files in it: no rights, no port on the host, nothing it could change."""
    whose = [value for label, value in place.labels.items() if label != KIND]
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", "-".join(["bakehouse-packages", *whose]))
    container = place.create(
        "debian",
        ["python3", "-m", "http.server", "--directory", "/srv/packages", str(_PORT)],
        "packages",
        name=name,
        labels={CONTENT: content},
        networking_config={place.network: place.docker.api.create_endpoint_config(aliases=[_HOST])},
        user="65534:65534",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        stop_signal="SIGKILL",  # as PID 1 Python doesn't hear SIGTERM, and nothing is lost
    )
    container.put_archive("/srv", packed(served, "packages"))
    return container
