"""What fits machines out: it changes nothing of a process that isn't the machine's."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bakehouse.local import fitting
from bakehouse.settings import ROOT


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root, as which the fitter runs, may mount")
@pytest.mark.parametrize("mounts", ["tmpfs tmpfs -o rw", "cgroup2 cgroup2 -o ro,nosuid,nodev,noexec"], ids=["v1", "v2"])
def test_systemd_gets_a_tree_of_its_own(mounts: str) -> None:
    """As Docker leaves a container on a host of each kind, nothing can be written there; afterwards it's systemd's."""
    within = (
        "from bakehouse.local import fitting; fitting.give_control_groups(); print(open('/proc/self/mounts').read())"
    )
    script = f"mount -t {mounts} /sys/fs/cgroup && exec {shlex.join([sys.executable, '-c', within])}"
    line = ["unshare", "--mount", "--cgroup", "sh", "-c", script]

    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)

    assert 0 == done.returncode, done.stderr
    [*_, last] = [line for line in done.stdout.splitlines() if " /sys/fs/cgroup " in line]
    assert "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec" == last.partition(",relatime")[0]
