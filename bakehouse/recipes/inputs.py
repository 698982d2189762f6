"""Inputs: everything that goes into a bake, each by name with its digest or value, and one digest of all."""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bakehouse import documents

# Files that every bake reads. Of _BASES a bake uses only the data of its own base, so that file is not among them.
_OF_THE_KIT = (
    "ansible.cfg",
    "requirements.lock",
    "bakehouse/baking/lockouts.py",
    "bakehouse/records/inspector.py",
    "playbooks/bake.yml",
    "playbooks/tasks/lockouts.yml",
    "playbooks/tasks/record.yml",
)
OURS = "bakehouse_"
"""The names of our own variables begin with this. They name files with secrets, and hold none."""

_BASES = "packer/bases.auto.pkrvars.hcl"

# The folders in which Ansible looks beside a playbook, without those of roles and of the inventory's variables.
_BESIDE = ("tasks", "handlers", "files", "templates", "vars", "library", "module_utils", "*_plugins")


_READ = "read "  # the names of inputs that only a bake itself has told begin with this

LOOKUP = "lookup "
"""The names of inputs that nobody can look up again begin with this."""

HERE = "here "
"""The digest of a variable begins with this. It stays in the checkout: whoever has it could guess a short value."""

_VARIABLES = "variables"
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_SECRET = {
    *("credential", "credentials", "key", "keys", "pass", "passcode", "passphrase", "passwd", "password", "passwords"),
    *("pem", "pin", "psk", "pwd", "secret", "secrets", "token", "tokens"),
}
"""What is called so in the end is secret, unless it is the path of a file."""


def own_key(folder: Path) -> bytes:
    """Return the checkout's key for the digests of secret variables, from a folder; it is made if it is missing."""
    file = folder / "inputs.key"
    documents.create(file, secrets.token_hex(32).encode())
    return file.read_bytes()


def of_checkout(
    root: Path, recipe: str, playbook: str, roles: Mapping[str, Path], collections: Mapping[str, Path], key: bytes
) -> dict[str, str]:
    """Return the digest of each file that a bake reads, and of each variable of the recipe's group.

    ``roles`` and ``collections`` are those that the bake uses: they map names to folders. No path above the root and no
    time is in the result, so that two checkouts with the same content have the same inputs. Only variables that are
    secret by their names differ: their digests depend on the ``key``.
    """
    found: dict[str, str] = {}
    for file, (name, holds_variables) in _files(root.resolve(), recipe, playbook, roles).items():
        found |= _variables(file, name, key) if holds_variables else {name: of_file(file)}
    return found | {f"collection {name}": _of_collection(folder) for name, folder in collections.items()}


def _files(root: Path, recipe: str, playbook: str, roles: Mapping[str, Path]) -> dict[Path, tuple[str, bool]]:
    """Return the files that a bake reads, each with its name among the inputs, and whether its variables count."""
    beside = (root / playbook).parent
    files = [
        *(root / name for name in _OF_THE_KIT),
        *(file for file in (root / "packer").glob("*.hcl") if file != root / _BASES),
        *(root / "packer" / "plugins").glob("*.hcl"),
        *_beside(root / playbook),
    ]
    found = {file: (_relative(root, file), _holds_variables(file)) for file in files if file.is_file()}
    for name, folder in roles.items():
        inside = folder.is_relative_to(root)
        prefix = f"{folder.relative_to(root).as_posix()}/" if inside else f"role {name}: "
        for file in _of_role(folder):
            variables = file.relative_to(folder).parts[0] in ("defaults", "vars") and _holds_variables(file)
            found[file] = (f"{prefix}{file.relative_to(folder).as_posix()}", variables)
    for place in dict.fromkeys((root / "inventory", root / "playbooks", beside)):
        for kind, names in (("group_vars", ("all", recipe)), ("host_vars", (host(recipe),))):
            found |= {file: (_relative(root, file), True) for file in variable_files(place / kind, names)}
    return found


def host(recipe: str) -> str:
    """Return the name of a recipe's machine in its bake: Ansible's ``inventory_hostname``."""
    return f"{recipe}-image"


