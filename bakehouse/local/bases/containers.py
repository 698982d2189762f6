"""Bases made in a container: of a registry's image, or of another base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bakehouse import system
from bakehouse.errors import RegistryError
from bakehouse.local.folders import packed
from bakehouse.local.labels import BASE, IMAGE

if TYPE_CHECKING:
    from docker import DockerClient

Say = Callable[[str], None]

_HERE = Path(__file__).parent


class MakingFailed(Exception):  # noqa: N818  # what it says is no error of ours yet
    """Carry what a program, a mirror, a registry or Docker complained of, and a hint."""

    def __init__(self, complaint: str, hint: str = "") -> None:
        super().__init__(complaint)
        self.hint = hint


def prepare() -> str:
    """Return the script that makes a machine's base of a bare system; its argument is the first user's name."""
    return (_HERE / "prepare.sh").read_text()


def changes(labels: Mapping[str, str]) -> list[str]:
    """Return what gives a Docker image its labels."""
    return [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]


# What makes a machine of a bare system, by package manager.

APT_PACKAGES = (
    *("systemd-sysv", "dbus", "openssh-server", "cloud-init", "python3", "python3-apt", "sudo", "ca-certificates"),
    *("iproute2", "iputils-ping", "netbase", "nftables", "procps", "curl", "less", "vim-tiny"),
)

# A registry's image forbids to start services and leaves out documentation, which an AMI does not.
_APT = f"""\
export DEBIAN_FRONTEND=noninteractive
rm -f /etc/dpkg/dpkg.cfg.d/excludes /etc/dpkg/dpkg.cfg.d/docker-*
apt-get -q update
apt-get -q -y --no-install-recommends install {" ".join(APT_PACKAGES)}
apt-get -q clean
rm -rf /var/lib/apt/lists/* /etc/apt/apt.conf.d/docker-* /usr/sbin/policy-rc.d
touch --date=@0 /var/lib/apt/lists
"""

# From 24.3 on cloud-init's units are others.
_DNF = """\
dnf install -q -y systemd dbus openssh-server cloud-init python3 python3-dnf sudo \
    iproute iputils procps-ng hostname less vim-minimal tar gzip
dnf clean all
for unit in sshd cloud-init-local cloud-init-main cloud-init-network cloud-init cloud-config cloud-final; do
    if [ -e "/usr/lib/systemd/system/$unit.service" ]; then systemctl -q enable "$unit"; fi
done
systemctl -q set-default multi-user.target
"""

IMAGES: Mapping[str, tuple[str, str]] = {
    "amazon-linux-2023": ("amazonlinux:2023", _DNF),
    "ubuntu-24.04": ("ubuntu:24.04", _APT),
    "ubuntu-22.04": ("ubuntu:22.04", _APT),
    "rocky-10": ("rockylinux/rockylinux:10", _DNF),
    "rocky-9": ("rockylinux/rockylinux:9", _DNF),
}
"""Of each base that is made of a registry's image that image, and the script that makes a machine of it."""


def of_registry(name: str, docker: DockerClient, user: str, labels: Mapping[str, str], say: Say) -> str:
    """Make a base of a registry's image, which is pulled if it isn't here; returns the Docker image's ID."""
    image, install = IMAGES[name]
    return _extend(docker, _registered(docker, name, image, say), install, user, labels, say)


def _registered(docker: DockerClient, name: str, image: str, say: Say) -> str:
    from docker.errors import DockerException, ImageNotFound
    from requests.exceptions import RequestException

    try:
        return str(docker.images.get(image).id)
    except ImageNotFound:
        say(f"  pulling {image} ...")
    try:
        return str(docker.images.pull(image).id)
    except (DockerException, RequestException) as error:
        cause = getattr(error, "explanation", None) or error
        raise RegistryError(
            f"base {name} needs an image registry, and none can be reached: {cause}",
            f"docker pull {image} has to work; or bring the image with docker load",
        ) from error


# Another base is a whole machine already.

_STAND_IN = "cd /stand-in; sh ./make; cd /; rm -r /stand-in\n"


def of_ground(ground: str, docker: DockerClient, user: str, labels: Mapping[str, str], say: Say) -> str:
    """Make the base that stands in for one without a registry of the base it names; returns the Docker image's ID."""
    own = {**labels, BASE: ground}
    del own[IMAGE]
    below = docker.images.list(filters={"label": [f"{key}={value}" for key, value in own.items()]})[0]
    folder = packed(_HERE / "rpm-stand-in", "stand-in")
    return _extend(docker, str(below.id), _STAND_IN, user, labels, say, folder)


def _extend(
    docker: DockerClient,
    image: str,
    script: str,
    user: str,
    labels: Mapping[str, str],
    say: Say,
    files: bytes = b"",
) -> str:
    """Run a script in a container of an image, with files (a tar) at its root, and keep what it leaves as a base."""
    kind = {key: value for key, value in labels.items() if key != BASE}
    container = docker.containers.create(image, ["sh", "-euc", script + prepare(), "prepare", user], labels=kind)
    try:
        say("  installing packages ...")
        if files:
            container.put_archive("/", files)
        container.start()
        if container.wait()["StatusCode"]:
            raise MakingFailed(system.last_line(container.logs(tail=1).decode(errors="replace")))
        return str(container.commit(changes=changes(labels)).id)
    finally:
        container.remove(force=True)
