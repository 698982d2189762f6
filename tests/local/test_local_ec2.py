"""The local EC2 over HTTP, through plain boto3 and ssh, as any program would use it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from ec2_fixtures import (
    ANYBODY,
    CALLER,
    ROOT,
    Checkout,
    DockerProxy,
    LocalEc2,
    Machines,
    another,
    code_of,
    connects,
    describe,
    docker,
    mark,
    permission,
    private_key,
    state_of,
    status_of,
    wait,
    wait_for_state,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_a_machine_is_pending_until_its_sshd_answers(ec2: Any, machines: Machines) -> None:
    """RunInstances answers pending, and a machine that is running can be entered at once."""
    answer = ec2.run_instances(
        ImageId=machines.base,
        MinCount=1,
        MaxCount=1,
        KeyName=machines.key_name,
        SecurityGroupIds=[machines.group],
    )
    one = answer["Instances"][0]
    machines.launched.append(one["InstanceId"])
    assert one["State"]["Name"] == "pending"
    wait(lambda: state_of(ec2, one["InstanceId"]) == "running")
    address = describe(ec2, one["InstanceId"])[0]["PublicIpAddress"]
    assert address.startswith("127.")
    with socket.create_connection((address, 22), timeout=20) as connection:
        assert connection.recv(4) == b"SSH-"


def test_status_is_ok_when_cloud_init_is_done(ec2: Any, machines: Machines) -> None:
    """DescribeInstanceStatus says initializing while cloud-init works, and ok once it's done."""
    script = "#!/bin/sh\nuntil [ -e /var/tmp/go ]; do sleep .2; done\ntouch /var/tmp/done\n"
    (one,) = machines.launch(UserData=script)
    assert status_of(ec2, one) == "initializing"
    machines.ssh(one, "touch /var/tmp/go")
    wait(lambda: status_of(ec2, one) == "ok")
    assert machines.ssh(one, "ls /var/tmp/done") == "/var/tmp/done"


def test_a_machine_that_can_not_boot_is_stopped(ec2: Any, machines: Machines) -> None:
    """A machine whose init breaks is stopped, and its state's reason and its console tell why."""
    (one,) = machines.launch()
    init = "#!/bin/sh\\necho no init today\\nexit 1\\n"
    machines.ssh(one, f"printf '{init}' | sudo tee /usr/local/sbin/init; sudo chmod 755 /usr/local/sbin/init")
    machines.ssh(one, "sudo ln -sf /usr/local/sbin/init /lib/systemd/systemd")
    image = machines.image(one, "can-not-boot", NoReboot=True)
    (broken,) = machines.launch(image, until="stopped")
    why = "Server.InternalError: the machine went off while it booted: no init today"
    assert describe(ec2, broken)[0]["StateReason"]["Message"] == why
    assert "no init today" in ec2.get_console_output(InstanceId=broken)["Output"]
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_the_console_is_the_machines_own(ec2: Any, shared: tuple[Machines, str]) -> None:
    """GetConsoleOutput returns what the machine wrote to its console."""
    machines, one = shared
    machines.ssh(one, "echo a line of its own | sudo tee /dev/console")
    wait(lambda: "a line of its own" in ec2.get_console_output(InstanceId=one)["Output"])
    assert "systemd" in ec2.get_console_output(InstanceId=one)["Output"]


