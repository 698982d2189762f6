"""Lending: Packer gets the keys that boto3 found, also those that expire, and as the role that accounts.yml names."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import ContainerProvider
from moto_fixtures import enforced
from samples import baked
from test_accounts import profile, settings, sts

from bakehouse import accounts, images, local, sites
from bakehouse.accounts import Account, lending, rights
from bakehouse.errors import AccountError, InputError
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.settings import Settings
from bakehouse.sites import Site, Sites

__all__ = ["profile", "sts"]

OTHERS = ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def role(account: Account, name: str = "baker", **how: Any) -> str:
    """Make a role and return its ARN."""
    client = account.client("iam")
    return str(client.create_role(RoleName=name, AssumeRolePolicyDocument="{}", **how)["Role"]["Arn"])


@pytest.fixture
def there(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Give moto's account as the role baker sees it, connected to as any task does."""
    endpoint = local.Endpoint(1, "", account.endpoint, account.variables, "", docker=True)
    monkeypatch.setattr(local, "up", lambda *_: endpoint)
    (tmp_path / sites.FILE).write_text(f"local: {{role: '{role(account)}'}}\n")
    return accounts.connect(settings(tmp_path, "local"))


def asked(environ: dict[str, str]) -> Any:
    """Return the keys that a program gets with an environment, as AWS's SDKs ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        return ContainerProvider(environ=environ).load()


@pytest.mark.local
def test_a_role_is_assumed(there: Account) -> None:
    """The account is used as the role, in a session that has the name of who assumed it."""
    assert "arn:aws:sts::123456789012:assumed-role/baker/moto" == there.caller_arn()
    assert lending.expires(there.session.get_credentials()) > datetime.now(UTC) + timedelta(minutes=50)
    assert there.caller_arn() == there.at("eu-west-1").caller_arn()


@pytest.mark.local
def test_keys_that_expire_are_lent(there: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program asks for them, with a token, and gets new ones when its own are about to expire; then it's over."""
    for name in OTHERS:
        monkeypatch.setenv(name, "another's")
    with lending.environ(there) as environ:
        first = asked(environ).get_frozen_credentials()
        credentials = there.session.get_credentials()
        credentials._expiry_time = datetime.now(UTC) + timedelta(seconds=5)
        second = asked(environ).get_frozen_credentials()
        place = environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(place)

    assert first.access_key != second.access_key
    assert credentials.get_frozen_credentials() == second
    assert place.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(place)
    lent = {name: value for name, value in environ.items() if name.startswith("AWS_")}
    assert "another's" not in lent.values()
    assert not [value for value in lent.values() if value in (*first, *second)]
    assert os.devnull == lent["AWS_CONFIG_FILE"] == lent["AWS_SHARED_CREDENTIALS_FILE"]


@pytest.mark.local
def test_keys_that_can_not_be_renewed(there: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """Where boto3 gets no new keys, the program gets none either, and the person is told why."""
    credentials = there.session.get_credentials()
    credentials._expiry_time = datetime.now(UTC)
    credentials._refresh_using = lambda: (_ for _ in ()).throw(ValueError("log in again"))
    with lending.environ(there) as environ:
        told = urllib.request.Request(
            environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
            headers={"Authorization": environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]},
        )
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(told)

    assert "the account's keys can't be renewed: log in again\n" == capsys.readouterr().err


@pytest.mark.local
def test_keys_that_stay_are_in_the_environment(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without an end need nobody who renews them."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another's")
    with lending.environ(account) as environ:
        assert ("tests", "tests") == (environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"])
        assert account.endpoint == environ["AWS_ENDPOINT_URL"]
        assert not {"AWS_SESSION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} & set(environ)


@pytest.mark.usefixtures("profile", "sts")
def test_a_profile_whose_keys_come_from_a_program(tmp_path: Path) -> None:
    """The keys of credential_process are lent; Packer needs neither the profile nor its program."""
    keys = {"Version": 1, "AccessKeyId": "ASIA1", "SecretAccessKey": "secret", "SessionToken": "token"}
    (tmp_path / "keys.json").write_text(json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"}))
    config = tmp_path / "config"
    text = config.read_text().replace("aws_access_key_id = A\naws_secret_access_key = B\n", "")
    config.write_text(text.replace("\nservices", f"\ncredential_process = cat {tmp_path}/keys.json\nservices"))
    there = accounts.connect(settings(tmp_path, "mine"))

    with lending.environ(there) as environ:
        found = asked(environ).get_frozen_credentials()

    assert ("ASIA1", "secret", "token") == tuple(found)[:3]
    assert ("eu-west-1", os.devnull) == (environ["AWS_REGION"], environ["AWS_CONFIG_FILE"])
    assert "AWS_PROFILE" not in environ


@pytest.mark.local
def test_a_role_that_can_not_be_assumed(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one line with the account, the key and AWS's word for it, and exit code 2."""
    endpoint = local.Endpoint(1, "", account.endpoint, account.variables, "", docker=True)
    monkeypatch.setattr(local, "up", lambda *_: endpoint)
    (tmp_path / sites.FILE).write_text("local: {role: 'arn:aws:iam::123456789012:role/nobody', external_id: abc}\n")

    with pytest.raises(AccountError, match=r"^accounts.yml: local: role: assume_role: .*AccessDenied") as refused:
        accounts.connect(settings(tmp_path, "local"))

    assert (2, 1) == (refused.value.code, len(refused.value.text.splitlines()))


@pytest.mark.local
def test_instance_profiles(account: Account, settings: Settings) -> None:
    """A launch gives its machine the profile that is named, under the policy that is printed, and no other profile."""
    iam, wanted = account.client("iam"), Request(1, ("t3.small",), "192.0.2.7/32", b"")
    for name in ("web", "other"):
        iam.create_instance_profile(InstanceProfileName=name)
        role(account, name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    site = Site(launch_profile="web", bake_profile="baker")
    limited, denied, _ = enforced(account, rights.policy(["launch"], site))
    image = images.get(account, baked(account))

    [machine] = launches.begin(replace(limited, sites=Sites(site)), settings, image, wanted, [])

    [told] = account.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"]
    assert told["IamInstanceProfile"]["Arn"].endswith("/web")
    assert [] == denied
    with pytest.raises(AccountError, match="instance-profile/other"):
        launches.begin(replace(limited, sites=Sites(Site(launch_profile="other"))), settings, image, wanted, [])
    policy = rights.policy(["launch"], site)
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] != "PassRole"]
    limited, _, _ = enforced(account, policy)
    with pytest.raises(AccountError, match=r"iam:PassRole on arn:aws:iam::123456789012:role/web"):
        launches.begin(replace(limited, sites=Sites(site)), settings, image, wanted, [])


@pytest.mark.local
def test_a_profile_that_is_not_there(account: Account, settings: Settings) -> None:
    """It is one line with the account, the key and IAM's word for it, and no machine is launched."""
    there = replace(account, sites=Sites(Site(launch_profile="nobody")))
    image = images.get(account, baked(account))

    with pytest.raises(InputError, match=r"^accounts.yml: local: launch_profile: .*NoSuchEntity") as refused:
        launches.begin(there, settings, image, Request(1, ("t3.small",), "192.0.2.7/32", b""), [])

    assert (2, 1) == (refused.value.code, len(refused.value.text.splitlines()))
    assert [] == account.ec2.describe_instances()["Reservations"]
