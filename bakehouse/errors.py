"""What can go wrong, as a tree.

* BakehouseError      the root: one line that names the thing, a hint, an exit code
  + InputError        (2) what the user told us is wrong
  + ToolError         (2) a program that is needed is missing, too old or doesn't start
    + RegistryError   (2) no image registry can be reached
  + AccountError      (2) credentials, region or endpoint of the account
  + NotFoundError     (2) no image, machine, base or recipe of that name
  x CloudError        (1) the EC2 API refused; carries AWS's own error code
    + DeadlineError   (1) a named condition did not come true in time
  x BakeError         (1) Packer or Ansible failed
  x VerdictError      (1) a machine or image is not what it should be

"+" marks what the user can mend by typing something else, "x" what has to be looked into.
The errors are Invoke's ``Exit``, so that Invoke itself prints them and exits with their code.
"""

from __future__ import annotations

import os
import traceback

from invoke.exceptions import Exit


class BakehouseError(Exit):
    """Say in one line what is wrong with which thing, and in another what to do.

    Attributes: text, the line; hint, the advice (may be empty); code, the exit code.
    """

    code = 1

    def __init__(self, text: str, hint: str = "") -> None:
        Exception.__init__(self, text)
        self.text = text
        self.hint = hint

    @property
    def message(self) -> str:  # type: ignore[override]  # Invoke reads it, nobody sets it
        """Return what Invoke prints: the line and its hint, after a traceback where one was asked for."""
        lines = [f"error: {self.text}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        if os.environ.get("BAKEHOUSE_DEBUG"):
            lines.insert(0, "".join(traceback.format_exception(self)).rstrip())
        return "\n".join(lines)


class InputError(BakehouseError):
    """Refuse what the user told us."""

    code = 2


class ToolError(BakehouseError):
    """Refuse to go on without a program that is missing, too old or doesn't start."""

    code = 2


class RegistryError(ToolError):
    """Say that something needs an image registry, and that none can be reached."""


class AccountError(BakehouseError):
    """Refuse an account: its credentials, its region or its endpoint."""

    code = 2


class NotFoundError(BakehouseError):
    """Say that there is no such image, machine, base or recipe."""

    code = 2


class CloudError(BakehouseError):
    """Pass on what the EC2 API refused; ``aws_code`` is AWS's own error code."""

    def __init__(self, text: str, hint: str = "", aws_code: str = "") -> None:
        super().__init__(text, hint)
        self.aws_code = aws_code


class DeadlineError(CloudError):
    """Say which condition did not come true in time."""


class BakeError(BakehouseError):
    """Say which step of Packer or Ansible failed, and why."""


class VerdictError(BakehouseError):
    """Say that a machine or an image is not what it should be."""
