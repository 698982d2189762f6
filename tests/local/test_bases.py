"""The bases: what they show as AMIs, how they are made, and what is left when they can't be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import ROOT, Machines, wait

from bakehouse import recipes
from bakehouse.errors import InputError, NotFoundError, ToolError
from bakehouse.local import bases
from bakehouse.local.bases import containers, debian

KNOWN = recipes.bases(ROOT)
OWN = {"123456789012": "self"}  # moto's account
NOW = datetime(2026, 11, 22, 8, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "image_name"),
    [
        ("debian-13", "debian-13-amd64-20261122-0815"),
        ("debian-12", "debian-12-amd64-20261122-0815"),
        ("amazon-linux-2023", "al2023-ami-2023.0.20261122.0-kernel-6.1-x86_64"),
        ("ubuntu-24.04", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261122"),
        ("ubuntu-22.04", "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20261122"),
        ("rocky-10", "Rocky-10-EC2-Base-10.0-20261122.0.x86_64"),
        ("rocky-9", "Rocky-9-EC2-Base-9.0-20261122.0.x86_64"),
        ("rpm-stand-in", "rpm-stand-in-x86_64-20261122-0815"),
    ],
)
def test_one_filter_finds_a_base_here_and_on_aws(name: str, image_name: str) -> None:
    """What a base shows is what packer/bases.auto.pkrvars.hcl looks for on AWS."""
    looked_for = KNOWN[name]
    shown = bases.shows(bases.MAKINGS[name], looked_for, "x86_64", NOW)

    assert image_name == shown["image_name"]
    assert fnmatch(shown["image_name"], looked_for.pattern("x86_64"))
    assert looked_for.owner in (shown["owner"], shown["owner_alias"], OWN.get(shown["owner"]))
    assert looked_for.user == shown["user"]
    assert "x86_64" == shown["architecture"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_base_is_found_on_arm_too(name: str) -> None:
    """On a machine with ARM a base shows what the same file looks for there, in each pattern's own word for ARM."""
    shown = bases.shows(bases.MAKINGS[name], KNOWN[name], "arm64", NOW)

    assert "arm64" == shown["architecture"]
    assert fnmatch(shown["image_name"], KNOWN[name].pattern("arm64"))
    assert not fnmatch(shown["image_name"], KNOWN[name].pattern("x86_64"))


def test_every_base_is_known_on_both_sides() -> None:
    """The local EC2 has a base for each that Packer knows, and no other."""
    assert set(recipes.bases(ROOT)) == set(bases.MAKINGS)


@pytest.mark.parametrize(
    ("targets", "mirrors"),
    [
        ("", {}),
        ("Ubuntu http://ubuntu.example/ubuntu/\n", {}),
        ("Debian http://one.example/debian/\n", {}),
        (
            "Debian-Security http://s.example/security/\nDebian http://one.example/debian/\nDebian http://two.example/\n",
            {"main": "http://one.example/debian/", "security": "http://s.example/security/"},
        ),
        ("Debian-Security http://127.0.0.1:3142/s/\nDebian http://one.example/debian/\n", {}),
        ("Debian-Security http://s.example/security/\nDebian http://localhost:3142/debian/\n", {}),
        ("Debian-Security http://s.example/security/\nDebian file:/srv/debian/\n", {}),
    ],
)
def test_mirrors(targets: str, mirrors: dict[str, str]) -> None:
    """The machine's own mirrors are taken when they are Debian's and a machine can reach them."""
    assert mirrors == debian._mirrors(targets)


def test_unknown_base() -> None:
    """A base that isn't known is refused with the names of those that are."""
    with pytest.raises(NotFoundError) as raised:
        bases.make(None, "plan-9", KNOWN["debian-13"], {}, print)  # type: ignore[arg-type]

    assert "the local EC2 has no base plan-9" == raised.value.text
    assert f"known: {', '.join(bases.MAKINGS)}" == raised.value.hint


# With the Docker engine

