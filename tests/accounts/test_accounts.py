"""Accounts: each account keeps to its own endpoint, errors say what to do, and waiting has an end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bakehouse import accounts, local
from bakehouse.errors import AccountError, CloudError, DeadlineError, InputError, NotFoundError
from bakehouse.local.signatures import AccessKey
from bakehouse.settings import Settings


def settings(tmp_path: Path, account: str, region: str = "") -> Settings:
    """Return what a task was told."""
    return Settings(root=tmp_path, state=tmp_path, account=account, region=region, recipe="jenkins")


def at(endpoint: str) -> local.Endpoint:
    """Return what is told of a local EC2 at an endpoint."""
    return local.Endpoint(1, "", endpoint, local.variables(endpoint, AccessKey("LOCAL1", "secret")), "", docker=True)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the person an AWS profile ``mine`` with keys and a region."""
    config = tmp_path / "config"
    config.write_text("[profile mine]\nregion = eu-west-1\naws_access_key_id = A\naws_secret_access_key = B\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.mark.parametrize(
    "endpoint", ["http://192.0.2.1:5000", "https://ec2.us-east-1.amazonaws.com", "http://example.org"]
)
def test_local_never_leaves_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The account local is refused when its endpoint is not this machine."""
    monkeypatch.setattr(local, "up", lambda *_: at(endpoint))
    with pytest.raises(AccountError, match="not this machine"):
        accounts.connect(settings(tmp_path, "local"))


def test_local_has_its_own_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that works on the local account gets its key and endpoint, and nothing of the person's."""
    monkeypatch.setattr(local, "up", lambda *_: at("http://127.0.0.1:9"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "the person's")
    environ = accounts.connect(settings(tmp_path, "local")).environ()
    assert {name for name in environ if name.startswith("AWS_") and environ[name] == "the person's"} == set()
    assert ("LOCAL1", "secret") == (environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"])
    assert environ["AWS_ENDPOINT_URL_EC2"] == environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert environ["AWS_CONFIG_FILE"] == environ["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull


@pytest.mark.usefixtures("profile")
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_STS"])
@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://127.0.0.1:5000", "http://localhost:5000", "http://[::1]:5000", "http://0.0.0.0:5000"),
        *("http://127.1:5000", "http://2130706433:5000", "http://[::ffff:127.0.0.1]:5000", "http://0x7f.1:5000"),
    ],
)
def test_aws_is_never_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str) -> None:
    """An account that is AWS is refused while a variable points at this machine."""
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(AccountError, match=variable):
        accounts.connect(settings(tmp_path, "mine"))


WRONG = {
    "no profile": ("[profile another]\nregion = eu-west-1\n", {}, "there is no account mine"),
    "no region": ("[profile mine]\naws_access_key_id = A\naws_secret_access_key = B\n", {}, "has no region"),
    "no credentials": ("[profile mine]\nregion = eu-west-1\n", {"AWS_EC2_METADATA_DISABLED": "true"}, "no credentials"),
    "no ini file": ("nonsense\n", {}, "Unable to parse config file"),
    "half a section": ("[profile mine\nregion = eu-west-1\n", {}, "Unable to parse config file"),
    "no such program": ("{}credential_process = /nowhere/program\n", {}, "/nowhere/program"),
    "a program that fails": ("{}credential_process = false\n", {}, "Error when retrieving credentials"),
    "a program that prints no JSON": ("{}credential_process = echo nonsense\n", {}, "Expecting value"),
    "a program that prints half": ("{}credential_process = echo '{{\"Version\": 1}}'\n", {}, "AccessKeyId"),
    "a quote left open": ("{}credential_process = 'program\n", {}, "No closing quotation"),
    "half a pair of keys": ("{}aws_access_key_id = A\n", {}, "Partial credentials"),
    "a role without its source": ("{}role_arn = arn:aws:iam::1:role/r\n", {}, "source_profile"),
    "a role of a profile that isn't there": (
        "{}role_arn = arn:aws:iam::1:role/r\nsource_profile = nobody\n",
        {},
        "nobody",
    ),
    "a role that needs a code": (
        "{}role_arn = arn:aws:iam::1:role/r\nsource_profile = keys\nmfa_serial = me\n[profile keys]\n{}",
        {},
        "can't be used: ",
    ),
    "no token file": (
        "{}role_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = /nowhere/token\n",
        {},
        "/nowhere/token",
    ),
    "an SSO session that isn't there": (
        "{}sso_session = nobody\nsso_account_id = 1\nsso_role_name = r\n",
        {},
        "nobody",
    ),
    "SSO without a login": (
        "{}sso_start_url = https://nobody.example\nsso_region = eu-west-1\nsso_account_id = 1\nsso_role_name = r\n",
        {},
        "can't be used: ",
    ),
    "an endpoint at home": ("{}{}endpoint_url = http://127.0.0.1:9\n", {}, "endpoint for ec2 is http://127.0.0.1:9"),
    "a region with blanks": ("[profile mine]\nregion = eu west\n{}", {}, "eu west"),
    "words for retries": ("{}{}retry_mode = sometimes\n", {}, "sometimes"),
    "words for attempts": ("{}{}max_attempts = many\n", {}, "many"),
    "a variable for retries": ("{}{}", {"AWS_RETRY_MODE": "sometimes"}, "sometimes"),
    "a variable for attempts": ("{}{}", {"AWS_MAX_ATTEMPTS": "many"}, "many"),
    "a region that AWS doesn't have": (
        "[profile mine]\nregion = eu-nowhere-1\n{}",
        {},
        "eu-nowhere-1 is no known region",
    ),
}
_MINE = "[profile mine]\nregion = eu-west-1\n"
_KEYS = "aws_access_key_id = A\naws_secret_access_key = B\n"


