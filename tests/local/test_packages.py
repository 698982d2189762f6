"""The signed repository of the local EC2, and the package in it that stands in for Jenkins."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import shlex
import ssl
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
import pytest
from ec2_fixtures import docker as docker_prints
from ec2_fixtures import wait

from bakehouse.errors import BakehouseError, ToolError
from bakehouse.local import packages
from bakehouse.local.packages import apt, wheels
from bakehouse.local.packages.keys import Key

BOOT = (
    '[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] && mount -o remount,rw /sys/fs/cgroup'
    " || mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup; exec /lib/systemd/systemd"
)
SOURCES = "/etc/apt/sources.list.d/jenkins.sources"
KEYRING = "/etc/apt/keyrings/jenkins-keyring.asc"
APT = f"apt-get -q -y -o Dir::Etc::SourceList={SOURCES} -o Dir::Etc::SourceParts=- -o APT::Get::List-Cleanup=0"
DROP_IN = "/etc/systemd/system/jenkins.service.d/test.conf"


@dataclass(frozen=True)
class Machine:
    """A container with systemd, and what is done to it."""

    container: Any

    def run(self, command: str, succeeds: bool = True) -> str:
        """Run a shell command as root; return what it printed, both streams."""
        done = self._shell(command)
        assert not succeeds or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout.strip()

    def fails(self, command: str) -> str:
        """Run a shell command that must fail; return what it printed."""
        done = self._shell(command)
        assert done.returncode != 0, f"{command} should fail: {done.stdout}"
        return done.stdout.strip()

    def _shell(self, command: str) -> subprocess.CompletedProcess[str]:
        # Docker's library loses the output that arrives together with the answer's head; its command line doesn't
        line = ["docker", "exec", self.container.id, "sh", "-c", command]
        return subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    def get(
        self,
        path: str,
        port: int = 8080,
        tls: bool = False,
        text: str | None = None,
        **headers: str,
    ) -> tuple[int, Any, str]:
        """Return status, headers and body of what the machine answers, to a POST with a text, if one is given.

        Raises ConnectionRefusedError.
        """
        self.container.reload()
        [network] = self.container.attrs["NetworkSettings"]["Networks"].values()
        if tls:
            unchecked = ssl._create_unverified_context()  # noqa: S323  # the certificate is this test's own
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                network["IPAddress"], port, timeout=60, context=unchecked
            )
        else:
            line = http.client.HTTPConnection(network["IPAddress"], port, timeout=60)
        try:
            line.request("GET" if text is None else "POST", path, body=text, headers=headers)
            answer = line.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            line.close()

    def shows(self, unit_property: str) -> str:
        """Return a property of jenkins.service."""
        return self.run(f"systemctl show --value --property={unit_property} jenkins")

    def configure(self, *lines: str) -> None:
        """Write a drop-in with these lines."""
        text = shlex.quote("[Service]\n" + "\n".join(lines) + "\n")
        self.run(f"mkdir -p $(dirname {DROP_IN}); printf %s {text} >{DROP_IN}; systemctl daemon-reload")

    @contextmanager
    def without(self, pattern: str) -> Iterator[None]:
        """Take files away for a while."""
        self.run(f"mkdir /root/away; for f in {pattern}; do mv $f /root/away; done")
        try:
            yield
        finally:
            self.run(f"mv /root/away/* $(dirname '{pattern}'); rmdir /root/away")


@dataclass(frozen=True)
class Site:
    """A network of its own, with what ``up`` and ``down`` are told about it."""

    engine: Any
    told: dict[str, Any]

    def up(self, said: list[str] | None = None) -> packages.Repository:
        """Bring the repository up; what it says goes into the list."""
        return packages.up(self.engine, **self.told, say=(said if said is not None else []).append)

    def down(self) -> None:
        """Take the repository down."""
        packages.down(self.engine, labels=self.told["labels"])

    def container(self) -> Any:
        """Return the one container that serves the repository."""
        wanted = [f"{name}={value}" for name, value in self.told["labels"].items()]
        [container] = self.engine.containers.list(all=True, filters={"label": wanted})
        return container


@contextmanager
def new_site(engine: Any, base: str, state: Path) -> Iterator[Site]:
    """Make a network, and take it down with all that carries its label."""
    name = f"p-test-{os.urandom(4).hex()}"
    engine.networks.create(name)
    told: dict[str, Any] = {"package": "jenkins", "family": "debian", "images": {"debian": base}}
    told |= {"network": name, "labels": {"bakehouse.checkout": name}, "state": state}
    site = Site(engine, told)
    try:
        yield site
    finally:
        site.down()
        left = engine.containers.list(all=True, filters={"label": f"bakehouse.checkout={name}"})
        for container in left:
            container.remove(force=True)
        engine.networks.get(name).remove()
        assert not left, f"down left {left}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Return a client of the Docker engine."""
    client = docker.from_env(timeout=600)
    yield client
    client.close()


@pytest.fixture(scope="module")
def base(debian_base: str) -> str:
    """Return the Docker image of a Debian 13 base."""
    return debian_base


