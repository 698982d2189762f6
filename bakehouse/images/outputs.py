"""Outputs: what other tools need to know of a channel's image, in the formats that they read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping

from bakehouse import images
from bakehouse.accounts import connect
from bakehouse.images import channels
from bakehouse.settings import Settings

FORMATS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "json": lambda told: json.dumps(told, indent=2),
    "tfvars": lambda told: _lines(told, lambda name, value: f"{name} = {json.dumps(value)}"),
    "env": lambda told: _lines(told, lambda name, value: f"BAKEHOUSE_{name.upper()}={shlex.quote(value)}"),
    "github": lambda told: _lines(told, lambda name, value: f"{name}={value}"),
}
"""The formats of outputs: JSON, Terraform variables, shell variables, and the outputs of a step of GitHub Actions."""


def of_channel(settings: Settings, name: str) -> dict[str, str]:
    """Return the names and values that describe the image of a channel.

    Raises NotFoundError when there is no such channel, and InputError when its image is revoked.
    """
    account = connect(settings)
    channel = channels.get(account, settings.recipe, name)
    image = images.usable(account, channel.image, settings.recipe)
    return {
        "recipe": image.recipe,
        "channel": channel.name,
        "parameter": channel.parameter,
        "image": image.id,
        "image_name": image.name,
        "region": account.region,
    }


def _lines(told: Mapping[str, str], line: Callable[[str, str], str]) -> str:
    return "\n".join(line(name, value) for name, value in told.items())
