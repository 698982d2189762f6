"""Answer what moto passes over and no body takes part in: pages, attributes, what is in use, parameters, AWS's keys."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import moto.ec2.urls
import moto.kms.urls
import moto.ssm.urls
import moto.sts.urls
from moto.core.exceptions import AccessDeniedError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, UnvailableAMIIdError
from moto.ec2.models import ec2_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses import EC2Response
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, convert_tag_spec, get_prefix
from moto.iam.models import iam_backends
from moto.kms.responses import KmsResponse
from moto.ssm.responses import SimpleSystemManagerResponse
from moto.sts.exceptions import STSValidationError
from moto.sts.models import sts_backends
from moto.sts.responses import TokenResponse

from bakehouse.local.signatures import AccessKey

_HOUR = 3600  # seconds: so long a role's session lasts where nothing else is said

_ALL = 1_000_000
"""More than there ever is, where moto would cut an answer short and not say so."""

_TOKENS = 1000
"""So many ClientTokens are remembered in a region: boto3 sends one with each launch, and each takes about 1 KB."""

_METADATA_DEFAULTS = {"HttpTokens": ("optional", "required"), "HttpTokensEnforced": ("enabled", "disabled")}
_NO_PREFERENCE = "no-preference"


def metadata_defaults(backend: Any) -> dict[str, str]:
    """Return the account's defaults for the metadata service in a region; they are changed there."""
    told: dict[str, str] = vars(backend).setdefault("metadata_defaults", {})
    return told


