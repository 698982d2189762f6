"""Roles: what a recipe uses, where it is found, and the genuine ansible-galaxy where others keep it."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from bakehouse import recipes, settings
from bakehouse.errors import InputError, NotFoundError
from bakehouse.recipes import Recipe, roles
from bakehouse.settings import ROOT

RECIPE = Recipe("web", "debian-13", "t3.small", 8, "playbooks/web.yml", 30, {})

PLAYBOOK = """
- ansible.builtin.import_playbook: more.yml
- hosts: web
  roles: [one, {role: two}, their.some.three, author.four]
  vars: {roles: [admin]}
  tasks:
    - name: A block
      block:
        - ansible.builtin.import_role: {name: five}
        - include_role: {name: "{{ templated }}"}
        - my.own.module: {roles: [guest]}
        - ansible.builtin.debug: {msg: "{{ x | fine.sieve.filter }} of www.example.com/a.b.c"}
        - secret: !vault x
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a checkout with a recipe, the roles one and two, and no requirements."""
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    write(tmp_path / "playbooks/web.yml", PLAYBOOK)
    write(tmp_path / "playbooks/more.yml", "- hosts: web\n  roles: [six]\n")
    write(tmp_path / "roles/one/meta/main.yml", "dependencies: [{role: deep}, two]\n")
    write(tmp_path / "roles/one/tasks/main.yml", "- inner.most.module:\n- include_role: {name: deeper}\n")
    write(tmp_path / "roles/two/templates/x.j2", "{{ lookup('looked.up.thing') }} {% if x is of.test.kind %}\n")
    return tmp_path


def write(path: Path, text: str) -> Path:
    """Write a file into a folder that may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_used(root: Path) -> None:
    """What a playbook and those it imports name is used, wherever it stands; what only looks like it is not."""
    named, collections = roles.used(root, RECIPE, thoroughly=False)

    assert ["one", "two", "their.some.three", "author.four", "five", "{{ templated }}", "six"] == named
    assert ["my.own", "fine.sieve"] == collections


def test_used_thoroughly(root: Path) -> None:
    """What our roles use in turn is used too: their dependencies, modules, filters, tests and lookups."""
    named, collections = roles.used(root, RECIPE, thoroughly=True)

    assert {"deep", "deeper"} <= set(named)
    assert {"inner.most", "looked.up", "of.test"} <= set(collections)


def test_folders(root: Path) -> None:
    """A bake reads what is used at any depth, what roles of others use and the kit's own part of the bake too."""
    galaxy = root / ".bakehouse/galaxy"
    write(galaxy / "roles/author.four/tasks/main.yml", "- include_role: {name: four.inner}\n")
    write(galaxy / "roles/four.inner/tasks/main.yml", "- my.own.module:\n")
    write(galaxy / "collections/ansible_collections/my/own/MANIFEST.json", "{}")
    write(root / "playbooks/bake.yml", "- hosts: all\n  tasks: [import_role: {name: sysprep}]\n")
    write(root / "roles/sysprep/tasks/main.yml", "[]\n")

    named, collections = roles.folders(root, RECIPE)

    assert {"one", "two", "author.four", "four.inner", "sysprep"} == set(named)
    assert (root / "roles/one", galaxy / "roles/four.inner") == (named["one"], named["four.inner"])
    assert {"my.own": galaxy / "collections/ansible_collections/my/own"} == collections


@pytest.mark.parametrize("group", ["all.yml", "all/main.yml", "all/deep/hooks.yaml", "all"])
def test_hooks_are_used(root: Path, group: str) -> None:
    """The roles before and after the recipe's own, and those that verify, are used wherever group_vars name them."""
    write(root / "inventory/group_vars" / group, "bake_roles_before: [harden]\n")
    write(root / "inventory/group_vars/web.yml", "bake_roles_after: [scan]\nverify_roles: [one]\n")

    assert ["harden", "scan", "one"] == roles.used(root, RECIPE, thoroughly=False)[0][:3]


