"""A machine to apply roles to: plays are run on it, and it is broken and mended."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ansible_runner
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ec2_fixtures import ROOT, Machines, describe

from bakehouse import tools
from bakehouse.machines import probes

Task = dict[str, Any]

NOTHING = "0" * 64
"""The SHA-256 of nothing that there is."""

SERVED: dict[str, Any] = {
    "jenkins_port": 8081,
    "jenkins_prefix": "/ci",
    "jenkins_listen_address": "127.0.0.1",
    "jenkins_arguments": ["--debug=6"],
    "jenkins_service_state": "started",
}


CASC = """jenkins:
  securityRealm:
    local:
      allowsSignup: false
      users:
        - id: admin
          password: ${trim:${readFile:/run/secrets/admin}}
  authorizationStrategy:
    loggedInUsersCanDoAnything:
      allowAnonymousRead: false
"""


@dataclass(frozen=True)
class Told:
    """Hold what a play has told: its events in their order."""

    events: tuple[dict[str, Any], ...]

    def messages(self) -> list[str]:
        """Return what failed said, in words without line breaks."""
        kinds = ("runner_on_failed", "runner_item_on_failed", "runner_on_unreachable")
        failed = [one["event_data"]["res"] for one in self.events if one["event"] in kinds]
        return [" ".join(f"{one.get('msg', one)} {one.get('stderr', '')}".split()) for one in failed]

    def findings(self) -> dict[str, str]:
        """Return the bad findings of a verification, name to evidence."""
        return {one.name: one.evidence for one in probes.findings_of(self.events).get("machine", []) if not one.ok}

    def good(self) -> dict[str, str]:
        """Return the good findings of a verification, name to evidence."""
        return {one.name: one.evidence for one in probes.findings_of(self.events).get("machine", []) if one.ok}

    def changes(self) -> list[str]:
        """Return the names of the tasks that changed something, or would have."""
        done = [one["event_data"] for one in self.events if one["event"] == "runner_on_ok"]
        return [one["task"].removeprefix("jenkins : ") for one in done if one["res"].get("changed")]

    def said(self, task: str) -> str:
        """Return what the one task of this name printed."""
        done = [one["event_data"] for one in self.events if one["event"] == "runner_on_ok"]
        [printed] = [one["res"]["stdout"] for one in done if one["task"] == task]
        return str(printed)

    def succeeded(self) -> Told:
        """Return this; fail with what failed."""
        assert not self.messages(), "\n".join(self.messages())
        return self

    def apart(self) -> Iterator[tuple[str, Told]]:
        """Yield what was told in each chapter, which begins with a task ``Chapter: NAME``."""
        name, events = "", list[dict[str, Any]]()
        for event in self.events:
            task = str(event["event_data"].get("task", ""))
            if task.startswith("Chapter: ") and task != f"Chapter: {name}":
                if name:
                    yield name, Told(tuple(events))
                name, events = task.removeprefix("Chapter: "), []
            events.append(event)
        yield name, Told(tuple(events))


class Host:
    """Reach one machine by SSH and by Ansible."""

    def __init__(self, machines: Machines, machine: str, folder: Path) -> None:
        self._folder, self._key, self._user = folder, machines.key_file, machines.user
        self.address = describe(machines.ec2, machine)[0]["PublicIpAddress"]
        inventory: dict[str, Any] = {"ansible_host": self.address, "ansible_user": machines.user}
        inventory |= {"ansible_ssh_private_key_file": str(self._key), "ansible_ssh_use_tty": False}
        (folder / "inventory.yml").write_text(yaml.dump({"all": {"hosts": {"machine": inventory}}}))

    def run(self, command: str, given: bytes = b"") -> bytes:
        """Run a command as root, with that on stdin, and return what it printed."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
        argv = [
            "ssh",
            "-i",
            str(self._key),
            *(part for o in options for part in ("-o", o)),
            f"{self._user}@{self.address}",
        ]
        call = [*argv, "sudo", "sh", "-euc", f"'{command}'"]
        done = subprocess.run(call, input=given, capture_output=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files below /srv."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        self.run("tar --extract --directory=/srv", packed.getvalue())

    def play(self, tasks: list[Task], variables: Mapping[str, Any], *options: str) -> Told:
        """Run tasks as root with these variables and return what they told, of failures too.

        Ansible runs them with Mitogen, which takes a third of the time; test_reuse.py runs the roles without.
        """
        play = {"hosts": "all", "become": True, "gather_facts": False, "vars": dict(variables), "tasks": tasks}
        (self._folder / "play.yml").write_text(yaml.dump([play], sort_keys=False, allow_unicode=True))
        events: list[dict[str, Any]] = []

        def see(event: dict[str, Any]) -> bool:
            events.append(event)
            return False  # the runner need not keep it

        run = ansible_runner.run(
            private_data_dir=tempfile.mkdtemp(dir=self._folder),  # of its own: what one is told stays for the next
            playbook=str(self._folder / "play.yml"),
            inventory=str(self._folder / "inventory.yml"),
            cmdline=" ".join(options),
            envvars={
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            }
            | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
            | tools.mitogen(),
            event_handler=see,
            cancel_callback=lambda: False,
            quiet=True,
        )
        told = Told(tuple(one for one in events if "event_data" in one))
        with run.stdout as said:
            assert run.rc == 0 or told.messages(), said.read()
        return told


def role(name: str, tasks_from: str = "main", **variables: Any) -> Task:
    """Return the task that runs a role's file."""
    return {"ansible.builtin.include_role": {"name": name, "tasks_from": tasks_from}, "vars": variables}


def shell(name: str, command: str) -> Task:
    """Return the task that runs a command, without Python, which would take most of its time."""
    return {"name": name, "ansible.builtin.raw": command}


def chapter(name: str, command: str = "") -> Task:
    """Return the task that begins a chapter, by a command where it needs one."""
    title = f"Chapter: {name}"
    return shell(title, command) if command else {"name": title, "ansible.builtin.debug": {"msg": name}}


def survived(task: Task) -> Task:
    """Return the task as one whose failure ends nothing."""
    return {"block": [task], "rescue": [{"ansible.builtin.debug": {"msg": "the next chapter goes on"}}]}


def plugin(version: str) -> bytes:
    """Return a plugin that holds nothing but its manifest."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\nPlugin-Version: {version}\n")
    return packed.getvalue()


@cache
def plugins() -> None:
    """Let Ansible find its own plugins."""
    init_plugin_loader()


@cache
def read(file: Path) -> Any:
    """Return what a file of a role holds, as Ansible reads it."""
    return DataLoader().load_from_file(str(file), trusted_as_template=True)


def templar(role: str = "jenkins", **values: Any) -> Any:
    """Return Ansible's own templating with a role's variables, defaults for all but these."""
    plugins()
    folder = ROOT / "roles" / role
    known: dict[str, Any] = {
        "ansible_facts": {"distribution": "Debian", "distribution_major_version": "13", "architecture": "x86_64"},
        "ansible_search_path": [str(folder)],
    }
    for file in (folder / "defaults/main.yml", folder / "vars/main.yml"):
        known |= read(file) if file.exists() else {}
    return Templar(DataLoader(), {**known, **values})


ASSERTING = {
    "java": ("types", "preflight"),
    "jenkins": ("types", "values"),
    "nginx": ("types", "preflight"),
    "sysprep": ("types", "preflight"),
}
"""The files in which each role asserts that its variables have values that they can take."""


def refusals(role: str, **values: Any) -> Iterator[str]:
    """Yield what a role says of these values before it changes anything, one for each look that doesn't like them.

    The looks are Ansible's own validation, then the role's assertions.
    """
    spec = read(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]
    yield from ArgumentSpecValidator(spec["options"]).validate(values).error_messages
    for task in (one for file in ASSERTING[role] for one in read(ROOT / f"roles/{role}/tasks/{file}.yml")):
        if asserted := task.get("ansible.builtin.assert"):
            seen = {"rc": 0, "stdout": ""}
            judging = templar(role, **{**task.get("vars", {}), "__sysprep_seen": seen, **values})
            if not judging.evaluate_conditional(asserted["that"]):
                yield str(judging.template(asserted["fail_msg"]))