@pytest.fixture(scope="module")
def site(engine: Any, base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a site on which the repository is up."""
    with new_site(engine, base, tmp_path_factory.mktemp("site") / "packages") as site:
        site.up()
        yield site


@pytest.fixture(scope="module")
def machine(engine: Any, base: str, site: Site) -> Iterator[Machine]:
    """Return a machine with Java, its font libraries and an apt source for the repository."""
    repository = site.up()
    container = engine.containers.run(
        base,
        ["sh", "-c", BOOT],
        detach=True,
        tty=True,
        network=site.told["network"],
        cap_add=["SYS_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        cgroupns="private",
        tmpfs={"/run": "", "/run/lock": ""},
        environment={"container": "docker"},
        stop_signal="SIGRTMIN+3",
    )
    machine = Machine(container)
    try:
        # Before systemd listens the answer is "offline"; /tmp is mounted anew while it boots.
        wait(lambda: machine.run("systemctl is-system-running", succeeds=False) in ("running", "degraded"))
        machine.run(
            "apt-get -q update && apt-get -q -y install --no-install-recommends"
            " openjdk-21-jre-headless fontconfig libfreetype6 libharfbuzz0b adduser net-tools"
        )
        fetch = f"import urllib.request as r; print(r.urlopen('{repository.key_url}').read().decode(), end='')"
        stanza = f"Types: deb\nURIs: {repository.url}\nSuites: binary/\nSigned-By: {KEYRING}\n"
        machine.run(f'python3 -c "{fetch}" >{KEYRING}; printf %s {shlex.quote(stanza)} >{SOURCES}')
        yield machine
    finally:
        container.remove(force=True)


@pytest.fixture
def bare(machine: Machine) -> Machine:
    """Return the machine with nothing of Jenkins on it, its package lists fresh."""
    machine.run("dpkg --purge jenkins")
    machine.run(f"rm -rf {DROP_IN} /var/lib/apt/lists/packages.*; systemctl daemon-reload; {APT} update")
    return machine


def install_unstarted(machine: Machine) -> None:
    """Install the stand-in while policy-rc.d forbids to start anything."""
    machine.run("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d")
    machine.run(f"{APT} update && {APT} install jenkins; code=$?; rm /usr/sbin/policy-rc.d; exit $code")


@pytest.fixture
def present(machine: Machine) -> Machine:
    """Return the machine with the stand-in installed, in whatever state."""
    if machine.run("dpkg-query --show --showformat='${Status}' jenkins", succeeds=False) != "install ok installed":
        install_unstarted(machine)
    return machine


@pytest.fixture
def installed(present: Machine) -> Machine:
    """Return the machine with the stand-in stopped and as if never started."""
    present.run(f"systemctl stop jenkins; rm -f {DROP_IN}; systemctl daemon-reload; systemctl reset-failed")
    present.run("find /var/lib/jenkins /var/log/jenkins /var/cache/jenkins -mindepth 1 -delete")
    return present


def basic(password: str, user: str = "admin") -> str:
    """Return the Authorization header of a user, the administrator by default."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("layout", "index", "deb"),
    [
        (apt.Layout("binary/"), "binary/Packages", "binary/tiny_1_arm64.deb"),
        (apt.Layout("bookworm", "main"), "dists/bookworm/main/binary-arm64/Packages", "pool/main/tiny_1_arm64.deb"),
    ],
    ids=["flat", "by suite"],
)
def test_a_repository_names_each_file_by_its_digest(tmp_path: Path, layout: apt.Layout, index: str, deb: str) -> None:
    """Packages tells a deb's place, digest and size, Release tells those of Packages, in both layouts."""
    tiny = apt.Deb(
        "tiny_1_arm64.deb", "Package: tiny\nVersion: 1\nArchitecture: arm64\nDescription: a: b\n", b"content"
    )
    key = Key(tmp_path / "gnupg")
    key.make()

    files = apt.repository([tiny], layout, key, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    folder = index.partition("/main/")[0] if layout.component else "binary"
    release = files[f"{folder}/Release"].decode().splitlines()

    assert "a: b" == tiny.field("Description")
    assert "" == tiny.field("Homepage")
    assert b"content" == files[deb]
    assert [
        "Package: tiny",
        "Version: 1",
        "Architecture: arm64",
        "Description: a: b",
        f"Filename: {deb}",
        "Size: 7",
        f"SHA256: {hashlib.sha256(b'content').hexdigest()}",
    ] == files[index].decode().splitlines()
    digest = hashlib.sha256(files[index]).hexdigest()
    assert f" {digest} {len(files[index])} {index.removeprefix(folder + '/')}" in release
    assert "Architectures: arm64" in release
    assert "Date: Fri, 02 Jan 2026 03:04:05 GMT" in release


WHEEL = "tiny-1-py3-none-manylinux_2_17_x86_64.whl"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"wheel", ""),
        (b"other", "pip download failed: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"),
        (None, "pip download failed: Could not find a version that satisfies the requirement tiny==1"),
    ],
    ids=["pinned", "another", "none"],
)
def test_a_wheel_is_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    """The wheel of the machines' architecture is fetched; another content or none is refused in one line."""
    (tmp_path / "index").mkdir()
    (tmp_path / "folder").mkdir()
    if content:
        (tmp_path / "index" / WHEEL).write_bytes(zipped(content))
        (tmp_path / "index" / WHEEL.replace("x86_64", "aarch64")).write_bytes(b"of no use here")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    pinned = f"tiny==1 --hash=sha256:{hashlib.sha256(zipped(b'wheel')).hexdigest()}\n"
    (tmp_path / "folder" / wheels.REQUIREMENTS).write_text(pinned)

    if says:
        with pytest.raises(ToolError) as refused:
            wheels.fetch(tmp_path / "folder", "x86_64")
        assert refused.value.text.startswith(says)
        assert "\n" not in refused.value.text
    else:
        wheels.fetch(tmp_path / "folder", "x86_64")
    fetched = [file.name for file in (tmp_path / "folder").glob("*.whl")]
    assert ([] if says else [WHEEL]) == fetched


