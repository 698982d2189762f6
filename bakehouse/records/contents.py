"""Contents: what is in an image, how it is written as a CycloneDX SBOM and read again, and how two contents differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SECTIONS = ("packages", "services", "ports", "users", "setuid", "files")
"""The parts of an image's contents, in the order in which they are shown."""

SYSTEM = ("id", "version", "name", "architecture")
"""The facts about an image's operating system."""

_PLAIN = ("services", "ports", "users", "repositories")  # CycloneDX has no place of its own for these: only properties
_OURS = "bakehouse:"


@dataclass(frozen=True)
class Package:
    """Hold one package.

    Attributes:
        kind: ``deb`` or ``rpm``.
        name: its name.
        version: its version, with epoch and release where it has them.
        architecture: its architecture, such as ``amd64`` or ``noarch``.
        source: the source package that it was built from; may be empty.
        licences: the names of its licences.
    """

    kind: str
    name: str
    version: str
    architecture: str
    source: str
    licences: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """Hold what is in an image.

    Attributes:
        system: the facts that ``SYSTEM`` names.
        packages: the installed packages.
        services: the units that a boot starts, each mapped to ``enabled``.
        ports: the ports that are listened on, such as ``tcp 0.0.0.0:22``, each mapped to the listening programs.
        users: the users, each mapped to its user ID, group ID, home and shell.
        setuid: the files with the setuid or setgid bit, each mapped to its mode, owner and group.
        files: the files in /etc, each mapped to its digest, a link to ``->`` and its target.
        repositories: the URLs of the indexes from which packages were installed, each mapped to the digest of what it
            offered; empty after sysprep.
    """

    system: Mapping[str, str]
    packages: tuple[Package, ...]
    services: Mapping[str, str]
    ports: Mapping[str, str]
    users: Mapping[str, str]
    setuid: Mapping[str, str]
    files: Mapping[str, str]
    repositories: Mapping[str, str]

    @classmethod
    def from_answer(cls, told: Mapping[str, Any]) -> Contents:
        """Read the answer of ``inspector.contents``; raises ValueError, KeyError or TypeError when it is malformed."""
        packages = tuple(Package(**{**one, "licences": tuple(one["licences"])}) for one in told["packages"])
        parts = {field.name: dict(told[field.name]) for field in fields(cls) if field.name != "packages"}
        return cls(packages=packages, **parts)

    def section(self, name: str) -> Mapping[str, str]:
        """Return one part as a map; packages map names to versions, several of them separated by spaces."""
        if name != "packages":
            part: Mapping[str, str] = getattr(self, name)
            return part
        versions: dict[str, set[str]] = {}
        for package in self.packages:
            versions.setdefault(package.name, set()).add(package.version)
        return {one: " ".join(sorted(several)) for one, several in versions.items()}


@dataclass(frozen=True)
class Change:
    """Hold one difference between two contents: the part, the thing's name, and its value before and now.

    The value is empty on the side on which the thing is missing.
    """

    section: str
    name: str
    was: str
    now: str


def changes(before: Contents, now: Contents, sections: Sequence[str] = SECTIONS) -> list[Change]:
    """Return the differences, part by part and sorted by name; the value of a thing without one is ``there``."""
    found = []
    for section in sections:
        was, one = before.section(section), now.section(section)
        for name in sorted({*was, *one}):
            values = [part[name] or "there" if name in part else "" for part in (was, one)]
            if values[0] != values[1]:
                found.append(Change(section, name, *values))
    return found


def as_sbom(contents: Contents, name: str, run: str, version: str, now: datetime) -> str:
    """Return contents as a CycloneDX 1.6 document.

    ``name`` is the image's name, ``run`` the ID of the run that baked it, and ``version`` the version of Bakehouse.
    """
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    system = ComponentType.OPERATING_SYSTEM
    kit = Component(name="bakehouse", version=version, type=ComponentType.APPLICATION, bom_ref="bakehouse")
    image = Component(name=name, version=run, type=system, bom_ref=name)
    named = {key: contents.system[key] for key in SYSTEM}
    ground = Component(
        name=named["id"],
        version=named["version"],
        description=named["name"],
        type=system,
        bom_ref="system",
        properties=[Property(name=f"{_OURS}architecture", value=named["architecture"])],
    )
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"{_OURS}{name}"),
        metadata=BomMetaData(timestamp=now, tools=ToolRepository(components=[kit]), component=image),
        components=[ground, *(_of_package(one, named) for one in contents.packages), *_of_files(contents)],
        properties=[
            Property(name=f"{_OURS}{section}:{key}", value=value)
            for section in _PLAIN
            for key, value in contents.section(section).items()
        ],
    )
    bom.register_dependency(image, [ground])
    return JsonV1Dot6(bom).output_as_string(indent=1)


