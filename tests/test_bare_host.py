"""A bare Debian 13 as the host: no packer, no docker, no gpg, no venv; its Python and ansible-core are newer.

It is a container of the base with this host's network and Docker engine: a container can have all else of its own.
HashiCorp's releases come from the tests' own server, which serves the Packer that is here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ec2_fixtures import ROOT, LocalEc2, debian_of, docker, mark
from release_fixtures import ReleaseServer, SigningKey
from samples import PACKER

from bakehouse import packers, system, tools

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

QUICK = "test_values or test_services or test_settings"
"""Quick tests that lean on Python and Ansible: validation and templates, variables, options."""


class Bare:
    """Hold a bare Debian 13 with a checkout."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for file in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, folder / file)
        shared = [path for path in (str(folder), "/var/run/docker.sock", CERTIFICATES) if Path(path).exists()]
        mounts = [part for path in shared for part in ("--volume", f"{path}:{path}")]
        ours = ["--network", "host", "--pid", "host", "--workdir", str(folder), *mounts]
        self._name = docker("run", "--detach", *ours, base, "sleep", "infinity").strip()
        # The engine runs already: the package of docker starts none.
        self("sh", "-c", "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program there, as root; fail with all that was said when it fails."""
        passed = [f"{name}={os.environ[name]}" for name in system.OUTSIDE if name in os.environ]
        given = [part for one in passed for part in ("--env", one)]
        line = ["docker", "exec", *given, self._name, *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=1500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def close(self) -> None:
        """Take it away, with its local EC2."""
        try:
            self("./inv", "local.reset", "--yes")
        finally:
            docker("rm", "--force", "--volumes", self._name)


@pytest.fixture(scope="module")
def bare(local_ec2: LocalEc2, signing_key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """Give the host, with a release server; its local EC2 has the base already, which takes a minute to make."""
    folder = tmp_path_factory.mktemp("bare") / "checkout"
    folder.mkdir()
    server, packer = ReleaseServer(signing_key), tools.find(tools.TOOLS["packer"])
    server.release("packer", tools.dotted(packer.version), packer.path.read_bytes())
    for plugin in packers.needs() if PACKER in os.environ else ():
        file = plugin.place(Path(os.environ[PACKER]) / "plugins")
        server.release(plugin.product, plugin.version, file.read_bytes(), file.name)
    made = Bare(folder, debian_of(local_ec2))
    try:
        server.configure(folder / "packer", tools.dotted(packer.version))
        its = LocalEc2(folder / ".bakehouse")
        its.state.mkdir(mode=0o700)
        its.borrow_base(local_ec2)
        yield made
    finally:
        made.close()
        server.close()
    assert docker("ps", "--all", "--quiet", "--filter", f"label=bakehouse.checkout={mark(its.state)}") == ""


def test_doctor(bare: Bare) -> None:
    """The first task makes the venv; of each program that is missing doctor says that the kit gets it."""
    for name in ("packer", "docker", "gpg", "git"):
        bare("sh", "-c", f"! command -v {name}")
    done = bare("./inv", "doctor", "--json")
    rows = {row["tool"]: row for row in json.loads(done.stdout)}

    assert "installing python3-venv" in done.stderr and "making .venv from requirements.lock" in done.stderr
    assert {"packer", "docker", "gpg"} <= {name for name, row in rows.items() if row["found"] == "missing"}
    assert "the kit fetches HashiCorp's" in rows["packer"]["remedy"]
    assert [] == [name for name, row in rows.items() if row["blocking"]]
    assert tools.parsed(rows["ansible-playbook"]["found"]) >= (2, 21)


def test_a_bake(bare: Bare) -> None:
    """The first bake gets Packer from the release server, all else from Debian, and makes an image."""
    done = bare("./inv", "bake", "--recipe", "nginx")

    assert done.stdout.startswith("ami-")
    assert "fetching packer" in done.stderr and "installing gpg" in done.stderr and "installing docker" in done.stderr
    log = "".join(log.read_text() for log in (bare.folder / ".bakehouse/runs").rglob("packer.log"))
    assert "Nginx is ready to start" in log
    warned = re.findall(r"\[DEPRECATION WARNING\]: (.*)", log)
    assert [] == [one for one in warned if "strategy plugins" not in one]  # the recipe asks for Mitogen's


def test_the_quick_tests(bare: Bare, request: pytest.FixtureRequest) -> None:
    """A part of the quick tests passes there; with ``--full`` it is all of them."""
    if request.config.getoption("full"):
        done = bare("sh", "-c", ". .venv/bin/activate; exec pytest -n 2 -m 'not docker'")
    else:
        done = bare("./inv", "test", "--only", QUICK)
    assert " passed" in done.stdout
