"""The programs the kit drives: found, told from others of their name, got, and started."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ec2_fixtures import LocalEc2, docker, mark
from release_fixtures import POLICY, have

from bakehouse import patience, tools
from bakehouse.errors import ToolError
from bakehouse.patience import Limit
from bakehouse.tools import TOOLS, Found, Row

GOOD = "echo Packer v1.14.2; echo; echo Your version of Packer is out of date"
OLD = "echo Packer v1.5.6"
OLD_SSH = "echo OpenSSH_6.6.1"
CRACKLIB = 'cat >/dev/null; echo "skipping line: 1"; touch "$1.pwd"; echo 0 0'  # reads words, writes a dictionary


@pytest.mark.parametrize(
    ("folders", "found", "trouble"),
    [
        ([GOOD], 0, ""),
        ([], None, "missing"),
        ([OLD], None, "{0}/packer is 1.5.6"),
        ([CRACKLIB], None, "{0}/packer is another program"),
        (["exit 1"], None, "{0}/packer is another program"),
        ([CRACKLIB, GOOD], 1, ""),
        ([OLD, GOOD], 1, ""),
        ([CRACKLIB, OLD], None, "{1}/packer is 1.5.6"),
    ],
)
def test_find_packer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[str], found: int | None, trouble: str
) -> None:
    """The first that is HashiCorp's and new enough wins, wherever it stands on PATH; else the trouble is named."""
    monkeypatch.chdir(tmp_path)
    have(tmp_path, monkeypatch, *({"packer": script} for script in folders))
    paths = [tmp_path / str(number) for number in range(len(folders))]
    expected = Found(trouble=trouble.format(*paths)) if found is None else Found(paths[found] / "packer", (1, 14, 2))

    assert expected == tools.find(TOOLS["packer"])
    assert [] == list(tmp_path.glob("*.pwd"))


@pytest.mark.parametrize(
    ("name", "told", "version"),
    [
        ("docker", "Docker version 28.2.2, build e6534b4", (28, 2)),
        ("docker", "Docker version 20.10.24+dfsg1, build 297e128", (20, 10)),
        ("docker", "podman version 5.4.2", ()),
        ("mmdebstrap", "mmdebstrap 1.3.5", (1, 3)),
        ("ssh", "OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17 1 Jul 2025", (9, 2)),
        ("ssh", "OpenSSH_6.6.1p1 Debian-4", ()),
        ("gpg", "gpg (GnuPG) 2.2.40\nlibgcrypt 1.10.1", (2, 2)),
        ("git", "git version 2.39.5", (2, 39)),
        ("git", "git version 2.50.1 (Apple Git-155)", (2, 50)),
    ],
)
def test_find_reads_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str, version: tuple[int, ...]
) -> None:
    """Each tool's own way of telling its version is understood, on whichever stream."""
    companions = dict.fromkeys(TOOLS[name].companions, "exit 1")
    have(tmp_path, monkeypatch, {name: f"echo '{told}' >&2", **companions})

    assert version == tools.find(TOOLS[name]).version


def test_find_wants_the_companions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that lacks what it can't do without is not there yet."""
    have(tmp_path, monkeypatch, {"mmdebstrap": "echo mmdebstrap 1.5.7"})

    assert Found(trouble="newuidmap is missing") == tools.find(TOOLS["mmdebstrap"])


@pytest.mark.parametrize(
    ("user", "programs", "text", "hint"),
    [
        (1000, {"apt-get": "exit", "apt-cache": POLICY}, "missing", "sudo apt-get install openssh-client"),
        (0, {"dnf": "exit"}, "missing", "sudo dnf install openssh-clients"),
        (0, {"brew": "exit"}, "missing", "https://www.openssh.com/portable.html"),
        (0, {}, "missing", "https://www.openssh.com/portable.html"),
        (0, {"ssh": OLD_SSH}, "{path}/ssh is 6.6", "https://www.openssh.com/portable.html"),
        (
            0,
            {"apt-get": "exit", "apt-cache": "exit"},
            "missing, and it can't be installed: this distribution has no package openssh-client",
            "https://www.openssh.com/portable.html",
        ),
        (
            0,
            {"apt-get": "echo E: no mirror; exit 100", "apt-cache": POLICY},
            "missing, and it can't be installed: E: no mirror",
            "sudo apt-get install openssh-client",
        ),
    ],
)
def test_ensure_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, programs: dict[str, str], text: str, hint: str
) -> None:
    """Where the kit may not or can't install a tool, the error names it and the exact way to get it, with code 2."""
    have(tmp_path, monkeypatch, programs)
    monkeypatch.setattr(os, "geteuid", lambda: user)

    with pytest.raises(ToolError) as raised:
        tools.ensure("ssh")

    said = text.format(path=tmp_path / "0")
    assert f"ssh 7.6 or later is needed (it enters machines): {said}" == raised.value.text
    assert (hint, 2) == (raised.value.hint, raised.value.code)


