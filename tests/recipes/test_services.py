"""Services: what a recipe's group_vars say of what its machines offer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from bakehouse import settings
from bakehouse.errors import InputError, NotFoundError
from bakehouse.recipes import services
from bakehouse.recipes.services import Page, Service
from bakehouse.settings import Settings

READ = {
    "unit": "jenkins.service",
    "port": 8080,
    "password_file": "/var/lib/jenkins/secrets/initialAdminPassword",
    "set_up": "/var/lib/jenkins/jenkins.install.UpgradeWizard.state",
    "secrets": ["/var/lib/jenkins/secrets/*"],
    "pages": [{"path": "/login", "status": 200, "header": "X-Jenkins"}, {"path": "/api/json", "status": 403}],
}


def test_the_recipe_that_is_here() -> None:
    """The kit's own group_vars are read without Ansible, and the port is the role's."""
    group_vars = yaml.safe_load((settings.ROOT / "inventory/group_vars/jenkins.yml").read_text())

    service = services.load(settings.load(recipe="jenkins"))

    assert group_vars["jenkins_port"] == service.port
    assert f"http://192.0.2.1:{service.port}/login" == service.url("192.0.2.1", "/login")


def test_parse() -> None:
    """What was read becomes a record; a page's header, the password's file and the secrets may be left out."""
    pages = (Page("/login", 200, "X-Jenkins"), Page("/api/json", 403))
    least = {key: READ[key] for key in ("unit", "port", "pages")}

    assert Service("jenkins.service", 8080, pages) == services.parse(least, "here")
    assert Service(
        unit="jenkins.service",
        port=8080,
        pages=pages,
        password_file="/var/lib/jenkins/secrets/initialAdminPassword",
        set_up="/var/lib/jenkins/jenkins.install.UpgradeWizard.state",
        secrets=("/var/lib/jenkins/secrets/*",),
    ) == services.parse(READ, "here")


@pytest.mark.parametrize(
    ("read", "ports", "url"),
    [
        ({}, [], "192.0.2.1"),
        ({"port": 5432}, [5432], "192.0.2.1:5432"),
        ({"port": 80, "pages": []}, [80], "192.0.2.1:80"),
    ],
)
def test_parse_the_least(read: dict[str, Any], ports: list[int], url: str) -> None:
    """A service may have a port and no page, and machines may have no service; then it has no URL but what it has."""
    service = services.parse(read, "here")

    assert (ports, url, ()) == (service.ports, service.url("192.0.2.1"), service.pages)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": "{{ jenkins_port }}"}, "here: port is not a whole number: '{{ jenkins_port }}'"),
        ({"port": True}, "here: port is not a whole number: True"),
        ({"unit": None}, "here: unit is not a string: None"),
        ({"ports": [1]}, "here: unknown key ports"),
        ({"pages": "/login"}, "here: pages is not a list: '/login'"),
        ({"port": 0}, "here: port is missing"),
        ({"pages": [{"path": "/login"}]}, "here: page 1: status is missing"),
        ({"password_file": 1}, "here: password_file is not a string: 1"),
        ({"secrets": "/etc/key"}, "here: secrets is not a list: '/etc/key'"),
        ({"secrets": ["/etc/key", "key"]}, "here: 'key' of secrets is not a path on a machine"),
        ({"pages": [*READ["pages"], "/"]}, "here: page 3 is not a map"),  # type: ignore[misc]
    ],
)
def test_parse_refuses(changes: dict[str, Any], words: str) -> None:
    """Each key that is wrong is named, with what it is."""
    with pytest.raises(InputError, match=words):
        services.parse({**copy.deepcopy(READ), **changes}, "here")


def test_no_password(settings: Settings) -> None:
    """Where a recipe's machines have no first password, that is said and what to do if they have one."""
    folder = settings.root / "inventory" / "group_vars"
    folder.mkdir(parents=True)
    least = {key: READ[key] for key in ("unit", "port", "pages")}
    (folder / "jenkins.yml").write_text(yaml.safe_dump({"bakehouse_service": least}))

    with pytest.raises(InputError, match="machines of recipe jenkins have no first password") as raised:
        services.with_password(settings)
    assert "password_file of bakehouse_service in inventory/group_vars/jenkins.yml" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (None, NotFoundError, "recipe jenkins has no inventory/group_vars/jenkins.yml"),
        ("a: [", InputError, "inventory/group_vars/jenkins.yml:1: syntax error: "),
        ("- a", InputError, "bakehouse_service is not a map"),
        ("a: 1", InputError, "bakehouse_service is not a map"),
    ],
)
def test_load_refuses(settings: Settings, text: str | None, kind: type[Exception], words: str) -> None:
    """A file that isn't there, isn't YAML or lacks the variable is refused by its name."""
    if text is not None:
        folder = settings.root / "inventory" / "group_vars"
        folder.mkdir(parents=True)
        (folder / "jenkins.yml").write_text(text)

    with pytest.raises(kind, match=words):
        services.load(settings)