def test_an_image_holds_what_was_on_the_disk(ec2: Any, machines: Machines) -> None:
    """CreateImage shuts the machine down around the copy; machines of the image have its files, and only their own."""
    (one,) = machines.launch()
    machines.ssh(one, "echo baked | sudo tee /srv/baked; sync")
    look = "systemctl show -p UserspaceTimestampMonotonic"
    boot = machines.ssh(one, look)
    image = machines.image(
        one,
        "holds",
        TagSpecifications=[
            {"ResourceType": "image", "Tags": [{"Key": "who", "Value": "image"}]},
            {"ResourceType": "snapshot", "Tags": [{"Key": "who", "Value": "snapshot"}]},
        ],
    )
    wait(lambda: status_of(ec2, one) == "ok")
    assert boot != machines.ssh(one, look)
    first, second = machines.launch(image, count=2)
    assert machines.ssh(first, "cat /srv/baked") == "baked"
    machines.ssh(first, "echo mine | sudo tee /srv/mine")
    assert machines.ssh(second, "ls /srv") == "baked"
    described = ec2.describe_images(ImageIds=[image])["Images"][0]
    snapshot = described["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert described["Tags"] == [{"Key": "who", "Value": "image"}]
    assert described["SourceImageId"] == machines.base
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["Tags"] == [
        {"Key": "who", "Value": "snapshot"}
    ]
    assert code_of(ec2.delete_snapshot, SnapshotId=snapshot) == "InvalidSnapshot.InUse"
    ec2.deregister_image(ImageId=image)
    assert code_of(ec2.run_instances, ImageId=image, MinCount=1, MaxCount=1) == "InvalidAMIID.Unavailable"
    ec2.delete_snapshot(SnapshotId=snapshot)


def test_no_reboot_leaves_the_services_running(ec2: Any, machines: Machines) -> None:
    """CreateImage with NoReboot copies a running machine without stopping anything on it."""
    (one,) = machines.launch()
    pid = machines.ssh(one, "systemctl show -p MainPID --value ssh; echo still | sudo tee /srv/still")
    image = machines.image(one, "no-reboot", NoReboot=True)
    assert machines.ssh(one, "systemctl show -p MainPID --value ssh; cat /srv/still") == pid
    (copy,) = machines.launch(image)
    assert machines.ssh(copy, "cat /srv/still") == "still"
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_a_copied_image_is_an_image_of_its_own(ec2: Any, machines: Machines) -> None:
    """CopyImage makes an image with the same content that outlives the first."""
    (one,) = machines.launch()
    machines.ssh(one, "echo copied | sudo tee /srv/copied")
    image = machines.image(one, "to-copy", NoReboot=True)
    copy = ec2.copy_image(SourceImageId=image, SourceRegion="us-east-1", Name="a-copy")["ImageId"]
    wait(lambda: ec2.describe_images(ImageIds=[copy])["Images"][0]["State"] == "available")
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    (of_copy,) = machines.launch(copy)
    assert machines.ssh(of_copy, "cat /srv/copied") == "copied"
    assert ec2.describe_images(ImageIds=[copy])["Images"][0]["SourceImageId"] == image
    ec2.deregister_image(ImageId=copy, DeleteAssociatedSnapshots=True)


def test_stop_and_start_keep_the_disk(ec2: Any, machines: Machines) -> None:
    """A stopped machine has no public address and no open port; started again it has its disk."""
    (one,) = machines.launch()
    machines.ssh(one, "echo kept | sudo tee /srv/kept")
    address = describe(ec2, one)[0]["PublicIpAddress"]
    answer = ec2.stop_instances(InstanceIds=[one])["StoppingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == ("running", "stopping")
    assert code_of(ec2.start_instances, InstanceIds=[one]) == "IncorrectInstanceState"
    wait(lambda: state_of(ec2, one) == "stopped")
    assert "PublicIpAddress" not in describe(ec2, one)[0]
    assert not connects(address, 22)
    assert code_of(ec2.reboot_instances, InstanceIds=[one]) == "IncorrectInstanceState"
    assert ec2.start_instances(InstanceIds=[one])["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    wait(lambda: state_of(ec2, one) == "running")
    assert machines.ssh(one, "cat /srv/kept") == "kept"


def test_reboot_restarts_the_machine(ec2: Any, machines: Machines) -> None:
    """RebootInstances, and a reboot from inside, start the machine again with its address and its disk."""
    (one,) = machines.launch()
    address = describe(ec2, one)[0]["PublicIpAddress"]
    for reboot in (
        lambda: ec2.reboot_instances(InstanceIds=[one]),
        lambda: machines.ssh(one, "sudo systemd-run sh -c 'sleep 1; systemctl reboot'"),
    ):
        wait(lambda: status_of(ec2, one) == "ok")
        machines.ssh(one, "sudo touch /run/before-the-reboot")
        reboot()
        wait(lambda: status_of(ec2, one) != "ok")
        wait(lambda: status_of(ec2, one) == "ok")
        assert describe(ec2, one)[0]["PublicIpAddress"] == address
        assert machines.ssh(one, "ls /run/before-the-reboot 2>&1 || true").startswith("ls: cannot access")


def test_power_off_from_inside_stops_the_machine(ec2: Any, machines: Machines) -> None:
    """A machine that powers itself off is stopped, or terminated where its launch said so."""
    (stops,) = machines.launch()
    (ends,) = machines.launch(InstanceInitiatedShutdownBehavior="terminate")
    for one in (stops, ends):
        machines.ssh(one, "sudo systemd-run sh -c 'sleep 1; systemctl poweroff'")
    wait(lambda: state_of(ec2, stops) == "stopped")
    wait(lambda: state_of(ec2, ends) == "terminated")
    assert describe(ec2, stops)[0]["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_terminate_frees_container_address_and_ports(ec2: Any, local_ec2: Any, machines: Machines) -> None:
    """A terminated machine leaves no container and no open port, and its address can be given again."""
    (one,) = machines.launch()
    address = describe(ec2, one)[0]["PublicIpAddress"]
    assert connects(address, 22)
    ec2.terminate_instances(InstanceIds=[one])
    wait(lambda: state_of(ec2, one) == "terminated")
    assert not connects(address, 22)
    assert container_of(one) == ""
    assert code_of(ec2.start_instances, InstanceIds=[one]) == "IncorrectInstanceState"
    assert code_of(ec2.create_image, InstanceId=one, Name="of-nothing") == "IncorrectInstanceState"
    (other,) = machines.launch()
    assert describe(ec2, other)[0]["PublicIpAddress"] == address


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("how", ["created", "imported"])
def test_key_pairs_open_their_machine(ec2: Any, machines: Machines, tmp_path: Path, kind: str, how: str) -> None:
    """A key pair that EC2 made or that was imported opens the machine as its default user."""
    name, path = f"{how}-{kind}", tmp_path / "key"
    if how == "created":
        private_key(path, ec2.create_key_pair(KeyName=name, KeyType=kind)["KeyMaterial"])
    else:
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
        ec2.import_key_pair(KeyName=name, PublicKeyMaterial=path.with_suffix(".pub").read_bytes())
    (one,) = machines.launch(KeyName=name)
    assert machines.ssh(one, "id -un", key=path) == "admin"
    assert machines.ssh(one, "sudo -n id -un", key=path) == "root"
    ec2.delete_key_pair(KeyName=name)
    assert code_of(ec2.run_instances, ImageId=machines.base, MinCount=1, MaxCount=1, KeyName=name) == (
        "InvalidKeyPair.NotFound"
    )


def test_cloud_config_is_obeyed(ec2: Any, machines: Machines) -> None:
    """User-data in cloud-config's form is obeyed, and the hostname is the private address's."""
    config = "#cloud-config\nwrite_files:\n- path: /srv/asked\n  content: for\n"
    (one,) = machines.launch(UserData=config)
    wait(lambda: status_of(ec2, one) == "ok")
    private = describe(ec2, one)[0]["PrivateIpAddress"]
    assert machines.ssh(one, "cat /srv/asked; echo; hostname").split() == ["for", "ip-" + private.replace(".", "-")]


def test_two_machines_are_two(ec2: Any, machines: Machines) -> None:
    """Each machine has host keys and a machine-id of its own."""
    ids = machines.launch(count=2)
    look = "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub | sort"
    first, second = (machines.ssh(one, look).splitlines() for one in ids)
    assert len(first) >= 2
    assert not set(first) & set(second)


def test_rules_open_and_close_ports_at_once(ec2: Any, machines: Machines) -> None:
    """A port is open while a rule lets the caller in and something listens there, and not a moment longer."""
    made = ec2.create_security_group(GroupName="rules", Description="rules")["GroupId"]
    (one,) = machines.launch(SecurityGroupIds=[made])
    address = describe(ec2, one)[0]["PublicIpAddress"]
    assert not connects(address, 22)
    for cidr, opens in ((CALLER, True), (ANYBODY, True), ("203.0.113.9/32", False)):
        ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(22, cidr))
        assert connects(address, 22) is opens
        ec2.revoke_security_group_ingress(GroupId=made, IpPermissions=permission(22, cidr))
        assert not connects(address, 22)
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(1, ANYBODY, 65535))
    assert connects(address, 22)
    assert not connects(address, 8080)
    machines.ssh(one, "nohup python3 -m http.server 8080 -d /srv >/dev/null 2>&1 &")
    wait(lambda: connects(address, 8080))
    ec2.modify_instance_attribute(InstanceId=one, Groups=[machines.group])
    assert not connects(address, 8080)
    assert connects(address, 22)
    assert code_of(ec2.delete_security_group, GroupId=machines.group) == "DependencyViolation"
    ec2.delete_security_group(GroupId=made)


def test_a_machine_has_its_ports_whoever_else_has_them(ec2: Any, machines: Machines) -> None:
    """Where a program of this host listens at all addresses, a machine's port is its own, open or closed."""
    made = ec2.create_security_group(GroupName="shared", Description="shared")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(22, CALLER))
    with socket.create_server(("0.0.0.0", 0)) as host:
        port = host.getsockname()[1]
        one = machines.launch(SecurityGroupIds=[made])[0]
        address = describe(ec2, one)[0]["PublicIpAddress"]
        assert connects("127.0.0.1", port)
        assert not connects(address, port)
        machines.ssh(one, f"echo machine >hello; nohup python3 -m http.server {port} >/dev/null 2>&1 & sleep 1")
        assert not connects(address, port)
        ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(port, CALLER))
        with wait(lambda: answer(f"http://{address}:{port}/hello")) as page:
            assert page.read() == b"machine\n"
        ec2.revoke_security_group_ingress(GroupId=made, IpPermissions=permission(port, CALLER))
        assert not connects(address, port)
        assert connects("127.0.0.1", port)
    ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")
    ec2.delete_security_group(GroupId=made)


