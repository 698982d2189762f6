"""The story in an account as companies have them: no default VPC, private subnets, required tags, a key, a role."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from ec2_fixtures import (
    CALLER,
    Checkout,
    LocalEc2,
    another,
    describe,
    permission,
    private_key,
    wait,
    wait_for_state,
)

from bakehouse import documents, sites
from bakehouse.accounts import rights
from bakehouse.local import policies
from bakehouse.sites import Site

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

SECONDS = 20
"""So long a session of the role lasts: a bake needs several."""

TAGS = {"team": "platform", "cost-center": "4711"}


@dataclass(frozen=True)
class Company:
    """Hold a checkout with an accounts.yml, and what the company has on its account.

    Attributes:
        checkout: the checkout, whose local EC2 is the company's account.
        ec2: a client of EC2 without any limit.
        local: the local EC2.
        bastion: the ID of the machine through which all others are reached.
        subnet: the ID of the private subnet.
        key: the ARN of the KMS key.
        role: the ARN of the role.
    """

    checkout: Checkout
    ec2: Any
    local: LocalEc2
    bastion: str
    subnet: str
    key: str
    role: str

    def inv(self, *words: str) -> str:
        """Run a task of the recipe nginx, and return what it printed."""
        return self.checkout.inv(*words, "--recipe", "nginx").stdout.strip()

    def told(self, machine_id: str) -> dict[str, Any]:
        """Return what EC2 says of a machine, and its tags."""
        [found] = describe(self.ec2, machine_id)
        return {**found, "tags": {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}}


class Story:
    """Carry what the chapters hand on."""

    image = ""
    machine = ""


@pytest.fixture(scope="module")
def company(local_ec2: LocalEc2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Give the company's account: what it demands is enforced on every task."""
    folder = tmp_path_factory.mktemp("company")
    with another(local_ec2, folder / "state") as made:
        made.up()
        ec2 = made.client("ec2")
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        ec2.delete_vpc(VpcId=ec2.describe_vpcs()["Vpcs"][0]["VpcId"])
        vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        outer, inner = (
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.7.{number}.0/24")["Subnet"]["SubnetId"] for number in (1, 2)
        )
        ec2.create_tags(Resources=[inner], Tags=[{"Key": "tier", "Value": "private"}])
        bastion, door = _bastion(ec2, folder, vpc, outer)
        role, profile = _roles(made)
        kms = made.client("kms")
        key = kms.create_key()["KeyMetadata"]
        kms.create_alias(AliasName="alias/baker", TargetKeyId=key["KeyId"])
        entry = {
            "tags": TAGS,
            "name": "acme-{name}",
            "vpc": vpc,
            "subnet_tags": {"tier": "private"},
            "associate_public_ip": False,
            "proxy_jump": f"admin@{door}",
            "proxy_jump_key": str(folder / "bastion"),
            "kms_key": "alias/baker",
            "encrypted": "required",
            "role": role,
            "bake_profile": profile,
            "launch_profile": profile,
            "instance_types": ("t3.small", "t3.micro"),
        }
        (folder / "checkout").mkdir()
        checkout = Checkout(folder / "checkout", made.environ)
        (checkout.folder / sites.FILE).write_text(json.dumps({"local": entry}))
        documents.replace(made.folder / policies.FILE, json.dumps(_policy(Site(**entry))).encode())
        made.inv("local.up", "--scarce", f"t3.small@{inner}")
        yield Company(checkout, ec2, made, bastion, inner, key["Arn"], role)


def _bastion(ec2: Any, folder: Path, vpc: str, subnet: str) -> tuple[str, str]:
    """Launch a machine with a public address, and return its ID and that address."""
    private_key(folder / "bastion", ec2.create_key_pair(KeyName="bastion", KeyType="ed25519")["KeyMaterial"])
    group = ec2.create_security_group(GroupName="bastion", Description="x", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission(22, CALLER))
    base = ec2.describe_images(Filters=[{"Name": "name", "Values": ["debian-13-*"]}])["Images"][0]["ImageId"]
    nic = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}
    [made] = ec2.run_instances(
        ImageId=base, MinCount=1, MaxCount=1, InstanceType="t3.micro", KeyName="bastion", NetworkInterfaces=[nic]
    )["Instances"]
    wait_for_state(ec2, made["InstanceId"], "running")
    return made["InstanceId"], describe(ec2, made["InstanceId"])[0]["PublicIpAddress"]


def _roles(made: LocalEc2) -> tuple[str, str]:
    """Make the role of the tasks, with short sessions, and a profile; return the role's ARN and the profile's name."""
    iam = made.client("iam")
    role = iam.create_role(RoleName="baker", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    unchecked = Config(parameter_validation=False)  # AWS's shortest session is a quarter of an hour
    made.client("iam", config=unchecked).update_role(RoleName="baker", MaxSessionDuration=SECONDS)
    iam.create_role(RoleName="web", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="web")
    iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName="web")
    return role, "web"