def of_sbom(text: str) -> Contents:
    """Return the contents that ``as_sbom`` wrote; raises ValueError for any other text."""
    try:
        return _read(json.loads(text))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"not an SBOM of an image: {error!r}") from error


def _of_package(package: Package, system: Mapping[str, str]) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    epoch, _, bare = package.version.rpartition(":") if package.kind == "rpm" else ("", "", package.version)
    distribution = f"{system['id']}-{system['version']}"
    qualifiers = {"arch": package.architecture, "distro": distribution, **({"epoch": epoch} if epoch else {})}
    url = PackageURL(package.kind, system["id"], package.name, bare, qualifiers)
    return Component(
        name=package.name,
        version=package.version,
        purl=url,
        bom_ref=url.to_string(),
        licenses=list(_licences(package.licences)),
        properties=[Property(name=f"{_OURS}source", value=package.source)] if package.source else [],
    )


_DEBIANS = {"Expat": "MIT", "Apache-2": "Apache-2.0"}
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)-(\d)(\.\d)?(\+?)")


def _licences(names: Sequence[str]) -> Iterator[Any]:
    """Yield each licence by its SPDX identifier, also for Debian's short names; without an identifier by its name."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import fixup_id

    if len(names) == 1 and re.search(r" (AND|OR|WITH) ", names[0]):
        yield LicenseExpression(names[0])  # CycloneDX allows no other licence beside an expression
        return
    for name in names:
        spdx = _DEBIANS.get(name, name)
        if gnu := _GNU.fullmatch(name):
            family, major, minor, later = gnu.groups()
            spdx = f"{family}-{major}{minor or '.0'}-{'or-later' if later else 'only'}"
        known = fixup_id(spdx)
        yield DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=name)


def _of_files(contents: Contents) -> Iterator[Component]:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    for path in sorted({*contents.files, *contents.setuid}):
        told = contents.files.get(path, "")
        kind, _, digest = told.partition("sha256:")
        more = {"link": kind.removeprefix("-> "), "setuid": contents.setuid.get(path, "")}
        yield Component(
            name=path,
            type=ComponentType.FILE,
            bom_ref=path,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
            properties=[Property(name=f"{_OURS}{key}", value=value) for key, value in more.items() if value],
        )


def _read(bom: Mapping[str, Any]) -> Contents:
    from packageurl import PackageURL

    parts: dict[str, dict[str, str]] = {name: {} for name in (*SECTIONS[1:], "repositories")}
    for one in bom.get("properties", ()):
        section, _, name = one["name"].removeprefix(_OURS).partition(":")
        parts[section][name] = one.get("value", "")
    packages, system = [], {}
    for one in bom["components"]:
        ours = {each["name"].removeprefix(_OURS): each["value"] for each in one.get("properties", ())}
        if one["type"] == "operating-system":
            system = {"id": one["name"], "version": one["version"], "name": one["description"], **ours}
        elif one["type"] == "file":
            if "hashes" in one or "link" in ours:
                digest = [f"sha256:{each['content']}" for each in one.get("hashes", ())]
                parts["files"][one["name"]] = digest[0] if digest else f"-> {ours['link']}"
            if "setuid" in ours:
                parts["setuid"][one["name"]] = ours["setuid"]
        else:
            url = PackageURL.from_string(one["purl"])
            architecture = dict(url.qualifiers).get("arch", "")
            licences = tuple(_named(each) for each in one.get("licenses", ()))
            source = ours.get("source", "")
            packages.append(Package(url.type, one["name"], one["version"], architecture, source, licences))
    return Contents(system={key: system[key] for key in SYSTEM}, packages=tuple(packages), **parts)


def _named(licence: Mapping[str, Any]) -> str:
    told = licence.get("license", licence)
    return str(told.get("id") or told.get("name") or told["expression"])
