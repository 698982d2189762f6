"""Recipes: what is baked and on which base, read from the data files that Packer reads too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse import documents, system
from bakehouse.errors import InputError, NotFoundError
from bakehouse.settings import Settings

FAMILIES = ("debian", "redhat")
"""Systems by their kind of packages, in Ansible's words."""

_FOLDER = "packer/recipes"
_SUFFIX = ".pkrvars.hcl"
_BASES = "packer/bases.auto.pkrvars.hcl"


@dataclass(frozen=True)
class Recipe:
    """Hold one recipe, as its file says.

    Attributes: recipe, its name, which is also its Ansible group; base, the name of the base it starts from;
    instance_type, the EC2 type it is baked on; volume_size, of the root volume in GiB; playbook, from the root of the
    checkout; boot_budget, the seconds from launch until a machine serves; packages, the URLs of the repositories that
    each comes from, by base or family of bases.
    """

    recipe: str
    base: str
    instance_type: str
    volume_size: int
    playbook: str
    boot_budget: int
    packages: Mapping[str, Mapping[str, str]]
    architecture: str = ""

    @property
    def name(self) -> str:
        """Return the recipe's name."""
        return self.recipe

    def repositories(self, base: Base) -> dict[str, str]:
        """Return for each package its repository's URL on a base, without those that need none there."""
        found = {name: at.get(base.name) or at.get(base.family, "") for name, at in self.packages.items()}
        return {name: url for name, url in found.items() if url}


@dataclass(frozen=True)
class Base:
    """Hold one base: its family, its image's name pattern and owner, the user it lets in, its root volume's device.

    The family is one of FAMILIES.
    """

    name: str
    family: str
    image_name: str
    owner: str
    user: str
    root_device: str

    def pattern(self, architecture: str) -> str:
        """Return the pattern of its images' names for an architecture (EC2's word)."""
        return self.image_name.format(**system.ARCHITECTURES[architecture])


def names(root: Path) -> list[str]:
    """Return the names of the checkout's recipes."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in (root / _FOLDER).glob(f"*{_SUFFIX}"))


def path(root: Path, name: str) -> Path:
    """Return the file of the recipe of this name, be it there or not."""
    return root / _FOLDER / f"{name}{_SUFFIX}"


def load(settings: Settings, name: str = "") -> Recipe:
    """Return a recipe, by default the one that the settings name.

    Raises NotFoundError when there is no such recipe or its playbook isn't there, and InputError when one of the two
    has a syntax error (with file and line), its data a key that is unknown, missing or of the wrong kind, or its
    playbook nothing to do on the recipe's machines.
    """
    name = name or settings.recipe
    file = path(settings.root, name)
    if not file.is_file():
        raise NotFoundError(f"there is no recipe {name}", f"known: {', '.join(names(settings.root))}")
    recipe = Recipe(**documents.checked(Recipe, documents.read_hcl(file, settings.root), f"{_FOLDER}/{file.name}"))
    if recipe.name != name:
        raise InputError(f'{_FOLDER}/{file.name}: it calls itself "{recipe.name}"', f'write recipe = "{name}"')
    if recipe.architecture:
        check_architecture(recipe.architecture, f"{_FOLDER}/{file.name}: architecture")
    _check_playbook(recipe, settings.root)
    return recipe


def check_architecture(name: str, where: str) -> str:
    """Return EC2's word for an architecture; raises InputError, which says where an unknown one was named."""
    found = system.architecture(name)
    if not found:
        raise InputError(f"{where} {name} is no architecture", f"known: {', '.join(system.ARCHITECTURES)}")
    return found


def bases(root: Path) -> dict[str, Base]:
    """Return the bases that a bake can start from, by name; raises InputError as ``load`` does."""
    table = documents.read_hcl(root / _BASES, root).get("bases")
    if not isinstance(table, dict):
        raise InputError(
            f"{_BASES}: there is no map named bases",
            "bases = { NAME = { family, image_name, owner, user, root_device } }",
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
                f"{_BASES}: base {name}: image_name {one.image_name!r} has a place that is not known",
                "the places are {ec2}, {kernel} and {debian}: each is the architecture in the words of one of these",
            ) from error
    return found


def base(root: Path, name: str) -> Base:
    """Return the base of this name; raises NotFoundError, which lists the known ones."""
    known = bases(root)
    if name not in known:
        raise NotFoundError(f"there is no base {name}", f"known: {', '.join(known)}")
    return known[name]


def _check_playbook(recipe: Recipe, root: Path) -> None:
    """Raise unless the playbook is there, can be read, and has something for the recipe's machine to do."""
    if not (root / recipe.playbook).is_file():
        raise NotFoundError(
            f"recipe {recipe.name}: there is no playbook {recipe.playbook}",
            "write it, or name another in the recipe's file",
        )
    plays = documents.read_yaml(root / recipe.playbook, root)
    if not any(_is_for(recipe.name, play) for play in plays or () if isinstance(play, dict)):
        raise InputError(f"{recipe.playbook}: no play of it is for hosts: {recipe.name}", "Ansible would do nothing")


def _is_for(group: str, play: Mapping[str, Any]) -> bool:
    """Tell whether a play is for a group; of a pattern or another playbook only Ansible knows."""
    hosts = play.get("hosts", group)
    names = hosts.split(",") if isinstance(hosts, str) else list(map(str, hosts or ()))
    return any(name.strip() in (group, "all") or set(name) & set("*:&!~{[") for name in names)
