"""Reads: in whatever way a play reads a file, a change of it makes a bake due, and is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bakehouse.baking import reads
from bakehouse.recipes import inputs

COLLECTION = ".bakehouse/galaxy/collections/ansible_collections/a/b"

# Each way in which a play of the recipe web reads a file: the file, and the task that reads it. Its playbook is
# company/site.yml, and "beside" is a folder beside the checkout.
WAYS: dict[str, tuple[str, str]] = {
    "tasks by template": ("company/hidden/steps.yml", "include_tasks: \"hidden/{{ 'steps' }}.yml\""),
    "a role by variable": ("roles/hidden/files/word", 'include_role: {name: "{{ which }}"}'),
    "a file elsewhere": ("../beside/a", "debug: {msg: \"{{ lookup('file', playbook_dir ~ '/../../beside/a') }}\"}"),
    "a copy from elsewhere": ("../beside/b", "copy: {src: ../../beside/b, dest: \"{{ there }}/b\", mode: '0600'}"),
    "a template elsewhere": ("../beside/c", "template: {src: ../../beside/c, dest: \"{{ there }}/c\", mode: '0600'}"),
    "an absolute path": ("../beside/d", "copy: {src: \"{{ beside }}/d\", dest: \"{{ there }}/d\", mode: '0600'}"),
    "a script elsewhere": ("../beside/e", "script: ../../beside/e"),
    "a folder of variables": ("company/more/x.yml", "include_vars: {dir: more}"),
    "the first that there is": (
        "company/first/there",
        "debug: {msg: \"{{ lookup('file', lookup('first_found', ['first/none', 'first/there'])) }}\"}",
    ),
    "a module of a collection, by its short name": (f"{COLLECTION}/plugins/modules/hello.py", "hello:"),
    "a module beside": ("company/library/here.py", "here:"),
    "a filter beside": ("company/filter_plugins/loud.py", "debug: {msg: \"{{ 'x' | loud }}\"}"),
    "variables by template": ("company/named.yml", 'debug: {msg: "{{ named }}"}'),
    "variables of a group, in a folder": ("inventory/group_vars/web/x.yml", 'debug: {msg: "{{ of_web }}"}'),
    "variables of all, in a folder": ("inventory/group_vars/all/x.yml", 'debug: {msg: "{{ of_all }}"}'),
    "variables of another group": ("inventory/group_vars/servers.yml", 'debug: {msg: "{{ of_servers }}"}'),
    "variables of the machine": ("company/host_vars/web-image.yml", 'debug: {msg: "{{ of_machine }}"}'),
    "another playbook": ("company/other.yml", ""),
}  # fmt: skip
MODULE = "from ansible.module_utils.basic import AnsibleModule\nAnsibleModule({}).exit_json()\n"
FILES = {
    "ansible.cfg": "[defaults]\nroles_path = roles\ncollections_path = .bakehouse/galaxy/collections\n",
    "roles/hidden/tasks/main.yml": "- debug: {msg: \"{{ lookup('file', 'word') }}\"}\n",
    "company/hidden/steps.yml": "- debug:\n",
    "company/more/x.yml": "more: 1\n",
    "company/named.yml": "named: 1\n",
    "company/other.yml": "- hosts: web\n  gather_facts: false\n  tasks: [{debug: }]\n",
    "company/library/here.py": MODULE,
    "company/filter_plugins/loud.py": "class FilterModule:\n    def filters(self): return {'loud': str.upper}\n",
    "company/host_vars/web-image.yml": "of_machine: 1\n",
    "inventory/group_vars/web/x.yml": "of_web: 1\n",
    "inventory/group_vars/all/x.yml": "of_all: 1\n",
    "inventory/group_vars/servers.yml": "of_servers: 1\n",
    f"{COLLECTION}/plugins/modules/hello.py": MODULE,
}
PLAY = """
- ansible.builtin.import_playbook: other.yml
- hosts: web
  gather_facts: false
  collections: [a.b]
  vars_files: ["{{ 'named' }}.yml"]
  tasks:
    - debug: {msg: "{{ lookup('pipe', 'echo 1') }}"}
