"""Recipes: what is baked, and on which base. They are read from the same data files that Packer reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse import documents, system
from bakehouse.errors import InputError, NotFoundError
from bakehouse.settings import Settings

FAMILIES = ("debian", "redhat")
"""The families of operating systems, in Ansible's words: one has deb packages, one has rpm packages."""

_FOLDER = "packer/recipes"
_SUFFIX = ".pkrvars.hcl"
_BASES = "packer/bases.auto.pkrvars.hcl"


@dataclass(frozen=True)
class Recipe:
    """Hold one recipe, as its file says.

    Attributes:
        recipe: its name, which is also the Ansible group of its machines.
        base: the name of the base that it starts from.
        instance_type: the EC2 instance type that it is baked on.
        volume_size: the size of the root volume, in GiB.
        playbook: the path of its playbook, from the root of the checkout.
        boot_budget: the seconds within which a machine must serve after its launch.
        packages: for each package, the URL of its repository by the name of a base or family.
        architecture: the architecture in EC2's word; empty for the account's own.
        privileged: whether its machines need rights that make their root the host's root, on the local EC2.
        mitogen: whether Ansible bakes it with Mitogen, which runs tasks several times as fast.
    """

    recipe: str
    base: str
    instance_type: str
    volume_size: int
    playbook: str
    boot_budget: int
    packages: Mapping[str, Mapping[str, str]]
    architecture: str = ""
    privileged: bool = False
    mitogen: bool = False

    @property
    def name(self) -> str:
        """Return the recipe's name."""
        return self.recipe

    def repositories(self, base: Base) -> dict[str, str]:
        """Return the URL of each package's repository on a base. A package that the base itself offers is left out."""
        found = {name: at.get(base.name) or at.get(base.family, "") for name, at in self.packages.items()}
        return {name: url for name, url in found.items() if url}


@dataclass(frozen=True)
class Base:
    """Hold one base: the images that a bake can start from.

    Attributes:
        name: its name.
        family: one of FAMILIES.
        image_name: the pattern of its images' names, with places for the architecture.
        owner: the owner of its images: an account ID or an alias such as ``amazon``.
        user: the name of the user for SSH.
        root_device: the device name of the root volume, such as ``/dev/xvda``.
    """

    name: str
    family: str
    image_name: str
    owner: str
    user: str
    root_device: str

    def pattern(self, architecture: str) -> str:
        """Return the pattern of its images' names for an architecture, which is given in EC2's word."""
        return self.image_name.format(**system.ARCHITECTURES[architecture])


def names(root: Path) -> list[str]:
    """Return the names of the checkout's recipes."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in (root / _FOLDER).glob(f"*{_SUFFIX}"))


def path(root: Path, name: str) -> Path:
    """Return the path of the file of a recipe, whether or not the file exists."""
    return root / _FOLDER / f"{name}{_SUFFIX}"


def load(settings: Settings, name: str = "") -> Recipe:
    """Return a recipe, by default the one that the settings name.

    Raises NotFoundError when the recipe or its playbook doesn't exist. Raises InputError when one of the two has a
    syntax error (it names file and line), when a key of the recipe is unknown, missing or of the wrong kind, and when
    no play of the playbook is for the recipe's machines.
    """
    name = name or settings.recipe
    file = path(settings.root, name)
    if not file.is_file():
        raise NotFoundError(f"there is no recipe {name}", f"known: {', '.join(names(settings.root))}")
    recipe = Recipe(**documents.checked(Recipe, documents.read_hcl(file, settings.root), f"{_FOLDER}/{file.name}"))
    if recipe.name != name:
        raise InputError(
            f'{_FOLDER}/{file.name}: recipe is "{recipe.name}", not the name of the file', f'write recipe = "{name}"'
        )
    if recipe.architecture:
        check_architecture(recipe.architecture, f"{_FOLDER}/{file.name}: architecture")
    _check_playbook(recipe, settings.root)
    return recipe


def check_architecture(name: str, where: str) -> str:
    """Return EC2's word for an architecture; raises InputError if it is unknown. ``where`` says where it was named."""
    found = system.architecture(name)
    if not found:
        raise InputError(f"{where} {name} is not an architecture", f"known: {', '.join(system.ARCHITECTURES)}")
    return found


def bases(root: Path) -> dict[str, Base]:
    """Return the bases that a bake can start from, by name; raises InputError as ``load`` does."""
    table = documents.read_hcl(root / _BASES, root).get("bases")
    if not isinstance(table, dict):
        raise InputError(
            f"{_BASES}: the map bases is missing",
            "write bases = { NAME = { family, image_name, owner, user, root_device } }",
        )
    found = {
        name: Base(**documents.checked(Base, {"name": name, **entry}, f"{_BASES}: base {name}"))
        for name, entry in table.items()
    }
    for name, one in found.items():
        if one.family not in FAMILIES:
            raise InputError(f"{_BASES}: base {name}: there is no family {one.family}", f"known: {', '.join(FAMILIES)}")
        try:
            one.pattern("x86_64")
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(
                f"{_BASES}: base {name}: image_name {one.image_name!r} holds an unknown placeholder",
                "write {ec2}, {kernel} or {debian}: the architecture in the word of EC2, the kernel or Debian",
            ) from error
    return found


def base(root: Path, name: str) -> Base:
    """Return the base of this name; raises NotFoundError, which lists the known ones."""
    known = bases(root)
    if name not in known:
        raise NotFoundError(f"there is no base {name}", f"known: {', '.join(known)}")
    return known[name]


def _check_playbook(recipe: Recipe, root: Path) -> None:
    """Raise an error unless the playbook is in the checkout, can be read, and has a play for the recipe's machines."""
    if not (root / recipe.playbook).resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"recipe {recipe.name}: playbook {recipe.playbook} is outside of the checkout",
            "write its path from the root of the checkout, such as playbooks/web.yml",
        )
    if not (root / recipe.playbook).is_file():
        raise NotFoundError(
            f"recipe {recipe.name}: there is no playbook {recipe.playbook}",
            "write it, or name another one in the recipe's file",
        )
    plays = documents.read_yaml(root / recipe.playbook, root)
    if not any(_is_for(recipe.name, play) for play in plays or () if isinstance(play, dict)):
        raise InputError(
            f"{recipe.playbook}: no play is for hosts: {recipe.name}",
            "add a play for them: without one, Ansible does nothing",
        )


def _is_for(group: str, play: Mapping[str, Any]) -> bool:
    """Tell whether a play is for a group; true also for patterns and imported playbooks: only Ansible knows these."""
    hosts = play.get("hosts", group)
    names = hosts.split(",") if isinstance(hosts, str) else list(map(str, hosts or ()))
    return any(name.strip() in (group, "all") or set(name) & set("*:&!~{[") for name in names)
