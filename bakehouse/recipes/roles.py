"""Roles: finds the roles and collections that a recipe uses, and installs those that requirements.yml names."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bakehouse import console, documents, patience, system
from bakehouse.errors import InputError, NotFoundError
from bakehouse.recipes import Recipe, inputs

FILE = "requirements.yml"
"""The file that lists the roles and collections to install, in ansible-galaxy's form."""

_FOLDER = ".bakehouse/galaxy"  # ansible.cfg names it too
_BAKE = "playbooks/bake.yml"
_BESIDE = "playbooks/x.yml"  # any of the kit's own playbooks
_HOOKS = ("bake_roles_before", "bake_roles_after", "verify_roles")
_LISTS_OF_TASKS = ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always")

# A module, filter, test or lookup of a collection, where Ansible looks for one.
_OF_A_COLLECTION = re.compile(
    r"""(?: ^[\s-]*(?=[\w.]+:(?:\s|$)) | \|\s* | \bis\s+(?:not\s+)? | \b(?:lookup|query|q)\(\s*['"] )
        ([a-z_]\w*\.[a-z_]\w*)\.[a-z_]\w*""",
    re.MULTILINE | re.VERBOSE,
)
_PLAYBOOK_OF = re.compile(r"(\w+\.\w+)(?:\.\w+)+(?<!\.yml)(?<!\.yaml)")  # a collection
_OF_ANSIBLE_ITSELF = ("ansible.builtin", "ansible.legacy")


def ensure(root: Path, recipe: Recipe) -> None:
    """Make sure that every role that a recipe uses is here.

    If roles/ doesn't hold all of them, this installs what requirements.yml names. Raises NotFoundError when a role is
    still missing, and InputError when requirements.yml can't be installed.
    """
    roles, collections = used(root, recipe, thoroughly=any(_listed(root).values()))
    if missing := get(root, roles, collections, recipe.playbook):
        raise NotFoundError(
            f"recipe {recipe.name} uses the role {missing[0]}, which is neither in roles/ nor from {FILE}",
            f"put it into roles/, name it in {FILE}, or take it out of {recipe.playbook}",
        )


def get(root: Path, roles: Collection[str], collections: Collection[str] = (), playbook: str = _BESIDE) -> list[str]:
    """Install what requirements.yml names if the checkout doesn't hold all of these; return the roles still missing.

    Nobody knows which role a template names, so that counts as one that isn't here, and is not missing afterwards.
    """
    listed = _listed(root)

    def look(name: str) -> Path | None:
        return next(filter(None, (find(root, one, playbook) for one in _names(name, collections))), None)

    found = [*map(look, roles), *(_collection(root, name) for name in collections)]
    if any(listed.values()) and any(_is_others(root, one) for one in found):
        with _alone(root):
            if not _is_fresh(root):
                _install(root, listed)
    return [name for name in roles if _is_plain(name) and not look(name)]


def _names(role: str, collections: Iterable[str]) -> list[str]:
    """Return the names that a role may have: in a play with ``collections`` it may be one of theirs."""
    return [role, *(f"{one}.{role}" for one in collections if _is_plain(role) and "." not in role and "/" not in role)]


def installed(root: Path) -> Path:
    """Return the folder into which roles and collections of others are installed."""
    return root / _FOLDER


def used(root: Path, recipe: Recipe, *, thoroughly: bool) -> tuple[list[str], list[str]]:
    """Return the names of the roles and of the collections that a recipe uses.

    These are the ones that its playbook and its hooks (``bake_roles_before`` and the like) name. With ``thoroughly``
    they include those that the roles in the checkout use in turn.
    """
    follow = partial(_files, root, playbook=recipe.playbook, theirs=False) if thoroughly else lambda _: ()
    return _used([root / recipe.playbook], _hooks(root, recipe), follow)


