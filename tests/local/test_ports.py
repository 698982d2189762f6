"""The gate by itself, on this host: what it says when it can't have a port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from bakehouse.local import gate
from bakehouse.local.ports import taken


def test_without_nft_a_port_that_is_taken_everywhere_is_refused(tmp_path: Path) -> None:
    """Where no fence can be put up the gate says why, and that the host's program has the port."""
    with socket.create_server(("0.0.0.0", 0)) as host, socket.create_server(("0.0.0.0", 0)) as machine:
        port = host.getsockname()[1]
        table = {"127.255.255.7": {"to": "127.0.0.1", "pid": os.getpid(), "rules": [[port, port, ["127.0.0.1/32"]]]}}
        told = subprocess.run(
            [sys.executable, "-I", gate.__file__, "bakehouse-test", "127.255.255.0/24"],
            input=json.dumps(table) + "\n",
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        assert taken([port, machine.getsockname()[1], 1]) == sorted([port, machine.getsockname()[1]])
    answer = json.loads(told.stdout)
    assert list(answer["failed"]) == [f"127.255.255.7:{port}"]
    assert "in use" in answer["failed"][f"127.255.255.7:{port}"]
    assert answer["unfenced"] == "nft: No such file or directory"
