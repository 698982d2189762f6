"""Serve the local EC2 without a Docker engine: a stand-in for its bodies tells when Docker is asked under the lock.

The tests run this file as ``python stand_in_server.py FOLDER``. A machine's user-data says what the machine does:
``no sshd`` and ``no end`` (of cloud-init) let it come up never, ``powers off`` and ``reboots`` are done by itself, and
one that ``dies`` does so as it boots. Of a ``stubborn`` one, and of its snapshots, Docker refuses at first each move to
stop or remove it. One that is ``made late`` is made, though Docker says that it isn't. Docker switches one on ``once``
only.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

log = logging.getLogger(__name__)

CHECKOUT = "0123456789ab"
BREACHES = "breaches"

_ASKS_NOTHING = ("checkout", "labels", "unfenced", "ended", "use_ground")


class Bodies:
    """Stand in for the containers and Docker images."""

    def __init__(self, checkout: str) -> None:
        self.checkout = checkout
        self._pids: dict[str, int] = {}
        self._does: dict[str, str] = {}
        self._snapshots: set[str] = set()
        self._stubborn: set[str] = set()
        self._late: set[str] = set()
        self._refused: set[tuple[str, str]] = set()
        self._died: SimpleQueue[tuple[str, bool]] = SimpleQueue()
        self._notes: dict[str, tuple[int, dict[str, Any]]] = {}
        self._numbers = count(1)

    def labels(self, kind: str) -> dict[str, str]:
        """Return no label that anything would ask for."""
        return {"kind": kind}

    def use_ground(self, _: str) -> None:
        """Do nothing: there is nothing that would be fitted out."""

    def fit(self, _: str) -> None:
        """Do nothing, as ``use_ground``."""

    def close(self) -> None:
        """Do nothing, as ``use_ground``."""

    def room(self) -> int:
        """Return for how many machines there is room."""
        return 400

    def ping(self) -> None:
        """Do nothing: the engine is there."""

    def answers(self) -> bool:
        """Return that the engine is there."""
        return True

    def subnet(self) -> str:
        """Return a network's subnet."""
        return "192.0.2.0/24"

    def images(self) -> list[tuple[str, dict[str, str], list[str]]]:
        """Return one base and one image of a lost state."""
        base = {"image_name": "debian-13-amd64-1"}
        image = {"id": "ami-0123456789abcdef0", "name": "lost", "size": 8, "tags": {}}
        return [
            ("sha256:1", {"bakehouse.kind": "base", "bakehouse.image": json.dumps(base)}, []),
            (
                "sha256:2",
                {"bakehouse.kind": "image", "bakehouse.image": json.dumps(image), "bakehouse.snapshot": "snap-1"},
                ["bakehouse:snap-1"],
            ),
        ]

    def tag(self, _: str, snapshot_id: str) -> None:
        """Make a snapshot of a Docker image."""
        self._snapshots.add(snapshot_id)

    def birth(self, birth: Any) -> None:
        """Make a machine."""
        log.info("%s is born", birth.instance_id)
        self._does[birth.instance_id] = birth.user_data.decode()
        if self._does[birth.instance_id] == "stubborn":
            self._stubborn.add(birth.instance_id)
        if self._does[birth.instance_id] == "made late":
            self._late.add(birth.instance_id)
            raise self._error(f"Docker does not answer about {birth.instance_id}")
        self._pids[birth.instance_id] = next(self._numbers)

    def start(self, instance_id: str) -> None:
        """Switch a machine on."""
        if self._does[instance_id] == "once":
            raise self._error(f"Docker is not in the mood to start {instance_id}")
        self._pids[instance_id] = next(self._numbers)

    @staticmethod
    def _error(why: str) -> Exception:
        from bakehouse.local.bodies import BodyError

        return BodyError(why)

    def stop(self, instance_id: str) -> None:
        """Switch a machine off."""
        self._refuse("stop", instance_id)
        self._pids[instance_id] = 0

    def remove(self, instance_id: str) -> None:
        """Remove a machine."""
        self._refuse("remove", instance_id)
        self._pids.pop(instance_id, None)
        log.info("%s is removed", instance_id)
        if instance_id in self._late:
            self._late.remove(instance_id)
            self._pids[instance_id] = next(self._numbers)

    def _refuse(self, move: str, name: str) -> None:
        if name in self._stubborn and (move, name) not in self._refused:
            self._refused.add((move, name))
            raise self._error(f"Docker is not in the mood to {move} {name}")

    def commit(self, instance_id: str, snapshot_id: str, _: Mapping[str, Any]) -> None:
        """Make a snapshot of a machine."""
        if instance_id in self._stubborn:
            self._stubborn.add(snapshot_id)
        self._snapshots.add(snapshot_id)

    def copy(self, _: str, copy_id: str) -> None:
        """Make a snapshot of another."""
        self._snapshots.add(copy_id)

    def forget(self, snapshot_id: str) -> None:
        """Remove a snapshot."""
        self._refuse("remove", snapshot_id)
        self._snapshots.discard(snapshot_id)
        log.info("%s is removed", snapshot_id)

    def has(self, snapshot_id: str) -> bool:
        """Tell whether there is a snapshot."""
        return snapshot_id in self._snapshots

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return no machine of a lost state."""
        return {}

    def notes(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Return what was noted of images."""
        return dict(self._notes)

    def note(self, image_id: str, record: Mapping[str, Any], at: int) -> None:
        """Note what an image is."""
        self._notes[image_id] = at, dict(record)

    def unnote(self, image_id: str) -> None:
        """Forget what an image was."""
        self._notes.pop(image_id)

    def running(self) -> dict[str, int]:
        """Return each machine's process ID."""
        return dict(self._pids)

    def pid(self, instance_id: str) -> int:
        """Return a machine's process ID."""
        return self._pids.get(instance_id, 0)

    def reboots(self, _: str) -> bool:
        """Return that no machine is off for a reboot that isn't told yet."""
        return False

    def console(self, instance_id: str) -> bytes:
        """Return what a machine wrote."""
        return f"console of {instance_id}".encode()

    def wait_for_sshd(self, instance_id: str, _: str, __: Callable[[], bool]) -> bool:
        """Wait for ever for a machine without an sshd."""
        if self._does[instance_id] == "no sshd":
            threading.Event().wait()
        if self._does[instance_id] == "dies":
            self._pids[instance_id] = 0
            return False
        return True

    def wait_for_cloud_init(self, instance_id: str) -> bool:
        """Let a machine do, once, what it does by itself."""
        does = self._does[instance_id]
        self._does[instance_id] = does if does == "once" else ""
        if does == "no end":
            threading.Event().wait()
        if does in ("powers off", "reboots"):
            self.stop(instance_id)
            self._died.put((instance_id, does == "reboots"))
        return True

    def deaths(self) -> Iterator[tuple[str, bool]]:
        """Yield which machines went off by themselves."""
        while True:
            yield self._died.get()


