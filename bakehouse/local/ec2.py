"""Tighten moto's backend to what EC2 does, and put a body behind each instance and snapshot."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import moto.ec2.models.amis
import moto.ec2.models.instances
import moto.ec2.urls
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, UnvailableAMIIdError, VPCIdNotSpecifiedError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instances import Instance as MotoInstance
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.utils import convert_tag_spec
from moto.kms.models import kms_backends
from moto.ssm.models import ssm_backends

from bakehouse.local import INOTIFY, answers
from bakehouse.local.answers import Answers
from bakehouse.local.bodies import BodyError
from bakehouse.local.lifecycle import Lifecycle, now_terminated
from bakehouse.local.ports import rules_of, taken
from bakehouse.local.things import Ami, Instance

_VOLUME_GIB = 8

SCARCE = "scarce.txt"
"""The name of the file with the instance types, or TYPE@SUBNET, for which there is no room."""


class Backend(EC2Backend):
    """Answer as EC2 does, and have the lifecycle move the bodies."""

    lifecycle: ClassVar[Lifecycle]
    scarce: ClassVar[Path]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.forgetting: set[str] = set()  # deleted snapshots whose content is still there

    @property
    def _url_module(self) -> Any:
        """Return moto's URLs, which it would look for beside this class."""
        return moto.ec2.urls

    def usable_image(self, image_id: str) -> Any:
        """Return an image that can be launched or copied; raises EC2's error for one that can't."""
        if image_id in self.deleted_amis:
            raise UnvailableAMIIdError(image_id)
        if not str(image_id).startswith("ami-"):
            raise EC2ClientError("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
        image = self.amis.get(image_id)
        if image is None:
            raise InvalidAMIIdError(image_id)
        if image.state != "available":
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image id '[{image_id}]' is in state {image.state}")
        return image

    def refuse_without_docker(self, code: str = "InternalError") -> None:
        """Raise EC2's error ``code``, with the cause, unless Docker has said before this request that it can."""
        if refusal := self.lifecycle.refusal:
            raise EC2ClientError(code, refusal)

    def _refuse_without_room(self, machines: int) -> None:
        """Raise InsufficientInstanceCapacity unless Docker is there and the host has room for so many machines."""
        self.refuse_without_docker("InsufficientInstanceCapacity")
        if unknown := self.lifecycle.roomless:
            raise EC2ClientError("InsufficientInstanceCapacity", unknown)
        if machines > self.lifecycle.room:
            raise EC2ClientError(
                "InsufficientInstanceCapacity",
                f"the host's inotify instances are enough for {max(0, self.lifecycle.room)} further machines; "
                f"more are given by: sysctl -w fs.inotify.max_user_instances={INOTIFY}",
            )

    def run_instances(
        self, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Any:
        """Make the instances as moto does, and have their machines born."""
        image_id = self._resolved(image_id)
        template = kwargs.get("launch_template") and self._get_template_from_args(kwargs["launch_template"])
        image = self.usable_image(image_id or (template.image_id if template else ""))
        self._refuse_imdsv1(image, template, kwargs.get("metadata_options") or {})
        key = kwargs.get("key_name")
        if key and key not in self.key_pairs:
            raise EC2ClientError("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
        self._refuse_without_room(count)
        asked: dict[str, Any] = next(iter(kwargs.get("nics") or ()), {})  # its first network interface
        subnet_id = kwargs.get("subnet_id") or asked.get("SubnetId")
        groups = [*(kwargs.get("security_group_ids") or ()), *(asked.get("Groups") or ())]
        self._refuse_another_network(subnet_id, groups)
        self._refuse_scarce(kwargs.get("instance_type", ""), subnet_id or "")
        self._refuse_taken_ports(security_group_names, groups)
        if not (template and template.data.get("BlockDeviceMappings")):
            kwargs["block_device_mappings"] = _root_first(image, kwargs.get("block_device_mappings") or [])
        if not (security_group_names or kwargs.get("security_group_ids") or kwargs.get("nics") or template):
            kwargs["security_group_ids"] = [self._default_group(subnet_id).id]
        before = set(self.reservations)
        try:
            made: Any = super().run_instances(image_id, count, user_data, security_group_names, **kwargs)
            self._bear(made.instances, image, subnet_id, asked.get("AssociatePublicIpAddress"))
        except BaseException:
            self._undo(set(self.reservations) - before)  # what is refused leaves nothing
            raise
        return made

    def _bear(self, instances: list[Any], image: Ami, subnet_id: str | None, asked: bool | str | None) -> None:
        """Have the machines of new instances born, of all or of none."""
        born = []
        for instance in instances:
            instance.become("pending")
            instance.security_groups = instance.security_groups or [*instance.nics[0].group_set]
            instance.is_public = self._is_public(subnet_id, asked)
            for nic in instance.nics.values():
                nic.delete_on_termination = True
            if any(self._lacks_key(block.volume_id) for _, block in instance.get_block_device_mapping):
                now_terminated(instance, _WITHOUT_KEY)  # as EC2 does, after it has taken the request
            else:
                born.append(instance)
        try:
            self.lifecycle.bear(image, born, self.key_pairs.get(instances[0].key_name or ""))
        except BodyError as error:
            raise EC2ClientError("InsufficientFreeAddressesInSubnet", str(error)) from error
        except binascii.Error as error:
            raise EC2ClientError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from error

    def _undo(self, reservations: Iterable[str]) -> None:
        for one in reservations:
            for instance in self.reservations[one].instances:
                for nic in instance.nics.values():
                    nic.delete_on_termination = True
                instance.terminate()
                self.tags.pop(instance.id, None)
            del self.reservations[one]

    def _lacks_key(self, volume_id: str) -> bool:
        """Tell whether a volume's key isn't there, or is switched off."""
        wanted, keys = self.volumes[volume_id].kms_key_id, kms_backends[self.account_id][self.region_name]
        if not wanted:
            return False
        key = keys.keys.get(keys.any_id_to_key_id(wanted))
        return key is None or key.key_state != "Enabled"

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[Any, InstanceState]]:
        """Shut machines down; stopped ones stay as they are."""
        self.refuse_without_docker()
        return [
            self._turn(instance, "stopping", self.lifecycle.stop, skip=("stopped", "stopping"))
            for instance in self._in(instance_ids, "be stopped", "running", "stopped", "stopping")
        ]

    def start_instances(self, instance_ids: list[str]) -> list[tuple[Any, InstanceState]]:
        """Switch machines on; running ones stay as they are."""
        self._refuse_without_room(len(instance_ids))
        return [
            self._turn(instance, "pending", self.lifecycle.start, skip=("running", "pending"))
            for instance in self._in(instance_ids, "be started", "stopped", "running", "pending")
        ]

    def reboot_instances(self, instance_ids: list[str]) -> list[Any]:
        """Restart machines; their state stays running, as EC2's does."""
        self.refuse_without_docker()
        found = self._in(instance_ids, "be rebooted", "running")
        for instance in found:
            instance.health = "initializing"
            self.lifecycle.reboot(instance)
        return found

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Any, InstanceState]]:
        """Remove machines with their disks; terminated ones stay as they are."""
        self.refuse_without_docker()
        found = self.get_multi_instances_by_id(instance_ids)
        for instance in found:
            if instance.disable_api_termination:
                raise EC2ClientError("OperationNotPermitted", f"The instance '{instance.id}' may not be terminated")
        done = ("terminated", "shutting-down")
        return [self._turn(instance, "shutting-down", self.lifecycle.terminate, skip=done) for instance in found]

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: list[dict[str, Any]],
        no_reboot: bool = False,
    ) -> Any:
        """Register a pending image at once and have its snapshot taken."""
        self._refuse_name(name)
        self.refuse_without_docker()
        instance = self._in([instance_id], "be imaged", "running", "stopped")[0]
        tags = convert_tag_spec(tag_specifications) if tag_specifications else {}
        image: Any = super().create_image(instance_id, name, description, [])
        image.add_tags(tags.get("image", {}))
        image.ebs_snapshot.add_tags(tags.get("snapshot", {}))
        image.root_device_name, image.root_device_type = instance.root_device_name, "ebs"
        image.source_image_id, image.source_image_region = instance.image_id, self.region_name
        image.imds_support = getattr(self.amis.get(instance.image_id), "imds_support", None)
        image.state, image.ebs_snapshot.status = "pending", "pending"
        _resize(image, instance)
        self.lifecycle.snapshot(instance, image, reboot=not no_reboot and instance.state == "running")
        return image

    def copy_image(
        self, source_image_id: str, source_region: str, name: str | None = None, description: str | None = None
    ) -> Any:
        """Register an image with the content of another; tags are not copied, as in EC2 by default."""
        elsewhere: Any = ec2_backends[self.account_id][source_region]
        source = elsewhere.usable_image(source_image_id)
        self._refuse_name(name or "")
        self.refuse_without_docker()
        image: Any = super().copy_image(source_image_id, source_region, name, description)
        image.root_device_name, image.root_device_type = source.root_device_name, source.root_device_type
        image.source_image_id, image.source_image_region = source.id, source_region
        image.imds_support = source.imds_support
        image.ebs_snapshot.volume.size = source.ebs_snapshot.volume_size
        image.state, image.ebs_snapshot.status = "pending", "pending"
        self.lifecycle.copy(source, image)
        return image

    def delete_snapshot(self, snapshot_id: str) -> Any:
        """Delete a snapshot with its content; raises InvalidSnapshot.InUse while an image needs it."""
        self.refuse_without_docker()
        snapshot = super().delete_snapshot(snapshot_id)
        self.lifecycle.forget(self, snapshot_id)
        return snapshot

    def delete_security_group(self, name: str | None = None, group_id: str | None = None) -> None:
        """Delete a group; raises DependencyViolation while a machine uses it."""
        group = self.get_security_group_from_id(group_id) if group_id else self.get_security_group_from_name(name or "")
        for instance in self.all_instances():
            if group in instance.security_groups and instance.state not in ("terminated", "shutting-down"):
                raise EC2ClientError("DependencyViolation", f"resource {group.id} has a dependent object")
        super().delete_security_group(name, group_id)

    def _resolved(self, image_id: str) -> str:
        """Return the image that ``resolve:ssm:NAME`` means, NAME with a version or label behind it or not."""
        _, resolve, name = (image_id or "").partition("resolve:ssm:")
        if not resolve:
            return image_id
        parameter = ssm_backends[self.account_id][self.region_name].get_parameters([name]).get(name)
        if parameter is None:
            raise EC2ClientError("SsmInvalidParameter", f"The parameter {name} does not exist.")
        if parameter.data_type != "aws:ec2:image":
            known = "The following parameter data types are supported: aws:ec2:image"
            raise EC2ClientError("SsmInvalidParameter", f"Unsupported data type. {known}")
        return str(parameter.value)

    def _refuse_imdsv1(self, image: Ami, template: Any, asked: dict[str, Any]) -> None:
        """Refuse a machine without IMDSv2 where that is enforced; launch, template, account and AMI decide in turn."""
        defaults = answers.metadata_defaults(self)
        of_template = (template.data.get("MetadataOptions") or {}) if template else {}
        told = asked.get("HttpTokens") or of_template.get("HttpTokens") or defaults.get("HttpTokens")
        required = told == "required" if told else image.imds_support == "v2.0"
        if defaults.get("HttpTokensEnforced") == "enabled" and not required:
            raise EC2ClientError(
                "UnsupportedOperation",
                "You can't launch instances with IMDSv1 because httpTokensEnforced is enabled for this account.",
            )

    def _refuse_taken_ports(self, names: list[str], ids: list[Any]) -> None:
        if not self.lifecycle.unfenced:
            return
        groups = [self.get_security_group_by_name_or_id(name) for name in names]
        groups += [self.get_security_group_from_id(one) for one in ids if isinstance(one, str)]
        rules = rules_of(group for group in groups if group)
        busy = taken(first for first, last, _ in rules if first == last)
        if busy:
            raise EC2ClientError(
                "InvalidIPAddress.InUse",
                f"port {busy[0]} is in use: a program on this host listens there at all addresses "
                f"({self.lifecycle.unfenced})",
            )

    def _refuse_name(self, name: str) -> None:
        for image in self.amis.values():
            if image.name == name and image.owner_id == self.account_id:
                raise EC2ClientError(
                    "InvalidAMIName.Duplicate",
                    f"AMI name {name} is already in use by AMI {image.id}",
                )

    def create_security_group(
        self,
        name: str,
        description: str,
        vpc_id: str | None = None,
        tags: dict[str, str] | None = None,
        force: bool = False,
        is_default: bool | None = None,
    ) -> Any:
        """Make a group; raises VPCIdNotSpecified where no VPC is named and there is no default one."""
        vpc_id = vpc_id or self._default_vpc().id
        return super().create_security_group(name, description, vpc_id, tags, force, is_default)

    def _default_vpc(self) -> Any:
        found = self.get_default_vpc()
        if found is None:
            raise VPCIdNotSpecifiedError
        return found

    def _default_group(self, subnet_id: str | None) -> Any:
        vpc_id = self.get_subnet(subnet_id).vpc_id if subnet_id else self._default_vpc().id
        return self.get_security_group_from_name("default", vpc_id)

    def _refuse_another_network(self, subnet_id: str | None, groups: list[Any]) -> None:
        vpc_id = self.get_subnet(subnet_id).vpc_id if subnet_id else self._default_vpc().id
        for one in groups:
            group = self.get_security_group_from_id(one) if isinstance(one, str) else one
            if group and group.vpc_id != vpc_id:
                where = f"subnet {subnet_id}" if subnet_id else f"the default VPC {vpc_id}"
                raise EC2ClientError(
                    "InvalidParameter", f"Security group {group.id} and {where} belong to different networks."
                )

    def _refuse_scarce(self, instance_type: str, subnet_id: str) -> None:
        """Raise InsufficientInstanceCapacity where somebody has asked for it: of a type, or of a type in a subnet."""
        words = self.scarce.read_text().split() if self.scarce.exists() else []
        if {instance_type, f"{instance_type}@{subnet_id}"} & set(words):
            raise EC2ClientError(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested.",
            )

    def _is_public(self, subnet_id: str | None, asked: bool | str | None) -> bool:
        """Tell whether a machine gets a public address: as its launch says, else as its subnet does."""
        if asked is not None:
            return str(asked).lower() == "true"
        return subnet_id is None or str(self.get_subnet(subnet_id).map_public_ip_on_launch).lower() == "true"

    def _in(self, instance_ids: list[str], verb: str, *states: str) -> list[Any]:
        found = self.get_multi_instances_by_id(instance_ids)
        for instance in found:
            if instance.state not in states:
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in a state from which it can {verb}: {instance.state}",
                )
        return found

    def _turn(self, instance: Any, state: str, move: Any, skip: tuple[str, ...]) -> tuple[Any, InstanceState]:
        before = InstanceState(instance.state, instance.state_code)
        if before.name not in skip:
            why = instance.state_reason
            instance.become(state, _BY_USER if state != "pending" else None)
            try:
                move(instance)
            except BodyError as error:  # it has no address
                instance.become(before.name, why)
                raise EC2ClientError("InsufficientFreeAddressesInSubnet", str(error)) from error
        return instance, before


