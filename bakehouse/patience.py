"""Patience: how long the kit waits for what, and why so long; BAKEHOUSE_PATIENCE stretches all of it on a slow host."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

VARIABLE = "BAKEHOUSE_PATIENCE"
"""The variable that holds the factor by which every limit is stretched."""

LONGER = f"on a slow host {VARIABLE}=4 waits four times as long"
"""The hint for whoever waited in vain."""


@dataclass(frozen=True)
class Limit:
    """Hold how many seconds the kit waits for one kind of answer on a usual host, and why so long."""

    usual: float
    why: str

    @property
    def seconds(self) -> float:
        """Return how many seconds to wait here."""
        return self.usual * factor()

    def least(self, usual: float) -> float:
        """Return how many seconds to wait here for what may take a number of seconds on a usual host, and be slower."""
        return max(self.usual, usual) * factor()


def seconds(limit: Limit | float) -> float:
    """Return how many seconds a limit is; a number is the seconds that are left of one."""
    return limit.seconds if isinstance(limit, Limit) else limit


def factor() -> float:
    """Return by how much every limit is stretched; raises ValueError when the variable holds no number from 1 up."""
    told = os.environ.get(VARIABLE, "") or "1"
    stretched = float(told)
    if not 1 <= stretched < math.inf:
        raise ValueError(told)
    return stretched


PROGRAM = Limit(20, "a program tells its version in a blink; a host that swaps needs seconds")
SERVICE = Limit(60, "an init script waits for its daemon")
ENGINE = Limit(30, "the Docker engine reads what it holds before it answers")
DOWNLOAD = Limit(900, "100 MB by a slow line")
SILENCE = Limit(20, "a server that sends nothing for so long is gone")
SIGNATURE = Limit(60, "gpg may have to start its agent, and computes over 100 MB")
GALAXY = Limit(600, "ansible-galaxy clones whole repositories")
PLUGINS = Limit(120, "packer init fetches two plugins")
INDEX = Limit(5, "the index of a package repository is small, and a plan asks for each")
REPOSITORY = Limit(5, "a HEAD request; where nothing is let out, this is how long each bake waits")
CHECKIP = Limit(10, "a line of text")
STAND_IN = Limit(600, "a package is built and signed, the first time with a new key")
CALL = Limit(60, "EC2 describes ten thousand instances in less")
CONNECTION = Limit(10, "a TCP handshake around the world takes one")
KEYS = Limit(30, "an SDK that asks for keys sends one line")

VISIBLE = Limit(60, "what EC2 or SSM has made is seen by others within seconds")
GONE = Limit(120, "EC2 takes an image away within a minute")
COPIED = Limit(3600, "EC2 copies whole disks, maybe to another continent")
RUNNING = Limit(300, "EC2 starts an instance in a minute, on a bad day in four")
STOPPED = Limit(300, "systemd gives a service 90 s to stop, and there may be two in a row")
TERMINATED = Limit(300, "an instance shuts down before it is gone")
ENTRY = Limit(180, "from running to SSH: the kernel, cloud-init's first stages and sshd")
PACKER_ENTRY = Limit(300, "Packer counts from the launch: EC2 starts the instance, and it boots")
LOGIN = Limit(15, "one login over SSH while a machine boots: if it hangs, the next one may not")
COMMAND = Limit(60, "a command that looks at a machine, while its service takes all CPUs")
BOOTED = Limit(600, "cloud-init, with user data of the person's")
REBOOTED = Limit(300, "a machine stops and boots")
PICTURE = Limit(30, "a browser starts and loads one page")

PACKER_STOPS = Limit(180, "Packer terminates its machine and waits for that")
MOLECULE_STOPS = Limit(20, "Molecule has nothing to clear away: the kit does that")
TESTS_STOP = Limit(60, "pytest takes away the machines of its tests")
RUN_STOPS = Limit(60, "the Packer of a dead run terminates its machine")
