"""Scaffold: the files of a new recipe are sound as they are written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from bakehouse import recipes, settings
from bakehouse.errors import BakehouseError
from bakehouse.recipes import roles, scaffold, services
from bakehouse.settings import ROOT, Settings


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Return the settings of a checkout without recipes."""
    shutil.copytree(ROOT / "roles", tmp_path / "roles")
    (tmp_path / "packer/recipes").mkdir(parents=True)
    shutil.copy(ROOT / "packer/bases.auto.pkrvars.hcl", tmp_path / "packer")
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    return settings.load(recipe="web-1", root=tmp_path)


def test_write(given: Settings) -> None:
    """The recipe, its playbook and its service, none, can be read; those roles verify that are able to."""
    written = scaffold.write(given, "web-1", "java, nginx")

    recipe = recipes.load(given)
    roles.ensure(given.root, recipe)
    text = (given.root / "inventory/group_vars/web-1.yml").read_text()
    variables = yaml.safe_load(text)
    _, example = re.sub("(?m)^# ", "", text).split("such as\n")
    assert (3, 3) == (len(written), sum(path.is_file() for path in written))
    assert ("web-1", "debian-13", {}) == (recipe.name, recipe.base, recipe.packages)
    assert services.Service() == services.load(given)
    example = yaml.safe_load(example.replace("bakehouse_service: {}\n", ""))["bakehouse_service"]
    assert services.Service("nginx.service", 80, (services.Page("/", 200),)) == services.parse(example, "here")
    assert ["nginx"] == variables["verify_roles"]
    assert ["java", "nginx"] == yaml.safe_load(written[2].read_text())[0]["roles"]


def test_base(given: Settings) -> None:
    """Another base is written down where it is asked for."""
    scaffold.write(given, "web-1", "nginx", "amazon-linux-2023")

    assert "amazon-linux-2023" == recipes.load(given).base


REFUSED = {
    "capitals": ("Web", "nginx", "", "'Web' can't be the name of a recipe"),
    "a dot": ("web.1", "nginx", "", "'web.1' can't be the name of a recipe"),
    "a group of Ansible's own": ("all", "nginx", "", "'all' can't be the name of a recipe"),
    "a playbook that is there": ("there", "nginx", "", "playbooks/there.yml exists already"),
    "no role": ("web", ",", "", "--roles names no role"),
    "an unknown role": ("web", "nginx,nope", "", "there is no role nope"),
    "an unknown role of a collection": ("web", "some.where.web", "", "there is no role some.where.web"),
    "no role at the path": ("web", "./nope", "", "there is no role ./nope"),
    "an unknown base": ("web", "nginx", "plan9", "there is no base plan9"),
}


@pytest.mark.parametrize(("name", "roles", "base", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(given: Settings, name: str, roles: str, base: str, words: str) -> None:
    """What can't become a recipe is refused in one line with a hint, and nothing is written."""
    (given.root / "playbooks").mkdir()
    (given.root / "playbooks/there.yml").touch()
    before = sorted(given.root.rglob("*"))

    with pytest.raises(BakehouseError) as refused:
        scaffold.write(given, name, roles, base)

    assert (2, words) == (refused.value.code, refused.value.text) and refused.value.hint
    assert before == sorted(given.root.rglob("*"))


def test_paths(given: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A role at a path in the checkout is named relatively, so that the checkout can move; one elsewhere as it is."""
    outside = tmp_path_factory.mktemp("theirs") / "web"
    for role in (given.root / "vendor/web", outside):
        (role / "tasks").mkdir(parents=True)
    roundabout = given.root / ".." / outside.relative_to(given.root.parent)

    playbook = scaffold.write(given, "web-1", f"{given.root}/vendor/web,{roundabout}")[2]

    assert ["../vendor/web", str(outside)] == yaml.safe_load(playbook.read_text())[0]["roles"]
    roles.ensure(given.root, recipes.load(given))
    assert "unit: web.service\n" in (given.root / "inventory/group_vars/web-1.yml").read_text()