def test_ensure_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As root a missing tool is installed, with one line said; a second time nothing is done or said."""
    folder = tmp_path / "0"
    script = folder / "ssh"
    made = f"printf '#!/bin/sh\necho OpenSSH_9.2\n' >{script}; chmod +x {script}; cp {script} {script}-keygen"
    get = f"case $* in *install*) {made} ;; esac"
    have(tmp_path, monkeypatch, {"apt-get": get, "apt-cache": POLICY, "cp": ""})
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert script == tools.ensure("ssh")
    assert "installing ssh (it enters machines) ...\n" == capsys.readouterr().err
    assert script == tools.ensure("ssh")
    assert "" == capsys.readouterr().err


CLIENT = """case $1 in
    --version) echo Docker version 26.1.5, build 1 ;;
    version) {answer} ;;
esac"""
DOWN = (
    "echo Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running? >&2; exit 1"
)
FORBIDDEN = "echo permission denied while trying to connect to the Docker daemon socket >&2; exit 1"
UP = "echo 26.1.5"
JOIN = "sudo usermod -aG docker $USER, then: sg docker ./inv ..., or log in again"
APT = {"apt-get": "exit", "apt-cache": POLICY}


@pytest.mark.parametrize(
    ("answer", "user", "host", "programs", "trouble", "remedy"),
    [
        (UP, 1000, "", {}, "26.1", ""),
        (FORBIDDEN, 0, "", {}, "permission denied", JOIN),
        (
            "echo no route to host >&2; exit 1",
            0,
            "tcp://far:2375",
            {},
            "no route to host",
            "DOCKER_HOST is tcp://far:2375: start the engine there, or unset DOCKER_HOST",
        ),
        (DOWN, 1000, "", {"dockerd": "exit"}, "docker daemon running?", "sudo service docker start"),
        (DOWN, 0, "", {"dockerd": "exit"}, "docker daemon running?", "the kit starts it when it needs it"),
        (DOWN, 0, "", {}, "docker daemon running?", "https://docs.docker.com/engine/install/"),
        (DOWN, 1000, "", APT, "docker daemon running?", "sudo apt-get install docker.io docker-cli ca-certificates"),
        (DOWN, 0, "", APT, "docker daemon running?", "the kit installs it when it needs it"),
    ],
)
def test_doctor_on_the_engine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    user: int,
    host: str,
    programs: dict[str, str],
    trouble: str,
    remedy: str,
) -> None:
    """The engine's row says what it answers, and what to do where it does not answer and the kit can't start it."""
    monkeypatch.setattr(tools, "_SBIN", "")
    have(tmp_path, monkeypatch, {"docker": CLIENT.format(answer=answer), **programs})
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("bakehouse.system.has_systemd", lambda: False)
    if host:
        monkeypatch.setenv("DOCKER_HOST", host)
    else:
        monkeypatch.delenv("DOCKER_HOST", raising=False)

    row = next(row for row in tools.doctor() if row.tool == "docker engine")

    assert row.found.endswith(trouble)
    assert (remedy, bool(remedy) and "the kit" not in remedy) == (row.remedy, row.blocking)
    if row.blocking:
        with pytest.raises(ToolError) as raised:
            tools.ensure("docker")
        place = f" at {host} (DOCKER_HOST)" if host else ""
        assert f"the Docker engine{place} does not answer: {row.found}" == raised.value.text
        assert remedy == raised.value.hint


@pytest.mark.parametrize(
    ("variables", "config", "place", "remedy"),
    [
        ({"DOCKER_HOST": "tcp://far:1"}, '{"currentContext": "far"}', "at tcp://far:1 (DOCKER_HOST)", "DOCKER_HOST"),
        ({"DOCKER_CONTEXT": "near"}, '{"currentContext": "far"}', "of context near", "Docker's context is near"),
        ({}, '{"currentContext": "far"}', "of context far", "Docker's context is far"),
    ],
)
def test_the_engine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], config: str, place: str, remedy: str
) -> None:
    """An engine that is meant by DOCKER_HOST or a context, and doesn't answer, is named so, and no other is started."""
    have(tmp_path, monkeypatch, {"docker": CLIENT.format(answer=DOWN), "dockerd": "exit"})
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ToolError, match=re.escape(f"the Docker engine {place} does not answer")) as raised:
        tools.ensure("docker")

    assert raised.value.hint.startswith(remedy)


