"""What the kit starts and asks is the same in every shell and every home folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hostile import PROXIES, VARIABLES, home

from bakehouse import accounts, settings, system
from bakehouse.accounts import Account, lending
from bakehouse.baking import bakes, orders
from bakehouse.machines import probes
from bakehouse.proving import trials
from bakehouse.runs import Run
from bakehouse.settings import ROOT, Settings


def children(account: Account, there: Settings, run: Run) -> dict[str, Mapping[str, str]]:
    """Return the environment of each kind of program that the kit starts on the account."""
    with lending.environ(account, *system.ANSIBLE) as lent:
        packer = bakes.environment(lent, run, debug=False)
    return {
        "any": system.environment(),
        "docker": system.environment(*system.DOCKER),
        "packer": packer,
        "molecule": trials._environment(account, there, "debian-13", run, run.folder),
        "a probe's Ansible": probes._environment(there, run),
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run with nothing in its folder."""
    return Run("20261122-081500-a1b2", tmp_path)


@pytest.mark.local
@pytest.mark.parametrize(("name", "value"), VARIABLES.items(), ids=list(VARIABLES))
def test_no_program_gets_the_variable(
    account: Account, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """On the account local each kind of program has the same environment with the variable as without it."""
    expected = children(account, settings.load(), run)
    monkeypatch.setenv(name, value)

    assert expected == children(account, settings.load(), run)


@pytest.mark.local
@pytest.mark.parametrize("name", [name for name in VARIABLES if name.startswith("AWS_") or name in PROXIES])
def test_the_account_local_is_reached(account: Account, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No setting of AWS's and no proxy comes between the kit and the local EC2, nor changes how it is asked."""
    monkeypatch.setenv(name, VARIABLES[name])

    there = accounts._local(account.variables)

    assert "arn:aws:sts::123456789012:user/moto" == there.caller_arn()
    told = there.client("sts")._client.meta
    assert ("us-east-1", "standard") == (told.region_name, told.config.retries["mode"])
    with system.open_url(f"{account.endpoint}/moto-api/data.json", 10) as answer:
        assert 200 == answer.status


@pytest.mark.parametrize("name", [name for name in VARIABLES if name.startswith("GIT_")])
def test_git_tells_the_same_commit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The commit is the checkout's, wherever git's own variables point."""
    expected = orders.commit_of(ROOT)
    monkeypatch.setenv(name, VARIABLES[name])

    assert expected == orders.commit_of(ROOT)


@pytest.mark.parametrize("name", [name for name in VARIABLES if name not in PROXIES])
def test_what_fetches_gets_proxies_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A program that fetches from outside gets no variable but those that say how to get there."""
    expected = system.environment(*system.OUTSIDE)
    monkeypatch.setenv(name, VARIABLES[name])

    assert expected == system.environment(*system.OUTSIDE)


def test_the_persons_proxies_serve_what_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies, certificates, Docker's host and the vault's password file pass where they are asked for."""
    wanted = {"https_proxy": "http://proxy:3128", "SSL_CERT_FILE": "/ca", "DOCKER_HOST": "tcp://d", "HOME": "/home/a"}
    wanted["ANSIBLE_VAULT_PASSWORD_FILE"] = "/home/a/vault"  # noqa: S105
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)

    told = system.environment(*system.OUTSIDE, *system.DOCKER, *system.ANSIBLE)

    assert wanted == {name: told[name] for name in wanted}
    assert ["HOME"] == [name for name in wanted if name in system.environment()]


def test_programs_are_found_in_the_venv_first_and_never_in_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH begins with the venv; what is relative in it, or empty, is left out."""
    monkeypatch.setenv("PATH", f".::/usr/bin:bin:{ROOT}")

    venv, *others = system.environment()["PATH"].split(":")

    assert (venv, "python") == (str(Path(venv).absolute()), next(Path(venv).glob("python")).name)
    assert ["/usr/bin", str(ROOT)] == others


def test_only_replaces_the_environment_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that passes on all of our environment has only what was chosen, and then it is as before."""
    monkeypatch.setenv("SECRET", "a secret")

    def told() -> list[str]:
        return sorted(
            subprocess.run(
                ["env"], env=dict(os.environ), capture_output=True, text=True, check=True
            ).stdout.splitlines()
        )

    with contextlib.suppress(ZeroDivisionError), system.only({"PATH": "/usr/bin:/bin", "A": "b"}):
        assert ["A=b", "PATH=/usr/bin:/bin"] == told()
        raise ZeroDivisionError
    assert "SECRET=a secret" in told()


def test_temporary_folders_are_short_and_nobody_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TMPDIR is taken, then the person's runtime folder; /tmp where they are too long for sockets, missing or open."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        for name in ("own", "open", "mine"):
            Path(short, name).mkdir(mode=0o755 if name == "open" else 0o700)
        Path(short, "link").symlink_to(f"{short}/own")
        (tmp_path / ("long" * 20)).mkdir()
        for wanted, runtime, expected in (
            (f"{short}/mine", f"{short}/own", f"{short}/mine"),
            (f"{tmp_path}/{'long' * 20}", f"{short}/own", f"{short}/own"),
            ("/nowhere", f"{short}/own", f"{short}/own"),
            ("", f"{short}/own", f"{short}/own"),
            ("", f"{short}/open", "/tmp"),
            ("", f"{short}/link", "/tmp"),
            ("", f"{tmp_path}/{'long' * 20}", "/tmp"),
            ("relative", "", "/tmp"),
        ):
            monkeypatch.setenv("TMPDIR", wanted)
            monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
            assert expected == system.temporary(), (wanted, runtime)


def test_ssh_pays_no_heed_to_the_persons_configuration(tmp_path: Path, settings: Settings, monkeypatch: Any) -> None:
    """With a hostile ~/.ssh/config, ssh -G with our options tells the same as without."""
    from samples import MACHINE

    from bakehouse.machines import shells

    line = ["ssh", "-G", *shells.options(settings, MACHINE), "host"]
    expected = system.call(line, system.environment(), capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("HOME", str(home(tmp_path / "home")))

    assert expected == system.call(line, system.environment(), capture_output=True, text=True, check=True).stdout
    assert "proxycommand" not in expected
