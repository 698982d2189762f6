"""Sites: what accounts.yml says of an account and its regions: how a company wants things to be made there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bakehouse import documents
from bakehouse.errors import InputError

FILE = "accounts.yml"
"""The name of the file, beside tasks.py; without it every account is used in the usual way."""

TAGS = 15
"""So many tags may be fixed: of the 50 that EC2 allows, the kit needs the others."""

_NAME = "{name}"
_PATTERN = re.compile(r"(?=.{1,48}$)([A-Za-z0-9][A-Za-z0-9._-]*)?\{name\}[A-Za-z0-9._-]*")
_TAG_KEY = re.compile(r"(?!aws:|bakehouse:|Name$)[\w .:/=+@-]{1,128}")
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{0,256}")


@dataclass(frozen=True)
class Site:
    """Hold how things are made on an account in a region.

    Attributes:
        tags: the tags that everything gets at the moment it is made, beside the kit's own.
        name: the pattern of names, in which ``{name}`` stands for the name that the kit would give.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    name: str = _NAME

    def named(self, name: str) -> str:
        """Return the name of a thing that the kit would call ``name``."""
        return self.name.replace(_NAME, name)


@dataclass(frozen=True)
class Sites:
    """Hold how things are made on an account: everywhere, and in the regions that differ."""

    everywhere: Site = field(default_factory=Site)
    regions: Mapping[str, Site] = field(default_factory=dict)

    def at(self, region: str) -> Site:
        """Return how things are made in a region."""
        return self.regions.get(region, self.everywhere)


@dataclass(frozen=True)
class _Entry(Site):
    regions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


KEYS = tuple(one.name for one in fields(_Entry))
"""The keys that an account may have in the file."""


def load(root: Path, account: str) -> Sites:
    """Return what the checkout's file says of an account, or that it says nothing.

    Raises InputError, which names the account, its key and what is wrong there. The whole file is checked.
    """
    file = root / FILE
    told = documents.mapping(documents.read_yaml(file, root), FILE) if file.is_file() else {}
    return {str(name): _sites(one, f"{FILE}: {name}") for name, one in told.items()}.get(account, Sites())


def place(account: str, key: str) -> str:
    """Return where a key of an account is written, for a message."""
    return f"{FILE}: {account}: {key}"


def _sites(told: Any, where: str) -> Sites:
    entry = documents.checked(_Entry, told, where)
    regional = documents.mapping(entry.pop("regions", {}), f"{where}: regions")
    regions = {
        str(region): _site(entry | documents.checked(Site, one, f"{where}: regions: {region}"), f"{where}: {region}")
        for region, one in regional.items()
    }
    return Sites(_site(entry, where), regions)


def _site(told: Mapping[str, Any], where: str) -> Site:
    site = Site(**told)
    _check_tags(site.tags, f"{where}: tags")
    if not _PATTERN.fullmatch(site.name):
        raise InputError(
            f"{where}: name {site.name!r} is no pattern of names",
            "write {name} once, with letters, digits, dots, dashes and underscores around it: acme-{name}",
        )
    return site


def _check_tags(tags: Mapping[str, str], where: str) -> None:
    if len(tags) > TAGS:
        raise InputError(f"{where}: there are {len(tags)} tags; {TAGS} are the most", "the kit needs the others of 50")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key):
            raise InputError(
                f"{where}: {key!r} can't be the key of a tag",
                "1 to 128 letters, digits, blanks and . : / = + @ - _; not Name, aws:… or bakehouse:…",
            )
        if not _TAG_VALUE.fullmatch(value):
            raise InputError(
                f"{where}: {key}: {value!r} can't be the value of a tag",
                "256 letters, digits, blanks and . : / = + @ - _ at most",
            )
