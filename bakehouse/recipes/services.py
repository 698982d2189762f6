"""Services: what a recipe's machines offer, and how it looks from outside. It is read from the recipe's group_vars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bakehouse import documents
from bakehouse.errors import InputError, NotFoundError
from bakehouse.settings import Settings

KEY = "bakehouse_service"
"""The variable in inventory/group_vars/<recipe>.yml. The kit reads it without Ansible, so its values are plain."""


@dataclass(frozen=True)
class Page:
    """Hold what somebody who isn't logged in must get for a path: the HTTP status and, if named, a header."""

    path: str
    status: int
    header: str = ""


@dataclass(frozen=True)
class Service:
    """Hold what a recipe's machines offer.

    Attributes:
        unit: the name of its systemd unit; empty when there is none.
        port: the TCP port that it listens on; 0 when there is none.
        pages: what somebody who isn't logged in gets over HTTP; the first page tells that the service is up.
        password_file: the path of the file on the machine with the first password; empty when there is none.
        set_up: the path of a file that is there as soon as somebody has set up the service, and its first password is
            gone; empty when no setup takes the password away.
        secrets: shell patterns of the files that must differ between any two machines.
    """

    unit: str = ""
    port: int = 0
    pages: tuple[Page, ...] = ()
    password_file: str = ""
    set_up: str = ""
    secrets: tuple[str, ...] = ()

    @property
    def ports(self) -> list[int]:
        """Return the TCP ports that must be open to its users."""
        return [self.port] if self.port else []

    def url(self, address: str, path: str = "") -> str:
        """Return the URL of the service or of one of its paths; without pages, the address with the port, if any."""
        if not self.pages:
            return f"{address}:{self.port}" if self.port else address
        return f"http://{address}:{self.port}{path}"


def load(settings: Settings) -> Service:
    """Return what the machines of the settings' recipe offer.

    Raises NotFoundError when the recipe has no group_vars, and InputError when a key is missing, unknown or wrong.
    """
    where = f"inventory/group_vars/{settings.recipe}.yml"
    file = settings.root / where
    if not file.is_file():
        raise NotFoundError(
            f"recipe {settings.recipe} has no {where}", "write it: it says what machines of the recipe offer"
        )
    read = documents.read_yaml(file, settings.root)
    return parse(read.get(KEY) if isinstance(read, dict) else None, f"{where}: {KEY}")


def with_password(settings: Settings) -> Service:
    """Return what the machines offer, as ``load`` does; raises InputError when they have no first password."""
    service = load(settings)
    if not service.password_file:
        raise InputError(
            f"machines of recipe {settings.recipe} have no first password",
            f"if they have one, name its file: password_file of {KEY} in inventory/group_vars/{settings.recipe}.yml",
        )
    return service


def parse(read: Any, where: str) -> Service:
    """Return the service that the variable describes; raises InputError, which names the place and the wrong key."""
    values = documents.checked(Service, read, where)
    pages = tuple(
        Page(**documents.checked(Page, page, f"{where}: page {number}"))
        for number, page in enumerate(values.get("pages", ()), 1)
    )
    if pages and not values.get("port"):
        raise InputError(f"{where}: port is missing", "add it: pages need a port")
    secrets = tuple(values.get("secrets", ()))
    for path in secrets:
        if not isinstance(path, str) or not path.startswith("/"):
            raise InputError(f"{where}: {path!r} of secrets is not a path on a machine", "a path begins with /")
    return Service(**{**values, "pages": pages, "secrets": secrets})
