"""The local EC2's lock, its turns and its pools, with stand-ins for the machines' bodies."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import docker.errors
import pytest
import requests.exceptions
from botocore.exceptions import ClientError
from ec2_fixtures import code_of, describe, state_of, status_of, wait, wait_for_state
from stand_in_fixtures import StandIn

from bakehouse import local
from bakehouse.errors import VerdictError
from bakehouse.local.drivers import DriverError
from bakehouse.local.lifecycle import Lifecycle
from bakehouse.local.watch import Watch


class Yielding:
    """Be a lock whose holder lets other threads go first when it lets go, as the machine's own clock may have it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        time.sleep(0)


@pytest.fixture
def lifecycle() -> Lifecycle:
    """Give a lifecycle without bodies and ports, whose state is kept nowhere."""
    state: Any = SimpleNamespace(lock=Yielding(), keep=lambda: None)
    gate: Any = SimpleNamespace(unfenced="", ended=threading.Event(), follow=lambda *_: {})
    bodies: Any = SimpleNamespace(running=dict)
    return Lifecycle(bodies, gate, state)


def _stand_still(until: threading.Event) -> None:
    assert until.wait(20)


def stub(name: str, **more: Any) -> Any:
    """Return what stands in for a machine or an image."""
    return SimpleNamespace(id=name, state="pending", state_reason=None, ebs_snapshot=SimpleNamespace(id="snap"), **more)


def test_no_turn_is_lost_or_doubled_and_none_overlap(lifecycle: Lifecycle) -> None:
    """Of 40,000 turns that two threads give one machine each is taken once, in order, and never two at once."""
    machine, alone = stub("i-1"), threading.Lock()
    taken: dict[str, list[int]] = {"a": [], "b": []}
    overlaps = []

    def take(thread: str, number: int) -> None:
        if not alone.acquire(blocking=False):
            overlaps.append((thread, number))
            return
        taken[thread].append(number)
        time.sleep(0)
        alone.release()

    def give(thread: str) -> None:
        for number in range(20_000):
            lifecycle.later(machine, lambda number=number: take(thread, number))  # type: ignore[misc]
            while lifecycle._turns.get("i-1"):  # a turn that comes when the last one ends is the one to be lost
                time.sleep(0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(give, taken))

    assert [] == overlaps
    assert {"a": list(range(20_000)), "b": list(range(20_000))} == taken


def test_asking_for_moves_leaves_nothing(lifecycle: Lifecycle) -> None:
    """Who moves is told of machines and images that are moved, and nothing is kept of the others."""
    done = threading.Event()
    lifecycle.later(stub("i-1"), lambda: _stand_still(done))

    told = [lifecycle.moves("i-1"), lifecycle.moves("ami-1", "i-1"), lifecycle.moves("i-2"), lifecycle.moves(None)]
    done.set()
    wait(lambda: not lifecycle.moves("i-1"))

    assert [True, True, False, False] == told
    assert {} == lifecycle._turns


def test_a_copy_in_progress_has_not_failed(lifecycle: Lifecycle) -> None:
    """What nobody makes any more is settled by what Docker has; an image that is being copied comes in its time."""
    copied = threading.Event()
    source, copy, lost, made = (stub(name, instance_id=None) for name in ("source", "copy", "lost", "made"))
    made.ebs_snapshot.id = "snap-made"
    backend = SimpleNamespace(
        amis={one.id: one for one in (copy, lost, made)}, all_instances=list, reservations={}, forgetting=()
    )
    lifecycle.backends = lambda: [backend]  # type: ignore[method-assign]
    lifecycle.bodies.has = lambda snapshot_id: snapshot_id == "snap-made"  # type: ignore[method-assign]
    lifecycle.bodies.copy = lambda *_: _stand_still(copied)  # type: ignore[method-assign]

    lifecycle.copy(source, copy)
    Watch(lifecycle).adopt()
    settled = {one.id: one.state for one in (copy, lost, made)}
    copied.set()
    wait(lambda: copy.state != "pending")

    assert {"copy": "pending", "lost": "failed", "made": "available"} == settled
    assert "available" == copy.state


def test_a_gate_that_can_not_be_had_keeps_no_machine(lifecycle: Lifecycle) -> None:
    """A machine ends and another stops, though the gate gives no answer; the ports follow at the next look."""
    removed, stopped = list[str](), list[str]()
    gate, bodies = cast("Any", lifecycle._gate), cast("Any", lifecycle.bodies)
    gate.follow, bodies.remove, bodies.stop = Mock(side_effect=DriverError("no gate")), removed.append, stopped.append
    ends, stops = Mock(id="i-1", state="shutting-down"), Mock(id="i-2", state="stopping")

    lifecycle.terminate(ends)
    lifecycle.stop(stops)

    wait(lambda: not lifecycle.moves("i-1", "i-2"))
    assert (["i-1"], ["i-2"]) == (removed, stopped)
    assert [["terminated"], ["stopped"]] == [[call.args[0] for call in one.become.mock_calls] for one in (ends, stops)]
    assert lifecycle.refused.is_set()


