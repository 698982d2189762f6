"""Probes: what counts as healthy, told from what was really seen over sockets, HTTP, SSH's answers and Ansible."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ec2_fixtures import wait
from samples import MACHINE

from bakehouse import runs
from bakehouse.errors import VerdictError
from bakehouse.junit import Case, Suite
from bakehouse.machines import Machine, inventories, probes
from bakehouse.machines.probes import Finding, Probe, Unhealthy, Verdict
from bakehouse.recipes.services import Page, Service
from bakehouse.settings import ROOT, Settings

GOOD = Finding("SSH", True, "admin@127.4.5.6", 0.25)
BAD = Finding("GET /login", False, "503 <starting> \x1b[0m", 0.5)
LOGIN, API = Page("/login", 200, "X-Jenkins"), Page("/api/json", 403)


class _Jenkins(BaseHTTPRequestHandler):
    """Answer as a Jenkins does that is up and closed to strangers."""

    def do_GET(self) -> None:
        status = {"/login": 200, "/api/json": 403, "/open": 200, "/bare": 200}.get(self.path, 302)
        self.send_response(status)
        if self.path != "/bare":
            self.send_header("x-jenkins", "2.580.1")
        if status == 302:
            self.send_header("Location", "/login")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def served() -> Iterator[int]:
    """Serve what _Jenkins answers, and return the port."""
    server = HTTPServer(("127.0.0.1", 0), _Jenkins)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def here(**changes: Any) -> Machine:
    """Return a machine whose address is this computer's."""
    return Machine(**{**MACHINE.__dict__, "address": "127.0.0.1", **changes})


HERE = Settings(ROOT, ROOT, "local", "", "jenkins")


@pytest.mark.parametrize(
    ("page", "ok", "evidence"),
    [
        (LOGIN, True, "200, X-Jenkins: 2.580.1"),
        (API, True, "403"),
        (Page("/open", 403), False, "200; 403 is wanted"),
        (Page("/bare", 200, "X-Jenkins"), False, "200, X-Jenkins: missing; 200 with X-Jenkins is wanted"),
        (Page("/", 200), False, "302; 200 is wanted"),
    ],
)
def test_pages(served: int, page: Page, ok: bool, evidence: str) -> None:
    """A page is good when status and header are right; a redirect is not followed, and an open API is no health."""
    [one] = probes.pages(HERE, Service("x", served, (page,)), here())

    finding = probes.look(one)

    assert (f"GET {page.path}", ok, evidence) == (finding.name, finding.ok, finding.evidence)


def test_a_closed_port() -> None:
    """A port where nothing listens is a finding like any other, both for TCP and for HTTP."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = Service("x", taken.getsockname()[1], (LOGIN,))

        [page] = [probes.look(one) for one in probes.pages(HERE, closed, here())]

    assert not page.ok
    assert "refused" in page.evidence


def test_not_http() -> None:
    """Something that answers but doesn't speak HTTP is a failed finding, not a crash."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=_greet, args=(server,))
        thread.start()
        [page] = probes.pages(HERE, Service("x", server.getsockname()[1], (LOGIN,)), here())

        finding = probes.look(page)
        thread.join()

    assert not finding.ok
    assert "no HTTP answer" in finding.evidence


def _greet(server: socket.socket) -> None:
    """Greet a caller as sshd does."""
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.recv(1000)


def test_a_stopped_machine() -> None:
    """Of a machine that is stopped there is one finding, which says so."""
    findings = [probes.look(one) for one in probes.outside(HERE, Service("x", 1, ()), here(state="stopped"))]

    assert [("running", False, "the machine is stopped")] == [(one.name, one.ok, one.evidence) for one in findings]


UNHANDLED = "Unhandled non-multipart (text/x-not-multipart) userdata: 'b'#cloud-confg'...'"


@pytest.mark.parametrize(
    ("status", "evidence"),
    [
        ({"status": "done", "recoverable_errors": {"DEPRECATED": ["cloud-config key"]}, "detail": "y"}, "done: y"),
        (
            {"status": "done", "errors": [], "detail": "DataSourceNoCloud [seed=/var/lib/cloud]"},
            "done: DataSourceNoCloud",
        ),
        ({"status": "done", "errors": [], "recoverable_errors": {"WARNING": ["x"]}, "detail": "y"}, "done: y"),
    ],
)
def test_cloud_init_is_done(status: dict[str, Any], evidence: str) -> None:
    """Done is good, even with warnings; the evidence is where its data came from."""
    assert probes.cloud_init(json.dumps(status)).startswith(evidence)


