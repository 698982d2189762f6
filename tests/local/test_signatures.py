"""Signatures: what a key of the checkout has signed is served; anything else, and anything changed, is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config
from ec2_fixtures import code_of, wait
from hypothesis import given
from hypothesis import strategies as st
from stand_in_fixtures import StandIn

from bakehouse.errors import ToolError
from bakehouse.local import signatures
from bakehouse.local.signatures import AccessKey, Asked, RefusedError, Signed

KEY = AccessKey("LOCAL1", "secret")
KNOWN = {"local": KEY}


def from_boto3(service: str, operation: str, key: AccessKey = KEY, **how: Any) -> Asked:
    """Return the request that a client of boto3 sends, as the server reads it."""
    sent: list[Asked] = []

    class SentError(Exception):
        pass

    def keep(request: AWSPreparedRequest, **_: object) -> None:
        place, _, target = request.url.removeprefix("http://").partition("/")
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        body = request.body if isinstance(request.body, bytes) else str(request.body or "").encode()
        sent.append(Asked(str(request.method), f"/{target}", {"host": place, **headers}, body))
        raise SentError

    session = boto3.Session(key.id, key.secret, region_name="us-east-1")
    client = session.client(service, endpoint_url="http://127.0.0.1:9")
    client.meta.events.register("before-send", keep)
    with pytest.raises(SentError):
        getattr(client, operation)(**how)
    return sent[0]


CALLS: dict[str, tuple[str, str, dict[str, object]]] = {
    "a form": ("ec2", "run_instances", {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "UserData": "ä & = +\n"}),
    "json": ("ssm", "get_parameter", {"Name": "/a b/ä"}),
    "a path and a query": ("ebs", "list_snapshot_blocks", {"SnapshotId": "snap-0123456789", "MaxResults": 100}),
    "a path with signs": ("ebs", "get_snapshot_block", {"SnapshotId": "snap 1", "BlockIndex": 1, "BlockToken": "a+/="}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_boto3_signs_is_served(call: tuple[str, str, dict[str, object]]) -> None:
    """The key's name and the service are told of each of the protocols."""
    service, operation, how = call

    assert Signed("local", service, "us-east-1") == signatures.signer(KNOWN, from_boto3(service, operation, KEY, **how))


CHANGES: dict[str, tuple[str, Callable[[Asked], Asked]]] = {
    "the body": ("another secret", lambda asked: replace(asked, body=asked.body + b"&DryRun=true")),
    "the method": ("another secret", lambda asked: replace(asked, method="GET")),
    "the path": ("another secret", lambda asked: replace(asked, target="/bakehouse/adopt")),
    "the query": ("another secret", lambda asked: replace(asked, target="/?Action=TerminateInstances")),
    "a header": ("another secret", lambda asked: with_header(asked, "content-type", "text/plain")),
    "one more header of AWS": ("leaves out", lambda asked: with_header(asked, "x-amz-target", "SSM.PutParameter")),
    "a body that isn't signed": ("leaves out", lambda asked: with_header(asked, "x-amz-content-sha256", "UNSIGNED")),
    "the time": ("another secret", lambda asked: with_header(asked, "x-amz-date", later(asked, seconds=1))),
    "an hour later": ("five minutes", lambda asked: with_header(asked, "x-amz-date", later(asked, hours=1))),
    "no time": ("five minutes", lambda asked: with_header(asked, "x-amz-date", "now")),
    "no signature": ("not signed", lambda asked: with_header(asked, "authorization", "")),
    "another scheme": ("not signed", lambda asked: with_header(asked, "authorization", "Basic YTph")),
    "half a signature": ("not signed", lambda asked: with_header(asked, "authorization", authorization(asked)[:-1])),
    "another key": (
        "none of this local EC2",
        lambda asked: with_header(asked, "authorization", authorization(asked).replace(KEY.id, "AKIA1")),
    ),
    "another service": (
        "another secret",
        lambda asked: with_header(asked, "authorization", authorization(asked).replace("/ec2/", "/iam/")),
    ),
}


def with_header(asked: Asked, name: str, value: str) -> Asked:
    """Return the request with another header."""
    return replace(asked, headers={**asked.headers, name: value})


def authorization(asked: Asked) -> str:
    """Return the header with the signature."""
    return asked.headers["authorization"]


def later(asked: Asked, **how: float) -> str:
    """Return a time after the request's own."""
    at = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return f"{at + timedelta(**how):%Y%m%dT%H%M%SZ}"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_refused(change: tuple[str, Callable[[Asked], Asked]]) -> None:
    """After the signature nothing of a request can be changed, added or left out."""
    reason, make = change

    with pytest.raises(RefusedError, match=reason):
        signatures.signer(KNOWN, make(from_boto3("ec2", "describe_images")))


