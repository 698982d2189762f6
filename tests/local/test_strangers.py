"""Strangers: a page in a browser of this host, and another user of it, get nothing from the local EC2."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from ec2_fixtures import LocalEc2, mark, wait

from bakehouse import local
from bakehouse.errors import ToolError
from bakehouse.local import signatures
from bakehouse.local.signatures import AccessKey, Asked

pytestmark = pytest.mark.docker

CHANGE = "Action=CreateSecurityGroup&GroupName=strange&GroupDescription=strange&Version=2016-11-15"
FORGED = (
    "AWS4-HMAC-SHA256 Credential={key}/20261129/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=" + "0" * 64
)


def ask(local_ec2: LocalEc2, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Send a request as it is, and return the status, the text and the headers of the answer."""
    place = urlsplit(local_ec2.endpoint)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def signed(local_ec2: LocalEc2, service: str, method: str, path: str, body: str = "") -> dict[str, str]:
    """Return the headers of a request that the checkout's own key has signed."""
    told = local_ec2.variables()
    key = AccessKey(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])
    asked = Asked(method, path, {"host": urlsplit(local_ec2.endpoint).netloc}, body.encode())
    return signatures.sign(key, service, "us-east-1", asked)


def groups(local_ec2: LocalEc2) -> list[str]:
    """Return the names of the security groups that there are."""
    return [one["GroupName"] for one in local_ec2.client("ec2").describe_security_groups()["SecurityGroups"]]


@pytest.mark.parametrize(
    ("service", "method", "path", "headers", "reason"),
    [
        ("ec2", "POST", "/", {"Origin": "http://127.0.0.1:1"}, "answers no page of a browser"),
        ("ec2", "POST", "/", {"Origin": "null"}, "answers no page of a browser"),
        ("", "OPTIONS", "/", {"Origin": "https://example.org"}, "answers no page of a browser"),
        ("bakehouse", "POST", "/bakehouse/adopt", {"Origin": "https://example.org"}, "answers no page of a browser"),
        ("ec2", "POST", "/", {"host": "rebound.example.org"}, "by the address 127.0.0.1 alone"),
        ("", "GET", "/bakehouse/health", {"Host": "rebound.example.org"}, "by the address 127.0.0.1 alone"),
        ("bakehouse", "GET", "/bakehouse/adopt", {}, "asked by POST"),
        ("bakehouse", "GET", "/bakehouse/stand-in?package=jenkins", {}, "asked by POST"),
        ("ec2", "POST", "/bakehouse/adopt", {}, "is no question to ec2"),
        ("bakehouse", "POST", "/", {}, "is no question to bakehouse"),
        ("", "POST", "/bakehouse/adopt", {}, "not signed"),
        ("", "POST", "/bakehouse/health", {}, "not signed"),
        ("", "POST", "/", {}, "not signed"),
        ("", "GET", f"/?{CHANGE}", {}, "not signed"),
        ("", "POST", "/", {"Authorization": FORGED.format(key="local")}, "none of this local EC2"),
        ("", "POST", "/", {"Authorization": "x", "Content-Length": "99999999999"}, "are the most"),
        ("", "POST", "/", {"Authorization": "x", "Content-Length": "-1"}, "are the most"),
        ("", "POST", "/", {"Authorization": "x", "Content-Length": "9" * 5000}, "are the most"),
        ("ec2", "POST", f"/?{CHANGE}", {}, "in its address and in its body"),
        ("s3", "POST", "/", {}, "has no service s3"),
        ("ec2", "POST", "/moto-api/reset", {}, "has no service"),
        ("", "GET", "/moto-api/data.json", {}, "not signed"),
    ],
)
def test_refused(
    local_ec2: LocalEc2, service: str, method: str, path: str, headers: dict[str, str], reason: str
) -> None:
    """The request is refused, nothing is made, and no page may read the answer; not even one signed by the owner."""
    before, body = groups(local_ec2), CHANGE if method == "POST" else ""
    sent = {**(signed(local_ec2, service, method, path, body) if service else {}), **headers}

    status, told, answered = ask(local_ec2, method, path, body, **sent)

    assert (403, True) == (status, reason in told), told
    assert [] == [name for name in answered if name.lower().startswith("access-control-")]
    assert before == groups(local_ec2)


def test_a_client_of_boto3_is_served(local_ec2: LocalEc2) -> None:
    """Who signs is served, of the services that there are; of another one nothing is there."""
    assert local_ec2.client("sts").get_caller_identity()["Account"]
    with pytest.raises(ClientError) as refused:
        local_ec2.client("s3").list_buckets()
    assert 403 == refused.value.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(("service", "operation"), [("ec2", "describe_images"), ("ssm", "describe_parameters")])
def test_a_guessed_secret_is_worth_nothing(local_ec2: LocalEc2, service: str, operation: str) -> None:
    """A client is told in its service's own form that its signature is wrong."""
    session = boto3.Session(local_ec2.variables()["AWS_ACCESS_KEY_ID"], "guessed", region_name="us-east-1")
    client = session.client(service, endpoint_url=local_ec2.endpoint)
    with pytest.raises(ClientError) as refused:
        getattr(client, operation)()
    assert "SignatureDoesNotMatch" == refused.value.response["Error"]["Code"]


