"""The bases: what the first machine of the local EC2 starts from, and how each is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from bakehouse.errors import BakehouseError, InputError, NotFoundError, ToolError
from bakehouse.local.bases import containers, debian
from bakehouse.local.bases.containers import MakingFailed, Say
from bakehouse.local.labels import BASE, IMAGE

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Base:
    """Describe one base as its AMI is on AWS.

    Attributes: system, its name as people say it; image_name, with places for the architecture in the kernel's, EC2's
    or Debian's word and for the time it is made; owner, an account's ID, and owner_alias, that account's name or empty;
    user, the machine's first user; root_device; how, the way it comes about here; ground, the base that it is made of,
    or empty.
    """

    system: str
    image_name: str
    owner: str
    user: str
    root_device: str
    how: str
    owner_alias: str = ""
    ground: str = ""


_debian = partial(Base, owner="136693071363", user="admin", root_device="/dev/xvda", how="made here with mmdebstrap")
_amazon = partial(Base, owner="137112412989", owner_alias="amazon", user="ec2-user", root_device="/dev/xvda")
_ubuntu = partial(Base, owner="099720109477", user="ubuntu", root_device="/dev/sda1")
_rocky = partial(Base, owner="792107900819", user="rocky", root_device="/dev/sda1")
_own = partial(Base, owner="123456789012", user="ec2-user", root_device="/dev/xvda")  # what "self" means there


def _of_registry(name: str) -> str:
    return f"made here of the registry's {containers.IMAGES[name][0]}"


BASES: Mapping[str, Base] = {
    "debian-13": _debian("Debian 13", "debian-13-{debian}-{now:%Y%m%d-%H%M}"),
    "debian-12": _debian("Debian 12", "debian-12-{debian}-{now:%Y%m%d-%H%M}"),
    "amazon-linux-2023": _amazon(
        "Amazon Linux 2023",
        "al2023-ami-2023.0.{now:%Y%m%d}.0-kernel-6.1-{ec2}",
        how=_of_registry("amazon-linux-2023"),
    ),
    "ubuntu-24.04": _ubuntu(
        "Ubuntu 24.04",
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{debian}-server-{now:%Y%m%d}",
        how=_of_registry("ubuntu-24.04"),
    ),
    "ubuntu-22.04": _ubuntu(
        "Ubuntu 22.04",
        "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{debian}-server-{now:%Y%m%d}",
        how=_of_registry("ubuntu-22.04"),
    ),
    "rocky-10": _rocky(
        "Rocky Linux 10", "Rocky-10-EC2-Base-10.0-{now:%Y%m%d}.0.{kernel}", how=_of_registry("rocky-10")
    ),
    "rocky-9": _rocky("Rocky Linux 9", "Rocky-9-EC2-Base-9.0-{now:%Y%m%d}.0.{kernel}", how=_of_registry("rocky-9")),
    "rpm-stand-in": _own(
        "Stands in for Amazon Linux 2023: Debian 13 with rpm and dnf,",
        "rpm-stand-in-{ec2}-{now:%Y%m%d-%H%M}",
        how="made here of debian-13; stands in for Amazon Linux 2023",
        ground="debian-13",
    ),
}
"""Every base by the name that it has in packer/bases.auto.pkrvars.hcl."""

_MAKERS: Mapping[str, Callable[[DockerClient, Base, Mapping[str, str], Say], str]] = {
    "debian-13": partial(debian.bootstrap, "trixie"),
    "debian-12": partial(debian.bootstrap, "bookworm"),
    "rpm-stand-in": containers.of_ground,
    **{name: partial(containers.of_registry, name) for name in containers.IMAGES},
}

_ARCHITECTURES = {
    "x86_64": {"kernel": "x86_64", "ec2": "x86_64", "debian": "amd64"},
    "aarch64": {"kernel": "aarch64", "ec2": "arm64", "debian": "arm64"},
}


def get(name: str) -> Base:
    """Return the base of this name; raises NotFoundError, which lists the known ones."""
    if name not in BASES:
        raise NotFoundError(f"the local EC2 has no base {name}", f"known: {', '.join(BASES)}")
    return BASES[name]


def make(docker: DockerClient, name: str, labels: Mapping[str, str], say: Say) -> str:
    """Make a base, telling how it gets on, and return the ID of the Docker image.

    The image has the labels, ``bakehouse.base`` (the name) and ``bakehouse.image`` (a JSON object: what its AMI shows);
    it has no tag. A base that has a ground finds it by the same labels. What fails or is interrupted leaves nothing.
    Raises NotFoundError when there is no such base, InputError when the disk is full, ToolError when a tool, a mirror
    or a registry can't be had.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    base = get(name)
    say(f"making the base {name}: once, about a minute ...")
    try:
        words = _ARCHITECTURES[docker.info()["Architecture"]]
        shown = json.dumps(shows(base, words, datetime.now(UTC)))
        return _MAKERS[name](docker, base, {**labels, BASE: name, IMAGE: shown}, say)
    except (MakingFailed, DockerException, RequestException) as failure:
        raise _refusal(name, failure) from failure


def shows(base: Base, words: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return what the AMI of a base shows that was made at that time on a machine of that architecture."""
    return asdict(base) | {
        "image_name": base.image_name.format(now=now, **words),
        "description": f"{base.system} for machines of the local EC2",
        "architecture": words["ec2"],
    }


def _refusal(name: str, failure: Exception) -> BakehouseError:
    complaint = " ".join(str(getattr(failure, "explanation", None) or failure).split())
    if "no space left on device" in complaint.lower():
        return InputError(
            f"base {name} can't be made: the disk is full", f"free 1 GB in {debian.scratch()} and in Docker's folder"
        )
    return ToolError(f"base {name} can't be made: {complaint}", getattr(failure, "hint", ""))