def _policy(site: Site) -> dict[str, Any]:
    """Return the policy that ./inv policy prints for the account, with what the organisation denies."""
    policy = rights.policy(site=site)
    demands = {
        "ec2:CreateSecurityGroup": ["security-group/*"],
        "ec2:ImportKeyPair": ["key-pair/*"],
        "ec2:RunInstances": ["instance/*", "volume/*"],
    }
    policy["Statement"] += [
        {
            "Sid": f"Demand{number}",
            "Effect": "Deny",
            "Action": action,
            "Resource": [f"arn:aws:ec2:*:*:{kind}" for kind in kinds],
            "Condition": {"Null": {"aws:RequestTag/team": "true"}},
        }
        for number, (action, kinds) in enumerate(demands.items())
    ]
    return policy


def test_bake(company: Company) -> None:
    """The bake runs in the private subnet, longer than a session of the role; its image is encrypted and tagged.

    There is no room for the first instance type, so the second is taken.
    """
    Story.image = company.inv("bake")

    [image] = company.ec2.describe_images(ImageIds=[Story.image])["Images"]
    [snapshot] = company.ec2.describe_snapshots(SnapshotIds=[image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]])[
        "Snapshots"
    ]
    assert image["Name"].startswith("acme-bakehouse-nginx-")
    assert (True, company.key) == (snapshot["Encrypted"], snapshot["KmsKeyId"])
    for tags in (image["Tags"], snapshot["Tags"]):
        assert TAGS.items() <= {tag["Key"]: tag["Value"] for tag in tags}.items()
    [owner] = [tag["Value"] for tag in image["Tags"] if tag["Key"] == "bakehouse:owner"]
    assert owner.startswith("arn:aws:sts::123456789012:assumed-role/baker/")
    ended = [{"Name": "instance-state-name", "Values": ["terminated"]}]
    [baker] = [
        one for each in company.ec2.describe_instances(Filters=ended)["Reservations"] for one in each["Instances"]
    ]
    assert (company.subnet, None) == (baker["SubnetId"], baker.get("PublicIpAddress"))
    assert "t3.micro" == baker["InstanceType"]
    groups = company.ec2.describe_security_groups()["SecurityGroups"]
    assert {"bastion", "default"} == {group["GroupName"] for group in groups}


def test_launch(company: Company) -> None:
    """A machine gets healthy where only the bastion reaches it, and is entered through that."""
    Story.machine = company.inv("launch").split("\t")[0]

    told = company.told(Story.machine)
    [machine] = json.loads(company.inv("machines", "--json"))
    assert told["PrivateIpAddress"] == machine["address"]
    assert (company.subnet, None) == (told["SubnetId"], told.get("PublicIpAddress"))
    assert TAGS.items() <= told["tags"].items()
    assert "acme-bakehouse-nginx" == told["tags"]["Name"]
    assert told["IamInstanceProfile"]["Arn"].endswith("/web")
    entered = company.checkout.inv("ssh", "--recipe", "nginx", "--", "systemctl is-active nginx").stdout.strip()
    assert "active" == entered
    seen = company.checkout.inv("ssh", "--recipe", "nginx", "--", "echo $SSH_CONNECTION").stdout.split()[0]
    assert seen == company.told(company.bastion)["PrivateIpAddress"]


def test_prove_and_roll_back(company: Company) -> None:
    """The image is proven and promoted; after another image has been in the channel, it is rolled back to."""
    company.inv("prove", "--image", Story.image)
    company.inv("promote", "--image", Story.image)
    copied = company.ec2.copy_image(
        SourceImageId=Story.image, SourceRegion="us-east-1", Name="copy", CopyImageTags=True
    )["ImageId"]
    wait(lambda: company.ec2.describe_images(ImageIds=[copied])["Images"][0]["State"] == "available")
    company.local.client("ssm").put_parameter(
        Name="/bakehouse/nginx/stable",
        Value=copied,
        Type="String",
        DataType="aws:ec2:image",
        Overwrite=True,
        Description=json.dumps({"image": copied, "origin": Story.image, "by": "x", "why": "", "stand_ins": []}),
    )

    assert Story.image == company.inv("rollback")

    told = company.local.client("ssm").list_tags_for_resource(
        ResourceType="Parameter", ResourceId="/bakehouse/nginx/stable"
    )
    assert TAGS == {tag["Key"]: tag["Value"] for tag in told["TagList"]}
    company.inv("terminate", "--all", "--yes")


def test_nothing_is_made_without_the_entry(company: Company) -> None:
    """Without the entry in accounts.yml the organisation's rule refuses the launch in one line, and nothing is made."""
    (company.checkout.folder / sites.FILE).write_text("{}\n")
    before = company.ec2.describe_security_groups()["SecurityGroups"]
    with pytest.raises(AssertionError, match=r"error: import_key_pair: .* the statement Demand1 denies it"):
        company.inv("launch", "--image", Story.image)
    assert before == company.ec2.describe_security_groups()["SecurityGroups"]
