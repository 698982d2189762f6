"""Moto over HTTP as an account, for what needs no machines that really run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from bakehouse import accounts, local
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.images import Image
from bakehouse.local import policies
from bakehouse.local.signatures import AccessKey
from bakehouse.settings import Settings


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Serve moto on 127.0.0.1, with the local EC2's answers but without bodies, and return its URL."""
    from moto.server import ThreadedMotoServer

    from bakehouse.local import answers

    answers.install()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def _account(moto: str) -> Account:
    """Return a there whose clients are made once: that takes longer than most tests do."""
    return accounts._local(local.variables(moto, AccessKey("tests", "tests")))


@pytest.fixture
def account(moto: str, _account: Account) -> Account:
    """Return the there to an account that is moto's and holds nothing of ours."""
    urlopen(Request(f"{moto}/moto-api/reset", method="POST")).close()
    return _account


class Killed(BaseException):
    """End what is going on, as kill -9 would: nothing is asked of the account any more, not even on the way out."""


def disturbed(account: Account, disturb: Callable[[], None], when: Callable[[int], bool]) -> Account:
    """Return a there of the same account where something happens before each call for whose number ``when`` holds."""
    there, numbers = accounts._local(account.variables), count()

    def look(**_: Any) -> None:
        if when(next(numbers)):
            disturb()

    there.session.events.register("before-call", look)
    return there


def counted(account: Account) -> tuple[Account, Counter[str]]:
    """Return a there of the same account, and how often each operation is called through it; each page is a call."""
    there, calls = accounts._local(account.variables), Counter[str]()
    there.session.events.register("before-call", lambda model, **_: calls.update([model.name]))
    return there, calls


@pytest.fixture
def killed_after(account: Account) -> Callable[..., Account]:
    """Give what returns the there of somebody who is killed after so many calls, or so many changes."""
    left, there = {"calls": 0, "changes": 0}, accounts._local(account.variables)

    def count_down(model: Any, **_: Any) -> None:
        kinds = ["calls"] if model.name.startswith(("Describe", "Get")) else ["calls", "changes"]
        for kind in kinds:
            left[kind] -= 1
            if left[kind] < 0:
                raise Killed

    there.session.events.register("before-call", count_down)

    def enter(calls: int = 1000, changes: int = 1000) -> Account:
        left.update(calls=calls, changes=changes)
        return there

    return enter


def refused(account: Account, what: str) -> Account:
    """Return the there of somebody without the rights to ``what``: a service, or one of its operations after a dot."""
    from botocore.exceptions import ClientError

    there = accounts._local(account.variables)

    def refuse(model: Any, **_: Any) -> None:
        asked = f"{model.service_model.service_name}:{model.name}"
        message = f"User: arn:aws:iam::123456789012:user/stranger is not authorized to perform: {asked}"
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": message}}, model.name)

    there.session.events.register(f"before-call.{what}", refuse)
    return there


def protected(account: Account, stones: Collection[str]) -> Account:
    """Return the there of somebody who can't delete these resources."""
    from botocore.exceptions import ClientError

    there = accounts._local(account.variables)

    def protect(model: Any, params: Any, **_: Any) -> None:
        if model.name.startswith(("Delete", "Deregister", "Terminate")):
            for stone in stones:
                if stone in str(params["body"]):
                    error = {"Code": "OperationNotPermitted", "Message": f"{stone} is protected"}
                    raise ClientError({"Error": error}, model.name)

    there.session.events.register("before-call.ec2", protect)
    return there


def enforced(account: Account, policy: dict[str, Any]) -> tuple[Account, list[str], set[str]]:
    """Return the there of somebody with a policy of IAM, and what was denied and what allowed to them so far."""
    from botocore.exceptions import ClientError

    from bakehouse.local import answers

    there, denied, allowed = accounts._local(account.variables), list[str](), set[str]()
    rules = policies.Policy.parse(policy, "the policy")

    def look(model: Any, params: Any, request_signer: Any, **_: Any) -> None:
        body = params["body"]
        form = body if isinstance(body, dict) else json.loads(body or "{}")
        region = request_signer.region_name
        service = model.service_model.service_name
        for access in policies.accesses(service, model.name, form, region, answers.tags_in(region)):
            decision = rules.decide(access)
            allowed.add(access.action)
            if not decision.allowed:
                denied.append(str(decision))
                raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": str(decision)}}, model.name)

    there.session.events.register("before-call", look)
    return there, denied, allowed


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of an empty checkout."""
    state = tmp_path / ".bakehouse"
    state.mkdir(mode=0o700)
    return Settings(root=tmp_path, state=state, account="local", region="", recipe="jenkins")


@pytest.fixture
def image(account: Account) -> Image:
    """Return an image of recipe jenkins."""
    volume = account.ec2.create_volume(Size=1, AvailabilityZone="us-east-1a")["VolumeId"]
    disk = {"SnapshotId": account.ec2.create_snapshot(VolumeId=volume)["SnapshotId"], "VolumeSize": 1}
    mappings = [{"DeviceName": "/dev/xvda", "Ebs": disk}]
    made = account.ec2.register_image(Name="an image", RootDeviceName="/dev/xvda", BlockDeviceMappings=mappings)
    tags = tag_list({f"{TAG}recipe": "jenkins", f"{TAG}kind": "image", f"{TAG}user": "admin"})
    account.ec2.create_tags(Resources=[made["ImageId"]], Tags=tags)
    return Image.from_aws(account.ec2.describe_images(ImageIds=[made["ImageId"]])["Images"][0])
