"""Accounts: all access to AWS: clients, paging, errors, waiting with a deadline, and checks of the endpoint."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request

from bakehouse import patience, recipes, sites, system
from bakehouse.console import say, step
from bakehouse.errors import (
    AccountError,
    BakehouseError,
    CloudError,
    DeadlineError,
    InputError,
    NotKnownError,
    UnsoundError,
)
from bakehouse.patience import Limit
from bakehouse.settings import Settings
from bakehouse.sites import Site, Sites

T = TypeVar("T")

TAG = "bakehouse:"
"""The prefix of all our tags. A resource without such a tag is never changed or deleted."""

PAGED = {"PageSize": 500}
"""The page size to ask for: without one EC2 returns everything in one answer, or times out."""

_FIRST_ATTEMPTS = 3  # to find out whether anybody is there
_ATTEMPTS = 8  # of each call: with a third of all failing, one call in 6,500 fails for good
_CHECKIP = "https://checkip.amazonaws.com"


class Client:
    """Call the operations of one AWS service. Errors are raised as CloudError, AccountError or InputError."""

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
        """Yield the items of a Describe or List operation from all its pages; ``key`` names their list in an answer."""
        with _translated(operation):
            for page in self._client.get_paginator(operation).paginate(**arguments):
                yield from page[key]


@dataclass(frozen=True)
class Account:
    """Hold one account of AWS in one region, or the local EC2.

    Attributes:
        name: its name: ``local``, ``default`` or an AWS profile.
        region: the AWS region.
        endpoint: the URL of the local EC2; empty on AWS.
        variables: the AWS_* variables that make a program use this account and no other.
        session: the boto3 session.
        sites: how things are made there, in each region.
    """

    name: str
    region: str
    endpoint: str
    variables: Mapping[str, str]
    session: Any = field(repr=False, compare=False)
    sites: Sites = field(default_factory=Sites)

    @property
    def site(self) -> Site:
        """Return how things are made in the account's region."""
        return self.sites.at(self.region)

    def marked(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of a thing that is made here: those that are fixed, and these."""
        return {**self.site.tags, **tags}

    def client(self, service: str, attempts: int = _ATTEMPTS) -> Client:
        """Return the client of a service, by boto3's name, which calls so often until an answer comes."""
        from botocore.config import Config

        proxies: dict[str, Any] = {"proxies": {}} if self.endpoint else {}  # on AWS the person's
        limits = {"connect_timeout": patience.CONNECTION.seconds, "read_timeout": patience.CALL.seconds}
        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = Config(retries=retries, **limits, **proxies)
        with _translated(service):
            client = self.session.client(service, self.region, endpoint_url=self.endpoint or None, config=config)
        return Client(client)

    @cached_property
    def ec2(self) -> Client:
        """Return the EC2 client."""
        return self.client("ec2")

    @cached_property
    def ssm(self) -> Client:
        """Return the Systems Manager client."""
        return self.client("ssm")

    @property
    def architecture(self) -> str:
        """Return the architecture to bake for when none is named, in EC2's word; on the local EC2 it is the host's."""
        return system.architecture() if self.endpoint else "x86_64"

    @property
    def promotes_stand_ins(self) -> bool:
        """Tell whether an image with packages that only stand in for the real ones may be promoted."""
        return bool(self.endpoint)

    def caller_arn(self) -> str:
        """Return the ARN of the user or role that the credentials belong to."""
        return str(self.client("sts").get_caller_identity()["Arn"])

    def owner(self, settings: Settings) -> str:
        """Return whose the things are that a task makes: as the settings say, else the caller's, by the ARN."""
        return settings.owner or self.caller_arn()

    def at(self, region: str) -> Account:
        """Return the same account in another region."""
        there = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        return replace(self, region=region, variables={**self.variables, **there})

    def environ(self, *passing: str) -> dict[str, str]:
        """Return the environment for a program that works on the account; ``passing`` is as for system.environment.

        Its only AWS_* variables are those of this account. Only on AWS it has the person's proxies.
        """
        outside = () if self.endpoint else system.OUTSIDE
        return system.environment(*outside, *passing, **self.variables)

    def stand_in(self, package: str, family: str, url: str) -> dict[str, str] | None:
        """Return a repository that stands in for a package's own repository at ``url``.

        Returns None on AWS, and when ``url`` answers. ``family`` is the family of the base: ``debian`` gets an apt
        repository, ``redhat`` one for dnf. The keys are url, key_url, fingerprint, version and stands_in_for; the URLs
        are those that a machine uses.
        """
        if not self.endpoint or _answers(url):
            return None
        from bakehouse import tools

        tools.ensure("gpg")
        with step(f"{url} can't be reached from here: prepare a stand-in for {package}"):
            return self._ask("stand-in", seconds=patience.STAND_IN.seconds, package=package, family=family)

    def caller(self) -> str:
        """Return the caller's address as the account's machines see it, as a CIDR block (/32)."""
        if self.endpoint:
            return f"{self._ask('caller')['address']}/32"
        try:
            with system.open_url(_CHECKIP, patience.CHECKIP.seconds) as answer:
                return f"{ipaddress.IPv4Address(answer.read().decode().strip())}/32"
        except (OSError, ValueError) as error:
            raise CloudError(
                f"your own address can't be read from {_CHECKIP}: {error}", "give it yourself: --allow CIDR"
            ) from error

    def _ask(self, question: str, **how: Any) -> dict[str, Any]:
        from bakehouse import local

        return local.ask(self.variables, question, **how)


def connect(settings: Settings, base: str = "") -> Account:
    """Connect to the account that the settings name.

    When the account is ``local``, this starts the local EC2 and makes the base named ``base`` there if it is missing.
    AWS has all bases. Raises AccountError when the profile, its credentials or its region are missing, when the account
    ``local`` has an endpoint that isn't on loopback, and when an AWS account has one that is; InputError when
    ``accounts.yml`` is wrong.
    """
    told = sites.load(settings.root, settings.account)
    if settings.account == "local":
        from bakehouse import local

        known = recipes.bases(settings.root) if base else {}
        account = replace(_local(local.up(settings, base, known).variables), sites=told)
    else:
        account = replace(_aws(settings), sites=told)
    sites.insist_usable(account.site, account.name)
    return _assuming(account) if account.site.role else account


def _assuming(account: Account) -> Account:
    """Return the account as the role that accounts.yml names sees it, with keys that are renewed.

    The role's session has the name of who assumes it, so that each person's things stay their own.
    """
    import boto3
    from botocore import credentials

    sts, site = account.client("sts"), account.site
    name = re.sub(r"[^\w+=,.@-]", "-", account.caller_arn().rpartition("/")[2])[-64:].rjust(2, "-")
    how = {"ExternalId": site.external_id} if site.external_id else {}

    def keys() -> dict[str, str]:
        told = sts.assume_role(RoleArn=site.role, RoleSessionName=name, **how)["Credentials"]
        return {
            "access_key": told["AccessKeyId"],
            "secret_key": told["SecretAccessKey"],
            "token": told["SessionToken"],
            "expiry_time": told["Expiration"].isoformat(),
        }

    class Role(credentials.CredentialProvider):  # type: ignore[misc]
        METHOD = "assume-role"

        def load(self) -> Any:
            return credentials.RefreshableCredentials.create_from_metadata(fresh, keys, self.METHOD)

    try:
        fresh = keys()
    except BakehouseError as error:
        where = sites.place(account.name, "role")
        raise AccountError(f"{where}: {error.text}", "who may assume the role is said in its trust policy") from error
    core = _alone() if account.endpoint else configured(account)
    core.register_component("credential_provider", credentials.CredentialResolver([Role()]))
    return replace(account, session=boto3.Session(region_name=account.region, botocore_session=core))


def configured(account: Account) -> Any:
    """Return a session of botocore that reads what the person has configured for an account of AWS."""
    import botocore.session

    return botocore.session.Session(profile=None if account.name == "default" else account.name)


def connected(settings: Settings) -> Account | None:
    """Connect to the account as ``connect`` does, but start nothing; returns None while the local EC2 is down."""
    if settings.account == "local":
        from bakehouse import local

        if not local.status(settings)["endpoint"]:
            return None
    return connect(settings)


def _local(variables: Mapping[str, str]) -> Account:
    endpoint, region = variables["AWS_ENDPOINT_URL"], variables["AWS_REGION"]
    if not system.is_loopback(endpoint):
        raise AccountError(f"account local has the endpoint {endpoint}, which is not this machine", "./inv local.down")
    import boto3

    keys = variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    session = boto3.Session(*keys, region_name=region, botocore_session=_alone())
    return Account("local", region, endpoint, variables, session)


def _alone() -> Any:
    """Return a session of botocore in which nothing decides that the person has set, in a file or a variable."""
    import botocore.session

    ours = {"config_file": os.devnull, "credentials_file": os.devnull}
    known = botocore.session.Session.SESSION_VARIABLES.items()
    return botocore.session.Session(
        {name: (None, None, ours.get(name, default), convert) for name, (_, _, default, convert) in known}
    )


def _aws(settings: Settings) -> Account:
    name = settings.account
    _refuse_loopback(name)
    with _configured(name):
        import boto3
        from botocore.exceptions import ProfileNotFound

        # "default" means AWS's own search: the environment, the default profile, the role of the machine
        profile = None if name == "default" else name
        try:
            session = boto3.Session(profile_name=profile, region_name=settings.region or None)
        except ProfileNotFound as error:
            known = ", ".join(["local", *boto3.Session().available_profiles])
            raise AccountError(f"there is no account {name}", f"known: {known}") from error
        region = session.region_name
        if not region:
            raise AccountError(f"account {name} has no region", "set AWS_REGION, or the region in the profile")
        found = session.get_credentials()
        if found is None:
            raise AccountError(f"account {name} has no credentials", "run aws configure, or aws sso login")
        found.get_frozen_credentials()
        account = Account(name, region, "", _aws_variables(profile, region), session)
        for service in ("ec2", "ssm"):
            endpoint = session.client(service, region).meta.endpoint_url
            if system.is_loopback(endpoint):
                raise AccountError(
                    f"account {name} is AWS, but the profile's endpoint for {service} is {endpoint}",
                    "take endpoint_url out of the profile, or use --account local",
                )
        try:
            account.client("sts", _FIRST_ATTEMPTS).get_caller_identity()
        except (CloudError, NotKnownError) as error:
            partitions = session.get_available_partitions()
            if any(region in session.get_available_regions("ec2", partition) for partition in partitions):
                raise
            raise AccountError(
                f"account {name}: {region} is no known region of AWS, and does not answer",
                "AWS_REGION, or the region in the profile, names it",
            ) from error
    return account


@contextmanager
def _configured(account: str) -> Iterator[None]:
    """Raise all that can be wrong in the person's configuration as AccountError, which names the profile and files."""
    try:
        yield
    except BakehouseError:
        raise
    except Exception as error:  # botocore passes on what its parsers, the helpers and the terminal raise
        from botocore import exceptions

        places = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
        config, credentials = (os.environ.get(variable, "") or usual for variable, usual in places.items())
        expired = isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError)
        told = " ".join(str(error).split()) or type(error).__name__
        raise AccountError(
            f"account {account} can't be used: {told}",
            "run aws sso login" if expired else f"look at profile {account} in {config} and {credentials}",
        ) from error