def test_docker_is_never_asked_with_the_lock_held(stand_in: StandIn) -> None:
    """Whatever the API does with bodies, who asks Docker for it lets the others ask the API meanwhile."""
    ec2 = stand_in.ec2
    for work in (_lives, _images, _by_itself, _of_other_services):
        work(stand_in)
    stand_in.ask("adopt")
    stand_in.ask("health")
    states = {one["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for one in r["Instances"]}

    assert {"running", "stopped", "terminated"} == states
    assert "" == stand_in.breaches()


def _lives(stand_in: StandIn) -> None:
    ec2 = stand_in.ec2
    (one,) = stand_in.running("")
    assert f"console of {one}" == ec2.get_console_output(InstanceId=one)["Output"]
    ec2.reboot_instances(InstanceIds=[one])
    wait(lambda: status_of(ec2, one) == "ok")
    for change, state in ((ec2.stop_instances, "stopped"), (ec2.start_instances, "running")):
        change(InstanceIds=[one])
        wait_for_state(ec2, one, state)
    ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")


def _images(stand_in: StandIn) -> None:
    ec2 = stand_in.ec2
    (one,) = stand_in.running("")
    images = [ec2.create_image(InstanceId=one, Name=str(reboot), NoReboot=not reboot) for reboot in (True, False)]
    _available(ec2, *(image["ImageId"] for image in images))
    copy = ec2.copy_image(SourceImageId=images[0]["ImageId"], SourceRegion="us-east-1", Name="copy")["ImageId"]
    _available(ec2, copy)
    ec2.deregister_image(ImageId=copy, DeleteAssociatedSnapshots=True)
    snapshot = ec2.describe_images(ImageIds=[images[0]["ImageId"]])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]
    ec2.deregister_image(ImageId=images[0]["ImageId"])
    ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])


def _available(ec2: Any, *images: str) -> None:
    wait(lambda: {one["State"] for one in ec2.describe_images(ImageIds=list(images))["Images"]} == {"available"})


def _by_itself(stand_in: StandIn) -> None:
    (off,) = stand_in.launch("powers off")
    (again,) = stand_in.launch("reboots")
    wait_for_state(stand_in.ec2, off, "stopped")
    wait(lambda: status_of(stand_in.ec2, again) == "ok")


def _of_other_services(stand_in: StandIn) -> None:
    """Let Auto Scaling launch and terminate: it does so without an operation of EC2's."""
    scaling = stand_in.client("autoscaling")
    scaling.create_launch_configuration(LaunchConfigurationName="a", ImageId=stand_in.base, InstanceType="t3.small")
    name = {"AutoScalingGroupName": "a"}
    scaling.create_auto_scaling_group(
        **name, LaunchConfigurationName="a", MinSize=0, MaxSize=2, DesiredCapacity=2, AvailabilityZones=["us-east-1a"]
    )
    [group] = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    made = [one["InstanceId"] for one in group["Instances"]]
    assert 2 == len(made)
    scaling.delete_auto_scaling_group(**name, ForceDelete=True)
    for one in made:
        wait_for_state(stand_in.ec2, one, "terminated")


def test_what_docker_refuses_at_first_is_done_in_the_end(stand_in: StandIn) -> None:
    """A machine stops and ends, and a snapshot goes, though the engine refused each, and answers nobody of it."""
    ec2 = stand_in.ec2
    (one,) = stand_in.running("stubborn")
    image = ec2.create_image(InstanceId=one, Name="stubborn", NoReboot=True)["ImageId"]
    _available(ec2, image)

    ec2.stop_instances(InstanceIds=[one])
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    wait_for_state(ec2, one, "stopped")
    ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")

    wait(lambda: re.search(r"snap-\w+ is removed", stand_in.log()))

    assert {"stop i-", "remove i-", "remove snap-"} == set(re.findall(r"mood to (\w+ \w+-)", stand_in.log()))


def test_a_machine_that_dies_at_boot_is_told(lasting: StandIn) -> None:
    """One that goes off before its sshd answers is stopped and says so, or terminated where its launch said that."""
    ec2 = lasting.ec2
    (stops,) = lasting.launch("dies")
    (ends,) = lasting.launch("dies", InstanceInitiatedShutdownBehavior="terminate")

    wait_for_state(ec2, stops, "stopped")
    wait_for_state(ec2, ends, "terminated")

    for one in describe(ec2, stops, ends):
        why = f"Server.InternalError: the machine went off while it booted: console of {one['InstanceId']}"
        assert why == one["StateReason"]["Message"]


