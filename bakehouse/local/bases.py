"""The bases: what the first machine of the local EC2 starts from, and how each is made."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bakehouse import system, tools
from bakehouse.errors import BakehouseError, InputError, NotFoundError, ToolError

if TYPE_CHECKING:
    from docker import DockerClient

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """Describe one base as its AMI is on AWS.

    Attributes: image_name, with places for the architecture in Debian's or EC2's word and for the time it is made;
    owner, an account's ID, and owner_alias, that account's name or empty; user, the machine's first user; root_device;
    description; how, the way it comes about here.
    """

    image_name: str
    owner: str
    owner_alias: str
    user: str
    root_device: str
    description: str
    how: str


BASES: Mapping[str, Base] = {
    "debian-13": Base(
        image_name="debian-13-{debian}-{now:%Y%m%d-%H%M}",
        owner="136693071363",
        owner_alias="",
        user="admin",
        root_device="/dev/xvda",
        description="Debian 13 for machines of the local EC2",
        how="made here with mmdebstrap",
    ),
    "amazon-linux-2023": Base(
        image_name="al2023-ami-2023.0.{now:%Y%m%d}.0-kernel-6.1-{ec2}",
        owner="137112412989",
        owner_alias="amazon",
        user="ec2-user",
        root_device="/dev/xvda",
        description="Amazon Linux 2023 for machines of the local EC2",
        how="made here of the registry's amazonlinux:2023",
    ),
}
"""Every base by the name that it has in packer/bases.auto.pkrvars.hcl."""

_ARCHITECTURES = {"x86_64": {"ec2": "x86_64", "debian": "amd64"}, "aarch64": {"ec2": "arm64", "debian": "arm64"}}


class _Failed(Exception):  # noqa: N818  # what it says is no error of ours yet
    """Carry what a program, a mirror, a registry or Docker complained of, and a hint."""

    def __init__(self, complaint: str, hint: str = "") -> None:
        super().__init__(complaint)
        self.hint = hint


def make(docker: DockerClient, name: str, labels: Mapping[str, str], say: Say) -> str:
    """Make a base, telling how it gets on, and return the ID of the Docker image.

    The image has the labels, ``bakehouse.base`` (the name) and ``bakehouse.image`` (a JSON object: what its AMI shows);
    it has no tag. What fails or is interrupted leaves nothing. Raises NotFoundError when there is no such base,
    InputError when the disk is full, ToolError when a tool, a mirror or a registry can't be had.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    if name not in BASES:
        raise NotFoundError(f"the local EC2 has no base {name}", f"known: {', '.join(BASES)}")
    say(f"making the base {name}: once, about a minute ...")
    try:
        base, words = BASES[name], _ARCHITECTURES[docker.info()["Architecture"]]
        shown = json.dumps(shows(base, words, datetime.now(UTC)))
        return _MAKERS[name](docker, base, {**labels, "bakehouse.base": name, "bakehouse.image": shown}, say)
    except (_Failed, DockerException, RequestException) as failure:
        raise _refusal(name, failure) from failure


