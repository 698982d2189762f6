"""Scenarios: what is tried on a role, and on which platforms, read from the files that Molecule reads too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse.errors import InputError, NotFoundError

CONFIG = ".config/molecule/config.yml"
"""What all scenarios have in common, from the root of the checkout."""

_FOLDER = "molecule"
_SEQUENCE = ("destroy", "syntax", "create", "converge", "idempotence", "verify", "destroy")  # Molecule's own, in short


@dataclass(frozen=True)
class Scenario:
    """Hold one scenario.

    Attributes: name, of its folder; roles, those that it applies; platforms, the names of the bases it runs on; steps,
    the names of Molecule's steps in their order: a playbook's name where the step names one.
    """

    name: str
    roles: tuple[str, ...]
    platforms: tuple[str, ...]
    steps: tuple[str, ...]


def load(root: Path) -> list[Scenario]:
    """Return the checkout's scenarios, ``default`` first; raises InputError when a file of theirs can't be read."""
    files = sorted(root.glob(f"{_FOLDER}/*/molecule.yml"), key=lambda file: (file.parent.name != "default", file))
    return [_scenario(file, _common(root), root) for file in files]


def roles(folder: Path, root: Path) -> tuple[str, ...]:
    """Return the roles that the scenario in a folder applies."""
    return _scenario(folder / "molecule.yml", _common(root), root).roles


def choose(
    known: Sequence[Scenario], role: str = "", scenario: str = "", platform: str = ""
) -> list[tuple[Scenario, str]]:
    """Return the scenarios that are meant, each with one of its platforms; what is empty restricts nothing.

    Raises NotFoundError naming the first word that fits nothing, and InputError when only their combination does.
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
            f"these don't go together: {', '.join(filter(None, (role, scenario, platform)))}",
            "; ".join(f"{one.name}: {', '.join(one.roles)} on {', '.join(one.platforms)}" for one in known),
        )
    return chosen


def _insist(kind: str, wanted: str, known: Sequence[str]) -> None:
    if wanted and wanted not in known:
        raise NotFoundError(f"there is no {kind} {wanted}", f"known: {', '.join(dict.fromkeys(known))}")


def _common(root: Path) -> Mapping[str, Any]:
    return _read(root / CONFIG, root) if (root / CONFIG).is_file() else {}


def _scenario(file: Path, common: Mapping[str, Any], root: Path) -> Scenario:
    own = _read(file, root)
    platforms = own.get("platforms") or common.get("platforms") or []
    playbooks = {**_at(common, "ansible", "playbooks"), **_at(own, "ansible", "playbooks")}
    converge = file.parent / playbooks.get("converge", "converge.yml")
    sequences = {**_at(common, "scenario"), **_at(own, "scenario")}
    return Scenario(
        file.parent.name,
        tuple(dict.fromkeys(_roles(_read(converge, root)))),
        tuple(name for one in platforms for name in one.get("bases", [one["name"]])),
        tuple(_labels(sequences.get("test_sequence", _SEQUENCE))),
    )


def _labels(sequence: Sequence[str]) -> Iterator[str]:
    """Yield a name for each step: its playbook's, or Molecule's word for it, marked where it comes again."""
    seen: set[str] = set()
    for entry in sequence:
        label = Path(entry.split()[-1]).stem
        while label in seen and label != "destroy":
            label += " again"
        seen.add(label)
        yield label


def _roles(read: Any) -> Iterator[str]:
    """Yield the roles that plays apply."""
    for play in read if isinstance(read, list) else []:
        for entry in play.get("roles", ()):
            yield entry["role"] if isinstance(entry, dict) else entry


def _at(read: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        read = read.get(key) or {}
    return read


def _read(file: Path, root: Path) -> Any:
    import yaml

    shown = file.relative_to(root) if file.is_relative_to(root) else file
    try:
        return yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise InputError(f"{shown} can't be read: {error.strerror}", "a scenario names its playbooks") from error
    except yaml.YAMLError as error:
        raise InputError(f"{shown}: syntax error: {' '.join(str(error).split())}", "yamllint shows more") from error
