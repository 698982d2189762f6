"""Keys: the key of the stand-ins signs, and no agent of gpg's is left to take the connection of the next gpg."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bakehouse.local.packages.keys import Key

pytestmark = pytest.mark.skipif(not shutil.which("gpg"), reason="there is no gpg here")

LATE = """#!/bin/sh
case "$*" in
    *--kill*) (sleep 0.3; exec {gpgconf} "$@") >/dev/null 2>&1 & ;;
    *--remove-socketdir*) ;;
    *) exec {gpgconf} "$@" ;;
esac
"""


def test_an_agent_that_is_slow_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections for a while after it was told to end, and drops them: the next gpg would fail."""
    gpgconf = tmp_path / "bin/gpgconf"
    gpgconf.parent.mkdir()
    gpgconf.write_text(LATE.format(gpgconf=shutil.which("gpgconf")))
    gpgconf.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gpgconf.parent}{os.pathsep}{os.environ['PATH']}")
    key = Key(tmp_path / "key")

    fingerprint = key.make()

    assert [] == list((tmp_path / "key").glob("S.gpg-agent"))
    assert b"BEGIN PGP SIGNATURE" in key.sign(b"x")
    assert fingerprint == key.make()