def beyond(
    root: Path,
    recipe: str,
    playbook: str,
    used: tuple[Mapping[str, Path], Mapping[str, Path]],
    read: Iterable[Path],
    key: bytes,
) -> dict[str, str]:
    """Return as inputs what a bake has read besides what ``of_checkout`` knows.

    ``used`` are its roles and collections, ``read`` the files that Ansible has read. Of a role or a collection that
    nobody knew of, all files count. The digests depend on the ``key``: a file from anywhere may hold a secret.
    """
    root = root.resolve()
    known = {file.resolve() for file in _files(root, recipe, playbook, used[0])}
    folders = [folder.resolve() for folder in used[1].values()]
    more: dict[str, str] = {}
    for file in (path.resolve() for path in read):
        if file not in known and not any(file.is_relative_to(folder) for folder in folders):
            more |= _again(root, f"{_READ}{_relative(root, _whole(file))}", key)
    return more


def again(root: Path, before: Mapping[str, str], key: bytes) -> dict[str, str]:
    """Return as they are now those inputs of a bake that only the bake itself has told: see ``beyond``."""
    told: dict[str, str] = {}
    for name in before:
        if name.startswith(_READ):
            told |= _again(root.resolve(), name, key)
        elif name.startswith(LOOKUP):
            told[name] = "can't be seen from here"
    return told


def _again(root: Path, name: str, key: bytes) -> dict[str, str]:
    path = root / name.removeprefix(_READ)
    if path.is_dir():
        content = digest(_digests(_walk(path), path)).encode()
    elif path.is_file():
        content = path.read_bytes()
    else:
        return {}
    return {name: f"{HERE}{keyed(key, content)}"}


def keyed(key: bytes, content: bytes) -> str:
    """Return a digest of what may be secret, which nobody can compute without the key."""
    return f"{documents.SHA256}{hmac.new(key, content, 'sha256').hexdigest()}"


def _whole(file: Path) -> Path:
    """Return the folder of the role or collection that a file belongs to; a file that belongs to none as it is."""
    parts = file.parts
    for at in range(len(parts) - 2, 0, -1):
        if parts[at] == "ansible_collections" and at + 3 < len(parts):
            return Path(*parts[: at + 3])
        if parts[at] == "roles" and at + 2 < len(parts):
            return Path(*parts[: at + 2])
    return file


def _relative(root: Path, file: Path) -> str:
    return Path(os.path.relpath(file, root)).as_posix()