def _aws_variables(profile: str | None, region: str) -> dict[str, str]:
    """Return the person's own AWS_* variables. As in boto3, a named profile wins over keys in the environment."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if profile:
        own = {name: value for name, value in own.items() if name not in keys} | {"AWS_PROFILE": profile}
    return {**own, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}


def _refuse_loopback(account: str) -> None:
    for name, value in os.environ.items():
        if name.startswith("AWS_ENDPOINT_URL") and system.is_loopback(value):
            raise AccountError(
                f"account {account} is AWS, but {name} is {value}", f"unset {name}, or use --account local"
            )


@contextmanager
def blamed(account: Account, key: str, *codes: str) -> Iterator[None]:
    """Raise EC2's refusals of these codes, or of such that begin so, as an InputError that names the account's key."""
    try:
        yield
    except CloudError as error:
        if error.aws_code.startswith(codes):
            hint = "docs/accounts.md says what the key needs"
            raise InputError(f"{sites.place(account.name, key)}: {error.text}", hint) from error
        raise


@contextmanager
def done_already(*codes: str) -> Iterator[None]:
    """Take EC2's refusal by one of these codes for success, if the call was sent again because an answer got lost."""
    try:
        yield
    except CloudError as error:
        if not (error.again and error.aws_code in codes):
            raise


