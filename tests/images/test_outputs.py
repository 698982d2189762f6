"""Outputs: each format is read back by who reads it."""

from __future__ import annotations

import json
import shlex
import subprocess

import hcl2
import pytest

from bakehouse.accounts import Account
from bakehouse.errors import NotFoundError
from bakehouse.images import Image, channels, outputs
from bakehouse.settings import Settings

TOLD = {"image": "ami-1", "image_name": 'a $HOME "name" `id`', "parameter": "/bakehouse/jenkins/stable"}


def test_json() -> None:
    """JSON is read back by a parser of JSON."""
    assert TOLD == json.loads(outputs.FORMATS["json"](TOLD))


def test_tfvars() -> None:
    """Terraform's variables are read back by a parser of HCL."""
    options = hcl2.SerializationOptions(strip_string_quotes=True)
    read = hcl2.loads(outputs.FORMATS["tfvars"]({"image": "ami-1"}) + "\n", serialization_options=options)
    assert "ami-1" == read["image"]


def test_env() -> None:
    """A shell's variables are read back by a shell."""
    script = f'{outputs.FORMATS["env"](TOLD)}\nprintf \'%s\\n\' "$BAKEHOUSE_IMAGE" "$BAKEHOUSE_IMAGE_NAME"'
    read = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True).stdout
    assert [TOLD["image"], TOLD["image_name"]] == read.splitlines()
    assert len(TOLD) == len(shlex.split(outputs.FORMATS["env"](TOLD)))


def test_github() -> None:
    """A step of GitHub Actions puts out a line for each."""
    assert "image=ami-1\nregion=r" == outputs.FORMATS["github"]({"image": "ami-1", "region": "r"})


@pytest.mark.local
def test_of_a_channel(account: Account, image: Image, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel's image is told with its parameter and its region; a channel that isn't there is named."""
    monkeypatch.setattr(outputs, "connect", lambda _: account)
    channels.move(account, channels.read(account, "jenkins", "stable"), image.id)

    assert {
        "recipe": "jenkins",
        "channel": "stable",
        "parameter": "/bakehouse/jenkins/stable",
        "image": image.id,
        "image_name": image.name,
        "region": "us-east-1",
    } == outputs.of_channel(settings, "stable")
    with pytest.raises(NotFoundError, match="recipe jenkins has no channel live"):
        outputs.of_channel(settings, "live")
