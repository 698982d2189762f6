"""Keep a document in generations: files that tell whether they are sound, of which the newest sound one counts.

A generation is a line with the form's number and the SHA-256 of all that follows, a line of JSON (its head), and the
document. It is written whole under another name before it gets its own. So a kill or a full disk costs no earlier one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse.errors import ToolError

FORM = 2
"""The number of the form that is written. Form 1 was a bare pickle."""

_KEPT = 3
_NAME = re.compile(r"[0-9]{12}")
_LINE = re.compile(rb"bakehouse-state ([0-9]{1,9}) ([0-9a-f]{64})\n")


class DamagedError(Exception):
    """Say why a generation is not sound."""


@dataclass(frozen=True)
class Generation:
    """Hold one generation.

    Attributes:
        head: what was said of the document when it was written, such as the time and the kit's version.
        document: the document.
    """

    head: Mapping[str, Any]
    document: bytes


class Generations:
    """Keep the last three generations of a document in a folder, which is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = 0

    def add(self, head: Mapping[str, Any], document: bytes) -> None:
        """Write the next generation, and return when it is on the disk; the oldest goes.

        Raises OSError when it can't be written: then all earlier ones are as they were.
        """
        self._last = max(self._last, *(int(file.name[:12]) for file in self._all()), 0) + 1
        rest = json.dumps(head).encode() + b"\n" + document
        fresh = self.folder / f"{self._last:012}.new"
        try:
            with fresh.open("wb") as writing:
                writing.write(f"bakehouse-state {FORM} {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
                writing.flush()
                os.fsync(writing.fileno())
            os.replace(fresh, fresh.with_suffix(""))
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise
        _sync(self.folder)
        for old in self.files()[_KEPT:]:
            old.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """Return the generations' files, the newest first."""
        return sorted((file for file in self._all() if _NAME.fullmatch(file.name)), reverse=True)

    def read(self, file: Path) -> Generation:
        """Return what a generation's file holds.

        Raises DamagedError when it is not sound, and ToolError when a newer kit has written it.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DamagedError(f"it can't be read ({error.strerror})") from error
        line, _, rest = content.partition(b"\n")
        found = _LINE.fullmatch(line + b"\n")
        if not found:
            raise DamagedError("it does not begin as one")
        if int(found[1]) > FORM:
            raise ToolError(
                f"the state in {self.folder} was written by a newer kit, in form {int(found[1])}",
                "use that kit, or ./inv local.reset",
            )
        if int(found[1]) < FORM:
            raise DamagedError(f"it has form {int(found[1])}, which was no generation's")
        if hashlib.sha256(rest).hexdigest() != found[2].decode():
            raise DamagedError("its checksum is wrong")
        head, _, document = rest.partition(b"\n")
        try:
            return Generation(json.loads(head), document)
        except ValueError as error:
            raise DamagedError(f"its head is no JSON ({error})") from error

    def set_aside(self, file: Path) -> Path:
        """Give a generation that can't be used a name that tells so, and return it."""
        aside = file.with_name(f"{file.name}.damaged")
        os.replace(file, aside)
        return aside

    def _all(self) -> Iterator[Path]:
        """Yield the files of all generations, also of those that were set aside."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            yield from (file for file in self.folder.iterdir() if _NAME.match(file.name))
        except OSError as error:
            raise ToolError(f"the state folder {self.folder} can't be used: {error.strerror}", "mend it") from error


def _sync(folder: Path) -> None:
    """Return when a folder's names are on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