def wait(what: str, look: Callable[[], T | None], limit: Limit | float, every: float = 0.5) -> T:
    """Call ``look`` until it returns something, and return that; ``limit`` is one, or the seconds that are left of one.

    The first looks are ``every`` so many seconds; later ones are rarer, but none is late by more than a tenth of the
    time so far. A look that raises NotKnownError has seen nothing yet. Raises DeadlineError, which names ``what`` and
    why the last look saw nothing.
    """
    seconds = patience.seconds(limit)
    begun = time.monotonic()
    while True:
        silence = ""
        try:
            found = look()
        except NotKnownError as error:
            found, silence = None, error.text
        if found is not None:
            return found
        waited = time.monotonic() - begun
        if waited >= seconds:
            told = f": {silence}" if silence else ""
            raise DeadlineError(f"waited {seconds:.0f} s for {what}{told}", patience.LONGER, silent=bool(silence))
        time.sleep(max(0, min(max(every, waited / 10), seconds - waited)))


WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:~-]{0,127}")
"""What the name of a recipe or run, a version or an ID can be."""

_FORMS = {"user": re.compile(r"[a-z_][a-z0-9_-]{0,31}")}
_WORDS = ("recipe", "run", "kind", "base", "commit", "kit", "packer", "ansible")


def sound(resource: str, what: str, value: str, form: re.Pattern[str]) -> str:
    """Return a value that an account gave; raises UnsoundError, which names the resource, when it hasn't its form.

    Anyone who may tag can write what they like. What goes into a command, a path or a variable is checked here first.
    """
    if not form.fullmatch(value):
        raise UnsoundError(f"{resource} is not used: its {what} is {value!r}", "set it right; see who has changed it")
    return value


