"""Register what Docker holds and the API doesn't know yet: bases, and images after a lost state.

Have the packages' repository served too. Docker is asked before the lock is taken, never while it is held.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.utils import random_snapshot_id

from bakehouse.local.bodies import Bodies, BodyError
from bakehouse.local.labels import BASE, IMAGE, KIND, SNAPSHOT
from bakehouse.local.lifecycle import Lifecycle
from bakehouse.local.things import ROOT_DEVICE, Ami

log = logging.getLogger(__name__)

REGION = "us-east-1"
_BASE_GIB = 8


def restore(lifecycle: Lifecycle, lost: bool) -> list[str]:
    """Register the bases that are there, and after a lost state the images and machines too.

    Return what is to be told: a line on what a lost state has cost.
    """
    try:
        bases(lifecycle)
        return _found_again(lifecycle) if lost else []
    except BodyError as error:
        log.warning("%s", error)
        return [f"the local EC2 does not know its images and machines: {error}"] if lost else []


def bases(lifecycle: Lifecycle) -> list[str]:
    """Register each base that isn't yet, and return the new ones' image IDs."""
    new = []
    with _adopting:  # else two who find the same new base would both give it a snapshot
        # Debian's last: the gate takes the last one, and of Debian's it is known to have nft
        for docker_id, labels, _ in sorted(lifecycle.bodies.images(), key=lambda one: one[1].get(BASE) == "debian-13"):
            if labels.get(KIND) != "base":
                continue
            lifecycle.use_gate_image(docker_id)
            image_id = "ami-0" + hashlib.sha256(docker_id.encode()).hexdigest()[:16]
            if not _is_registered(lifecycle, image_id):
                _adopt_base(lifecycle, docker_id, image_id, json.loads(labels[IMAGE]))
                new.append(image_id)
    return new


_adopting = Lock()


def _is_registered(lifecycle: Lifecycle, image_id: str) -> bool:
    with lifecycle.lock:
        return image_id in _backend().amis


def _adopt_base(lifecycle: Lifecycle, docker_id: str, image_id: str, told: Mapping[str, Any]) -> None:
    """Give a base's Docker image a snapshot's name and register it as an image."""
    snapshot = random_snapshot_id()
    lifecycle.bodies.tag(docker_id, snapshot)
    told = {**told, "id": image_id, "name": told["image_name"], "size": _BASE_GIB, "tags": {}}
    with lifecycle.changing():
        _register(told, snapshot, public=True)


def stand_in(lifecycle: Lifecycle, package: str, family: str, folder: Path) -> dict[str, Any]:
    """Have a package's repository served and return where it is.

    ``family`` is that of the systems which want it. The base that packages are built on is made if it isn't there.
    Raises NotFoundError for a package that nothing stands in for, and what ``bases.make`` and ``packages.up`` do.
    """
    from bakehouse.local import packages

    bodies = lifecycle.bodies
    with _one_at_a_time:
        debian = _base(bodies, "debian-13") or _make(lifecycle, "debian-13", folder)
        repository = packages.up(
            bodies.docker,
            package=package,
            family=family,
            images={"debian": debian, "redhat": _base(bodies, "rpm-stand-in") or debian},
            network=bodies.network().name,
            labels=bodies.labels("packages"),
            state=folder / "packages",
            say=log.info,
        )
    return asdict(repository)


_one_at_a_time = Lock()


def _base(bodies: Bodies, name: str) -> str:
    """Return the ID of a base's Docker image, empty when it isn't made yet."""
    return next((image for image, labels, _ in bodies.images() if labels.get(BASE) == name), "")


def _make(lifecycle: Lifecycle, name: str, folder: Path) -> str:
    from bakehouse.local.bases import kept, make

    made = make(lifecycle.bodies.docker, name, kept(folder)[name], lifecycle.bodies.labels("base"), log.info)
    bases(lifecycle)
    return made


def _found_again(lifecycle: Lifecycle) -> list[str]:
    """Register the images and machines that Docker knows, and return what is to be told of that."""
    bodies = lifecycle.bodies
    found = [labels for _, labels, _ in bodies.images() if labels.get(KIND) == "image" and labels.get(IMAGE)]
    images = {labels[SNAPSHOT]: json.loads(labels[IMAGE]) for labels in found}
    images.update({note["snapshot"]: note for note in bodies.notes().values() if note["snapshot"] in images})
    machines = bodies.machines()
    told = []
    with lifecycle.changing():
        for snapshot_id, image in images.items():
            _register(image, snapshot_id, public=False)
        for instance_id, machine in machines.items():
            try:
                _register_machine(instance_id, machine)
            except Exception:  # whatever moto has against it: the others are registered all the same
                log.exception("%s can't be registered again", instance_id)
                told.append(f"machine {instance_id} can't be registered again: docker ps --all shows it")
    if images or machines:
        counted = f"{len(images)} images and {len(machines) - len(told)} machines"
        told.append(f"the local EC2's state is lost; Docker still knows {counted}, but no channel, group or key pair")
    return told


def _register_machine(instance_id: str, told: Mapping[str, Any]) -> None:
    """Register a machine as an instance that is off; where it is on, ``Watch.adopt`` sees that."""
    backend = _backend()
    group = backend.get_security_group_from_name("default", backend.get_default_vpc().id)
    made: Any = EC2Backend.run_instances(
        backend, told["image_id"], 1, None, [], security_group_ids=[group.id], is_instance_type_default=True
    )
    [instance] = made.instances
    instance.id = instance_id
    instance.instance_type, instance.key_name = told["instance_type"], told["key_name"]
    instance.instance_initiated_shutdown_behavior = told["shutdown"]
    instance.add_tags(told["tags"])
    nic = instance.nics[0]
    nic.private_ip_addresses[0]["PrivateIpAddress"] = nic.private_ip_address = told["address"]
    nic.public_ip = None
    instance.is_public = told["is_public"]
    instance.become("stopped")


def _register(told: Mapping[str, Any], snapshot_id: str, public: bool) -> None:
    backend = _backend()
    image = Ami(
        backend,
        told["id"],
        name=told["name"],
        description=told.get("description"),
        owner_id=told.get("owner"),
        owner_alias=told.get("owner_alias"),
        public=public,
        virtualization_type="hvm",
        architecture=told.get("architecture", "x86_64"),
        root_device_name=told.get("root_device", ROOT_DEVICE),
        root_device_type="ebs",
        region_name=f"{REGION}a",
        tags=told["tags"],
    )
    snapshot = image.ebs_snapshot
    backend.snapshots[snapshot_id] = backend.snapshots.pop(snapshot.id)
    snapshot.id = snapshot_id
    snapshot.volume.size = told["size"]
    image.source_image_id = told.get("source_image_id")
    snapshot.encrypted, snapshot.kms_key_id = told.get("encrypted", False), told.get("kms_key_id")
    image.deprecation_time, image.imds_support = told.get("deprecation_time"), told.get("imds_support")
    snapshot.add_tags(told.get("snapshot_tags", {}))
    backend.amis[image.id] = image


def _backend() -> Any:
    return ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
