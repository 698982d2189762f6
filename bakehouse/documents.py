"""Documents: reads YAML and HCL files, checks what they hold, computes digests and replaces files safely."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, get_args, get_origin, get_type_hints

from bakehouse.errors import InputError

SHA256 = "sha256:"
"""The prefix of every digest."""


@dataclass(frozen=True)
class Tagged:
    """Stand for a value with one of Ansible's own tags, such as ``!vault``. The kit treats it as empty.

    Attributes:
        tag: the tag as it is written.
    """

    tag: str

    def __bool__(self) -> bool:
        """Return False, so that the value counts as empty."""
        return False

    def __repr__(self) -> str:
        """Return the tag, for use in messages."""
        return f"{self.tag} …"


def read_yaml(file: Path, root: Path) -> Any:
    """Return what a YAML file holds, or None when it is empty. A value with one of Ansible's own tags becomes a Tagged.

    Raises InputError when the file can't be read or isn't YAML. It names the line, and the file relative to the root.
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
    """Return what a YAML text holds; ``tagged`` returns the value of a node with one of Ansible's own tags.

    Raises yaml.YAMLError when the text isn't YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda _, __, node: tagged(node))
    return yaml.load(text, Loader)  # noqa: S506, it makes plain values only


def read_hcl(file: Path, root: Path) -> dict[str, Any]:
    """Return what an HCL file holds, as keys and values. An expression is not evaluated: its value is its text.

    Raises InputError when the file can't be read or isn't HCL. It names the line, and the file relative to the root.
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
    """Return the SHA-256 digest of a document: ``sha256:`` and 64 hexadecimal digits."""
    return f"{SHA256}{hashlib.sha256(content).hexdigest()}"


def replace(file: Path, content: bytes) -> None:
    """Replace the content of a file, and return when it is on the disk.

    If this is interrupted, the file holds either the old content or the whole new content.
    """
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("wb") as writing:
        writing.write(content)
        writing.flush()
        os.fsync(writing.fileno())
    os.replace(fresh, file)


def create(file: Path, content: bytes) -> None:
    """Make a file that only its owner may read, whole or not at all; one that is there already stays as it is."""
    with _nameless(file.parent) as fresh:
        fresh.write(content)
        fresh.flush()
        os.fsync(fresh.fileno())
        source = fresh.name if isinstance(fresh.name, str) else f"/proc/self/fd/{fresh.fileno()}"
        with suppress(FileExistsError):  # somebody else was quicker
            os.link(source, file, src_dir_fd=fresh.fileno())  # with this argument it follows the link in /proc


def _nameless(folder: Path) -> IO[bytes]:
    """Return a new file of a folder that nobody else may read, without a name where the system can: it leaves none."""
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600), "wb")
    except (AttributeError, OSError):
        return tempfile.NamedTemporaryFile(dir=folder)


def checked(kind: type, read: Any, where: str) -> dict[str, Any]:
    """Return what was read from ``where``, after checking it against the fields of the dataclass ``kind``.

    Each field without a default must be there, each value must have the field's type, and there must be no other key.
    A field of type ``tuple`` is a list in a document; the caller checks its items. Raises InputError, which names
    ``where`` and the key that is unknown, missing or of the wrong kind; for an unknown one it names the nearest.
    """
    known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}
    if not isinstance(read, dict):
        raise InputError(f"{where} is not a map", f"its keys: {', '.join(known)}")
    types = get_type_hints(kind)
    for key in read:
        if key not in known:
            near = "".join(f"did you mean {one}? " for one in get_close_matches(str(key), known, 1))
            raise InputError(f"{where}: unknown key {key}", f"{near}known: {', '.join(known)}")
    for key, needed in known.items():
        if key in read:
            _check(types[key], read[key], f"{where}: {key}")
        elif needed:
            raise InputError(f"{where}: {key} is missing", f"its keys: {', '.join(known)}")
    return dict(read)


def mapping(read: Any, where: str) -> dict[str, Any]:
    """Return the map that was read, empty for None; raises InputError if it isn't a map."""
    _check(dict, read or {}, where)
    return dict(read or {})


def sequence(read: Any, where: str, of: type) -> list[Any]:
    """Return the list that was read, empty for None; raises InputError if it isn't a list of ``of`` values."""
    _check(list, read or [], where)
    for number, one in enumerate(read or [], 1):
        _check(of, one, f"{where}: number {number}")
    return list(read or [])


_WANTED: Mapping[Any, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "a map",
    list: "a list",
    Mapping[str, str]: "a map of strings",
    Mapping[str, Mapping[str, str]]: "a map of maps of strings",
    Mapping[str, Mapping[str, Any]]: "a map of maps",
}


def _check(wanted: Any, value: Any, where: str) -> None:
    wanted = list if get_origin(wanted) is tuple else wanted
    if not _is(wanted, value):
        raise InputError(f"{where} is not {_WANTED[wanted]}: {value!r}", "write a plain value, not an expression")


def _is(wanted: Any, value: Any) -> bool:
    if wanted is str:
        return isinstance(value, str) and "${" not in value and "{{" not in value
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is Any:
        return True
    if get_args(wanted):
        of_key, of_value = get_args(wanted)
        return isinstance(value, dict) and all(_is(of_key, key) and _is(of_value, one) for key, one in value.items())
    return isinstance(value, wanted)


def _text(file: Path, shown: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} can't be read: {reason}", "make it a text file that you may read") from error


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root) if file.is_relative_to(root) else file)
