"""Inputs: what goes into a bake counts wherever it stands, what doesn't is nothing to it, and nothing else leaks in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bakehouse.recipes import inputs

PLAYBOOK = """
- ansible.builtin.import_playbook: more.yml
- hosts: web
  vars_files: [../shared/vars.yml, "{{ templated }}"]
  roles: [web]
"""
FILES = {
    "README.md": "# A kit\n",
    "ansible.cfg": "[defaults]\n",
    "requirements.lock": "one==1\n",
    "packer/build.pkr.hcl": "build {}\n",
    "packer/bases.auto.pkrvars.hcl": "bases = {}\n",
    "packer/plugins/plugins.pkr.hcl": "packer {}\n",
    "packer/recipes/web.pkrvars.hcl": 'recipe = "web"\n',
    "playbooks/bake.yml": "- hosts: all\n",
    "playbooks/web.yml": PLAYBOOK,
    "playbooks/more.yml": "- hosts: web\n  tasks: [include_tasks: steps.yml]\n",
    "playbooks/steps.yml": "- ansible.builtin.debug:\n",
    "playbooks/mail.yml": "- hosts: mail\n  roles: [mail]\n",
    "playbooks/templates/page.j2": "hello\n",
    "shared/vars.yml": "word: hello\n",
    "roles/web/README.md": "# web\n",
    "roles/web/tasks/main.yml": "- ansible.builtin.debug:\n",
    "roles/web/files/notes.md": "for the machine\n",
    "roles/web/files/.bashrc": "alias x=y\n",
    "roles/web/meta/.galaxy_install_info": "install_date: yesterday\n",
    "roles/web/tests/test.yml": "- hosts: localhost\n",
    "roles/mail/tasks/main.yml": "- ansible.builtin.debug:\n",
    "inventory/group_vars/all.yml": "---\nzone: UTC\n",
    "inventory/group_vars/web.yml": "web_port: 80\nweb_secret: !vault |\n  $ANSIBLE_VAULT\n  1234\n",
    "inventory/group_vars/mail.yml": "mail_port: 25\n",
}


def checkout(folder: Path, files: dict[str, str]) -> Path:
    """Make a checkout of these files."""
    for name, text in files.items():
        write(folder / name, text)
    return folder


def write(file: Path, text: str) -> Path:
    """Write a file into a folder that may have to be made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def read(root: Path, **collections: Path) -> dict[str, str]:
    """Return the inputs of the recipe web, which uses the role web."""
    return inputs.of_checkout(root, "web", "playbooks/web.yml", {"web": root / "roles/web"}, collections, b"key")


def test_what_goes_in(tmp_path: Path) -> None:
    """Each file that the bake reads and each variable of its groups goes in, and nothing else does."""
    unread = {
        "README.md",
        "packer/bases.auto.pkrvars.hcl",  # of which the bake's own base counts, and
        "packer/recipes/web.pkrvars.hcl",  # of which each value does; both come in as values
        "playbooks/mail.yml",
        "roles/web/README.md",
        "roles/web/meta/.galaxy_install_info",
        "roles/web/tests/test.yml",
        "roles/mail/tasks/main.yml",
    }
    files = {name for name in FILES if name not in unread and "group_vars" not in name and "vars.yml" not in name}
    variables = {"all.yml: zone", "web.yml: web_port", "web.yml: web_secret"}

    expected = files | {f"inventory/group_vars/{name}" for name in variables} | {"shared/vars.yml: word"}
    assert expected == set(read(checkout(tmp_path, FILES)))


def test_two_checkouts_agree(tmp_path: Path) -> None:
    """Folder, time, order and what Python leaves are nothing to the inputs, nor is a link that leads to the root."""
    one = checkout(tmp_path / "one", FILES)
    other = checkout(tmp_path / "deep" / "other", dict(reversed(FILES.items())))
    for file in other.rglob("*.*"):
        os.utime(file, (0, 0))
    write(other / "roles/web/library/__pycache__/x.pyc", "x")
    (tmp_path / "link").symlink_to(other)

    assert (
        read(one)
        == read(other)
        == inputs.of_checkout(tmp_path / "link", "web", "playbooks/web.yml", {"web": other / "roles/web"}, {}, b"key")
    )


