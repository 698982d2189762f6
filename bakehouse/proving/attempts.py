"""Attempts: launch two machines of an image, look at them, boot them again, and collect the findings."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from bakehouse import console, machines, patience
from bakehouse.accounts import TAG, Account, access
from bakehouse.errors import CloudError, DeadlineError, NotKnownError, ToolError
from bakehouse.images import Image
from bakehouse.machines import Machine, journals, launches, probes, shells
from bakehouse.machines.launches import Served
from bakehouse.machines.probes import Finding
from bakehouse.proving import identity, reports
from bakehouse.proving.identity import Question, Traits
from bakehouse.proving.reports import Proof, Seen
from bakehouse.recipes import Recipe
from bakehouse.recipes.services import Service
from bakehouse.records import store
from bakehouse.records.contents import Change
from bakehouse.runs import Run
from bakehouse.settings import Settings

_FIRST, _SECOND = "first boot", "second boot"
_CLOCK_SECONDS = 1  # EC2 gives the time of an image's creation in whole seconds


class Attempt:
    """Carry out a proof and hold its findings so far.

    Attributes:
        machines: the two machines; empty before their launch.
        logs: the journals and consoles of the machines, by name.
        picture: a PNG of the service's first page; empty when there is none.
    """

    def __init__(self, settings: Settings, account: Account, recipe: Recipe, service: Service, image: Image) -> None:
        self._settings, self._account = settings, account
        self._recipe, self._service, self._image = recipe, service, image
        patterns = (*service.secrets, service.password_file)
        made = image.created.timestamp() + _CLOCK_SECONDS
        self._question = Question(secrets.token_hex(16), tuple(dict.fromkeys(filter(None, patterns))), made)
        self._traits: dict[str, Traits] = {}
        self._began, self._clock = datetime.now(UTC), time.monotonic()
        self.machines: list[Machine] = []
        self._boot_seconds: dict[str, float] = {}
        self._findings: list[Seen] = []
        self._unproven: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._changes: tuple[Change, ...] = ()
        self.logs: dict[str, str] = {}
        self.picture, self._no_picture = b"", "the machines were not looked at"

    def carry_out(self, run: Run) -> None:
        """Launch the two machines and look at them; reboot one, stop and start the other, and look again.

        Raises CloudError when EC2 refuses a request, because that says nothing about the image, and NotKnownError when
        an answer doesn't come. Everything else that goes wrong is a finding.
        """
        wanted = launches.usual(self._account, launches.request(self._recipe.instance_type, count="2"))
        begun = time.monotonic()
        self.machines = launches.begin(self._account, self._settings, self._image, wanted, self._service.ports, run.id)
        when = _FIRST
        try:
            self.machines = machines.running(self._account, [machine.id for machine in self.machines], self._budget)
            self._judge_boot(self._settle(), begun)
            self._look(_FIRST, photograph=True)
            self._compare()
            when = _SECOND
            self._boot_again()
            self._look(_SECOND)
        except CloudError as error:
            if error.aws_code:
                raise
            self._find(when, {"both": [Finding("The proof came to its end", False, error.text)]})
        finally:
            self._collect_consoles()

    def proof(self, steps: Sequence[console.Step]) -> Proof:
        """Return the proof: all findings, with these steps as its timeline."""
        return Proof(
            image=self._image.id,
            name=self._image.name,
            recipe=self._recipe.name,
            origin=self._image.origin,
            account=self._account.name,
            stand_ins=self._image.stand_ins,
            begun=f"{self._began:%Y-%m-%d %H:%M:%S} UTC",
            seconds=time.monotonic() - self._clock,
            machines=tuple(machine.id for machine in self.machines),
            boot_seconds=self._boot_seconds,
            boot_budget=self._recipe.boot_budget,
            findings=tuple(self._findings),
            unproven=self._unproven,
            no_picture=self._no_picture,
            shared=self._shared,
            changes=self._changes,
            timeline=tuple(replace(one, begun=one.begun - self._clock) for one in steps),
        )

    @property
    def _budget(self) -> int:
        return self._recipe.boot_budget

    def _settle(self) -> Served:
        return launches.settled(self._settings, self._service, self.machines, self._budget)

    def _judge_boot(self, served: Served, begun: float) -> None:
        """Find whether each machine served in time after the launch, which was at ``begun`` by the monotonic clock."""
        self._boot_seconds = {machine_id: seen - begun for machine_id, seen in served.since.items()}
        allowed = f"{self._budget} s are allowed"
        if patience.factor() > 1:
            allowed = f"{allowed}, {patience.factor():g} times as long with {patience.VARIABLE}"
        for machine in self.machines:
            took = self._boot_seconds.get(machine.id)
            told = "never" if took is None else f"{took:.1f} s after its launch"
            ok = took is not None and took <= self._budget * patience.factor()
            name = "It serves in time" if self._service.port else "It boots in time"
            finding = Finding(name, ok, f"{told}; {allowed}")
            if machine.id in served.unknown:
                finding = Finding(name, None, served.unknown[machine.id])
            self._find(_FIRST, {machine.id: [finding]})

    def _look(self, when: str, photograph: bool = False) -> None:
        """Probe both machines, ask them for their traits, and maybe take a picture of the first one's page."""
        with ThreadPoolExecutor(1) as aside:
            picture = aside.submit(self._photograph) if photograph else None
            for verdict in probes.probe(self._settings, self._service, self.machines):
                self._find(when, {verdict.machine.id: verdict.findings})
        if picture:
            try:
                self.picture, self._no_picture = picture.result(), ""
            except ToolError as error:
                self._no_picture = error.text
        with (
            console.step(f"{' '.join(machine.id for machine in self.machines)} told what identifies them"),
            ThreadPoolExecutor() as pool,
        ):
            told = pool.map(lambda machine: identity.look(self._settings, machine, self._question), self.machines)
            self._traits = dict(zip((machine.id for machine in self.machines), told, strict=True))
        for machine_id, one in self._traits.items():
            self.logs[f"{machine_id}-journal-{when.replace(' ', '-')}"] = self._masked(one.journal, one)

    def _photograph(self) -> bytes:
        if not self._service.pages:
            raise ToolError("the recipe's service has no page")
        if self.machines[0].bastion:
            raise ToolError("the machines are behind a bastion, and a browser is not led through it")
        return reports.photograph(self._service.url(self.machines[0].address, self._service.pages[0].path))

    def _compare(self) -> None:
        """Find what the two machines share, what came with the image, and what differs from the bake's record."""
        one, other = self._traits.values()
        rows = identity.compare(one, other, (*identity.IDENTITY, *self._question.secrets))
        self._shared = {row.what: row.outcome for row in rows}
        self._find(_FIRST, {"both": identity.shared(rows)})
        own = access.public_key(self._settings, self.machines[0].key)
        of_each = {
            machine_id: [*identity.fresh(told, self._question), *identity.access(told, own)]
            for machine_id, told in self._traits.items()
        }
        self._find(_FIRST, of_each)
        recorded = store.sbom(self._settings, self._image.id, self._image.tags.get(f"{TAG}sbom", ""))
        if recorded is None:
            self._unproven["contents"] = "not recorded when the image was baked, or not here"
            return
        self._changes = tuple(identity.changes(recorded, one.contents))
        of_each = {
            machine_id: identity.as_baked(identity.changes(recorded, told.contents), told.contents)
            for machine_id, told in self._traits.items()
        }
        self._find(_FIRST, of_each)

    def _boot_again(self) -> None:
        """Reboot the first machine, stop and start the second, and wait until they serve again."""
        before = {machine.id: shells.boot(self._settings, machine) for machine in self.machines}
        rebooting, stopping = self.machines
        machines.stop(self._account, stopping)
        machines.reboot(self._account, rebooting)
        try:
            shells.rebooted(self._settings, rebooting, before[rebooting.id], self._budget)
        except DeadlineError as error:
            if error.silent:
                raise
            raise CloudError(error.text) from error  # it answers, and not as it should
        machines.stopped(self._account, stopping)
        self.machines = [rebooting, machines.start(self._account, stopping, self._budget)]
        self._settle()
        for machine, way in zip(self.machines, ("rebooted", "stopped and started"), strict=True):
            anew = shells.boot(self._settings, machine) not in ("", before[machine.id])
            told = f"{way}; boot ID and start of init {'differ' if anew else 'are the same as before'}"
            self._find(_SECOND, {machine.id: [Finding("It booted anew", anew, told)]})

    def _collect_consoles(self) -> None:
        for machine in self.machines:
            try:
                text = machines.console_output(self._account, machine)
            except (CloudError, NotKnownError) as error:
                text = f"the console can't be read: {error.text}"
            self.logs[f"{machine.id}-console"] = self._masked(text, self._traits.get(machine.id))

    def _masked(self, text: str, traits: Traits | None) -> str:
        """Return what a machine wrote, without its secrets; of one that never told its traits, without long words."""
        if traits is None:
            return journals.masked_blindly(text)
        return journals.masked(text, self._question.salt, traits.marks)

    def _find(self, when: str, found: Mapping[str, Sequence[Finding]]) -> None:
        """Add findings, given by machine ID; equal findings on both machines become one finding on ``both``."""
        of: dict[Finding, list[str]] = {}
        for machine_id, findings in found.items():
            for one in findings:
                of.setdefault(replace(one, seconds=0), []).append(machine_id)
        for one, ids in of.items():
            machine = ids[0] if len(ids) == 1 else "both"
            self._findings.append(Seen(machine, when, one))
            if not one.ok:
                console.say(f"{machine}, {when}: {one.name}: {one.evidence}")
