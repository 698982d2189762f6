"""Drafts: the three files of a new recipe, as small as they can be."""

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
# What is baked. How it is configured: inventory/group_vars/{name}.yml
recipe        = "{name}"
base          = "{base}"
instance_type = "t3.medium"
volume_size   = 8 # GiB
playbook      = "playbooks/{name}.yml"
boot_budget   = 120 # seconds from launch until a machine serves
packages      = {{}}
"""

_VARIABLES = """\
---
# The variables of the roles come here.

# These roles verify the machine at rest, before the image is taken, and in service, in a probe.
verify_roles: [{verifying}]

# What the machines offer, which launch and probe look at from outside; nothing as yet. Plain values only, such as
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
    """Write the files of a new recipe and return them: data for Packer, variables, a playbook with these roles.

    ``roles`` are names or paths with commas between them; ``base`` is the first one that there is by default.
    Raises InputError or NotFoundError, with nothing written, when a name is bad or taken, or there is no such role.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InputError(f"{name!r} can't name a recipe", "small letters, digits, dashes and underscores")
    bases = recipes.bases(settings.root)
    wanted = recipes.base(settings.root, base or next(iter(bases)))
    files = _filled(settings.root, name, _known(settings.root, roles), wanted.name)
    for file in files:
        if file.exists():
            shown = file.relative_to(settings.root)
            raise InputError(f"there is {shown} already", "give the new recipe another name")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(files)


def _known(root: Path, typed: str) -> dict[str, Path]:
    """Return the roles' folders by the names that a playbook has for them."""
    words = [word.strip() for word in typed.split(",") if word.strip()]
    named = {_from_playbooks(root, word): word for word in words}
    if not named:
        raise InputError("a recipe needs a role", "--roles NAME,NAME: of roles/, of requirements.yml, or a path")
    if missing := roles.get(root, list(named)):
        raise NotFoundError(
            f"there is no role {named[missing[0]]}",
            f"it is neither in roles/, nor a path, nor from {roles.FILE}",
        )
    return {name: roles.find(root, name) or root for name in named}


def _from_playbooks(root: Path, word: str) -> str:
    """Return a role's path as seen from a playbook: relative where it is in the checkout; a name stays."""
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