def folders(root: Path, recipe: Recipe) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the folders of all roles and collections that a bake of a recipe uses, by name.

    They include what any of these roles use in turn, and what playbooks/bake.yml uses. Those that can't be found are
    left out.
    """
    follow = partial(_files, root, playbook=recipe.playbook, theirs=True)
    roles, collections = _used([root / recipe.playbook, root / _BAKE], _hooks(root, recipe), follow)
    of_roles = ((one, find(root, one, recipe.playbook)) for name in roles for one in _names(name, collections))
    of_collections = ((name, _collection(root, name)) for name in collections)
    return {name: place for name, place in of_roles if place}, {name: place for name, place in of_collections if place}


def _used(
    playbooks: Iterable[Path], hooks: Iterable[str], follow: Callable[[str], Iterable[Path]]
) -> tuple[list[str], list[str]]:
    """Return the roles and collections that playbooks and hooks name, and those in the files that ``follow`` yields."""
    roles = dict.fromkeys(hooks)
    collections: dict[str, None] = {}
    files = [*playbooks, *(file for name in roles for file in follow(name))]
    for file in files:  # the list grows meanwhile
        tree = _tree(file)
        new = [name for name in dict.fromkeys(named(tree)) if name not in roles]
        roles |= dict.fromkeys(new)
        collections |= dict.fromkeys(_OF_A_COLLECTION.findall(file.read_text(errors="replace")))
        collections |= dict.fromkeys(_searched(tree))
        files += [one for one in _playbooks(tree, file.parent) if one not in files]
        files += [one for name in new for one in follow(name)]
    return list(roles), [name for name in collections if name not in _OF_ANSIBLE_ITSELF]


def _files(root: Path, role: str, *, playbook: str, theirs: bool) -> Iterator[Path]:
    """Yield the files of a role in which it may name other roles; of an installed role only with ``theirs``."""
    folder = find(root, role, playbook)
    if folder and (theirs or not _is_others(root, folder)):
        for place in ("meta", "defaults", "vars", "tasks", "handlers", "templates"):
            yield from sorted(path for path in (folder / place).rglob("*") if path.suffix in (".yml", ".yaml", ".j2"))


def _tree(file: Path) -> Any:
    """Return what a file holds; None when it isn't YAML: Ansible explains a syntax error better than we could."""
    import yaml

    try:
        return None if file.suffix == ".j2" else documents.parse_yaml(file.read_text())
    except (UnicodeDecodeError, yaml.YAMLError):
        return None


def find(root: Path, name: str, playbook: str = _BESIDE) -> Path | None:
    """Return the folder of a role, or None. A playbook names it by its name, its path, or its collection and name."""
    beside = (root / playbook).parent
    if name.count(".") > 1 and "/" not in name:
        namespace, collection, *role = name.split(".")
        return _first(
            found / Path("roles", *role) for found in [_collection(root, f"{namespace}.{collection}")] if found
        )
    return _first(path / name for path in (beside / "roles", *_paths(root, "roles_path"), beside))


def _collection(root: Path, name: str) -> Path | None:
    return _first(Path(path, "ansible_collections", *name.split(".")) for path in _paths(root, "collections_path"))


def _first(places: Iterable[Path]) -> Path | None:
    return next((place.resolve() for place in places if place.is_dir()), None)


def _is_others(root: Path, found: Path | None) -> bool:
    return found is None or (root / _FOLDER).resolve() in found.parents


def _paths(root: Path, key: str) -> list[Path]:
    """Return the folders in which Ansible looks for roles or collections, as ansible.cfg says."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / "ansible.cfg")
    return [root / Path(path).expanduser() for path in config.get("defaults", key, fallback="roles").split(":")]


def _hooks(root: Path, recipe: Recipe) -> Iterator[str]:
    for file in inputs.variable_files(root / "inventory/group_vars", ("all", recipe.name)):
        read = _tree(file)
        if isinstance(read, dict):
            yield from (name for hook in _HOOKS for name in read.get(hook) or () if _is_plain(name))


def _searched(tree: Any) -> Iterator[str]:
    """Yield the collections in which a playbook or a role looks for short names, and those of imported playbooks."""
    for entry in tree if isinstance(tree, list) else [tree]:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key == "collections" and isinstance(value, list):
                yield from filter(_is_plain, value)
            elif key.rpartition(".")[2] == "import_playbook" and (found := _PLAYBOOK_OF.fullmatch(str(value))):
                yield found[1]


def named(entries: Any) -> Iterator[str]:
    """Yield the roles that plays, tasks or a role's dependencies name; a name may be a template."""
    for entry in entries if isinstance(entries, list) else [entries]:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key in ("roles", "dependencies"):
                found = [_name(one, "role", "name") for one in (value if isinstance(value, list) else ())]
            elif key.rpartition(".")[2] in ("import_role", "include_role"):
                found = [_name(value, "name", "role")]
            else:
                found = list(named(value)) if key in _LISTS_OF_TASKS else []
            yield from (name for name in found if isinstance(name, str) and "=" not in name)


