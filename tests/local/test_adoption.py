"""What Docker knows and a state doesn't: it counts where it is newer, and nothing acknowledged is undone by it."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import moto.ec2.models.instances
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason

from bakehouse.accounts import Account, tags_of
from bakehouse.local import adoption
from bakehouse.local.labels import IMAGE, KIND, SNAPSHOT
from bakehouse.local.lifecycle import BY_HOST, Lifecycle, now_terminated
from bakehouse.local.notes import Notes
from bakehouse.local.things import Instance

KEPT = 1000
"""When the state was kept that is used."""

MACHINE = {
    "image_id": "ami-0a",
    "instance_type": "t3.small",
    "key_name": "",
    "shutdown": "stop",
    "is_public": True,
    "tags": {"a": "b"},
    "address": "192.0.2.10",
}


def ami(name: str) -> str:
    """Return the ID of an image."""
    return f"ami-{name.encode().hex():0>17}"


def told(name: str, tag: str, **more: Any) -> dict[str, Any]:
    """Return what is noted of an image."""
    return {"id": ami(name), "snapshot": f"snap-{name}", "name": name, "size": 8, "tags": {"tag": tag}, **more}


def gone(name: str) -> dict[str, Any]:
    """Return what is noted of an image that was deregistered."""
    return {"id": ami(name), "snapshot": f"snap-{name}", "gone": True}


class Docker:
    """Stand in for what Docker knows: bodies of images by their names, of which each has a snapshot, and notes."""

    def __init__(self) -> None:
        self.bodied: list[dict[str, Any]] = []
        self.contents: list[str] = []
        self.noted: dict[str, tuple[int, dict[str, Any]]] = {}
        self.machined: dict[str, dict[str, Any]] = {}

    def images(self) -> list[tuple[str, dict[str, str], list[str]]]:
        """Return the Docker images."""
        labels = [{KIND: "image", IMAGE: json.dumps(one), SNAPSHOT: one["snapshot"]} for one in self.bodied]
        bodies = [
            (one[SNAPSHOT], one, [f"bakehouse:{one[SNAPSHOT]}"]) for one in labels if one[SNAPSHOT] in self.contents
        ]
        copies = [(one, {KIND: "image"}, [f"bakehouse:{one}"]) for one in self.contents]
        return [*bodies, *copies, *((one[SNAPSHOT], one, []) for one in labels)]

    def notes(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Return what was noted."""
        return dict(self.noted)

    def note(self, image_id: str, record: dict[str, Any], at: int) -> None:
        """Note it."""
        self.noted[image_id] = at, record

    def unnote(self, image_id: str) -> None:
        """Forget it."""
        del self.noted[image_id]

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return the machines."""
        return dict(self.machined)

    def use_ground(self, _: str) -> None:
        """Do nothing."""


@pytest.fixture
def docker(account: Account, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Give a Docker that knows nothing, beside a state with the images ``here`` and ``there``."""
    monkeypatch.setattr(moto.ec2.models.instances, "Instance", Instance)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    ec2_backends[DEFAULT_ACCOUNT_ID].clear()
    for name in ("here", "there"):
        adoption._register(told(name, "kept", source_image_id="ami-0a"), f"snap-{name}", public=False)
    return Docker()


def lifecycle(docker: Docker) -> Lifecycle:
    """Return a lifecycle of what Docker has."""
    state: Any = SimpleNamespace(lock=threading.RLock(), keep=lambda: None)
    gate: Any = SimpleNamespace(unfenced="", ended=threading.Event(), follow=lambda *_: {})
    bodies: Any = docker
    return Lifecycle(bodies, gate, state)


def tags(account: Account) -> dict[str, str]:
    """Return the tag of each image of ours that is there, by its name."""
    return {one["Name"]: tags_of(one)["tag"] for one in account.ec2.describe_images(Owners=["self"])["Images"]}


# What Docker knows besides, and which images with which tags there are then.
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing": ({}, {"here": "kept", "there": "kept"}),
    "later tags": ({"noted": [(KEPT + 1, told("here", "later"))]}, {"here": "later", "there": "kept"}),
    "earlier tags": ({"noted": [(KEPT - 1, told("here", "earlier"))]}, {"here": "kept", "there": "kept"}),
    "an end": ({"noted": [(KEPT + 1, gone("here"))], "contents": ["snap-here"]}, {"there": "kept"}),
    "an image": (
        {"bodied": [told("new", "made")], "contents": ["snap-new"]},
        {"here": "kept", "there": "kept", "new": "made"},
    ),
    "an image with later tags": (
        {"bodied": [told("new", "made")], "contents": ["snap-new"], "noted": [(KEPT + 1, told("new", "later"))]},
        {"here": "kept", "there": "kept", "new": "later"},
    ),
    "a copy": (
        {"contents": ["snap-copy"], "noted": [(KEPT + 1, told("copy", "copied"))]},
        {"here": "kept", "there": "kept", "copy": "copied"},
    ),
    "an image without content": ({"bodied": [told("new", "made")]}, {"here": "kept", "there": "kept"}),
    "an image that has ended": (
        {"bodied": [told("new", "made")], "contents": ["snap-new"], "noted": [(KEPT + 1, gone("new"))]},
        {"here": "kept", "there": "kept"},
    ),
    "an image that the state has deregistered": (
        {"bodied": [told("old", "made")], "contents": ["snap-old"], "noted": [(KEPT - 1, told("old", "before"))]},
        {"here": "kept", "there": "kept"},
    ),
}