@pytest.mark.parametrize(
    ("status", "evidence"),
    [
        ('{"status": "running", "errors": []}', "cloud-init is running"),
        ('{"status": "error", "errors": ["runcmd failed", "no disk"]}', "cloud-init is error; runcmd failed; no disk"),
        ('{"status": "done", "errors": ["runcmd failed"]}', "cloud-init is done; runcmd failed"),
        (
            json.dumps(
                {"status": "done", "recoverable_errors": {"WARNING": [UNHANDLED, "slow"], "DEPRECATED": ["old"]}}
            ),
            f"cloud-init did not understand the user-data; {UNHANDLED}",
        ),
        ("cloud-init: not found", "does not tell its state: cloud-init: not found"),
        ("", "does not tell its state: no answer"),
    ],
)
def test_cloud_init_is_not_done(status: str, evidence: str) -> None:
    """Anything else than done without errors is ill health, with what cloud-init says of it."""
    with pytest.raises(Unhealthy, match=re.escape(evidence)):
        probes.cloud_init(status)


def test_a_look_takes_time() -> None:
    """A finding tells how long the look took, by the clock it was given."""
    ticks = iter([10.0, 12.5])

    assert Finding("x", True, "seen", 2.5) == probes.look(Probe("x", lambda: "seen"), lambda: next(ticks))


PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: In service | A look that answers
      ansible.builtin.command: {argv: ["true"]}
      changed_when: false
    - name: In service | Alone
      ansible.builtin.assert: {that: true, success_msg: it stands alone}
    - name: In service | All is well
      ansible.builtin.assert:
        that: item.ok
        success_msg: it is so
        fail_msg: "{{ item.name }}: it is not\\n so"
      loop: [{name: Bad, ok: false}, {name: Good, ok: true}]
- hosts: all
  gather_facts: false
  tasks:
    - name: In service | Broken
      ansible.builtin.command: {argv: [ls, /no/such/file]}
      changed_when: false
"""
BROKEN = PLAY.replace("[{name: Bad, ok: false}, {name: Good, ok: true}]", "[{name: Good, ok: true}]")


def _checkout(folder: Path) -> None:
    """Make a checkout of PLAY."""
    for name in ("playbooks", "inventory"):
        (folder / name).mkdir()
    (folder / "ansible.cfg").write_text("[defaults]\ninterpreter_python = /usr/bin/python3\n")
    (folder / "playbooks" / "verify.yml").write_text(PLAY)


@pytest.fixture
def on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ansible look at this host in place of a machine."""
    monkeypatch.setattr(inventories, "variables", lambda *_: {"ansible_connection": "local"})


@pytest.mark.usefixtures("on_this_host")
def test_verify(settings: Settings) -> None:
    """A real run of Ansible: each assertion and each item of one is a finding, a look is none."""
    _checkout(settings.root)

    findings = probes.verify(settings, [MACHINE])

    assert [MACHINE.id] == list(findings)
    assert [
        ("Alone", True, "it stands alone"),
        ("Bad", False, "it is not so"),
        ("Good", True, "it is so"),
    ] == [(one.name, one.ok, one.evidence) for one in findings[MACHINE.id]]
    assert {} == runs.known(settings)


SLOW = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.command: {argv: [sh, -c, 'echo $$ >"$HOME/begun"; sleep 600']}
"""


VERIFYING = """
import sys
sys.path[:0] = ["tests"]
from pathlib import Path
from samples import MACHINE
from bakehouse import endings, settings
from bakehouse.machines import inventories, probes
inventories.variables = lambda *_: {"ansible_connection": "local"}
with endings.obedient("the look"):
    probes.verify(settings.load(root=Path(sys.argv[1])), [MACHINE])
