"""Tasks run as a person runs them, but in the tests' own process: to start a Python takes longer than most tasks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import tasks
from bakehouse import console, settings
from bakehouse.tasks import program


@dataclass(frozen=True)
class Outcome:
    """Hold how a task ended: its exit code, and what it and all that it started wrote."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run_task(capfd: pytest.CaptureFixture[str]) -> Run:
    """Give what runs a command line of ./inv in a checkout's folder and an environment, with nobody to ask."""

    def run(folder: Path, environment: Mapping[str, str], *words: str) -> Outcome:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(settings, "ROOT", folder)
            patch.setattr(settings, "load", partial(settings.load, root=folder))
            console.talk.cache_clear()  # the console asks the environment once, for colours and the terminal's width
            try:
                program.CommandLine(copy.deepcopy(tasks.ns)).run(["inv", *words])  # Invoke uses up a task's help
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                console.talk.cache_clear()
        written = capfd.readouterr()
        return Outcome(code, written.out, written.err)

    return run
