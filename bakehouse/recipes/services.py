"""Services: what a recipe's machines offer, and how that looks from outside, read from the recipe's group_vars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bakehouse import documents
from bakehouse.errors import InputError, NotFoundError
from bakehouse.settings import Settings

KEY = "bakehouse_service"
"""The variable in inventory/group_vars/<recipe>.yml; the kit reads it without Ansible, so it holds plain values."""


@dataclass(frozen=True)
class Page:
    """Hold what a stranger must get for a path over HTTP: the status, and a header unless its name is empty."""

    path: str
    status: int
    header: str = ""


@dataclass(frozen=True)
class Service:
    """Hold what a recipe's machines offer.

    Attributes: unit, systemd's name for it, empty where there is none; port, where it answers, 0 where nothing does;
    pages, what a stranger gets there over HTTP, the one first that tells that it is up; password_file, the file on the
    machine with its first password, empty where it has none; secrets, the files that no two machines may have alike, as
    shell patterns.
    """

    unit: str = ""
    port: int = 0
    pages: tuple[Page, ...] = ()
    password_file: str = ""
    secrets: tuple[str, ...] = ()

    @property
    def ports(self) -> list[int]:
        """Return the ports that it needs to be reached at."""
        return [self.port] if self.port else []

    def url(self, address: str, path: str = "") -> str:
        """Return the URL of the service, or of a path of it, at an address; where it has no pages, what it has."""
        if not self.pages:
            return f"{address}:{self.port}" if self.port else address
        return f"http://{address}:{self.port}{path}"


def load(settings: Settings) -> Service:
    """Return what the machines of the settings' recipe offer.

    Raises NotFoundError when the recipe has no group_vars, InputError naming the key that is missing, unknown or wrong.
    """
    where = f"inventory/group_vars/{settings.recipe}.yml"
    file = settings.root / where
    if not file.is_file():
        raise NotFoundError(f"recipe {settings.recipe} has no {where}", "it says what machines of the recipe offer")
    read = documents.read_yaml(file, settings.root)
    return parse(read.get(KEY) if isinstance(read, dict) else None, f"{where}: {KEY}")


def password_file(settings: Settings) -> str:
    """Return the file with the first password on machines of the settings' recipe; raises InputError without one."""
    path = load(settings).password_file
    if not path:
        raise InputError(
            f"machines of recipe {settings.recipe} have no first password",
            f"if they do, name its file: password_file in inventory/group_vars/{settings.recipe}.yml: {KEY}",
        )
    return path


def parse(read: Any, where: str) -> Service:
    """Return the service that was read; raises InputError saying where which key is wrong."""
    values = documents.checked(Service, read, where)
    pages = tuple(
        Page(**documents.checked(Page, page, f"{where}: page {number}"))
        for number, page in enumerate(values.get("pages", ()), 1)
    )
    if pages and not values.get("port"):
        raise InputError(f"{where}: port is missing", "the pages need one")
    secrets = tuple(values.get("secrets", ()))
    for path in secrets:
        if not isinstance(path, str) or not path.startswith("/"):
            raise InputError(f"{where}: {path!r} of secrets is not a path on a machine", "one begins with /")
    return Service(**{**values, "pages": pages, "secrets": secrets})
