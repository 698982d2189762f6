"""The bases: what the first machine of the local EC2 starts from, and how each is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from bakehouse import documents, system
from bakehouse.errors import BakehouseError, InputError, NotFoundError, ToolError
from bakehouse.local.bases import containers, debian
from bakehouse.local.bases.containers import MakingFailed, Say
from bakehouse.local.labels import BASE, IMAGE

if TYPE_CHECKING:
    from docker import DockerClient


class Described(Protocol):
    """Say what has to be known of a base: packer/bases.auto.pkrvars.hcl holds it."""

    @property
    def image_name(self) -> str:
        """Return the pattern of its images' names, with places for the architecture."""

    @property
    def owner(self) -> str:
        """Return its owner: an account's ID, ``self`` or ``amazon``."""

    @property
    def user(self) -> str:
        """Return the user that its machines let in."""

    @property
    def root_device(self) -> str:
        """Return the name of its root device."""


Maker = Callable[["DockerClient", str, Mapping[str, str], Say], str]
"""Make a base for the engine, a first user and labels, telling how it gets on; return the ID of the Docker image."""


@dataclass(frozen=True)
class Making:
    """Hold how a base is made here.

    Attributes:
        system: its name as people say it.
        how: the way it comes about, for people.
        make: what makes it.
        stars: what stands in a made image's name for each ``*`` of the pattern; ``now`` is the time.
        ground: the name of the base that it is made of, or empty.
    """

    system: str
    how: str
    make: Maker
    stars: tuple[str, ...] = ("{now:%Y%m%d-%H%M}",)
    ground: str = ""


def _of_debian(system: str, suite: str) -> Making:
    return Making(system, "made here with mmdebstrap", partial(debian.bootstrap, suite))


def _of_registry(system: str, name: str, *stars: str) -> Making:
    how = f"made here of the registry's {containers.IMAGES[name][0]}"
    return Making(system, how, partial(containers.of_registry, name), stars)


MAKINGS: Mapping[str, Making] = {
    "debian-13": _of_debian("Debian 13", "trixie"),
    "debian-12": _of_debian("Debian 12", "bookworm"),
    "amazon-linux-2023": _of_registry("Amazon Linux 2023", "amazon-linux-2023", "0.{now:%Y%m%d}.0"),
    "ubuntu-24.04": _of_registry("Ubuntu 24.04", "ubuntu-24.04", "{now:%Y%m%d}"),
    "ubuntu-22.04": _of_registry("Ubuntu 22.04", "ubuntu-22.04", "{now:%Y%m%d}"),
    "rocky-10": _of_registry("Rocky Linux 10", "rocky-10", "0", "{now:%Y%m%d}.0", ""),
    "rocky-9": _of_registry("Rocky Linux 9", "rocky-9", "0", "{now:%Y%m%d}.0", ""),
    "rpm-stand-in": Making(
        "Stands in for Amazon Linux 2023: Debian 13 with rpm and dnf,",
        "made here of debian-13; stands in for Amazon Linux 2023",
        partial(containers.of_ground, "debian-13"),
        ground="debian-13",
    ),
}
"""How each base of packer/bases.auto.pkrvars.hcl is made, by its name there."""

_OWNERS = {"amazon": "137112412989", "self": "123456789012"}
"""The accounts that have a name besides their number: AWS's own, and the local EC2's."""

_FILE = "bases.json"


def get(name: str) -> Making:
    """Return how the base of this name is made; raises NotFoundError, which lists the known ones."""
    if name not in MAKINGS:
        raise NotFoundError(f"the local EC2 has no base {name}", f"known: {', '.join(MAKINGS)}")
    return MAKINGS[name]


def keep(folder: Path, known: Mapping[str, Described]) -> None:
    """Write down what is known of the bases, for the server, which makes one when packages need it."""
    told = {name: {key: getattr(one, key) for key in _KEYS} for name, one in known.items()}
    documents.replace(folder / _FILE, json.dumps(told).encode())


def kept(folder: Path) -> dict[str, Described]:
    """Return what ``keep`` wrote down."""
    told = json.loads((folder / _FILE).read_text())
    return {name: SimpleNamespace(**one) for name, one in told.items()}


_KEYS = ("image_name", "owner", "user", "root_device")


def make(docker: DockerClient, name: str, base: Described, labels: Mapping[str, str], say: Say) -> str:
    """Make a base, telling how it gets on, and return the ID of the Docker image.

    The image has the labels, ``bakehouse.base`` (the name) and ``bakehouse.image`` (a JSON object: what its AMI shows);
    it has no tag. A base that has a ground finds it by the same labels. What fails or is interrupted leaves nothing.
    Raises NotFoundError when there is no such base, InputError when the disk is full, ToolError when a tool, a mirror
    or a registry can't be had.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    making = get(name)
    say(f"making the base {name}: once, about a minute ...")
    try:
        architecture = system.architecture(docker.info()["Architecture"])
        shown = json.dumps(shows(making, base, architecture, datetime.now(UTC)))
        return making.make(docker, base.user, {**labels, BASE: name, IMAGE: shown}, say)
    except (MakingFailed, DockerException, RequestException) as failure:
        raise _refusal(name, failure) from failure


def shows(making: Making, base: Described, architecture: str, now: datetime) -> dict[str, str]:
    """Return what the AMI of a base shows that was made at that time on a machine of that architecture (EC2's word)."""
    stars = iter(making.stars)
    pattern = base.image_name.format(**system.ARCHITECTURES[architecture])
    return {
        "image_name": re.sub(r"[*]", lambda _: next(stars).format(now=now), pattern),
        "description": f"{making.system} for machines of the local EC2",
        "architecture": architecture,
        "owner": _OWNERS.get(base.owner, base.owner),
        "owner_alias": base.owner if base.owner == "amazon" else "",
        "user": base.user,
        "root_device": base.root_device,
        "how": making.how,
    }


def _refusal(name: str, failure: Exception) -> BakehouseError:
    complaint = " ".join(str(getattr(failure, "explanation", None) or failure).split())
    if "no space left on device" in complaint.lower():
        return InputError(
            f"base {name} can't be made: the disk is full", f"free 1 GB in {debian.scratch()} and in Docker's folder"
        )
    return ToolError(f"base {name} can't be made: {complaint}", getattr(failure, "hint", ""))