LABELS = {"bakehouse.kind": "base", "bakehouse.checkout": f"test-{os.getpid()}"}
MINE: dict[str, Any] = {"label": f"bakehouse.checkout={LABELS['bakehouse.checkout']}"}


@pytest.fixture
def engine() -> Iterator[Any]:
    """Give a patient client of the Docker engine; what a test leaves is removed, so that no other one finds it."""
    import docker

    client = docker.from_env(timeout=600)
    yield client
    for container in client.containers.list(all=True, filters=MINE):
        container.remove(force=True)
    for image in made(client):
        client.images.remove(image, force=True, noprune=True)
    client.close()


def made(engine: Any) -> list[str]:
    """Return the IDs of all images and containers that the tests' label tells."""
    things = [*engine.images.list(all=True, filters=MINE), *engine.containers.list(all=True, filters=MINE)]
    return [str(thing.id) for thing in things]


@pytest.mark.docker
def test_the_debian_base_holds_nothing_of_its_making(engine: Any, debian_base: str) -> None:
    """No identity, no lists, no logs; Debian's own sources; what its AMI shows is on its label."""
    look = (
        "cat /etc/machine-id; ls /etc/ssh | grep host_key; ls /var/lib/apt/lists | grep -v -e lock -e partial;"
        "stat -c %y /var/lib/apt/lists | grep -v ^1970; find /var/log /tmp /var/tmp -type f;"
        "ls /prepare* /etc/apt/sources.list 2>/dev/null; echo --;"
        "cat /etc/apt/sources.list.d/debian.sources"
    )

    said = engine.containers.run(debian_base, ["sh", "-c", look], remove=True).decode()
    rest, _, sources = said.partition("--\n")
    labels = engine.images.get(debian_base).labels

    assert "" == rest
    assert ["trixie", "trixie-updates", "trixie-security"] == [
        suite for line in sources.splitlines() if line.startswith("Suites: ") for suite in line.split()[1:]
    ]
    assert "debian-13" == labels["bakehouse.base"]
    shown = json.loads(labels["bakehouse.image"])
    assert ("admin", "136693071363", "made here with mmdebstrap") == (shown["user"], shown["owner"], shown["how"])


@pytest.mark.docker
def test_a_machine_of_the_debian_base(machines: Machines) -> None:
    """Systemd is content, the first user is root at will, apt works, and nothing wakes up to take apt's lock."""
    one = machines.launch()[0]

    assert "running" == machines.ssh(one, "systemctl is-system-running --wait")
    assert "" == machines.ssh(one, "systemctl --failed --plain --no-legend")
    assert "status: done" == machines.ssh(one, "cloud-init status --wait")
    assert "root" == machines.ssh(one, "sudo whoami")
    assert "systemd-tmpfiles-clean.timer" == machines.ssh(one, "systemctl show '*.timer' --property=Id --value")
    assert "ecdsa ed25519" == machines.ssh(one, "cd /etc/ssh; echo ssh_host_*_key | sed 's/ssh_host_//g; s/_key//g'")
    assert "0" == machines.ssh(one, "sudo apt-get update >/dev/null; echo $?")


