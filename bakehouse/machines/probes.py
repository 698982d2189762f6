"""Probes: look whether machines are healthy, from outside and from within, and collect the findings as verdicts."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bakehouse import console, patience, runs, system
from bakehouse.accounts import Account
from bakehouse.errors import NotKnownError, VerdictError
from bakehouse.junit import Case, Outcome, Suite
from bakehouse.machines import Machine, inventories, journals, shells
from bakehouse.recipes.services import Page, Service
from bakehouse.runs import Run
from bakehouse.settings import RECIPE, Settings

VERIFY = "playbooks/verify.yml"
"""The playbook that looks at a machine from within; each of its assertions is a finding."""

_LAST = 15  # lines
_ABOUT_USER_DATA = re.compile(r"user-?data|cloud-config|schema", re.IGNORECASE)
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

COLUMNS = ("machine", "finding", "good", "seconds", "evidence")

OUTCOMES: Mapping[bool | None, str] = {True: "ok", False: "FAIL", None: "not known"}
"""The words for what a finding says."""

_CASES: Mapping[bool | None, Outcome] = {True: "good", False: "failure", None: "skipped"}


class Unhealthy(Exception):  # noqa: N818, a finding and no error
    """A probe found something that is wrong with a machine; the text is the evidence."""


@dataclass(frozen=True)
class Probe:
    """Hold one read-only probe. ``look`` returns its evidence; it raises Unhealthy or OSError if the machine is ill.

    When there is no answer, it raises NotKnownError or TimeoutError: then nothing is known.
    """

    name: str
    look: Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """Hold the result of one probe: its name, whether it is good, its evidence, and how many seconds it took.

    ``ok`` is None when that isn't known, because there was no answer; the evidence says what was waited for.
    """

    name: str
    ok: bool | None
    evidence: str
    seconds: float = 0


@dataclass(frozen=True)
class Verdict:
    """Hold all findings on one machine."""

    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """Return the findings that are not good."""
        return [finding for finding in self.findings if finding.ok is False]

    @property
    def unknown(self) -> list[Finding]:
        """Return the findings of which it isn't known whether they are good."""
        return [finding for finding in self.findings if finding.ok is None]

    @property
    def ok(self) -> bool | None:
        """Tell whether there are findings and all of them are good; None when that isn't known."""
        if self.failed or not self.findings:
            return False
        return None if self.unknown else True


def probe(settings: Settings, service: Service, found: Sequence[Machine]) -> list[Verdict]:
    """Look at machines from outside and from within, and return a verdict on each, in their order."""
    with console.step(f"{' '.join(machine.id for machine in found)} probed from outside"):
        seen = {machine.id: [look(one) for one in outside(settings, service, machine)] for machine in found}
    entered = [machine for machine in found if all(finding.ok for finding in seen[machine.id] if finding.name == "SSH")]
    if entered:
        for machine_id, findings in verify(settings, entered).items():
            seen[machine_id] += findings
    return [Verdict(machine, tuple(seen[machine.id])) for machine in found]


def look(one: Probe, clock: Callable[[], float] = time.monotonic) -> Finding:
    """Carry out one probe and return its finding."""
    begun = clock()
    ok: bool | None = True
    try:
        evidence = one.look()
    except NotKnownError as error:
        ok, evidence = None, error.text
    except TimeoutError as error:
        ok, evidence = None, error.strerror or str(error)
    except Unhealthy as error:
        ok, evidence = False, str(error)
    except OSError as error:
        ok, evidence = False, error.strerror or str(error)
    return Finding(one.name, ok, evidence, round(clock() - begun, 3))


def outside(settings: Settings, service: Service, machine: Machine) -> list[Probe]:
    """Return the probes of a machine from outside: its ports, SSH, cloud-init and the pages of its service."""
    if machine.state != "running":
        return [Probe("running", lambda: _unhealthy(f"the machine is {machine.state}"))]
    return [
        _port(settings, machine, 22),
        Probe("SSH", lambda: _entered(settings, machine)),
        Probe("cloud-init", lambda: _booted(settings, machine)),
        *(_port(settings, machine, port) for port in service.ports),
        *pages(settings, service, machine),
    ]


def pages(settings: Settings, service: Service, machine: Machine) -> list[Probe]:
    """Return the probes of the service's pages, without a login."""
    return [Probe(f"GET {page.path}", partial(_get, settings, machine, service.port, page)) for page in service.pages]


def up(settings: Settings, service: Service, machine: Machine) -> Probe:
    """Return the probe that shows whether the service is up: of its first page, or of its port if it has no page."""
    return next(iter(pages(settings, service, machine)), _port(settings, machine, service.port))