@pytest.mark.parametrize("config", ["", "nonsense", "[]", "{}", '{"currentContext": "default"}'])
def test_no_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    """Docker's default context, and a configuration that can't be read, are no context."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(config)

    assert "" == tools.docker_context()


@pytest.mark.parametrize("way", ["systemd", "service", "dockerd"])
def test_ensure_starts_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """The engine is started as the system does it, or by itself where the system's script gives up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tools, "_ENGINE_LOG", str(tmp_path / "docker.log"))
    monkeypatch.setattr("bakehouse.system.has_systemd", lambda: way == "systemd")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    note = 'echo "${0##*/} $*" >>asked'
    programs = {
        "docker": CLIENT.format(answer=f"if [ -e up ]; then {UP}; else {DOWN}; fi"),
        "systemctl": f"{note}; touch up",
        "service": f"{note}; {'exit 1' if way == 'dockerd' else 'touch up'}",
        "dockerd": f"{note}; touch up; echo Daemon has completed initialization",
        "setsid": 'exec "$@"',
    }
    have(tmp_path, monkeypatch, programs)

    assert tmp_path / "0" / "docker" == tools.ensure("docker")
    assert "starting the Docker engine ...\n" == capsys.readouterr().err
    asked = {
        "systemd": ["systemctl start docker"],
        "service": ["service docker start"],
        "dockerd": ["service docker start", "dockerd "],
    }
    assert asked[way] == (tmp_path / "asked").read_text().splitlines()