def answer(url: str) -> Any:
    """Return the answer to a GET, None where nobody answers."""
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=20)
    return None


def test_everything_carries_its_tags_from_the_start(ec2: Any, machines: Machines) -> None:
    """Tags given at creation are on the machine, its volume, key pair, group, image and snapshot."""
    tags = [{"Key": "run", "Value": "r1"}]

    def given(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": tags}]

    (one,) = machines.launch(TagSpecifications=given("instance") + given("volume"))
    group = ec2.create_security_group(GroupName="tagged", Description="t", TagSpecifications=given("security-group"))
    ec2.create_key_pair(KeyName="tagged", TagSpecifications=given("key-pair"))
    image = machines.image(one, "tagged", NoReboot=True, TagSpecifications=given("image") + given("snapshot"))
    wanted = [{"Name": "tag:run", "Values": ["r1"]}]
    assert [r["Instances"][0]["InstanceId"] for r in ec2.describe_instances(Filters=wanted)["Reservations"]] == [one]
    assert len(ec2.describe_volumes(Filters=wanted)["Volumes"]) == 1
    assert [g["GroupId"] for g in ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]] == [group["GroupId"]]
    assert [k["KeyName"] for k in ec2.describe_key_pairs(Filters=wanted)["KeyPairs"]] == ["tagged"]
    assert [i["ImageId"] for i in ec2.describe_images(Filters=wanted)["Images"]] == [image]
    assert len(ec2.describe_snapshots(Filters=wanted)["Snapshots"]) == 1
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    ec2.delete_key_pair(KeyName="tagged")
    ec2.delete_security_group(GroupId=group["GroupId"])


