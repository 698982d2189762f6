"""The local EC2 without Docker, for what its API does by itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import stand_in_server
from ec2_fixtures import ROOT, describe, wait

from bakehouse import local
from bakehouse.local import signatures
from bakehouse.settings import Settings


class StandIn:
    """Hold a server without Docker: a client of its EC2, and where the lock was held while Docker was asked."""

    def __init__(self, folder: Path, port: int, end: Callable[[], None]) -> None:
        self._folder, self._end = folder, end
        self.endpoint = f"http://127.0.0.1:{port}"
        self.ec2 = self.client("ec2")
        self.base = str(
            self.ec2.describe_images(Filters=[{"Name": "name", "Values": ["debian*"]}])["Images"][0]["ImageId"]
        )

    def client(self, service: str, config: Any = None) -> Any:
        """Return a client of one of the services."""
        key = signatures.keep(self._folder)
        session = boto3.Session(key.id, key.secret, region_name="us-east-1")
        return session.client(service, endpoint_url=self.endpoint, config=config)

    @contextlib.contextmanager
    def again(self) -> Iterator[StandIn]:
        """End the server as a crash would, and give the next one of its folder."""
        self._end()
        with served(self._folder) as server:
            yield server

    def ask(self, question: str) -> None:
        """Ask one of the kit's own questions."""
        local.ask(local.variables(self.endpoint, signatures.keep(self._folder)), question)

    def lack(self, types: str) -> None:
        """Let there be no room for instance types."""
        state = self._folder.parent / "state"
        state.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (state / "local").symlink_to(self._folder)
        local.lack(Settings(self._folder, state, "local", "", "jenkins"), types)

    def launch(self, does: str, number: int = 1, **more: Any) -> list[str]:
        """Launch machines that do what their user-data says."""
        made = self.ec2.run_instances(ImageId=self.base, MinCount=number, MaxCount=number, UserData=does, **more)
        return [str(one["InstanceId"]) for one in made["Instances"]]

    def running(self, does: str, number: int = 1) -> list[str]:
        """Launch machines, and wait until they run."""
        made = self.launch(does, number)
        wait(lambda: {one["State"]["Name"] for one in describe(self.ec2, *made)} == {"running"})
        return made

    def log(self) -> str:
        """Return what the server has logged."""
        return (self._folder / "log").read_text()

    def breaches(self) -> str:
        """Return where the lock was held while Docker was asked."""
        noted = self._folder / stand_in_server.BREACHES
        return noted.read_text() if noted.exists() else ""


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """Give a server without Docker."""
    with served(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Give a server without Docker to the tests that look at machines of their own alone."""
    with served(tmp_path_factory.mktemp("lasting")) as server:
        yield server


@contextlib.contextmanager
def served(folder: Path) -> Iterator[StandIn]:
    """Have a server without Docker run, with a folder of its own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = folder / "server.json"
    told.unlink(missing_ok=True)
    with (folder / "log").open("wb") as log:
        line = [sys.executable, stand_in_server.__file__, str(folder)]
        process = subprocess.Popen(line, env=environ, stdout=log, stderr=log)

    def end() -> None:
        process.kill()
        process.wait()

    try:
        wait(lambda: told.exists() or process.poll() is not None)
        yield StandIn(folder, json.loads(told.read_text())["port"], end)
    finally:
        end()
