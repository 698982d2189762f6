"""Checkouts: tell the checkouts on one Docker engine apart, wherever their folders are.

A checkout has a random ID, which is in its state folder and in the labels of all that it has on Docker. A volume of
Docker's, which holds nothing, tells where the checkout is: so a checkout that has lost its state folder finds its ID
again, and what a vanished one has left can be told from what others use.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse import documents, system
from bakehouse.local import signatures
from bakehouse.local.labels import CHECKOUT, HOST, KIND, PATH

COLUMNS = ("checkout", "folder", "state", "machines", "images")

_FILE = "checkout.json"
_OF_ANOTHER = ("state.pickle", "server.json", "bases.json", signatures.FILE)  # and the folder state: the original's


@dataclass(frozen=True)
class Checkout:
    """Hold what one checkout has on the Docker engine.

    Attributes:
        id: the checkout's ID.
        folder: the path of its state folder; empty when nothing tells it.
        state: ``here`` when the folder holds the checkout, ``gone`` when it doesn't, else ``not known``.
        machines: the number of its machines.
        images: the number of its images, bases included.
    """

    id: str
    folder: str
    state: str
    machines: int
    images: int


def own(folder: Path) -> str:
    """Return the ID of the checkout with this folder of the local EC2: 12 hexadecimal digits.

    A folder that was moved keeps its ID. A copy of a folder gets an ID of its own, and begins empty. A folder without
    an ID takes the one that Docker knows for its path, if any.
    """
    file = folder / _FILE
    with system.alone(folder / "checkout.lock"):
        told = _read(folder)
        if told.get("path") == str(folder):
            return told["id"]
        original = Path(told.get("path", folder))
        if told and _read(original).get("id") == told["id"]:
            shutil.rmtree(folder / "state", ignore_errors=True)
            for name in _OF_ANOTHER:
                (folder / name).unlink(missing_ok=True)
            told = {}
        ours = told.get("id") or _known(folder) or secrets.token_hex(6)
        documents.replace(file, json.dumps({"id": ours, "path": str(folder)}).encode())
        return ours


def register(docker: Any, checkout: str, folder: Path) -> None:
    """Tell Docker where a checkout is."""
    from docker import errors

    labels = {CHECKOUT: checkout, KIND: "checkout", PATH: str(folder), HOST: platform.node()}
    name = f"bakehouse-{checkout}"
    try:
        found = docker.volumes.get(name)
        if found.attrs["Labels"] == labels:
            return
        found.remove()
    except errors.NotFound:
        pass
    docker.volumes.create(name, labels=labels)


def everywhere(docker: Any) -> list[Checkout]:
    """Return all checkouts that have something on the engine, by their folders."""
    containers = docker.api.containers(all=True, filters={"label": CHECKOUT})
    images = docker.api.images(filters={"label": CHECKOUT})
    volumes = docker.api.volumes(filters={"label": CHECKOUT})["Volumes"] or []
    networks = docker.api.networks(filters={"label": CHECKOUT})
    places = {one["Labels"][CHECKOUT]: one["Labels"] for one in volumes if one["Labels"].get(KIND) == "checkout"}
    machines = Counter(one["Labels"][CHECKOUT] for one in containers if one["Labels"].get(KIND) == "machine")
    kept = Counter(one["Labels"][CHECKOUT] for one in images)
    ids = {one["Labels"][CHECKOUT] for one in (*containers, *images, *volumes, *networks)}
    found = [_checkout(one, places.get(one, {}), machines[one], kept[one]) for one in ids]
    return sorted(found, key=lambda one: (one.folder, one.id))


def as_rows(found: Iterable[Checkout]) -> list[list[str]]:
    """Return checkouts as the rows of a table, under ``COLUMNS``."""
    return [[one.id, one.folder or "not known", one.state, str(one.machines), str(one.images)] for one in found]


def plan(found: Iterable[Checkout]) -> list[str]:
    """Say what is deleted of checkouts whose folders are gone, a line each."""
    return [
        f"delete checkout {one.id} of {one.folder}, which is gone: {one.machines} machines, {one.images} images"
        for one in found
    ]


def _checkout(checkout: str, labels: Mapping[str, str], machines: int, images: int) -> Checkout:
    folder = labels.get(PATH, "")
    state = _state(Path(folder), checkout) if folder and labels.get(HOST) == platform.node() else "not known"
    return Checkout(checkout, folder, state, machines, images)


def _state(folder: Path, checkout: str) -> str:
    try:
        os.stat(folder)
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "not known"  # it is in a folder of another user's
    if not os.access(folder, os.R_OK | os.X_OK):
        return "not known"
    return "here" if _read(folder).get("id") == checkout else "gone"


def _read(folder: Path) -> dict[str, str]:
    try:
        told: dict[str, str] = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and {"id", "path"} <= told.keys() else {}


def _known(folder: Path) -> str:
    """Return the ID of the checkout that Docker says is in this folder; empty when it says none, or doesn't answer."""
    from bakehouse.local import bodies

    filters = {"label": [CHECKOUT, f"{PATH}={folder}", f"{HOST}={platform.node()}"]}
    try:
        with bodies.docker_errors("Docker"):
            file = bodies.socket_file()
        if file and not file.exists():
            return ""
        with bodies.docker_errors("Docker"), closing(bodies.client(5)) as docker:
            found = docker.api.volumes(filters=filters)["Volumes"] or []
    except bodies.BodyError:
        return ""
    return str(found[0]["Labels"][CHECKOUT]) if found else ""
