"""The collection: what is in it, and that it does on every core that it claims what it promises, in others' Ansible."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ec2_fixtures import ROOT, LocalEc2, Machines
from role_fixtures import CASC, Host, plugin, read

from bakehouse import __version__, tools

NAME = "bakehouse.images"
MAY_HOLD = (
    r"(roles|plugins|docs)/.+|meta/runtime\.yml|(README|CHANGELOG|ARCHITECTURE)\.md|LICENSE|(MANIFEST|FILES)\.json"
)


def run(program: str, *words: str, folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Run a program of the venv and return what it printed; fail with all that it said when it fails."""
    line = [str(Path(sys.executable).with_name(program)), *words]
    done = subprocess.run(line, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the collection."""
    folder = tmp_path_factory.mktemp("built")
    run("ansible-galaxy", "collection", "build", "--output-path", str(folder), folder=ROOT)
    [built] = folder.iterdir()
    return built


def test_content(tarball: Path) -> None:
    """The collection has the kit's version and holds roles, plugins and docs, every role whole, and nothing else."""
    with tarfile.open(tarball) as tar:
        held = {member.name for member in tar.getmembers() if member.isfile()}

    assert f"{NAME.replace('.', '-')}-{__version__}.tar.gz" == tarball.name
    assert [] == [name for name in sorted(held) if not re.fullmatch(MAY_HOLD, name)]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "roles"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert there == {name for name in held if name.startswith("roles/")}


@dataclass(frozen=True)
class Core:
    """Hold one ansible-core and how somebody uses it.

    Attributes:
        version: its version.
        python: the Python that it runs on.
        root: how it becomes root on the machine: sudo, su, doas, or root itself signs in.
        target: the Python that its modules run on there; empty for the machine's own.
        mitogen: whether it runs tasks with Mitogen, in a third of the time; with ``--full`` none does.
        always: whether it is tried without ``--full``: the oldest that is claimed, what others use, and the newest.
    """

    version: str
    python: str
    root: str
    target: str = ""
    mitogen: bool = False
    always: bool = True


CORES = (
    Core("2.16.19", "3.10", "su", target="3.9"),
    Core("2.17.14", "3.12", "sudo", target="3.9", always=False),
    Core("2.18.19", "3.11", "root", mitogen=True),
    Core("2.19.14", "3.13", "sudo", mitogen=True),
    Core("2.20.10", "3.12", "su", always=False),
    Core("2.21.5", "3.13", "doas"),
)
ROOTS = {
    "sudo": {"ansible_user": "admin"},
    "su": {"ansible_user": "admin", "ansible_become_method": "su", "ansible_become_password": "x"},
    "doas": {"ansible_user": "admin", "ansible_become_exe": "doas", "ansible_become_flags": "-n"},
    "root": {"ansible_user": "root"},
}
INSTALL = "apt-get install -qq -y --no-install-recommends"
READY = f"""
apt-get update -qq; {INSTALL} opendoas >/dev/null
echo permit nopass admin >/etc/doas.conf; echo root:x | chpasswd
install -D -m 600 /home/admin/.ssh/authorized_keys /root/.ssh/authorized_keys
mkdir -p /run/secrets; echo word >/run/secrets/admin
"""
WORD = "hunter2"  # what nothing may print

CONFIG = """[defaults]
inventory = hosts.yml
roles_path = by_path
collections_path = collections
host_key_checking = false
gathering = smart
any_errors_fatal = true
[ssh_connection]
pipelining = true
"""
STARTED = {
    "jenkins_service_state": "started",
    "jenkins_casc_file": "{{ inventory_dir }}/casc.yml",
    "jenkins_plugins_folder": "{{ inventory_dir }}/plugins",
    "nginx_service_state": "started",
}
# As many starts as there were reasons: the service's first, and another port.
STARTS = [
    {"ansible.builtin.shell": "journalctl -o cat -u jenkins | grep -c ^Starting", "register": "starts"},
    {"ansible.builtin.assert": {"that": "starts.stdout == '2'", "fail_msg": "{{ starts.stdout }}"}},
]


def play(name: str, roles: list[str], verified: str = "", **more: Any) -> dict[str, Any]:
    """Return a play that applies roles, then verifies those that can be."""
    verifying: list[dict[str, Any]] = [
        {"name": f"Verify {one}", "ansible.builtin.include_role": {"name": one, "tasks_from": verified}}
        for one in roles
        if verified and not one.endswith("java")
    ]
    return {"name": name, "hosts": "ci", "become": True, "roles": roles, "tasks": verifying, **more}


def of_collection(*roles: str) -> list[str]:
    """Return the names of roles as the collection's."""
    return [f"{NAME}.{one}" for one in roles]


WRONG = {"jenkins_version": 2.540, "jenkins_java_options": "-Xmx1g", "jenkins_further_ports": [True]}
REFUSED = {
    "block": [{"ansible.builtin.include_role": {"name": "jenkins"}, "vars": WRONG}],
    "rescue": [{"ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg | split }}"}}],
}
PLAYBOOKS = {
    "check": [
        play("refused", [], tasks=[REFUSED]),
        play("check", of_collection("java", "jenkins", "nginx")),
    ],
    "run": [
        play("first", of_collection("java", "jenkins", "nginx"), "verify_at_rest"),
        play("second", ["java", "jenkins", "nginx"]),
        play("started", ["jenkins", "nginx"], "verify_in_service", vars=STARTED),
    ],
    "later": [
        play("configure", of_collection("java", "jenkins"), vars={**STARTED, "jenkins_port": 8081}),
        play("starts", [], tasks=STARTS, tags=["configure"]),
        play("seal", of_collection("sysprep"), tags=["configure"]),
    ],
}