def outside(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs as an image and its tags may tell them: of all variables together there is one digest."""
    variables = {name: value for name, value in inputs.items() if value.startswith(HERE)}
    told = {name: value for name, value in inputs.items() if name not in variables}
    return {**told, _VARIABLES: _digest_of(variables)} if variables else told


def digest(inputs: Mapping[str, str]) -> str:
    """Return one digest of all inputs; it doesn't depend on their order."""
    return _digest_of(outside(inputs))


def _digest_of(inputs: Mapping[str, str]) -> str:
    return documents.digest(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode())


def of_value(value: Any) -> str:
    """Return the digest of a plain value; it doesn't depend on the order of a mapping's keys."""
    import yaml

    return documents.digest(yaml.safe_dump(value, sort_keys=True).encode())


def of_file(file: Path) -> str:
    """Return the digest of a file."""
    return documents.digest(file.read_bytes())


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each input that is new, gone or changed. It shows plain values, but no digests."""
    lines = []
    for name in sorted({*before, *now}):
        was, one = (read.get(name, "").removeprefix(HERE) or None for read in (before, now))
        if was is None:
            lines.append(f"new: {name}")
        elif one is None:
            lines.append(f"gone: {name}")
        elif was != one:
            plain = not (was.startswith(documents.SHA256) and one.startswith(documents.SHA256))
            lines.append(f"changed: {name}{f', {_shown(was)} before, {_shown(one)} now' if plain else ''}")
    return lines


def _shown(value: str) -> str:
    return "another content" if value.startswith(documents.SHA256) else value


def _digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Return the digests of files by their paths from a folder."""
    return {_relative(folder, file): of_file(file) for file in files}


def _beside(playbook: Path) -> Iterator[Path]:
    """Yield a playbook, the files that it names, and the files beside these, except for playbooks of other recipes."""
    named = _named(playbook)
    yield from named
    for folder in dict.fromkeys(file.parent for file in named):
        yield from (file for file in folder.glob("*.y*ml") if file not in named and not _is_playbook(file))
        yield from (file for name in _BESIDE for inner in folder.glob(name) for file in _walk(inner))


def _named(playbook: Path) -> list[Path]:
    """Return a playbook and all playbooks and files of variables that it names, directly or indirectly."""
    found = [playbook]
    for file in found:  # the list grows meanwhile
        for key, value in ((key, value) for play in _plays(file) for key, value in play.items()):
            if key.rpartition(".")[2] in ("import_playbook", "vars_files"):
                names = value if isinstance(value, list) else [value]
                files = [Path(os.path.normpath(file.parent / name)) for name in names if isinstance(name, str)]
                found += [one for one in files if one.is_file() and one not in found]
    return found


def prompts(playbook: Path) -> Iterator[tuple[str, Path]]:
    """Yield each variable that a play of a playbook asks a person for, and the file of the play."""
    for file in _named(playbook):
        for play in _plays(file):
            for one in play.get("vars_prompt") or ():
                if isinstance(one, dict) and "name" in one:
                    yield str(one["name"]), file


def _is_playbook(file: Path) -> bool:
    return any("hosts" in play or any(key.endswith("import_playbook") for key in play) for play in _plays(file))


def _plays(file: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook; an empty list if the file is not a playbook."""
    read = _parsed(file)
    return [play for play in read if isinstance(play, dict)] if isinstance(read, list) else []


def _of_role(folder: Path) -> Iterator[Path]:
    """Yield the files of a role, without its documentation, its tests and Galaxy's note of when it was installed."""
    for file in _walk(folder):
        top = file.relative_to(folder).parts[0]
        unread = top.startswith((".", "LICENSE")) or top.endswith(".md") or top in ("tests", "molecule")
        if not unread and file.name != ".galaxy_install_info":
            yield file


def _of_collection(folder: Path) -> str:
    """Return the digest of a collection.

    An installed collection has a manifest with the digests of all its files: then it is the manifest's digest.
    A collection that is being worked on has none: then it is the digest of all its files.
    """
    manifest = folder / "MANIFEST.json"
    if manifest.is_file():
        return of_file(manifest)
    return digest(_digests(_walk(folder), folder))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, also those behind links to folders."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", ".git"))
        yield from (Path(place, name) for name in sorted(files) if Path(place, name).is_file())


def variable_files(folder: Path, groups: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a folder from which Ansible reads the variables of groups or hosts."""
    for group in groups:
        yield from (file for end in ("", ".yml", ".yaml", ".json") if (file := folder / f"{group}{end}").is_file())
        yield from _walk(folder / group)


def _holds_variables(file: Path) -> bool:
    return file.suffix in (".yml", ".yaml", ".json") and file.is_file() and isinstance(_parsed(file), dict)


def _variables(file: Path, name: str, key: bytes) -> dict[str, str]:
    """Return the digest of each variable in a file, or of the whole file if its variables can't be read."""
    read = _parsed(file)
    if read is not None and not isinstance(read, dict):
        return {name: f"{HERE}{of_file(file)}"}
    return of_variables(read or {}, name, key)


def of_variables(variables: Mapping[str, Any], where: str, key: bytes) -> dict[str, str]:
    """Return variables as inputs, by ``where`` and their names; digests of secret ones depend on the ``key``."""
    return {f"{where}: {name}": f"{HERE}{_of_variable(name, value, key)}" for name, value in variables.items()}


def _of_variable(name: str, value: Any, key: bytes) -> str:
    """Return the digest of a variable; of one that is secret, a digest that nobody can compute without the key."""
    plain = of_value(value)
    if str(name).startswith(OURS) or not _is_secret(str(name), value):
        return plain
    return keyed(key, plain.encode())


def _is_secret(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_secret(str(inner), one) for inner, one in value.items())
    if isinstance(value, list):
        return any(_is_secret(name, one) for one in value)
    words = _WORDS.findall(name)
    return bool(words) and words[-1].lower() in _SECRET and not str(value).startswith("/")


def _parsed(file: Path) -> Any:
    """Return what a YAML file holds, with values of Ansible's own tags as text; its bytes if it isn't YAML."""
    import yaml

    try:
        return documents.parse_yaml(file.read_text(), tagged=yaml.serialize)
    except (UnicodeDecodeError, yaml.YAMLError):
        return file.read_bytes()