def test_the_root_volume_is_encrypted_when_asked(ec2: Any, machines: Machines) -> None:
    """A launch that asks for an encrypted root volume has one, and so has an image of the machine."""
    mapping = [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True, "VolumeSize": 12, "VolumeType": "gp3"}}]
    (one,) = machines.launch(BlockDeviceMappings=mapping, MetadataOptions={"HttpTokens": "required"})
    described = describe(ec2, one)[0]
    volumes = [one["Ebs"]["VolumeId"] for one in described["BlockDeviceMappings"]]
    assert len(volumes) == 1
    volume = ec2.describe_volumes(VolumeIds=volumes)["Volumes"][0]
    assert (volume["Encrypted"], volume["Size"]) == (True, 12)
    assert described["MetadataOptions"]["HttpTokens"] == "required"
    ec2.terminate_instances(InstanceIds=[one])
    wait(lambda: state_of(ec2, one) == "terminated")
    assert code_of(ec2.describe_volumes, VolumeIds=volumes) == "InvalidVolume.NotFound"


def test_images_read_back_what_was_set(ec2: Any, shared: tuple[Machines, str]) -> None:
    """ImdsSupport and the description of an image read back, and a name can be used once."""
    machines, one = shared
    image = machines.image(one, "reads-back", NoReboot=True)
    assert "ImdsSupport" not in ec2.describe_images(ImageIds=[image])["Images"][0]
    ec2.modify_image_attribute(ImageId=image, ImdsSupport={"Value": "v2.0"})
    ec2.modify_image_attribute(ImageId=image, Description={"Value": "described"})
    described = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (described["ImdsSupport"], described["Description"]) == ("v2.0", "described")
    again = {"Name": "reads-back", "NoReboot": True}
    assert code_of(ec2.create_image, InstanceId=one, **again) == "InvalidAMIName.Duplicate"
    assert code_of(ec2.copy_image, SourceImageId=image, SourceRegion="us-east-1", Name="reads-back") == (
        "InvalidAMIName.Duplicate"
    )
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_refusals_are_ec2s(ec2: Any, shared: tuple[Machines, str]) -> None:
    """What EC2 refuses is refused here, with the same code."""
    machines, one = shared
    launch = {"MinCount": 1, "MaxCount": 1}
    assert code_of(ec2.run_instances, ImageId="ami-0123456789abcdef0", **launch) == "InvalidAMIID.NotFound"
    assert code_of(ec2.run_instances, ImageId="debian", **launch) == "InvalidAMIID.Malformed"
    assert code_of(ec2.run_instances, ImageId=machines.base, DryRun=True, **launch) == "DryRunOperation"
    assert code_of(ec2.terminate_instances, InstanceIds=[one], DryRun=True) == "DryRunOperation"
    assert code_of(ec2.create_image, InstanceId=one, Name="dry", DryRun=True) == "DryRunOperation"
    assert code_of(ec2.describe_images, ImageIds=["ami-0123456789abcdef0"]) == "InvalidAMIID.NotFound"
    assert code_of(ec2.stop_instances, InstanceIds=["i-0123456789abcdef0"]) == "InvalidInstanceID.NotFound"
    pending = ec2.create_image(InstanceId=one, Name="pending", NoReboot=True)["ImageId"]
    assert code_of(ec2.run_instances, ImageId=pending, **launch) == "InvalidAMIID.Unavailable"
    wait(lambda: ec2.describe_images(ImageIds=[pending])["Images"][0]["State"] == "available")
    ec2.deregister_image(ImageId=pending, DeleteAssociatedSnapshots=True)
    ec2.modify_instance_metadata_defaults(HttpTokensEnforced="enabled")
    assert code_of(ec2.run_instances, ImageId=machines.base, **launch) == "UnsupportedOperation"
    tokens = {"HttpTokens": "required"}
    fresh = ec2.run_instances(ImageId=machines.base, MetadataOptions=tokens, **launch)["Instances"][0]["InstanceId"]
    ec2.modify_instance_metadata_defaults(HttpTokensEnforced="no-preference")
    assert code_of(ec2.stop_instances, InstanceIds=[fresh]) == "IncorrectInstanceState"
    ec2.terminate_instances(InstanceIds=[fresh])
    wait(lambda: state_of(ec2, fresh) == "terminated")