def cloud_init(status: str) -> str:
    """Return the evidence that cloud-init is done; raises Unhealthy when it is not, or didn't understand its user-data.

    ``status`` is the output of ``cloud-init status --format json``. Since version 23.4 it lists warnings too, in
    ``recoverable_errors``; those that aren't about user-data are told, and are no fault.
    """
    try:
        answer = json.loads(status)
    except ValueError:
        raise Unhealthy(f"cloud-init does not tell its state: {status.strip() or 'no answer'}") from None
    if answer.get("status") != "done" or answer.get("errors"):
        raise Unhealthy("; ".join([f"cloud-init is {answer.get('status')}", *map(str, answer.get("errors", ()))]))
    found = answer.get("recoverable_errors") or {}
    warnings = [line for level in found for line in found[level] if level != "DEPRECATED"]
    if misread := [line for line in warnings if _ABOUT_USER_DATA.search(line)]:
        raise Unhealthy("; ".join(["cloud-init did not understand the user-data", *misread]))
    return "; ".join([f"done: {answer.get('detail', '')}", *warnings])


def judge(page: Page, status: int, headers: Mapping[str, str]) -> str:
    """Return the evidence that a page has the expected status and header; raises Unhealthy when it has not."""
    value = next((value for name, value in headers.items() if name.lower() == page.header.lower()), None)
    shown = f", {page.header}: {'missing' if value is None else value}" if page.header else ""
    if status != page.status or (page.header and value is None):
        raise Unhealthy(f"{status}{shown}; {page.status}{' with ' + page.header if page.header else ''} is wanted")
    return f"{status}{shown}"


def verify(settings: Settings, found: Sequence[Machine]) -> dict[str, list[Finding]]:
    """Run the playbook ``VERIFY`` on machines, and return the findings by machine ID."""
    import ansible_runner

    events: list[dict[str, Any]] = []

    def see(event: dict[str, Any]) -> bool:
        events.append(event)
        return False  # the runner needn't store the event

    begun = time.monotonic()
    with (
        console.step(f"{' '.join(machine.id for machine in found)} verified from within"),
        runs.aside(settings) as within,
        system.only(_environment(settings, within)),  # the runner writes its environment to the disk
    ):
        run = ansible_runner.run(
            private_data_dir=str(within.scratch),
            playbook=str(settings.root / VERIFY),
            inventory=str(_inventory(settings, found, within.scratch)),
            event_handler=see,
            cancel_callback=lambda: False,  # without it the runner replaces our handlers of SIGINT and SIGTERM for good
            quiet=True,
        )
        with run.stdout as told:
            said = " ".join(told.read().split())
    findings = findings_of(events)
    unseen = Finding(VERIFY, False, said or "Ansible said nothing", time.monotonic() - begun)
    return {machine.id: findings.get(machine.id) or [unseen] for machine in found}


def findings_of(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Finding]]:
    """Return the findings by machine ID from ansible-runner's events: all assertions, and other tasks that failed.

    An assertion in a loop gives a finding for each item, and the item's ``name`` is the finding's name.
    """
    findings: dict[str, list[Finding]] = {}
    for event in events:
        seen = event.get("event_data", {})
        finding = _finding(event["event"], seen)
        if finding:
            findings.setdefault(seen["host"], []).append(finding)
    return findings


def _finding(event: str, seen: Mapping[str, Any]) -> Finding | None:
    what, _, outcome = event.removeprefix("runner_").rpartition("_")
    result = seen.get("res", {})
    asserts = str(seen.get("task_action", "")).rpartition(".")[2] == "assert"
    if outcome not in ("ok", "failed", "unreachable") or (outcome == "ok" and not asserts):
        return None
    of_loop, item = "results" in result, what == "item_on"
    if (of_loop and asserts) or (item and not asserts):
        return None  # an assertion's loop is reported by its items, any other loop by its end
    name = result["item"]["name"] if item else seen.get("task", "").rpartition("| ")[2]
    evidence = " ".join(f"{result.get('msg', '')} {result.get('stderr', '')}".split()).removeprefix(f"{name}: ")
    ok = {"ok": True, "failed": False}.get(outcome)  # a machine that Ansible doesn't reach is not known
    return Finding(name, ok, evidence, seen.get("duration") or 0.0)


def insist(verdicts: Sequence[Verdict], hint: str = "") -> None:
    """Raise VerdictError, which names all failed findings, or NotKnownError, unless all verdicts are good."""
    failed = [verdict for verdict in verdicts if verdict.ok is False]
    unknown = [verdict for verdict in verdicts if verdict.unknown]
    if unknown and not failed:
        of = "; ".join(f"{one.machine.id}: {', '.join(finding.name for finding in one.unknown)}" for one in unknown)
        raise NotKnownError(f"it isn't known whether they are healthy: {of}", hint or patience.LONGER)
    if failed:
        found = "; ".join(f"{one.machine.id}: {', '.join(finding.name for finding in one.failed)}" for one in failed)
        first = failed[0].machine
        of_recipe = "" if first.recipe == RECIPE else f" --recipe {first.recipe}"
        hint = hint or f"./inv ssh{of_recipe} --machine {first.id} enters the machine"
        raise VerdictError(f"not healthy: {found}", hint)


