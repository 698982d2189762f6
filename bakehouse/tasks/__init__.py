"""Tasks: what a person types. Each task is a name, its help, one call into the package and one print.

Each task imports the package when it runs, so that listing the tasks is fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import invoke.tasks

from bakehouse import endings
from bakehouse.errors import InputError
from bakehouse.settings import RECIPE

if TYPE_CHECKING:
    from bakehouse.settings import Settings

SHORT = {"account": "a", "dry-run": "n", "recipe": "r", "yes": "y"}
"""The short form of each flag that has one."""


class KitTask(invoke.tasks.Task[Any]):
    """Hold a task of ours: one of Invoke's, with examples (what may stand behind its name) and our short flags.

    Each ends in one line when a signal stops it.
    """

    def __init__(self, body: Callable[..., Any], examples: Sequence[str] = ("",), **how: Any) -> None:
        super().__init__(body, auto_shortflags=False, **how)
        self.examples = examples

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Run the task; raises StoppedError when a signal stops it."""
        place = "local." * self.body.__module__.endswith(".local")
        with endings.answering(), endings.obedient(f"./inv {place}{self.name}"):
            return super().__call__(*arguments, **more)

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """Return how Invoke reads the argument of this name."""
        told = super().arg_opts(name, default, taken_names)
        flag = told["names"][0]
        return {**told, "names": [flag, SHORT[flag]]} if flag in SHORT else told


task = partial(invoke.tasks.task, klass=KitTask)

ACCOUNT = {"account": "the account: local (the default) or the name of an AWS profile"}

WHICH = {"recipe": f"the recipe's name: {RECIPE} (the default) or another one in packer/recipes", **ACCOUNT}

MACHINE = {"machine": "the machine's ID; the newest machine by default", **WHICH}

JSON = {"json": "print JSON instead"}

CHANNEL = {"channel": "the channel's name; stable by default", "why": "the reason, which the history keeps"}

CHANGE = {"dry-run": "only say what would be done", "yes": "do it without asking"}


OWNER = {"owner": "whose it is, as its tag tells others; you by default, by your ARN"}

VAULT = {"vault-password-file": "the file with the password of ansible-vault; ANSIBLE_VAULT_PASSWORD_FILE by default"}

EVERYONE = {"everyone": "take the images of others too, not only your own"}


def load_settings(account: str = "", recipe: str = "", owner: str = "", vault_password_file: str = "") -> Settings:
    """Return the settings that follow from a task's flags, the environment and the defaults.

    Ansible gets the name of the vault's password file from the environment; raises InputError when it is no file.
    """
    from bakehouse import settings

    if vault_password_file:
        os.environ[settings.VAULT] = vault_password_file
    settings.check_vault()
    return settings.load(account, recipe, owner=owner)


def same_recipe(settings: Settings) -> str:
    """Return the flag that makes the next task use the same recipe; empty for the default recipe."""
    return "" if settings.recipe == RECIPE else f" --recipe {settings.recipe}"


def one_of(flag: str, word: str, *words: str) -> str:
    """Return the value of a flag; raises InputError when it is none of ``words``."""
    if word not in words:
        raise InputError(f"--{flag} {word} is not known", f"known: {', '.join(words)}")
    return word


def agreed(plan: Sequence[str], question: str, *, dry_run: bool, yes: bool) -> bool:
    """Show a plan, ask, and return whether to carry it out; always False for a dry run and for an empty plan."""
    from bakehouse import console

    if plan and not dry_run:
        return console.confirm(plan, question, yes)
    for line in plan or ["there is nothing to do"]:
        console.say(line)
    return False
