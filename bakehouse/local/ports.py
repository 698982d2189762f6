"""The machines' public ports: who may connect to which, as the security groups say at this moment.

A gate (``gate.py``) in a container of its own holds the listening sockets, because an ordinary user may not open
port 22 on the host, nor turn a port that another program has, and because it has to see what the machines listen on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from bakehouse.local.gate import LISTEN

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("gate.py")

Table = Mapping[str, Mapping[str, Any]]
"""Public address -> {"to": private address, "pid": its init's on the host, "rules": [[first, last, [CIDR]], ...]}."""


class GateError(Exception):
    """Say why the gate doesn't do what it was told."""


def taken(ports: Iterable[int]) -> list[int]:
    """Return those ports on which something listens at all addresses of this host."""
    everywhere = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            rows = [line.split() for line in lines][1:]
        addresses = [row[1].split(":") for row in rows if row[3] == LISTEN]
        everywhere |= {int(port, 16) for address, port in addresses if not int(address, 16)}
    return sorted(set(ports) & everywhere)


def public_block(checkout: str) -> str:
    """Return the CIDR block of a checkout's public addresses, on loopback."""
    seed = hashlib.sha256(checkout.encode()).digest()
    return f"127.{seed[0] % 254 + 1}.{seed[1]}.0/24"


def rules_of(groups: Iterable[Any]) -> list[list[Any]]:
    """Return [first port, last port, [CIDR block, ...]] for each rule of the groups that lets TCP in."""
    found = []
    for group in groups:
        for rule in group.ingress_rules:
            if rule.ip_protocol in ("tcp", "-1") and (rule.cidr_ipv4 or rule.cidr_ipv6):
                first, last = (0, 65535) if rule.from_port in (None, -1) else (rule.from_port, rule.to_port)
                found.append([first, last, [rule.cidr_ipv4 or rule.cidr_ipv6]])
    return found


def rules(instance: Any) -> list[list[Any]]:
    """Return the rules of an instance's groups, as ``rules_of`` does."""
    return rules_of(instance.security_groups or instance.nics[0].group_set)


class GateDriver:
    """Drive the gate's container: started with the first table, ended with this process."""

    def __init__(self, name: str, block: str, labels: Mapping[str, str]) -> None:
        self.unfenced = ""  # why no machine can have a port that something listens on at all addresses
        self._name = name
        self._block = block
        self._labels = labels
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def follow(self, look: Callable[[], Table], image: str) -> Mapping[str, str]:
        """Make the open ports equal to the table that ``look`` returns now; returns "address:port" -> why not.

        ``image`` is a base's Docker image: the gate needs its Python and nft. Raises GateError when it doesn't run.
        """
        with self._lock:
            table = look()
            if self._process is None or self._process.poll() is not None:
                if not table and not image:
                    return {}  # there is no base yet
                self._start(image)
            told = self._ask(table)
            if told["unfenced"] != self.unfenced:
                log.warning("no fence around the machines' ports: %s", told["unfenced"])
            self.unfenced = told["unfenced"]
            failed: dict[str, str] = told["failed"]
            return failed

    def close(self) -> None:
        """End the gate: all public ports close."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
                self._process.wait(timeout=20)
                self._process = None

    def _ask(self, table: Table) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(table) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise GateError(f"the gate ended: {self._complaint()}")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def _complaint(self) -> str:
        assert self._process is not None and self._process.stderr is not None
        self._process.wait(timeout=20)
        return self._process.stderr.read().strip().partition("\n")[0] or f"exit code {self._process.returncode}"

    def _start(self, image: str) -> None:
        subprocess.run(["docker", "rm", "-f", self._name], capture_output=True, check=False)
        self._process = subprocess.Popen(
            self._command(image),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _command(self, image: str) -> Sequence[str]:
        labels = [part for key, value in self._labels.items() for part in ("--label", f"{key}={value}")]
        rights = [
            "--cap-drop",
            "ALL",
            "--cap-add",
            "NET_BIND_SERVICE",
            "--cap-add",
            "NET_ADMIN",
            "--security-opt",
            "apparmor=unconfined",
        ]
        place = ["--network", "host", "--pid", "host", "--read-only", "--workdir", "/"]
        return [
            *("docker", "run", "--interactive", "--rm", "--name", self._name),
            *labels,
            *rights,
            *place,
            *("--entrypoint", "python3", image, "-I", "-c", _SOURCE.read_text(), self._name, self._block),
        ]