def test_a_stale_pid_file_keeps_no_engine_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a host was reset the engine's pid file may name another program: the file goes, and the engine starts."""
    pid = tmp_path / "docker.pid"
    pid.write_text(str(os.getpid()))
    monkeypatch.setattr(tools, "_ENGINE_LOG", str(tmp_path / "docker.log"))
    monkeypatch.setattr(tools, "_ENGINE_PID", str(pid))
    monkeypatch.setattr("bakehouse.system.has_systemd", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.chdir(tmp_path)
    programs = {
        "docker": CLIENT.format(answer=f"if [ -e up ]; then {UP}; else {DOWN}; fi"),
        "service": "exit 1",
        "dockerd": "[ -e docker.pid ] || touch up",
        "setsid": 'exec "$@"',
        "rm": "",
    }
    have(tmp_path, monkeypatch, programs)

    assert tmp_path / "0" / "docker" == tools.ensure("docker")


def test_ensure_gives_a_client_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client that stands alone gets its engine from the distribution, which is then started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bakehouse.system.has_systemd", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(tools, "_SBIN", "")
    engine = tmp_path / "0" / "dockerd"
    programs = {
        "docker": CLIENT.format(answer=f"if [ -e up ]; then {UP}; else {DOWN}; fi"),
        "apt-get": f"case $* in *install*) echo '#!/bin/sh' >{engine}; chmod +x {engine} ;; esac",
        "apt-cache": POLICY,
        "service": "touch up",
    }
    have(tmp_path, monkeypatch, programs)

    assert tmp_path / "0" / "docker" == tools.ensure("docker")
    assert [
        "installing docker (it gives local machines their bodies) ...",
        "starting the Docker engine ...",
    ] == capsys.readouterr().err.splitlines()


def test_ensure_names_the_log_of_an_engine_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine stays silent the error names its log."""
    monkeypatch.setattr(patience, "ENGINE", Limit(0.5, ""))
    monkeypatch.setattr("bakehouse.system.has_systemd", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    have(tmp_path, monkeypatch, {"docker": CLIENT.format(answer=DOWN), "service": "exit", "dockerd": "exit"})

    with pytest.raises(ToolError) as raised:
        tools.ensure("docker")

    assert raised.value.text.startswith("the Docker engine does not start: Cannot connect")
    assert "look at its log: /var/log/docker.log" == raised.value.hint


def test_doctor_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is missing blocks but what is optional, and every row says how to get it."""
    have(tmp_path, monkeypatch)

    rows = [row for row in tools.doctor() if row.tool != "ansible-playbook"]

    assert ["docker", "docker engine", "mmdebstrap", "ssh", "gpg", "git"] == [row.tool for row in rows]
    assert {"missing"} == {row.found for row in rows}
    assert ["git"] == [row.tool for row in rows if not row.blocking]
    assert all(row.remedy for row in rows)


def test_doctor_here() -> None:
    """On this machine, where the tests run, Ansible is the venv's and nothing blocks."""
    rows = {row.tool: row for row in tools.doctor()}

    ansible = rows["ansible-playbook"]
    assert Row("ansible-playbook", ansible.found, "2.19", "runs the roles", "", blocking=False) == ansible
    assert tools.parsed(ansible.found) >= (2, 19)
    assert [] == [row.tool for row in rows.values() if row.blocking]


# A real system


@pytest.fixture
def bare(local_ec2: LocalEc2) -> Iterator[str]:
    """Give a container of bare Debian 13 with the kit, and a user who may become root without a password."""
    labels = [f"label=bakehouse.checkout={mark(local_ec2.state)}", "label=bakehouse.base=debian-13"]
    image = docker("images", "--quiet", *(part for label in labels for part in ("--filter", label))).split()[0]
    site = Path(str(importlib.util.find_spec("rich").origin)).parent.parent  # type: ignore[union-attr]
    options = ("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--security-opt=seccomp=unconfined", "--cgroupns=private")
    lift = ("--security-opt=apparmor=unconfined", "--volume=/var/lib/docker", "--env=PYTHONPATH=/kit", "--rm")
    name = docker("run", "--detach", "--init", *options, *lift, image, "sleep", "600").strip()
    try:
        docker("exec", name, "mkdir", "/kit")
        wanted = [site / part for part in ("rich", "invoke", "pygments", "markdown_it", "mdurl")]
        for path in (Path(tools.__file__).parent, *wanted, *site.glob("invoke-*.dist-info")):
            docker("cp", str(path), f"{name}:/kit/")
        docker("exec", name, "sh", "-c", "useradd -m user; echo 'user ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/user")
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.mark.docker
def test_a_bare_debian_gets_its_tools(bare: str) -> None:
    """On a real system apt-get brings the tools and dockerd runs; what a user may not and Debian lacks is said."""
    script = (
        "import sys\nfrom bakehouse import tools\nfrom bakehouse.errors import ToolError\n"
        "try: print(tools.ensure(sys.argv[1]))\nexcept ToolError as error: print(error.message)"
    )

    def ensure(name: str) -> list[str]:
        command = ["docker", "exec", "--user", "user", bare, "python3", "-Bc", script, name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout.splitlines()

    no_packer = "packer 1.6.6 or later is needed (it drives the bake): missing, and it can't be installed"
    assert ["installing git (it tells which commit was baked) ...", "/usr/bin/git"] == ensure("git")
    assert ["/usr/bin/git"] == ensure("git")
    assert [
        "installing packer (it drives the bake) ...",
        f"error: {no_packer}: this distribution has no package packer",
        "hint: https://developer.hashicorp.com/packer/install",
    ] == ensure("packer")
    assert [
        "installing docker (it gives local machines their bodies) ...",
        "starting the Docker engine ...",
        "user is a member of the group docker from now on",
        "/usr/bin/docker",
    ] == ensure("docker")
    assert "docker" in docker("exec", bare, "id", "--name", "--groups", "user").split()
    docker("exec", bare, "sh", "-c", "gpasswd --delete user docker; rm /etc/sudoers.d/user")
    assert [
        "error: the Docker engine does not answer: permission denied",
        f"hint: {JOIN}",
    ] == ensure("docker")
