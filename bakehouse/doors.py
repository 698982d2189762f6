"""Doors: what lets a person in to a recipe's machines, which is one key pair and one security group an account."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakehouse import tools
from bakehouse.cloud import TAG, Cloud, tag_specifications, wait
from bakehouse.settings import Settings


@dataclass(frozen=True)
class Rule:
    """Hold one rule of a group: which network may come in at which TCP port."""

    port: int
    cidr: str

    @classmethod
    def from_aws(cls, answer: Mapping[str, Any]) -> Rule | None:
        """Read one of the SecurityGroupRules of an answer; None is a rule of a kind that we never make."""
        if answer["IpProtocol"] != "tcp" or answer["FromPort"] != answer["ToPort"] or not answer.get("CidrIpv4"):
            return None
        return cls(answer["FromPort"], answer["CidrIpv4"])


def plan(present: Mapping[str, Rule | None], wanted: Sequence[Rule]) -> tuple[list[Rule], list[str]]:
    """Return the rules to add, and the IDs of those to take away, for a group to have the wanted rules and no others.

    ``present`` maps the ID of each rule that the group has to the rule, or to None when it is of another kind.
    """
    surplus = [rule_id for rule_id, rule in present.items() if rule not in wanted]
    return [rule for rule in wanted if rule not in present.values()], surplus


def group(cloud: Cloud, recipe: str, ports: Sequence[int], cidr: str) -> str:
    """Return the ID of the recipe's security group, which opens these TCP ports to this network and nothing else."""
    group_id = _group(cloud, recipe) or _new_group(cloud, recipe)
    filters = [{"Name": "group-id", "Values": [group_id]}]
    answers = cloud.ec2.pages("describe_security_group_rules", "SecurityGroupRules", Filters=filters)
    present = {answer["SecurityGroupRuleId"]: Rule.from_aws(answer) for answer in answers if not answer["IsEgress"]}
    missing, surplus = plan(present, [Rule(port, cidr) for port in ports])
    if missing:
        permissions = [_permission(rule) for rule in missing]
        cloud.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=permissions)
    if surplus:
        cloud.ec2.revoke_security_group_ingress(GroupId=group_id, SecurityGroupRuleIds=surplus)
    return group_id


def key_pair(cloud: Cloud, settings: Settings, recipe: str) -> str:
    """Return the name of the recipe's key pair, whose private key is the file of that name in ``keys(settings)``.

    The name holds a digest of the key: where the file is gone or damaged, a new key gets a key pair of its own.
    """
    folder = keys(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix = f"bakehouse-{recipe}-"
    sound = [file.name for file in sorted(folder.glob(f"{prefix}*")) if file.name == prefix + _digest(_public(file))]
    name = sound[0] if sound else _new_key(folder, prefix)
    known = cloud.ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"]
    if not known:
        tags = tag_specifications({f"{TAG}kind": "key", f"{TAG}recipe": recipe}, "key-pair")
        public = _public(folder / name).encode()
        cloud.ec2.import_key_pair(KeyName=name, PublicKeyMaterial=public, TagSpecifications=tags)
    return name


def keys(settings: Settings) -> Path:
    """Return the folder of the account's private keys."""
    return settings.state / "keys" / settings.account


def _group(cloud: Cloud, recipe: str) -> str:
    filters = [
        {"Name": f"tag:{TAG}recipe", "Values": [recipe]},
        {"Name": f"tag:{TAG}kind", "Values": ["group"]},
    ]
    found = cloud.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    return found[0]["GroupId"] if found else ""


def _new_group(cloud: Cloud, recipe: str) -> str:
    tags = {"Name": f"bakehouse-{recipe}", f"{TAG}kind": "group", f"{TAG}recipe": recipe}
    cloud.ec2.create_security_group(
        GroupName=f"bakehouse-{recipe}",
        Description=f"Machines of recipe {recipe}: open to their caller alone",
        TagSpecifications=tag_specifications(tags, "security-group"),
    )
    # On AWS a group can be seen only some time after it was made.
    return wait(f"security group bakehouse-{recipe} to be there", lambda: _group(cloud, recipe) or None, seconds=60)


def _permission(rule: Rule) -> dict[str, Any]:
    ports = {"IpProtocol": "tcp", "FromPort": rule.port, "ToPort": rule.port}
    return {**ports, "IpRanges": [{"CidrIp": rule.cidr, "Description": "Bakehouse"}]}


def _new_key(folder: Path, prefix: str) -> str:
    tools.ensure("ssh")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(fresh)], check=True)
        name = prefix + _digest(_public(fresh))
        os.rename(fresh, folder / name)
    return name


def _public(private: Path) -> str:
    """Return the public half of a private key; empty when the file holds none."""
    answer = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(private)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _digest(public: str) -> str:
    try:
        return hashlib.sha256(base64.b64decode(public.split()[1])).hexdigest()[:12]
    except (IndexError, binascii.Error):
        return ""
