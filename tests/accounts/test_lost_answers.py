"""Lost answers: where a part of AWS's API fails, each task comes through, and nothing is done twice."""

from __future__ import annotations

import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from samples import baked

from bakehouse import accounts, images, local, machines
from bakehouse.accounts import TAG, Account
from bakehouse.errors import CloudError, NotKnownError
from bakehouse.images import channels, copies, retirements, shares
from bakehouse.local.signatures import AccessKey
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.settings import Settings

pytestmark = pytest.mark.local

LIMIT = b"<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>no</Message></Error></Errors></Response>"

Fault = Callable[[str, int], str | None]
"""Tells what goes wrong with a request of an operation, by how often it was sent before.

It is throttled, unavailable, dropped (before the call) or lost (the answer); or nothing.
"""


class Relay(ThreadingHTTPServer):
    """Pass requests on to moto, but let some go wrong, as ``fault`` says.

    Moto heeds no ClientToken. In its place the relay gives the answer again that a token has got, as EC2 does.
    """

    def __init__(self, endpoint: str, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint, self.fault = endpoint, fault
        self.lock, self.times, self.answers = Lock(), dict[bytes, int](), dict[str, tuple[int, bytes]]()
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Handle one request at a time."""

    protocol_version = "HTTP/1.1"
    server: Relay

    def do_POST(self) -> None:
        """Pass the request on, or not."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            operation = self.headers.get("X-Amz-Target") or parse_qs(body.decode())["Action"][0]
            fault = self.server.fault(operation.rpartition(".")[2], self.server.times.setdefault(body, 0))
            self.server.times[body] += 1
            code, answer = 503, LIMIT if fault == "throttled" else b"<html>no</html>"
            if fault in (None, "lost"):
                code, answer = self._passed_on(body)
        if fault in ("dropped", "lost"):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _passed_on(self, body: bytes) -> tuple[int, bytes]:
        token = parse_qs(body.decode()).get("ClientToken", [""])[0]
        if token in self.server.answers:
            return self.server.answers[token]
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        request = urllib.request.Request(f"{self.server.endpoint}{self.path}", body, headers)
        try:
            with urllib.request.urlopen(request) as told:
                found = told.status, told.read()
        except urllib.error.HTTPError as error:
            found = error.code, error.read()
        if token:
            self.server.answers[token] = found
        return found

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def through(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Fault], Account]]:
    """Give what returns the there to the account through a relay; nobody waits between two calls."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    relays = list[Relay]()

    def enter(fault: Fault) -> Account:
        relays.append(Relay(account.endpoint, fault))
        endpoint = f"http://127.0.0.1:{relays[-1].server_port}"
        return accounts._local(local.variables(endpoint, AccessKey("tests", "tests")))

    yield enter
    for relay in relays:
        relay.shutdown()
        relay.server_close()


def a_third() -> Fault:
    """Return a fault of a third of all requests, of each kind, the same in each test."""
    dice = random.Random(20261122)  # noqa: S311, it is to be the same
    kinds = [*("throttled", "unavailable", "dropped", "lost"), *[None] * 8]
    return lambda *_: dice.choice(kinds)


FAULTS: dict[str, Callable[[], Fault]] = {
    "each answer is lost at first": lambda: lambda _, times: None if times else "lost",
    "a third fails": a_third,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_done_twice(
    account: Account,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    through: Callable[[Fault], Account],
    fault: Callable[[], Fault],
) -> None:
    """Launching, sharing, promoting, copying, retiring and terminating come to the same as without a fault."""
    image, other = baked(account, user="admin"), baked(account, user="admin")
    there = through(fault())
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")
    monkeypatch.setattr(copies, "connect", lambda _: there)
    monkeypatch.setattr(shares, "connect", lambda _: there)

    launched = launches.begin(there, settings, images.get(there, image), Request(2, ("t3.small",), "", b""), [8080])
    assert 2 == len(machines.find(account, "jenkins")) == len(launched)
    launches.begin(there, settings, images.get(there, image), Request(1, ("t3.small",), "192.0.2.9/32", b""), [8080])
    [group] = account.ec2.describe_security_groups(Filters=[{"Name": "tag-key", "Values": [f"{TAG}kind"]}])[
        "SecurityGroups"
    ]
    assert {(22, "192.0.2.9/32"), (8080, "192.0.2.9/32")} == {
        (one["FromPort"], source["CidrIp"]) for one in group["IpPermissions"] for source in one["IpRanges"]
    }
    assert 1 == len(account.ec2.describe_key_pairs()["KeyPairs"])

    for one in (image, other):
        channels.move(there, channels.read(there, "jenkins", "stable"), one, f"to {one}")
    assert [image, other] == [one.image for one in channels.read(account, "jenkins", "stable").moves]

    shares.share(settings, other, "210987654321")
    made = copies.copy(settings, other, "eu-west-1")
    abroad = account.at("eu-west-1")
    assert [made["eu-west-1"].id] == [one.id for one in images.find(abroad, "jenkins")]
    assert 1 == len(channels.read(abroad, "jenkins", "stable").moves)

    launches.end(there, settings, machines.find(there, "jenkins"))
    retirements.retire(there, retirements.retirement(there, images.get(there, other)))
    assert ([], [image]) == (machines.find(account, "jenkins"), [one.id for one in images.find(account, "jenkins")])
    assert [] == channels.find(account)


def test_an_answer_that_never_comes(account: Account, through: Callable[[Fault], Account]) -> None:
    """When every answer is lost that is no refusal: the channel may have moved, and the hint says where."""
    image = baked(account)
    there = through(lambda operation, _: "lost" if operation == "PutParameter" else None)
    known = channels.read(account, "jenkins", "stable")

    with pytest.raises(NotKnownError, match=r": channel stable may have moved$") as raised:
        channels.move(there, known, image)

    assert "./inv channels shows where it points" == raised.value.hint


def test_what_somebody_else_has_is_no_success(account: Account) -> None:
    """A name that is taken is an error as ever where the call was sent only once."""
    account.ec2.create_security_group(GroupName="taken", Description="x")

    with pytest.raises(CloudError, match="Duplicate"), accounts.done_already("InvalidGroup.Duplicate"):
        account.ec2.create_security_group(GroupName="taken", Description="x")