def test_the_server_is_on_loopback_only(local_ec2: Any) -> None:
    """The server listens on 127.0.0.1 and nowhere else, and tells a caller its address."""
    port = int(local_ec2.endpoint.rpartition(":")[2])
    listening = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, at = row.split()[1].split(":")
            if row.split()[3] == "0A" and int(at, 16) == port:
                listening.append(address)
    assert listening == ["0100007F"]
    assert local_ec2.ask("caller") == {"address": "127.0.0.1"}


def test_state_survives_a_crash(ec2: Any, local_ec2: Any, machines: Machines) -> None:
    """After kill -9 of the server and the end of all containers, everything that is there is found again as it was."""
    ssm = local_ec2.client("ssm")
    one, lost = machines.launch(count=2)
    machines.ssh(one, "echo survives | sudo tee /srv/survives; sync")
    image = machines.image(one, "survives", NoReboot=True)
    ec2.create_tags(Resources=[image, one], Tags=[{"Key": "late", "Value": "tag"}])
    ssm.put_parameter(Name="/a/parameter", Value=image, Type="String", DataType="aws:ec2:image")
    before = inventory(ec2)
    local_ec2.kill()
    docker("kill", container_of(one))
    docker("rm", "--force", container_of(lost))
    local_ec2.up()
    wait(lambda: state_of(ec2, one) == "stopped")
    assert state_of(ec2, lost) == "terminated"
    assert "went off" in describe(ec2, lost)[0]["StateReason"]["Message"]
    assert inventory(ec2) == before
    assert ssm.get_parameter(Name="/a/parameter")["Parameter"]["Value"] == image
    assert {"Key": "late", "Value": "tag"} in describe(ec2, one)[0]["Tags"]
    ec2.start_instances(InstanceIds=[one])
    wait(lambda: state_of(ec2, one) == "running")
    (again,) = machines.launch(image)
    for each in (one, again):
        assert machines.ssh(each, "cat /srv/survives") == "survives"
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


