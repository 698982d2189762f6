"""Scaffold: writes the three files of a new recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os.path import normpath, relpath
from pathlib import Path

from bakehouse import recipes
from bakehouse.errors import InputError, NotFoundError
from bakehouse.recipes import roles
from bakehouse.settings import Settings

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_RESERVED = ("all", "ungrouped", "localhost")  # Ansible's own

_DATA = """\
# What is baked. Its configuration is in inventory/group_vars/{name}.yml.
recipe        = "{name}"
base          = "{base}"
instance_type = "t3.medium"
volume_size   = 8 # GiB
playbook      = "playbooks/{name}.yml"
boot_budget   = 120 # seconds within which a machine must serve
packages      = {{}}
"""

_VARIABLES = """\
---
# The variables of the roles come here.

# These roles verify the machine: at rest, before the image is made, and in service, when it is probed.
verify_roles: [{verifying}]

# What the machines offer: launch and probe look at it from outside. Until now it is nothing.
# The values are plain, such as
# bakehouse_service:
#   unit: {unit}.service
#   port: 80
#   pages:
#     - {{path: /, status: 200}}
bakehouse_service: {{}}
"""

_PLAYBOOK = """\
---
- name: Bake {name}{waived}
  hosts: {name}
  become: true
  roles:
{roles}
"""


def write(settings: Settings, name: str, roles: str, base: str = "") -> list[Path]:
    """Write the files of a new recipe and return their paths: data for Packer, variables, and a playbook.

    ``roles`` are the roles of the playbook: names or paths, separated by commas. ``base`` is by default the first base
    of the checkout. Raises InputError when the name is malformed or taken or no role is given, and NotFoundError when
    there is no such role or base. Then nothing was written.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InputError(
            f"{name!r} can't be the name of a recipe",
            "use small letters, digits, dashes and underscores; begin with a letter",
        )
    bases = recipes.bases(settings.root)
    wanted = recipes.base(settings.root, base or next(iter(bases)))
    files = _filled(settings.root, name, _known(settings.root, roles), wanted.name)
    for file in files:
        if file.exists():
            shown = file.relative_to(settings.root)
            raise InputError(f"{shown} exists already", "give the new recipe another name")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(files)


def _known(root: Path, typed: str) -> dict[str, Path]:
    """Return the folders of the roles, by the names under which a playbook finds them."""
    words = [word.strip() for word in typed.split(",") if word.strip()]
    named = {_from_playbooks(root, word): word for word in words}
    if not named:
        raise InputError(
            "--roles names no role", "give --roles NAME,NAME: names in roles/ or in requirements.yml, or paths"
        )
    if missing := roles.get(root, list(named)):
        raise NotFoundError(
            f"there is no role {named[missing[0]]}",
            f"name a role in roles/ or one that {roles.FILE} installs, or give a path",
        )
    return {name: roles.find(root, name) or root for name in named}


def _from_playbooks(root: Path, word: str) -> str:
    """Return a role's path as a playbook writes it: relative if it is in the checkout. A name is returned as it is."""
    if "/" not in word:
        return word
    path = Path(normpath(Path(word).expanduser().absolute()))
    return relpath(path, root / "playbooks") if path.is_relative_to(root) else str(path)


def _filled(root: Path, name: str, roles: Mapping[str, Path], base: str) -> dict[Path, str]:
    verifying = ", ".join(role for role, folder in roles.items() if _verifies(folder))
    unit = re.split("[./]", list(roles)[-1])[-1]  # the last role's, without its author, collection or folder
    waived = "  # noqa: role-name[path]" if any("/" in role for role in roles) else ""
    lines = "\n".join(f"    - {role}" for role in roles)
    return {
        recipes.path(root, name): _DATA.format(name=name, base=base),
        root / f"inventory/group_vars/{name}.yml": _VARIABLES.format(unit=unit, verifying=verifying),
        root / f"playbooks/{name}.yml": _PLAYBOOK.format(name=name, waived=waived, roles=lines),
    }


def _verifies(role: Path) -> bool:
    return all((role / f"tasks/verify_{when}.yml").is_file() for when in ("at_rest", "in_service"))
