"""One thing at a time, done once for all who ask for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock


class Coalesced:
    """Call ``work`` so that each caller returns after a run of it that began later than its call.

    Whoever comes while it runs waits for the next run, which serves all of them. What a run raises its caller gets;
    the next one of those that wait tries again.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._counting = Lock()
        self._working = Lock()
        self._asked = 0
        self._served = 0

    def __call__(self) -> None:
        """Have the work done."""
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._working:
            if mine <= self._served:
                return
            with self._counting:
                newest = self._asked
            self._work()
            self._served = newest
