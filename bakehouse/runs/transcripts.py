"""Transcripts: reads from the output of Packer and Ansible which steps it tells of, and why a run failed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_PREFIX = re.compile(r"^(?:\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d): )?(?:(?:==>|   ) [\w-]+\.[\w-]+: ?)?")
_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?P<name>.*)\] \**$")
_REFUSED = re.compile(r"^(?:fatal|failed): \[[^\]]*\].*? (?:\(item=(?P<item>.*?)\) )?=> (?=\{)")
_RECAP_OF_SUCCESS = re.compile(r" unreachable=0 +failed=0 ")  # what failed before was rescued
_LENGTH = 400

_BEGINNINGS = {
    "Launching a source AWS instance": "machine",
    "Waiting for SSH to become available": "SSH",
    "Executing Ansible": "Ansible starts",
    "Stopping the source instance": "stop",
    "Creating AMI bakehouse-": "image",
    "Terminating the source AWS instance": "machine cleared away",
}
_ENDINGS = ("PLAY RECAP", "Connected to SSH", "Cleaning up any extra volumes", "Cancelling build")
_DETAILS = ("Instance ID: ", "AMI: ")


@dataclass(frozen=True)
class Began:
    """Say that a step began; the step before it has ended then."""

    step: str


@dataclass(frozen=True)
class Named:
    """Give the ID of what the present step makes."""

    id: str


@dataclass(frozen=True)
class Ended:
    """Say that the present step has ended."""


@dataclass(frozen=True)
class Skipped:
    """Say that the present step had nothing to do."""


@dataclass(frozen=True)
class Failed:
    """Say that the present step failed; with ``ignored``, that its failure doesn't count."""

    ignored: bool = False


Event = Began | Named | Ended | Skipped | Failed


def plain(line: str) -> str:
    """Return a line of Packer's output without its time and the name of the build."""
    return _PREFIX.sub("", line.rstrip("\r\n"), count=1)


def event(line: str) -> Event | None:
    """Return the event that a line tells of, or None; ``line`` is without Packer's prefix."""
    if task := _TASK.match(line):
        return Began(task["name"])
    for start, step in _BEGINNINGS.items():
        if line.startswith(start):
            return Began(step)
    for start in _DETAILS:
        if line.startswith(start):
            return Named(line.removeprefix(start))
    if line.startswith(_ENDINGS):
        return Ended()
    if line.startswith(("skipping: ", "included: ")):
        return Skipped()
    if _REFUSED.match(line) or line.startswith("Error ") or line == "...ignoring":
        return Failed(ignored=line == "...ignoring")
    return None


def failure(lines: Iterable[str]) -> str:
    """Return one line that says why Packer failed: Ansible's task with its message, or Packer's own error."""
    told = [plain(line) for line in lines]
    return _short(_task_failure(told) or _ansible_error(told) or _packer_error(told))


def ansible_failure(lines: Iterable[str]) -> str:
    """Return one line that says why Ansible failed: its task with its message; empty when it gives no reason."""
    told = list(lines)
    return _short(_task_failure(told) or _ansible_error(told))


def changes(lines: Iterable[str]) -> list[str]:
    """Return the names of the tasks that changed something, or would have done so in check mode, in their order."""
    task, found = "", []
    for line in lines:
        if named := _TASK.match(line):
            task = named["name"]
        elif line.startswith("changed: ") and task not in found:
            found.append(task)
    return found


def _short(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= _LENGTH else f"{reason[: _LENGTH - 1]}…"


def _task_failure(told: Sequence[str]) -> str:
    """Return the last task whose failure was neither ignored nor rescued, with its message."""
    task, found = "", ""
    for at, line in enumerate(told):
        if named := _TASK.match(line):
            task = named["name"]
        elif refused := _REFUSED.match(line):
            item = f" (item {refused['item']})" if refused["item"] else ""
            found = f"{task}{item}: {_message(line[refused.end() :], told[at + 1 :])}"
        elif line == "...ignoring" or _RECAP_OF_SUCCESS.search(line):
            found = ""
    return found


def _message(begin: str, following: Sequence[str]) -> str:
    """Return the message of a task's result, which is JSON on one line or on several."""
    try:
        result, _ = json.JSONDecoder().raw_decode("\n".join([begin, *following[:2000]]))
    except ValueError:
        return begin
    return _said(result)


def _said(result: dict[str, Any]) -> str:
    message = str(result.get("msg") or result.get("censored") or "no message")
    errors = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    return f"{message}: {errors.splitlines()[-1]}" if errors and errors not in message else message


def _ansible_error(told: Sequence[str]) -> str:
    """Return the error that made Ansible stop before its first task."""
    for line, after in pairwise([*told, ""]):
        if line.startswith(("[ERROR]: ", "ERROR! ")):
            where = after.removeprefix("Origin: ") if after.startswith("Origin: ") else ""
            return f"Ansible: {line.split(' ', 1)[1]}{where and f' ({where})'}"
    return ""


def _packer_error(told: Sequence[str]) -> str:
    for line in told:
        if re.match(r"^--> [\w.-]+: ", line):
            return f"Packer: {line.split(': ', 1)[1]}"
    for at, line in enumerate(told):
        if line.startswith("Error: "):
            return f"Packer: {_refusal(line.removeprefix('Error: '), told[at + 1 :])}"
    return f"Packer: {next((line for line in reversed(told) if line.strip()), 'no message')}"


def _refusal(title: str, following: Sequence[str]) -> str:
    """Return why Packer refuses a template: the points it lists, or the error's title, explanation and place."""
    points = [line.removeprefix("* ") for line in following if line.startswith("* ")]
    if points:
        return "; ".join(points)
    places = [line.strip().rstrip(":") for line in following if line.startswith("  on ")]
    said = [line for line in following if line and not line.startswith((" ", "==>"))]
    return " ".join([f"{title}:", *said[:1], *places[:1]])
