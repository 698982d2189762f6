"""Have Docker remember what an image's tags and attributes are now, for the case that the state is lost.

What an image's body carries was written when the image was made. What is said of it later, its proof for one, would be
gone with the state.
"""

from __future__ import annotations

import logging
from typing import Any

from bakehouse.local.bodies import BodyError
from bakehouse.local.coalescing import Coalesced
from bakehouse.local.lifecycle import Lifecycle, record

log = logging.getLogger(__name__)


class Notes:
    """Hold what Docker remembers of each image, as far as it has been asked or told."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._known: dict[str, dict[str, Any]] | None = None
        self.follow = Coalesced(self._follow)

    def _follow(self) -> None:
        """Let what Docker remembers agree with the images; where it is away, that is done when it is back."""
        try:
            self._tell()
        except BodyError as error:
            log.warning("%s; it is noted later", error)
            self._lifecycle.refused.set()

    def _tell(self) -> None:
        bodies = self._lifecycle.bodies
        if self._known is None:
            self._known = bodies.notes()
        images = self._records()
        for image_id in [known for known in self._known if known not in images]:
            bodies.unnote(image_id)
            del self._known[image_id]
        for image_id, told in images.items():
            if self._known.get(image_id) != told:
                bodies.note(image_id, told)
                self._known[image_id] = told

    def _records(self) -> dict[str, dict[str, Any]]:
        with self._lifecycle.lock:
            images = [image for backend in self._lifecycle.backends() for image in backend.amis.values()]
            return {one.id: record(one) for one in images if one.state == "available" and one.source_image_id}
