"""Vigils: look beside Packer's log at a bake's machine, and end the bake soon after the machine has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from bakehouse.accounts import Account
from bakehouse.errors import printable

_EVERY = 3  # seconds there is a look
_ENDED = ("stopping", "stopped", "shutting-down", "terminated")


class Vigil:
    """Watch one machine in a thread of its own; ``end_bake`` is called when it has ended before the vigil has.

    Attributes:
        found: what is to be told of the machine that has ended; empty while none has.
    """

    def __init__(self, account: Account, end_bake: Callable[[], None]) -> None:
        self.found = ""
        self._account, self._end_bake = account, end_bake
        self._over = threading.Event()

    def begin(self, machine_id: str) -> None:
        """Watch a machine from now on."""
        threading.Thread(target=self._watch, args=(machine_id,), daemon=True, name=f"vigil {machine_id}").start()

    def end(self) -> None:
        """Watch no more: from now on Packer itself stops and terminates the machine."""
        self._over.set()

    def _watch(self, machine_id: str) -> None:
        """Look until the machine has ended at two looks: at the first one Packer's word of it may be on its way."""
        before = ""
        while not self._over.wait(_EVERY):
            now = self._look(machine_id)
            if now and before:
                self.found = now
                self._end_bake()
                return
            before = now

    def _look(self, machine_id: str) -> str:
        """Return what is to be told of the machine if it has ended; empty while it lives, or where nothing tells."""
        try:
            answer = self._account.ec2.describe_instances(InstanceIds=[machine_id])
        except Exception:  # whatever an account may answer is no word on the machine: the next look may tell
            return ""
        machines: list[Any] = [one for found in answer["Reservations"] for one in found["Instances"]]
        if not machines or machines[0]["State"]["Name"] not in _ENDED:
            return ""
        why = machines[0].get("StateReason", {}).get("Message") or "EC2 does not say why"
        return printable(f"machine {machine_id} is {machines[0]['State']['Name']}: {why}")