def shows(base: Base, words: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return what the AMI of a base shows that was made at that time on a machine of that architecture."""
    return asdict(base) | {"image_name": base.image_name.format(now=now, **words), "architecture": words["ec2"]}


def _refusal(name: str, failure: Exception) -> BakehouseError:
    complaint = " ".join(str(getattr(failure, "explanation", None) or failure).split())
    if "no space left on device" in complaint.lower():
        return InputError(
            f"base {name} can't be made: the disk is full", f"free 1 GB in {_scratch()} and in Docker's folder"
        )
    return ToolError(f"base {name} can't be made: {complaint}", getattr(failure, "hint", ""))


def _changes(labels: Mapping[str, str]) -> list[str]:
    return [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]


def _prepare() -> str:
    return Path(__file__).with_name("prepare.sh").read_text()


# Debian is made of its packages

_DEBIAN_PACKAGES = (
    *("systemd-sysv", "dbus", "openssh-server", "cloud-init", "python3", "python3-apt", "sudo", "ca-certificates"),
    *("iproute2", "iputils-ping", "netbase", "nftables", "procps", "curl", "less", "vim-tiny"),
)

_SOURCES = """\
Types: deb
URIs: {main}
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {security}
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def _bootstrap(docker: DockerClient, base: Base, labels: Mapping[str, str], say: Say) -> str:
    mirrors = _mirrors(system.run("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Origin: Debian")[1])
    command = [
        *(str(tools.ensure("mmdebstrap")), "--variant=minbase", f"--include={','.join(_DEBIAN_PACKAGES)}"),
        f'--customize-hook=chroot "$1" sh -euc {shlex.quote(_prepare())} prepare {base.user}',
        *("trixie", "-"),
    ]
    if mirrors:
        command.append("-")
    with _running(command, _SOURCES.format(**mirrors) if mirrors else "", say) as tar:
        answer = docker.api.import_image_from_stream(tar, changes=_changes(labels))
    told: dict[str, Any] = json.loads(answer.strip().rpartition("\n")[2])
    if "error" in told:
        raise _Failed(told["error"])
    return str(told["status"])


def _mirrors(targets: str) -> dict[str, str]:
    """Return the mirrors of Debian that this machine uses itself; nothing when a machine could not reach them."""
    found = dict(reversed([line.split(" ", 1) for line in targets.splitlines() if " http" in line]))
    mirrors = {"main": found.get("Debian", ""), "security": found.get("Debian-Security", "")}
    hosts = [urlsplit(mirror).hostname or "localhost" for mirror in mirrors.values()]
    return {} if any(host == "localhost" or host.startswith("127.") for host in hosts) else mirrors


@contextmanager
def _running(command: Sequence[str], given: str, say: Say) -> Iterator[Iterator[bytes]]:
    """Run a program, tell what it says it does, yield what it writes, and end it on the way out.

    Whoever reads to the end gets a _Failed when the program failed: half a base can't pass for a whole one.
    """
    with tempfile.TemporaryFile() as file:
        file.write(given.encode())
        file.seek(0)
        # In a session of its own: when it fails or is told to stop it hangs up on its whole process group.
        process = subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": _scratch()},
            start_new_session=True,
        )
    assert process.stdout and process.stderr
    said: list[str] = []
    listener = Thread(target=_listen, args=(process.stderr, said, say))
    listener.start()

    def written(stream: Any) -> Iterator[bytes]:
        while part := stream.read(1 << 20):
            yield part
        if process.wait():
            listener.join()
            raise _complaint(said)

    try:
        yield written(process.stdout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.stdout.close()  # or it would wait for a reader
        process.wait()
        listener.join()
        process.stderr.close()


def _listen(stream: Any, said: list[str], say: Say) -> None:
    for line in stream:
        said.append(line.decode(errors="replace").strip())
        if step := re.fullmatch(r"I: ((downloading|extracting|installing|creating).*)\.\.\.", said[-1]):
            say(f"  {step[1]}")


def _complaint(said: Sequence[str]) -> _Failed:
    telling = [line for line in said if "No space left" in line] or [
        line for line in said if line[:3] in ("E: ", "W: ")
    ]
    return _Failed((telling or said or ["mmdebstrap failed"])[0], "is the mirror reachable? apt-get update tells")


def _scratch() -> str:
    """Return a folder on a disk: /tmp may be memory, and mmdebstrap's other users must be able to enter."""
    return os.environ.get("TMPDIR") or "/var/tmp"


# Amazon Linux comes from a registry, and lacks what makes a machine of it

_AMAZON_IMAGE = "amazonlinux:2023"

_AMAZON_INSTALL = """\
dnf install -q -y systemd dbus openssh-server cloud-init python3 python3-dnf sudo \
    iproute iputils procps-ng hostname less vim-minimal tar gzip
dnf clean all
systemctl -q enable sshd cloud-init-local cloud-init cloud-config cloud-final
systemctl -q set-default multi-user.target
"""


def _extend(docker: DockerClient, base: Base, labels: Mapping[str, str], say: Say) -> str:
    script = _AMAZON_INSTALL + _prepare()
    kind = {key: value for key, value in labels.items() if key != "bakehouse.base"}
    command = ["sh", "-euc", script, "prepare", base.user]
    container = docker.containers.create(_registered(docker, say), command, labels=kind)
    try:
        say("  installing packages ...")
        container.start()
        if container.wait()["StatusCode"]:
            raise _Failed(system.last_line(container.logs(tail=1).decode(errors="replace")))
        return str(container.commit(changes=_changes(labels)).id)
    finally:
        container.remove(force=True)


def _registered(docker: DockerClient, say: Say) -> str:
    """Return the registry's image, pulled if it isn't here yet."""
    from docker.errors import DockerException, ImageNotFound
    from requests.exceptions import RequestException

    try:
        return str(docker.images.get(_AMAZON_IMAGE).id)
    except ImageNotFound:
        say(f"  pulling {_AMAZON_IMAGE} ...")
    try:
        return str(docker.images.pull(_AMAZON_IMAGE).id)
    except (DockerException, RequestException) as error:
        cause = getattr(error, "explanation", None) or error
        raise ToolError(
            f"base amazon-linux-2023 needs an image registry, and none can be reached: {cause}",
            f"docker pull {_AMAZON_IMAGE} has to work; or bring the image with docker load",
        ) from error


_MAKERS: Mapping[str, Callable[[DockerClient, Base, Mapping[str, str], Say], str]] = {
    "debian-13": _bootstrap,
    "amazon-linux-2023": _extend,
}
