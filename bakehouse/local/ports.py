"""Open the machines' public ports to those whom the security groups let in at this moment.

A gate (``gate.py``) in a container of its own holds the listening sockets, because an ordinary user may not open
port 22 on the host, nor turn a port that another program has, and because it has to see what the machines listen on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock, Thread, Timer
from typing import IO, Any

from bakehouse import system
from bakehouse.local.gate import LISTEN

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("gate.py")

Table = Mapping[str, Mapping[str, Any]]
"""Public address -> {"to": private address, "pid": its init's on the host, "rules": [[first, last, [CIDR]], ...]}.

A machine without a public address is here by its private one, with an empty "to": nobody of this host gets in there.
"""


class GateError(Exception):
    """Say why the gate doesn't do what it was told."""


class _NoAnswerError(GateError):
    """Say that a gate has ended, or hangs."""


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that was started with a session of its own, and what it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    """Return one of the pipes with which a process was started."""
    assert pipe is not None
    return pipe


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


class GateDriver:
    """Drive the gate's container: start it with the first table, make it anew when it hangs, end it with this process.

    Attributes:
        unfenced: why no machine can have a port that a program has at all addresses of the host; empty when one can.
        answer_seconds: how long a gate may take to answer.
        start_seconds: how long a new gate may take until its first answer, which is how long Docker may take.
        ended: set when a gate that has answered ends by itself; who makes it anew clears it.
    """

    def __init__(self, name: str, block: str, labels: Mapping[str, str]) -> None:
        self.unfenced = ""
        self.answer_seconds = 20.0
        self.start_seconds = 60.0
        self._name = name
        self._block = block
        self._labels = labels
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answered: subprocess.Popen[str] | None = None
        self.ended = Event()

    def follow(self, look: Callable[[], Table], image: str) -> Mapping[str, str]:
        """Make the open ports equal to the table that ``look`` returns now; return "address:port" -> why not.

        ``image`` is a base's Docker image: the gate needs its Python and nft. Raises GateError when it doesn't run.
        """
        with self._lock:
            table = look()
            if not self._runs() and not table and not image:
                return {}  # there is no base yet
            told = self._told(table, image)
            if told["unfenced"] != self.unfenced:
                log.warning("no fence around the machines' ports: %s", told["unfenced"])
            self.unfenced = told["unfenced"]
            failed: dict[str, str] = told["failed"]
            return failed

    def close(self) -> None:
        """End the gate: all public ports close."""
        with self._lock:
            if self._process is None:
                return
            self._answered = None
            with contextlib.suppress(OSError):
                _pipe(self._process.stdin).close()
            try:
                self._process.wait(self.answer_seconds)
            except subprocess.TimeoutExpired:
                log.warning("the gate does not end by itself")
                self._remove()
            self._drop()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _told(self, table: Table, image: str) -> dict[str, Any]:
        """Return what the gate says of a table; where a gate gives no answer, ask a new one, once."""
        try:
            return self._ask_some(table, image)
        except _NoAnswerError as error:
            log.warning("%s; it is made anew", error)
            return self._ask_some(table, image)

    def _ask_some(self, table: Table, image: str) -> dict[str, Any]:
        """Ask the gate that runs, or a new one; a gate that gives no answer is ended."""
        seconds = self.answer_seconds
        if not self._runs():
            self._start(image)
            seconds = self.start_seconds
        try:
            return self._ask(table, seconds)
        except _NoAnswerError:
            self._drop()
            raise

    def _ask(self, table: Table, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        # a gate that hangs takes in nothing either, and a pipe is soon full: the end of the process ends both waits
        late = Timer(seconds, self._kill, (self._process,))
        late.daemon = True
        late.start()
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps(table) + "\n")
            stdin.flush()
            answer = _pipe(self._process.stdout).readline()
        except OSError:
            answer = ""
        finally:
            late.cancel()
        if not answer:
            raise _NoAnswerError(self._complaint(seconds))
        decoded: dict[str, Any] = json.loads(answer)
        if self._answered is not self._process:
            self._answered = self._process
            Thread(target=self._see_end, args=(self._process,), daemon=True, name="gate").start()
        return decoded

    def _see_end(self, process: subprocess.Popen[str]) -> None:
        """Tell when a gate has ended which nobody has ended here."""
        process.wait()
        if process is self._answered:
            self.ended.set()

    def _kill(self, process: subprocess.Popen[str]) -> None:
        self._answered = None  # it doesn't end by itself
        _kill(process)

    def _complaint(self, seconds: float) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.answer_seconds)
        if self._process.returncode in (None, -signal.SIGKILL):
            return f"the gate did not answer within {seconds:g} s"
        said = _pipe(self._process.stderr).read().strip().partition("\n")[0]
        return f"the gate ended: {said or f'exit code {self._process.returncode}'}"

    def _drop(self) -> None:
        """Have done with the gate's process."""
        process, self._process = self._process, None
        if process is None:
            return
        self._kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # what is left of a table can't be written any more
                _pipe(pipe).close()

    def _start(self, image: str) -> None:
        self._drop()
        self._remove()
        self._process = system.start(
            self._command(image),
            system.environment(*system.DOCKER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _remove(self) -> None:
        """Remove the gate's container: what is left of an earlier gate, or one that hangs."""
        line = ["docker", "rm", "-f", self._name]
        try:
            environ = system.environment(*system.DOCKER)
            system.call(line, environ, capture_output=True, check=False, timeout=self.start_seconds)
        except subprocess.TimeoutExpired as error:
            raise GateError(f"Docker did not remove the gate within {self.start_seconds:g} s") from error

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
