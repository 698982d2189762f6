"""Access: what is needed to connect to machines: key pairs, security groups and files of host keys."""

from __future__ import annotations

import base64
import binascii
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakehouse import documents, patience, tools
from bakehouse.accounts import TAG, Account, blamed, done_already, filters, tag_specifications, wait
from bakehouse.settings import Settings
from bakehouse.sites import Bastion

Permission = Mapping[str, Any]
"""One rule of a security group in EC2's form: a protocol, its ports and one source."""

_SOURCES = ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs")


def permission(port: int, network: str) -> Permission:
    """Return the rule that lets a network, which is a CIDR block or the ID of a prefix list, connect to a TCP port."""
    source: dict[str, Any] = {"IpRanges": [{"CidrIp": network}]}
    if network.startswith("pl-"):
        source = {"PrefixListIds": [{"PrefixListId": network}]}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}


def plan(present: Sequence[Permission], wanted: Sequence[Permission]) -> tuple[list[Permission], list[Permission]]:
    """Return the rules to add and the rules to remove, so that a group has the wanted rules and no others.

    ``present`` is in the form of DescribeSecurityGroups: one permission holds several sources.
    """
    single = [_single(one, kind, source) for one in present for kind in _SOURCES for source in one.get(kind, ())]
    return [one for one in wanted if one not in single], [one for one in single if one not in wanted]


def group(
    account: Account, recipe: str, key: str, ports: Sequence[int], network: str, run: str = "", vpc: str = ""
) -> str:
    """Return the ID of the security group that opens these TCP ports to this network and nothing else.

    The group is made if it is missing. It has the name of the key pair, so that each person who launches machines on
    the account has a group of their own. With ``run``, the ID of a run, the group is that run's own, so that the rules
    of the recipe's other machines stay as they are.
    """
    tags = {f"{TAG}kind": "proof" if run else "group", f"{TAG}recipe": recipe, **({f"{TAG}run": run} if run else {})}
    name = account.site.named(f"bakehouse-{run}") if run else key
    found = _group(account, name, tags, vpc) or new_group(
        account, name, tags, f"Machines of recipe {recipe}: open to their caller alone", vpc
    )
    group_id: str = found["GroupId"]
    missing, surplus = plan(found["IpPermissions"], [permission(port, network) for port in ports])
    if missing:
        let_in(account, group_id, missing)
    if surplus:
        with done_already("InvalidPermission.NotFound"):
            account.ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=surplus)
    return group_id


def key_pair(account: Account, settings: Settings, recipe: str) -> str:
    """Return the name of the recipe's key pair, and make the pair if it is missing.

    The private key is the file of this name in ``keys(settings)``. The name holds a digest of the key: when the file is
    gone or damaged, a new key is made, and it gets a key pair of its own.
    """
    tools.ensure("ssh")
    folder = keys(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def named(digest: str) -> str:
        return account.site.named(f"bakehouse-{recipe}-{digest}")

    sound = [file.name for file in sorted(folder.glob(named("*"))) if file.name == named(_digest(_public_of(file)))]
    if sound:
        name = sound[0]
    else:
        fresh = _fresh()
        name = named(_digest(_public(fresh)))
        documents.create(folder / name, fresh)
    known = account.ec2.describe_key_pairs(Filters=filters({"key-name": name}))["KeyPairs"]
    if not known:
        import_key(account, name, folder / name, {f"{TAG}kind": "key", f"{TAG}recipe": recipe})
    return name


def make_key(file: Path) -> None:
    """Make an ed25519 key without a passphrase, as a file that only its owner may read."""
    documents.create(file, _fresh())


def import_key(account: Account, name: str, private: Path, tags: Mapping[str, str]) -> None:
    """Make a key pair on the account from a private key. EC2 gets only the public half."""
    with done_already("InvalidKeyPair.Duplicate"):
        account.ec2.import_key_pair(
            KeyName=name,
            PublicKeyMaterial=_public_of(private).encode(),
            TagSpecifications=tag_specifications(account.marked(tags), "key-pair"),
        )


def new_group(
    account: Account, name: str, tags: Mapping[str, str], description: str, vpc: str = ""
) -> Mapping[str, Any]:
    """Make a security group without rules, wait until it can be found, and return EC2's description of it.

    On AWS a new group can be found only after some time. Raises InputError where there is no default VPC and none is
    named.
    """
    with blamed(account, "vpc", "VPCIdNotSpecified"), done_already("InvalidGroup.Duplicate"):
        account.ec2.create_security_group(
            GroupName=name,
            Description=description,
            TagSpecifications=tag_specifications(account.marked({"Name": name, **tags}), "security-group"),
            **({"VpcId": vpc} if vpc else {}),
        )
    return wait(f"security group {name} to be there", lambda: _group(account, name, tags, vpc), patience.VISIBLE)


def let_in(account: Account, group_id: str, rules: Sequence[Permission]) -> None:
    """Add rules to a security group; raises InputError when a prefix list in them isn't there."""
    with blamed(account, "allow", "InvalidPrefixListI"), done_already("InvalidPermission.Duplicate"):
        account.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=rules)


