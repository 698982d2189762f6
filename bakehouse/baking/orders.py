"""Orders: what is decided before a bake begins, and the tags and inputs that follow from it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bakehouse import __version__, console, images, packers, recipes, system, tools
from bakehouse.accounts import TAG, Account, encryption, rights
from bakehouse.baking.extras import NOTHING, Extras
from bakehouse.errors import AccountError, InputError
from bakehouse.images import Image
from bakehouse.recipes import Base, Recipe, inputs
from bakehouse.settings import Settings

_PACKAGES = {
    "debian": (b"!<arch>\ndebian-binary", "a Debian package", "{}_2.555.1_all.deb"),
    "redhat": (b"\xed\xab\xee\xdb", "an RPM package", "{}-2.555.1-1.noarch.rpm"),
}
"""For each family of bases: the first bytes of a package file, what such a file is called, and an example of a name."""

_PLAIN = ("playbook", "instance_type", "volume_size", "privileged", "mitogen")  # of a recipe, inputs as they are


@dataclass(frozen=True)
class Order:
    """Hold what is to be baked.

    Attributes:
        recipe: the recipe.
        base: the base.
        start: the base's image, upon which the new image is baked.
        stand_ins: the packages whose repository can't be reached, each mapped to the repository that stands in for it.
        files: the packages that are installed from a file, each mapped to that file.
        packer: the Packer that bakes.
        encryption: how the image's volume is encrypted, in EC2's words; empty when it isn't.
        types: the instance types of the bake's machine, in the order in which they are tried.
        own: the variables of the roles that accounts.yml names.
        extras: what this bake has besides the recipe.
        faster: the variables of Ansible with which it runs tasks faster; empty unless the recipe asks for Mitogen.
    """

    recipe: Recipe
    base: Base
    start: Image
    stand_ins: Mapping[str, Mapping[str, str]]
    files: Mapping[str, Path]
    packer: packers.Packer
    encryption: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    faster: Mapping[str, str] = field(default_factory=dict)
    extras: Extras = NOTHING

    @property
    def variables(self) -> dict[str, Any]:
        """Return the variables of the roles: the account's own, where packages come from, and what a person adds."""
        return {**self.own, **variables(self.stand_ins, self.files), **self.extras.variables}

    @property
    def notices(self) -> list[str]:
        """Return a line for each package that is not the real one."""
        urls = _repositories(self.recipe, self.base, self.own)
        return [
            notice(f"the image's {package}", urls[package], repository)
            for package, repository in self.stand_ins.items()
        ]

    @property
    def tools(self) -> dict[str, str]:
        """Return the versions of the programs that bake."""
        told = {"packer": ".".join(map(str, self.packer.version)), "ansible": version("ansible-core")}
        return {**told, "mitogen": version("mitogen")} if self.faster else told

    def provenance(self, run: str, commit: str) -> dict[str, str]:
        """Return the tags that mark an image as finished and say where it comes from."""
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
        part = {f"{TAG}part": self.extras.part} if self.extras.part else {}
        return {**{f"{TAG}{key}": value for key, value in told.items()}, **part}


