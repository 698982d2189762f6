"""The door to AWS: an account becomes clients, with paging, deadlines, one kind of error and guards on the endpoint."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import urlopen

from bakehouse.errors import AccountError, CloudError, DeadlineError
from bakehouse.settings import Settings

T = TypeVar("T")

TAG = "bakehouse:"
"""The prefix of every tag of ours; what carries none of them is never touched."""

_FAKE = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
_CHECKIP = "https://checkip.amazonaws.com"


class Service:
    """Call one AWS service; every refusal is raised as a CloudError or AccountError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., dict[str, Any]]:
        method = getattr(self._client, operation)

        def call(**arguments: Any) -> dict[str, Any]:
            with _translated(operation):
                answer: dict[str, Any] = method(**arguments)
                return answer

        return call

    def pages(self, operation: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield each item of ``key`` over all pages of a Describe or List operation."""
        with _translated(operation):
            for page in self._client.get_paginator(operation).paginate(**arguments):
                yield from page[key]


@dataclass(frozen=True)
class Cloud:
    """Hold one account's door.

    Attributes: account, its name; region; endpoint, the URL of the local EC2 or empty for AWS's own;
    environment, the AWS_* variables that a program which we start needs to use this account and no other.
    """

    account: str
    region: str
    endpoint: str
    environment: Mapping[str, str]
    session: Any = field(repr=False, compare=False)

    def service(self, name: str) -> Service:
        """Return the client of a service by boto3's name for it."""
        from botocore.config import Config

        config = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=60)
        with _translated(name):
            client = self.session.client(name, endpoint_url=self.endpoint or None, config=config)
        return Service(client)

    @cached_property
    def ec2(self) -> Service:
        """Return the EC2 client."""
        return self.service("ec2")

    @cached_property
    def ssm(self) -> Service:
        """Return the Systems Manager client."""
        return self.service("ssm")

    def caller(self) -> str:
        """Return the caller's own address as a /32, as the account's machines see it."""
        url = f"{self.endpoint}/checkip" if self.endpoint else _CHECKIP
        try:
            with urlopen(url, timeout=10) as answer:
                return f"{ipaddress.IPv4Address(answer.read().decode().strip())}/32"
        except (OSError, ValueError) as error:
            raise CloudError(f"your own address could not be read from {url}: {error}", "give it: --allow CIDR") from error


def connect(settings: Settings, base: str = "") -> Cloud:
    """Open the door to the account that the settings name.

    The embedded local EC2 is started when the account is ``local``, and ``base`` (a base's name) is made there first;
    AWS has all bases. Raises AccountError when the profile, its credentials or its region are missing or when the
    endpoint is on the wrong side: local never leaves loopback, AWS never is loopback.
    """
    if settings.account == "local":
        from bakehouse import local

        return _local(local.up(settings, base).endpoint, settings.region or "us-east-1")
    return _aws(settings)


def _local(endpoint: str, region: str) -> Cloud:
    if not _is_loopback(endpoint):
        raise AccountError(f"account local has the endpoint {endpoint}, which is not this machine", "./inv local.down")
    import boto3

    environment = {
        **_FAKE,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_EC2": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name=region)
    return Cloud("local", region, endpoint, environment, session)


def _aws(settings: Settings) -> Cloud:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_SSM"):
        endpoint = os.environ.get(variable, "")
        if endpoint and _is_loopback(endpoint):
            raise AccountError(
                f"account {settings.account} is AWS, but {variable} is {endpoint}",
                f"unset {variable}, or use --account local",
            )
    import boto3
    from botocore.exceptions import ProfileNotFound

    try:
        session = boto3.Session(profile_name=settings.account, region_name=settings.region or None)
    except ProfileNotFound as error:
        known = ", ".join(["local", *boto3.Session().available_profiles])
        raise AccountError(f"there is no account {settings.account}", f"known: {known}; aws configure adds one") from error
    if not session.region_name:
        raise AccountError(f"account {settings.account} has no region", "set AWS_REGION, or region in the profile")
    if session.get_credentials() is None:
        raise AccountError(f"account {settings.account} has no credentials", "aws configure, or aws sso login")
    cloud = Cloud(
        settings.account,
        session.region_name,
        "",
        {"AWS_PROFILE": settings.account, "AWS_REGION": session.region_name},
        session,
    )
    cloud.service("sts").get_caller_identity()
    return cloud


def wait(what: str, look: Callable[[], T | None], seconds: float, every: float = 0.5) -> T:
    """Look until something is there and return it; raises DeadlineError, naming ``what``, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise DeadlineError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)


def tags_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of any resource of an AWS answer as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in answer.get("Tags") or ()}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the form in which AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_specifications(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    """Return TagSpecifications that give each resource type in ``kinds`` the tags at its creation."""
    return [{"ResourceType": kind, "Tags": tag_list(tags)} for kind in kinds]


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _translated:
    """Turn botocore's exceptions into the kit's own."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, CloudError) or not type(error).__module__.startswith("botocore"):
            return
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            raise _refusal(self._operation, error.response.get("Error", {})) from error
        if isinstance(error, (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError)):
            raise AccountError(f"no credentials: {error}", "aws configure, or aws sso login") from error
        if isinstance(error, exceptions.TokenRetrievalError | exceptions.SSOError):
            raise AccountError(f"credentials have expired: {error}", "aws sso login") from error
        raise CloudError(f"{self._operation}: {error}") from error


_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "AuthFailure", "InvalidClientTokenId")


def _refusal(operation: str, answer: Mapping[str, str]) -> CloudError | AccountError:
    code, message = answer.get("Code", ""), answer.get("Message", "")
    if code in _EXPIRED:
        return AccountError(f"AWS does not take the credentials: {message} ({code})", "aws sso login, or aws configure")
    return CloudError(f"{operation}: {message} ({code})", aws_code=code)
