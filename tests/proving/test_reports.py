"""Reports: a proof as JSON and as a page that needs nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bakehouse.console import Step
from bakehouse.errors import ToolError
from bakehouse.machines.probes import Finding
from bakehouse.proving import reports
from bakehouse.proving.reports import Proof, Seen
from bakehouse.records.contents import Change

GOOD = Seen("both", "first boot", Finding("hostname is unique", True, "different on the two machines"))
BAD = Seen("i-1", "second boot", Finding("The unit is active", False, "<script>alert(1)</script>\nfailed"))
PROOF = Proof(
    image="ami-1",
    name="bakehouse-web-1",
    recipe="web",
    origin={"base": "ami-0", "commit": "c0ffee"},
    account="local",
    stand_ins=(),
    begun="2026-11-22 08:00:00 UTC",
    seconds=40.0,
    machines=("i-1", "i-2"),
    boot_seconds={"i-1": 7.5, "i-2": 8.0},
    boot_budget=120,
    findings=(GOOD,),
    unproven={},
    no_picture="there is no Chromium on this computer",
    shared={"hostname": "different", "/etc/machine-id": "the same", "/srv/*": "on none"},
    changes=(Change("packages", "zlib", "1", ""),),
    timeline=(Step("i-1 i-2 running", 0.5, 2.0, ok=True), Step("i-1 rebooted", 20.0, 20.0, ok=False)),
)
FAILED = dataclasses.replace(PROOF, findings=(GOOD, BAD))


class _Page(HTMLParser):
    """Hold a page's elements, each with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take up an element."""
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See that elements are closed in their order."""
        assert tag == self.open.pop()

    def handle_data(self, text: str) -> None:
        """Take up text."""
        self.text += text


def page(proof: Proof, picture: bytes = b"") -> _Page:
    """Return the page of a proof."""
    return _Page(reports.page(proof, {"i-1-console": "<b>booted"}, picture, "sha256:0"))


@pytest.mark.parametrize(("findings", "verdict"), [((GOOD,), "pass"), ((GOOD, BAD), "fail"), ((), "fail")])
def test_verdict(findings: tuple[Seen, ...], verdict: str) -> None:
    """A proof passes when something was found and all of it is good."""
    assert verdict == dataclasses.replace(PROOF, findings=findings).verdict


def test_as_rows() -> None:
    """What isn't good is a row, on one line."""
    assert [["i-1", "second boot", "The unit is active", "<script>alert(1)</script> failed"]] == reports.as_rows(FAILED)
    assert [] == reports.as_rows(PROOF)


def test_the_page_needs_nothing_else() -> None:
    """The page has no script and refers to no other place; what machines say is text in it and no markup."""
    shown = page(FAILED, b"\x89PNG")

    kinds = {tag for tag, _ in shown.elements}
    links = [value for _, told in shown.elements for key, value in told.items() if key in ("src", "href", "srcset")]
    [style] = re.findall(r"<style>(.*)</style>", reports.page(FAILED, {}, b"", ""), re.DOTALL)
    assert not kinds & {"script", "link", "iframe", "object", "base", "b"}
    assert ["data:image/png;base64,iVBORw==", "i-1-console.txt"] == links
    assert not re.search(r"url\(|@import", style)
    assert "<script>alert(1)</script>" in shown.text
    assert [] == shown.open


def test_a_finding_that_was_made_everywhere_stands_once() -> None:
    """The page has one row for a finding, with the places where it was made; another evidence is another row."""
    other = dataclasses.replace(GOOD.finding, evidence="another")
    findings = [*(Seen(machine, "first boot", GOOD.finding) for machine in ("i-1", "i-2")), Seen("i-2", "x", other)]

    assert [(GOOD.finding, ["i-1, first boot", "i-2, first boot"]), (other, ["i-2, x"])] == reports.alike(findings)
    text = page(dataclasses.replace(PROOF, findings=tuple(findings))).text
    assert 2 == text.count(GOOD.finding.name)


def test_no_id_is_broken() -> None:
    """The IDs of image and machines, and the commit, stand on one line each."""
    assert "\n.id { white-space: nowrap; }\n" in reports.page(PROOF, {}, b"", "")
    whole = re.findall(r'class="id[^"]*">([^<]*)<', reports.page(PROOF, {}, b"", ""))
    assert {"ami-1", "i-1", "i-2", "ami-0", "c0ffee"} <= set(whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["Base", "ami-0", "Commit", "c0ffee"]),
        ({}, ["pass", "ami-1", "sha256:0", "7.5 s and 8.0 s from launch", "120 s are allowed", "hostname is unique"]),
        ({}, ["i-1 rebooted (failed)", "/etc/machine-id", "the same", "zlib", "No picture: there is no Chromium"]),
        ({"findings": (GOOD, BAD)}, ["fail", "Why it is not fit", "second boot", "of which 1 are not good"]),
        ({"stand_ins": ("jenkins",)}, ["STAND-IN", "says nothing about the real jenkins"]),
        (
            {"unproven": {"contents": "not recorded"}, "changes": ()},
            ["Not proven contents", "Not known: not recorded"],
        ),
        ({"shared": {}, "boot_seconds": {}, "changes": ()}, ["nothing was compared", "never served", "None."]),
    ],
)
def test_the_page_tells(changes: dict[str, object], words: list[str]) -> None:
    """Verdict, findings, times, differences, and what isn't the real thing or wasn't proven are on the page."""
    text = " ".join(page(dataclasses.replace(PROOF, **changes)).text.split())  # type: ignore[arg-type]

    assert [] == [word for word in words if word not in text]


def test_write(tmp_path: Path) -> None:
    """A proof's folder holds data, page and what the machines wrote, and nothing of an earlier one."""
    folder = tmp_path / "proofs" / "ami-1"
    folder.mkdir(parents=True)
    (folder / "earlier").touch()

    digest = reports.write(folder, PROOF, {"i-1-console": "booted"}, b"\x89PNG")

    data = (folder / "proof.json").read_bytes()
    told = json.loads(data)
    assert ["i-1-console.txt", "page.png", "proof.html", "proof.json"] == sorted(one.name for one in folder.iterdir())
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    assert digest in (folder / "proof.html").read_text()
    assert ("ami-1", "pass", 40.0) == (told["image"], told["verdict"], told["seconds"])
    assert f"sha256:{hashlib.sha256(b'booted').hexdigest()}" == told["files"]["i-1-console.txt"]


def test_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Chromium, that is the reason why there is no picture."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolError, match="there is no Chromium on this computer"):
        reports.photograph("http://127.0.0.1/")


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium here")
def test_a_browser_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The genuine browser makes a picture, and then neither the person's home nor the temporary folder has anything."""
    page = tmp_path / "page.html"
    page.write_text("<h1>It serves</h1>")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("TMPDIR", short)

        assert reports.photograph(page.as_uri()).startswith(b"\x89PNG")

        assert [] == [*home.iterdir(), *Path(short).iterdir()]
