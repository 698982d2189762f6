"""What fits machines out: it changes nothing of a process that isn't the machine's."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bakehouse.local import fitting


@pytest.mark.parametrize(
    ("pid", "why"),
    [
        (os.getpid(), f"process {os.getpid()} is not the machine's"),
        (2**22 + 1, "No such file or directory"),
        (-1, "No such file or directory"),
    ],
    ids=["another's", "gone", "none"],
)
def test_another_process_is_refused(pid: int, why: str) -> None:
    """A process that isn't in the machine's container is left alone, and so is none; the next question is answered."""
    told = json.dumps({"container": "f" * 64, "pid": pid, "away": []})

    answers = _answers(f"{told}\n{told}\n")

    assert 2 == len(answers)
    assert all(why in answer["refused"] for answer in answers)


def _answers(asked: str) -> list[dict[str, Any]]:
    line = [sys.executable, "-I", fitting.__file__]
    done = subprocess.run(line, input=asked, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_inotify_instances_are_counted() -> None:
    """Three that a process opens are three more of its own; what the host has and allows is told."""
    before = fitting.inotify_of(str(os.getpid()))
    opened = [ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC) for _ in range(3)]

    after = fitting.inotify_of(str(os.getpid()))
    [told] = _answers('{"inotify": true}\n')

    for one in opened:
        os.close(one)
    assert 3 == after - before
    assert told["used"] >= 3
    assert int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) == told["most"]
