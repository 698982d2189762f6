"""What tasks print with --json is as docs/output.schema.json says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from samples import ANSWER, MACHINE, NOW

import tasks
from bakehouse import images, machines, packers, tools
from bakehouse.images import Image, channels, details, retention
from bakehouse.images.channels import Channel, Move
from bakehouse.images.details import Entry
from bakehouse.images.retention import Fate, Retention
from bakehouse.local.checkouts import Checkout
from bakehouse.machines import probes
from bakehouse.machines.probes import Finding, Verdict
from bakehouse.runs import leftovers
from bakehouse.runs.leftovers import Leftover, Leftovers
from bakehouse.settings import ROOT

SCHEMA = json.loads((ROOT / "docs/output.schema.json").read_text())

IMAGE = Image.from_aws(ANSWER)
MOVES = (Move(1, IMAGE.id, NOW), Move(2, IMAGE.id, NOW, IMAGE.id, "arn:aws:iam::1:user/a", "why", ("jenkins",), 1))
CHANNEL = Channel("jenkins", "stable", MOVES)

OUTPUTS: dict[str, Callable[[], Any]] = {
    "launch": lambda: [{**machines.as_data(MACHINE), "url": "http://127.4.5.6:8080"}],
    "machines": lambda: [machines.as_data(MACHINE)],
    "terminate": lambda: [machines.as_data(MACHINE)],
    "probe": lambda: probes.as_data([Verdict(MACHINE, (Finding("SSH", True, "in", 0.2),))]),
    "images": lambda: [details.as_entry_data(Entry(IMAGE))],
    "bake": lambda: images.as_data(IMAGE),
    "channels": lambda: [channels.as_data(CHANNEL)],
    "cleanup": lambda: retention.as_data(Retention((Fate(IMAGE, "delete", "nothing uses it"),))),
    "leftovers": lambda: leftovers.as_data(Leftovers((Leftover("instance", MACHINE.id, "20261122-081500-a1b2"),))),
    "doctor": lambda: [asdict(row) for row in [*packers.rows(Path("none")), *tools.doctor()]],
    "local.status --everywhere": lambda: [asdict(Checkout("a" * 12, "/a", "here", 1, 2))],
}


def check(name: str, told: Any) -> None:
    """Fail unless a document is of the schema's definition of this name."""
    written = json.loads(json.dumps(told, default=str))
    jsonschema.validate(written, {"$ref": f"#/$defs/{name}", **SCHEMA})


@pytest.mark.parametrize("name", OUTPUTS)
def test_output(name: str) -> None:
    """The document holds what the schema promises, and of most kinds nothing else."""
    told = OUTPUTS[name]()

    check(name, told)
    first = told[0] if isinstance(told, list) else told
    first.pop(next(iter(first)))
    with pytest.raises(jsonschema.ValidationError):
        check(name, told)


@pytest.mark.parametrize("place", ["/nowhere/docker.sock", "/var/run/docker.sock"])
def test_local_status(tmp_path: Path, place: str) -> None:
    """The state of a local EC2 is as the schema says, whether Docker answers or not."""
    environ = {**os.environ, "BAKEHOUSE_STATE": str(tmp_path), "DOCKER_HOST": f"unix://{place}"}
    line = [sys.executable, "tasks.py", "local.status", "--json"]

    told = json.loads(subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, check=True).stdout)

    check("local.status", told)
    assert (told["docker"] == "") == (told["images"] == 0)
    assert place != "/nowhere/docker.sock" or told["machines"] is None


def test_each_task_with_json_is_in_the_schema() -> None:
    """The schema has each task that knows --json, but for those whose documents have a page of their own."""
    elsewhere = {"bench", "diff", "prove", "show"}
    known = {name for name in tasks.ns.task_names if "json" in tasks.ns[name].argspec(tasks.ns[name].body).parameters}

    assert known - elsewhere == {name for name in SCHEMA["$defs"] if name in tasks.ns.task_names}
