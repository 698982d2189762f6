"""Tools: the programs that the kit runs: which version is here, what each is for, and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path

from bakehouse import patience, system
from bakehouse.console import say
from bakehouse.errors import NotKnownError, ToolError

Version = tuple[int, ...]


@dataclass(frozen=True)
class Tool:
    """Describe one program.

    Attributes:
        name: its name on PATH.
        purpose: what the program does for the kit, in the form "drives the bake".
        ask: the argument that makes it print its version.
        answer: a pattern for what it prints then; the group is the version.
        wanted: the least version that will do.
        home: the URL of the page that says how to install it.
        packages: the names of its packages, by package manager. A distribution may lack all but the first.
        companions: other programs that must be there with it.
        optional: whether the kit can do without it.
    """

    name: str
    purpose: str
    ask: str
    answer: str
    wanted: Version
    home: str
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    optional: bool = False


_TOOLS = (
    Tool(
        name="packer",
        purpose="drives the bake",
        ask="version",
        answer=r"^Packer v(\d+\.\d+\.\d+)",  # cracklib has a packer too, which prints no such line
        wanted=(1, 6, 6),
        home="https://developer.hashicorp.com/packer/install",
        packages={"apt-get": ("packer",), "brew": ("hashicorp/tap/packer",)},
    ),
    Tool(
        name="docker",
        purpose="gives local machines their bodies",
        ask="--version",
        answer=r"^Docker version (\d+\.\d+)",  # podman can pose as docker, but prints its own name
        wanted=(20, 10),
        home="https://docs.docker.com/engine/install/",
        packages={"apt-get": ("docker.io", "docker-cli", "ca-certificates"), "dnf": ("docker",)},
    ),
    Tool(
        name="mmdebstrap",
        purpose="makes the local Debian base",
        ask="--version",
        answer=r"^mmdebstrap (\d+\.\d+)",
        wanted=(1, 3),
        home="https://gitlab.mister-muffin.de/josch/mmdebstrap",
        packages={"apt-get": ("mmdebstrap", "uidmap", "debian-archive-keyring")},
        companions=("newuidmap",),  # lets it work for an ordinary user
    ),
    Tool(
        name="ssh",
        purpose="enters machines",
        ask="-V",
        answer=r"^OpenSSH_(\d+\.\d+)",
        wanted=(7, 6),
        home="https://www.openssh.com/portable.html",
        packages={"apt-get": ("openssh-client",), "dnf": ("openssh-clients",)},
        companions=("ssh-keygen",),
    ),
    Tool(
        name="gpg",
        purpose="signs the packages that stand in",
        ask="--version",
        answer=r"^gpg \(GnuPG\) (\d+\.\d+)",
        wanted=(2, 2),
        home="https://gnupg.org/download/",
        packages={"apt-get": ("gpg", "gpg-agent"), "dnf": ("gnupg2",), "brew": ("gnupg",)},
        companions=("gpg-agent", "gpgconf"),
    ),
    Tool(
        name="git",
        purpose="tells which commit was baked",
        ask="--version",
        answer=r"^git version (\d+\.\d+)",
        wanted=(2, 20),
        home="https://git-scm.com/downloads",
        packages={"apt-get": ("git",), "dnf": ("git",), "brew": ("git",)},
        optional=True,
    ),
)

TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _TOOLS}
"""All programs, by name."""


@dataclass(frozen=True)
class Found:
    """Hold what was found of a program.

    Attributes:
        path: its path.
        version: its version.
        trouble: why it can't be used; empty when it can be.
        silent: whether it can't be used only because it didn't answer in time: then nothing is known of it.
    """

    path: Path = Path()
    version: Version = ()
    trouble: str = ""
    silent: bool = False

    def insist_known(self) -> None:
        """Raise NotKnownError when nothing is known, because that is no reason to get another program."""
        if self.silent:
            raise NotKnownError(self.trouble, patience.LONGER)


@dataclass(frozen=True)
class Row:
    """Hold what ``./inv doctor`` shows of one tool.

    Attributes:
        tool: its name.
        found: the version that is here, or why it can't be used.
        wanted: the version that is needed.
        purpose: what it does for the kit.
        remedy: how to get it on this system; empty when nothing is to be done.
        blocking: whether the person must act, because the kit needs it and can't install it.
    """

    tool: str
    found: str
    wanted: str
    purpose: str
    remedy: str
    blocking: bool


def ensure(name: str) -> Path:
    """Return the path of a tool, and install it from the distribution first if it is missing or too old.

    For ``docker`` this also starts the engine if it doesn't answer. When the kit can't do that itself, it raises
    ToolError, whose hint is the exact command for the person.
    """
    tool = TOOLS[name]
    found = find(tool)
    found.insist_known()
    if found.trouble:
        install(tool, found.trouble)
        found = find(tool)
    if name == "docker":
        _ensure_engine(found.path)
    return found.path


def doctor() -> list[Row]:
    """Look at every tool but Packer, and return a row for each; nothing is changed."""
    rows = []
    for tool in [one for one in TOOLS.values() if one.name != "packer"]:
        found = find(tool)
        rows.append(_row(tool, found))
        if tool.name == "docker":
            rows.append(_engine_row(found))
    return [*rows, _ansible_row()]


def find(tool: Tool) -> Found:
    """Return the first program on PATH that is the tool and new enough; others before it are passed over."""
    trouble, silence = "missing", ""
    for folder in os.get_exec_path():
        path = shutil.which(tool.name, path=folder)
        if not path:
            continue
        try:
            version = version_of(tool, Path(path))
        except NotKnownError as error:
            silence = error.text
            continue
        if not version:
            trouble = f"{path} is another program"
        elif version < tool.wanted:
            trouble = f"{path} is {dotted(version)}"
        elif lacking := [name for name in tool.companions if not shutil.which(name)]:
            trouble = f"{lacking[0]} is missing"
        else:
            return Found(Path(path), version)
    return Found(trouble=silence or trouble, silent=bool(silence))


def version_of(tool: Tool, path: Path) -> Version:
    """Return the version of the program at a path; empty when it is another program than the tool.

    Raises NotKnownError when it doesn't answer in time.
    """
    # In an empty folder, because cracklib's packer writes a dictionary that is named after its argument.
    with tempfile.TemporaryDirectory() as folder:
        _, told = system.run(str(path.absolute()), tool.ask, folder=folder)
    match = re.search(tool.answer, told, re.MULTILINE)
    return parsed(match[1]) if match else ()


def lack(tool: Tool, trouble: str) -> str:
    """Return the words that say that a tool is needed and why it can't be used."""
    return f"{tool.name} {dotted(tool.wanted)} or later is needed (it {tool.purpose}): {trouble}"


