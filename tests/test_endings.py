"""Endings: every task that is asked to stop ends in one line, keeps its promises, and no answer gets lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest
from ec2_fixtures import wait
from samples import baked, machine
from task_fixtures import Outcome, Run

import tasks
from bakehouse import accounts, console, documents, endings, local
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.errors import InputError, StoppedError
from bakehouse.records import store
from bakehouse.settings import ROOT, Settings
from bakehouse.tasks import KitTask

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

Interrupt = Callable[..., Outcome]


@pytest.fixture
def interrupt(
    account: Account, settings: Settings, run_task: Run, monkeypatch: pytest.MonkeyPatch, signals: None
) -> Interrupt:
    """Give what runs a task that gets a signal with its first call of an operation, and maybe again with each later."""
    there = accounts._local(account.variables)
    endpoint = local.Endpoint(1, "", account.endpoint, account.variables, (), docker=True)
    monkeypatch.setattr(local, "up", lambda *_: endpoint)
    monkeypatch.setattr(accounts, "_local", lambda _: there)
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")

    def run(words: str, moment: str, number: signal.Signals, twice: bool) -> Outcome:
        come = list[str]()

        def strike(event_name: str, **_: Any) -> None:
            if come and not twice:
                return
            if come or event_name.startswith(moment):
                come.append(event_name)
                os.kill(os.getpid(), number)

        for when in ("before-call", "after-call"):
            there.session.events.register(when, strike)
        told = run_task(ROOT, {**os.environ, "BAKEHOUSE_STATE": str(settings.state)}, *words.split())
        assert come, told
        return told

    return run


def proven(account: Account, settings: Settings) -> str:
    """Have an image that this checkout has proven, and return its ID."""
    image = baked(account, user="admin")
    proof = settings.kept("proofs") / image / store.PROOF
    proof.parent.mkdir(parents=True)
    proof.write_text(json.dumps({"image": image, "verdict": "pass"}))
    tags = tag_list({f"{TAG}verdict": f"pass {documents.digest(proof.read_bytes())}"})
    account.ec2.create_tags(Resources=[image], Tags=tags)
    return image


def launched(account: Account, settings: Settings) -> str:
    """Have a machine of the recipe, and return its ID."""
    one = machine(account, baked(account))
    tags = {"recipe": "jenkins", "kind": "machine", "user": "admin"}
    account.ec2.create_tags(Resources=[one], Tags=tag_list({f"{TAG}{key}": value for key, value in tags.items()}))
    return one


def machines_of(account: Account) -> dict[str, str]:
    """Return the state of each machine by its ID."""
    found = [one for each in account.ec2.describe_instances()["Reservations"] for one in each["Instances"]]
    return {one["InstanceId"]: one["State"]["Name"] for one in found}


LAUNCH, ENDING = "launch --everyone", "launch --everyone --on-failure terminate"
STOPPED = {
    "launch, nothing yet": (proven, ENDING, "before-call.ec2.DescribeKeyPairs", "nothing was launched", 0),
    "launch, on the way": (proven, ENDING, "before-call.ec2.RunInstances", "MACHINE terminated", 0),
    "launch, done": (proven, ENDING, "after-call.ec2.RunInstances", "MACHINE terminated", 0),
    "launch, waiting": (proven, ENDING, "before-call.ec2.DescribeInstances", "MACHINE terminated", 0),
    "launch, kept": (proven, LAUNCH, "after-call.ec2.RunInstances", "still there: MACHINE", 1),
    "prove": (proven, "prove", "after-call.ec2.RunInstances", "nothing is proven of image IMAGE", 0),
    "promote": (proven, "promote", "after-call.ssm.PutParameter", "channel stable may have moved", 0),
    "copy": (
        proven,
        "copy IMAGE eu-west-1",
        "after-call.ec2.CopyImage",
        "copies that were begun go on",
        0,
    ),
    "retire": (proven, "retire IMAGE --yes", "after-call.ec2.DeregisterImage", "image IMAGE may be gone in part", 0),
    "cleanup": (
        proven,
        "cleanup --keep 0 --now --everyone --yes",
        "before-call.ec2.DeregisterImage",
        "the rest is still there",
        0,
    ),
    "cleanup --leftovers": (
        proven,
        "cleanup --leftovers --yes",
        "before-call.ec2.DescribeInstances",
        "",
        0,
    ),
    "terminate": (
        launched,
        "terminate --all --yes",
        "after-call.ec2.TerminateInstances",
        "IMAGE may be there for a while",
        0,
    ),
    "probe": (launched, "probe", "before-call.ec2.DescribeInstances", "nothing is known of the machines", 1),
    "test-role": (
        proven,
        "test-role --scenario default --platform debian-13",
        "before-call.ec2.DescribeInstances",
        "nothing is known of the roles",
        0,
    ),
    "images": (proven, "images", "before-call.ec2.DescribeImages", "", 0),
}


WAYS = [(number, twice) for twice in (False, True) for number in CODES]
CASES = [  # each task in one way, in turn, and the one that costs money in all
    *((name, *WAYS[at % len(WAYS)]) for at, name in enumerate(STOPPED)),
    *(("launch, done", *way) for way in WAYS),
]


@pytest.mark.local
@pytest.mark.parametrize(
    ("name", "number", "twice"), CASES, ids=[f"{name}-{way.name}{'-twice' * twice}" for name, way, twice in CASES]
)
def test_a_task_that_is_asked_to_stop(
    account: Account, settings: Settings, interrupt: Interrupt, name: str, number: signal.Signals, twice: bool
) -> None:
    """It says by what and how things stand, keeps its promise of its machines, and exits with the shell's code."""
    make, words, moment, state, left = STOPPED[name]
    made = make(account, settings)
    before = machines_of(account)

    told = interrupt(words.replace("IMAGE", made), moment, number, twice)

    now = machines_of(account)
    state = state.replace("IMAGE", made).replace("MACHINE", " ".join(now.keys() - before.keys()))
    line = f"error: ./inv {words.split()[0]} was interrupted by {number.name}{': ' if state else ''}{state}"
    said = [one for one in told.stderr.splitlines() if one.startswith(("error: ", "Traceback"))]
    assert (CODES[number], [line]) == (told.returncode, said), told.stderr
    assert left == len([one for one in now.values() if one != "terminated"])


