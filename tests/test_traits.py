"""Traits: what a machine tells of itself, asked here of this computer, with a root and programs of the test's own."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bakehouse import traits

LISTS = {
    "dpkg-query": r"printf 'installed libc6:amd64 2.41\ninstalled zlib 1\nconfig-files gone 3\n'",
    "rpm": r"printf 'installed kernel 6.2-1.x86_64\ninstalled kernel 6.1-1.x86_64\n'",
}


@pytest.fixture
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put package managers on PATH, before those that may be here, that list what LISTS says."""
    for name, script in LISTS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("_programs")
def test_packages() -> None:
    """What is installed is listed with its version, all of them where there are several; what was removed isn't."""
    expected = {"kernel": "6.1-1.x86_64 6.2-1.x86_64", "libc6:amd64": "2.41", "zlib": "1"}

    assert expected == traits.packages()


@pytest.mark.usefixtures("_programs")
def test_it_stands_alone() -> None:
    """The file is run by its text alone, as a machine does that has nothing of the kit."""
    line = [sys.executable, "-I", "-c", inspect.getsource(traits), "packages"]
    told = subprocess.run(line, cwd="/", capture_output=True, text=True, check=True).stdout

    assert traits.packages() == json.loads(told)


def test_no_package_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that isn't there tells nothing."""
    monkeypatch.setattr(traits, "_LISTS", (("no-such-package-manager", "--list"),))

    assert {} == traits.packages()


def test_digest() -> None:
    """A digest tells nothing without its salt, and white space around a content makes no other."""
    assert hashlib.sha256(b"salt" + b"secret").hexdigest() == traits.digest(b"salt", b" secret\n")
    assert traits.digest(b"salt", b"secret") != traits.digest(b"pepper", b"secret")


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*/key*"], ["secrets/key-a", "secrets/key-b"]),
        (["secrets/key-a", "secrets/key-?"], ["secrets/key-a", "secrets/key-b"]),
        (["secrets/none", "secrets"], []),
        (["secrets/empty"], []),
    ],
)
def test_matching(tmp_path: Path, patterns: list[str], found: list[str]) -> None:
    """Each file that matches is there once; an empty one and a folder hold nothing to compare."""
    (tmp_path / "secrets").mkdir()
    for name in ("key-a", "key-b"):
        (tmp_path / "secrets" / name).write_text("x")
    (tmp_path / "secrets" / "empty").touch()

    expected = [str(tmp_path / one) for one in found]
    assert expected == traits._matching([str(tmp_path / one) for one in patterns])


def test_lines(tmp_path: Path) -> None:
    """Comments and empty lines say nothing."""
    (tmp_path / "keys").write_text("# mine\n\n ssh-ed25519 AAAA me\n")

    assert ["ssh-ed25519 AAAA me"] == traits._lines(str(tmp_path / "keys"))
