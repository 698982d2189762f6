"""Repositories: what one offers now is told by its index."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bakehouse.baking import plans
from bakehouse.baking.plans import UNREACHABLE


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder over HTTP, and return its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_states(tmp_path: Path, served: str) -> None:
    """What is offered is told by the index at its URL."""
    (tmp_path / "InRelease").write_text("an index")

    state = "sha256:13f28396e236ef752a2f8e7911c5ecc6750e3c9b96114475b260cc73cdd06d3a"  # as sha256sum tells
    assert {f"{served}/InRelease": state} == plans.states([f"{served}/InRelease"])


@pytest.mark.parametrize(
    "index", ["http://127.0.0.1:9/InRelease", "http://no.invalid/InRelease", "http://x:y z", "no URL", ""]
)
def test_unreachable(index: str) -> None:
    """An index where nobody answers, or that has no URL, can't be reached."""
    assert {index: UNREACHABLE} == plans.states([index])


def test_without_an_index(served: str) -> None:
    """A repository that has no index at the place can't be reached either."""
    assert {f"{served}/InRelease": UNREACHABLE} == plans.states([f"{served}/InRelease"])