"""


@dataclass
class Baked:
    """Hold a checkout, and the inputs of a bake of its recipe web."""

    root: Path
    record: dict[str, str]

    def now(self) -> dict[str, str]:
        """Return the inputs as they are now."""
        return {**known(self.root), **inputs.again(self.root, self.record, b"key")}


def known(root: Path) -> dict[str, str]:
    """Return what is known of the inputs before a bake."""
    return inputs.of_checkout(root, "web", "company/site.yml", {}, {}, b"key")


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Baked:
    """Give a checkout whose play has run once, in all ways, by the program that notes what Ansible reads."""
    above = tmp_path_factory.mktemp("above").resolve()
    root, there = above / "checkout", above / "there"
    there.mkdir()
    for file, _ in WAYS.values():
        put(root / file, FILES.get(file, "#!/bin/sh\n" if file.endswith("/e") else "x\n"))
    for file, text in FILES.items():
        put(root / file, text)
    tasks = "".join(f"    - {task}\n" for _, task in WAYS.values() if task)
    put(root / "company/site.yml", PLAY + tasks)
    put(root / "inventory/hosts", "[web]\nweb-image ansible_connection=local\n[servers]\nweb-image\n")
    program, notes = above / "ansible-playbook", above / "notes"
    program.write_text(reads.program(notes))
    told = {"which": "hidden", "there": there, "beside": above / "beside", "ansible_python_interpreter": sys.executable}
    line: list[str | Path] = ["sh", program, "-i", root / "inventory", root / "company/site.yml"]
    line += [part for name, value in told.items() for part in ("-e", f"{name}={value}")]
    ours = {
        "HOME": str(above / "home"),
        "PATH": "/usr/bin:/bin",
        "ANSIBLE_LOCALHOST_WARNING": "no",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(line, cwd=root, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files, lookups = reads.of(notes)
    assert ["pipe"] == lookups
    before = known(root)
    within = [one for one in files if not one.is_relative_to(above / "home")]
    record = {**before, **inputs.beyond(root, "web", "company/site.yml", ({}, {}), within, b"key")}
    return Baked(root, record)


def put(file: Path, text: str) -> None:
    """Write a file into a folder that may have to be made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_nothing_has_changed(baked: Baked) -> None:
    """What the bake itself has told is the same as long as nothing changes, and no file of this computer is in it."""
    assert [] == inputs.changes(baked.record, baked.now())
    allowed = (
        "../beside/",
        "roles/hidden",
        "company/",
        "inventory/",
        ".bakehouse/galaxy/collections/ansible_collections/a/b",
    )
    told = [name.removeprefix("read ") for name in baked.record if name.startswith("read ")]
    assert [] == [name for name in told if not name.startswith(allowed)]


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_file_is_named(baked: Baked, way: str) -> None:
    """One byte changes in a file that the play reads, in whatever way: the file is named, or what it belongs to."""
    file = baked.root / WAYS[way][0]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"1", b"2") if b": 1" in content else content + b"\n")
    try:
        [line] = inputs.changes(baked.record, baked.now())
    finally:
        file.write_bytes(content)
    named = line.removeprefix("changed: ").removeprefix("read ").partition(": ")[0]
    assert WAYS[way][0] == named or WAYS[way][0].startswith(f"{named}/")


@pytest.mark.parametrize("way", ["a role by variable", "a file elsewhere"])
def test_a_file_that_is_gone_is_named(baked: Baked, way: str) -> None:
    """A file that the play has read and that is gone now makes a bake due."""
    file = baked.root / WAYS[way][0]
    content = file.read_bytes()
    file.unlink()
    try:
        assert 1 == len(inputs.changes(baked.record, baked.now()))
    finally:
        file.write_bytes(content)


def test_a_new_file_in_a_role_counts(baked: Baked) -> None:
    """Of a role that only the play could name, all files count."""
    put(baked.root / "roles/hidden/handlers/main.yml", "[]\n")
    try:
        assert ["changed: read roles/hidden"] == inputs.changes(baked.record, baked.now())
    finally:
        (baked.root / "roles/hidden/handlers/main.yml").unlink()
