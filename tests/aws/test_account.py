"""A bake, its image, a channel, a machine and the clearing away, by nothing but EC2's API: on any account.

They run on the local EC2 with all other tests, and on a real account with ``./inv test --account NAME``. There all that
is made carries the tags of a recipe of the tests' own, and goes at the end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import Checkout, LocalEc2, wait

from bakehouse import accounts, settings
from bakehouse.accounts import TAG, Account, filters
from bakehouse.errors import CloudError
from bakehouse.images import channels

pytestmark = [pytest.mark.aws, pytest.mark.docker, pytest.mark.timeout(3600)]

RECIPE = f"test-{secrets.token_hex(3)}"


class Kit(Checkout):
    """Hold a checkout with a recipe of its own, which is nginx's, and the account that it works on."""

    def __init__(self, folder: Path, environ: dict[str, str], name: str) -> None:
        super().__init__(folder, environ)
        self.name = name
        for path in ("packer/recipes/{}.pkrvars.hcl", "inventory/group_vars/{}.yml", "playbooks/{}.yml"):
            copied = shutil.copy(folder / path.format("nginx"), folder / path.format(RECIPE))
            text = Path(copied).read_text().replace('"nginx"', f'"{RECIPE}"')
            Path(copied).write_text(
                text.replace("hosts: nginx", f"hosts: {RECIPE}").replace("s/nginx.yml", f"s/{RECIPE}.yml")
            )

    def told(self, *words: str) -> str:
        """Run a task on the account, with the recipe where it takes one, and return what it printed."""
        return self.inv(*words, "--account", self.name).stdout.strip()

    def of_recipe(self, *words: str) -> str:
        """Run a task of the recipe on the account, and return what it printed."""
        return self.told(*words, "--recipe", RECIPE)


class Story:
    """Carry what the tests hand on: each goes on where the one before it ended."""

    image = ""
    machine = ""


@pytest.fixture(scope="module")
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """Give the checkout; its machines, its image, its key pair and its group go with it."""
    name = request.config.getoption("account")
    if name == "local":
        local_ec2: LocalEc2 = request.getfixturevalue("local_ec2")
        environ = local_ec2.environ
    else:
        environ = {**os.environ, "BAKEHOUSE_STATE": str(tmp_path_factory.mktemp("state"))}
    made = Kit(tmp_path_factory.mktemp("checkout"), environ, name)
    yield made
    made.of_recipe("terminate", "--all", "--yes")
    if Story.image:
        made.of_recipe("retire", Story.image, "--yes")


@pytest.fixture(scope="module")
def account(kit: Kit) -> Iterator[Account]:
    """Give the account, from which the recipe's key pairs and groups are taken away at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKEHOUSE_STATE", kit.environ["BAKEHOUSE_STATE"])
        found = accounts.connect(settings.load(kit.name, RECIPE, root=kit.folder))
        yield found
    for pair in found.ec2.describe_key_pairs(Filters=ours())["KeyPairs"]:
        found.ec2.delete_key_pair(KeyName=pair["KeyName"])
    for group in found.ec2.describe_security_groups(Filters=ours())["SecurityGroups"]:
        wait(partial(deleted, found, group["GroupId"]), 300)


def ours(**more: str) -> list[dict[str, Any]]:
    """Return the filters for what carries the recipe's tag."""
    return filters({f"tag:{TAG}recipe": RECIPE, **{f"tag:{TAG}{key}": value for key, value in more.items()}})


def deleted(account: Account, group: str) -> bool:
    """Delete a group, and tell whether it went: an interface of a machine that has ended may still use it."""
    try:
        account.ec2.delete_security_group(GroupId=group)
    except CloudError as error:
        if error.aws_code != "DependencyViolation":
            raise
        return False
    return True


def left(account: Account) -> dict[str, list[str]]:
    """Return the IDs of all that carries the recipe's tag and costs money or is in the way, by kind."""
    pages = account.ec2.pages("describe_instances", "Reservations", Filters=ours())
    machines = [one for page in pages for one in page["Instances"] if one["State"]["Name"] != "terminated"]
    snapshots = account.ec2.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=ours())
    return {
        "machines": [one["InstanceId"] for one in machines],
        "images": [one["ImageId"] for one in account.ec2.describe_images(Owners=["self"], Filters=ours())["Images"]],
        "snapshots": [one["SnapshotId"] for one in snapshots],
        "volumes": [one["VolumeId"] for one in account.ec2.pages("describe_volumes", "Volumes", Filters=ours())],
        "channels": [one.name for one in channels.find(account, RECIPE)],
    }


def test_bake(kit: Kit, account: Account) -> None:
    """A bake makes an image with its provenance, demands IMDSv2 of its machines, and leaves nothing else."""
    Story.image = kit.of_recipe("bake").splitlines()[-1]

    [image] = json.loads(kit.of_recipe("images", "--json"))
    assert (Story.image, "available", True) == (image["image"], image["state"], image["imdsv2"])
    assert (RECIPE, "image") == (image["provenance"]["recipe"], image["provenance"]["kind"])
    found = left(account)
    assert ([], [Story.image], [], ["candidate"]) == tuple(
        found[kind] for kind in ("machines", "images", "volumes", "channels")
    )
    assert list(image["snapshots"]) == found["snapshots"]
    assert [] == account.ec2.describe_key_pairs(Filters=ours(kind="bake"))["KeyPairs"]


def test_nothing_to_bake(kit: Kit) -> None:
    """The same again is no bake, and prints the same image."""
    assert Story.image == kit.of_recipe("bake").splitlines()[-1]


def test_channels(kit: Kit, account: Account) -> None:
    """A bake's image is the candidate; a channel that moves keeps its history, and other tools read it."""
    moved = channels.move(account, channels.read(account, RECIPE, "tried"), Story.image, "a test")

    assert (Story.image, ["a test"]) == (moved.image, [one.why for one in moved.moves])
    for name in ("candidate", "tried"):
        assert Story.image == json.loads(kit.of_recipe("outputs", "--channel", name))["image"]


def test_launch(kit: Kit, account: Account) -> None:
    """A machine of a channel's image gets healthy, is found again, and is entered."""
    told = kit.of_recipe("launch", "--channel", "tried", "--on-failure", "terminate")
    Story.machine = told.split("\t")[0]

    [machine] = json.loads(kit.of_recipe("machines", "--json"))
    assert (Story.machine, "running", Story.image) == (machine["machine"], machine["state"], machine["image"])
    entered = kit.inv("ssh", "--recipe", RECIPE, "--account", kit.name, "--", "systemctl is-active nginx")
    assert "active" == entered.stdout.strip()
    assert [Story.machine] == left(account)["machines"]


def test_what_is_in_use_stays(kit: Kit) -> None:
    """A cleanup's plan says of the image that it stays, and why."""
    rows = [line.split("\t") for line in kit.told("cleanup", "--keep", "1").splitlines()]

    [row] = [one for one in rows if Story.image in one]
    assert "stay" in row


def test_clear_away(kit: Kit, account: Account) -> None:
    """When the machine and the image are gone, snapshots, volumes and channels are too."""
    kit.of_recipe("terminate", "--machine", Story.machine, "--yes")
    kit.of_recipe("retire", Story.image, "--yes")
    Story.image = ""

    wait(lambda: not any(left(account).values()), 300)