class Answers(EC2Response):
    """Read the parameters that moto's responses pass over."""

    def describe_images(self) -> ActionResult:
        """Answer in pages."""
        return self._paged(super().describe_images, "Images")

    def describe_snapshots(self) -> ActionResult:
        """Answer in pages."""
        return self._paged(super().describe_snapshots, "Snapshots")

    def describe_launch_templates(self) -> ActionResult:
        """Answer in pages: moto tells of fifteen, and nothing of the others."""
        return self._paged(super().describe_launch_templates, "LaunchTemplates")

    def describe_launch_template_versions(self) -> ActionResult:
        """Answer in pages, as DescribeLaunchTemplates does."""
        return self._paged(super().describe_launch_template_versions, "LaunchTemplateVersions")

    def authorize_security_group_ingress(self) -> ActionResult:
        """Refuse a prefix list that isn't there."""
        for rule in self._get_param("IpPermissions", []):
            for one in rule.get("PrefixListIds", []):
                if one["PrefixListId"] not in self.ec2_backend.managed_prefix_lists:
                    raise EC2ClientError(
                        "InvalidPrefixListId.NotFound", f"The prefix list ID '{one['PrefixListId']}' does not exist"
                    )
        return super().authorize_security_group_ingress()

    def delete_network_interface(self) -> ActionResult:
        """Refuse to delete an interface that a machine has: without it the machine could never end."""
        interface = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        if interface.attachment_id:
            raise EC2ClientError("InvalidParameterValue", f"Network interface '{interface.id}' is currently in use.")
        return super().delete_network_interface()

    def copy_image(self) -> ActionResult:
        """Take the tags and CopyImageTags too."""
        self.error_on_dryrun()
        source, region = self._get_param("SourceImageId"), self._get_param("SourceRegion")
        image = self.ec2_backend.copy_image(source, region, self._get_param("Name"), self._get_param("Description"))
        tags = convert_tag_spec(self._get_param("TagSpecifications", []) or [])
        if self._get_bool_param("CopyImageTags", False):
            old = ec2_backends[self.current_account][region].amis[source]
            image.add_tags({tag["key"]: tag["value"] for tag in old.get_tags()})
        image.add_tags(tags.get("image", {}))
        snapshot, old = image.ebs_snapshot, ec2_backends[self.current_account][region].amis[source].ebs_snapshot
        snapshot.add_tags(tags.get("snapshot", {}))
        snapshot.encrypted = old.encrypted or self._get_bool_param("Encrypted", False)
        snapshot.kms_key_id = self._get_param("KmsKeyId") or (region == self.region and old.kms_key_id) or None
        return ActionResult({"ImageId": image.id})

    def modify_image_attribute(self) -> Any:
        """Take imdsSupport and the description, which moto answers with OK and forgets."""
        image = self._image()
        support = self._get_param("ImdsSupport", {}).get("Value")
        text = self._get_param("Description", {}).get("Value")
        if self._get_param("Attribute") == "imdsSupport":
            support = self._get_param("Value")
        if self._get_param("Attribute") == "description":
            text = self._get_param("Value")
        if support is None and text is None:
            return super().modify_image_attribute()
        self.error_on_dryrun()
        if support not in (None, "v2.0"):
            raise EC2ClientError("InvalidParameterValue", f"Value ({support}) for parameter imdsSupport is invalid.")
        if support:
            image.imds_support = support
        image.description = text if text is not None else image.description
        return EmptyResult()

    def describe_image_attribute(self) -> ActionResult:
        """Read imdsSupport back; refuse an image that isn't there, where moto fails."""
        image = self._image()
        if self._get_param("Attribute") != "imdsSupport":
            return super().describe_image_attribute()
        return ActionResult({"ImageId": image.id, "ImdsSupport": {"Value": image.imds_support}})

    def enable_image_deprecation(self) -> ActionResult:
        """Note when an image is deprecated, to the minute."""
        self.error_on_dryrun()
        image, when = self._image(), self._get_param("DeprecateAt")
        when = when if isinstance(when, datetime) else datetime.fromisoformat(when)
        if when.replace(tzinfo=None) < utcnow().replace(tzinfo=None):
            raise EC2ClientError("InvalidParameterValue", f"Value ({when}) for parameter DeprecateAt is in the past.")
        image.deprecation_time = f"{when:%Y-%m-%dT%H:%M}:00.000Z"
        return ActionResult({"Return": True})

    def disable_image_deprecation(self) -> ActionResult:
        """Have an image deprecated no more."""
        self.error_on_dryrun()
        self._image().deprecation_time = None
        return ActionResult({"Return": True})

    def get_instance_metadata_defaults(self) -> ActionResult:
        """Tell the account's defaults for the metadata service of its machines."""
        return ActionResult({"AccountLevel": {"ManagedBy": "account", **metadata_defaults(self.ec2_backend)}})

    def modify_instance_metadata_defaults(self) -> ActionResult:
        """Take HttpTokens and HttpTokensEnforced, by which an account launches only machines that require IMDSv2."""
        self.error_on_dryrun()
        defaults = metadata_defaults(self.ec2_backend)
        for name, known in _METADATA_DEFAULTS.items():
            value = self._get_param(name)
            if value not in (None, _NO_PREFERENCE, *known):
                raise EC2ClientError("InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid.")
            if value:
                defaults[name] = value
            if value == _NO_PREFERENCE:
                del defaults[name]
        return ActionResult({"Return": True})

    def _image(self) -> Any:
        image_id = self._get_param("ImageId")
        found = self.ec2_backend.describe_images(ami_ids=[image_id])
        if not found:
            raise UnvailableAMIIdError(image_id)
        return found[0]

    def _paged(self, ask: Callable[[], ActionResult], key: str) -> ActionResult:
        """Return that page of an answer which MaxResults and NextToken ask for."""
        size, begin = self._get_int_param("MaxResults") or _ALL, self._get_int_param("NextToken") or 0
        self.params["MaxResults"] = _ALL
        answer: Any = ask().result
        found = answer[key]
        more = str(begin + size) if begin + size < len(found) else None
        return ActionResult({**answer, key: found[begin : begin + size], "NextToken": more})


class Parameters(SimpleSystemManagerResponse):
    """Make a parameter of data type aws:ec2:image only of an image that is there."""

    def put_parameter(self) -> ActionResult:
        """Answer as SSM does for an image that isn't there: with a version, which then never comes."""
        image, name = self._get_param("Value"), self._get_param("Name")
        known = self.ssm_backend.get_parameter(name)
        if self._get_param("DataType") != "aws:ec2:image" or (known and not self._get_param("Overwrite", False)):
            return super().put_parameter()
        if image in ec2_backends[self.current_account][self.region].amis:
            return super().put_parameter()
        return ActionResult({"Version": known.version + 1 if known else 1, "Tier": "Standard"})


class Keys(KmsResponse):
    """Tell which keys are AWS's own."""

    def describe_key(self) -> str:
        """Have the keys under AWS's aliases managed by AWS: moto makes that of EBS as one of the customer's."""
        answer: dict[str, Any] = json.loads(super().describe_key())
        told = answer["KeyMetadata"]
        if any(alias.startswith("alias/aws/") for alias in self.kms_backend.keys[told["KeyId"]].aliases):
            told["KeyManager"] = "AWS"
        return json.dumps(answer)


