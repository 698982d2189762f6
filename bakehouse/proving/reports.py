"""Reports: write a proof as JSON for programs and as an HTML page for people."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bakehouse import documents, patience, system
from bakehouse.console import Step
from bakehouse.errors import ToolError
from bakehouse.machines.probes import Finding
from bakehouse.records.contents import Change
from bakehouse.records.store import PROOF

PAGE = "proof.html"
_PICTURE = "page.png"
_TEMPLATE = Path(__file__).with_name("proof.html.j2")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WINDOW = "1280,800"


@dataclass(frozen=True)
class Seen:
    """Hold a finding of a proof, its machine (an ID or ``both``) and its boot (``first boot`` or ``second boot``)."""

    machine: str
    when: str
    finding: Finding


@dataclass(frozen=True)
class Proof:
    """Hold one proof of an image.

    Attributes:
        image: the image's ID.
        name: the image's name.
        recipe: the name of its recipe.
        origin: the base, the commit and the versions of the programs that it was baked with, by name.
        account: the name of the account.
        stand_ins: the names of the packages in it that only stand in for the real ones.
        begun: when the proof began, in UTC.
        seconds: how long the proof took.
        machines: the IDs of the two machines.
        boot_seconds: the seconds from launch until a machine served, by the machine's ID; only of those that served.
        boot_budget: the seconds that this may take.
        findings: all findings.
        unproven: what could not be looked at, mapped to the reason.
        no_picture: why there is no picture of the service's page; empty when there is one.
        shared: what was compared between the machines, mapped to the outcome (see ``identity.Comparison``).
        changes: how the first machine's contents differ from the bake's record.
        timeline: the proof's steps; each began so many seconds after the proof did.
    """

    image: str
    name: str
    recipe: str
    origin: Mapping[str, str]
    account: str
    stand_ins: tuple[str, ...]
    begun: str
    seconds: float
    machines: tuple[str, ...]
    boot_seconds: Mapping[str, float]
    boot_budget: int
    findings: tuple[Seen, ...]
    unproven: Mapping[str, str]
    no_picture: str
    shared: Mapping[str, str]
    changes: tuple[Change, ...]
    timeline: tuple[Step, ...]

    @property
    def failed(self) -> list[Seen]:
        """Return the findings that are not good."""
        return [one for one in self.findings if one.finding.ok is False]

    @property
    def unknown(self) -> list[Seen]:
        """Return the findings of which it isn't known whether they are good."""
        return [one for one in self.findings if one.finding.ok is None]

    @property
    def verdict(self) -> str:
        """Return ``pass`` when there are findings and all of them are good, ``fail`` when one is bad.

        Without bad ones it is empty as long as something isn't known: there is no verdict.
        """
        if self.failed or not self.findings:
            return "fail"
        return "" if self.unknown else "pass"


def as_data(proof: Proof) -> dict[str, Any]:
    """Return a proof as data for JSON."""
    found = [
        {
            "machine": one.machine,
            "when": one.when,
            **{key: getattr(one.finding, key) for key in ("name", "ok", "evidence")},
        }
        for one in proof.findings
    ]
    return {"image": proof.image, "verdict": proof.verdict, **asdict(proof), "findings": found}


def as_rows(proof: Proof) -> list[list[str]]:
    """Return a row for each finding that is not good: machine, when, name and evidence."""
    return [[one.machine, one.when, one.finding.name, " ".join(one.finding.evidence.split())] for one in proof.failed]


def write(place: Path, proof: Proof, logs: Mapping[str, str], picture: bytes) -> str:
    """Write a proof into a folder, in place of an earlier one, and return the digest of its proof.json.

    ``logs`` maps names to what the machines wrote; ``picture`` is a PNG or empty. proof.json holds the digests of both.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    files = {f"{name}.txt": text.encode() for name, text in logs.items()} | ({_PICTURE: picture} if picture else {})
    for name, content in files.items():
        (place / name).write_bytes(content)
    digests = {name: documents.digest(content) for name, content in files.items()}
    data = json.dumps({**as_data(proof), "files": digests}, indent=2).encode()
    (place / PROOF).write_bytes(data)
    (place / PAGE).write_text(page(proof, logs, picture, documents.digest(data)))
    return documents.digest(data)


def page(proof: Proof, logs: Mapping[str, str], picture: bytes, digest: str) -> str:
    """Return a proof as one HTML page that needs no script and no other file."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_TEMPLATE.read_text()).render(
        proof=proof,
        failed=alike(proof.failed),
        found=alike(proof.findings),
        logs=logs,
        picture=base64.b64encode(picture).decode(),
        digest=digest,
    )


def photograph(url: str) -> bytes:
    """Return a PNG of a web page; raises ToolError when there is no Chromium or it makes no picture."""
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise ToolError("there is no Chromium on this computer")
    with tempfile.TemporaryDirectory(prefix="bh-", dir=system.temporary()) as scratch:
        picture = Path(scratch) / _PICTURE
        flags = [f"--user-data-dir={scratch}/profile", f"--screenshot={picture}", f"--window-size={_WINDOW}"]
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        line = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", *sandbox, *flags, url]
        said = _said_by(line, browser, scratch)
        if not picture.exists():
            raise ToolError(f"{browser} made no picture: {said.strip().rpartition(chr(10))[2]}")
        return picture.read_bytes()


def _said_by(line: list[str], browser: str, home: str) -> str:
    """Run a browser and return what it said. What it keeps goes into ``home``, and its helpers end with it."""
    seconds = patience.PICTURE.seconds
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with system.start(line, system.environment(HOME=home), start_new_session=True, **how) as process:
        try:
            return str(process.communicate(timeout=seconds)[1])
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{browser} made no picture in {seconds:.0f} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def alike(findings: Sequence[Seen]) -> list[tuple[Finding, list[str]]]:
    """Return each finding once, with all places (machine and boot) where it was made, in their order."""
    places: dict[tuple[str, bool | None, str], list[str]] = {}
    first: dict[tuple[str, bool | None, str], Finding] = {}
    for one in findings:
        same = one.finding.name, one.finding.ok, one.finding.evidence
        first.setdefault(same, one.finding)
        places.setdefault(same, []).append(f"{one.machine}, {one.when}")
    return [(finding, places[same]) for same, finding in first.items()]
