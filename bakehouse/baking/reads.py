"""Reads: Ansible as a bake runs it; it notes which files it reads, and which lookups nobody can look up again.

This file is run as a program in place of ansible-playbook, with the same arguments after the path of the notes. No
parser can tell what a play reads: names are templates, and paths lead out of the folders that Ansible searches. So the
Python that runs Ansible is asked, by its audit events, and each of its workers too.

The notes are lines of JSON, each ``["file", PATH]`` or ``["lookup", NAME]``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# What is of this computer or of the locked tools, and no part of what is baked.
_COMPUTER = ("/proc/", "/sys/", "/dev/", "/run/", "/usr/", "/lib", "/etc/", f"{sys.prefix}/", f"{sys.base_prefix}/")
_OUTSIDE = ("subprocess.Popen", "urllib.Request", "socket.connect")
_LOOKUPS = ("/plugins/lookup/", "/lookup_plugins/")
_VAULT = "/ansible/parsing/vault/"  # reads the vaults' passwords, which are in no image


def watch(notes: Path) -> None:
    """Note from now on what this process and those that it forks read."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    seen: set[tuple[str, str]] = set()

    def note(kind: str, what: str) -> None:
        if (kind, what) not in seen:
            seen.add((kind, what))
            os.write(descriptor, f"{json.dumps([kind, what])}\n".encode())

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & os.O_ACCMODE == os.O_RDONLY:
                file = _source(os.path.abspath(os.fsdecode(path)))
                if not file.startswith(_COMPUTER) and ("file", file) not in seen and not _is_for_a_vault():
                    note("file", file)
        elif event in _OUTSIDE:
            for name in _lookups():
                note("lookup", name)

    sys.addaudithook(hear)


def program(notes: Path) -> str:
    """Return the text of a program that is to be run in place of ansible-playbook."""
    line = shlex.join([sys.executable, __file__, str(notes)])
    return f'#!/bin/sh\nexec {line} "$@"\n'


def of(notes: Path) -> tuple[list[Path], list[str]]:
    """Return the files that Ansible has read, and the names of the lookups that can't be looked up again."""
    told = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    of_kind = {kind: dict.fromkeys(what for one, what in told if one == kind) for kind in ("file", "lookup")}
    return [Path(one) for one in of_kind["file"]], [*of_kind["lookup"]]


def _source(file: str) -> str:
    """Return the file of which a compiled file of Python was made; any other as it is."""
    return importlib.util.source_from_cache(file) if file.endswith(".pyc") and "__pycache__" in file else file


def _frames() -> Iterator[str]:
    """Yield the files of the code that is running, from the inside out."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001, the documented way to look at it
    while frame:
        yield frame.f_code.co_filename
        frame = frame.f_back


def _lookups() -> Iterator[str]:
    """Yield the name of the lookup that is running."""
    for file in _frames():
        if any(place in file for place in _LOOKUPS):
            yield Path(file).stem
            return


def _is_for_a_vault() -> bool:
    """Tell whether Ansible's code for vaults itself reads a file, which holds a password then."""
    of_ansible = (file for file in _frames() if "/ansible/" in file)
    return _VAULT in next(of_ansible, "")


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, in which Ansible has nothing to look for
    watch(Path(sys.argv.pop(1)))
    from ansible.cli.playbook import main

    sys.argv[0] = "ansible-playbook"
    main()