"""


HIDDEN = "a-word-of-the-persons-own"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_verify_ends_early(settings: Settings, number: signal.Signals) -> None:
    """No process of Ansible goes on when the task is asked to stop; when it is killed, the next look ends them.

    What is on the disk until then holds no secret of the environment.
    """
    _checkout(settings.root)
    (settings.root / "playbooks" / "verify.yml").write_text(SLOW)
    begun = settings.root / "begun"
    line = [sys.executable, "-c", VERIFYING, str(settings.root)]
    environ = {**os.environ, "HOME": str(settings.root), "MY_TOKEN": HIDDEN, "AWS_SECRET_ACCESS_KEY": HIDDEN}
    with subprocess.Popen(line, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        wait(lambda: begun.exists() and begun.read_text().endswith("\n"))
        [run] = runs.known(settings).values()
        of_run = [pid for pid, _ in runs.processes(run)]
        process.send_signal(number)
        _, told = process.communicate(timeout=60)

    assert int(begun.read_text()) in of_run
    if number == signal.SIGKILL:
        assert {run.id} == set(runs.known(settings))
        files = [file for folder in (run.folder, run.scratch) for file in folder.rglob("*") if file.is_file()]
        assert "command" in [file.name for file in files]  # the runner's, with the environment
        assert [] == [file for file in files if HIDDEN.encode() in file.read_bytes()]
        with runs.aside(settings):
            pass
    else:
        assert "the look was interrupted by SIGTERM" in told
    assert [] == runs.processes(run)
    assert {} == runs.known(settings)


@pytest.mark.usefixtures("on_this_host")
def test_verify_what_breaks(settings: Settings) -> None:
    """A task that breaks is a bad finding too, with what was said."""
    _checkout(settings.root)
    (settings.root / "playbooks" / "verify.yml").write_text(BROKEN)

    findings = probes.verify(settings, [MACHINE])[MACHINE.id]

    assert [("Alone", True), ("Good", True), ("Broken", False)] == [(one.name, one.ok) for one in findings]
    assert findings[-1].evidence.startswith("non-zero return code ls: ")


def test_verify_a_machine_that_ansible_does_not_see(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that isn't in the inventory, so that nothing was found, is not healthy; what Ansible said is told."""
    _checkout(settings.root)
    monkeypatch.setattr(inventories, "static", lambda *_: {})

    [finding] = probes.verify(settings, [MACHINE])[MACHINE.id]

    assert (probes.VERIFY, False) == (finding.name, finding.ok)
    assert finding.evidence


def test_findings_of_an_unreachable_machine() -> None:
    """Of a machine that Ansible can't reach nothing is known; that is its finding."""
    seen = {"host": "i-1", "task": "In service | Look at the unit", "res": {"msg": "Failed to connect"}}

    found = probes.findings_of([{"event": "runner_on_unreachable", "event_data": seen}, {"event": "verbose"}])

    assert {"i-1": [Finding("Look at the unit", None, "Failed to connect", 0.0)]} == found


def test_verdict() -> None:
    """A verdict is good when all findings are; without a finding it is not."""
    assert Verdict(MACHINE, (GOOD,)).ok
    assert not Verdict(MACHINE, (GOOD, BAD)).ok
    assert not Verdict(MACHINE, ()).ok


def test_insist() -> None:
    """The error names the machine and what failed on it; it is the exit code of a failed verdict."""
    probes.insist([Verdict(MACHINE, (GOOD,))])

    with pytest.raises(VerdictError, match=f"not healthy: {MACHINE.id}: GET /login") as raised:
        probes.insist([Verdict(MACHINE, (GOOD,)), Verdict(MACHINE, (GOOD, BAD))])
    assert 1 == raised.value.code


def test_tail() -> None:
    """Of what a machine wrote the last lines are shown, and nothing in them reaches the terminal as a command."""
    written = "\n".join([*map(str, range(20)), "[\x1b[0;32m  OK  \x1b[0m] \x1b]0;mine\x07Started\r", ""])

    assert [*map(str, range(6, 20)), "[  OK  ] ]0;mineStarted"] == probes.tail(written)
    assert ["(empty)"] == probes.tail(" \n")


def test_as_suites() -> None:
    """A report holds a suite for the machine and a case for each finding, with its evidence."""
    cases = (Case("SSH", 0.25, "good", GOOD.evidence), Case("GET /login", 0.5, "failure", BAD.evidence))

    assert [Suite(MACHINE.id, f"jenkins.{MACHINE.id}", cases)] == probes.as_suites([Verdict(MACHINE, (GOOD, BAD))])


def test_as_data() -> None:
    """A program reads for each machine whether it is good, and each finding with its evidence."""
    [told] = json.loads(json.dumps(probes.as_data([Verdict(MACHINE, (GOOD,))])))

    assert (MACHINE.id, MACHINE.image, True) == (told["machine"], told["image"], told["ok"])
    assert [{"name": "SSH", "ok": True, "evidence": "admin@127.4.5.6", "seconds": 0.25}] == told["findings"]