class Tokens(TokenResponse):
    """Let nobody be a role that isn't there."""

    def assume_role(self) -> ActionResult:
        """Give keys for a session of a role, which ends when the caller asks, at the latest when the role says."""
        arn = self._get_param("RoleArn")
        iam: Any = iam_backends[self.current_account][self.partition]
        found = [role for role in iam.get_roles() if role.arn == arn]
        if not found:
            who = self.backend.get_caller_identity(self.access_key, self.region)[1]
            raise AccessDeniedError(who, f"sts:AssumeRole on resource: {arn}")
        longest = int(found[0].max_session_duration or _HOUR)
        asked = self._get_int_param("DurationSeconds", min(_HOUR, longest))
        if asked > longest:
            raise STSValidationError("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
        self.params["DurationSeconds"] = asked
        return super().assume_role()


def sessions() -> dict[str, AccessKey]:
    """Return the keys of the roles' sessions, by their IDs; those that have ended are forgotten after an hour."""
    backend: Any = sts_backends[DEFAULT_ACCOUNT_ID]["aws"]
    hour_ago = utcnow() - timedelta(seconds=_HOUR)
    backend.assumed_roles = [one for one in backend.assumed_roles if one.expiration > hour_ago]
    return {
        one.access_key_id: AccessKey(
            one.access_key_id, one.secret_access_key, one.session_token, one.expiration.replace(tzinfo=UTC)
        )
        for one in backend.assumed_roles
    }


def answered(region: str, action: str, form: Mapping[str, Sequence[str]]) -> bytes | None:
    """Return what a request with this ClientToken was answered in a region; None when it is the first one.

    Raises EC2's error when the token came with other parameters.
    """
    found = _tokens(region).get(form["ClientToken"][0])
    if found is None:
        return None
    asked, answer = found
    if asked != _digest(action, form):
        raise EC2ClientError(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    return zlib.decompress(answer)


def remember(region: str, action: str, form: Mapping[str, Sequence[str]], answer: bytes) -> None:
    """Note the answer to a request with a ClientToken, for whoever sends it again because he had no answer."""
    tokens = _tokens(region)
    tokens[form["ClientToken"][0]] = _digest(action, form), zlib.compress(answer)
    while len(tokens) > _TOKENS:
        del tokens[next(iter(tokens))]  # the oldest


def _tokens(region: str) -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = vars(ec2_backends[DEFAULT_ACCOUNT_ID][region]).setdefault("tokens", {})
    return found


def _digest(action: str, form: Mapping[str, Sequence[str]]) -> str:
    return hashlib.sha256(repr([action, sorted((key, [*values]) for key, values in form.items())]).encode()).hexdigest()


def tags_in(region: str) -> Callable[[str, str], dict[str, str]]:
    """Return what tells the tags of a resource in a region, given its type in EC2's word and its ID or name."""
    backend: Any = ec2_backends[DEFAULT_ACCOUNT_ID][region]

    def look(kind: str, one: str) -> dict[str, str]:
        if kind == "key-pair" and one in backend.key_pairs:
            one = backend.key_pairs[one].id
        if kind == "security-group" and not one.startswith("sg-"):
            named = [group.id for groups in backend.groups.values() for group in groups.values() if group.name == one]
            one = named[0] if named else one
        return dict(backend.tags.get(one, {}))

    return look


def _tags(resource: TaggedEC2Resource) -> list[dict[str, str]]:
    """Return a resource's tags; moto would look through all resources' for them, which takes seconds for a thousand."""
    one: Any = resource
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(one.id), "") if one.id else ""
    found = one.ec2_backend.tags.get(one.id, {})
    return [{"resource_id": one.id, "key": key, "value": found[key], "resource_type": kind} for key in found]


def install(ec2: type[Answers] = Answers) -> None:
    """Have these answers given in the place of moto's."""
    TaggedEC2Resource.get_tags = _tags  # type: ignore[assignment, method-assign]
    moto.ec2.urls.url_paths["{0}/"] = ec2.dispatch
    moto.kms.urls.url_paths["{0}/$"] = Keys.dispatch
    moto.ssm.urls.url_paths["{0}/$"] = Parameters.dispatch
    moto.sts.urls.url_paths["{0}/$"] = Tokens.dispatch