def test_short_names_of_collections(root: Path) -> None:
    """A play that names collections finds their roles by short names; collections of imported playbooks count too."""
    write(root / "playbooks/bake.yml", "[]\n")
    play = "- import_playbook: our.shared.site\n- import_playbook: more.yml\n"
    write(root / "playbooks/web.yml", f"{play}- hosts: web\n  collections: [their.some]\n  roles: [three, one]\n")
    write(root / "playbooks/more.yml", "- hosts: web\n  roles: [two]\n")
    installed = root / ".bakehouse/galaxy/collections/ansible_collections"
    for name in ("their/some", "our/shared"):
        write(installed / name / "MANIFEST.json", "{}")
    theirs = write(installed / "their/some/roles/three/tasks/main.yml", "[]\n").parent.parent
    for name in ("deep", "deeper"):
        write(root / f"roles/{name}/tasks/main.yml", "[]\n")

    roles.ensure(root, RECIPE)
    named, collections = roles.folders(root, RECIPE)

    assert theirs == named["their.some.three"]
    assert {"their.some", "our.shared"} <= set(collections)


@pytest.mark.parametrize("name", ["one", "two", "five"])
def test_missing_role(root: Path, name: str) -> None:
    """Without requirements a role that isn't in roles/ is named, wherever the playbook names it; nothing is run."""
    write(root / "playbooks/web.yml", PLAYBOOK.replace("their.some.three, author.four", "").replace("five", "two"))
    write(root / "playbooks/more.yml", f"- hosts: web\n  roles: [{name}]\n")
    shutil.rmtree(root / "roles" / name, ignore_errors=True)

    with pytest.raises(NotFoundError, match=f"web uses the role {name}, which is neither in roles/ nor"):
        roles.ensure(root, RECIPE)

    assert not (root / ".bakehouse").exists()


def test_find(root: Path) -> None:
    """A role is found by name, also beside its playbook, by path as seen from there, by its name in a collection."""
    theirs = write(root / "vendor/web/tasks/main.yml", "").parent.parent
    inner = root / ".bakehouse/galaxy/collections/ansible_collections/some/where/roles/web"
    inner.mkdir(parents=True)

    beside = write(root / "theirs/roles/web/tasks/main.yml", "").parent.parent
    assert beside == roles.find(root, "web", "theirs/site.yml")
    assert root / "roles/one" == roles.find(root, "one")
    assert {theirs} == {roles.find(root, name) for name in ("../vendor/web", str(theirs))}
    assert inner == roles.find(root, "some.where.web")
    assert [None] * 3 == [roles.find(root, name) for name in ("web", "/no/web", "some.where.else")]


def git(folder: Path, *words: str) -> str:
    """Run git in a folder as somebody."""
    line = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path, task: str = "{ansible.builtin.debug: }") -> Path:
    """Make a git repository that holds a role of somebody's with one task."""
    write(folder / "tasks/main.yml", f"- {task}\n")
    write(
        folder / "meta/main.yml", "galaxy_info: {author: x, description: x, license: x, min_ansible_version: '2.9'}\n"
    )
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def collection(folder: Path) -> Path:
    """Make the source of a collection ``their.own`` with the role ``web``."""
    write(folder / "galaxy.yml", "{namespace: their, name: own, version: 1.0.0, readme: README.md, authors: [they]}\n")
    write(folder / "README.md", "x")
    write(folder / "roles/web/tasks/main.yml", "- {ansible.builtin.debug: }\n")
    return folder


def playbook(root: Path, *roles: str) -> None:
    """Have the recipe use these roles and no others."""
    write(root / "playbooks/web.yml", f"- hosts: web\n  roles: [{', '.join(roles)}]\n")


def test_installs_what_is_needed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From git, a tarball and a folder roles and collections come, once for each content of requirements.yml."""
    theirs = tmp_path_factory.mktemp("theirs")
    repository(theirs / "harden")
    with tarfile.open(theirs / "scan.tar.gz", "w:gz") as tar:
        tar.add(repository(theirs / "scan"), "scan")
    listed = f"""
