"""Have Docker remember what an image's tags and attributes are now, and that it is gone, for a state that gets lost.

What an image's body carries was written when the image was made. What is said of it later, its proof for one, would be
gone with the state; and an image that was deregistered would be there again, because its snapshot may still be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from bakehouse.local.bodies import BodyError
from bakehouse.local.coalescing import Coalesced
from bakehouse.local.lifecycle import Lifecycle, record

log = logging.getLogger(__name__)

GONE = "gone"
"""What a note says, in the place of all else, of an image that was deregistered."""


class Notes:
    """Hold what Docker remembers of each image, as far as it has been asked or told."""

    def __init__(self, lifecycle: Lifecycle, restore: Callable[[], None] = lambda: None) -> None:
        """Take what lets the backends agree with the notes that are there: without that, none may be changed."""
        self._lifecycle = lifecycle
        self._restore = restore
        self._known: dict[str, dict[str, Any]] | None = None
        self.follow = Coalesced(self._follow)

    def _follow(self) -> None:
        """Let what Docker remembers agree with the images; where it is away, that is done when it is back."""
        try:
            self._restore()
            self._tell()
        except BodyError as error:
            log.warning("%s; it is noted later", error)
            self._lifecycle.refused.set()

    def _tell(self) -> None:
        bodies = self._lifecycle.bodies
        if self._known is None:
            self._known = {image_id: told for image_id, (_, told) in bodies.notes().items()}
        images, at = self._records()
        for image_id, told in images.items():
            if self._known.get(image_id) != told:
                bodies.note(image_id, told, at)
                self._known[image_id] = told

    def _records(self) -> tuple[dict[str, dict[str, Any]], int]:
        """Return what is to be remembered of each image, and the time at which it was so."""
        assert self._known is not None
        with self._lifecycle.lock:
            backends = self._lifecycle.backends()
            images = [image for backend in backends for image in backend.amis.values()]
            told = {one.id: record(one) for one in images if one.state == "available" and one.source_image_id}
            for gone in {one for backend in backends for one in backend.deleted_amis} & self._known.keys():
                told[gone] = {"id": gone, "snapshot": self._known[gone]["snapshot"], GONE: True}
            return told, time.time_ns()