def zipped(content: bytes) -> bytes:
    """Return a wheel with one file of that content, the same bytes each time."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tiny.py"), content)
        archive.writestr(
            zipfile.ZipInfo("tiny-1.dist-info/METADATA"), "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n"
        )
        archive.writestr(zipfile.ZipInfo("tiny-1.dist-info/WHEEL"), "Wheel-Version: 1.0\n")
    return written.getvalue()


def agents(folder: str) -> list[str]:
    """Return the command lines of the gpg agents whose home is in a folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if line.startswith("gpg-agent") and f" {folder}/" in line]


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a folder whose name is short, as that of a socket in it must be, and that nobody else's things get into."""
    with tempfile.TemporaryDirectory(prefix="bh") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


@pytest.mark.docker
def test_the_key_stays_in_its_folder(tmp_path: Path, short_tmp: str) -> None:
    """A key is made once, readable by nobody else, at any depth of folders, and no agent outlives its use."""
    home = tmp_path / ("deep" * 20) / ("deeper" * 15) / "gnupg"
    key = Key(home)

    fingerprint = key.make()
    key.sign(b"something")

    assert fingerprint == key.make()
    assert 40 == len(fingerprint)
    assert 0o700 == home.stat().st_mode & 0o777
    private = list((home / "private-keys-v1.d").iterdir())
    assert [0o600] == [file.stat().st_mode & 0o777 for file in private]
    assert b"PRIVATE" not in key.public()
    wait(lambda: not agents(short_tmp))


TINY_BUILD = """#!/bin/sh
set -e
mkdir -p root/DEBIAN
cp control root/DEBIAN
dpkg-deb --root-owner-group --build root "$1"
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a package that is built in no time, in the place of the stand-in."""
    folder = tmp_path / "sources" / "jenkins"
    folder.mkdir(parents=True)
    (folder / "control").write_text(
        "Package: jenkins\nVersion: 1\nArchitecture: all\nMaintainer: me <n@localhost>\nDescription: tiny\n"
    )
    (folder / "build").write_text(TINY_BUILD)
    (folder / "build").chmod(0o755)
    monkeypatch.setattr(packages, "_HERE", tmp_path / "sources")
    return folder


@pytest.mark.docker
def test_up_builds_only_what_changed(engine: Any, base: str, tiny: Path, tmp_path: Path) -> None:
    """A second up changes and says nothing, one after down builds nothing; changed sources are built anew."""
    with new_site(engine, base, tmp_path / "state") as site:
        said: list[str] = []
        first = site.up(said)
        container = site.container().id
        assert [
            "building the package that stands in for jenkins (debian)",
            "starting the repository of stand-ins",
        ] == said

        said.clear()
        assert first == site.up(said)
        assert container == site.container().id
        assert [] == said

        site.container().stop()
        assert first == site.up(said)
        assert [] == said

        site.down()
        assert first == site.up(said)
        assert ["starting the repository of stand-ins"] == said

        (tiny / "control").write_text((tiny / "control").read_text().replace("Version: 1", "Version: 2"))
        changed = site.up()
        assert "2" == changed.version
        assert first.fingerprint == changed.fingerprint
        assert "jenkins_2_all.deb" in docker_prints(
            "exec", site.container().id, "ls", "/srv/packages/jenkins-debian/binary"
        )


@pytest.mark.docker
def test_up_mends_what_a_crash_left(engine: Any, base: str, tiny: Path, tmp_path: Path) -> None:
    """Two at once make one; a container that never started and a network made anew are no obstacle."""
    with new_site(engine, base, tmp_path / "state") as site:
        said: list[str] = []
        with ThreadPoolExecutor(2) as two:
            first, second = two.map(lambda _: site.up(said), range(2))
        assert first == second
        assert 2 == len(said)

        half = site.container()
        site.down()
        network = site.told["network"]
        engine.containers.create(base, ["true"], name=half.name, labels=half.labels, network=network)
        assert first == site.up()

        site.container().stop()
        engine.networks.get(network).remove()
        engine.networks.create(network)
        assert first == site.up()


@pytest.mark.docker
def test_a_failed_build_tells_why(engine: Any, base: str, tiny: Path, tmp_path: Path) -> None:
    """What can't be built raises the last line of its log, names the log, and leaves nothing half-made."""
    (tiny / "build").write_text("#!/bin/sh\necho 'no compiler today' >&2\nexit 3\n")
    with new_site(engine, base, tmp_path / "state") as site:
        with pytest.raises(BakehouseError) as raised:
            site.up()
        assert "jenkins's stand-in can't be built: no compiler today" == raised.value.text
        assert str(tmp_path / "state" / "build.log") in raised.value.hint
        assert ["build.log", "lock"] == sorted(path.name for path in (tmp_path / "state").iterdir())

        (tiny / "build").write_text(TINY_BUILD)
        assert "1" == site.up().version


@pytest.mark.docker
def test_the_repository_has_no_rights_and_no_secret(site: Site) -> None:
    """Its container is nobody without capabilities, opens no port on the host, holds public files only."""
    container = site.container()
    limits = container.attrs["HostConfig"]
    names = docker_prints("exec", container.id, "find", "/srv", "-type", "f", "-printf", "%P\n").split()
    version = site.up().version

    assert ["ALL"] == limits["CapDrop"]
    assert not limits["CapAdd"]
    assert not limits["PortBindings"]
    assert not limits["Binds"]
    assert "65534" == docker_prints("exec", container.id, "id", "-u").strip()
    assert container.exec_run(["touch", "/srv/packages/jenkins-debian/jenkins.asc"]).exit_code != 0
    assert sorted(
        [f"packages/jenkins-debian/{name}" for name in ("repository.json", "jenkins.asc")]
        + [f"packages/jenkins-debian/binary/{name}" for name in ("Packages", "Packages.gz", "Release", "Release.gpg")]
        + [f"packages/jenkins-debian/binary/jenkins_{version}_all.deb"]
    ) == sorted(names)


