"""Orders: all that is decided before a bake begins, and what its image will tell of that."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bakehouse import __version__, console, images, recipes, tools
from bakehouse.accounts import TAG, Account
from bakehouse.errors import InputError
from bakehouse.images import Image
from bakehouse.recipes import Base, Recipe, inputs

_PACKAGES = {
    "debian": (b"!<arch>\ndebian-binary", "a Debian package", "{}_2.555.1_all.deb"),
    "redhat": (b"\xed\xab\xee\xdb", "an RPM package", "{}-2.555.1-1.noarch.rpm"),
}
"""Of each family how a package's file begins, what it is called, and how one is named."""


@dataclass(frozen=True)
class Order:
    """Hold what is to be baked from what.

    Attributes: recipe; base, and start, the image that it was resolved to; stand_ins, for each package that can't be
    had the repository that stands in for its own; files, for each package given as a file that file; packer.
    """

    recipe: Recipe
    base: Base
    start: Image
    stand_ins: Mapping[str, Mapping[str, str]]
    files: Mapping[str, Path]
    packer: tools.Packer

    @property
    def variables(self) -> dict[str, str]:
        """Return what the roles are told beyond the inventory: where each package comes from."""
        told = {f"{_word(package)}_package_file": str(file) for package, file in self.files.items()}
        return told | variables(self.stand_ins)

    @property
    def notices(self) -> list[str]:
        """Return a line for each package that is not the real one."""
        urls = self.recipe.repositories(self.base)
        return [
            notice(f"the image's {package}", urls[package], repository)
            for package, repository in self.stand_ins.items()
        ]

    @property
    def tools(self) -> dict[str, str]:
        """Return the versions of the programs that bake."""
        return {"packer": ".".join(map(str, self.packer.version)), "ansible": version("ansible-core")}

    def provenance(self, run: str, commit: str) -> dict[str, str]:
        """Return the tags by which an image tells where it comes from and is known as a finished one."""
        told = {
            "kind": "image",
            "recipe": self.recipe.name,
            "run": run,
            "user": self.base.user,
            "commit": commit,
            "base": self.start.id,
            "kit": __version__,
            **self.tools,
            **dict.fromkeys(self.stand_ins, "stand-in"),
        }
        return {f"{TAG}{key}": value for key, value in told.items()}


def variables(stand_ins: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what the roles are told of the repositories that stand in for those of the packages."""
    told = {}
    for package, repository in stand_ins.items():
        told[f"{_word(package)}_repository_url"] = repository["url"]
        told[f"{_word(package)}_repository_key_url"] = repository["key_url"]
        told[f"{_word(package)}_repository_key_fingerprint"] = repository["fingerprint"]
    return told


def notice(what: str, url: str, repository: Mapping[str, str]) -> str:
    """Return the line that says of a package that it's not the real one, whose repository is at ``url``."""
    return (
        f"STAND-IN: {url} can't be reached from here: {what} is {repository['version']},"
        " which only stands in for the real one"
    )


def check_files(recipe: Recipe, base: Base, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the whole path of each package's file; raises InputError for one that the base can't install."""
    return {package: _checked(recipe, base, package, file) for package, file in files.items()}


def place(account: Account, recipe: Recipe, base: Base, files: Mapping[str, Path], packer: tools.Packer) -> Order:
    """Resolve the base to an image, look which packages can't be had, say both, and return the order."""
    start = images.base(account, base)
    console.say(f"base {base.name}: {start.id} ({start.name})")
    wanted = {package: url for package, url in recipe.repositories(base).items() if package not in files}
    found = {package: account.stand_in(package, base.family, url) for package, url in wanted.items()}
    order = Order(recipe, base, start, {name: one for name, one in found.items() if one}, files, packer)
    for notice in order.notices:
        console.say(notice)
    return order


def inputs_of(root: Path, order: Order, roles: Mapping[str, Path], collections: Mapping[str, Path]) -> dict[str, str]:
    """Return all that would go into a bake but for what its machine takes from repositories that are no stand-ins.

    ``roles`` and ``collections`` map the names of those that it uses to their folders.
    """
    recipe, base = order.recipe, order.base
    data = recipes.path(root, recipe.name).relative_to(root)
    return {
        **inputs.of_checkout(root, recipe.name, recipe.playbook, roles, collections),
        **{f"{data}: {key}": str(getattr(recipe, key)) for key in ("playbook", "instance_type", "volume_size")},
        f"base {base.name}": inputs.of_value([base.family, base.user, base.root_device]),
        "base image": order.start.id,
        "kit": __version__,
        **{f"package {name}": inputs.of_file(file) for name, file in order.files.items()},
        **{f"packages {one['url']}": one["content"] for one in order.stand_ins.values()},
    }


def commit_of(root: Path) -> str:
    """Return the checkout's git commit, with ``-dirty`` when files differ from it; ``none`` outside of git."""

    def git(*arguments: str) -> str:
        told = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return told.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "none"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _checked(recipe: Recipe, base: Base, package: str, file: Path) -> Path:
    if package not in recipe.packages:
        raise InputError(f"recipe {recipe.name} has no package {package}", f"known: {', '.join(recipe.packages)}")
    magic, kind, example = _PACKAGES[base.family]
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(magic))
    except OSError as error:
        raise InputError(f"package {file} can't be read: {error.strerror}", "give a file that is there") from error
    if begin != magic:
        raise InputError(
            f"{file} is not {kind}, which base {base.name} needs", f"it is named like {example.format(package)}"
        )
    return file.resolve()


def _word(package: str) -> str:
    return package.replace("-", "_")
