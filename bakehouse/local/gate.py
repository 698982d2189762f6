"""Let callers in at the machines' public addresses: the ports that a rule opens and that the machine listens on.

This file is run by ``ports.py`` inside a container that shares the host's network and process view, so it stands
alone. Its arguments are a name and the block of the machines' public addresses. It reads tables as JSON lines on stdin
and answers each with one JSON line on stdout, after it took effect:

    {"127.9.8.7": {"to": "172.19.0.10", "pid": 4711, "rules": [[22, 22, ["127.0.0.1/32"]]]},
     "172.19.0.11": {"to": "", "pid": 0, "rules": []}}
    {"failed": {}, "unfenced": ""}

A machine with an empty "to" has no public address, so that only other machines reach it, at its private one.

``failed`` maps "address:port" to why it could not be opened. A program of the host that listens at all addresses, an
sshd say, would have its port at the machines' addresses too: so a fence is put around the block, a table of nftables,
which turns a machine's port to another one where the gate listens and lets nothing else of the host be reached there.
``unfenced`` tells why that isn't possible. The end of stdin is the end of the gate and of its fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
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


Opening = tuple[str, int]
"""A public address and a port at which callers are let in."""


def ruleset(name: str, block: str, openings: dict[Opening, int], closed: list[str]) -> str:
    """Return nft's script that replaces the fence.

    It lets callers in at the openings alone, each of which comes with the port of its socket, and lets no program of
    this host connect to the private addresses in ``closed``.
    """
    own = [f"ip daddr {address} tcp dport {port} accept" for (address, port), at in openings.items() if at == port]
    moved = [
        f"ip daddr {address} tcp dport {port} dnat to {address}:{at}"
        for (address, port), at in openings.items()
        if at != port
    ]
    lines = [
        f"table ip {name}",
        f"delete table ip {name}",
        f"table ip {name} {{",
        "chain turn { type nat hook output priority -100;",
        *moved,
        "}",
        "chain guard { type filter hook output priority 0;",
        "ct state established accept",
        "ct status dnat accept",
        *own,
        *(f"ip daddr {outside} meta l4proto tcp reject with tcp reset" for outside in (block, *closed)),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


class Fence:
    """Keep what else listens on the host from being reached at the machines' addresses."""

    def __init__(self, name: str, block: str) -> None:
        self.name, self.block = name, block
        self.lacking = ""
        self._ruleset = ""

    async def follow(self, openings: dict[Opening, int], closed: list[str]) -> None:
        """Let callers in at these openings alone; ``lacking`` then says why there is no fence, if there is none."""
        wanted = ruleset(self.name, self.block, openings, closed)
        if wanted != self._ruleset:
            self.lacking = await self._nft(wanted)
            self._ruleset = wanted

    async def remove(self) -> None:
        """Take the fence away."""
        await self._nft(f"table ip {self.name}\ndelete table ip {self.name}\n")

    async def _nft(self, script: str) -> str:
        pipe = asyncio.subprocess.PIPE
        try:
            nft = await asyncio.create_subprocess_exec("nft", "-f", "-", stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            return f"nft: {error.strerror}"
        _, complaint = await nft.communicate(script.encode())
        return complaint.decode(errors="replace").strip().partition("\n")[0] if nft.returncode else ""


class Gate:
    """Hold one listening socket for each opening."""

    def __init__(self, fence: Fence) -> None:
        self.table: dict[str, Any] = {}
        self.openings: dict[Opening, asyncio.Server] = {}
        self.failed: dict[str, str] = {}
        self.fence = fence

    async def converge(self) -> None:
        """Open and close until the openings are what the table and the machines say."""
        wanted = {
            (address, port)
            for address, machine in self.table.items()
            for port in listening(machine["pid"])
            if reachable(machine["rules"], port)
        }
        for opening in set(self.openings) - wanted:
            self.openings.pop(opening).close()
        self.failed = {}
        for address, port in wanted - set(self.openings):
            try:
                self.openings[address, port] = await self.open(address, port)
            except OSError as error:
                self.failed[f"{address}:{port}"] = error.strerror or str(error)
        closed = sorted(address for address, machine in self.table.items() if not machine["to"])
        await self.fence.follow({opening: socket_port(server) for opening, server in self.openings.items()}, closed)

    async def open(self, address: str, port: int) -> asyncio.Server:
        """Listen at an opening.

        Where a program of the host has its port, another port is listened on, to which the fence turns callers.
        """
        enter = functools.partial(self.enter, address, port)
        try:
            return await asyncio.start_server(enter, address, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or self.fence.lacking:
                raise
            return await asyncio.start_server(enter, address, 0)

    async def enter(self, address: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its machine, if a rule lets this caller in."""
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


def socket_port(server: asyncio.Server) -> int:
    """Return the port on which a server listens."""
    port: int = server.sockets[0].getsockname()[1]
    return port


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


async def main(name: str, block: str) -> None:
    """Follow the tables on stdin and the machines' own listening ports until stdin ends."""
    fence = Fence(name, block)
    await fence.follow({}, [])
    gate = Gate(fence)
    stdin = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    line = asyncio.ensure_future(stdin.readline())
    while True:
        await asyncio.wait([line], timeout=EVERY if gate.table else None)
        told = line.done()
        if told:
            if not line.result():
                return await fence.remove()
            gate.table = json.loads(line.result())
            line = asyncio.ensure_future(stdin.readline())
        await gate.converge()
        if told:
            sys.stdout.write(json.dumps({"failed": gate.failed, "unfenced": fence.lacking}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