def install(tool: Tool, trouble: str) -> None:
    """Install a tool from the distribution; ``trouble`` says why it can't be used as it is.

    Raises ToolError, whose hint is the command for the person, when the kit may not or can't do that.
    """
    if "apt-get" not in tool.packages or not system.can_install():
        raise ToolError(lack(tool, trouble), remedy(tool))
    say(f"installing {tool.name} (it {tool.purpose}) ...")
    if complaint := system.install(tool.packages["apt-get"]):
        raise ToolError(f"{lack(tool, trouble)}, and it can't be installed: {complaint}", remedy(tool))
    found = find(tool)
    found.insist_known()
    if found.trouble:
        raise ToolError(f"{tool.name} was installed, but {found.trouble}", tool.home)


def remedy(tool: Tool) -> str:
    """Return the command that installs the tool on this system, or the URL of its page when there is none."""
    return system.command_for(tool.packages) or tool.home


def _row(tool: Tool, found: Found) -> Row:
    wanted = f">= {dotted(tool.wanted)}"
    if not found.trouble:
        return Row(tool.name, dotted(found.version), wanted, tool.purpose, "", blocking=False)
    if found.silent:
        return Row(tool.name, found.trouble, wanted, tool.purpose, patience.LONGER, blocking=False)
    ours = obtainable(tool)
    how = "the kit installs it when it needs it" if ours else remedy(tool)
    return Row(tool.name, found.trouble, wanted, tool.purpose, how, blocking=not (ours or tool.optional))


def obtainable(tool: Tool) -> bool:
    """Return whether the kit can install a tool from the distribution."""
    return system.can_install() and bool(system.command_for(tool.packages))


def _engine_row(client: Found) -> Row:
    if client.trouble:
        ours = obtainable(TOOLS["docker"])
        found, remedy, blocking = "missing", "comes with docker", not ours
    else:
        engine = _engine(client.path)
        found, remedy = engine.trouble or dotted(engine.version), _engine_remedy(engine.trouble)
        blocking = bool(remedy) and not engine.silent
        if engine.trouble and not remedy:
            remedy = f"the kit {'starts' if _dockerd() else 'installs'} it when it needs it"
    return Row("docker engine", found, ">= 20.10", "runs local machines", remedy, blocking)


def _ansible_row() -> Row:
    here = Path(sys.executable).with_name("ansible-playbook").exists()
    found = installed_version("ansible-core") if here else "missing"
    return Row("ansible-playbook", found, "2.19", "runs the roles", "" if here else "./inv", blocking=not here)


_ENGINE_LOG = "/var/log/docker.log"
_ENGINE_PID = "/var/run/docker.pid"
_SBIN = "/usr/sbin:/sbin"  # an ordinary user's PATH lacks them


