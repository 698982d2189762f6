"""Transcripts: recorded output of Packer and Ansible becomes steps, and one reason when they fail."""

from __future__ import annotations

import pytest
from ec2_fixtures import ROOT

from bakehouse.runs.transcripts import Began, Ended, Event, Failed, Named, Skipped, event, failure, plain

DATA = ROOT / "tests/data/transcripts"

REASONS = {
    "argspec": "r : Validating arguments against arg spec 'main' - R: Validation of arguments failed: "
    "missing required arguments: b a. Supported parameters include: b.",
    "assert": "Preflight | The port is a port: port is -1: must be more than 0",
    "command": "Install the thing: non-zero return code: E The thing has no candidate",
    "ignored": 'Must not fail: two lines of "message" in [brackets] => {and braces}',
    "loop": "Make each (item false): non-zero return code",
    "module": "Ansible: couldn't resolve module/action 'community.nowhere.thing'. This often indicates a misspelling, "
    "missing collection, or incorrect module path. (/bakehouse/playbooks/module.yml:4:7)",
    "nolog": "Set the password: the output has been hidden due to the fact that 'no_log: true' was specified for this "
    "result",
    "syntax": "Ansible: YAML parsing failed: Colons in unquoted values must be followed by a non-space character. "
    "(/bakehouse/playbooks/syntax.yml:4:28)",
    "undefined": "Use a variable: Task failed: Finalization of task args for 'ansible.builtin.debug' failed: Error "
    "while resolving value for 'msg': 'nowhere' is undefined",
    "unreachable": 'Gathering Facts: Task failed: Data could not be sent to remote host "127.0.0.1". Make sure this '
    "host can be reached over ssh: ssh: connect to host 127.0.0.1 port 1: Connection refused",
    "packer-task": "Fail if asked: asked to fail, as hello",
    "packer-ssh": "Packer: Packer experienced an authentication error when trying to connect via SSH. This can happen "
    "if your username/password are wrong. You may want to double-check your credentials as part of your debugging "
    "process. original error: ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey], "
    "no supported methods remain",
    "packer-template": "Packer: IOPS must be between 3000 and 16000 for device /dev/xvda; ssh_private_key_file is "
    "invalid: Error setting up SSH config: Failed to read key '/dev/null': no key found",
    "packer-argument": 'Packer: Unsupported argument: An argument named "instance_kind" is not expected here. '
    "on /bakehouse/packer/sources.pkr.hcl line 5",
}


@pytest.mark.parametrize("name", REASONS)
def test_failure(name: str) -> None:
    """The reason is one line: the task that failed for good with its message, or Packer's own error."""
    assert REASONS[name] == failure((DATA / f"{name}.txt").read_text().splitlines())


RECAP = "default : ok=2    changed=0    unreachable=0    failed=0    skipped=0    rescued=1    ignored=0"


@pytest.mark.parametrize("later", [["PLAY RECAP ****", RECAP], ["...ignoring", "TASK [Killed here] ****"]])
def test_no_task_failed(later: list[str]) -> None:
    """A task that failed and was rescued or ignored is not why Packer failed."""
    lines = ["TASK [Fails] ****", 'fatal: [default]: FAILED! => {"changed": false, "msg": "inside"}', *later]

    assert "Packer: timeout" == failure([*lines, "--> amazon-ebs.machine: timeout"])


def test_every_recording_is_used() -> None:
    """No recording lies about unread."""
    assert {*REASONS, "packer-done"} == {path.stem for path in DATA.iterdir()}


def test_failure_without_a_word() -> None:
    """A log without a reason is no reason to fail again."""
    assert "Packer: no message" == failure([])


def test_failure_is_short() -> None:
    """A message of any length becomes a line that a person reads."""
    assert 400 == len(failure(["Error: " + "long " * 1000]))


PREFIXES = {
    "2026-11-22T08:15:09Z: ==> amazon-ebs.machine: Creating AMI": "Creating AMI",
    "2026-11-22T08:15:09+02:00:     amazon-ebs.machine: ok: [default]": "ok: [default]",
    "    amazon-ebs.machine:": "",
    "==> amazon-ebs.machine: Stopping the source instance...\r\n": "Stopping the source instance...",
    "--> amazon-ebs.machine: no": "--> amazon-ebs.machine: no",
    "2026-11-22T08:21:00Z: Build 'amazon-ebs.machine' finished": "Build 'amazon-ebs.machine' finished",
}


@pytest.mark.parametrize(("line", "text"), PREFIXES.items())
def test_plain(line: str, text: str) -> None:
    """Packer's time and build name go, what was said stays."""
    assert text == plain(line)


EVENTS: dict[str, Event | None] = {
    "TASK [java : Install | Java [21]] *****": Began("java : Install | Java [21]"),
    "RUNNING HANDLER [Restart] ***": Began("Restart"),
    "skipping: [default]": Skipped(),
    "included: /roles/java/tasks/install.yml for default": Skipped(),
    'fatal: [default]: FAILED! => {"changed": false}': Failed(),
    'failed: [default] (item=a) => {"changed": false}': Failed(),
    "...ignoring": Failed(ignored=True),
    "Error waiting for SSH: timeout": Failed(),
    "AMI: ami-1": Named("ami-1"),
    "PLAY RECAP ****": Ended(),
    "ok: [default]": None,
    "TASK [unended": None,
}


@pytest.mark.parametrize(("line", "happened"), EVENTS.items())
def test_event(line: str, happened: Event | None) -> None:
    """A line says that a step began, what it made, or how it went; most lines say nothing."""
    assert happened == event(line)


def test_steps_of_a_bake() -> None:
    """A whole bake by the real Packer is told as its steps, in their order."""
    lines = (DATA / "packer-done.txt").read_text().splitlines()

    told = [happened for line in lines if (happened := event(plain(line))) is not None]

    assert [
        Began("machine"),
        Named("i-b16223cbdae8eac1b"),
        Began("SSH"),
        Ended(),
        Began("Ansible starts"),
        Began("Write"),
        Began("Wait a while"),
        Began("Fail if asked"),
        Skipped(),
        Ended(),
        Began("stop"),
        Began("image"),
        Named("ami-1bd306f2d21dda0bb"),
        Began("machine cleared away"),
        Ended(),
    ] == told