def public_key(settings: Settings, name: str) -> str:
    """Return the public half of one of our key pairs, as type and base64; empty when its private key isn't here."""
    return _public_of(keys(settings) / name)


def keys(settings: Settings) -> Path:
    """Return the folder of the account's private keys."""
    return settings.kept("keys")


def known_hosts(settings: Settings, machine_id: str) -> Path:
    """Return the file that holds the host key of one machine, named after its ID."""
    return settings.kept("known_hosts") / machine_id


def through(settings: Settings, bastion: Bastion | None) -> list[str]:
    """Return the options of ``ssh`` that lead through a bastion; none without one."""
    if bastion is None:
        return []
    line = shlex.join(to_bastion(settings, bastion)).replace("%", "%%")  # for ssh, % begins a variable
    return ["-o", f"ProxyCommand={line} -W '[%h]:%p'"]


def to_bastion(settings: Settings, bastion: Bastion) -> list[str]:
    """Return the command line of ``ssh`` for a bastion; its host key is kept by its name."""
    hosts = known_hosts(settings, bastion.host)
    hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = {
        "IdentityFile": path(bastion.key),
        "IdentitiesOnly": "yes",
        "AddKeysToAgent": "no",
        "UserKnownHostsFile": path(hosts),
        "StrictHostKeyChecking": "accept-new",
        "BatchMode": "yes",
        "ConnectTimeout": f"{patience.CONNECTION.seconds:.0f}",
        "LogLevel": "ERROR",
    }
    options = (part for name, value in told.items() for part in ("-o", f"{name}={value}"))
    return ["ssh", "-F", "none", *options, "-l", bastion.user, "-p", str(bastion.port), bastion.host]


def path(file: str | Path) -> str:
    """Return a path quoted for SSH's options, in which a space separates paths and % begins a variable."""
    return f'"{file}"'.replace("%", "%%")


def _single(permission: Permission, kind: str, source: Mapping[str, Any]) -> Permission:
    """Return the rule for one source of a permission, without its description, which EC2 ignores in comparing rules."""
    ports = {key: permission[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in permission}
    return {**ports, kind: [{key: value for key, value in source.items() if key != "Description"}]}


def _group(account: Account, name: str, tags: Mapping[str, str], vpc: str) -> Mapping[str, Any] | None:
    there = {"group-name": name, **({"vpc-id": vpc} if vpc else {})}
    wanted = filters({**there, **{f"tag:{key}": value for key, value in tags.items()}})
    found: list[Mapping[str, Any]] = account.ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
    return found[0] if found else None


def _fresh() -> bytes:
    """Return a new private key in OpenSSH's form."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(*form)


def _public_of(file: Path) -> str:
    """Return the public half of the private key in a file; empty when it holds none."""
    try:
        return _public(file.read_bytes())
    except OSError:
        return ""


def _public(private: bytes) -> str:
    """Return the public half of a private key, as type and base64; empty when it is none, or has a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_ssh_private_key(private, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return ""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _digest(public: str) -> str:
    try:
        return hashlib.sha256(base64.b64decode(public.split()[1])).hexdigest()[:12]
    except (IndexError, binascii.Error):
        return ""
