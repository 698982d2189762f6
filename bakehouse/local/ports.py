"""Open the machines' public ports to those whom the security groups let in at this moment.

A gate (``gate.py``) in a container of its own holds the listening sockets, because an ordinary user may not open
port 22 on the host, nor turn a port that another program has, and because it has to see what the machines listen on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bakehouse.local.drivers import Driver
from bakehouse.local.gate import LISTEN

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("gate.py")

Table = Mapping[str, Mapping[str, Any]]
"""Public address -> {"to": private address, "pid": its init's on the host, "rules": [[first, last, [CIDR]], ...]}.

A machine without a public address is here by its private one, with an empty "to": nobody of this host gets in there.
"""


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
            if rule.ip_protocol in ("tcp", "-1") and (sources := _sources(group, rule)):
                first, last = (0, 65535) if rule.from_port in (None, -1) else (rule.from_port, rule.to_port)
                found.append([first, last, sources])
    return found


def _sources(group: Any, rule: Any) -> list[str]:
    """Return the CIDR blocks that a rule lets in: its own, or those of its prefix list."""
    if not rule.prefix_list_id:
        return [*filter(None, [rule.cidr_ipv4 or rule.cidr_ipv6])]
    listed = group.ec2_backend.managed_prefix_lists[rule.prefix_list_id]
    return [entry["Cidr"] for entry in listed.entries.get(listed.version, ())]


def rules(instance: Any) -> list[list[Any]]:
    """Return the rules of an instance's groups, as ``rules_of`` does."""
    return rules_of(instance.security_groups or instance.nics[0].group_set)


class GateDriver(Driver):
    """Drive the gate.

    Attributes:
        unfenced: why no machine can have a port that a program has at all addresses of the host; empty when one can.
    """

    def __init__(self, name: str, block: str, labels: Mapping[str, str]) -> None:
        rights = ("--cap-add", "NET_BIND_SERVICE", "--cap-add", "NET_ADMIN")
        super().__init__(
            "the gate", name, labels, (*rights, "--network", "host", "--pid", "host"), (str(_SOURCE), name, block)
        )
        self.unfenced = ""

    def follow(self, look: Callable[[], Table], image: str) -> Mapping[str, str]:
        """Make the open ports equal to the table that ``look`` returns now; return "address:port" -> why not.

        ``image`` is a base's Docker image: the gate needs its Python and nft. Raises DriverError when it doesn't run.
        """
        with self.lock:
            table = look()
            if not self.runs() and not table and not image:
                return {}  # there is no base yet
            told = self.ask(table, image)
            if told["unfenced"] != self.unfenced:
                log.warning("no fence around the machines' ports: %s", told["unfenced"])
            self.unfenced = told["unfenced"]
            failed: dict[str, str] = told["failed"]
            return failed
