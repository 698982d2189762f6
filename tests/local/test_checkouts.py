"""Checkouts: each is who it is, wherever its folder is, and what vanished ones have left can be cleared away."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from ec2_fixtures import LocalEc2, another, docker, mark, state_of, wait

from bakehouse import local, system
from bakehouse.local import bodies, checkouts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a local EC2, where no Docker engine answers."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    made = tmp_path / "one" / "local"
    made.mkdir(parents=True)
    return made


def test_an_id_stays(folder: Path) -> None:
    """A checkout's ID is 12 hexadecimal digits, and the same each time; another checkout has another."""
    ours = checkouts.own(folder)
    other = folder.parent / "other"
    other.mkdir()

    assert (12, True) == (len(ours), set(ours) <= set("0123456789abcdef"))
    assert ours == checkouts.own(folder)
    assert ours != checkouts.own(other)


def test_a_moved_folder_keeps_its_id(folder: Path) -> None:
    """The ID goes with the folder, and with it what the local EC2 knows."""
    ours = checkouts.own(folder)
    (folder / "state.pickle").touch()
    moved = folder.parent.rename(folder.parent.with_name("moved")) / "local"

    assert ours == checkouts.own(moved)
    assert (moved / "state.pickle").exists()
    assert str(moved) == json.loads((moved / "checkout.json").read_text())["path"]


def test_a_copied_folder_gets_an_id_of_its_own(folder: Path) -> None:
    """A copy begins empty, and the original is left as it was."""
    ours = checkouts.own(folder)
    (folder / "state.pickle").touch()
    copied = Path(shutil.copytree(folder, folder.parent / "copied"))

    assert ours != checkouts.own(copied)
    assert not (copied / "state.pickle").exists()
    assert (ours, True) == (checkouts.own(folder), (folder / "state.pickle").exists())


@pytest.mark.parametrize("told", ["", "nonsense", "[]", '{"id": "a"}'])
def test_a_damaged_file_is_an_id_that_was_lost(folder: Path, told: str) -> None:
    """What can't be read is no ID; a new one is made."""
    (folder / "checkout.json").write_text(told)

    assert 12 == len(checkouts.own(folder))


@pytest.fixture
def other(local_ec2: LocalEc2, tmp_path: Path) -> Iterator[LocalEc2]:
    """Give a second local EC2, with a machine that runs."""
    with another(local_ec2, tmp_path / "state") as made:
        made.up()
        yield made


def machine_of(one: LocalEc2) -> str:
    """Launch a machine and return its ID when it runs."""
    ec2 = one.client("ec2")
    base = ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    machine: str = ec2.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    wait(lambda: state_of(ec2, machine) == "running")
    return machine


@pytest.mark.docker
def test_a_moved_checkout_has_its_machines(other: LocalEc2, tmp_path: Path) -> None:
    """After its folder was moved the server ends, the next one knows the machine, and a reset leaves nothing."""
    machine, ours = machine_of(other), mark(other.state)
    pid = json.loads((other.folder / "server.json").read_text())["pid"]
    moved = LocalEc2(other.state.rename(tmp_path / "moved"))
    wait(lambda: not Path(f"/proc/{pid}").exists(), 30)

    moved.up()

    assert ours == mark(moved.state)
    assert "running" == state_of(moved.client("ec2"), machine)
    [told] = [one for one in local.everywhere() if one.id == ours]
    assert (str(moved.folder.resolve()), "here", 1) == (told.folder, told.state, told.machines)
    moved.inv("local.reset", "--yes")
    assert "" == docker("ps", "--all", "--quiet", "--filter", f"label=bakehouse.checkout={ours}")
    assert ["bases.lock", "local.lock"] == sorted(path.name for path in moved.state.iterdir())
    other.state.mkdir()


@pytest.mark.docker
def test_a_deleted_state_folder_is_no_loss(other: LocalEc2) -> None:
    """After rm -rf .bakehouse the checkout finds its ID again, and its reset deletes what it has on Docker."""
    machine, ours = machine_of(other), mark(other.state)
    pid = json.loads((other.folder / "server.json").read_text())["pid"]
    shutil.rmtree(other.state)
    wait(lambda: not Path(f"/proc/{pid}").exists(), 30)

    plan = other.inv("local.reset", "--dry-run").stderr
    other.inv("local.reset", "--yes")

    assert f"delete machine {machine} (on)\n" in plan
    for kind in ("ps --all", "images --all", "volume ls", "network ls"):
        assert "" == docker(*kind.split(), "--quiet", "--filter", f"label=bakehouse.checkout={ours}")


@pytest.mark.docker
def test_what_a_vanished_checkout_left_is_told_and_cleared(local_ec2: LocalEc2, other: LocalEc2) -> None:
    """Another checkout sees what a vanished one has left, and clears that away, and nothing else."""
    machine_of(other)
    ours, living = mark(other.state), mark(local_ec2.state)
    pid = json.loads((other.folder / "server.json").read_text())["pid"]
    before = {one["id"]: one for one in json.loads(local_ec2.inv("local.status", "--everywhere", "--json").stdout)}
    shutil.rmtree(other.state)
    wait(lambda: not Path(f"/proc/{pid}").exists(), 30)

    after = {one["id"]: one for one in json.loads(local_ec2.inv("local.status", "--everywhere", "--json").stdout)}
    plan = local_ec2.inv("local.reset", "--gone", "--dry-run").stderr

    assert ("here", "gone") == (before[ours]["state"], after[ours]["state"])
    assert (1, str(other.folder.resolve())) == (after[ours]["machines"], after[ours]["folder"])
    assert f"delete checkout {ours} of {other.folder.resolve()}, which is gone: 1 machines, " in plan
    assert living not in plan
    local_ec2.inv("local.reset", "--gone", "--yes")
    left = {one.id: one.state for one in local.everywhere()}
    assert ("here", None) == (left[living], left.get(ours))
    other.state.mkdir(mode=0o700)


def test_the_engine_of_a_context_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's client asks the engine of the context that Docker's command line uses; one that isn't there is named."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("docker.context.config.get_context_dir", lambda: str(tmp_path / "contexts"))
    meta = tmp_path / "contexts/meta" / hashlib.sha256(b"mine").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    place = {"Host": f"unix://{tmp_path}/mine.sock", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "mine", "Metadata": {}, "Endpoints": {"docker": place}}))
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")

    assert tmp_path / "mine.sock" == bodies.socket_file()
    monkeypatch.setenv("DOCKER_CONTEXT", "nobody's")
    with pytest.raises(bodies.BodyError, match="there is no Docker context nobody's"), bodies.docker_errors("Docker"):
        bodies.client(5)


@pytest.mark.parametrize("holder", ["bake (process 7)", ""])
def test_who_is_waited_for_is_told(tmp_path: Path, holder: str) -> None:
    """After a second it is told who holds a lock; then the lock is ours."""
    told: list[str] = []
    with (tmp_path / "lock").open("w") as lock:
        lock.write(holder)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        letting_go = Timer(1.5, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        letting_go.start()
        with system.alone(tmp_path / "lock", told.append):
            assert f"(process {os.getpid()})" in (tmp_path / "lock").read_text()
        letting_go.join()

    assert [holder or "another task"] == told
