"""Proofs: what goes wrong before there is anything to look at; whole ones: end_to_end/test_proofs_of_images.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bakehouse import machines
from bakehouse.accounts import TAG, Account, tags_of
from bakehouse.errors import CloudError, VerdictError
from bakehouse.images import Image
from bakehouse.proving import proofs
from bakehouse.settings import ROOT, Settings

pytestmark = pytest.mark.local


@pytest.fixture
def settings(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the kit's own settings with a state of their own, on an EC2 whose machines have no bodies."""
    monkeypatch.setattr(proofs, "connect", lambda _: account)
    monkeypatch.setattr(Account, "caller", lambda _: "192.0.2.7/32")
    return Settings(root=ROOT, state=tmp_path, account="local", region="", recipe="jenkins")


def refused(*_: Any) -> Any:
    """Refuse as EC2 does, whatever is asked."""
    raise CloudError("no more of these today (RequestLimitExceeded)", aws_code="RequestLimitExceeded")


def ended(_: Account, ids: list[str], *_more: Any) -> Any:
    """Say that a machine has ended instead of running."""
    raise CloudError(f"machine {ids[0]} is terminated: Client.InternalError")


def verdict(account: Account, image: Image) -> str:
    """Return the verdict in an image's tags."""
    return tags_of(account.ec2.describe_images(ImageIds=[image.id])["Images"][0]).get(f"{TAG}verdict", "")


def left(account: Account) -> list[str]:
    """Return the states of the machines and the names of the groups that carry a run's tag."""
    ours = [{"Name": "tag-key", "Values": [f"{TAG}run"]}]
    found = [one for each in account.ec2.describe_instances(Filters=ours)["Reservations"] for one in each["Instances"]]
    groups = account.ec2.describe_security_groups(Filters=ours)["SecurityGroups"]
    return [*(one["State"]["Name"] for one in found), *(one["GroupName"] for one in groups)]


def test_a_machine_that_ends(
    account: Account,
    settings: Settings,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image whose machine ends instead of running is not fit, for that reason; the other machine goes too."""
    monkeypatch.setattr(machines, "running", ended)

    proof = proofs.prove(settings, image.id)

    [finding] = proof.failed
    assert ("The proof came to its end", f"machine {proof.machines[0]} is terminated: Client.InternalError") == (
        finding.finding.name,
        finding.finding.evidence,
    )
    assert verdict(account, image).startswith("fail sha256:")
    assert ["terminated", "terminated"] == left(account)
    assert "fail" == json.loads((proofs.page(settings, proof).parent / "proof.json").read_text())["verdict"]
    with pytest.raises(VerdictError, match=f"image {image.id} is not fit: The proof came to its end"):
        proofs.insist(settings, proof)


def test_what_ec2_refuses(
    account: Account,
    settings: Settings,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What EC2 refuses says nothing of the image: it is raised, nothing is proven, and the machines go."""
    monkeypatch.setattr(machines, "running", refused)

    with pytest.raises(CloudError, match="RequestLimitExceeded"):
        proofs.prove(settings, image.id)

    assert "" == verdict(account, image)
    assert ["terminated", "terminated"] == left(account)
    assert not (settings.state / "proofs").exists()