def test_what_local_env_prints_is_enough(local_ec2: LocalEc2) -> None:
    """A shell that has read it uses the local EC2 from boto3 alone, whatever profile and proxy the person has."""
    ask = "import boto3; print(boto3.client('ec2').describe_vpcs()['Vpcs'][0]['VpcId'])"
    hostile = {"AWS_PROFILE": "mine", "AWS_SESSION_TOKEN": "old", "HTTP_PROXY": "http://127.0.0.1:9"}
    script = f'eval "$({local_ec2.program} local.env)" && exec "$0" -c "{ask}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        env={**local_ec2.environ, **hostile},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert local_ec2.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"] == done.stdout.strip()


def test_another_user_of_this_host_is_refused(local_ec2: LocalEc2) -> None:
    """Another user reaches the address, and can neither read the key nor do anything without it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    before = groups(local_ec2)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    asked = subprocess.run(
        [*nobody, "curl", "--silent", "--noproxy", "*", "--data", CHANGE, local_ec2.endpoint],
        capture_output=True,
        text=True,
        check=True,
    )
    read = subprocess.run([*nobody, "cat", str(local_ec2.folder / signatures.FILE)], capture_output=True, check=False)

    assert "MissingAuthenticationToken" in asked.stdout
    assert (1, b"") == (read.returncode, read.stdout)
    assert before == groups(local_ec2)


PAGE = """<!doctype html><title>page</title><form method="post" enctype="text/plain" target="frame" action="{endpoint}">
<input name="{change}&Tail" value=""></form><iframe name="frame"></iframe><script>
const tell = word => fetch("/told?" + encodeURIComponent(word));
const forged = "{forged}";
const tries = [
  () => fetch("{endpoint}/", {{method: "POST", body: "{change}"}}),
  () => fetch("{endpoint}/", {{method: "POST", body: "{change}", mode: "no-cors"}}),
  () => fetch("{endpoint}/?{change}", {{mode: "no-cors"}}),
  () => fetch("{endpoint}/", {{method: "POST", body: "{change}", headers: {{Authorization: forged}}}}),
  () => fetch("{endpoint}/bakehouse/adopt", {{method: "POST", mode: "no-cors"}}),
  async () => {{ document.forms[0].submit(); await new Promise(done => setTimeout(done, 1000)); }},
];
(async () => {{
  for (const one of tries) {{
    try {{ const answer = await one(); await tell(answer ? answer.type + (await answer.text()).length : "sent"); }}
    catch (error) {{ await tell("failed"); }}
  }}
  await tell("over");
}})();
</script>"""


class Pages(ThreadingHTTPServer):
    """Serve one page, and note what it tells."""

    def __init__(self, page: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page, self.told = page, list[str]()


class _Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        """Give the page, or note what it tells."""
        place = urlsplit(self.path)
        if place.path == "/told":
            self.server.told.append(place.query)
        body = self.server.page.encode() if place.path == "/" else b""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def browser() -> str:
    """Return the name of a headless browser; install one if there is none."""
    if os.geteuid() != 0 and not shutil.which("chromium"):
        pytest.skip("there is no chromium, and only root can install it")
    if not shutil.which("chromium"):
        for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-q", *words], check=True, capture_output=True)
    return "chromium"


@pytest.fixture
def page(local_ec2: LocalEc2) -> Iterator[Pages]:
    """Serve a page of another origin that tries to change something in every way that a page has."""
    forged = FORGED.format(key=local_ec2.variables()["AWS_ACCESS_KEY_ID"])
    with Pages(PAGE.format(endpoint=local_ec2.endpoint, change=CHANGE, forged=forged)) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield pages
        pages.shutdown()


def test_a_page_in_a_browser_is_refused(local_ec2: LocalEc2, page: Pages, browser: str, tmp_path: Path) -> None:
    """A real browser's page of another origin can neither change anything nor read an answer."""
    before = groups(local_ec2)
    line = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--proxy-server=direct://",
    ]
    with subprocess.Popen(
        [*line, f"http://127.0.0.1:{page.server_port}/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            wait(lambda: "over" in page.told, 60)
        finally:
            running.terminate()

    assert ["failed", "opaque0", "opaque0", "failed", "opaque0", "sent", "over"] == page.told
    assert before == groups(local_ec2)


def test_another_program_on_the_port_is_not_believed(local_ec2: LocalEc2, tmp_path: Path) -> None:
    """While the server is down another program may have its port: no task talks to it, nor ends what it names."""
    told = {"pid": os.getpid(), "code": "x", "checkout": mark(local_ec2.state), "told": [], "docker": True}

    class Impostor(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer as our server would."""
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = signatures.keep(tmp_path)
        with pytest.raises(ToolError, match="is not this checkout's local EC2"):
            local.ask(local.variables(f"http://127.0.0.1:{server.server_port}", key), "health")
        server.shutdown()
