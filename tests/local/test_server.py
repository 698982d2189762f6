"""The local EC2's server: what it does once, and what it tells while others ask."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from ec2_fixtures import code_of
from stand_in_fixtures import StandIn

from bakehouse.local.signatures import Signed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give a server without bodies, gate and notes, which moves nothing and keeps its state nowhere."""
    for name in ("MOTO_EC2_LOAD_DEFAULT_AMIS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "false")  # the module sets them; they are taken back with this
    from bakehouse.local.server import Server

    lifecycle: Any = SimpleNamespace(
        lock=threading.RLock(),
        changing=contextlib.nullcontext,
        prepare=lambda *_: None,
        open_ports=lambda: None,
        unopened={},
        bodies=SimpleNamespace(checkout="", answers=lambda: True),
    )
    made: Any = Server(lifecycle, tmp_path)
    made._caller = lambda environ: Signed(environ["key"], "ec2", "us-east-1")
    made.notes = SimpleNamespace(follow=lambda: None)
    return made


def asked(body: bytes = b"", key: str = "tests") -> dict[str, Any]:
    """Return a request as a server gets it."""
    return {"key": key, "QUERY_STRING": "", "wsgi.input": BytesIO(body)}


def test_health_is_told_while_others_ask(server: Any) -> None:
    """Which operations each access key has asked for is read while new keys ask."""
    server._moto = lambda _, respond: respond("200 OK", []) or [b""]
    over = threading.Event()

    def ask() -> None:
        for number in count():
            if over.is_set():
                return
            if number % 5000 == 0:
                server._operations = type(server._operations)()
            server(asked(key=str(number % 5000)), lambda *_: None)

    with _quick_switches(), ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for _ in range(300):
                server._health({})
        finally:
            over.set()
        asking.result()


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_every_operation_with_a_client_token(server: Any) -> None:
    """Each operation of EC2 that takes one is done once for each token, and one that was refused is tried again."""
    model = botocore.session.get_session().get_service_model("ec2")
    taking = [one for one in model.operation_names if "ClientToken" in model.operation_model(one).input_shape.members]
    done, statuses = Counter[str](), ["400 Bad Request", "200 OK", "200 OK"]

    for operation in taking:

        def moto(_: Any, respond: Any, operation: str = operation) -> list[bytes]:
            respond(statuses[done[operation]], [])
            done[operation] += 1
            return [operation.encode()]

        server._moto = moto
        body = f"Action={operation}&ClientToken={operation}".encode()
        assert [[operation.encode()]] * 4 == [server(asked(body), lambda *_: None) for _ in range(4)]

    assert len(taking) > 100
    assert dict.fromkeys(taking, 2) == done


def test_a_client_token_is_one(stand_in: StandIn) -> None:
    """Who sends a change again with the same token gets the same answer, and one thing is made, whoever serves."""
    ec2 = stand_in.ec2
    launch = {"ImageId": stand_in.base, "MinCount": 1, "MaxCount": 1, "ClientToken": "once"}
    volume = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "one more"}
    copy = {"SourceImageId": stand_in.base, "SourceRegion": "us-east-1", "Name": "copy", "ClientToken": "and another"}

    machines = {ec2.run_instances(**launch)["Instances"][0]["InstanceId"] for _ in range(3)}
    volumes = {ec2.create_volume(**volume)["VolumeId"] for _ in range(2)}
    images = {ec2.copy_image(**copy)["ImageId"] for _ in range(2)}

    assert [1, 1, 1] == [len(machines), len(volumes), len(images)]
    assert 1 == len(ec2.describe_instances()["Reservations"])
    assert "IdempotentParameterMismatch" == code_of(ec2.run_instances, **{**launch, "InstanceType": "t3.large"})
    assert "IdempotentParameterMismatch" == code_of(ec2.create_volume, **{**volume, "ClientToken": "once"})
    with stand_in.again() as another:
        assert machines == {another.ec2.run_instances(**launch)["Instances"][0]["InstanceId"]}
