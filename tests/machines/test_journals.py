"""Journals: no secret of a machine's service reaches a person's screen or a proof."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from samples import MACHINE

from bakehouse import machines
from bakehouse.errors import InputError
from bakehouse.machines import journals, shells
from bakehouse.recipes.services import Service
from bakehouse.records import inspector
from bakehouse.settings import Settings

WORD = "5f4dcc3b5aa765d61d8327deb882cf99"
TEXT = f"initial password:\n{WORD}\n'{WORD}' token={WORD}, {WORD[:-1]} and more\n"
SHOWN = f"initial password:\n(secret)\n'(secret)' token=(secret), {WORD[:-1]} and more\n"
SECRETS = ("abc/def==", "p@ss!w0rd", "Tr0ub4dor&3", "two words", "š€cret", "-x-")
SERVICE = Service(unit="web.service", password_file="/secret/first")


def test_masked() -> None:
    """A word that is the content of a secret is hidden wherever it stands; others are shown."""
    assert SHOWN == journals.masked(TEXT, "salt", [(inspector.digest(b"salt", f"{WORD}\n".encode()), len(WORD))])


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "token='{}'", 'password="{}",', "login with {}, please", "http://u:{}@h/", "({})"]
)
def test_masked_whatever_stands_around(tmp_path: Path, secret: str, around: str) -> None:
    """A secret of any characters is hidden between any others, and the rest of the text stays."""
    (tmp_path / "secret").write_text(f"{secret}\n")
    marks = [(str(digest), int(length)) for digest, length in inspector.marks(b"salt", [str(tmp_path / "secret")])]

    assert f"begin {around.format('(secret)')} end" == journals.masked(
        f"begin {around.format(secret)} end", "salt", marks
    )


def test_marks(tmp_path: Path) -> None:
    """Of a file of many lines the long words are secret; one that is no text, or is empty, has none."""
    (tmp_path / "key").write_text(f"-----BEGIN\n{WORD}\nshort\n-----END\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").touch()

    found = inspector.marks(b"salt", [str(tmp_path / name) for name in ("key", "binary", "empty")])

    assert [[inspector.digest(b"salt", WORD.encode()), len(WORD)]] == found


def enter(answer: CompletedProcess[str] | Exception) -> Any:
    """Give a machine's answer to every command."""

    def answers(*_: Any) -> CompletedProcess[str]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return answers


def test_a_machine_tells_its_secrets_digests(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inspector's own answer hides the password in journal and console, and the password isn't in the answer."""
    (tmp_path / "first").write_text(f"{WORD}\n")
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho \"$*\"; cat <<'END'\n{TEXT}END\n")
    (tmp_path / "journalctl").chmod(0o755)
    service = Service(unit="web.service", password_file=str(tmp_path / "first"))
    answers = []

    def run(_: Settings, __: Any, command: str) -> CompletedProcess[str]:
        line = command.replace("sudo python3", sys.executable, 1)
        answers.append(
            subprocess.run(
                ["sh", "-c", line], env={"PATH": f"{tmp_path}:/bin"}, capture_output=True, text=True, check=True
            )
        )
        return answers[-1]

    monkeypatch.setattr(shells, "enter", run)
    monkeypatch.setattr(machines, "console_output", lambda *_: TEXT)

    written = journals.read(None, settings, service, MACHINE)  # type: ignore[arg-type]

    assert SHOWN == written.console
    options, _, journal = written.journal.partition("\n")
    assert (True, SHOWN) == (options.startswith("--unit=web.service --boot"), journal)
    assert WORD not in json.dumps(json.loads(answers[0].stdout)["marks"])


@pytest.mark.parametrize(
    "answer",
    [
        CompletedProcess([], 255, "", f"no route; {WORD}"),
        CompletedProcess([], 0, "{}", WORD),
        InputError("the key is missing", "launch anew"),
    ],
)
def test_who_does_not_tell_is_masked_blindly(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, answer: CompletedProcess[str] | Exception
) -> None:
    """Where the machine doesn't say which words are secret, every long one is hidden."""
    monkeypatch.setattr(shells, "enter", enter(answer))
    monkeypatch.setattr(machines, "console_output", lambda *_: TEXT)

    written = journals.read(None, settings, SERVICE, MACHINE)  # type: ignore[arg-type]

    assert WORD[:20] not in written.console + written.journal
    assert "initial password:" in written.console