def test_a_machine_that_can_not_be_switched_on_keeps_its_disk(lasting: StandIn) -> None:
    """A start that Docker refuses leaves the machine stopped, and a restart too: nothing runs in name only."""
    ec2 = lasting.ec2
    machines = lasting.running("once", 2)
    ec2.reboot_instances(InstanceIds=machines[:1])
    ec2.stop_instances(InstanceIds=machines[1:])
    for one in machines:
        wait_for_state(ec2, one, "stopped")
    ec2.start_instances(InstanceIds=machines[1:])

    for one in machines:
        wait_for_state(ec2, one, "stopped")
        wait(lambda one=one: "not in the mood to start" in describe(ec2, one)[0]["StateReason"]["Message"])  # type: ignore[misc]


def test_what_docker_makes_too_late_goes(lasting: StandIn) -> None:
    """A machine that Docker made, though it had given no answer, is removed at the next look: its launch had failed."""
    (one,) = lasting.launch("made late")
    wait_for_state(lasting.ec2, one, "terminated")
    assert "Docker does not answer" in describe(lasting.ec2, one)[0]["StateReason"]["Message"]

    wait(lambda: lasting.log().count(f"{one} is removed") == 2, seconds=20)


def test_a_launch_that_is_refused_leaves_nothing(lasting: StandIn) -> None:
    """Where there are addresses for some of the machines alone none is made, and no trace of them is left."""
    ec2 = lasting.ec2
    before, born = _everything(ec2), _born(lasting)

    assert "InsufficientFreeAddressesInSubnet" == code_of(lasting.launch, does="", number=250)

    assert before == _everything(ec2)
    assert born == _born(lasting)


def test_a_launch_for_which_the_host_has_no_room_is_refused(lasting: StandIn) -> None:
    """Where the host's inotify instances aren't enough, that is said with the setting that gives more."""
    with pytest.raises(ClientError, match=r"\(InsufficientInstanceCapacity\).* sysctl -w fs\.inotify\.max_user_inst"):
        lasting.launch("", 401)


def _born(stand_in: StandIn) -> list[str]:
    return re.findall(r"i-\w+ is born", stand_in.log())


def _everything(ec2: Any) -> list[Any]:
    told = [ec2.describe_instances()["Reservations"], ec2.describe_tags()["Tags"]]
    return [*told, ec2.describe_volumes()["Volumes"], ec2.describe_network_interfaces()["NetworkInterfaces"]]


@pytest.mark.parametrize("lacks", ["no end", "no sshd"])
def test_machines_that_never_come_up_keep_none_from_being_stopped(stand_in: StandIn, lacks: str) -> None:
    """While 40 machines are waited for, for ever, a 41st is stopped within two seconds."""
    (one,) = stand_in.running("")
    if lacks == "no end":
        stand_in.running(lacks, 40)
    else:
        stand_in.launch(lacks, 40)

    stand_in.ec2.stop_instances(InstanceIds=[one])

    wait(lambda: state_of(stand_in.ec2, one) == "stopped", seconds=2)


@pytest.fixture
def shut_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[Any]], None]:
    """Give what shuts down a local EC2 that has these machines."""

    def down(machines: list[Any]) -> None:
        monkeypatch.setattr(local, "_end", lambda _: None)
        monkeypatch.setattr(local, "_bodies", lambda _: SimpleNamespace(answers=lambda: bool(machines)))
        monkeypatch.setattr(local, "_containers", lambda _: machines)
        (tmp_path / "local").mkdir()
        (tmp_path / "local" / local.LOG).touch()
        settings: Any = SimpleNamespace(state=tmp_path)
        local.down(settings)

    return down


def test_down_stops_machines_side_by_side(shut_down: Callable[[list[Any]], None]) -> None:
    """Five machines are being shut down at once: each waits here until all five are."""
    together = threading.Barrier(5)

    shut_down([SimpleNamespace(stop=lambda timeout: together.wait(timeout=20))] * 5)

    assert not together.broken


def test_down_that_could_not_shut_down_says_so(shut_down: Callable[[list[Any]], None]) -> None:
    """What Docker refuses to stop is named with why, exit code 1; what is gone meanwhile is down."""
    faults = {
        "gone": docker.errors.NotFound("no such container"),
        "stays": docker.errors.APIError("500", explanation="not in the mood"),
        "hangs": requests.exceptions.ReadTimeout("timed out"),
    }

    def machine(name: str) -> Any:
        return SimpleNamespace(name=name, stop=Mock(side_effect=faults.get(name)))

    with pytest.raises(VerdictError) as raised:
        shut_down([machine(name) for name in ("off", *faults)])

    assert ("not shut down: stays (not in the mood); hangs (timed out)", 1) == (raised.value.text, raised.value.code)


def test_down_without_an_engine_says_so(shut_down: Callable[[list[Any]], None]) -> None:
    """Where the engine doesn't answer the machines are not shut down, exit code 1."""
    with pytest.raises(VerdictError, match="does not answer: the machines are not shut down") as raised:
        shut_down([])

    assert 1 == raised.value.code
