"""Journals: what a machine wrote to its console and its journal, without the secrets of its service."""

from __future__ import annotations

import inspect
import json
import re
import secrets
import shlex
from collections.abc import Collection
from dataclasses import dataclass

from bakehouse import machines
from bakehouse.accounts import Account
from bakehouse.errors import CloudError, InputError
from bakehouse.machines import Machine, shells
from bakehouse.recipes.services import Service
from bakehouse.records import inspector
from bakehouse.settings import Settings

_HIDDEN = "(secret)"
_WORDS = (re.compile(r"\S+"), re.compile(r"[\w+/.~-]{4,}"))  # a word may stand in quotes, or behind a colon
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
        journal, hidden = str(told["journal"]), [str(one) for one in told["secrets"]]
    except (InputError, CloudError) as error:
        return Written(masked_blindly(output), error.text)
    except (ValueError, KeyError, TypeError):
        return Written(masked_blindly(output), masked_blindly(answer.stderr))
    return Written(masked(output, salt, hidden), masked(journal, salt, hidden))


def masked(text: str, salt: str, hidden: Collection[str]) -> str:
    """Return a text with ``(secret)`` in place of each word whose salted digest is ``hidden``."""

    def shown(word: re.Match[str]) -> str:
        return _HIDDEN if inspector.digest(salt.encode(), word[0].encode()) in hidden else word[0]

    for words in _WORDS:
        text = words.sub(shown, text)
    return text


def masked_blindly(text: str) -> str:
    """Return a text with ``(secret)`` in place of each long word, because it isn't known which words are secret."""
    return _LIKE_A_SECRET.sub(_HIDDEN, text)
