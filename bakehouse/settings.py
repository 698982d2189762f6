"""Settings: what flags, the environment and the defaults say, as one frozen record."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bakehouse import patience
from bakehouse.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the folder that holds tasks.py, packer, playbooks, roles and inventory."""

RECIPE = "jenkins"
"""The recipe to use when none is named."""

VAULT = "ANSIBLE_VAULT_PASSWORD_FILE"
"""The variable of Ansible's that names the file with the password of ansible-vault."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWNER = re.compile(r"[A-Za-z0-9_.:/=+@,-]{0,256}")  # an ARN, or any other word that fits in a tag


@dataclass(frozen=True)
class Settings:
    """Hold the settings of one task.

    Attributes:
        root: the folder of the checkout.
        state: the folder in which the kit keeps what it makes (``.bakehouse``).
        account: ``local`` or the name of an AWS profile.
        region: an AWS region; empty for the profile's own. The account ``local`` pays no heed to it.
        recipe: the name of a recipe.
        owner: whose the images and machines are that the task makes or looks for; empty for the caller's.
        ssh_config: the file that configures ssh for machines on AWS, such as a bastion's ProxyJump; empty for none.
    """

    root: Path
    state: Path
    account: str
    region: str
    recipe: str
    owner: str = ""
    ssh_config: str = ""

    def kept(self, kind: str) -> Path:
        """Return the folder of what is kept of the account: its ``keys``, ``known_hosts``, ``images`` or ``proofs``."""
        return self.state / kind / self.account


def load(account: str = "", recipe: str = "", root: Path = ROOT, owner: str = "") -> Settings:
    """Return the settings, and make the state folder.

    The arguments are a task's flags. An empty one leaves it to the environment (``BAKEHOUSE_ACCOUNT``,
    ``BAKEHOUSE_RECIPE``, ``BAKEHOUSE_OWNER``, ``AWS_REGION``) and then to the defaults. ``BAKEHOUSE_STATE`` names
    another state folder; each state folder has its own local EC2. ``BAKEHOUSE_SSH_CONFIG`` names the file that
    configures ssh. Raises InputError when a name is malformed, when that file is missing, and when the state folder
    can't be made or is another user's.
    """
    try:
        patience.factor()
    except ValueError as error:
        told = os.environ[patience.VARIABLE]
        raise InputError(f"{patience.VARIABLE} is {told!r}, which is no factor", "give a number from 1 up") from error
    account = account or os.environ.get("BAKEHOUSE_ACCOUNT", "") or "local"
    recipe = recipe or os.environ.get("BAKEHOUSE_RECIPE", "") or RECIPE
    region = os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", "")
    for kind, name in (("account", account), ("recipe", recipe)):
        if not _NAME.fullmatch(name):
            raise InputError(f"{kind} {name!r} is not a name", "use letters, digits, dots, dashes and underscores")
    owner = owner or os.environ.get("BAKEHOUSE_OWNER", "")
    if not _OWNER.fullmatch(owner):
        raise InputError(f"owner {owner!r} is not a name", "use letters, digits and _ . : / = + - @, 256 at most")
    state = Path(os.environ.get("BAKEHOUSE_STATE", "") or root / ".bakehouse").absolute()
    ssh_config = os.environ.get("BAKEHOUSE_SSH_CONFIG", "") if account != "local" else ""
    if ssh_config and not Path(ssh_config).is_file():
        raise InputError(f"BAKEHOUSE_SSH_CONFIG is {ssh_config}, which is no file", "name a file, or unset it")
    ssh_config = os.path.abspath(ssh_config) if ssh_config else ""
    return Settings(root, _ours(state), account, region, recipe, owner, ssh_config)


def check_vault() -> None:
    """Make the name of the vault's password file absolute; raises InputError when the file can't be read."""
    file = os.environ.get(VAULT, "")
    if file:
        place = os.path.abspath(os.path.expanduser(file))
        if not os.access(place, os.R_OK) or os.path.isdir(place):
            raise InputError(
                f"the vault's password file {file} can't be read", f"name a file: --vault-password-file, or {VAULT}"
            )
        os.environ[VAULT] = place


def _ours(state: Path) -> Path:
    try:
        state.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {state} can't be made: {error.strerror}", "get the right to write to the folder above it"
        ) from error
    if state.stat().st_uid != os.geteuid():
        raise InputError(
            f"{state} belongs to another user (uid {state.stat().st_uid})",
            f"work as that user, or take it over: sudo chown -R $(id -u) {state}",
        )
    return state