def sound_tags(resource: str, answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a resource, ours checked; raises UnsoundError when one of ours can't be what it should be."""
    tags = tags_of(answer)
    for name, form in {**_FORMS, **dict.fromkeys(_WORDS, WORD)}.items():
        if value := tags.get(f"{TAG}{name}", ""):
            sound(resource, f"tag {TAG}{name}", value, form)
    return tags


def each(make: Callable[[Mapping[str, Any]], T], answers: Iterable[Mapping[str, Any]]) -> Iterator[T]:
    """Make a record of each answer; those that are not sound are told and left out."""
    for answer in answers:
        try:
            yield make(answer)
        except UnsoundError as error:
            say(f"left out: {error.text}")


class Stays:
    """Collect what could not be deleted while the rest is: one stone doesn't stop the cart."""

    def __init__(self) -> None:
        self._names: list[str] = []

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Print why a thing stays when its deletion fails, and go on with the next."""
        try:
            yield
        except BakehouseError as error:
            say(f"{name} stays: {error.text}")
            self._names.append(name)

    def insist(self) -> None:
        """Raise CloudError, which names what stays, when something does."""
        if self._names:
            raise CloudError(f"could not be deleted: {', '.join(self._names)}", "the lines above say why")


def tags_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a resource in an AWS answer as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in answer.get("Tags") or ()}


def filters(wanted: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """Return the Filters of a Describe operation. A resource matches if it has one of the values of each name."""
    return [
        {"Name": name, "Values": [values] if isinstance(values, str) else list(values)}
        for name, values in wanted.items()
    ]


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the list of keys and values that AWS takes."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_specifications(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    """Return the TagSpecifications that put the tags on each resource type in ``kinds`` when it is created."""
    return [{"ResourceType": kind, "Tags": tag_list(tags)} for kind in kinds]


def _answers(url: str) -> bool:
    try:
        with system.open_url(Request(url, method="HEAD"), patience.REPOSITORY.seconds):
            return True
    except HTTPError:
        return True  # an error is an answer too
    except OSError:
        return False


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """Raise botocore's exceptions as those of ``errors.py``."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("botocore"):
            raise
        from botocore import exceptions, parsers

        if isinstance(error, exceptions.ClientError):
            again = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
            raise _refusal(operation, error.response.get("Error", {}), again) from error
        if isinstance(error, (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError)):
            raise AccountError(f"no credentials: {error}", "run aws configure, or aws sso login") from error
        if isinstance(error, exceptions.TokenRetrievalError | exceptions.SSOError):
            raise AccountError(f"the credentials have expired: {error}", "run aws sso login") from error
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | parsers.ResponseParserError):
            raise NotKnownError(f"{operation}: {error}") from error
        raise CloudError(f"{operation}: {error}") from error


_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "AuthFailure", "InvalidClientTokenId")


_UNSURE = ("InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable", "503", "500")


def _refusal(operation: str, answer: Mapping[str, str], again: bool = False) -> BakehouseError:
    code, message = answer.get("Code", ""), answer.get("Message", "")
    if code in _UNSURE:
        return NotKnownError(f"{operation}: {message} ({code})")
    if code in _EXPIRED:
        return AccountError(
            f"AWS does not accept the credentials: {message} ({code})", "run aws sso login, or aws configure"
        )
    if code in _DENIED:
        return AccountError(f"{operation}: {message} ({code})", "docs/aws.md lists the rights that the tasks need")
    if code == "InvalidIPAddress.InUse":
        return InputError(f"{operation}: {message} ({code})", "end that program, or make it listen on 127.0.0.1 only")
    return CloudError(f"{operation}: {message} ({code})", aws_code=code, again=again)