TARGET = "/opt/python/bin/python3"


def python(version: str) -> str:
    """Return the path of a Python of this version, also one that pyenv has and didn't choose; else skip by its name."""
    pyenv = shutil.which("pyenv")
    of_pyenv = Path(pyenv).resolve().parents[1].glob(f"versions/{version}.*/bin/python3") if pyenv else ()
    for candidate in (f"python{version}", *map(str, of_pyenv)):
        with suppress(OSError):
            asked = [candidate, "-c", "import sys; print(sys._base_executable)"]  # not that of a venv
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
    pytest.skip(f"there is no Python {version} here")


def give_python(host: Host, version: str) -> None:
    """Put a Python of this host onto a machine, for the modules of Ansible."""
    asked = [python(version), "-c", "import sys; print(sys.base_prefix)"]
    prefix = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    packed, name = io.BytesIO(), f"python{version}"
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
        tar.add(prefix / "bin" / name, "python/bin/python3")
        for library in prefix.glob(f"lib/lib{name}*.so*"):
            tar.add(library, f"python/lib/{library.name}")
        for part in (prefix / "lib" / name).iterdir():
            if part.name not in ("test", "idlelib", "ensurepip", "site-packages"):
                tar.add(part, f"python/lib/{name}/{part.name}")
    host.run("tar --extract --directory=/opt", packed.getvalue())
    host.run(f'echo /opt/python/lib >/etc/ld.so.conf.d/python.conf; ldconfig; {TARGET} -c "import ctypes, ssl, zlib"')


@dataclass(frozen=True)
class Played:
    """Hold what a playbook said, the tasks that changed something by play, and the seconds of each role."""

    said: str
    changes: Mapping[str, list[str]]
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, lines: list[tuple[float, str]]) -> Played:
        """Read what Ansible printed."""
        changes, seconds = defaultdict[str, list[str]](list), defaultdict[str, float](float)
        playing = task = ""
        before = lines[0][0]
        for at, line in lines:
            seconds[task.partition(" : ")[0].rpartition(".")[2]] += at - before
            before = at
            if begun := re.match(r"(PLAY|TASK) \[(.*)\]", line):
                playing, task = (begun[2], "") if begun[1] == "PLAY" else (playing, begun[2])
            if line.startswith("changed: "):
                changes[playing].append(task.rpartition(" : ")[2])
        return cls("".join(line for _, line in lines), changes, seconds)