CHANGES = {
    "a comment in README": ("README.md", "# A kit of mine\n", []),
    "a role's README": ("roles/web/README.md", "x", []),
    "another recipe's playbook": ("playbooks/mail.yml", "- hosts: mail\n", []),
    "another group's variable": ("inventory/group_vars/mail.yml", "mail_port: 26\n", []),
    "a comment on a variable": ("inventory/group_vars/all.yml", "zone: UTC # everywhere\n", []),
    "a variable": ("inventory/group_vars/all.yml", "zone: CET\n", ["changed: inventory/group_vars/all.yml: zone"]),
    "a new variable": (
        "inventory/group_vars/all.yml",
        "{a: 1, zone: UTC}\n",
        ["new: inventory/group_vars/all.yml: a"],
    ),
    "a vault's value": (
        "inventory/group_vars/web.yml",
        "web_port: 80\nweb_secret: !vault |\n  $ANSIBLE_VAULT\n  5678\n",
        ["changed: inventory/group_vars/web.yml: web_secret"],
    ),
    "a new file": ("roles/web/files/new", "x", ["new: roles/web/files/new"]),
    "a template": ("playbooks/templates/page.j2", "bye\n", ["changed: playbooks/templates/page.j2"]),
    "a playbook that is imported": ("playbooks/more.yml", "- hosts: web\n", ["changed: playbooks/more.yml"]),
    "tasks that a playbook includes": ("playbooks/steps.yml", "[]\n", ["changed: playbooks/steps.yml"]),
    "a file of variables": ("shared/vars.yml", "word: bye\n", ["changed: shared/vars.yml: word"]),
    "Packer's template": ("packer/build.pkr.hcl", "x\n", ["changed: packer/build.pkr.hcl"]),
    "a folder of variables": (
        "inventory/group_vars/web/more.yml",
        "word: hello\n",
        ["new: inventory/group_vars/web/more.yml: word"],
    ),
    "variables that are no YAML": (
        "inventory/group_vars/web.yml",
        "$ANSIBLE_VAULT;1.1;AES256\n",
        [
            "new: inventory/group_vars/web.yml",
            "gone: inventory/group_vars/web.yml: web_port",
            "gone: inventory/group_vars/web.yml: web_secret",
        ],
    ),
}


