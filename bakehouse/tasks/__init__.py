"""The tasks: each is its name, its help, one call into the package and one print.

The package is imported where it is used, so that listing the tasks costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import invoke.tasks

from bakehouse.errors import InputError
from bakehouse.settings import RECIPE

if TYPE_CHECKING:
    from bakehouse.settings import Settings

task = partial(invoke.tasks.task, auto_shortflags=False)

ACCOUNT = {"account": "where: local (the default) or the name of an AWS profile"}

WHICH = {"recipe": f"a recipe's name: {RECIPE} (the default) or another file of packer/recipes", **ACCOUNT}

MACHINE = {"machine": "a machine's ID; the newest one by default", **WHICH}

JSON = {"json": "print JSON instead"}

CHANNEL = {"channel": "the channel's name; stable by default", "why": "the reason, for the history"}

CHANGE = {"dry-run": "only say what would be done", "yes": "don't ask"}


def load_settings(account: str = "", recipe: str = "") -> Settings:
    """Return the settings that a task's flags, the environment and the defaults make."""
    from bakehouse import settings

    return settings.load(account, recipe)


def same_recipe(settings: Settings) -> str:
    """Return the flag by which the next task means the same recipe."""
    return "" if settings.recipe == RECIPE else f" --recipe {settings.recipe}"


def one_of(flag: str, word: str, *words: str) -> str:
    """Return the word that a flag was given; raises InputError when it is none of the known words."""
    if word not in words:
        raise InputError(f"--{flag} {word} is not known", f"known: {', '.join(words)}")
    return word


def agreed(plan: Sequence[str], question: str, *, dry_run: bool, yes: bool) -> bool:
    """Show a plan and return whether to go on with it, which a dry run never does."""
    from bakehouse import console

    if plan and not dry_run:
        return console.confirm(plan, question, yes)
    for line in plan or ["there is nothing to do"]:
        console.say(line)
    return False