def test_another_secret_is_refused() -> None:
    """The ID of a key alone is worth nothing."""
    with pytest.raises(RefusedError, match="another secret"):
        signatures.signer(KNOWN, from_boto3("ec2", "describe_images", AccessKey(KEY.id, "guessed")))


def test_an_unsigned_body_is_refused() -> None:
    """A client may say that its signature leaves out the body: not here."""
    headers = {"host": "127.0.0.1", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    asked = Asked("POST", "/", headers, b"Action=RunInstances")
    signed = {name.lower(): value for name, value in signatures.sign(KEY, "ec2", "us-east-1", asked).items()}

    with pytest.raises(RefusedError, match="of another body"):
        signatures.signer(KNOWN, replace(asked, headers=signed))


def test_a_signature_is_good_for_five_minutes() -> None:
    """Who has read a request can't send it again tomorrow."""
    asked, now = from_boto3("sts", "get_caller_identity"), datetime.now(UTC)

    assert Signed("local", "sts", "us-east-1") == signatures.signer(KNOWN, asked, now + timedelta(minutes=4))
    for moved in (timedelta(minutes=6), timedelta(minutes=-6), timedelta(days=1)):
        with pytest.raises(RefusedError, match="five minutes"):
            signatures.signer(KNOWN, asked, now + moved)


@given(st.text(max_size=300))
def test_no_header_is_a_fault(text: str) -> None:
    """Whatever stands in place of a signature, the request is refused and nothing else happens."""
    with pytest.raises(RefusedError):
        signatures.signer(KNOWN, Asked("POST", "/", {"host": "127.0.0.1", "authorization": text}))


def test_a_checkout_keeps_its_key(tmp_path: Path) -> None:
    """The key is random, its owner's alone, and the same for all who ask at once."""
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: signatures.keep(tmp_path), range(8)))
    (tmp_path / "other").mkdir()

    assert 1 == len(made)
    assert signatures.keep(tmp_path) != signatures.keep(tmp_path / "other")
    assert 0o600 == stat.S_IMODE((tmp_path / signatures.FILE).stat().st_mode)
    assert [signatures.FILE] == [file.name for file in tmp_path.iterdir() if file.is_file()]
    assert "secret" not in repr(KEY)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"local": {}}', '{"local": "key"}', "\x00"])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    """The file is named, and what to do; it isn't replaced in silence."""
    (tmp_path / signatures.FILE).write_text(content)

    with pytest.raises(ToolError, match=f"{signatures.FILE} does not hold the keys") as raised:
        signatures.keep(tmp_path)

    assert "delete it: a new one is made" == raised.value.hint
    assert content == (tmp_path / signatures.FILE).read_text()


def test_the_file_says_who_is_who(tmp_path: Path) -> None:
    """A key that somebody has added is another one's: the operations are told of each by its name."""
    told = {"local": {"id": "LOCAL1", "secret": "secret"}, "mine": {"id": "LOCAL2", "secret": "other"}}
    (tmp_path / signatures.FILE).write_text(json.dumps(told))
    known = signatures.read(tmp_path)

    asked = from_boto3("sts", "get_caller_identity", known["mine"])
    assert Signed("mine", "sts", "us-east-1") == signatures.signer(known, asked)


def test_the_session_of_a_role(stand_in: StandIn) -> None:
    """The keys of a role's session are accepted with their token alone, and until the session ends."""
    unchecked = Config(parameter_validation=False)  # AWS's shortest session is a quarter of an hour
    iam, sts = stand_in.client("iam"), stand_in.client("sts")
    made = iam.create_role(RoleName="baker", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    stand_in.client("iam", unchecked).update_role(RoleName="baker", MaxSessionDuration=6)
    keys = sts.assume_role(RoleArn=made, RoleSessionName="me")["Credentials"]

    def ec2(token: str) -> Any:
        session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], token, region_name="us-east-1")
        return session.client("ec2", endpoint_url=stand_in.endpoint)

    assert "AccessDenied" == code_of(sts.assume_role, RoleArn=f"{made}s", RoleSessionName="me")
    assert "InvalidClientTokenId" == code_of(ec2("another's").describe_instances)
    ec2(keys["SessionToken"]).describe_instances()
    wait(lambda: datetime.now(UTC) > keys["Expiration"], seconds=20)
    assert "RequestExpired" == code_of(ec2(keys["SessionToken"]).describe_instances)
