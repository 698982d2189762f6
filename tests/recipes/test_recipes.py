"""Recipes: read from their data files, and refused in one line that names the file and what is wrong in it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
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
packages      = { nginx-light = { debian = "https://example.com/debian" } }
"""


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Return the settings of a checkout that holds the recipe web."""
    write(tmp_path / "packer/recipes/web.pkrvars.hcl", GOOD)
    write(tmp_path / "playbooks/web.yml", "- hosts: web\n  roles: [one]\n")
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
    assert {"nginx-light": {"debian": "https://example.com/debian"}} == recipe.packages


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
    "string as map": ("packages ", 'packages = "nginx" #', InputError, "packages is not a map of maps of strings"),
    "string as inner map": (
        '{ debian = "https://example.com/debian" }',
        '"nginx"',
        InputError,
        "packages is not a map of maps of strings",
    ),
    "number in a map": ('"https://example.com/debian"', "1", InputError, "packages is not a map of maps of strings"),
    "an expression": ('"t3.small"', "lower(T3)", InputError, "instance_type is not a string"),
    "no architecture": (
        "boot_budget ",
        'architecture = "vax"\nboot_budget',
        InputError,
        "web.pkrvars.hcl: architecture vax is not an architecture",
    ),
    "another's name": ('"web"', '"mail"', InputError, 'web.pkrvars.hcl: recipe is "mail", not the name of the file'),
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


@pytest.mark.parametrize("hosts", ["mail", "[mail, post]", "localhost"])
def test_playbook_for_nobody(given: Settings, hosts: str) -> None:
    """A playbook with nothing to do on the recipe's machines is refused, for Ansible would bake a bare image."""
    write(given.root / "playbooks/web.yml", f"- hosts: {hosts}\n  roles: [one]\n")

    with pytest.raises(InputError, match=r"^playbooks/web\.yml: no play is for hosts: web$"):
        recipes.load(given)


@pytest.mark.parametrize(
    "play",
    [
        "hosts: all",
        "hosts: mail,web",
        "hosts: [mail, web]",
        "hosts: 'w*'",
        "hosts: '{{ mine }}'",
        "ansible.builtin.import_playbook: x.yml",
        "{hosts: web, vars: {secret: !vault x}}",
    ],
)
def test_playbook_for_the_recipe(given: Settings, play: str) -> None:
    """A playbook that is, or may be, for the recipe's machines is taken as it is, with tags of Ansible's own."""
    write(given.root / "playbooks/web.yml", f"- hosts: mail\n- {play}\n")

    assert "web" == recipes.load(given).name


def test_broken_playbook(given: Settings) -> None:
    """A playbook with a syntax error is refused with file and line."""
    write(given.root / "playbooks/web.yml", "- hosts: web\n  tasks: [\n")

    with pytest.raises(InputError, match=r"^playbooks/web\.yml:3: syntax error"):
        recipes.load(given)


def test_bases(given: Settings) -> None:
    """The bases are read from the map that Packer reads, and an unknown one is refused with the known ones."""
    debian = Base("debian-13", "debian", "debian-13-{debian}-*", "136693071363", "admin", "/dev/xvda")

    assert debian == recipes.base(given.root, "debian-13")
    assert ["debian-13-amd64-*", "debian-13-arm64-*"] == [debian.pattern(one) for one in ("x86_64", "arm64")]
    with pytest.raises(NotFoundError) as refused:
        recipes.base(given.root, "plan9")
    assert refused.value.hint.startswith("known: debian-13, debian-12, amazon-linux-2023")


def test_a_place_that_is_not_known(given: Settings) -> None:
    """A pattern with a place for what nobody knows is refused with the places that there are."""
    file = given.root / "packer/bases.auto.pkrvars.hcl"
    write(file, file.read_text().replace("debian-13-{debian}-*", "debian-13-{arch}-*"))

    with pytest.raises(
        InputError, match=r"base debian-13: image_name 'debian-13-\{arch\}-\*' holds an unknown placeholder"
    ):
        recipes.bases(given.root)


def test_family(given: Settings) -> None:
    """A base of a family that nothing knows how to install packages on is refused."""
    file = given.root / "packer/bases.auto.pkrvars.hcl"
    write(file, file.read_text().replace('family      = "redhat"', 'family      = "suse"', 1))

    with pytest.raises(InputError, match="base amazon-linux-2023: there is no family suse"):
        recipes.bases(given.root)


REPOSITORIES = [
    ("rocky-9", "redhat", {"one": "r"}),
    ("debian-13", "debian", {"one": "d", "two": "13"}),
    ("debian-12", "debian", {"one": "d"}),
]


@pytest.mark.parametrize(("base", "family", "expected"), REPOSITORIES)
def test_repositories(given: Settings, base: str, family: str, expected: dict[str, str]) -> None:
    """A package comes from where the recipe says for the base, else for its family, else from nowhere else."""
    packages = {"one": {"debian": "d", "redhat": "r"}, "two": {"debian-13": "13"}}
    recipe = replace(recipes.load(given), packages=packages)

    assert expected == recipe.repositories(Base(base, family, "*", "1", "me", "/dev/xvda"))


@pytest.mark.parametrize("name", recipes.names(ROOT))
def test_own_recipes(name: str) -> None:
    """Every recipe of the checkout is sound, and starts from a base that there is."""
    recipe = recipes.load(settings.load(recipe=name))

    assert recipe.base in recipes.bases(ROOT)


# Who may know Jenkins: the role and what verifies it, the recipe's data, its stand-in, tests and docs.
KNOWING = (
    "roles/jenkins/",
    "packer/recipes/jenkins.pkrvars.hcl",
    "inventory/group_vars/jenkins.yml",
    "playbooks/jenkins.yml",
    "molecule/",
    "bakehouse/local/packages/",
    "tests/",
    "docs/",
    "examples/",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
)
# What else does, line by line, and why.
EXCEPTIONS = {
    ("bakehouse/settings.py", 'RECIPE = "jenkins"'): "the recipe where none is named",
    ("bakehouse/tasks/images.py", "jenkins-package"): "the flag --jenkins-package, which is asked for by this name",
    ("bakehouse/tasks/images.py", "jenkins_package"): "the same",
    ("bakehouse/tasks/checkout.py", "jenkins-package"): "the same",
    ("bakehouse/tasks/checkout.py", "jenkins_package"): "the same",
    ("galaxy.yml", "tags: "): "what the collection is found by",
}


def test_nothing_else_knows_jenkins() -> None:
    """Another recipe needs no change to the kit: what knows Jenkins is Jenkins's own, but for what is named here."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [name for name in listed.stdout.splitlines() if not name.startswith(KNOWING) and (ROOT / name).is_file()]
    lines = [(name, line) for name in files for line in (ROOT / name).read_text(errors="ignore").splitlines()]
    knowing = [(name, line) for name, line in [*((name, name) for name in files), *lines] if "jenkins" in line.lower()]
    needed = {key for key in EXCEPTIONS for name, line in knowing if name == key[0] and key[1] in line}

    assert [] == [one for one in knowing if not any(one[0] == name and part in one[1] for name, part in EXCEPTIONS)]
    assert set(EXCEPTIONS) == needed
