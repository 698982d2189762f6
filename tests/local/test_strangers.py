"""Strangers: a page in a browser of this host, and requests that aren't signed, get nothing from the local EC2."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from ec2_fixtures import LocalEc2

pytestmark = pytest.mark.docker

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20261129/us-east-1/ec2/aws4_request, SignedHeaders=host"}
LAUNCH = "Action=RunInstances&ImageId=ami-0&MinCount=1&MaxCount=1"


def ask(local_ec2: LocalEc2, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Send a request as it is, and return the status, the text and the headers of the answer."""
    place = urlsplit(local_ec2.endpoint)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "reason"),
    [
        ("POST", "/", {**SIGNED, "Origin": "http://127.0.0.1:1"}, "answers no page of a browser"),
        ("POST", "/", {**SIGNED, "Origin": "null"}, "answers no page of a browser"),
        ("OPTIONS", "/", {"Origin": "https://example.org"}, "answers no page of a browser"),
        ("POST", "/bakehouse/adopt", {"Origin": "https://example.org"}, "answers no page of a browser"),
        ("POST", "/", {**SIGNED, "Host": "rebound.example.org"}, "by the address 127.0.0.1 alone"),
        ("GET", "/bakehouse/health", {"Host": "rebound.example.org"}, "by the address 127.0.0.1 alone"),
        ("GET", "/bakehouse/adopt", {}, "asked by POST"),
        ("GET", "/bakehouse/stand-in?package=jenkins", {}, "asked by POST"),
        ("POST", "/", {}, "not signed"),
        ("GET", f"/?{LAUNCH}", {}, "not signed"),
        ("POST", "/", {"Authorization": SIGNED["Authorization"].replace("/ec2/", "/s3/")}, "has no service s3"),
        ("GET", "/moto-api/data.json", {}, "not part of the local EC2"),
    ],
)
def test_refused(local_ec2: LocalEc2, method: str, path: str, headers: dict[str, str], reason: str) -> None:
    """The request is refused, nothing is launched, and no page may read the answer."""
    before = local_ec2.client("ec2").describe_instances()["Reservations"]

    status, told, answered = ask(local_ec2, method, path, LAUNCH if method == "POST" else "", **headers)

    assert (True, True) == (status in (403, 404), reason in told)
    assert [] == [name for name in answered if name.lower().startswith("access-control-")]
    assert before == local_ec2.client("ec2").describe_instances()["Reservations"]


def test_a_client_of_boto3_is_served(local_ec2: LocalEc2) -> None:
    """Who signs is served, of the services that there are; of another one nothing is there."""
    assert local_ec2.client("sts").get_caller_identity()["Account"]
    with pytest.raises(ClientError) as refused:
        local_ec2.client("s3").list_buckets()
    assert 403 == refused.value.response["ResponseMetadata"]["HTTPStatusCode"]
