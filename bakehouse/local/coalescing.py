"""Do one work at a time, and do it once for all who ask for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock


class Coalesced:
    """Call ``work`` so that each caller returns after a run of it that began later than its call.

    Those who come while it runs wait for the next run, which serves them all. The caller whose run raises a fault gets
    the fault, and the next of those who wait tries again.
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