def variables(stand_ins: Mapping[str, Mapping[str, str]], files: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables of the roles that make packages come from stand-in repositories, and others from files."""
    told = {f"{_word(package)}_package_file": str(file) for package, file in files.items()}
    for package, repository in stand_ins.items():
        told[f"{_word(package)}_repository_url"] = repository["url"]
        told[f"{_word(package)}_repository_key_url"] = repository["key_url"]
        told[f"{_word(package)}_repository_key_fingerprint"] = repository["fingerprint"]
    return told


def notice(what: str, url: str, repository: Mapping[str, str]) -> str:
    """Return the line that says that a package is a stand-in, because its repository at ``url`` can't be reached."""
    return (
        f"STAND-IN: {url} can't be reached from here: {what} is {repository['version']},"
        " which only stands in for the real one"
    )


def check_files(recipe: Recipe, base: Base, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the absolute path of each package file; raises InputError when the base can't install one."""
    for package in files:
        if package not in recipe.packages:
            raise InputError(f"recipe {recipe.name} has no package {package}", f"known: {', '.join(recipe.packages)}")
    return {package: check_file(base, package, file) for package, file in files.items()}


def check_file(base: Base, package: str, file: Path) -> Path:
    """Return the absolute path of a package's file; raises InputError when the base can't install it."""
    magic, kind, example = _PACKAGES[base.family]
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(magic))
    except OSError as error:
        raise InputError(f"package {file} can't be read: {error.strerror}", "give an existing file") from error
    if begin != magic:
        raise InputError(
            f"{file} is not {kind}, which base {base.name} needs", f"its name looks like {example.format(package)}"
        )
    return file.resolve()


def place(
    account: Account,
    recipe: Recipe,
    base: Base,
    files: Mapping[str, Path],
    packer: packers.Packer,
    instance_type: str = "",
    added: Extras = NOTHING,
) -> Order:
    """Find the base's image and the packages that need a stand-in, print both, and return the order.

    ``instance_type`` stands in place of the account's and the recipe's.
    Raises InputError when the instance profile or the key that accounts.yml names can't be used.
    """
    rights.insist_profile(account, "bake_profile")
    disk = encryption.disk(account, encryption.key(account))
    types = (instance_type,) if instance_type else account.site.instance_types or (recipe.instance_type,)
    if recipe.architecture:
        _check_types(account, recipe.architecture, types)
    start = images.base(account, base, recipe.architecture)
    console.say(f"base {base.name}: {start.id} ({start.name})")
    if recipe.privileged and account.endpoint:
        console.say(f"recipe {recipe.name} is privileged: on the local EC2 its machines' root is root of this host")
    own = account.site.variables
    wanted = {package: url for package, url in _repositories(recipe, base, own).items() if package not in files}
    found = {package: account.stand_in(package, base.family, url) for package, url in wanted.items()}
    stand_ins = {name: one for name, one in found.items() if one}
    faster = tools.mitogen() if recipe.mitogen else {}
    if recipe.mitogen and not faster:
        console.say(f"recipe {recipe.name} asks for Mitogen, which .venv lacks: Ansible bakes without it, more slowly")
    order = Order(recipe, base, start, stand_ins, files, packer, disk, types, own, faster, added)
    for notice in order.notices:
        console.say(notice)
    return order


def insist_on_launch(account: Account, order: Order) -> None:
    """Raise AccountError when the account refuses machines without IMDSv2, and nothing would demand it of this one.

    Packer 1.6 can't demand it; then the account's own default decides, and without one the base's image.
    """
    if order.packer.plugins:
        return
    defaults = account.ec2.get_instance_metadata_defaults().get("AccountLevel", {})
    told = defaults.get("HttpTokens")
    required = told == "required" if told else order.start.imdsv2
    if defaults.get("HttpTokensEnforced") == "enabled" and not required:
        version = ".".join(map(str, order.packer.version))
        raise AccountError(
            f"account {account.name} launches no machine without IMDSv2 (httpTokensEnforced), which Packer {version}"
            f" can't demand, and base {order.start.id} doesn't",
            "put a Packer from 1.7 on PATH (docs/packer.md), or have the account's default require it:"
            " aws ec2 modify-instance-metadata-defaults --http-tokens required",
        )


def _repositories(recipe: Recipe, base: Base, own: Mapping[str, str]) -> dict[str, str]:
    """Return the URL of each package's repository: the recipe's, or the mirror that the account's variables name."""
    known = recipe.repositories(base)
    return {package: own.get(f"{_word(package)}_repository_url", url) for package, url in known.items()}


def _check_types(account: Account, architecture: str, types: Sequence[str]) -> None:
    """Raise InputError unless the instance types have the architecture that was named."""
    for told in account.ec2.describe_instance_types(InstanceTypes=[*types])["InstanceTypes"]:
        has = told["ProcessorInfo"]["SupportedArchitectures"]
        if architecture not in has:
            raise InputError(
                f"instance type {told['InstanceType']} is {' or '.join(has)}, not {architecture}",
                "--type names another for this bake, instance_type in the recipe's file for all",
            )


def inputs_of(
    settings: Settings, order: Order, roles: Mapping[str, Path], collections: Mapping[str, Path]
) -> dict[str, str]:
    """Return the bake's inputs, except what its machine will install from real package repositories.

    ``roles`` and ``collections`` map the names of the roles and collections that the bake uses to their folders.
    """
    recipe, base, root = order.recipe, order.base, settings.root
    data = recipes.path(root, recipe.name).relative_to(root)
    return {
        **inputs.of_checkout(root, recipe.name, recipe.playbook, roles, collections, inputs.own_key(settings.state)),
        **{f"{data}: {key}": str(getattr(recipe, key)) for key in _PLAIN},
        f"base {base.name}": inputs.of_value([base.family, base.user, base.root_device]),
        "base image": order.start.id,
        "kit": __version__,
        **({"encryption": json.dumps(order.encryption)} if order.encryption else {}),
        **inputs.of_variables(order.own, "accounts.yml", inputs.own_key(settings.state)),
        **order.extras.inputs(inputs.own_key(settings.state)),
        **{f"package {name}": inputs.of_file(file) for name, file in order.files.items()},
        **{f"packages {one['url']}": one["content"] for one in order.stand_ins.values()},
    }


def commit_of(root: Path) -> tuple[str, str]:
    """Return the git commit that holds the checkout, and a remark for the person, empty where none is needed.

    The commit is followed by ``-dirty`` when files of the checkout differ from it, or are in no commit. It is ``none``
    when there is no commit, or git can't tell it; the remark says why.
    """

    def git(*arguments: str) -> str:
        # The files may belong to somebody else, and the person's configuration may hide files.
        argv = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
        environ = system.environment(GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
        told = system.call(argv, environ, capture_output=True, text=True, check=True)
        return str(told.stdout.strip())

    untold = "the image will not tell which commit it was baked of"
    try:
        top = Path(git("rev-parse", "--show-toplevel")).resolve()
        if not git("ls-files", "--", "."):
            return "none", f"the git repository {top} holds no file of this checkout: {untold}"
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=normal", "--", ".") else ""
        commit = git("rev-parse", "HEAD") + dirty
    except FileNotFoundError:
        return "none", f"git is missing: {untold}"
    except subprocess.CalledProcessError as error:
        said = system.last_line(error.stderr)
        outside = "this checkout is in no git repository" if "not a git repository" in said else f"git says: {said}"
        return "none", f"{outside}: {untold}"
    within = f"this checkout is a folder of the git repository {top}: its commit is {commit}"
    return commit, "" if top == root.resolve() else within


def _word(package: str) -> str:
    return package.replace("-", "_")