@pytest.mark.docker
def test_apt_trusts_the_key_and_nothing_else(bare: Machine, site: Site, tmp_path: Path) -> None:
    """Apt takes the repository with its key, refuses it with another, and refuses a changed index."""
    clear = "rm -rf /var/lib/apt/lists/packages.*"
    stranger = Key(tmp_path / "gnupg")
    stranger.make()
    text = shlex.quote(stranger.public().decode())
    bare.run(f"cp {KEYRING} /root/kept; printf %s {text} >{KEYRING}; {clear}")
    try:
        refused = bare.fails(f"{APT} update")
    finally:
        bare.run(f"mv /root/kept {KEYRING}")
    assert "not signed" in refused

    forge = "import gzip, pathlib; f = pathlib.Path('/srv/packages/jenkins-debian/binary/Packages')\n"
    forge += "f.write_bytes(f.read_bytes().replace(b'stand-in', b'standing'))\n"
    forge += "f.with_suffix('.gz').write_bytes(gzip.compress(f.read_bytes(), mtime=0))"
    assert 0 == site.container().exec_run(["python3", "-c", forge], user="0").exit_code
    try:
        assert re.search("Hash Sum mismatch|unexpected size", bare.fails(f"{clear}; {APT} update"))
    finally:
        site.down()
        site.up()

    bare.run(f"{clear}; {APT} update")
    assert "Candidate: 2.580.1~standin1" in bare.run("apt-cache policy jenkins")


@pytest.mark.docker
def test_installing_starts_it_and_purging_leaves_nothing(bare: Machine, site: Site) -> None:
    """As the official deb: enabled and up after the install, restarted on upgrade, all gone after a purge."""
    bare.run(f"{APT} install jenkins")
    first = bare.shows("MainPID")

    assert "enabled" == bare.run("systemctl is-enabled jenkins")
    assert "active" == bare.run("systemctl is-active jenkins")
    assert 200 == bare.get("/login")[0]
    bare.run("dpkg --compare-versions $(dpkg-query -W -f '${Version}' jenkins) lt 2.580.1")
    assert "" == bare.run("dpkg --verify jenkins")

    bare.run("systemctl disable jenkins")
    bare.run(f"{APT} install --reinstall jenkins")
    assert first != bare.shows("MainPID")
    assert "active" == bare.run("systemctl is-active jenkins")
    assert "disabled" == bare.run("systemctl is-enabled jenkins", succeeds=False)

    bare.run("dpkg --purge jenkins")
    for path in ("/var/lib", "/var/log", "/var/cache", "/run", "/etc/default", "/etc/init.d", "/usr/bin"):
        bare.run(f"! test -e {path}/jenkins")
    bare.run("! getent passwd jenkins && ! getent group jenkins && ! pgrep java")
    assert "" == bare.run("find /etc -name '*jenkins.service*' -o -name '[SK]??jenkins'")


PATHS = [
    ("/usr/share/java/jenkins.war", "644 root root"),
    ("/usr/bin/jenkins", "755 root root"),
    ("/lib/systemd/system/jenkins.service", "644 root root"),
    ("/usr/share/jenkins/migrate", "755 root root"),
    ("/usr/lib/tmpfiles.d/jenkins.conf", "644 root root"),
    ("/etc/default/jenkins", "644 root root"),
    ("/etc/init.d/jenkins", "755 root root"),
    ("/etc/logrotate.d/jenkins", "644 root root"),
    ("/var/lib/jenkins", "755 jenkins jenkins"),
    ("/var/cache/jenkins", "750 jenkins jenkins"),
    ("/var/log/jenkins", "755 jenkins jenkins"),
    ("/run/jenkins", "770 jenkins jenkins"),
]


@pytest.mark.docker
def test_policy_rc_d_keeps_it_from_starting(bare: Machine) -> None:
    """Where policy-rc.d forbids to start it, all is installed and enabled, and no secret was made."""
    names = " ".join(path for path, _ in PATHS)

    install_unstarted(bare)

    assert "inactive" == bare.run("systemctl is-active jenkins", succeeds=False)
    assert "enabled" == bare.run("systemctl is-enabled jenkins")
    assert "" == bare.run("ls -A /var/lib/jenkins")
    assert [f"{path} {mode}" for path, mode in PATHS] == bare.run(f"stat -c '%n %a %U %G' {names}").splitlines()
    assert "Jenkins:/var/lib/jenkins:/bin/bash" == bare.run("getent passwd jenkins | cut -d: -f5- | tr -d ,")
    assert ["notify", "main", "1min 30s"] == [bare.shows(name) for name in ("Type", "NotifyAccess", "TimeoutStartUSec")]
    bare.run("! test -e /etc/systemd/system/jenkins.service.d/override.conf")


def seen_while_starting(machine: Machine) -> list[Any]:
    """Start the unit; return each change of what /login answers, until it is 200, and systemd's mind then."""
    seen: list[Any] = []
    machine.run("systemctl start --no-block jenkins")
    deadline = time.monotonic() + 300
    while not seen or seen[-1][0] != 200:
        assert time.monotonic() < deadline, seen
        try:
            status, headers, body = machine.get("/login")
            now: Any = (status, headers["X-Jenkins"], body.split("<title>")[1].split("</title>")[0])
        except ConnectionRefusedError:
            now = ("refused", None, "")
        if now[0] == 200:
            machine.run("systemctl start jenkins")
        if not seen or now != seen[-1][:-1]:
            seen.append((*now, machine.run("systemctl is-active jenkins", succeeds=False)))
    return seen


