"""Journals: what a machine wrote to its console and its journal, without the secrets of its service."""

from __future__ import annotations

import inspect
import json
import re
import secrets
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from bakehouse import machines
from bakehouse.accounts import Account
from bakehouse.errors import CloudError, InputError, NotKnownError
from bakehouse.machines import Machine, shells
from bakehouse.recipes.services import Service
from bakehouse.records import inspector
from bakehouse.settings import Settings

_HIDDEN = "(secret)"
Mark = tuple[str, int]
"""By what a secret is recognized: its salted digest, and its length in characters."""

_LIKE_A_SECRET = re.compile(r"[\w+/=-]{20,}")


@dataclass(frozen=True)
class Written:
    """Hold what a machine wrote; its secrets are hidden in both texts."""

    console: str
    journal: str


def read(account: Account, settings: Settings, service: Service, machine: Machine) -> Written:
    """Return what a machine wrote to its console, and the last lines of its service's journal.

    A machine that can't be entered doesn't tell its secrets: then every long word of its console is hidden.
    """
    salt = secrets.token_hex(16)
    asked = json.dumps({"salt": salt, "secrets": [*service.secrets, *filter(None, [service.password_file])]})
    command = shlex.join(["sudo", "python3", "-c", inspect.getsource(inspector), "journal", service.unit, asked])
    output = machines.console_output(account, machine)
    try:
        answer = shells.enter(settings, machine, command)
        told = json.loads(answer.stdout)
        journal, marks = str(told["journal"]), [(str(digest), int(length)) for digest, length in told["marks"]]
    except (InputError, CloudError, NotKnownError) as error:
        return Written(masked_blindly(output), error.text)
    except (ValueError, KeyError, TypeError):
        return Written(masked_blindly(output), masked_blindly(answer.stderr))
    return Written(masked(output, salt, marks), masked(journal, salt, marks))


def masked(text: str, salt: str, marks: Iterable[Mark]) -> str:
    """Return a text with ``(secret)`` in place of each secret; ``marks`` are their salted digests and lengths.

    A secret is found wherever a word could begin, with whatever stands before and behind it.
    """
    of: dict[int, set[str]] = {}
    for digest, length in marks:
        of.setdefault(length, set()).add(digest)
    for length, digests in sorted(of.items(), reverse=True):
        begun = 0
        while begun + length <= len(text):
            piece = text[begun : begun + length]
            starts = begun == 0 or not (text[begun - 1].isalnum() and piece[0].isalnum())
            if starts and inspector.digest(salt.encode(), piece.encode(errors="replace")) in digests:
                text = f"{text[:begun]}{_HIDDEN}{text[begun + length :]}"
                begun += len(_HIDDEN)
            else:
                begun += 1
    return text


def masked_blindly(text: str) -> str:
    """Return a text with ``(secret)`` in place of each long word, because it isn't known which words are secret."""
    return _LIKE_A_SECRET.sub(_HIDDEN, text)
