"""Extras: what a person adds to a recipe for one bake: variables for its roles, and which of its tasks run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bakehouse import documents
from bakehouse.errors import InputError
from bakehouse.recipes import inputs

_FLAG = "--extra-vars"
_HOW = f"write {_FLAG} NAME=VALUE, {_FLAG} '{{NAME: VALUE}}' or {_FLAG} @FILE"
_LONGEST = 200  # characters: the value of a tag has 256 at most


@dataclass(frozen=True)
class Extras:
    """Hold what a person adds to a recipe for one bake.

    Attributes:
        variables: variables of the roles, which come before all others.
        files: files of more such variables; they may be vaulted.
        tags: the tags of the recipe's tasks that run, with commas between; all run when it's empty.
        skip_tags: the tags of those that don't.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    tags: str = ""
    skip_tags: str = ""

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of ansible-playbook. They hold no variable, which could be secret."""
        files = [part for file in self.files for part in (_FLAG, f"@{file}")]
        told = {"--tags": self.tags, "--skip-tags": self.skip_tags}
        return [*files, *(part for flag, tags in told.items() if tags for part in (flag, tags))]

    @property
    def part(self) -> str:
        """Return which part of the recipe is baked, for people; empty for the whole."""
        told = {"--tags": self.tags, "--skip-tags": self.skip_tags}
        return " ".join(f"{flag} {tags}" for flag, tags in told.items() if tags)

    def inputs(self, key: bytes) -> dict[str, str]:
        """Return what is added as inputs; those that may be secret depend on the ``key``."""
        told = inputs.of_variables(self.variables, _FLAG, key)
        for file in self.files:
            told[f"{_FLAG} @{file.name}"] = f"{inputs.HERE}{inputs.keyed(key, file.read_bytes())}"
        return {**told, **({"part": self.part} if self.part else {})}


NOTHING = Extras()
"""What is added to a bake of the recipe as it is."""


def parse(given: Sequence[str], tags: str = "", skip_tags: str = "") -> Extras:
    """Return the extras that a person has typed; raises InputError, which names what is wrong."""
    variables: dict[str, Any] = {}
    files: list[Path] = []
    for one in given:
        if one.startswith("@"):
            files.append(_file(Path(one[1:])))
        else:
            told = _map(one) if one.lstrip().startswith("{") else _pairs(one)
            _insist_on_names(told, one)
            variables |= told
    words = [word for word in skip_tags.split(",") if word.strip() in ("always", "all")]
    if words:
        raise InputError(f"--skip-tags {words[0]} would leave out what every image needs", "name tags of your roles")
    for flag, text in (("--tags", tags), ("--skip-tags", skip_tags)):
        if len(text) > _LONGEST or not text.isprintable():
            raise InputError(f"{flag} is too long, or no text", f"{_LONGEST} characters at most")
    return Extras(variables, tuple(files), tags, skip_tags)


def insist_on_answers(extras: Extras, root: Path, playbook: str) -> None:
    """Raise InputError if a play asks for a variable that isn't given: nobody answers in a bake."""
    for name, file in inputs.prompts(root / playbook):
        if name not in extras.variables:
            raise InputError(
                f"{file.relative_to(root) if file.is_relative_to(root) else file} asks for {name} (vars_prompt),"
                " and nobody answers in a bake",
                f"give it: {_FLAG} {name}=VALUE",
            )


def _file(path: Path) -> Path:
    try:
        text = path.read_text()
        read = None if text.startswith("$ANSIBLE_VAULT") else documents.parse_yaml(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no YAML"
        raise InputError(f"{_FLAG} @{path} can't be read: {reason}", "give a file of variables") from error
    if read is not None:
        _insist_on_names(documents.mapping(read, f"{_FLAG} @{path}"), f"@{path}")
    return path.resolve()


def _map(text: str) -> dict[str, Any]:
    try:
        return documents.mapping(yaml.safe_load(text), _FLAG)
    except yaml.YAMLError as error:
        raise InputError(f"{_FLAG} {text} is no YAML", _HOW) from error


def _pairs(text: str) -> dict[str, Any]:
    try:
        parts = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise InputError(f"{_FLAG} {text}: a quotation mark is missing", _HOW) from error
    if not parts or any(not separator for _, separator, _ in parts):
        raise InputError(f"{_FLAG} {text} names no value", _HOW)
    return {name: value for name, _, value in parts}


def _insist_on_names(told: Mapping[str, Any], where: str) -> None:
    for name in map(str, told):
        if not name.isidentifier():
            raise InputError(f"{_FLAG} {where}: {name!r} can't be the name of a variable", _HOW)
        if name.startswith(inputs.OURS):
            raise InputError(f"{_FLAG} {where}: {name} is the kit's own", f"a name must not begin with {inputs.OURS}")