def ailing(account: Account, settings: Settings, service: Service, machine: Machine) -> list[str]:
    """Return the last lines of a machine's console and of its service's journal, which may say why it isn't healthy."""
    written = journals.read(account, settings, service, machine)
    return [
        f"--- console of {machine.id}",
        *tail(written.console),
        f"--- journal of {service.unit or machine.id}",
        *tail(written.journal),
    ]


def tail(text: str) -> list[str]:
    """Return the last lines of a machine's output, without colours and control characters of a terminal."""
    shown = [_printable(_ESCAPE.sub("", line)) for line in text.strip().splitlines()]
    return shown[-_LAST:] or ["(empty)"]


def as_data(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as data for JSON."""
    return [
        {
            "machine": verdict.machine.id,
            "image": verdict.machine.image,
            "ok": verdict.ok,
            "findings": [asdict(finding) for finding in verdict.findings],
        }
        for verdict in verdicts
    ]


def as_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return verdicts as the rows of a table, under ``COLUMNS``."""
    return [
        [
            verdict.machine.id,
            finding.name,
            OUTCOMES[finding.ok],
            f"{finding.seconds:.1f}",
            finding.evidence,
        ]
        for verdict in verdicts
        for finding in verdict.findings
    ]


def as_suites(verdicts: Sequence[Verdict]) -> list[Suite]:
    """Return verdicts for a report: a suite for each machine, a case for each finding."""
    return [
        Suite(
            verdict.machine.id,
            f"{verdict.machine.recipe}.{verdict.machine.id}",
            tuple(
                Case(finding.name, finding.seconds, _CASES[finding.ok], finding.evidence)
                for finding in verdict.findings
            ),
        )
        for verdict in verdicts
    ]


def _environment(settings: Settings, within: Run) -> dict[str, str]:
    """Return the environment of Ansible. It holds no key of an account: the inventory needs none."""
    scratch = str(within.scratch)
    ours = {
        runs.VARIABLE: within.id,
        "ANSIBLE_CONFIG": str(settings.root / "ansible.cfg"),
        "ANSIBLE_HOME": scratch,
        "ANSIBLE_TIMEOUT": f"{patience.CONNECTION.seconds:.0f}",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": scratch,
        "ANSIBLE_NOCOLOR": "1",
    }
    return system.environment(*system.ANSIBLE, **ours)


def _inventory(settings: Settings, found: Sequence[Machine], scratch: Path) -> Path:
    """Write the inventory of these machines, with the checkout's variables of groups, and return its folder."""
    folder = scratch / "inventory"
    folder.mkdir()
    (folder / "machines.json").write_text(json.dumps(inventories.static(settings, found)))
    (folder / "group_vars").symlink_to(settings.root / "inventory" / "group_vars")
    return folder


def _printable(line: str) -> str:
    return "".join(char for char in line if char.isprintable() or char == "\t")


def _unhealthy(evidence: str) -> str:
    raise Unhealthy(evidence)


def _port(settings: Settings, machine: Machine, port: int) -> Probe:
    return Probe(f"port {port}", lambda: _knocked(settings, machine, port))


def _knocked(settings: Settings, machine: Machine, port: int) -> str:
    shells.knock(settings, machine, port)
    return f"{machine.address}:{port} is open"


def _entered(settings: Settings, machine: Machine) -> str:
    kernel = _answer(settings, machine, "uname -nsr")
    return f"{machine.user}@{machine.address} on {kernel}"


def _booted(settings: Settings, machine: Machine) -> str:
    """Return the evidence that cloud-init is done; when it is not, it may wait for a unit that doesn't get ready."""
    try:
        return cloud_init(_answer(settings, machine, "cloud-init status --format json"))
    except Unhealthy as error:
        listed = _answer(settings, machine, "systemctl list-units --state=activating --plain --no-legend --no-pager")
        starting = ", ".join(line.split()[0] for line in listed.splitlines() if line.strip())
        raise Unhealthy(f"{error}; systemd is still starting {starting}" if starting else str(error)) from error


def _answer(settings: Settings, machine: Machine, command: str) -> str:
    answer = shells.enter(settings, machine, command)
    if answer.returncode == 255:
        raise Unhealthy(answer.stderr.strip() or "the SSH login failed")
    return answer.stdout.strip()


def _get(settings: Settings, machine: Machine, port: int, page: Page) -> str:
    with shells.connected(settings, machine, port) as connected:
        connection = http.client.HTTPConnection(machine.address, port)
        connection.sock = connected
        try:
            connection.request("GET", page.path)
            answer = connection.getresponse()
            return judge(page, answer.status, dict(answer.getheaders()))
        except http.client.HTTPException as error:
            raise Unhealthy(f"no HTTP answer: {error!r}") from error
        finally:
            connection.close()