@pytest.mark.local
@pytest.mark.parametrize(("knows", "expected"), CASES.values(), ids=CASES)
def test_what_docker_knows_later_counts(
    account: Account, docker: Docker, knows: dict[str, Any], expected: dict[str, str]
) -> None:
    """Images, tags and ends that are newer than the state count, and earlier ones don't; the notes agree afterwards."""
    ec2_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].deleted_amis.append(ami("old"))
    docker.bodied, docker.contents = knows.get("bodied", []), knows.get("contents", [])
    docker.noted = {one["id"]: (at, one) for at, one in knows.get("noted", [])}
    there = lifecycle(docker)

    lines = adoption.restore(there, KEPT)
    Notes(there).follow()

    assert expected == tags(account)
    assert (expected == {"here": "kept", "there": "kept"}) == (lines == [])
    noted = {one["name"]: one["tags"]["tag"] for _, one in docker.noted.values() if not one.get("gone")}
    assert {name: expected[name] for name in ("here", "there") if name in expected}.items() <= noted.items()
    assert [] == adoption.restore(there, KEPT + 2)  # for the second time there is nothing to tell


@pytest.mark.local
def test_a_deregistered_image_stays_so_without_its_state(account: Account, docker: Docker) -> None:
    """That an image was deregistered is noted, and counts when the state is lost, though its snapshot is there."""
    docker.bodied, docker.contents = [told("here", "made"), told("there", "made")], ["snap-here", "snap-there"]
    there = lifecycle(docker)
    Notes(there).follow()
    account.ec2.deregister_image(ImageId=ami("here"))
    notes = Notes(there)
    notes.follow()
    ec2_backends[DEFAULT_ACCOUNT_ID].clear()

    lines = adoption.restore(lifecycle(docker), 0)

    assert {"there": "kept"} == tags(account)
    assert ["the local EC2's state is lost; Docker still knows 1 images and 0 machines"] == [
        line.partition(",")[0] for line in lines
    ]
    docker.contents = ["snap-there"]  # now the other snapshot has gone, too, which the state that is used holds
    adoption._register(told("here", "kept"), "snap-here", public=False)
    adoption.restore(lifecycle(docker), 0)
    assert ["snap-there"] == [
        one["SnapshotId"] for one in account.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    ]
    adoption.restore(lifecycle(docker), docker.noted[ami("here")][0] + 1)
    assert {ami("there")} == set(docker.noted)


@pytest.mark.local
def test_a_machine_that_the_state_lacks(account: Account, docker: Docker) -> None:
    """One whose launch the state doesn't hold is found again with the tags of its launch, once."""
    docker.machined = {"i-0123456789abcdef0": MACHINE}

    lines = adoption.restore(lifecycle(docker), KEPT)

    [found] = account.ec2.describe_instances()["Reservations"]
    assert ("i-0123456789abcdef0", {"a": "b"}) == (found["Instances"][0]["InstanceId"], tags_of(found["Instances"][0]))
    assert ["Docker knows more than the local EC2's state: 0 images, 0 changes and 0 ends of images, 1 machines"] == [
        line.partition(";")[0] for line in lines
    ]
    assert [] == adoption.restore(lifecycle(docker), KEPT)


@pytest.mark.local
@pytest.mark.parametrize(
    ("why", "states"), [(BY_HOST[0], ["stopped"]), ("Client.UserInitiatedShutdown", ["terminated"])]
)
def test_a_machine_that_was_missing_is_back(account: Account, docker: Docker, why: str, states: list[str]) -> None:
    """One that Docker did not have, because another engine was asked say, is there again; one that was ended isn't."""
    docker.machined = {"i-0123456789abcdef0": MACHINE}
    there = lifecycle(docker)
    adoption.restore(there, KEPT)
    now_terminated(there.instances()[0], StateReason(why, why))

    adoption.restore(there, KEPT)

    assert states == [one.state for one in there.instances()]


@pytest.mark.local
def test_what_was_said_since_is_newer(account: Account, docker: Docker) -> None:
    """Where Docker comes late, what it knows of a known image is older than what the API has been told meanwhile."""
    docker.noted = {ami("here"): (KEPT + 1, told("here", "later"))}
    account.ec2.create_tags(Resources=[ami("here")], Tags=[{"Key": "tag", "Value": "just now"}])

    adoption.restore(lifecycle(docker), KEPT, late=True)

    assert {"here": "just now", "there": "kept"} == tags(account)