@pytest.mark.parametrize(("name", "text", "expected"), CHANGES.values(), ids=CHANGES)
def test_changes(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    """What the bake reads is a change by its own name, whether git knows of it or not; what it doesn't read is none."""
    root = checkout(tmp_path, FILES)
    before = read(root)

    write(root / name, text)

    assert expected == inputs.changes(before, read(root))
    assert bool(expected) == (inputs.digest(before) != inputs.digest(read(root)))


@pytest.mark.parametrize("place", ["inventory/group_vars/web.yml", "shared/vars.yml"])
@pytest.mark.parametrize("name", ["door_pin", "web_password", "api_token", "web_code"])
def test_no_short_value_can_be_guessed(tmp_path: Path, place: str, name: str) -> None:
    """Outside of the checkout no digest is that of a single variable; a secret one's can't be had without the key."""
    secretless = {**FILES, "inventory/group_vars/web.yml": "web_port: 80\n"}
    root = checkout(tmp_path, {**secretless, place: f"{name}: 4711\n"})

    told = inputs.outside(read(root))

    guesses = [inputs.of_value(4711), inputs.of_value("4711"), inputs.of_file(root / place)]
    assert not {guess.removeprefix("sha256:") for guess in guesses} & {one[-64:] for one in told.values()}
    assert [] == [one for one in told if name in one]
    assert f"{place}: {name}" in read(root)
    other = inputs.of_checkout(root, "web", "playbooks/web.yml", {"web": root / "roles/web"}, {}, b"another key")
    assert (name == "web_code") == (inputs.outside(other) == told)


def test_secrets_within() -> None:
    """A value within a variable is secret by its own name; what our own variables name is not."""
    secrets: dict[str, Any] = {
        "users": {"admin": {"password": 1}},
        "doors": [{"pin": 1}],
        "tokens": {"token": ["a", "b"]},
    }
    others: dict[str, Any] = {"key_url": "https://x", "secret_paths": ["/x"], "bakehouse_service": {"secret": "/x"}}
    for name, value in secrets.items():
        assert inputs._of_variable(name, value, b"1") != inputs._of_variable(name, value, b"2")
    for name, value in others.items():
        assert inputs.of_value(value) == inputs._of_variable(name, value, b"1")


def test_variables_of_an_account() -> None:
    """Variables of accounts.yml are inputs by their names here; an image tells one digest of all variables."""
    before = inputs.of_variables({"web_url": "https://a", "web_token": "1"}, "accounts.yml", b"key")
    now = inputs.of_variables({"web_url": "https://b", "web_token": "1"}, "accounts.yml", b"key")

    assert ["changed: accounts.yml: web_url"] == inputs.changes(before, now)
    [told] = inputs.outside(now).values()
    assert told.removeprefix("sha256:") not in " ".join(now.values())


def test_the_key_stays(tmp_path: Path) -> None:
    """A checkout's key is made once, its owner's alone."""
    key = inputs.own_key(tmp_path)

    assert key == inputs.own_key(tmp_path) and len(key) == 64
    assert 0o600 == (tmp_path / "inputs.key").stat().st_mode & 0o777


def test_a_role_from_elsewhere(tmp_path: Path) -> None:
    """The files of a role outside of the checkout are named by the role, not by where it is."""
    root = checkout(tmp_path / "checkout", {"playbooks/web.yml": "[]\n"})
    theirs = write(tmp_path / "theirs/tasks/main.yml", "[]\n").parent.parent

    read = inputs.of_checkout(root, "web", "playbooks/web.yml", {"../../theirs": theirs}, {}, b"key")

    assert ["playbooks/web.yml", "role ../../theirs: tasks/main.yml"] == sorted(read)


def test_a_linked_folder(tmp_path: Path) -> None:
    """What a role has behind a link is read as Ansible reads it."""
    root = checkout(tmp_path, FILES)
    (root / "roles/web/templates").symlink_to(root / "playbooks/templates")

    assert "roles/web/templates/page.j2" in read(root)


@pytest.mark.parametrize("manifest", [True, False])
def test_collections(tmp_path: Path, manifest: bool) -> None:
    """A collection counts by its manifest, which tells all its files; where it has none, by all its files."""
    root = checkout(tmp_path / "checkout", FILES)
    theirs = checkout(tmp_path / "own", {"MANIFEST.json": "{}"} if manifest else {"plugins/x.py": "x = 1\n"})
    before = read(root, own=theirs)

    write(theirs / "plugins/x.py", "x = 2\n")
    edited = read(root, own=theirs)
    write(theirs / "MANIFEST.json", '{"version": 2}')

    assert ([] if manifest else ["changed: collection own"]) == inputs.changes(before, edited)
    assert ["changed: collection own"] == inputs.changes(before, read(root, own=theirs))


def test_lines_of_changes() -> None:
    """Plain values are shown, digests are not; what is new and what is gone is said so, in the names' order."""
    before = {"base image": "ami-1", "b": "sha256:1", "c": "sha256:1", "packages r": "sha256:1", "same": "1"}
    now = {"base image": "ami-2", "a": "1", "c": "sha256:2", "packages r": "can't be reached", "same": "1"}

    assert [
        "new: a",
        "gone: b",
        "changed: base image, ami-1 before, ami-2 now",
        "changed: c",
        "changed: packages r, another content before, can't be reached now",
    ] == inputs.changes(before, now)


def test_digest() -> None:
    """Equal inputs have one digest in whatever order; names and values don't run into each other."""
    assert inputs.digest({"a": "1", "b": "2"}) == inputs.digest({"b": "2", "a": "1"})
    assert 3 == len({inputs.digest(one) for one in ({"a": "1"}, {"a1": ""}, {"": "a1"})})
    assert inputs.of_value({"a": 1, "b": [2]}) == inputs.of_value({"b": [2], "a": 1}) != inputs.of_value({"a": 1})


def test_what_is_missing(tmp_path: Path) -> None:
    """A checkout without variables, lock or collections has fewer inputs."""
    root = checkout(tmp_path, FILES)
    shutil.rmtree(root / "inventory")
    (root / "requirements.lock").unlink()

    gone = ["requirements.lock", *(f"inventory/group_vars/{name}" for name in ("all.yml: zone", "web.yml: web_port"))]
    assert not set(gone) & set(read(root))
