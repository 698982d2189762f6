"""Proofs: two machines of an image, lived with through a second boot, to find whether the image is fit."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bakehouse import (
    cleanups,
    console,
    doors,
    images,
    launches,
    machines,
    probes,
    recipes,
    records,
    reports,
    runs,
    services,
    shells,
    twins,
)
from bakehouse.cloud import TAG, Cloud, connect
from bakehouse.contents import Change
from bakehouse.errors import CloudError, ToolError, VerdictError
from bakehouse.images import Image
from bakehouse.machines import Machine
from bakehouse.probes import Finding
from bakehouse.recipes import Recipe
from bakehouse.reports import Proof
from bakehouse.runs import Run
from bakehouse.services import Service
from bakehouse.settings import Settings
from bakehouse.twins import Question, Traits

_FIRST, _SECOND = "first boot", "second boot"
_CLOCK_SECONDS = 1  # EC2 tells an image's creation in whole seconds


def prove(settings: Settings, image_id: str = "") -> Proof:
    """Prove an image, by default the recipe's newest, write the proof down and tag the image with its verdict.

    Raises the errors of the account, and VerdictError when interrupted; then nothing is proven and the image's tag
    stays as it was. What the proof started is terminated however it ends.
    """
    recipe, service = recipes.load(settings), services.load(settings)
    account = connect(settings)
    image = images.usable(account, image_id, recipe.name)
    console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
    attempt = _Attempt(settings, account, recipe, service, image)
    with (
        runs.interruptible(lambda by: _interrupted(image, by)),
        runs.begin(settings) as run,
        console.recorded() as steps,
    ):
        try:
            attempt.carry_out(run)
        finally:
            _clear_away(settings, account, run, attempt.machines)
    proof = attempt.proof(steps)
    digest = reports.write(page(settings, proof).parent, proof, attempt.logs, attempt.picture)
    images.tag(account, image.id, {f"{TAG}verdict": f"{proof.verdict} {digest}"})
    return proof


def ensure(settings: Settings, image: Image) -> None:
    """Prove an image that isn't proven yet; raises VerdictError unless it has passed."""
    if image.verdict == "pass":
        console.say(f"image {image.id} is proven already")
    else:
        proof = prove(settings, image.id)
        insist(settings, proof)
        console.say(f"image {image.id} is fit: {page(settings, proof)}")


def page(settings: Settings, proof: Proof) -> Path:
    """Return the file of a proof's page, in the folder that holds all of the proof."""
    return settings.state / "proofs" / proof.image / reports.PAGE


def insist(settings: Settings, proof: Proof) -> None:
    """Raise VerdictError, which names every failed finding, unless the image has passed."""
    if proof.verdict != "pass":
        names = dict.fromkeys(finding.name for finding in proof.failed)
        raise VerdictError(f"image {proof.image} is not fit: {', '.join(names)}", f"read {page(settings, proof)}")