class Foreign:
    """Hold somebody's Ansible: a core, in a folder with its configuration, inventory, variables and plays."""

    def __init__(self, core: Core, folder: Path, tarball: Path) -> None:
        self.core, self.folder = core, folder
        self.python = python(core.python)
        self._site = folder / "site"
        folder.mkdir()
        # Its own pip where it has one: that of an older Python doesn't run on a newer one.
        own = subprocess.run([self.python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        pip = [self.python, "-m", "pip"] if own else [sys.executable, "-m", "pip", "--python", self.python]
        line = [*pip, "install", "--quiet", "--no-compile"]
        faster = [f"mitogen=={version('mitogen')}"] if core.mitogen else []
        line += ["--only-binary", ":all:", "--target", str(self._site), f"ansible-core=={core.version}", *faster]
        subprocess.run(line, check=True, capture_output=True)
        shutil.copytree(ROOT / "roles", folder / "by_path")
        (folder / "ansible.cfg").write_text(CONFIG)
        (folder / "casc.yml").write_text(f"# {WORD}\n{CASC}")
        (folder / "plugins").mkdir()
        (folder / "plugins/configuration-as-code.jpi").write_bytes(plugin("2061.vc08919f7fc37"))
        for name, plays in PLAYBOOKS.items():
            (folder / f"{name}.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        self._call("ansible-galaxy", "collection", "install", "--offline", str(tarball), "-p", "collections")

    def know(self, address: str, key: Path, variables: Mapping[str, Any]) -> None:
        """Write down a machine and what is known of it."""
        told = {"ansible_ssh_private_key_file": str(key), **ROOTS[self.core.root]}
        if self.core.target:
            told["ansible_python_interpreter"] = TARGET
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"ci": {"hosts": {address: told}}}))
        (self.folder / "group_vars").mkdir()
        (self.folder / "group_vars/ci.yml").write_text(yaml.safe_dump(dict(variables)))

    def play(self, name: str, *options: str) -> Played:
        """Run a playbook."""
        return Played.of(self._call("ansible-playbook", "--diff", f"{name}.yml", *options))

    def _call(self, program: str, *words: str) -> list[tuple[float, str]]:
        """Run a program of the core, and return its lines and when they came; fail when it fails."""
        environ = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        environ |= {"PYTHONPATH": str(self._site), "ANSIBLE_NOCOLOR": "1"}
        if self.core.mitogen:
            strategies = str(self._site / "ansible_mitogen/plugins/strategy")
            environ |= tools.mitogen() | {"ANSIBLE_STRATEGY_PLUGINS": strategies}
        line = [self.python, str(self._site / "bin" / program), *words]
        with subprocess.Popen(
            line, cwd=self.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            assert running.stdout
            lines = [(time.monotonic(), told) for told in running.stdout]
        assert running.returncode == 0, "".join(told for _, told in lines[-60:])
        return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try the cores that are tried always, or all."""
    if "core" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        tried = [replace(core, mitogen=core.mitogen and not full) for core in CORES if core.always or full]
        metafunc.parametrize("core", tried, ids=[core.version for core in tried])


@pytest.fixture(scope="module")
def stand_in(local_ec2: LocalEc2) -> dict[str, Any]:
    """Give the variables by which the role finds the repository with the package that stands in for Jenkins."""
    told = local_ec2.ask("stand-in", seconds=900, package="jenkins")
    named = {f"jenkins_repository_{name}": told[name] for name in ("url", "key_url")}
    return {**named, "jenkins_repository_key_fingerprint": told["fingerprint"]}


@pytest.fixture(scope="module")
def with_java(
    ec2: Any, key: tuple[str, Path], group: str, base: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Give an image with Java's packages, which take longest, for the cores that come after the first."""
    made = Machines(ec2, key[1], key[0], group, base)
    try:
        machine = made.launch()[0]
        packages = " ".join(read(ROOT / "roles/java/vars/debian.yml")["__java_packages"]).replace(
            "{{ java_version }}", "21"
        )
        Host(made, machine, tmp_path_factory.mktemp("java")).run(f"{READY}{INSTALL} {packages} >/dev/null")
        yield made.image(machine, "with-java")
    finally:
        made.terminate()


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_a_core(
    core: Core,
    tarball: Path,
    stand_in: dict[str, Any],
    machines: Machines,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """In somebody's own Ansible of this core the roles refuse, foresee, act once, start, change one setting, and seal.

    As a collection and by path; with another way to become root, and with the oldest core the oldest Python that is
    claimed for the machine. Nothing that is printed holds the secret, or a warning of what will be no more.
    The first core has a new machine, and each with ``--full``; otherwise Java's packages are there.
    """
    foreign = Foreign(core, tmp_path / "theirs", tarball)
    new = core == CORES[0] or request.config.getoption("full")
    host = Host(machines, machines.launch("" if new else request.getfixturevalue("with_java"))[0], tmp_path)
    host.run(READY)
    if core.target:
        give_python(host, core.target)
    foreign.know(host.address, machines.key_file, stand_in)

    played = [foreign.play("check", "--check"), foreign.play("run"), foreign.play("later", "--tags", "configure")]

    said = "".join(one.said for one in played)
    warned = re.findall(r"\[DEPRECATION WARNING\]: (.*)", said)
    assert (0, []) == (said.count(WORD), [one for one in warned if "strategy plugins" not in one])  # Mitogen's
    assert set(WRONG) <= set(re.findall(r'"(\w+)"', played[0].said))
    assert "Install | Add the repository" in played[0].changes["check"] and "second" not in played[1].changes
    assert ["Configure | Write the drop-in", "Service | Enabled and in its state"] == played[2].changes["configure"]
    spent = {role: sum(one.seconds.get(role, 0) for one in played) for role in ("java", "jenkins", "nginx", "sysprep")}
    how = f"{core.root}{', Mitogen' if core.mitogen else ''}{f', target {core.target}' if core.target else ''}"
    record_property("core", [f"{core.version} on {core.python}, {how}", spent])
