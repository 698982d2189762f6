"""Documents: files read with one kind of error, records checked field by field, contents told by their digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from bakehouse.errors import InputError

SHA256 = "sha256:"
"""How a digest begins."""


@dataclass(frozen=True)
class Tagged:
    """Stand for a value with a tag of Ansible's own, such as ``!vault``: the kit can't read it, and it counts as none.

    Attributes: tag, as it is written.
    """

    tag: str

    def __bool__(self) -> bool:
        """Return False: nothing is known of the value."""
        return False

    def __repr__(self) -> str:
        """Return the tag, for messages."""
        return f"{self.tag} …"


def read_yaml(file: Path, root: Path) -> Any:
    """Return what a YAML file holds, None when it is empty; a value with a tag of Ansible's own becomes a Tagged.

    Raises InputError, which names the file from the root on and the line, when it can't be read or isn't YAML.
    """
    import yaml

    shown = _shown(file, root)
    try:
        return parse_yaml(_text(file, shown))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise InputError(f"{where}: syntax error: {reason}", f"yamllint {shown} shows more") from error


def parse_yaml(text: str, tagged: Callable[[Any], Any] = lambda node: Tagged(node.tag)) -> Any:
    """Return what a YAML text holds; ``tagged`` makes a value of each node with a tag of Ansible's own.

    Raises yaml.YAMLError.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda _, __, node: tagged(node))
    return yaml.load(text, Loader)  # noqa: S506, it makes plain values only


def read_hcl(file: Path, root: Path) -> dict[str, Any]:
    """Return what an HCL file holds, key to value; an expression stays the text that it is.

    Raises InputError, which names the file from the root on and the line, when it can't be read or isn't HCL.
    """
    import hcl2
    from lark.exceptions import UnexpectedInput

    shown = _shown(file, root)
    options = hcl2.SerializationOptions(with_comments=False, strip_string_quotes=True)
    try:
        read: dict[str, Any] = hcl2.loads(_text(file, shown) + "\n", serialization_options=options)
    except UnexpectedInput as error:
        hint = f"packer fmt {Path(shown).parent} shows more"
        raise InputError(f"{shown}:{error.line}: syntax error", hint) from error
    return read


def digest(content: bytes) -> str:
    """Return the digest of a document as the kit writes digests: ``sha256:`` and 64 hexadecimal digits."""
    return f"{SHA256}{hashlib.sha256(content).hexdigest()}"


def replace(file: Path, content: bytes) -> None:
    """Write a file so that it holds what it held before or all of the content, whatever happens meanwhile.

    The content is on the disk on return.
    """
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("wb") as writing:
        writing.write(content)
        writing.flush()
        os.fsync(writing.fileno())
    os.replace(fresh, file)


def checked(kind: type, read: Any, where: str) -> dict[str, Any]:
    """Return what was read if it fits a record: every field without a default, each of its type, and no other key.

    A field of type ``tuple`` is a list in a document; what is in it the caller checks.
    Raises InputError, which names the place and the key that is unknown, missing or of the wrong kind.
    """
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if not isinstance(read, dict):
        raise InputError(f"{where} is not a map", f"its keys: {', '.join(known)}")
    types = get_type_hints(kind)
    for key in read:
        if key not in known:
            raise InputError(f"{where}: unknown key {key}", f"known: {', '.join(known)}")
    for key, needed in known.items():
        if key in read:
            _check(types[key], read[key], f"{where}: {key}")
        elif needed:
            raise InputError(f"{where}: {key} is missing", f"its keys: {', '.join(known)}")
    return dict(read)


def mapping(read: Any, where: str) -> dict[str, Any]:
    """Return a map, empty where nothing was written; raises InputError for anything else."""
    _check(dict, read or {}, where)
    return dict(read or {})


def sequence(read: Any, where: str, of: type) -> list[Any]:
    """Return a list of values of a type, empty where nothing was written; raises InputError for anything else."""
    _check(list, read or [], where)
    for number, one in enumerate(read or [], 1):
        _check(of, one, f"{where}: number {number}")
    return list(read or [])


_WANTED: Mapping[Any, str] = {
    str: "a string",
    int: "a whole number",
    dict: "a map",
    list: "a list",
    Mapping[str, Mapping[str, str]]: "a map of maps of strings",
}


def _check(wanted: Any, value: Any, where: str) -> None:
    wanted = list if get_origin(wanted) is tuple else wanted
    if not _is(wanted, value):
        raise InputError(f"{where} is not {_WANTED[wanted]}: {value!r}", "only plain values, no expressions")


def _is(wanted: Any, value: Any) -> bool:
    if wanted is str:
        return isinstance(value, str) and "${" not in value and "{{" not in value
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_args(wanted):
        return isinstance(value, dict) and all(_is(get_args(wanted)[1], inner) for inner in value.values())
    return isinstance(value, wanted)


def _text(file: Path, shown: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} can't be read: {reason}", "it is a text file that you may read") from error


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root) if file.is_relative_to(root) else file)
