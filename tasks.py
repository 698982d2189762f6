"""Invoke's collection of all tasks. The tasks themselves are in bakehouse/tasks/."""

from __future__ import annotations

import invoke.parser.parser
from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser.context import ParserContext

from bakehouse.errors import InputError
from bakehouse.tasks import channels, checkout, images, local, machines


class UsageError(ParseError, InputError):
    """Say that the command line is wrong, and exit with 2; Invoke's own would exit with 1, as a failed verdict does."""

    message = ""  # Invoke prints a ParseError itself; as an Exit it would print it a second time

    def __init__(self, told: str, context: ParserContext | None = None) -> None:
        name = context.name if context else None
        InputError.__init__(self, told, f"./inv --help {name}" if name else "./inv --list")
        self.context = context

    def __str__(self) -> str:
        return f"error: {self.text}\nhint: {self.hint}"


setattr(invoke.parser.parser, "ParseError", UsageError)  # noqa: B010, because mypy refuses the assignment

ns = Collection(
    *(
        images.bake,
        images.prove,
        machines.launch,
        machines.probe,
        checkout.new_recipe,
        machines.ssh,
        machines.password,
        machines.open_,
        machines.machines_,
        images.images_,
        channels.promote,
        channels.rollback,
        channels.channels_,
        channels.outputs,
        images.show,
        images.diff,
        images.copy,
        images.share,
        machines.terminate,
        channels.retire,
        channels.revoke,
        channels.restore,
        channels.cleanup,
        checkout.doctor,
        checkout.lint,
        checkout.test,
        checkout.try_role,
        checkout.bench,
    ),
    Collection("local", local.up, local.down, local.status, local.reset),
)
