"""The local EC2 on a disk that is full or can't be written: one line that names the file, exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ec2_fixtures import ROOT

# Run in a mount namespace of its own, with the state folder on a small disk.
DRIVER = """
import json, os, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from bakehouse import local, settings, tools
from bakehouse.errors import BakehouseError
from bakehouse.local import checkouts

place, how, used = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "used"
policy = place.parent / "policy.json"
policy.write_text('{"Version": "2012-10-17", "Statement": []}')
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
engine = SimpleNamespace(info=lambda: {"SecurityOptions": []})
local._bodies = lambda given: SimpleNamespace(docker=engine, answers=lambda: bool(local.checkout(given)) and False)
local._INOTIFY_FILE = ""
tools.ensure = lambda *_: None
checkouts.register = lambda *_: None
os.environ.update(BAKEHOUSE_STATE=str(place), DOCKER_HOST=f"unix://{place}/none")
given = settings.load()
if used:
    local.up(given)
    local._end(given)
if how == "full":
    with (place / "filling").open("wb", buffering=0) as filling:
        for size in (1 << 16, 1):
            try:
                while filling.write(bytes(size)):
                    pass
            except OSError:
                pass
else:
    deadline = time.monotonic() + 20  # the last threads of the server may still have its files
    while subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)
told = {}
works = {
    "status": lambda: local.status(given),
    "enforce": lambda: local.enforce(given, str(policy)),
    "lack": lambda: local.lack(given, "t3.small"),
    "up": lambda: local.up(given),
    "down": lambda: local.down(given),
    "reset": lambda: local.reset(given),
}
for name, work in works.items():
    try:
        work()
        told[name] = [0, "", ""]
    except BakehouseError as error:
        told[name] = [error.code, error.text, error.hint]
    except BaseException as error:
        told[name] = [1, repr(error), ""]
print(json.dumps(told))
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="no disk of its own can be had")
@pytest.mark.parametrize("used", ["new", "used"])
@pytest.mark.parametrize(("how", "why"), [("full", "No space left on device"), ("read-only", "Read-only file system")])
def test_a_disk_that_can_not_be_used(tmp_path: Path, how: str, why: str, used: str) -> None:
    """Every work of the local EC2 ends well or names the file in one line, exit code 2, whatever was there before."""
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    line = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", DRIVER, str(place), how, used]

    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)

    assert 0 == done.returncode, done.stderr
    told = json.loads(done.stdout)
    assert {"status", "enforce", "lack", "up", "down", "reset"} == set(told)
    refused = {name: (code, text) for name, (code, text, _) in told.items() if code}
    assert {"enforce", "lack", "up"} <= set(refused), told
    for name, (code, text) in refused.items():
        assert (2, True, True) == (code, why in text, str(place) in text or "the state folder" in text), (name, told)
