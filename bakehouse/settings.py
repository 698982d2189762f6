"""What the kit was told: defaults, the environment, then flags, as one frozen record."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bakehouse.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the folder that holds tasks.py, packer, playbooks, roles and inventory."""

RECIPE = "jenkins"
"""The recipe where none is named."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Settings:
    """Hold what one task was told.

    Attributes: root, the checkout; state, where the kit keeps what it makes (``.bakehouse``); account, ``local``
    or the name of an AWS profile; region, an AWS region or empty for the profile's own; recipe, a recipe's name.
    """

    root: Path
    state: Path
    account: str
    region: str
    recipe: str


def load(account: str = "", recipe: str = "", root: Path = ROOT) -> Settings:
    """Return the settings: flags win over ``BAKEHOUSE_ACCOUNT``, ``BAKEHOUSE_RECIPE``, ``AWS_REGION`` and the defaults.

    ``BAKEHOUSE_STATE`` moves the state folder; each state folder has a local EC2 of its own.
    Raises InputError when a name is malformed or when another user owns the state folder.
    """
    account = account or os.environ.get("BAKEHOUSE_ACCOUNT", "") or "local"
    recipe = recipe or os.environ.get("BAKEHOUSE_RECIPE", "") or RECIPE
    region = os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", "")
    for kind, name in (("account", account), ("recipe", recipe)):
        if not _NAME.fullmatch(name):
            raise InputError(f"{kind} {name!r} is not a name", "letters, digits, dots, dashes and underscores")
    state = Path(os.environ.get("BAKEHOUSE_STATE", "") or root / ".bakehouse").absolute()
    return Settings(root=root, state=_ours(state), account=account, region=region, recipe=recipe)


def _ours(state: Path) -> Path:
    try:
        state.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(f"{state} can't be made: {error.strerror}", "make its folder writable for you") from error
    if state.stat().st_uid != os.geteuid():
        raise InputError(
            f"{state} belongs to another user (uid {state.stat().st_uid})",
            f"work as that user, or take it over: sudo chown -R $(id -u) {state}",
        )
    return state