def test_another_version_of_the_kit(ec2: Any, local_ec2: LocalEc2, machines: Machines, tmp_path: Path) -> None:
    """A server that another version of the kit has started makes place for this one's; its machines run on."""
    (one,) = machines.launch()
    machines.ssh(one, "sudo touch /run/still-on")
    before = inventory(ec2)
    other = Checkout(tmp_path / "other", local_ec2.environ)
    with (other.folder / "bakehouse/local/answers.py").open("a") as source:
        source.write("# another version\n")

    said = [other.inv("local.up").stderr, other.inv("local.up").stderr, local_ec2.up()]

    assert [True, False, True] == ["started by another version of the kit" in line for line in said]
    assert before == inventory(ec2)
    assert state_of(ec2, one) == "running"
    machines.ssh(one, "test -e /run/still-on")


def container_of(instance_id: str) -> str:
    """Return the ID of the container of an instance, which may have stopped; empty when there is none."""
    return docker("ps", "--all", "--quiet", "--filter", f"label=bakehouse.instance={instance_id}").strip()


def inventory(ec2: Any) -> dict[str, Any]:
    """Return what an account holds, without the machines' states and addresses."""
    return {
        "images": ec2.describe_images(Owners=["self"])["Images"],
        "keys": ec2.describe_key_pairs()["KeyPairs"],
        "groups": ec2.describe_security_groups()["SecurityGroups"],
        "snapshots": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
    }


def test_what_was_answered_is_kept(ec2: Any, local_ec2: LocalEc2, group: str) -> None:
    """A change that was answered is there after kill -9 in the middle of others, and the state file is whole."""
    answered = []
    with ThreadPoolExecutor() as pool:

        def change(number: int) -> None:
            with contextlib.suppress(BotoCoreError, ResponseParserError):  # no answer, or one that was cut off
                ec2.create_tags(Resources=[group], Tags=[{"Key": str(number), "Value": "answered"}])
                answered.append(str(number))

        changes = [pool.submit(change, number) for number in range(40)]
        wait(lambda: len(answered) > 10)
        local_ec2.kill()
        for one in changes:
            one.result()
    assert "state" not in local_ec2.up()
    kept = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["Tags"]
    assert len(answered) < 40
    assert set(answered) <= {tag["Key"] for tag in kept}


