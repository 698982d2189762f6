"""The system the kit runs on: running programs, becoming root, the package manager."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bakehouse import system
from bakehouse.errors import NotKnownError
from bakehouse.patience import Limit


def test_run_returns_the_code_and_all_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams come back, in one language."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")

    code, told = system.run("sh", "-c", 'echo out; echo err >&2; echo "$LC_ALL $PWD"; exit 3', folder="/")

    assert (3, "out\nerr\nC /\n") == (code, told)


def test_run_gives_nothing_to_read() -> None:
    """A program that reads finds the end at once, whatever the kit's own input is."""
    ours, theirs = os.pipe()
    kept = os.dup(0)
    os.dup2(ours, 0)
    try:
        assert (0, "") == system.run("cat", limit=Limit(100, ""))
    finally:
        os.dup2(kept, 0)
        for descriptor in (ours, theirs, kept):
            os.close(descriptor)


def test_run_without_the_program() -> None:
    """A program that isn't there is an answer too."""
    code, told = system.run("no-such-program")

    assert 127 == code
    assert "no-such-program" in told


def test_run_ends_what_takes_too_long() -> None:
    """A program is killed when its time is up; that is neither a yes nor a no."""
    begun = time.monotonic()
    with pytest.raises(NotKnownError, match=r"^sleep 600 gave no answer in 0 s$"):
        system.run("sleep", "600", limit=Limit(0.2, ""))

    assert time.monotonic() - begun < 100


def test_run_does_not_wait_for_a_daemon() -> None:
    """What a command leaves behind may keep its output open."""
    begun = time.monotonic()

    code, daemon = system.run("sh", "-c", "sleep 600 & echo $!")

    os.kill(int(daemon), signal.SIGKILL)
    assert 0 == code
    assert time.monotonic() - begun < 100


def test_run_uncut_ends_in_peace(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    """Ctrl-C acts when the command has ended, and the command never hears of it."""
    done = tmp_path / "done"
    threading.Timer(0.5, ctrl_c).start()

    with pytest.raises(KeyboardInterrupt):
        system.run("sh", "-c", f"sleep 1.5; cut -d ' ' -f 5 /proc/$$/stat >{done}", uncut=True)

    assert done.read_text() != f"{os.getpgrp()}\n"  # the group that a terminal's Ctrl-C goes to


@pytest.mark.parametrize(("text", "last"), [("", ""), ("one\n", "one"), ("W: old\nE: no mirror\n\n", "E: no mirror")])
def test_last_line(text: str, last: str) -> None:
    """The complaint is what was said last."""
    assert last == system.last_line(text)


def _programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Have nothing on PATH but these scripts, and what they need themselves."""
    path = folder / "bin"
    path.mkdir()
    for name in ("cat", "env", "grep", "sh", "true"):
        (path / name).symlink_to(str(shutil.which(name)))
    for name, script in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(path))


@pytest.mark.parametrize(
    ("user", "sudo", "expected"),
    [
        (0, "exit 1", ()),
        (1000, "exit 1", None),
        (1000, 'shift; exec "$@"', ("sudo", "-n")),
        (1000, "[ $1 = -n ] || read password", ("sudo", "-n")),
    ],
)
def test_become_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, sudo: str, expected: tuple[str, ...] | None
) -> None:
    """Root is root, and others are where sudo asks for no password."""
    _programs(tmp_path, monkeypatch, sudo=sudo)
    monkeypatch.setattr(os, "geteuid", lambda: user)

    assert expected == system.become_root()


def test_become_root_without_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no sudo an ordinary user stays one."""
    _programs(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert system.become_root() is None


POLICY = """\
for name; do
    case $name in
        docker.io) printf '%s:\\n  Installed: (none)\\n  Candidate: 26.1\\n  Version table:\\n' $name ;;
        docker-cli) printf '%s:\\n  Installed: (none)\\n  Candidate: (none)\\n  Version table:\\n' $name ;;
    esac
done"""


def test_having(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages are had that apt has a candidate of, in the order asked."""
    _programs(tmp_path, monkeypatch, **{"apt-cache": POLICY})

    assert ("docker.io",) == system.having(("docker-cli", "docker.io", "podman"))


@pytest.mark.parametrize(
    ("broken", "complaint", "calls"),
    [
        ("false", "", ["install docker.io"]),
        ('[ "$(grep -c install asked)" = 1 ]', "", ["install docker.io", "update", "install docker.io"]),
        ("grep -q install asked", "E: broken", ["install docker.io", "update", "install docker.io"]),
    ],
)
def test_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, complaint: str, calls: list[str]
) -> None:
    """What the distribution has is installed; old lists are renewed once; then apt's last word counts."""
    monkeypatch.chdir(tmp_path)
    get = f"""\
case $* in *update*) echo update ;; *) echo install "${{*#*install }}" ;; esac >>asked
if case $* in *install*) {broken} ;; *) false ;; esac; then echo W: old; echo E: broken; exit 100; fi"""
    _programs(tmp_path, monkeypatch, **{"apt-get": get, "apt-cache": POLICY})
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert complaint == system.install(("docker.io", "docker-cli"))
    assert calls == (tmp_path / "asked").read_text().splitlines()


def test_install_what_the_distribution_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is unknown even with new lists is named."""
    monkeypatch.chdir(tmp_path)
    get = {"apt-get": 'echo "$*" >>asked', "apt-cache": POLICY}
    _programs(tmp_path, monkeypatch, **get)

    assert "this distribution has no package packer" == system.install(("packer",))
    assert (tmp_path / "asked").read_text().endswith(" update\n")


PACKAGES = {"apt-get": ("docker.io", "docker-cli"), "dnf": ("docker",)}


@pytest.mark.parametrize(
    ("managers", "command"),
    [
        (["apt-get"], "sudo apt-get install docker.io"),
        (["apt-get", "brew"], "sudo apt-get install docker.io"),
        (["dnf"], "sudo dnf install docker"),
        (["brew"], ""),
        ([], ""),
    ],
)
def test_command_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, managers: list[str], command: str) -> None:
    """A person is told the command of their own system."""
    _programs(tmp_path, monkeypatch, **{"apt-cache": POLICY}, **dict.fromkeys(managers, ""))

    assert command == system.command_for(PACKAGES)
