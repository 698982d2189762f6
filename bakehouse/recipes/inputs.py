"""Inputs: all that goes into a bake, as names with digests or plain values, and one digest of it all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bakehouse import documents

# Files that every bake reads, and one of which it reads its own base's data alone.
_OF_THE_KIT = (
    "ansible.cfg",
    "requirements.lock",
    "bakehouse/records/inspector.py",
    "playbooks/bake.yml",
    "playbooks/tasks/record.yml",
)
_BASES = "packer/bases.auto.pkrvars.hcl"

# What Ansible looks for beside a playbook; inventory variables and roles apart.
_BESIDE = ("tasks", "handlers", "files", "templates", "vars", "library", "module_utils", "*_plugins")


def of_checkout(
    root: Path, recipe: str, playbook: str, roles: Mapping[str, Path], collections: Mapping[str, Path]
) -> dict[str, str]:
    """Return the inputs that are files of a checkout, file by file, and the group's variables, each by itself.

    ``roles`` and ``collections`` map the names of those that the bake uses to their folders. No path above the root
    and no time gets in, so that two checkouts of the same content agree.
    """
    root = root.resolve()
    beside = (root / playbook).parent
    files = [
        *(root / name for name in _OF_THE_KIT),
        *(file for file in (root / "packer").glob("*.hcl") if file != root / _BASES),
        *(root / "packer" / "plugins").glob("*.hcl"),
        *_beside(root / playbook),
    ]
    found = _digests((file for file in files if file.is_file()), root)
    for name, folder in roles.items():
        inside = folder.is_relative_to(root)
        prefix = f"{folder.relative_to(root).as_posix()}/" if inside else f"role {name}: "
        found |= _digests(_of_role(folder), folder, prefix)
    found |= {f"collection {name}": _of_collection(folder) for name, folder in collections.items()}
    for place in dict.fromkeys((root / "inventory", beside)):
        for file in _group_vars(place / "group_vars", ("all", recipe)):
            found |= _variables(file, file.relative_to(root).as_posix())
    return found


def digest(inputs: Mapping[str, str]) -> str:
    """Return the one digest of inputs; their order is nothing to it."""
    return documents.digest(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode())


def of_value(value: Any) -> str:
    """Return the digest of a plain value; the order of a mapping's keys is nothing to it."""
    import yaml

    return documents.digest(yaml.safe_dump(value, sort_keys=True).encode())


def of_file(file: Path) -> str:
    """Return the digest of a file."""
    return documents.digest(file.read_bytes())


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each input that is new, gone or another one; plain values are shown, digests are not."""
    lines = []
    for name in sorted({*before, *now}):
        was, one = before.get(name), now.get(name)
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


def _digests(files: Iterable[Path], folder: Path, prefix: str = "") -> dict[str, str]:
    """Return the digests of files by their paths from a folder."""
    return {f"{prefix}{Path(os.path.relpath(file, folder)).as_posix()}": of_file(file) for file in files}


def _beside(playbook: Path) -> Iterator[Path]:
    """Yield a playbook, what it names and what these can read beside them: not the playbooks that are others'."""
    named = _named(playbook)
    yield from named
    for folder in dict.fromkeys(file.parent for file in named):
        yield from (file for file in folder.glob("*.y*ml") if file not in named and not _is_playbook(file))
        yield from (file for name in _BESIDE for inner in folder.glob(name) for file in _walk(inner))


def _named(playbook: Path) -> list[Path]:
    """Return a playbook and the files that it names: other playbooks, with what they name, and files of variables."""
    found = [playbook]
    for file in found:  # it grows on the way
        for key, value in ((key, value) for play in _plays(file) for key, value in play.items()):
            if key.rpartition(".")[2] in ("import_playbook", "vars_files"):
                names = value if isinstance(value, list) else [value]
                files = [Path(os.path.normpath(file.parent / name)) for name in names if isinstance(name, str)]
                found += [one for one in files if one.is_file() and one not in found]
    return found


def _is_playbook(file: Path) -> bool:
    return any("hosts" in play or any(key.endswith("import_playbook") for key in play) for play in _plays(file))


def _plays(file: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook; nothing of a file that is none."""
    read = _parsed(file)
    return [play for play in read if isinstance(play, dict)] if isinstance(read, list) else []


def _of_role(folder: Path) -> Iterator[Path]:
    """Yield the files of a role but its documentation and tests, and the note of when it was installed."""
    for file in _walk(folder):
        top = file.relative_to(folder).parts[0]
        unread = top.startswith((".", "LICENSE")) or top.endswith(".md") or top in ("tests", "molecule")
        if not unread and file.name != ".galaxy_install_info":
            yield file


def _of_collection(folder: Path) -> str:
    """Return the digest of a collection: of its manifest, which has the digests of all its files, or of all its files.

    An installed collection has a manifest, one that is worked on has none.
    """
    manifest = folder / "MANIFEST.json"
    if manifest.is_file():
        return of_file(manifest)
    return digest(_digests(_walk(folder), folder))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, those behind links to folders too."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", ".git"))
        yield from (Path(place, name) for name in sorted(files) if Path(place, name).is_file())


def _group_vars(folder: Path, groups: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files from which Ansible takes the variables of groups."""
    for group in groups:
        yield from (file for end in ("", ".yml", ".yaml", ".json") if (file := folder / f"{group}{end}").is_file())
        yield from _walk(folder / group)


def _variables(file: Path, name: str) -> dict[str, str]:
    """Return the digest of each variable in a file; of the whole file where it holds none that can be read."""
    read = _parsed(file)
    if read is not None and not isinstance(read, dict):
        return {name: of_file(file)}
    return {f"{name}: {variable}": of_value(value) for variable, value in (read or {}).items()}


def _parsed(file: Path) -> Any:
    """Return what a YAML file holds, with what has a tag of Ansible's own as it is written; the bytes of another."""
    import yaml

    try:
        return documents.parse_yaml(file.read_text(), tagged=yaml.serialize)
    except (UnicodeDecodeError, yaml.YAMLError):
        return file.read_bytes()
