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

from bakehouse.local.bodies import Bodies
from bakehouse.local.labels import BASE, IMAGE, KIND, SNAPSHOT
from bakehouse.local.lifecycle import BY_HOST, Lifecycle, record
from bakehouse.local.notes import GONE
from bakehouse.local.things import ROOT_DEVICE, Ami

log = logging.getLogger(__name__)

REGION = "us-east-1"
_BASE_GIB = 8


def restore(lifecycle: Lifecycle, since: int, late: bool = False) -> list[str]:
    """Register the bases that are there, and let the backends follow what Docker has learned since they were kept.

    ``since`` is that time in nanoseconds since 1970, 0 when the state is lost. When it's ``late`` the API has been used
    in the meantime, and knows better what it knows. Return what is to be told, a line each; raises BodyError.
    """
    bases(lifecycle)
    bodies = lifecycle.bodies
    found, notes, machines = bodies.images(), bodies.notes(), bodies.machines()
    there = {name.rpartition(":")[2] for _, _, names in found for name in names}
    bodied = [
        json.loads(labels[IMAGE]) | {"snapshot": labels[SNAPSHOT]} for _, labels, _ in found if _is_of_bake(labels)
    ]
    told = {one["id"]: (1, one) for one in bodied} | notes
    with lifecycle.changing():
        known = _Known(lifecycle, there)
        again = [one for _, one in told.values() if one["snapshot"] in there and known.lacks(one)]
        gone = [one for _, one in told.values() if one.get(GONE) and known.deregister(one)]
        later = [one for at, one in told.values() if at > since and not late and known.update(one)]
        for one in again:
            _register(one, one["snapshot"], public=False)
        lost = [one for one in machines if one not in known.machines]
        refused = [one for one in lost if not _registers(one, machines[one])]
    for image_id, (at, one) in notes.items():
        if one.get(GONE) and at < since and one["snapshot"] not in there:  # no generation has it that is used again
            bodies.unnote(image_id)
    lines = [f"machine {one} can't be registered again: docker ps --all shows it" for one in refused]
    if since == 0 and (again or lost):
        counted = f"{len(again)} images and {len(lost) - len(refused)} machines"
        lines.append(f"the local EC2's state is lost; Docker still knows {counted}, but no channel, group or key pair")
    elif again or gone or later or lost:
        counted = f"{len(again)} images, {len(later)} changes and {len(gone)} ends of images, {len(lost)} machines"
        lines.append(f"Docker knows more than the local EC2's state: {counted}; that counts")
    return lines


def _is_of_bake(labels: Mapping[str, str]) -> bool:
    return bool(labels.get(KIND) == "image" and labels.get(IMAGE) and labels.get(SNAPSHOT))


def _was_missing(instance: Any) -> bool:
    """Tell whether an instance counts as terminated only because Docker, another engine say, had not its machine."""
    return bool(instance.state == "terminated" and instance.state_reason.message == BY_HOST[0])


class _Known:
    """Hold what the backends know of images and machines, and which snapshots there are; used with the lock held."""

    def __init__(self, lifecycle: Lifecycle, there: set[str]) -> None:
        self._backends, self._there = lifecycle.backends(), there
        self.machines = {one.id for one in lifecycle.instances() if not _was_missing(one)}

    def lacks(self, told: Mapping[str, Any]) -> bool:
        """Tell whether an image that Docker has is new: neither there nor deregistered."""
        known = any(told["id"] in (*backend.amis, *backend.deleted_amis) for backend in self._backends)
        return not told.get(GONE) and not known

    def deregister(self, told: Mapping[str, Any]) -> bool:
        """Deregister an image, have its snapshot gone if that has no content, and tell whether the image was there."""
        for backend in self._backends:
            if backend.amis.pop(told["id"], None):
                backend.deleted_amis.append(told["id"])
                if told["snapshot"] not in self._there:
                    backend.snapshots.pop(told["snapshot"], None)
                return True
        return False

    def update(self, told: Mapping[str, Any]) -> bool:
        """Give an image that is there what was said of it later, and tell whether that was anything."""
        found = [backend.amis[told["id"]] for backend in self._backends if told["id"] in backend.amis]
        if told.get(GONE) or not found or told.items() <= record(found[0]).items():
            return False
        for thing in (found[0], found[0].ebs_snapshot):
            thing.ec2_backend.tags.pop(thing.id, None)
        _describe(found[0], told)
        return True


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


def _registers(instance_id: str, told: Mapping[str, Any]) -> bool:
    try:
        _register_machine(instance_id, told)
    except Exception:  # whatever moto has against it: the others are registered all the same
        log.exception("%s can't be registered again", instance_id)
        return False
    return True


def _register_machine(instance_id: str, told: Mapping[str, Any]) -> None:
    """Register a machine as an instance that is off; where it is on, ``Watch.adopt`` sees that."""
    backend = _backend()
    for reservation in backend.reservations.values():
        reservation.instances = [one for one in reservation.instances if one.id != instance_id]
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
    backend = _backend(told.get("region", REGION))
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
        region_name=backend.region_name,
    )
    snapshot = image.ebs_snapshot
    backend.snapshots[snapshot_id] = backend.snapshots.pop(snapshot.id)
    snapshot.id = snapshot_id
    snapshot.volume.size = told["size"]
    image.source_image_id = told.get("source_image_id")
    snapshot.encrypted, snapshot.kms_key_id = told.get("encrypted", False), told.get("kms_key_id")
    _describe(image, told)
    backend.amis[image.id] = image


def _describe(image: Any, told: Mapping[str, Any]) -> None:
    """Give an image what is said of it after it was made."""
    image.description = told.get("description")
    image.deprecation_time, image.imds_support = told.get("deprecation_time"), told.get("imds_support")
    image.add_tags(told["tags"])
    image.ebs_snapshot.add_tags(told.get("snapshot_tags", {}))


def _backend(region: str = REGION) -> Any:
    return ec2_backends[DEFAULT_ACCOUNT_ID][region]