def _name(value: Any, *keys: str) -> Any:
    return next((value[key] for key in keys if key in value), None) if isinstance(value, dict) else value


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and "{{" not in name and "=" not in name


def _playbooks(tree: Any, folder: Path) -> Iterator[Path]:
    """Yield the playbooks that a playbook imports."""
    for play in tree if isinstance(tree, list) else ():
        for key, value in play.items() if isinstance(play, dict) else ():
            if key.rpartition(".")[2] == "import_playbook" and _is_plain(value) and (folder / value).is_file():
                yield folder / value


def _listed(root: Path) -> Mapping[str, list[Any]]:
    """Return what requirements.yml lists, by kind; raises InputError when it can't be read."""
    read = documents.read_yaml(root / FILE, root) if (root / FILE).exists() else None
    listed = {"roles": read} if isinstance(read, list) else read or {}  # a list is of roles
    if not isinstance(listed, dict):
        raise InputError(f"{FILE} holds neither roles nor collections", "its keys are roles and collections")
    return {kind: listed.get(f"{kind}s") or [] for kind in ("role", "collection")}


def _digest(root: Path) -> str:
    return documents.digest((root / FILE).read_bytes())


def _is_fresh(root: Path) -> bool:
    stamp = root / _FOLDER / "digest"
    return stamp.is_file() and stamp.read_text() == _digest(root)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold a lock, so that only one bake at a time installs."""
    folder = (root / _FOLDER).parent
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = f"waiting for {{}}, which installs what {FILE} names ..."
    with system.alone(folder / "galaxy.lock", lambda holder: console.say(waiting.format(holder))):
        yield


def _install(root: Path, wanted: Mapping[str, list[Any]]) -> None:
    """Install what requirements.yml lists, in place of what was installed before. If it fails, nothing is replaced."""
    folder = root / _FOLDER
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="galaxy-") as scratch:
        fresh = Path(scratch, folder.name)
        fresh.mkdir()
        for kind in [kind for kind, listed in wanted.items() if listed]:
            with console.step(f"install the {kind}s that {FILE} names"):
                _run_galaxy(root, kind, fresh / f"{kind}s")
        (fresh / "digest").write_text(_digest(root))
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def _run_galaxy(root: Path, kind: str, into: Path) -> None:
    """Run ansible-galaxy so that it sees only what it installs itself, and never asks for a password."""
    call = [kind, "install", "--role-file" if kind == "role" else "--requirements-file", FILE]
    ours = {
        f"ANSIBLE_{kind.upper()}S_PATH": str(into),
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_HOME": str(into.parent.parent / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    if (token := Path.home() / ".ansible/galaxy_token").is_file():
        ours["ANSIBLE_GALAXY_TOKEN_PATH"] = str(token)
    servers = [name for name in os.environ if name.startswith("ANSIBLE_GALAXY_SERVER")]
    environ = system.environment(*system.OUTSIDE, *servers, "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", **ours)
    seconds = patience.GALAXY.seconds
    try:
        done = system.call(
            [Path(sys.executable).with_name("ansible-galaxy"), *call],
            environ,
            cwd=root,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{FILE}: its {kind}s were not installed within {seconds:.0f} s", _again(call)) from error
    if done.returncode:
        complaint = _complaint(done.stdout + done.stderr)
        raise InputError(f"{FILE}: its {kind}s can't be installed: {complaint}", _again(call))


def _again(call: Iterable[str]) -> str:
    return f"this shows more: ansible-galaxy {' '.join(call)} --force"


def _complaint(told: str) -> str:
    """Return the first two warnings or errors of ansible-galaxy, without the words WARNING and ERROR.

    The first often says only that something failed, and the second why.
    """
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    telling = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-1:] or ["it says nothing"]
    return "; ".join(re.sub(r"^\[?(?:WARNING|ERROR)\]?!?:?\s*-?\s*", "", line) for line in telling[:2])
