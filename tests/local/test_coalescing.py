"""Work that is done once for all who ask for it meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from ec2_fixtures import wait

from bakehouse.local.coalescing import Coalesced


class Slow:
    """Work that stands still in its first run until it's let go."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.runs = 0
        self.begun = Event()
        self.go = Event()
        self._fault = fault

    def __call__(self) -> None:
        self.runs += 1
        self.begun.set()
        assert self.go.wait(100)
        if self._fault and self.runs == 1:
            raise self._fault


def test_those_who_wait_share_one_run_that_begins_after_they_asked() -> None:
    """Seven who come during a run wait for the next one, and that serves them all."""
    work = Slow()
    together = Coalesced(work)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together)
        assert work.begun.wait(100)
        others = [pool.submit(together) for _ in range(7)]
        wait(lambda: together._asked == 8)
        assert not any(other.done() for other in others)
        work.go.set()
        for one in (first, *others):
            one.result(100)
    assert work.runs == 2


def test_one_after_the_other_each_has_its_own_run() -> None:
    """A run that is over serves nobody who comes later."""
    work = Slow()
    work.go.set()
    together = Coalesced(work)
    together()
    together()
    assert work.runs == 2


def test_a_fault_is_its_callers_and_the_next_one_tries_again() -> None:
    """What a run raises isn't taken for done."""
    work = Slow(OSError("no space"))
    together = Coalesced(work)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(together)
        assert work.begun.wait(100)
        second = pool.submit(together)
        work.go.set()
        with pytest.raises(OSError, match="no space"):
            first.result(100)
        second.result(100)
    assert work.runs == 2