def _engine(docker: Path) -> Found:
    """Return the version of the engine that answers this client, or why none does."""
    try:
        code, told = system.run(str(docker), "version", "--format", "{{.Server.Version}}", passing=system.DOCKER)
    except NotKnownError as error:
        return Found(trouble=error.text, silent=True)
    match = re.search(r"^\d+\.\d+", told, re.MULTILINE)
    if code == 0 and match:
        return Found(docker, parsed(match[0]))
    return Found(trouble="permission denied" if "permission denied" in told else system.last_line(told) or "no answer")


def _engine_remedy(trouble: str) -> str:
    """Return what the person must do to make the engine answer; empty when the kit can do it."""
    if not trouble:
        return ""
    if trouble == "permission denied":
        return "sudo usermod -aG docker $USER, then: sg docker ./inv ..., or log in again"
    if host := os.environ.get("DOCKER_HOST"):
        return f"DOCKER_HOST is {host}: start the engine there, or unset DOCKER_HOST"
    if name := docker_context():
        return f"Docker's context is {name}: start its engine, or take another: docker context use default"
    if not _dockerd():  # a client alone
        return "" if obtainable(TOOLS["docker"]) else remedy(TOOLS["docker"])
    if system.become_root() is None:
        return "sudo systemctl start docker" if system.has_systemd() else "sudo service docker start"
    return ""


def docker_context() -> str:
    """Return the name of the context that Docker's command line uses; empty for its default, and with DOCKER_HOST."""
    if os.environ.get("DOCKER_HOST"):
        return ""
    name = os.environ.get("DOCKER_CONTEXT", "")
    if not name:
        config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        with suppress(OSError, ValueError, AttributeError):
            name = json.loads(config.read_text()).get("currentContext", "")
    return "" if name == "default" else name


def engine_place() -> str:
    """Return the words that say which Docker engine is meant."""
    if host := os.environ.get("DOCKER_HOST"):
        return f"the Docker engine at {host} (DOCKER_HOST)"
    name = docker_context()
    return f"the Docker engine of context {name}" if name else "the Docker engine"


def _ensure_engine(docker: Path) -> None:
    found = _engine(docker)
    found.insist_known()
    trouble = found.trouble
    if trouble and not _engine_remedy(trouble):
        if not _dockerd():
            install(TOOLS["docker"], "its engine is missing")
        say("starting the Docker engine ...")
        log = _start_engine()
        deadline = time.monotonic() + patience.ENGINE.seconds
        while (trouble := _engine(docker).trouble) and not _engine_remedy(trouble):
            if time.monotonic() > deadline:
                raise ToolError(f"the Docker engine does not start: {trouble}", f"look at its log: {log}")
            time.sleep(0.2)
    if trouble == "permission denied" and not os.environ.get("DOCKER_HOST") and not docker_context():
        system.join("docker", say)
    if trouble:
        raise ToolError(f"{engine_place()} does not answer: {trouble}", _engine_remedy(trouble))


def _start_engine() -> str:
    """Start the engine in this system's own way, and return where its log is."""
    root = system.become_root() or ()
    if system.has_systemd():
        with suppress(NotKnownError):  # it may start yet
            system.run(*root, "systemctl", "start", "docker", limit=patience.SERVICE)
        return "journalctl -u docker"
    try:
        code, _ = system.run(*root, "service", "docker", "start", passing=system.OUTSIDE, limit=patience.SERVICE)
    except NotKnownError:  # it may start yet, and no second one may start beside it
        return _ENGINE_LOG
    if code:
        # Debian's init script fails when it can't raise its limits; the engine itself doesn't need that. After a host
        # was reset, the engine's file may name a process that is another program by now: then it would not start.
        drop = f'[ "$(cat /proc/$(cat {_ENGINE_PID})/comm 2>/dev/null)" = dockerd ] || rm -f {_ENGINE_PID}'
        start = f"{drop}; setsid {_dockerd()} </dev/null >>{_ENGINE_LOG} 2>&1 &"
        system.run(*root, "sh", "-c", start, passing=system.OUTSIDE)
    return _ENGINE_LOG


def _dockerd() -> str:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:{_SBIN}") or ""


def parsed(version: str) -> Version:
    """Return a version's numbers."""
    return tuple(int(part) for part in version.split("."))


def mitogen() -> dict[str, str]:
    """Return the variables that make Ansible run tasks with Mitogen; empty where Mitogen is missing."""
    found = importlib.util.find_spec("ansible_mitogen")
    if not (found and found.origin):
        return {}
    strategies = Path(found.origin).with_name("plugins") / "strategy"
    return {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(strategies),
        # It keeps its temporary folder open from its first task on, and sysprep takes ~/.ansible away before its last.
        "ANSIBLE_REMOTE_TEMP": "/tmp",
    }


def dotted(version: Version) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))