class Gate:
    """Stand in for the gate, which opens no port."""

    def __init__(self, *_: Any) -> None:
        self.unfenced = ""
        self.ended = threading.Event()

    def follow(self, look: Callable[[], Any], _: str) -> dict[str, str]:
        """Look at the table of ports."""
        look()
        return {}

    def close(self) -> None:
        """Do nothing."""


class Guarded:
    """Note where anything of ``inner`` but its names is used by a thread that holds the lock."""

    def __init__(self, inner: Any, holds: Callable[[], bool], breaches: Path) -> None:
        self._inner, self._holds, self._breaches = inner, holds, breaches

    def __getattr__(self, name: str) -> Any:
        if name not in _ASKS_NOTHING and self._holds():
            where = "".join(traceback.format_stack(limit=4)[:-1])
            with self._breaches.open("a") as file:
                file.write(f"{name} is asked of Docker with the lock held:\n{where}\n")
        return getattr(self._inner, name)


def main(folder: Path) -> None:
    """Serve until SIGTERM, as the real server does, and note what asks Docker with the lock held."""
    from bakehouse.local import server
    from bakehouse.local.state import State

    state = State(folder)

    def guarded(kind: type[Any]) -> Callable[..., Guarded]:
        return lambda *given: Guarded(kind(*given), state.lock._is_owned, folder / BREACHES)  # type: ignore[attr-defined]

    with patch.multiple(server, Bodies=guarded(Bodies), GateDriver=guarded(Gate), State=lambda _: state):
        server.main(folder, CHECKOUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
