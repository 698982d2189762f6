"""Define what the lifecycle moves: instances and images that remember what moto's forget."""

from __future__ import annotations

from typing import Any

from moto.ec2.models.amis import Ami as MotoAmi
from moto.ec2.models.instances import Instance as MotoInstance
from moto.ec2.models.instances import InstanceState, StateReason

ROOT_DEVICE = "/dev/xvda"


class Instance(MotoInstance):
    """Let an instance be in the state in which its body is.

    Attributes:
        health: what sshd and cloud-init say of the machine, in EC2's words: initializing, ok or impaired.
        reachable: whether the machine's public ports may be open.
        pid: the process ID of the machine's init on the host, 0 when the machine is off.
        ended: when the machine was gone, in seconds since 1970.
        is_public: whether it gets a public address whenever it is switched on.
    """

    health: str = "initializing"
    reachable: bool = False
    pid: int = 0
    ended: float = 0  # of the class, for instances that an older state file holds
    is_public: bool = True

    @property
    def address(self) -> str:
        """Return the private address, which moto allows to be none."""
        return str(self.private_ip)

    def become(self, name: str, reason: StateReason | None = None) -> None:
        """Change the state, with the reason that EC2 would give."""
        codes = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
        self._state = InstanceState(name, codes[name])
        self.state_reason = reason or StateReason()
        self._reason = self.state_reason.message
        if name != "running":
            self.reachable = False

    @property
    def public_dns_name(self) -> str:
        """Return none: nothing resolves names that EC2 would give."""
        return ""

    def delete(self, account_id: str, region: str) -> None:
        """Terminate what a stack has made, when the stack goes."""
        self.ec2_backend.terminate_instances([self.id])

    def status(self) -> dict[str, Any]:
        """Return the item of DescribeInstanceStatus."""
        health = self.health if self._state.name == "running" else "not-applicable"
        passed = {"ok": "passed", "impaired": "failed"}.get(health, health)
        one = {"Status": health}
        if health != "not-applicable":
            one["Details"] = [{"Name": "reachability", "Status": passed}]  # type: ignore[assignment]
        return {
            "InstanceId": self.id,
            "AvailabilityZone": self.availability_zone,
            "InstanceState": {"Code": self._state.code, "Name": self._state.name},
            "InstanceStatus": one,
            "SystemStatus": one,
        }


class Ami(MotoAmi):
    """Let an image remember what moto's forgets.

    Attributes:
        imds_support: v2.0 when machines of the image answer at the metadata service only to IMDSv2.
        deprecation_time: from when on the image is deprecated, as EC2 writes times.
        source_image_id: the image that this one was copied from, or that its machine was launched from.
        source_image_region: the region of that image.
        state_reason: why the image has failed, as EC2's Code and Message.
    """

    imds_support: str | None = None
    deprecation_time: str | None = None
    source_image_id: str | None = None
    source_image_region: str | None = None
    state_reason: dict[str, str] | None = None

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        """Return the root device alone: a machine here has one disk."""
        ebs = {
            "SnapshotId": self.ebs_snapshot.id,
            "VolumeSize": self.ebs_snapshot.volume_size,
            "DeleteOnTermination": True,
            "VolumeType": "gp3",
            "Encrypted": self.ebs_snapshot.encrypted,
        }
        return [{"DeviceName": self.root_device_name, "Ebs": ebs}]

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        """Return what a filter of DescribeImages compares, for those that moto lacks too."""
        more = {
            "creation-date": "creation_date",
            "description": "description",
            "image-type": "image_type",
            "root-device-name": "root_device_name",
            "root-device-type": "root_device_type",
            "source-image-id": "source_image_id",
            "state-reason-code": "state_reason",
        }
        if filter_name in more:
            return getattr(self, more[filter_name])
        if filter_name == "block-device-mapping.snapshot-id":
            return self.ebs_snapshot.id
        return super().get_filter_value(filter_name, method_name)