@pytest.mark.docker
def test_it_gets_ready_as_jenkins_does(installed: Machine, site: Site) -> None:
    """First refused, then 503 without X-Jenkins, then 200 with it; systemd hears READY=1 only then."""
    version = site.up().version

    assert [
        ("refused", None, "", "activating"),
        (503, None, "Starting Jenkins", "activating"),
        (200, version, "Sign in - Jenkins", "active"),
    ] == seen_while_starting(installed)
    assert f"Stand-in {version}, not Jenkins" == installed.shows("StatusText")
    assert installed.shows("MainPID") == installed.run("pgrep java")
    assert "jenkins /usr/bin/java -Djava.awt.headless=true -jar /usr/share/java/jenkins.war" in installed.run(
        "ps -C java -o user=,args= | tr -s ' '"
    )
    installed.run("systemctl stop jenkins")
    assert ["143", "success"] == [installed.shows(name) for name in ("ExecMainStatus", "Result")]


ANSWERS = [
    ("/login", 200, "STAND-IN<br>NOT JENKINS"),
    ("/health", 302, ""),
    ("/health/", 200, '{"status":true}'),
    ("/whoAmI/api/json", 200, '"anonymous":true'),
    ("/", 403, "url=/login?from=%2F"),
    ("/api/json", 403, "Authentication required"),
    ("/manage", 403, "Authentication required"),
]


@pytest.mark.docker
def test_it_answers_and_keeps_secrets_as_jenkins_does(installed: Machine, site: Site) -> None:
    """A first start makes the secrets with their modes and locks the rest away; a restart keeps them."""
    installed.run("systemctl start jenkins")

    for path, status, text in ANSWERS:
        got, headers, body = installed.get(path)
        assert (path, status, site.up().version) == (path, got, headers["X-Jenkins"])
        assert text in body
    home = "/var/lib/jenkins"
    listed = installed.run(f"find {home} -printf '%P %m %s %u\\n' | sort").splitlines()
    modes = {line.split()[0]: " ".join(line.split()[1:]) for line in listed if not line.startswith(" ")}
    folder = next(name for name in modes if name.startswith("users/admin_") and "/" not in name[6:])
    assert "700" == modes["secrets"].split()[0]
    assert {
        "secrets/master.key": "644 256 jenkins",
        "secret.key": "644 64 jenkins",
        "secret.key.not-so-secret": "644 0 jenkins",
        "secrets/initialAdminPassword": "640 33 jenkins",
    }.items() <= modes.items()
    assert {
        "config.xml",
        "identity.key.enc",
        "secrets/jenkins.model.Jenkins.crumbSalt",
        "secrets/org.jenkinsci.main.modules.instance_identity.InstanceIdentity.KEY",
        "users/users.xml",
        f"{folder}/config.xml",
        "jenkins.telemetry.Correlator.xml",
    } <= modes.keys()
    assert "failed-boot-attempts.txt" not in modes

    password = installed.run(f"cat {home}/secrets/initialAdminPassword")
    assert password in installed.run("journalctl -u jenkins -o cat").splitlines()
    assert 200 == installed.get("/api/json", Authorization=basic(password))[0]
    assert 401 == installed.get("/api/json", Authorization=basic("wrong"))[0]

    sums = f"find {home} -type f -exec sha256sum {{}} + | sort"
    before = installed.run(sums)
    installed.run("systemctl restart jenkins")
    assert before == installed.run(sums)
    assert 200 == installed.get("/api/json", Authorization=basic(password))[0]


@pytest.mark.docker
def test_without_the_wizard_it_is_open(installed: Machine) -> None:
    """With the wizard off and no realm anybody may do anything, as with Jenkins: what probes must catch."""
    installed.configure('Environment="JAVA_OPTS=-Djenkins.install.runSetupWizard=false"')
    installed.run("systemctl start jenkins")

    status, headers, body = installed.get("/api/json")
    assert 200 == status
    assert headers["X-Jenkins"]
    assert '"useSecurity":false' in body
    assert 200 == installed.get("/")[0]
    installed.run("! test -e /var/lib/jenkins/secrets/initialAdminPassword && test -e /var/lib/jenkins/secrets")
    assert "Please use the following password" not in installed.run("journalctl -u jenkins -o cat --boot -n 20")


CASC = """jenkins:
  securityRealm:
    local:
      allowsSignup: false
      users:
"""
USER = """        - id: {}
          password: {}
"""
PLUGIN = """
import sys, zipfile
with zipfile.ZipFile("/var/lib/jenkins/plugins/configuration-as-code.jpi", "w") as jar:
    jar.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\\nPlugin-Version: {sys.argv[1]}\\n")
"""
SECRETS = {
    "kept": "${readFile:/run/secret}",
    "trimmed": "${trim:${readFile:/run/secret}}",
    "missing": "${trim:${readFile:/run/secret-none}}",
}
# Who gets in with the file's text, and with that as a person types it; whether the log holds the secret.
ENTERED: list[tuple[str, dict[str, list[int]], bool]] = [
    ("2061.vc08919f7fc37", {"kept": [200, 401], "trimmed": [401, 200], "missing": [401, 401]}, False),
    ("1.55.1", {"kept": [200, 401], "trimmed": [401, 401], "missing": [401, 401]}, True),
]


