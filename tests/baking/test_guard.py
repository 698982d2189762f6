"""The guard of a bake: on a machine other than the one that was launched nothing is changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bakehouse import system
from bakehouse.runs.transcripts import failure
from bakehouse.settings import ROOT

PLAYBOOK = """
- hosts: tiny
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {dest: "{{ changed }}", content: changed, mode: "0644"}
"""


RUN = "20261129-081500-a1b2"
OTHER = f"The machine is the one that this bake has launched: this is not the machine that bake {RUN} has launched"


@pytest.mark.parametrize(
    ("holds", "reason"),
    [
        ("", f"{OTHER}: its file RUN is missing; nothing was changed"),
        ("20260101-000000-0000", f"{OTHER}: its file RUN holds 20260101-000000-0000; nothing was changed"),
        (RUN, "Wait for cloud-init: "),  # the guard lets it go on; here is no cloud-init, which doesn't mean "done"
    ],
)
def test_another_machine_is_left_alone(tmp_path: Path, holds: str, reason: str) -> None:
    """With this host in place of the machine a bake's plays end before the recipe's, and Ansible says why.

    The file that the guard reads is in a folder of the test's.
    """
    guarded = (ROOT / "playbooks/bake.yml").read_text().replace("/run/bakehouse/run", str(tmp_path / "run"))
    (tmp_path / "bake.yml").write_text(guarded.replace("../{{ bakehouse_playbook }}", "tiny.yml"))
    (tmp_path / "tasks").symlink_to(ROOT / "playbooks/tasks")
    (tmp_path / "tiny.yml").write_text(PLAYBOOK)
    (tmp_path / "hosts").write_text("[tiny]\ndefault ansible_connection=local\n")
    if holds:
        (tmp_path / "run").write_text(holds)
    told: dict[str, Any] = {"bakehouse_recipe": "tiny", "bakehouse_run": RUN, "changed": str(tmp_path / "changed")}
    told |= {"ansible_become": False, "ansible_python_interpreter": sys.executable}
    ours = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1"}
    ours["ANSIBLE_CALLBACK_RESULT_FORMAT"] = "json"
    program = Path(sys.executable).with_name("ansible-playbook")
    line = [str(program), "-i", str(tmp_path / "hosts"), str(tmp_path / "bake.yml")]

    done = system.call(
        [*line, "--extra-vars", json.dumps(told)],
        system.environment(**ours),
        capture_output=True,
        text=True,
        check=False,
    )

    assert 2 == done.returncode, done.stdout + done.stderr
    assert reason.replace("RUN", f"{tmp_path}/run") in failure(done.stdout.splitlines()), done.stdout
    assert not (tmp_path / "changed").exists()
