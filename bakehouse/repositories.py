"""Repositories: what those offer just now from which images were baked, told by the indexes that their owners sign."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.request import urlopen

from bakehouse import traits

UNREACHABLE = "can't be reached"
"""What stands in place of the digest of what a repository offers."""

_SECONDS = 5


def states(indexes: Collection[str]) -> dict[str, str]:
    """Return for the URL of each repository's index the digest of what is offered there, or UNREACHABLE.

    The signature is left to the machine: here an index is compared and nothing is taken from it.
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(indexes, pool.map(_state, indexes), strict=True))


def _state(index: str) -> str:
    try:
        with urlopen(index, timeout=_SECONDS) as answer:
            return traits.offered(answer.read())
    except (OSError, ValueError, HTTPException):
        return UNREACHABLE