@pytest.mark.docker
@pytest.mark.parametrize(("version", "expected", "logged"), ENTERED)
def test_secrets_of_configuration_as_code(
    installed: Machine, version: str, expected: dict[str, list[int]], logged: bool
) -> None:
    """A secret keeps the end of its file's line unless it is trimmed; one that is missing is a warning.

    An old plugin takes `trim` for a variable, which it logs. Strangers stay out, and agents have a port.
    """
    casc = CASC + "".join(USER.format(*one) for one in SECRETS.items())
    installed.run(
        f"printf %s {shlex.quote(casc)} >/etc/casc.yaml; printf 'words \\n' >/run/secret; chmod 644 /run/secret"
    )
    installed.run(f"mkdir -p /var/lib/jenkins/plugins; python3 -c {shlex.quote(PLUGIN)} {version}")
    installed.configure(
        "Environment=JAVA_OPTS=-Djenkins.install.runSetupWizard=false CASC_JENKINS_CONFIG=/etc/casc.yaml"
    )
    installed.run("systemctl start jenkins")

    got = {
        user: [installed.get("/api/json", Authorization=basic(password, user))[0] for password in ("words \n", "words")]
        for user in SECRETS
    }
    said = installed.run("journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID jenkins)")
    assert (expected, 403) == (got, installed.get("/api/json")[0])
    assert "Error looking up file '/run/secret-none' with UTF-8 encoding. Will default to empty string" in said
    assert logged == ("variable 'trim:words" in said)
    listening = (
        installed.run("ss -Hlnte 2>/dev/null | grep -c uid:$(id -u jenkins)"),
        installed.run("grep -o 'Port>0<' /var/lib/jenkins/config.xml"),
    )
    assert ("2", "Port>0<") == listening


class Browser:
    """Keep the session's cookie and crumb over requests to a machine's Jenkins."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.cookie, self.crumb = machine, "", ""

    def ask(
        self, path: str, text: str | None = None, kind: str = "application/x-www-form-urlencoded"
    ) -> tuple[int, str]:
        """Return the status, and where it leads to or what it says; with a text it is a POST."""
        headers: dict[str, Any] = {"Cookie": self.cookie, "Jenkins-Crumb": self.crumb, "Content-Type": kind}
        status, got, body = self.machine.get(path, text=text, **headers)
        self.cookie = got["Set-Cookie"].split(";")[0] if got["Set-Cookie"] else self.cookie
        return status, got["Location"] or body

    def take_crumb(self) -> None:
        """Get the crumb of the session."""
        self.crumb = json.loads(self.ask("/crumbIssuer/api/json")[1])["crumb"]


JOB = "<project><builders><hudson.tasks.Shell><command>echo {}</command></hudson.tasks.Shell></builders></project>"


@pytest.mark.docker
def test_somebody_signs_in_sets_it_up_and_builds(installed: Machine) -> None:
    """The form leads on with a session, changes need its crumb, the wizard's end takes the password away, jobs run."""
    first = "/var/lib/jenkins/secrets/initialAdminPassword"
    installed.run("systemctl start jenkins")
    form = "j_username=admin&j_password={}&from=%2Fmanage"
    password, browser = installed.run(f"cat {first}"), Browser(installed)

    assert (302, "/loginError") == browser.ask("/j_spring_security_check", form.format("wrong"))
    assert 403 == browser.ask("/api/json")[0]
    assert (302, "/manage") == browser.ask("/j_spring_security_check", form.format(password))
    assert 200 == browser.ask("/api/json")[0]
    admin = "username=ann&password1=secret&password2=secret&fullname=Ann"
    assert 403 == browser.ask("/setupWizard/createAdminUser", admin)[0]
    browser.take_crumb()
    assert 200 == browser.ask("/setupWizard/createAdminUser", admin)[0]
    installed.run(f"! test -e {first}; ! test -e /var/lib/jenkins/jenkins.install.UpgradeWizard.state")
    assert 401 == installed.get("/api/json", Authorization=basic(password))[0]
    assert 200 == installed.get("/api/json", Authorization=basic("secret", "ann"))[0]
    browser.take_crumb()
    assert 200 == browser.ask("/setupWizard/completeInstall", "")[0]
    installed.run("test -s /var/lib/jenkins/jenkins.install.UpgradeWizard.state")

    for name, command, result in (("good", "$JOB_NAME $BUILD_NUMBER", "SUCCESS"), ("bad", "x; exit 7", "FAILURE")):
        assert 200 == browser.ask(f"/createItem?name={name}", JOB.format(command), "application/xml")[0]
        assert (201, "/queue/item/1/") == browser.ask(f"/job/{name}/build", "")
        wait(lambda: not json.loads(browser.ask(f"/job/{name}/lastBuild/api/json")[1])["building"])  # noqa: B023
        assert result == json.loads(browser.ask(f"/job/{name}/1/api/json")[1])["result"]
    assert "+ echo good 1\ngood 1\n" == browser.ask("/job/good/lastBuild/consoleText")[1]


@pytest.mark.docker
def test_a_start_that_was_cut_off_begins_anew(installed: Machine) -> None:
    """Until config.xml is there, which is the last, a start makes the first administrator and his password again."""
    home = "/var/lib/jenkins"
    installed.run(
        f"install -d -o jenkins {home}/users {home}/users/admin_1; install -d -m 700 -o jenkins {home}/secrets;"
        f" install -o jenkins -m 640 /dev/null {home}/secrets/initialAdminPassword"
    )
    installed.run("systemctl start jenkins")

    password = installed.run(f"cat {home}/secrets/initialAdminPassword")
    assert 200 == installed.get("/api/json", Authorization=basic(password))[0]