def test_a_lost_state_loses_no_image(ec2: Any, local_ec2: Any, machines: Machines) -> None:
    """When no generation of the state is left, Docker still knows images with all their tags, machines and bases.

    When older ones are back, what was done meanwhile isn't undone.
    """
    tags = [{"ResourceType": "image", "Tags": [{"Key": "who", "Value": "me"}]}]
    mine = [{"ResourceType": "instance", "Tags": [{"Key": "whose", "Value": "mine"}]}]
    (one,) = machines.launch(TagSpecifications=mine)
    image = machines.image(one, "never-lost", NoReboot=True, TagSpecifications=tags)
    ec2.create_tags(Resources=[image], Tags=[{"Key": "late", "Value": "tag"}])
    before = {file: file.read_bytes() for file in (local_ec2.folder / "state").iterdir()}
    local_ec2.kill()
    for file in before:
        file.write_bytes(b"not a state")
    said = local_ec2.up()
    assert 3 == said.count("can't be used, it does not begin as one; it is kept: ")
    assert "the local EC2's state is lost; Docker still knows" in said
    found = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (found["Name"], found["Tags"]) == (
        "never-lost",
        [{"Key": "who", "Value": "me"}, {"Key": "late", "Value": "tag"}],
    )
    wait(lambda: state_of(ec2, one) == "running")
    assert describe(ec2, one)[0]["Tags"] == [{"Key": "whose", "Value": "mine"}]
    ec2.terminate_instances(InstanceIds=[one])
    wait_for_state(ec2, one, "terminated")
    assert container_of(one) == ""
    machines.launched.remove(one)
    ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    local_ec2.kill()
    for file, content in before.items():
        file.write_bytes(content)
    for file in (local_ec2.folder / "state").iterdir():
        if file not in before:
            file.unlink()
    assert "Docker knows more than the local EC2's state" in local_ec2.up()
    wait_for_state(ec2, one, "terminated")
    assert ec2.describe_images(ImageIds=[image])["Images"] == []


@pytest.fixture
def other_ec2(local_ec2: LocalEc2, tmp_path: Path) -> Iterator[LocalEc2]:
    """Give a second local EC2, for a test that ends it."""
    with another(local_ec2, tmp_path / "state") as made:
        yield made


def test_two_local_ec2s_do_not_meet(local_ec2: LocalEc2, other_ec2: LocalEc2, machines: Machines) -> None:
    """Two local EC2s on one machine see nothing of each other, and the end of one leaves the other as it was."""
    (one,) = machines.launch()
    other_ec2.up()
    other = other_ec2.client("ec2")
    assert other_ec2.endpoint != local_ec2.endpoint
    assert other.describe_instances()["Reservations"] == []
    base = other.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    there = other.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    wait(lambda: state_of(other, there) == "running")
    addresses = [describe(ec2, one)[0]["PublicIpAddress"] for ec2, one in ((machines.ec2, one), (other, there))]
    assert len(set(addresses)) == 2
    other_ec2.inv("local.reset", "--yes")
    assert container_of(there) == ""
    assert machines.ssh(one, "echo still here") == "still here"


@pytest.fixture(scope="module")
def _behind_proxy(
    local_ec2: LocalEc2, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalEc2, DockerProxy]]:
    state = tmp_path_factory.mktemp("behind-proxy") / "state"
    with another(local_ec2, state) as made, tempfile.TemporaryDirectory() as short:
        proxy = DockerProxy(Path(short) / "docker.sock")
        made.environ["DOCKER_HOST"] = proxy.host
        yield made, proxy
        proxy.close()


@pytest.fixture
def behind_proxy(_behind_proxy: tuple[LocalEc2, DockerProxy]) -> tuple[LocalEc2, DockerProxy]:
    """Give a local EC2 that is up, and the proxy through which it talks to the Docker engine, open."""
    made, proxy = _behind_proxy
    proxy.let(lambda _: True)
    made.up()
    return made, proxy