@pytest.mark.docker
@pytest.mark.parametrize("name", containers.IMAGES)
def test_what_needs_a_registry(engine: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where no registry answers one line says so, at once."""
    image, script = containers.IMAGES[name]
    monkeypatch.setattr(containers, "IMAGES", {name: (f"127.0.0.1:1/{image}", script)})

    with pytest.raises(ToolError) as raised:
        bases.make(engine, name, KNOWN[name], LABELS, lambda line: None)

    said = f"base {name} needs an image registry, and none can be reached: "
    assert raised.value.text.startswith(said)
    assert "\n" not in raised.value.text
    assert 2 == raised.value.code
    assert [] == made(engine)


@pytest.mark.docker
def test_a_registry_image_is_made_a_base(engine: Any, debian_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare image gets what a machine needs and the labels; Debian's own stands in for Amazon's here."""
    install = "rm /etc/cloud/cloud.cfg.d/20-bakehouse.cfg\n"
    monkeypatch.setattr(containers, "IMAGES", {"amazon-linux-2023": (debian_base, install)})

    image = bases.make(engine, "amazon-linux-2023", KNOWN["amazon-linux-2023"], LABELS, lambda line: None)

    user = "grep -o 'name: .*user' /etc/cloud/cloud.cfg.d/20-bakehouse.cfg"
    assert b"name: ec2-user\n" == engine.containers.run(image, ["sh", "-c", user], remove=True)
    shown = engine.images.get(image).labels
    assert LABELS.items() <= shown.items()
    assert "amazon-linux-2023" == shown["bakehouse.base"]
    assert "amazon" == json.loads(shown["bakehouse.image"])["owner_alias"]
    assert [image] == made(engine)
    engine.images.remove(image, force=True, noprune=True)  # unforced it would wait for each container of the engine


@pytest.mark.docker
def test_a_registry_image_that_can_not_be_made_a_base(
    engine: Any, debian_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the package manager said last is passed on, and no container stays."""
    install = "echo Error: no such package >&2; exit 1\n"
    monkeypatch.setattr(containers, "IMAGES", {"amazon-linux-2023": (debian_base, install)})

    with pytest.raises(ToolError, match=r"^base amazon-linux-2023 can't be made: Error: no such package$"):
        bases.make(engine, "amazon-linux-2023", KNOWN["amazon-linux-2023"], LABELS, lambda line: None)

    assert [] == made(engine)


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder where a base is put together; nothing may be left in it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)
        assert [] == list(Path(folder).iterdir())


@pytest.mark.docker
def test_a_mirror_that_does_not_answer(engine: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What apt complains of is passed on in one line, and nothing is left."""
    nowhere = {"main": "http://127.0.0.1:1/debian", "security": "http://127.0.0.1:1/security"}
    monkeypatch.setattr(debian, "_mirrors", lambda targets: nowhere)

    with pytest.raises(ToolError) as raised:
        bases.make(engine, "debian-13", KNOWN["debian-13"], LABELS, lambda line: None)

    assert raised.value.text.startswith("base debian-13 can't be made: ")
    assert "http://127.0.0.1:1/" in raised.value.text
    assert "\n" not in raised.value.text
    assert [] == made(engine)


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full(engine: Any, scratch: Path) -> None:
    """A full disk is named as such, with what is needed, and nothing is left."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m,mode=1777", "tmpfs", scratch], check=True)
    try:
        with pytest.raises(InputError) as raised:
            bases.make(engine, "debian-13", KNOWN["debian-13"], LABELS, lambda line: None)
        assert [] == list(scratch.iterdir())
    finally:
        subprocess.run(["umount", scratch], check=True)

    assert "base debian-13 can't be made: the disk is full" == raised.value.text
    assert f"free 1 GB in {scratch} and in Docker's folder" == raised.value.hint
    assert [] == made(engine)


@pytest.mark.docker
def test_an_interruption(engine: Any, scratch: Path, ctrl_c: Callable[[], None]) -> None:
    """Ctrl-C in the middle ends mmdebstrap and leaves no image and no file."""
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if "extracting" in line:
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        bases.make(engine, "debian-13", KNOWN["debian-13"], LABELS, say)

    assert "  extracting archives" in told
    assert [] == made(engine)


MAKE = f"""
import docker
from bakehouse import recipes, settings
from bakehouse.local import bases
known = recipes.bases(settings.ROOT)["debian-13"]
bases.make(docker.from_env(timeout=600), "debian-13", known, {LABELS!r}, lambda line: print(line, flush=True))
"""


@pytest.mark.docker
def test_a_kill(engine: Any, scratch: Path) -> None:
    """When whoever makes a base is killed, mmdebstrap ends at once and takes its folders and all mounts along."""
    with subprocess.Popen([sys.executable, "-c", MAKE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while "installing essential packages" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()

    assert list(scratch.iterdir())
    wait(lambda: not list(scratch.iterdir()), seconds=15)  # to its own end it would take longer
    assert str(scratch) not in Path("/proc/mounts").read_text()
    assert [] == made(engine)