@pytest.mark.parametrize(("config", "variables", "reason"), WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_in_the_configuration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, variables: dict[str, str], reason: str
) -> None:
    """What boto3 can't use is an AccountError, which names the account and why; nothing is asked of AWS."""
    file = tmp_path / "config"
    file.write_text(config.format(_MINE if config.startswith("{}") else _KEYS, _KEYS))
    for name, value in {"AWS_CONFIG_FILE": str(file), "AWS_SHARED_CREDENTIALS_FILE": os.devnull, **variables}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(AccountError, match=re.escape(reason)) as refused:
        accounts.connect(settings(tmp_path, "mine"))

    assert 2 == refused.value.code
    assert "mine" in refused.value.text
    assert "\n" not in refused.value.text


class Sts(BaseHTTPRequestHandler):
    """Answer GetCallerIdentity."""

    def do_POST(self) -> None:
        """Say who asks."""
        name = b"GetCallerIdentityResult"
        body = b"<R><%s><Account>1</Account></%s></R>" % (name, name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def sts(tmp_path: Path) -> Iterator[None]:
    """Serve an STS to the profile ``mine``, by the profile's own configuration."""
    server = HTTPServer(("127.0.0.1", 0), Sts)
    Thread(target=server.serve_forever, daemon=True).start()
    with (tmp_path / "config").open("a") as config:
        config.write(
            f"services = here\n[services here]\nsts =\n  endpoint_url = http://127.0.0.1:{server.server_port}\n"
        )
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("profile", "sts")
def test_a_profile_wins_over_keys_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that works on a profile's account gets the profile, and no key that would win over it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another's")
    there = accounts.connect(settings(tmp_path, "mine"))
    environ = there.environ()
    assert (there.endpoint, there.region) == ("", "eu-west-1")
    assert (environ["AWS_PROFILE"], environ["AWS_REGION"]) == ("mine", "eu-west-1")
    assert "AWS_ACCESS_KEY_ID" not in environ
    assert environ["AWS_CONFIG_FILE"] == str(tmp_path / "config")


@pytest.mark.usefixtures("profile", "sts")
def test_aws_has_no_stand_in(tmp_path: Path) -> None:
    """On AWS nothing stands in for a package, whether its repository answers here or not."""
    assert accounts.connect(settings(tmp_path, "mine")).stand_in("jenkins", "debian", "http://127.0.0.1:9/no") is None


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        ("ExpiredToken", AccountError, "aws sso login"),
        ("AuthFailure", AccountError, "aws"),
        ("InvalidIPAddress.InUse", InputError, "127.0.0.1"),
        ("InstanceLimitExceeded", CloudError, ""),
    ],
)
def test_refusals(code: str, kind: type[Any], hint: str) -> None:
    """What AWS refuses is an error of the kit's that keeps AWS's code and message."""
    error: Any = accounts._refusal("run_instances", {"Code": code, "Message": "so it is"})
    assert type(error) is kind
    assert "so it is" in error.text
    assert code in error.text
    assert hint in error.hint


def test_wait_returns_what_is_there() -> None:
    """Waiting ends with the first thing that is there."""
    answers = iter([None, None, "there"])
    assert accounts.wait("it", lambda: next(answers), 5, every=0.01) == "there"


def test_wait_has_an_end() -> None:
    """Waiting in vain names what it waited for."""
    with pytest.raises(DeadlineError, match="waited 0 s for the moon"):
        accounts.wait("the moon", lambda: None, 0)


def test_errors_of_the_kit_stay_unchanged() -> None:
    """An error of the kit's own that is raised within a call stays what it is."""
    with pytest.raises(NotFoundError), accounts._translated("anything"):
        raise NotFoundError("no such thing")