NO_ANSWER = """
import socket, time
server = socket.create_server(("127.0.0.1", 81), backlog=0)
full = [socket.create_connection(("127.0.0.1", 81)) for _ in range(1)]
time.sleep(99)
"""


@pytest.mark.docker
@pytest.mark.parametrize(
    ("url", "seconds", "reason"),
    [
        ("http://127.0.0.1:1/", 0, "ConnectException: Connection refused"),
        ("http://127.0.0.1:81/", 4, "SocketTimeoutException: Connect timed out"),
    ],
    ids=["refused", "dropped"],
)
def test_without_an_update_centre(installed: Machine, url: str, seconds: int, reason: str) -> None:
    """A way to the update centre that is shut is one SEVERE; where packets are dropped the start is late by that."""
    installed.run(f"systemd-run -qG --unit silent python3 -c {shlex.quote(NO_ANSWER)}")
    timeout = "-Dhudson.ProxyConfiguration.DEFAULT_CONNECT_TIMEOUT_MILLIS=4000"
    installed.configure(f'Environment="JAVA_OPTS=-Dhudson.model.UpdateCenter.updateCenterUrl={url} {timeout}"')
    begun = time.monotonic()
    installed.run("systemctl start jenkins; systemctl stop silent")
    took = time.monotonic() - begun

    said = installed.run("journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID jenkins)")
    severe = [line.split("SEVERE\t")[1] for line in said.splitlines() if "\tSEVERE\t" in line]
    error = "hudson.PluginManager#doCheckUpdatesServer: Error checking update sites for 1 attempt(s)."
    [one] = severe
    assert one.startswith(f"{error} Last exception was: {reason}")
    assert took >= seconds


@pytest.mark.docker
def test_it_boots_as_long_as_asked(installed: Machine) -> None:
    """It takes the time that it is told, of those that a genuine one takes, and no other."""
    installed.configure('Environment="JAVA_OPTS=-Dstandin.bootSeconds=5"')
    begun = time.monotonic()
    installed.run("systemctl start jenkins")

    assert time.monotonic() - begun > 4.5  # systemd began it a moment before
    refused = installed.fails("java -Dstandin.bootSeconds=18 -jar /usr/share/java/jenkins.war")
    assert "standin.bootSeconds takes 2 to 17, not 18" in refused


@pytest.mark.docker
def test_old_settings_become_an_override(present: Machine) -> None:
    """What was edited in /etc/default/jenkins becomes override.conf, and one that is there stays."""
    drop_in = "/etc/systemd/system/jenkins.service.d/override.conf"
    migrate = f"/usr/share/jenkins/migrate /root/old; cat {drop_in}"
    present.run(f"rm -f {drop_in}; cp /etc/default/jenkins /root/old")
    assert "No such file" in present.fails(migrate)
    present.run("echo HTTP_PORT=8081 >>/root/old; echo JENKINS_HOME=/srv >>/root/old")
    try:
        expected = [
            "[Service]",
            'Environment="JENKINS_HOME=/srv"',
            "WorkingDirectory=/srv",
            'Environment="JENKINS_PORT=8081"',
        ]
        assert expected == present.run(migrate).splitlines()
        present.run("echo HTTP_PORT=8082 >>/root/old")
        assert expected == present.run(migrate).splitlines()
    finally:
        present.run(f"rm -f {drop_in}")


@pytest.mark.docker
def test_without_java_the_unit_fails(installed: Machine) -> None:
    """The package needs no Java to be installed, but nothing starts without one."""
    with installed.without("/usr/bin/java"):
        installed.fails("systemctl start jenkins")
    assert "jenkins: failed to find a valid Java installation" in installed.run("journalctl -u jenkins -o cat -n 50")


@pytest.mark.docker
def test_without_harfbuzz_it_never_gets_ready(installed: Machine) -> None:
    """Without a library of libfontmanager.so it answers 503 with the reason, until systemd gives up."""
    installed.configure("TimeoutStartSec=20", "Restart=no")  # Java has to answer before that, on a busy host too
    with installed.without("/usr/lib/*-linux-gnu/libharfbuzz.so.0*"):
        installed.run("systemctl start --no-block jenkins")
        deadline = time.monotonic() + 300
        answers: set[Any] = set()
        while installed.run("systemctl is-active jenkins", succeeds=False) == "activating":
            assert time.monotonic() < deadline
            try:
                status, headers, body = installed.get("/login")
                answers.add((status, headers["X-Jenkins"], "libharfbuzz.so.0: cannot open shared object" in body))
            except OSError:
                answers.add("refused")
    assert {"refused", (503, None, True)} == answers
    assert "timeout" == installed.shows("Result")
    assert "AWTProblem: java.lang.UnsatisfiedLinkError" in installed.run("journalctl -u jenkins -o cat")


LAUNCHES = [
    ({}, "-jar /etc/hostname"),
    ({"JENKINS_PORT": "8081"}, "-jar /etc/hostname --httpPort=8081"),
    ({"JENKINS_PREFIX": "/a b"}, "-jar /etc/hostname '--prefix=/a b'"),
    ({"JENKINS_LISTEN_ADDRESS": "127.0.0.1"}, "-jar /etc/hostname --httpListenAddress=127.0.0.1"),
    ({"JENKINS_DEBUG_LEVEL": "5"}, "-jar /etc/hostname"),
    ({"JENKINS_DEBUG_LEVEL": "9"}, "-jar /etc/hostname --debug=9"),
    ({"JAVA_OPTS": '-Da="b c" -Xmx9m'}, "'-Da=b c' -Xmx9m -jar /etc/hostname"),
    ({"JAVA_OPTS": "-Da=$HOME"}, "-Da=/root -jar /etc/hostname"),
    ({"JENKINS_OPTS": "--x --y='1 2'"}, "-jar /etc/hostname --x '--y=1 2'"),
    ({"JENKINS_HOME": "/etc/hostname"}, "jenkins: /etc/hostname is not a directory"),
    ({"JENKINS_WAR": "/nowhere"}, "jenkins: /nowhere is not a file"),
]


