"""One server has one state: however silent it is, no second one serves beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import pytest

from bakehouse import local, settings, tools
from bakehouse.errors import ToolError
from bakehouse.local import checkouts
from bakehouse.settings import Settings

# a task ends before the server that it has started; a test goes on
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


class NoBodies:
    """Be what there is of Docker where there is none."""

    options: ClassVar[list[str]] = ["name=seccomp,profile=default"]

    @property
    def docker(self) -> Any:
        """Return what tells of the engine."""
        return SimpleNamespace(info=lambda: {"SecurityOptions": self.options})

    def answers(self) -> bool:
        """Return that no engine answers."""
        return False


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Give the settings of a checkout whose local EC2 meets no Docker engine, and needs none for what is asked here."""
    monkeypatch.setenv("BAKEHOUSE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setattr(tools, "ensure", lambda *_: None)
    monkeypatch.setattr(checkouts, "register", lambda *_: None)
    monkeypatch.setattr(local, "_bodies", lambda _: NoBodies())
    monkeypatch.setattr(local, "_INOTIFY_FILE", "")
    made = settings.load()
    yield made
    local._end(made)


def servers(of: Settings) -> list[int]:
    """Return the processes that serve from a checkout's folder."""
    folder = str((of.state / "local").resolve())
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_text(errors="replace").split("\0")
        except OSError:
            continue
        if "bakehouse.local.server" in words and folder in words:
            found.append(int(line.parent.name))
    return found


def ec2_of(endpoint: local.Endpoint) -> Any:
    """Return a client."""
    told = endpoint.variables
    session = boto3.Session(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    return session.client("ec2", endpoint_url=endpoint.endpoint)


def test_a_silent_server_is_waited_for(
    own: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A server that stands still at random moments is waited for: it stays the one, and keeps what it has answered."""
    monkeypatch.setattr(local, "_ANSWER_SECONDS", 0.2)
    first = local.up(own)
    ec2 = ec2_of(first)
    seed = time.time_ns()
    moments = Random(seed)  # noqa: S311  # nobody may not guess them
    rounds = int(request.config.getoption("rounds"))
    for number in range(rounds):
        with ThreadPoolExecutor(2) as pool:
            kept = pool.submit(ec2.create_key_pair, KeyName=str(number))
            time.sleep(moments.uniform(0, 0.2))
            os.kill(first.pid, signal.SIGSTOP)
            found = pool.submit(local.up, own)
            time.sleep(moments.uniform(0, 1))
            os.kill(first.pid, signal.SIGCONT)
            assert found.result().pid == first.pid, f"seed {seed}"
            kept.result()
        assert [first.pid] == servers(own), f"seed {seed}"

    os.kill(first.pid, signal.SIGKILL)
    again = local.up(own)

    assert again.pid != first.pid
    names = {one["KeyName"] for one in ec2_of(again).describe_key_pairs()["KeyPairs"]}
    assert {str(number) for number in range(rounds)} == names, f"seed {seed}"


def test_a_server_that_stays_silent_is_ended(
    own: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the told time it is ended, with a line that says so, before another one starts; so does the shutdown."""
    monkeypatch.setattr(local, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(local, "SILENT_SECONDS", 1)
    monkeypatch.setattr(local, "_GRACE_SECONDS", 0.5)
    first = local.up(own)
    os.kill(first.pid, signal.SIGSTOP)

    second = local.up(own)

    assert [second.pid] == servers(own)
    said = capsys.readouterr().err
    assert "waiting for the local EC2, which is there but does not answer" in said
    assert f"the local EC2 (process {first.pid}) does not answer: it is ended" in said
    monkeypatch.setattr(local, "_STOP_SECONDS", 0.5)
    os.kill(second.pid, signal.SIGSTOP)
    local._end(own)
    assert [] == servers(own)


def test_the_server_of_an_older_kit_is_found(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has nothing to tell of its state in our words is a server all the same, and can be ended."""
    first = local.up(own)
    ask = local.ask

    def older(*given: Any, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in ask(*given, **more).items() if name != "told"}

    monkeypatch.setattr(local, "ask", older)

    found = local._find(own)

    assert found is not None
    assert (first.pid, ()) == (found.pid, found.told)


def test_a_server_that_uses_another_engine(
    own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was started with another DOCKER_HOST is told, and started anew, once."""
    first = local.up(own)
    before = os.environ["DOCKER_HOST"]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/another")

    second, third = local.up(own), local.up(own)

    assert first.pid != second.pid == third.pid
    said = f"the local EC2 uses the Docker engine at {before} (DOCKER_HOST), and not the Docker engine at unix://"
    assert 1 == capsys.readouterr().err.count(said)


@pytest.mark.parametrize("host", ["", "unix:///var/run/docker.sock", "unix:///run/docker.sock"])
def test_the_usual_engine_is_one(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Whether it is named or not: who names it starts no server anew."""
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setattr(tools, "docker_context", lambda: "")

    assert "the Docker engine" == local.engine()


def test_a_server_that_nothing_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even SIGKILL doesn't end it, as while its disk hangs, nobody waits for ever."""
    monkeypatch.setattr(local, "_STOP_SECONDS", 0.2)
    monkeypatch.setattr(local, "_lives", lambda _: True)
    with (
        subprocess.Popen(["sleep", "600"]) as stands_in,
        pytest.raises(ToolError, match=rf"the local EC2 \(process {stands_in.pid}\) does not end"),
    ):
        local._end_process(stands_in.pid, 0.1)


@pytest.mark.parametrize(
    ("before", "after", "said"), [("128\n", "1024\n", 1), ("1024\n", "1024\n", 0), ("4096\n", "4096\n", 0), ("", "", 0)]
)
def test_inotify_instances_are_given(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    said: int,
) -> None:
    """Where the host has few, and it's ours to do, the limit is raised, and that is said; it's never lowered."""
    file = tmp_path / "max_user_instances"
    file.write_text(before)
    monkeypatch.setattr(local, "_INOTIFY_FILE", str(file))

    local._give_inotify()

    assert after == file.read_text()
    assert said == capsys.readouterr().err.count("fs.inotify.max_user_instances of this host is 1024 now")


def test_an_engine_that_maps_users_is_refused(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With userns-remap no machine boots, as was tried: it is said in one line, before anything is started."""
    monkeypatch.setattr(NoBodies, "options", ["name=seccomp,profile=default", "name=userns"])

    with pytest.raises(ToolError, match=r"the Docker engine at .* maps users \(userns-remap\)"):
        local.up(own)

    assert [] == servers(own)


def test_a_second_server_refuses_to_serve(own: Settings) -> None:
    """Who starts one by hand beside the first gets one line, and the first stays."""
    first = local.up(own)
    told = local.last_told(own.state / "local")

    line = [sys.executable, "-m", "bakehouse.local.server", str((own.state / "local").resolve()), "0123456789ab"]
    second = subprocess.run(line, capture_output=True, text=True, check=False)

    assert 1 == second.returncode
    assert second.stderr.endswith(f" (process {first.pid}) serves already\n")
    assert [first.pid] == servers(own)
    assert told == local.last_told(own.state / "local")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_text(""),
    "no JSON": lambda file: file.write_text("{"),
    "no text": lambda file: file.write_bytes(b"\xff\xfe"),
    "a list": lambda file: file.write_text("[]"),
    "a number": lambda file: file.write_text("5"),
    "null": lambda file: file.write_text("null"),
    "without a port": lambda file: file.write_text('{"pid": 1}'),
    "without a pid": lambda file: file.write_text('{"port": 80}'),
    "port -1": lambda file: file.write_text('{"pid": 1, "port": -1}'),
    "port 0": lambda file: file.write_text('{"pid": 1, "port": 0}'),
    "port 65536": lambda file: file.write_text('{"pid": 1, "port": 65536}'),
    "a text for a port": lambda file: file.write_text('{"pid": 1, "port": "80"}'),
    "true for a port": lambda file: file.write_text('{"pid": 1, "port": true}'),
    "a part of a number": lambda file: file.write_text('{"pid": 1, "port": 80.5}'),
    "pid -1": lambda file: file.write_text('{"pid": -1, "port": 80}'),
    "another's pid": lambda file: file.write_text(json.dumps({"pid": os.getpid(), "port": 9})),
    "a folder": lambda file: file.mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_server_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """Whatever stands where the server says where it is: there is no server, and nothing is ended."""
    monkeypatch.setenv("BAKEHOUSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(local, "_bodies", lambda _: NoBodies())
    own = settings.load()
    DAMAGES[damage](local._folder(own) / "server.json")

    assert 0 == local.status(own)["pid"]
    local._end(own)
