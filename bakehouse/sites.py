"""Sites: what accounts.yml says of an account and its regions: how a company wants things to be made there."""

from __future__ import annotations

import ipaddress
import os
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


_IDS = {
    "vpc": ("vpc", "a VPC"),
    "subnets": ("subnet", "a subnet"),
    "security_groups": ("sg", "a security group"),
    "prefix list": ("pl", "a prefix list"),
}
_KMS_KEY = re.compile(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/|alias/)?[A-Za-z0-9/_-]{1,256}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}")
_PROFILE = re.compile(r"[\w+=,.@-]{1,128}")
_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_VARIABLE = re.compile(r"(?!ansible_|bakehouse_)[a-z][a-z0-9_]*")
_BASTION = re.compile(
    r"(?P<user>[a-z_][a-z0-9_-]{0,31})@(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)(:(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Bastion:
    """Hold the machine through which SSH leads to all others.

    Attributes:
        user: the name of the user there.
        host: its name or address.
        port: the port of its sshd.
        key: the path of the private key.
    """

    user: str
    host: str
    port: int
    key: str


@dataclass(frozen=True)
class Site:
    """Hold how things are made on an account in a region.

    Attributes:
        tags: the tags that everything gets at the moment it is made, beside the kit's own.
        name: the pattern of names, in which ``{name}`` stands for the name that the kit would give.
        vpc: the ID of the VPC; empty for that of the subnets, or for the default one.
        subnets: the IDs of the subnets, in the order in which they are tried.
        subnet_tags: the tags of the subnets, in place of their IDs.
        security_groups: the IDs of the groups that machines get; empty for one that the kit makes.
        associate_public_ip: whether machines get a public address; if not, they are reached at their private one.
        allow: the network that may connect to machines: a CIDR block or a prefix list; empty for the caller alone.
        proxy_jump: the bastion through which SSH leads, as ``user@host:port``; empty for none.
        proxy_jump_key: the path of the private key for the bastion.
        kms_key: the KMS key for volumes and images: an ID, an ARN or an alias; empty for AWS's own.
        encrypted: ``required`` where no image counts that isn't encrypted; else empty.
        role: the ARN of the role as which the tasks work; empty for none.
        external_id: the external ID that the role's trust policy demands; empty for none.
        bake_profile: the name of the instance profile of a bake's machine; empty for none.
        launch_profile: the name of the instance profile of launched machines and those of a proof; empty for none.
        instance_types: the instance types in the order in which they are tried; empty for the recipe's own.
        variables: the variables of roles that every bake gets, such as the URL of a mirror.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    name: str = _NAME
    vpc: str = ""
    subnets: tuple[str, ...] = ()
    subnet_tags: Mapping[str, str] = field(default_factory=dict)
    security_groups: tuple[str, ...] = ()
    associate_public_ip: bool = True
    allow: str = ""
    proxy_jump: str = ""
    proxy_jump_key: str = ""
    kms_key: str = ""
    encrypted: str = ""
    role: str = ""
    external_id: str = ""
    bake_profile: str = ""
    launch_profile: str = ""
    instance_types: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def bastion(self) -> Bastion | None:
        """Return the bastion through which SSH leads to the machines; None where it needs none."""
        told = _BASTION.fullmatch(self.proxy_jump)
        if told is None:
            return None
        return Bastion(told["user"], told["host"], int(told["port"] or 22), os.path.expanduser(self.proxy_jump_key))

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


def load(root: Path, account: str, name: str = FILE) -> Sites:
    """Return what the checkout's file of this name says of an account, or that it says nothing.

    Raises InputError, which names the account, its key and what is wrong there. The whole file is checked.
    """
    file = root / name
    told = documents.mapping(documents.read_yaml(file, root), name) if file.is_file() else {}
    return {str(key): _sites(one, f"{name}: {key}") for key, one in told.items()}.get(account, Sites())


def place(account: str, key: str) -> str:
    """Return where a key of an account is written, for a message."""
    return f"{FILE}: {account}: {key}"


def _sites(told: Any, where: str) -> Sites:
    entry = documents.checked(_Entry, told, where)
    regional = documents.mapping(entry.pop("regions", {}), f"{where}: regions")
    regions = {str(region): _regional(entry, one, f"{where}: regions: {region}") for region, one in regional.items()}
    return Sites(_site(entry, where), regions)


def _regional(entry: Mapping[str, Any], told: Any, where: str) -> Site:
    """Return how things are made in a region: as it says, else as the account's entry does."""
    own = documents.checked(Site, told, where)
    ways = {"subnets", "subnet_tags"}
    others = ways if ways & set(own) else set()  # who names subnets in one way means no others
    return _site({key: value for key, value in entry.items() if key not in others} | own, where)


def check_network(name: str, where: str) -> str:
    """Return a network, which is a CIDR block or the ID of a prefix list; raises InputError if it is neither."""
    if name.startswith("pl-"):
        return _check_id("prefix list", name, where)
    try:
        return str(ipaddress.IPv4Network(name))
    except ValueError as error:
        raise InputError(
            f"{where} {name} is not a network: {error}", "give a CIDR block such as 192.0.2.7/32, or a prefix list"
        ) from error


def check_type(name: Any, where: str) -> str:
    """Return an instance type; raises InputError if it can't be one."""
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise InputError(f"{where} {name} is not an instance type", "an instance type looks like t3.medium")
    return name


def insist_usable(site: Site, account: str) -> None:
    """Raise InputError unless the files that the account's entry names are here."""
    if site.bastion and not (os.path.isfile(site.bastion.key) and os.access(site.bastion.key, os.R_OK)):
        raise InputError(
            f"{place(account, 'proxy_jump_key')}: {site.proxy_jump_key} is no file that you can read",
            "name the private key with which you enter the bastion",
        )


def _check_id(kind: str, one: Any, where: str) -> str:
    prefix, called = _IDS[kind]
    if not isinstance(one, str) or not re.fullmatch(rf"{prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", one):
        raise InputError(f"{where} {one!r} is not the ID of {called}", f"it looks like {prefix}-0a1b2c3d4e5f60718")
    return one


def _site(told: Mapping[str, Any], where: str) -> Site:
    lists = {key: tuple(told[key]) for key in ("subnets", "security_groups", "instance_types") if key in told}
    site = Site(**{**told, **lists})
    _check_marks(site, where)
    _check_network(site, where)
    _check_encryption(site, where)
    _check_rights(site, where)
    for one in site.instance_types:
        check_type(one, f"{where}: instance_types:")
    for name in site.variables:
        if not _VARIABLE.fullmatch(name):
            raise InputError(
                f"{where}: variables: {name!r} can't be a role's variable",
                "small letters, digits and underscores; not ansible_… or bakehouse_…",
            )
    return site


def _check_rights(site: Site, where: str) -> None:
    for key, form, hint in (
        ("role", _ROLE, "give its ARN: arn:aws:iam::111122223333:role/baker"),
        ("external_id", _EXTERNAL_ID, "2 to 1224 letters, digits and + = , . @ : / - _"),
        ("bake_profile", _PROFILE, "give the name of an instance profile, not its ARN"),
        ("launch_profile", _PROFILE, "give the name of an instance profile, not its ARN"),
    ):
        value = getattr(site, key)
        if value and not form.fullmatch(value):
            raise InputError(f"{where}: {key}: {value!r} can't be one", hint)
    if site.external_id and not site.role:
        raise InputError(f"{where}: external_id needs role too", "docs/accounts.md says what they are")


def _check_encryption(site: Site, where: str) -> None:
    if site.encrypted not in ("", "required"):
        raise InputError(f"{where}: encrypted: {site.encrypted!r} is not required", "write required, or leave it out")
    if site.kms_key and not _KMS_KEY.fullmatch(site.kms_key):
        raise InputError(
            f"{where}: kms_key: {site.kms_key!r} is not a key of KMS", "give its ID, its ARN, or an alias: alias/baker"
        )


def _check_network(site: Site, where: str) -> None:
    for key in ("subnets", "security_groups"):
        for one in getattr(site, key):
            _check_id(key, one, f"{where}: {key}:")
    if site.vpc:
        _check_id("vpc", site.vpc, f"{where}: vpc:")
    if site.subnets and site.subnet_tags:
        raise InputError(f"{where}: subnets and subnet_tags exclude each other", "keep one of them")
    if "" in site.subnet_tags:
        raise InputError(f"{where}: subnet_tags: '' can't be the key of a tag", "name the tag")
    if site.allow:
        check_network(site.allow, f"{where}: allow:")
    if site.proxy_jump and not site.bastion:
        raise InputError(
            f"{where}: proxy_jump: {site.proxy_jump!r} is not a bastion", "write user@host, or user@host:port"
        )
    for one, other in (("proxy_jump", "proxy_jump_key"), ("proxy_jump_key", "proxy_jump")):
        if getattr(site, one) and not getattr(site, other):
            raise InputError(f"{where}: {one} needs {other} too", "docs/accounts.md says what they are")


def _check_marks(site: Site, where: str) -> None:
    _check_tags(site.tags, f"{where}: tags")
    if not _PATTERN.fullmatch(site.name):
        raise InputError(
            f"{where}: name {site.name!r} is no pattern of names",
            "write {name} once, with letters, digits, dots, dashes and underscores around it: acme-{name}",
        )


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
