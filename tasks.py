"""The namespace of the tasks, for Invoke. What each does is in bakehouse/tasks/."""

from __future__ import annotations

import invoke.parser.parser
from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser.context import ParserContext

from bakehouse.errors import InputError
from bakehouse.tasks import channels, checkout, images, local, machines


class UsageError(ParseError, InputError):
    """Refuse a command line that can't be read; Invoke's own error would exit 1, as a failed verdict does."""

    message = ""  # Invoke prints an error of the command line as such, and must not print it again as an exit

    def __init__(self, told: str, context: ParserContext | None = None) -> None:
        name = context.name if context else None
        InputError.__init__(self, told, f"./inv --help {name}" if name else "./inv --list")
        self.context = context

    def __str__(self) -> str:
        return f"error: {self.text}\nhint: {self.hint}"


setattr(invoke.parser.parser, "ParseError", UsageError)  # noqa: B010, as mypy would not have it assigned

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