def test_every_task_is_one_of_ours() -> None:
    """No task ends in a way of its own: all are of the class that listens to signals."""
    found = [tasks.ns[name] for name in tasks.ns.task_names]

    assert found
    assert [] == [task for task in found if not isinstance(task, KitTask)]


@pytest.mark.usefixtures("signals")
def test_what_a_request_has_made_gets_known() -> None:
    """A signal waits for the end of an uncut context, in which the answer is kept."""
    kept = []

    def work() -> None:
        with endings.uncut():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            kept.append("the answer")
        pytest.fail("it went on")

    with pytest.raises(StoppedError, match=r"^work was interrupted by SIGTERM$"), endings.obedient("work"):
        work()

    assert ["the answer"] == kept


@pytest.mark.usefixtures("signals")
def test_clearing_away_is_not_disturbed(capfd: pytest.CaptureFixture[str]) -> None:
    """After the first signal the clearing away goes on whatever comes, until it waits for what can be cut short."""
    done = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for number in CODES:
                signal.raise_signal(number)
            done.append("cleared away")
            with contextlib.suppress(endings.Interrupted), endings.impatient():
                signal.raise_signal(signal.SIGINT)
                pytest.fail("it went on waiting")

    raised = pytest.raises(StoppedError, match=r"by SIGINT: all is well$")
    with raised, endings.obedient("work"), endings.stating("all is well"):
        work()

    assert ["cleared away"] == done
    assert 3 == capfd.readouterr().err.count("still clearing away; kill -9 ends that by force")


@pytest.mark.usefixtures("signals")
def test_a_signal_that_somebody_has_swallowed() -> None:
    """Where a library took the first signal for its own, the next one counts anew."""
    with contextlib.suppress(StoppedError), endings.obedient("work"):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")


def test_a_file_that_the_system_refuses(tmp_path: Path) -> None:
    """What the system says of a file is one line, which names it."""
    with pytest.raises(InputError, match=f"^Is a directory: {tmp_path}$"), endings.obedient("work"):
        tmp_path.read_text()


ON_A_TERMINAL = """
import pathlib, sys, time
from bakehouse import console, endings
with endings.answering(), endings.obedient("the task"):
    try:
        console.data("up")
        time.sleep(60)
    finally:
        console.say("clearing away")
        pathlib.Path(sys.argv[1]).touch()
"""


def test_a_closed_terminal(tmp_path: Path) -> None:
    """The task clears away though nobody can read any more what it says of that."""
    line = [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path / "cleared away")]
    terminal = pexpect.spawn(line[0], line[1:], cwd=str(ROOT), encoding="utf-8", timeout=60)
    terminal.expect("up")

    with contextlib.suppress(pexpect.ExceptionPexpect):  # it doesn't wait for the end
        terminal.close(force=False)

    wait((tmp_path / "cleared away").exists)
    wait(lambda: not terminal.isalive())


@pytest.mark.parametrize(
    ("sees", "answer", "agreed"), [(True, "y\n", True), (True, "\n", False), (True, "", None), (False, "y\n", None)]
)
def test_a_question(monkeypatch: pytest.MonkeyPatch, sees: bool, answer: str, agreed: bool | None) -> None:
    """A question that nobody can see or answer is refused, and --yes is named."""
    stdin, stderr = io.StringIO(answer), io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(stderr, "isatty", lambda: sees)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stderr", stderr)

    if agreed is None:
        with pytest.raises(InputError) as refused:
            console.confirm(["delete all"], "Go on?")
        assert "--yes" in refused.value.hint
    else:
        assert agreed is console.confirm(["delete all"], "Go on?")


RESCUED = "error: stdout can't be written: "
STREAMS = {
    "all closed": (">&- 2>&- <&-", 2, False, ""),
    "stdin closed": ("<&-", 0, True, ""),
    "stdout closed": (">&-", 2, False, f"{RESCUED}it is closed"),
    "stdout full": (">/dev/full", 2, False, f"{RESCUED}No space left on device"),
    "stderr full": ("2>/dev/full", 0, True, ""),
    "stderr closed": ("2>&-", 0, True, ""),
    "the reader gone": ("| true", 0, False, ""),
}


@pytest.mark.parametrize(("streams", "code", "answers", "told"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("words", ["policy --task launch", "--list"])
def test_no_answer_gets_lost(tmp_path: Path, words: str, streams: str, code: int, answers: bool, told: str) -> None:
    """What stdout doesn't take stands on stderr, with exit code 2; never is there a traceback."""
    line = f"{shlex.quote(sys.executable)} tasks.py {words} {streams}"
    environ = {**os.environ, "BAKEHOUSE_STATE": str(tmp_path / "state")}
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    answer = "ec2:RunInstances" if "policy" in words else "Launch healthy machines"
    assert (code, answers) == (done.returncode, answer in done.stdout), done.stderr
    assert bool(told) == (answer in done.stderr)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