_NO_KEY = "Client.InvalidKMSKey.InvalidState"
_WITHOUT_KEY = StateReason(f"{_NO_KEY}: The KMS key provided is in an incorrect state", _NO_KEY)
_BY_USER = StateReason("Client.UserInitiatedShutdown: User initiated shutdown", "Client.UserInitiatedShutdown")


def _root_first(image: Ami, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the block device mappings of a launch: the image's root device, with what the caller says of it."""
    ebs = {**image.block_device_mappings[0]["Ebs"], "KmsKeyId": None}
    others = []
    for mapping in given:
        if mapping["DeviceName"] != image.root_device_name:
            others.append(mapping)
            continue
        ebs.update({key: value for key, value in mapping["Ebs"].items() if value not in (None, False)})
    return [{"DeviceName": image.root_device_name, "Ebs": ebs}, *others]


def _resize(image: Ami, instance: Any) -> None:
    """Give an image's snapshot the size and encryption of the machine's root volume."""
    block = dict(instance.get_block_device_mapping).get(instance.root_device_name)
    if block is not None:
        image.ebs_snapshot.volume.size = block.size
        volume = instance.ec2_backend.volumes[block.volume_id]
        image.ebs_snapshot.encrypted = image.ebs_snapshot.volume.encrypted = volume.encrypted
        image.ebs_snapshot.kms_key_id = image.ebs_snapshot.volume.kms_key_id = volume.kms_key_id


class Response(Answers):
    """Read the parameters by which bodies are asked for, and refuse what has none."""

    def run_instances(self) -> ActionResult:
        """Launch MaxCount machines: there's always room for all or for none."""
        self.params["MinCount"] = self._get_param("MaxCount", "1")
        return super().run_instances()

    def create_image(self) -> ActionResult:
        """Take NoReboot and the tags of image and snapshot."""
        self.error_on_dryrun()
        image = self.ec2_backend.create_image(
            self._get_param("InstanceId"),
            self._get_param("Name"),
            self._get_param("Description", ""),
            self._get_param("TagSpecifications", []),
            no_reboot=self._get_bool_param("NoReboot", False),
        )
        return ActionResult({"ImageId": image.id})

    def deregister_image(self) -> ActionResult:
        """Take DeleteAssociatedSnapshots."""
        self.error_on_dryrun()
        image_id = self._get_param("ImageId")
        image = self.ec2_backend.amis.get(image_id)
        with_snapshots = self._get_bool_param("DeleteAssociatedSnapshots", False)
        if with_snapshots:
            self.ec2_backend.refuse_without_docker()
        self.ec2_backend.deregister_image(image_id)
        results = []
        if with_snapshots:
            self.ec2_backend.delete_snapshot(image.ebs_snapshot.id)
            results.append({"SnapshotId": image.ebs_snapshot.id, "ReturnCode": "success"})
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def register_image(self) -> Any:
        """Refuse: only CreateImage and CopyImage make images that hold something."""
        raise _unsupported("RegisterImage")

    def create_snapshot(self) -> Any:
        """Refuse: a snapshot that holds nothing would be worse than none."""
        raise _unsupported("CreateSnapshot")

    def create_snapshots(self) -> Any:
        """Refuse, as CreateSnapshot does."""
        raise _unsupported("CreateSnapshots")

    def describe_instance_status(self) -> ActionResult:
        """Say of each machine what its sshd and cloud-init say."""
        filters = [{"name": key, "values": values} for key, values in self._filters_from_querystring().items()]
        found = self.ec2_backend.describe_instance_status(
            self._get_param("InstanceIds", []), self._get_bool_param("IncludeAllInstances", False), filters
        )
        return ActionResult({"InstanceStatuses": [instance.status() for instance in found]})

    def get_console_output(self) -> ActionResult:
        """Return what the machine really wrote to its console."""
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = self.ec2_backend.lifecycle.console
        result = {"InstanceId": instance.id, "Timestamp": utcnow(), "Output": base64.b64encode(text).decode()}
        return ActionResult(result)


_of_a_stack = MotoInstance.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]


def _create_of_a_stack(cls: Any, name: str, resource: Any, *rest: Any, **more: Any) -> Any:
    """Make a stack's instance with its SecurityGroupIds, which moto wants under the other groups' name."""
    properties = resource["Properties"]
    groups = [*properties.get("SecurityGroups", ()), *properties.get("SecurityGroupIds", ())]
    return _of_a_stack(cls, name, {**resource, "Properties": {**properties, "SecurityGroups": groups}}, *rest, **more)


def _unsupported(operation: str) -> EC2ClientError:
    return EC2ClientError("UnsupportedOperation", f"The local EC2 has no {operation}; CreateImage takes snapshots.")


def install(lifecycle: Lifecycle, folder: Path) -> None:
    """Put these classes in the place of moto's; in the folder is what somebody has asked for."""
    Backend.lifecycle, Backend.scarce = lifecycle, folder / SCARCE
    ec2_backends.backend = Backend
    moto.ec2.models.instances.Instance = Instance  # type: ignore[misc]
    MotoInstance.create_from_cloudformation_json = classmethod(_create_of_a_stack)  # type: ignore[assignment,method-assign]
    moto.ec2.models.amis.Ami = Ami  # type: ignore[misc]
    answers.install(Response)
