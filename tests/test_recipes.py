"""Recipes: read from their data files, and refused in one line that names the file and what is wrong in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bakehouse import recipes, settings
from bakehouse.errors import BakehouseError, InputError, NotFoundError
from bakehouse.recipes import Base
from bakehouse.settings import ROOT, Settings

GOOD = """
recipe        = "web" # its name
base          = "debian-13"
instance_type = "t3.small"
volume_size   = 8
playbook      = "playbooks/web.yml"
boot_budget   = 30
packages      = { nginx-light = "https://example.com/debian" }
"""

PLAYBOOK = """
- hosts: web
  roles: [one, {role: two}, collection.of.three]
  tasks:
    - name: A block
      block:
        - ansible.builtin.import_role: {name: four}
        - include_role: {name: "{{ five }}"}
"""


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Return the settings of a checkout that holds the recipe web."""
    write(tmp_path / "packer/recipes/web.pkrvars.hcl", GOOD)
    write(tmp_path / "playbooks/web.yml", PLAYBOOK)
    for role in ("one", "two", "four"):
        (tmp_path / "roles" / role).mkdir(parents=True)
    shutil.copy(ROOT / "packer/bases.auto.pkrvars.hcl", tmp_path / "packer")
    return settings.load(recipe="web", root=tmp_path)


def write(path: Path, text: str) -> None:
    """Write a file into a folder that may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_load(given: Settings) -> None:
    """A recipe is what its file says, comments and quotes apart."""
    recipe = recipes.load(given)

    assert ("web", "debian-13", "t3.small", 8, "playbooks/web.yml", 30) == (
        recipe.name,
        recipe.base,
        recipe.instance_type,
        recipe.volume_size,
        recipe.playbook,
        recipe.boot_budget,
    )
    assert {"nginx-light": "https://example.com/debian"} == recipe.packages


REFUSED = {
    "a list that doesn't end": ("playbook ", "volume = [", InputError, "web.pkrvars.hcl:6: syntax error"),
    "two equals signs": ("base ", "base = = 1 #", InputError, "web.pkrvars.hcl:3: syntax error"),
    "unknown key": ("boot_budget ", "colour = 1\nboot_budget", InputError, "web.pkrvars.hcl: unknown key colour"),
    "missing key": ("base ", "#", InputError, "web.pkrvars.hcl: base is missing"),
    "number as string": (
        "boot_budget   = 30",
        'boot_budget = "30"',
        InputError,
        "boot_budget is not a whole number: '30'",
    ),
    "truth as number": ("= 30", "= true", InputError, "boot_budget is not a whole number: True"),
    "string as map": ("packages ", 'packages = "nginx" #', InputError, "packages is not a map of strings: 'nginx'"),
    "an expression": ('"t3.small"', "lower(T3)", InputError, "instance_type is not a string"),
    "another's name": ('"web"', '"mail"', InputError, 'web.pkrvars.hcl: it calls itself "mail"'),
    "no playbook": ("playbooks/web.yml", "playbooks/nowhere.yml", NotFoundError, "no playbook playbooks/nowhere.yml"),
}


@pytest.mark.parametrize(("old", "new", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(given: Settings, old: str, new: str, kind: type[BakehouseError], message: str) -> None:
    """A recipe file with a fault is refused by name, and with the line where it has one."""
    assert old in GOOD
    write(given.root / "packer/recipes/web.pkrvars.hcl", GOOD.replace(old, new, 1))

    with pytest.raises(kind) as refused:
        recipes.load(given)

    assert message in refused.value.text
    assert 1 == len(refused.value.text.splitlines())


def test_unknown_recipe(given: Settings) -> None:
    """An unknown recipe is refused with the names of those there are."""
    with pytest.raises(NotFoundError) as refused:
        recipes.load(given, "mail")

    assert ("there is no recipe mail", "known: web") == (refused.value.text, refused.value.hint)


@pytest.mark.parametrize("role", ["one", "two", "four"])
def test_missing_role(given: Settings, role: str) -> None:
    """A role that isn't there is named, wherever the playbook names it."""
    (given.root / "roles" / role).rmdir()

    with pytest.raises(NotFoundError, match=f"names the role {role}, which is not in roles/"):
        recipes.load(given)


def test_broken_playbook(given: Settings) -> None:
    """A playbook with a syntax error is refused with file and line."""
    write(given.root / "playbooks/web.yml", "- hosts: web\n  tasks: [\n")

    with pytest.raises(InputError, match=r"^playbooks/web\.yml:3: syntax error"):
        recipes.load(given)


def test_bases(given: Settings) -> None:
    """The bases are read from the map that Packer reads, and an unknown one is refused with the known ones."""
    debian = Base("debian-13", "debian-13-amd64-*", "136693071363", "admin", "/dev/xvda")

    assert debian == recipes.base(given.root, "debian-13")
    with pytest.raises(NotFoundError) as refused:
        recipes.base(given.root, "plan9")
    assert "known: debian-13, amazon-linux-2023" == refused.value.hint


@pytest.mark.parametrize("name", recipes.names(ROOT))
def test_own_recipes(name: str) -> None:
    """Every recipe of the checkout is sound, and starts from a base that there is."""
    recipe = recipes.load(settings.load(recipe=name))

    assert recipe.base in recipes.bases(ROOT)