class _Attempt:
    """Carry out a proof, and hold what was found so far."""

    def __init__(self, settings: Settings, account: Cloud, recipe: Recipe, service: Service, image: Image) -> None:
        self._settings, self._account = settings, account
        self._recipe, self._service, self._image = recipe, service, image
        patterns = (*service.secrets, service.password_file)
        made = image.created.timestamp() + _CLOCK_SECONDS
        self._question = Question(secrets.token_hex(16), tuple(dict.fromkeys(filter(None, patterns))), made)
        self._traits: dict[str, Traits] = {}
        self._began, self._clock = datetime.now(UTC), time.monotonic()
        self.machines: list[Machine] = []
        self._boot_seconds: dict[str, float] = {}
        self._findings: list[reports.Finding] = []
        self._unproven: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._changes: tuple[Change, ...] = ()
        self.logs: dict[str, str] = {}
        self.picture, self._no_picture = b"", "the machines were never looked at"

    def carry_out(self, run: Run) -> None:
        """Launch the twins, look at them, boot each a second time in a way of its own, and look again.

        What EC2 refuses is raised, for it says nothing of the image; all else that goes wrong is a finding.
        """
        wanted = machines.order(self._recipe.instance_type, count="2")
        begun = time.monotonic()
        self.machines = machines.launch(self._account, self._settings, self._image, wanted, self._service.ports, run.id)
        when = _FIRST
        try:
            self.machines = machines.running(self._account, [machine.id for machine in self.machines])
            served = self._settle()
            self._judge_boot({machine_id: seen - begun for machine_id, seen in served.items()})
            self._look(_FIRST, photograph=True)
            self._compare()
            when = _SECOND
            self._boot_again()
            self._look(_SECOND)
        except CloudError as error:
            if error.aws_code:
                raise
            self._find(when, {"both": [Finding("The proof came to its end", False, error.text, 0)]})
        finally:
            self._collect_consoles()

    def proof(self, steps: Sequence[console.Step]) -> Proof:
        """Return all that was found as a proof, with these steps as its timeline."""
        return Proof(
            image=self._image.id,
            name=self._image.name,
            recipe=self._recipe.name,
            account=self._account.account,
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

    def _settle(self) -> dict[str, float]:
        return launches.settled(self._settings, self._service, self.machines, self._recipe.boot_budget)

    def _judge_boot(self, seconds: Mapping[str, float]) -> None:
        """Find whether each machine served in time after its launch."""
        self._boot_seconds = dict(seconds)
        budget = self._recipe.boot_budget
        for machine in self.machines:
            took = seconds.get(machine.id)
            told = "never" if took is None else f"{took:.1f} s after its launch"
            ok = took is not None and took <= budget
            finding = Finding(
                "It serves in time" if self._service.port else "It boots in time",
                ok,
                f"{told}; {budget} s are allowed",
                0,
            )
            self._find(_FIRST, {machine.id: [finding]})

    def _look(self, when: str, photograph: bool = False) -> None:
        """Probe both machines, let them tell what identifies them, and take a picture of the first one's service."""
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
            told = pool.map(lambda machine: twins.look(self._settings, machine, self._question), self.machines)
            self._traits = dict(zip((machine.id for machine in self.machines), told, strict=True))
        for machine_id, one in self._traits.items():
            self.logs[f"{machine_id}-journal-{when.replace(' ', '-')}"] = twins.masked(one.journal, one, self._question)

    def _photograph(self) -> bytes:
        if not self._service.pages:
            raise ToolError("its machines have no page")
        return reports.photograph(self._service.url(self.machines[0].address, self._service.pages[0].path))

    def _compare(self) -> None:
        """Find what the twins share, and what came with the image."""
        one, other = self._traits.values()
        rows = twins.compare(one, other, (*twins.IDENTITY, *self._question.secrets))
        self._shared = {row.what: row.outcome for row in rows}
        self._find(_FIRST, {"both": twins.shared(rows)})
        own = doors.public_key(self._settings, self.machines[0].key)
        of_each = {
            machine_id: [*twins.fresh(told, self._question), *twins.access(told, own)]
            for machine_id, told in self._traits.items()
        }
        self._find(_FIRST, of_each)
        recorded = records.sbom(self._settings, self._image.id, self._image.tags.get(f"{TAG}sbom", ""))
        if recorded is None:
            self._unproven["contents"] = "not recorded when the image was baked, or not here"
            return
        self._changes = tuple(twins.changes(recorded, one.contents))
        of_each = {
            machine_id: twins.as_baked(twins.changes(recorded, told.contents), told.contents)
            for machine_id, told in self._traits.items()
        }
        self._find(_FIRST, of_each)

    def _boot_again(self) -> None:
        """Reboot the first machine, stop and start the second, and wait until they serve again."""
        before = {machine.id: shells.boot(self._settings, machine) for machine in self.machines}
        rebooting, stopping = self.machines
        machines.stop(self._account, stopping)
        machines.reboot(self._account, rebooting)
        shells.rebooted(self._settings, rebooting, before[rebooting.id])
        machines.stopped(self._account, stopping)
        self.machines = [rebooting, machines.start(self._account, stopping)]
        self._settle()
        for machine, way in zip(self.machines, ("rebooted", "stopped and started"), strict=True):
            anew = shells.boot(self._settings, machine) not in ("", before[machine.id])
            told = f"{way}; its boot ID and the start of its init are {'others' if anew else 'not others'}"
            self._find(_SECOND, {machine.id: [Finding("It booted anew", anew, told, 0)]})

    def _collect_consoles(self) -> None:
        for machine in self.machines:
            try:
                text = machines.console_output(self._account, machine)
            except CloudError as error:
                text = f"not to be had: {error.text}"
            told = self._traits.get(machine.id)
            self.logs[f"{machine.id}-console"] = twins.masked(text, told, self._question) if told else text

    def _find(self, when: str, found: Mapping[str, Sequence[Finding]]) -> None:
        """Take up findings by machine; those that both machines show alike are of both."""
        of: dict[tuple[str, bool, str], list[str]] = {}
        for machine_id, findings in found.items():
            for one in findings:
                of.setdefault((one.name, one.ok, one.evidence), []).append(machine_id)
        for (name, ok, evidence), ids in of.items():
            machine = ids[0] if len(ids) == 1 else "both"
            self._findings.append(reports.Finding(machine, when, name, ok, evidence))
            if not ok:
                console.say(f"{machine}, {when}: {name}: {evidence}")


def _clear_away(settings: Settings, account: Cloud, run: Run, launched: Sequence[Machine]) -> None:
    with runs.undisturbed(), console.step("machines terminated"):
        cleanups.sweep(account, run)
    for machine in launched:
        doors.known_hosts(settings, machine.id).unlink(missing_ok=True)


def _interrupted(image: Image, by: str) -> VerdictError:
    return VerdictError(f"the proof of image {image.id} was interrupted by {by}: nothing is proven", "./inv prove")
