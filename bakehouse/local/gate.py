"""Let callers in at the machines' public addresses: the ports that a rule opens and that the machine listens on.

This file is run by ``ports.py`` inside a container that shares the host's network and process view, so it stands
alone. It reads tables as JSON lines on stdin and answers each with one JSON line on stdout, after it took effect:

    {"127.9.8.7": {"to": "172.19.0.10", "pid": 4711, "rules": [[22, 22, ["127.0.0.1/32"]]]}}  ->  {"failed": {}}

``failed`` maps "address:port" to why it could not be opened. The end of stdin is the end of the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import struct
import sys
from typing import Any

EVERY = 0.5  # seconds between two looks at what the machines listen on
LISTEN = "0A"  # the state's code in /proc/net/tcp


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which the machine with this init process can be reached from outside."""
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        for row in rows:
            address, port = row[1].split(":")
            if row[3] == LISTEN and not is_loopback(address):
                ports.add(int(port, 16))
    return ports


def is_loopback(address: str) -> bool:
    """Tell whether an address in /proc/net/tcp's notation (words in host byte order) is loopback."""
    words = [struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def networks(rules: list[Any], port: int) -> list[Any]:
    """Return the networks that the rules let in at a port."""
    return [ipaddress.ip_network(cidr) for first, last, cidrs in rules if first <= port <= last for cidr in cidrs]


def reachable(rules: list[Any], port: int) -> bool:
    """Tell whether any caller on this host's loopback may come in at a port."""
    here = ipaddress.ip_network("127.0.0.0/8")
    return any(net.version == 4 and net.overlaps(here) for net in networks(rules, port))


class Gate:
    """Hold the open doors: one listening socket for each address and port."""

    def __init__(self) -> None:
        self.table: dict[str, Any] = {}
        self.doors: dict[tuple[str, int], asyncio.Server] = {}
        self.failed: dict[str, str] = {}

    async def converge(self) -> None:
        """Open and close doors until they are what the table and the machines say."""
        wanted = {
            (address, port)
            for address, machine in self.table.items()
            for port in listening(machine["pid"])
            if reachable(machine["rules"], port)
        }
        for door in set(self.doors) - wanted:
            self.doors.pop(door).close()
        self.failed = {}
        for address, port in wanted - set(self.doors):
            try:
                self.doors[address, port] = await asyncio.start_server(self.enter, address, port)
            except OSError as error:
                self.failed[f"{address}:{port}"] = error.strerror or str(error)

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its machine, if a rule lets this caller in."""
        address, port = writer.get_extra_info("sockname")[:2]
        caller = ipaddress.ip_address(writer.get_extra_info("peername")[0])
        machine = self.table.get(address)
        if machine is None or not any(caller in net for net in networks(machine["rules"], port)):
            reset(writer)
            return
        try:
            inner, outer = await asyncio.open_connection(machine["to"], port)
        except OSError:
            reset(writer)
            return
        await asyncio.gather(carry(reader, outer), carry(inner, writer))
        for end in (outer, writer):
            end.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a refused one ends."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy bytes until the source ends, and pass its end on."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


async def main() -> None:
    """Follow the tables on stdin and the machines' own listening ports until stdin ends."""
    gate = Gate()
    stdin = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    line = asyncio.ensure_future(stdin.readline())
    while True:
        await asyncio.wait([line], timeout=EVERY if gate.table else None)
        told = line.done()
        if told:
            if not line.result():
                return
            gate.table = json.loads(line.result())
            line = asyncio.ensure_future(stdin.readline())
        await gate.converge()
        if told:
            sys.stdout.write(json.dumps({"failed": gate.failed}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
