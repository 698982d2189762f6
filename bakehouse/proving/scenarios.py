"""Scenarios: which roles are tried how and on which platforms, as Molecule's own files say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse import documents
from bakehouse.errors import InputError, NotFoundError
from bakehouse.recipes import roles as roles_

CONFIG = ".config/molecule/config.yml"
"""The path of Molecule's configuration for all scenarios, from the root of the checkout."""

FOLDER = "molecule"
"""The folder of the scenarios, from the root of the checkout."""

_SEQUENCE = (
    "destroy",
    "syntax",
    "create",
    "converge",
    "idempotence",
    "verify",
    "destroy",
)  # Molecule's, shortened


@dataclass(frozen=True)
class Scenario:
    """Hold one scenario.

    Attributes:
        name: the name of its folder.
        roles: the names of the roles that it applies.
        platforms: the names of the bases that it runs on.
        steps: the names of Molecule's steps in their order; a step that runs a named playbook has the playbook's name.
    """

    name: str
    roles: tuple[str, ...]
    platforms: tuple[str, ...]
    steps: tuple[str, ...]


def load(root: Path) -> list[Scenario]:
    """Return the checkout's scenarios, ``default`` first; raises InputError when one of their files can't be read."""
    files = sorted(root.glob(f"{FOLDER}/*/molecule.yml"), key=lambda file: (file.parent.name != "default", file))
    return [_scenario(file, _common(root), root) for file in files]


def roles(folder: Path, root: Path) -> tuple[str, ...]:
    """Return the names of the roles that the scenario in a folder applies."""
    return _scenario(folder / "molecule.yml", _common(root), root).roles


def choose(
    known: Sequence[Scenario], role: str = "", scenario: str = "", platform: str = ""
) -> list[tuple[Scenario, str]]:
    """Return the scenarios that match, each with one of its platforms; an empty argument matches everything.

    Raises NotFoundError, which names the first argument that matches nothing, and InputError when each of them matches
    something but all together don't.
    """
    _insist("role with a scenario", role, [name for one in known for name in one.roles])
    _insist("scenario", scenario, [one.name for one in known])
    _insist("platform", platform, [name for one in known for name in one.platforms])
    chosen = [
        (one, name)
        for one in known
        for name in one.platforms
        if role in ("", *one.roles) and scenario in ("", one.name) and platform in ("", name)
    ]
    if not chosen:
        raise InputError(
            f"no scenario has all of {', '.join(filter(None, (role, scenario, platform)))}",
            "; ".join(f"{one.name}: {', '.join(one.roles)} on {', '.join(one.platforms)}" for one in known),
        )
    return chosen


def _insist(kind: str, wanted: str, known: Sequence[str]) -> None:
    if wanted and wanted not in known:
        raise NotFoundError(f"there is no {kind} {wanted}", f"known: {', '.join(dict.fromkeys(known))}")


def _common(root: Path) -> Mapping[str, Any]:
    return documents.mapping(documents.read_yaml(root / CONFIG, root), CONFIG) if (root / CONFIG).is_file() else {}


def _scenario(file: Path, common: Mapping[str, Any], root: Path) -> Scenario:
    where = str(file.relative_to(root) if file.is_relative_to(root) else file)
    own = documents.mapping(documents.read_yaml(file, root), where)
    playbooks = _merged(common, own, where, "ansible", "playbooks")
    sequence = _merged(common, own, where, "scenario").get("test_sequence") or list(_SEQUENCE)
    return Scenario(
        file.parent.name,
        _applied(file.parent / str(playbooks.get("converge", "converge.yml")), root),
        tuple(_platforms(own.get("platforms") or common.get("platforms"), where)),
        tuple(_labels(documents.sequence(sequence, f"{where}: scenario.test_sequence", str))),
    )


def _merged(common: Mapping[str, Any], own: Mapping[str, Any], where: str, *keys: str) -> dict[str, Any]:
    """Return the map at the path ``keys`` of the common configuration, overridden by that of the scenario's own."""
    both: list[Mapping[str, Any]] = [common, own]
    for depth, key in enumerate(keys, 1):
        path = ".".join(keys[:depth])
        both = [
            documents.mapping(one.get(key), f"{place}: {path}")
            for one, place in zip(both, (CONFIG, where), strict=True)
        ]
    return {**both[0], **both[1]}


def _platforms(read: Any, where: str) -> Iterator[str]:
    for number, one in enumerate(documents.sequence(read, f"{where}: platforms", dict), 1):
        place = f"{where}: platform {number}"
        if not one.get("bases") and "name" not in one:
            raise InputError(f"{place}: name is missing", "give the name of a base")
        yield from documents.sequence(one.get("bases") or [one["name"]], f"{place}: bases", str)


def _applied(playbook: Path, root: Path) -> tuple[str, ...]:
    named = roles_.named(documents.read_yaml(playbook, root))
    return tuple(dict.fromkeys(name for name in named if "{{" not in name))


def _labels(sequence: Sequence[str]) -> Iterator[str]:
    """Yield a name for each step: its playbook's, or Molecule's word for it; a repeated name gets ``again``."""
    seen: set[str] = set()
    for entry in sequence:
        label = Path(entry.rpartition(" ")[2]).stem
        while label in seen and label != "destroy":
            label += " again"
        seen.add(label)
        yield label