SHOW = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.mark.docker
@pytest.mark.parametrize(("variables", "started"), LAUNCHES)
def test_the_launcher_reads_the_documented_variables(present: Machine, variables: dict[str, str], started: str) -> None:
    """Each variable ends on Java's command line, after the shell has read its value."""
    present.run(f"printf %s {shlex.quote(SHOW)} >/usr/local/bin/show; chmod 755 /usr/local/bin/show")
    given = {
        "HOME": "/root",
        "JENKINS_JAVA_CMD": "/usr/local/bin/show",
        "JENKINS_WAR": "/etc/hostname",
        **variables,
    }
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in given.items())

    got = present.run(f"env -i PATH=/usr/bin:/bin {environment} jenkins", succeeds=False)

    assert started == (got if got.startswith("jenkins: ") else shlex.join(got.splitlines()))


@pytest.mark.docker
def test_the_war_obeys_its_options(installed: Machine) -> None:
    """Port, address, prefix, HTTPS, log file and access log are where the variables put them."""
    installed.run(
        "keytool -genkeypair -alias j -keyalg EC -dname CN=j -storepass secret -keystore /etc/j.p12 2>&1"
        "; chmod 644 /etc/j.p12"
    )
    installed.configure(
        *(
            f'Environment="JENKINS_{setting}"'
            for setting in (
                "PORT=8081",
                "LISTEN_ADDRESS=127.0.0.1",
                "PREFIX=/ci",
                "HTTPS_PORT=8443",
                "HTTPS_KEYSTORE=/etc/j.p12",
                "HTTPS_KEYSTORE_PASSWORD=secret",
                "LOG=/var/log/jenkins/jenkins.log",
                "ENABLE_ACCESS_LOG=true",
            )
        )
    )
    installed.run("systemctl start jenkins")

    assert 200 == installed.get("/ci/login", port=8443, tls=True)[0]
    assert 404 == installed.get("/login", port=8443, tls=True)[0]
    assert "/ci/" == installed.get("/ci", port=8443, tls=True)[1]["Location"]
    with pytest.raises(ConnectionRefusedError):
        installed.get("/ci/login", port=8081)
    inside = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8081/ci/login').status)"
    assert "200" == installed.run(f'python3 -c "{inside}"')
    assert "Jenkins is fully up and running" in installed.run("cat /var/log/jenkins/jenkins.log")
    assert '"GET /ci/login HTTP/1.1" 200' in installed.run("cat /var/log/jenkins/access_log")


# The options of a genuine 2.426.2's --help; the last two stand for one of each user.
OPTIONS = """
webroot pluginroot extractedFilesFolder enable-future-java paramsFromStdIn javaHome config prefix commonLibFolder
extraLibFolder logfile logThrowingLineNo logThrowingThread debug httpPort httpListenAddress httpKeepAliveTimeout
httpsPort httpsListenAddress httpsKeepAliveTimeout httpsKeyStore httpsKeyStorePassword httpsKeyManagerType
httpsRedirectHttp http2Port http2ListenAddress httpsSniHostCheck httpsSniRequired excludeCipherSuites controlPort
useJasper sessionTimeout sessionEviction mimeTypes maxParamCount useJmx qtpMaxThreadsCount jettyAcceptorsCount
jettySelectorsCount usage realmClassName fileRealm.configFile accessLoggerClassName simpleAccessLogger.format
simpleAccessLogger.file argumentsRealm.passwd.ann argumentsRealm.roles.ann
"""


@pytest.mark.docker
def test_every_option_of_the_genuine_help_is_taken(present: Machine) -> None:
    """What a genuine Jenkins takes is taken, whether it is played or not; what it doesn't know is refused as there."""
    options = " ".join(f"--{option}=1" for option in OPTIONS.split())

    assert "Stand-in for Jenkins, not Jenkins." in present.run(f"java -jar /usr/share/java/jenkins.war {options}")
    refused = present.fails("java -jar /usr/share/java/jenkins.war --sessionTimeOut=1")
    assert "Unrecognized option: --sessionTimeOut=1" in refused


ASK = """
public class Ask {
    public static void main(String[] rows) throws Exception {
        var ask = Class.forName("standin.Main").getDeclaredMethod("objection", int.class, boolean.class);
        ask.setAccessible(true);
        for (String row : rows) {
            boolean future = row.endsWith("+");
            System.out.println(row + " " + ask.invoke(null, Integer.parseInt(row.replace("+", "")), future));
        }
    }
}
"""


@pytest.mark.docker
def test_only_java_21_and_25_will_do(present: Machine) -> None:
    """Older ones are refused whatever is asked for, others unless future Javas are asked for."""
    present.run(f"printf %s {shlex.quote(ASK)} >/root/Ask.java")
    older = "which is older than the minimum required version (Java 21)."
    other = "which is not fully supported. The flag --enable-future-java lets it run all the same."

    got = present.run("java -cp /usr/share/java/jenkins.war /root/Ask.java 11 17 17+ 21 22 22+ 25 26 26+")

    assert [
        f"11 {older}",
        f"17 {older}",
        f"17+ {older}",
        "21 null",
        f"22 {other}",
        "22+ null",
        "25 null",
        f"26 {other}",
        "26+ null",
    ] == got.splitlines()
