"""Errors: the tree of all that can go wrong.

* BakehouseError      the root: a line that names the thing, a hint and an exit code
  + InputError        (2) what the user typed or wrote is wrong
    + UnsoundError    (2) what an account says of a resource can't be what it should be
  + ToolError         (2) a needed program is missing, too old or doesn't start
    + RegistryError   (2) no image registry can be reached
    + UnreachableError (2) a file of a program's release can't be fetched
  + AccountError      (2) the account's credentials, region or endpoint are wrong
  + NotFoundError     (2) there is no image, machine, base or recipe of that name
  x CloudError        (1) AWS refused a call; holds AWS's own error code
  x NotKnownError     (1) no answer came, or it got lost: neither a yes nor a no
    x DeadlineError   (1) a named condition did not come true in time
  x BakeError         (1) Packer or Ansible failed
  x VerdictError      (1) a machine or image is not what it should be
  x StoppedError      (130) SIGINT stopped the task; after SIGTERM the code is 143, after SIGHUP 129

"+" marks what the user can mend; "x" marks what somebody has to look into.
All are kinds of Invoke's ``Exit``, so that Invoke prints them and exits with their code.
"""

from __future__ import annotations

import os
import traceback

from invoke.exceptions import Exit


def printable(text: str) -> str:
    """Return text without what a terminal might take for a command: no control characters but tabs and line ends."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


class BakehouseError(Exit):
    """Say in one line what is wrong, and in a second line what to do.

    Attributes:
        text: the line that says what is wrong.
        hint: the line that says what to do; may be empty.
        code: the exit code.
    """

    code = 1

    def __init__(self, text: str, hint: str = "") -> None:
        Exception.__init__(self, text)
        self.text = text
        self.hint = hint

    @property
    def message(self) -> str:  # type: ignore[override]  # Invoke reads it, nobody sets it
        """Return what Invoke prints: the line and its hint, after a traceback if BAKEHOUSE_DEBUG is set."""
        lines = [f"error: {self.text}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        if os.environ.get("BAKEHOUSE_DEBUG"):
            lines.insert(0, "".join(traceback.format_exception(self)).rstrip())
        return printable("\n".join(lines))


class InputError(BakehouseError):
    """Say that something that the user typed, or wrote into a file, is wrong."""

    code = 2


class UnsoundError(InputError):
    """Say that what an account says of a resource, such as a tag, can't be what it should be; it is not used."""


class ToolError(BakehouseError):
    """Say that a program that is needed is missing, too old or doesn't start."""

    code = 2


class RegistryError(ToolError):
    """Say that an image registry is needed and none can be reached."""


class UnreachableError(ToolError):
    """Say that a file of a program's release can't be fetched; the text names its URL."""


class AccountError(BakehouseError):
    """Say that the account's credentials, its region or its endpoint are wrong."""

    code = 2


class NotFoundError(BakehouseError):
    """Say that there is no such image, machine, base or recipe."""

    code = 2


class CloudError(BakehouseError):
    """Say that AWS refused a call.

    Attributes:
        aws_code: AWS's own error code; empty when there is none.
        again: whether the call was sent more than once, so that an earlier one may have been carried out.
    """

    def __init__(self, text: str, hint: str = "", aws_code: str = "", again: bool = False) -> None:
        super().__init__(text, hint)
        self.aws_code = aws_code
        self.again = again


class NotKnownError(BakehouseError):
    """Say what was waited for and how long, when no answer came: neither a yes nor a no, and never a verdict."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.stands = ""

    def stand(self, state: str, hint: str) -> None:
        """Tell how things stand all the same, and what to do; who tells it first counts."""
        if not self.stands:
            self.stands, self.text, self.hint = state, f"{self.text}: {state}", hint or self.hint
            self.args = (self.text,)


class DeadlineError(NotKnownError):
    """Say which condition was not met in time; ``silent`` says that the last look at it got no answer."""

    def __init__(self, text: str, hint: str = "", silent: bool = False) -> None:
        super().__init__(text, hint)
        self.silent = silent


class BakeError(BakehouseError):
    """Say which step of Packer or Ansible failed, and why."""


class VerdictError(BakehouseError):
    """Say that a machine or an image is not what it should be."""


class StoppedError(BakehouseError):
    """Say that a signal of this number stopped the task, and how things stand."""

    code = 130

    def __init__(self, text: str, hint: str, number: int) -> None:
        super().__init__(text, hint)
        self.code = 128 + number  # as a shell tells it
