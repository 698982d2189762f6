"""Which Packer bakes: one on PATH, else the distribution's, else HashiCorp's release with its plugins."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from release_fixtures import PACKER, POLICY, ReleaseServer, have

from bakehouse import packers, releases, tools
from bakehouse.errors import InputError, ToolError
from bakehouse.packers import Packer
from bakehouse.settings import ROOT

GPG = {"gpg": "", "gpg-agent": "", "gpgconf": ""}
APT = {"apt-get": "exit", "apt-cache": POLICY}
LICENCE = "its licence is BUSL 1.1 (BAKEHOUSE_PACKER=1.9.5 takes the last one under MPL 2.0)"
MPL = "its licence is MPL 2.0"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the state folder of a host without a Packer and without an apt; it has gpg."""
    have(tmp_path, monkeypatch, GPG)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def put(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """Put a packer on PATH, before all others."""
    folder.mkdir()
    (folder / "packer").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "packer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "packer"


@pytest.mark.parametrize(
    ("asked", "version", "licence"), [("", "1.16.0", LICENCE), ("1.10.0", "1.10.0", LICENCE), ("1.9.5", "1.9.5", MPL)]
)
def test_a_release_is_fetched_once(
    server: ReleaseServer,
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    version: str,
    licence: str,
) -> None:
    """Without a Packer the release that is wanted comes with its plugins, its licence is said, and it's kept."""
    monkeypatch.setenv("BAKEHOUSE_PACKER", asked)
    server.release_all(version)
    (host / f"tools/packer-{version}/killed").mkdir(parents=True)

    found = packers.get(host)
    assert [found.path] == list(found.path.parent.iterdir())
    first, asked_first = capsys.readouterr().err.splitlines(), len(server.asked)

    plugins = host / "tools/plugins"
    assert Packer(host / f"tools/packer-{version}/packer", tools.parsed(version), plugins) == found
    assert {"PACKER_PLUGIN_PATH": str(plugins)} == found.environ
    assert f"fetching packer {version} (it drives the bake); {licence} ..." == first[0]
    assert [f"packer {version}", *(f"{one.product} {one.version}" for one in packers.needs())] == [
        re.sub(r"ok   (.*) from http.*", r"\1", line) for line in first[1:]
    ]
    for plugin in packers.needs():
        place = plugins / plugin.source / f"{plugin.product}_v{plugin.version}_x5.0_{releases.target()}"
        checksum = place.with_name(f"{place.name}_SHA256SUM").read_text()
        assert hashlib.sha256(place.read_bytes()).hexdigest() == checksum
    assert found == packers.get(host)
    assert ("", asked_first) == (capsys.readouterr().err, len(server.asked))


def test_a_packer_on_path_wins(
    server: ReleaseServer,
    host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A Packer on PATH is taken; if another version was asked for, that is said. That has its plugins."""
    path = put(monkeypatch, tmp_path / "own", "echo Packer v1.6.6")

    assert Packer(path, (1, 6, 6)) == packers.get(host)
    assert "" == capsys.readouterr().err
    monkeypatch.setenv("BAKEHOUSE_PACKER", "1.9.5")
    assert Packer(path, (1, 6, 6)) == packers.get(host)
    assert f"BAKEHOUSE_PACKER is 1.9.5, but {path} is on PATH and wins: it is 1.6.6\n" == capsys.readouterr().err
    assert [] == server.asked


def test_a_packer_on_path_gets_our_plugins(
    server: ReleaseServer, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Packer on PATH that contains no plugins gets those that are pinned, and no other versions of them stay."""
    path = put(monkeypatch, tmp_path / "own", "echo Packer v1.14.2")
    server.release_all()
    other = host / "tools/plugins/github.com/hashicorp/amazon" / f"packer-plugin-amazon_v9.9.9_x5.0_{releases.target()}"
    other.parent.mkdir(parents=True)
    for name in (other.name, f"{other.name}_SHA256SUM"):
        (other.parent / name).write_text("newer")
    (other.parent / "killed").mkdir()
    (other.parent / "killed/archive").touch()

    assert Packer(path, (1, 14, 2), host / "tools/plugins") == packers.get(host)
    assert 2 * len(packers.needs()) == len([file for file in (host / "tools/plugins").rglob("*") if file.is_file()])
    assert not any("/packer/" in asked for asked in server.asked)


def test_the_distributions_packer_is_installed(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the distribution has a Packer and the kit may install it, that is taken; a version asked for is fetched."""
    script = tmp_path / "0/packer"
    made = f"echo '#!/bin/sh' >{script}; echo 'echo Packer v1.6.6' >>{script}; chmod +x {script}"
    have(tmp_path, monkeypatch, {**GPG, "apt-get": f"case $* in *install*) {made} ;; esac", "apt-cache": POLICY})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    state = tmp_path / "state"
    state.mkdir()
    server.release_all("1.9.5")

    with monkeypatch.context() as asking:
        asking.setenv("BAKEHOUSE_PACKER", "1.9.5")
        assert (1, 9, 5) == packers.get(state).version
    capsys.readouterr()
    assert Packer(script, (1, 6, 6)) == packers.get(state)
    assert "installing packer (it drives the bake) ...\n" == capsys.readouterr().err


def test_a_distribution_that_has_none(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where apt turns out to have no Packer, that is said, and the release is fetched."""
    have(tmp_path, monkeypatch, {**GPG, "apt-get": "exit", "apt-cache": "exit"})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("bakehouse.system._has_lists", lambda: False)
    (tmp_path / "state").mkdir()
    server.release_all()

    assert (1, 16, 0) == packers.get(tmp_path / "state").version
    lack = "packer 1.6.6 or later is needed (it drives the bake): missing"
    assert f"{lack}, and it can't be installed: this distribution has no package packer" in capsys.readouterr().err


WAYS = "put a packer on PATH, name a mirror of the server in BAKEHOUSE_RELEASES, or take your distribution's package: "


@pytest.mark.parametrize(
    ("programs", "package"),
    [({}, "https://developer.hashicorp.com/packer/install"), (APT, "sudo apt-get install packer")],
)
def test_an_unreachable_server(
    server: ReleaseServer,
    host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    programs: dict[str, str],
    package: str,
) -> None:
    """When the release can't be fetched, one line names the URL, and the next the three ways out."""
    (tmp_path / "other").mkdir()
    have(tmp_path / "other", monkeypatch, {**GPG, **programs})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ToolError) as raised:
        packers.get(host)

    url = f"{server.url}/packer/1.16.0/packer_1.16.0_SHA256SUMS"
    lack = "packer 1.6.6 or later is needed (it drives the bake): missing"
    assert f"{lack}, and {url} can't be fetched: the server says 404 Not Found" == raised.value.text
    assert (f"{WAYS}{package}", 2) == (raised.value.hint, raised.value.code)


def test_packer_init_where_the_server_is_away(
    server: ReleaseServer, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the release server can't be reached, packer init may get the plugins; with a mirror it isn't asked."""
    places = [plugin.place(host / "tools/plugins") for plugin in packers.needs()]
    lines = [f"mkdir -p {one.parent}; echo x >{one}; echo x >{one}_SHA256SUM" for one in places]
    put(
        monkeypatch,
        tmp_path / "own",
        "\n".join(['[ "$1" = init ] || { echo Packer v1.14.2; exit; }', "PATH=/usr/bin:/bin", *lines]),
    )

    with monkeypatch.context() as mirrored:
        mirrored.setenv("BAKEHOUSE_RELEASES", server.url)
        with pytest.raises(ToolError) as raised:
            packers.get(host)
    assert (host / "tools/plugins") == packers.get(host).plugins

    url = f"{server.url}/packer-plugin-amazon/{packers.needs()[0].version}/packer-plugin-amazon"
    assert raised.value.text.startswith(
        f"Packer needs its plugin github.com/hashicorp/amazon {packers.needs()[0].version}, and {url}"
    )
    assert "BAKEHOUSE_RELEASES" in raised.value.hint


@pytest.mark.parametrize("version", ["1.6.5", "1.5", "latest", "1.16.0/../..", " 1.9.5"])
def test_a_version_that_is_none(host: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """A version is three numbers, and new enough."""
    monkeypatch.setenv("BAKEHOUSE_PACKER", version)

    with pytest.raises(InputError, match=re.escape(f"BAKEHOUSE_PACKER is {version!r}")) as raised:
        packers.get(host)

    assert "name one from 1.6.6 on, such as 1.9.5, or unset it" == raised.value.hint


def test_a_system_without_releases(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system that the kit knows no release for, the person is sent to HashiCorp's page."""
    monkeypatch.setattr("platform.system", lambda: "FreeBSD")

    with pytest.raises(ToolError) as raised:
        packers.get(host)

    assert ("https://developer.hashicorp.com/packer/install", True) == (
        raised.value.hint,
        packers.rows(host)[0].blocking,
    )


NAMED = ", ".join(f"{one.product.rpartition('-')[2]} {one.version}" for one in packers.needs())


@pytest.mark.parametrize(
    ("user", "script", "expected"),
    [
        (1000, "echo Packer v1.6.6", [("1.6.6", ""), ("in packer", "")]),
        (
            1000,
            "echo Packer v1.14.2",
            [("1.14.2", ""), (f"missing: {NAMED}", "the kit fetches them when it needs them")],
        ),
        (
            1000,
            "exit 1",
            [
                ("{path} is another program", f"the kit fetches HashiCorp's 1.16.0 when it needs it: {LICENCE}"),
                (f"missing: {NAMED}", "the kit fetches them when it needs them"),
            ],
        ),
        (
            0,
            "exit 1",
            [
                (
                    "{path} is another program",
                    f"the kit installs the distribution's, or fetches HashiCorp's 1.16.0: {LICENCE}",
                ),
                (f"missing: {NAMED}", "the kit fetches them when it needs them"),
            ],
        ),
    ],
)
def test_doctor(
    server: ReleaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    script: str,
    expected: list[tuple[str, str]],
) -> None:
    """Doctor tells of Packer and its plugins what is here, and how the rest comes; it fetches nothing."""
    have(tmp_path, monkeypatch, {"packer": script, **APT})
    monkeypatch.setattr(os, "geteuid", lambda: user)

    told = packers.rows(tmp_path / "state")

    assert [(found.format(path=tmp_path / "0/packer"), how) for found, how in expected] == [
        (row.found, row.remedy) for row in told
    ]
    assert ([False, False], []) == ([row.blocking for row in told], server.asked)


def test_doctor_after_a_fetch(server: ReleaseServer, host: Path) -> None:
    """What was fetched is told by its version."""
    server.release_all()
    packers.get(host)

    assert [("1.16.0", ""), (NAMED, "")] == [(row.found, row.remedy) for row in packers.rows(host)]


def test_the_pins_are_exact() -> None:
    """Each version that is pinned is one version, and HashiCorp's."""
    assert [("github.com/hashicorp/amazon", True), ("github.com/hashicorp/ansible", True)] == [
        (one.source, re.fullmatch(r"\d+\.\d+\.\d+", one.version) is not None) for one in packers.needs()
    ]
    assert re.fullmatch(r"\d+\.\d+\.\d+", releases.source().packer)
    assert (ROOT / "packer/plugins/plugins.pkr.hcl") == packers.PLUGINS
    assert "#!/bin/sh\necho Packer v1\n" == PACKER.format(1)