roles:
  - {{name: harden, src: "git+file://{theirs}/harden", version: main}}
  - {{name: author.scan, src: "{theirs}/scan.tar.gz"}}
collections:
  - {{name: "{collection(theirs / "own")}", type: dir}}
"""
    write(root / "requirements.yml", listed)
    playbook(root, "one", "harden", "author.scan", "their.own.web")
    write(root / "roles/one/meta/main.yml", "")
    write(root / "roles/one/tasks/main.yml", "")

    roles.ensure(root, RECIPE)

    galaxy = root / ".bakehouse/galaxy"
    assert galaxy / "roles/harden" == roles.find(root, "harden")
    assert galaxy / "roles/author.scan" == roles.find(root, "author.scan")
    assert roles.find(root, "their.own.web")
    write(galaxy / "mark", "")
    roles.ensure(root, RECIPE)
    assert (galaxy / "mark").exists()
    write(root / "requirements.yml", f"{listed}# another version\n")
    roles.ensure(root, RECIPE)
    assert not (galaxy / "mark").exists() and (galaxy / "roles/harden").exists()


def test_installs_nothing_that_is_not_needed(root: Path) -> None:
    """A recipe whose roles and collections are all here is baked without a look at what requirements.yml names."""
    playbook(root, "two")
    (Path.home() / ".ansible/collections/ansible_collections/looked/up").mkdir(parents=True, exist_ok=True)
    write(root / "roles/two/templates/x.j2", "{{ lookup('looked.up.thing') }}\n")
    write(root / "requirements.yml", "roles: [{src: 'git+file:///no/where'}]\n")

    roles.ensure(root, RECIPE)

    assert not (root / ".bakehouse").exists()


def test_a_role_that_a_template_names_may_be_one_to_install(root: Path) -> None:
    """Nobody can tell which role that is, so what requirements.yml names is installed before."""
    write(root / "playbooks/web.yml", "- hosts: web\n  tasks: [include_role: {name: '{{ which }}'}]\n")
    write(root / "requirements.yml", "roles: [{src: 'git+file:///no/where'}]\n")

    with pytest.raises(InputError, match="its roles can't be installed"):
        roles.ensure(root, RECIPE)


BAD = {
    "a repository that isn't there": ("roles: [{name: five, src: 'git+file:///no/where'}]", "five"),
    "a collection that isn't there": ("collections: [{name: /no/where, type: dir}]", "/no/where"),
    "no YAML": ("roles: [", "requirements.yml:2: syntax error"),
    "neither": ("five", "holds neither roles nor collections"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_what_can_not_be_installed(root: Path, text: str, words: str) -> None:
    """Requirements that can't be installed are one line that names what, with a hint; nothing of it stays."""
    playbook(root, "five")
    write(root / "requirements.yml", f"{text}\n")

    with pytest.raises(InputError) as refused:
        roles.ensure(root, RECIPE)

    assert (1, True) == (len(refused.value.text.splitlines()), bool(refused.value.hint)), refused.value.text
    assert words in refused.value.text
    assert not (root / ".bakehouse/galaxy").exists()


def test_a_role_that_requirements_lack(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A role that what was installed doesn't bring either is named."""
    playbook(root, "harden", "nowhere")
    theirs = repository(tmp_path_factory.mktemp("theirs"))
    write(root / "requirements.yml", f"- {{name: harden, src: 'git+file://{theirs}'}}\n")

    with pytest.raises(NotFoundError, match="uses the role nowhere, which is neither"):
        roles.ensure(root, RECIPE)


@pytest.mark.parametrize("name", recipes.names(ROOT))
def test_own_recipes_need_nobody(name: str) -> None:
    """Every recipe of the checkout uses its own roles and nothing of a collection."""
    named, collections = roles.used(ROOT, recipes.load(settings.load(recipe=name)), thoroughly=True)

    assert [] == collections
    assert [] == [role for role in named if not (ROOT / "roles" / role).is_dir()]