def test_a_docker_engine_that_goes_away(behind_proxy: tuple[LocalEc2, DockerProxy]) -> None:
    """When Docker fails, calls are refused with an EC2 error code and the cause, and none hangs or half happens."""
    started, proxy = behind_proxy
    ec2 = started.client("ec2")
    base = ec2.describe_images(Owners=["136693071363"])["Images"][0]
    snapshot = base["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    one = ec2.run_instances(ImageId=base["ImageId"], MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    wait(lambda: status_of(ec2, one) == "ok")
    image = ec2.create_image(InstanceId=one, Name="of-something", NoReboot=True)["ImageId"]
    wait(lambda: ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
    refused: dict[str, list[Callable[[], Any]]] = {
        "InsufficientInstanceCapacity": [
            lambda: ec2.run_instances(ImageId=base["ImageId"], MinCount=1, MaxCount=1),
            lambda: ec2.start_instances(InstanceIds=[one]),
        ],
        "InternalError": [
            lambda: ec2.stop_instances(InstanceIds=[one]),
            lambda: ec2.reboot_instances(InstanceIds=[one]),
            lambda: ec2.terminate_instances(InstanceIds=[one]),
            lambda: ec2.create_image(InstanceId=one, Name="of-nothing"),
            lambda: ec2.copy_image(SourceImageId=image, SourceRegion="us-east-1", Name="copy"),
            lambda: ec2.delete_snapshot(SnapshotId=snapshot),
            lambda: ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True),
        ],
    }
    before = ec2.describe_images(), ec2.describe_snapshots()
    proxy.let(lambda _: False)
    begun = time.monotonic()
    for code, calls in refused.items():
        for call in calls:
            with pytest.raises(ClientError, match="the Docker engine does not answer") as error:
                call()
            assert error.value.response["Error"]["Code"] == code
    assert "the Docker engine does not answer" in ec2.get_console_output(InstanceId=one)["Output"]
    assert time.monotonic() - begun < 200  # ten times what is usual: none hangs
    told = subprocess.run([ROOT / "inv", "images"], env=started.environ, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(
        f"error: the Docker engine at {started.environ['DOCKER_HOST']} (DOCKER_HOST) does not answer"
    )
    after = ec2.describe_images(), ec2.describe_snapshots()
    assert [answer.pop("ResponseMetadata") for answer in (*before, *after)]
    assert after == before
    assert state_of(ec2, one) == "running"


def test_deletions_are_taken_up_again(behind_proxy: tuple[LocalEc2, DockerProxy]) -> None:
    """What Docker fails to delete after the answer goes when the engine is back, also after the server's death."""
    started, proxy = behind_proxy
    ec2 = started.client("ec2")
    base = ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    one = ec2.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    wait(lambda: state_of(ec2, one) == "running")
    images = [ec2.create_image(InstanceId=one, Name=name, NoReboot=True)["ImageId"] for name in ("first", "second")]
    wait(lambda: {image["State"] for image in ec2.describe_images(ImageIds=images)["Images"]} == {"available"})
    snapshots = [
        ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        for image in images
    ]

    def body(name: str) -> bool:
        filled = docker("images", "--quiet", "--filter", f"reference=bakehouse/{mark(started.state)}:{name}")
        return bool(container_of(name) or filled)

    def only_pings() -> None:
        proxy.let(lambda request: b"/_ping" in request or b"/version" in request)

    only_pings()
    assert ec2.terminate_instances(InstanceIds=[one])["TerminatingInstances"][0]["CurrentState"]["Name"] == (
        "shutting-down"
    )
    ec2.deregister_image(ImageId=images[0], DeleteAssociatedSnapshots=True)
    time.sleep(3)
    assert state_of(ec2, one) == "shutting-down"
    assert body(one)
    assert body(snapshots[0])
    proxy.let(lambda _: True)
    wait_for_state(ec2, one, "terminated")
    wait(lambda: not body(one) and not body(snapshots[0]))
    only_pings()
    ec2.deregister_image(ImageId=images[1], DeleteAssociatedSnapshots=True)
    started.kill()
    assert body(snapshots[1])
    proxy.let(lambda _: True)
    started.up()
    wait(lambda: not body(snapshots[1]))


def test_the_server_idles(local_ec2: LocalEc2) -> None:
    """The server takes under 250 MB, and next to no CPU while nobody asks."""
    pid = json.loads((local_ec2.folder / "server.json").read_text())["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = int(status[status.index("VmRSS:") :].split()[1])
    before = ticks(pid)
    time.sleep(5)
    used = (ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
    assert kilobytes < 250_000
    assert used < 0.5  # of five seconds; usual is a tenth of it or less


def ticks(pid: int) -> int:
    """Return the CPU time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
