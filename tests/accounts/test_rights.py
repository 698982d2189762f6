"""Rights: the printed policy is AWS's own form, each task works with its own rights, and what isn't ours is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import get_session
from moto_fixtures import enforced
from samples import baked, parameter

import tasks
from bakehouse import images, machines, runs, sites
from bakehouse.accounts import TAG, Account, rights, tag_list, tag_specifications
from bakehouse.errors import InputError
from bakehouse.images import Image, channels, copies, details, outputs, promotions, retirements, shares
from bakehouse.images.retention import Terms
from bakehouse.machines import launches
from bakehouse.machines.launches import Request
from bakehouse.runs import leftovers
from bakehouse.settings import ROOT, Settings
from bakehouse.sites import Site, Sites

COMPANY = sites.load(ROOT, "company", "accounts.example.yml").everywhere

LIMIT = 6144  # characters of a managed policy, without white space
OTHER = "111111111111"


def test_each_action_is_one_of_aws() -> None:
    """Each action is an operation of its service."""
    known = {
        f"{service}:{operation}"
        for service in ("autoscaling", "ec2", "kms", "ssm", "sts")
        for operation in get_session().get_service_model(service).operation_names
    }

    asked = {action for statement in rights.policy()["Statement"] for action in statement["Action"]}

    assert set() == asked - known


def test_the_policy_fits() -> None:
    """The policy of all tasks is no larger than IAM takes; each statement has a name of its own, of letters."""
    policy = rights.policy()
    names = Counter(statement["Sid"] for statement in policy["Statement"])

    assert len(json.dumps(policy, separators=(",", ":"))) < LIMIT
    assert {1} == set(names.values())
    assert all(name.isalnum() for name in names)


def test_the_policy_of_a_company_fits() -> None:
    """So it is with all that accounts.yml can say."""
    policy = rights.policy(site=COMPANY)
    names = [statement["Sid"] for statement in policy["Statement"]]

    assert len(json.dumps(policy, separators=(",", ":"))) < LIMIT
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("key", "resource", "alias"),
    [
        ("1234abcd", "arn:aws:kms:*:*:key/1234abcd", None),
        ("arn:aws:kms:eu-west-1:1:key/1234abcd", "arn:aws:kms:eu-west-1:1:key/1234abcd", None),
        ("alias/team/baker", "arn:aws:kms:*:*:key/*", "alias/team/baker"),
        ("arn:aws:kms:eu-west-1:1:alias/baker", "arn:aws:kms:*:*:key/*", "alias/baker"),
    ],
)
def test_the_key_is_named(key: str, resource: str, alias: str | None) -> None:
    """EC2 may use the one key that accounts.yml names: by its ARN, or by its alias."""
    [told] = [one for one in rights.policy(site=Site(kms_key=key))["Statement"] if one["Sid"] == "EncryptWithKey"]

    assert [resource] == told["Resource"]
    assert alias == told["Condition"].get("ForAnyValue:StringEquals", {}).get("kms:ResourceAliases")
    assert "ec2.*.amazonaws.com" == told["Condition"]["StringLike"]["kms:ViaService"]


def test_a_task_has_less_than_all() -> None:
    """A task that looks at machines may do nothing else; one that isn't known is refused with those that are."""
    [look] = rights.policy(["machines"])["Statement"]

    assert ["ec2:DescribeInstances", "sts:GetCallerIdentity"] == look["Action"]
    with pytest.raises(InputError, match="--task lint is no task that needs rights") as raised:
        rights.policy(["bake", "lint"])
    assert "bake, channels, " in raised.value.hint


def test_every_task_with_an_account_is_in_the_table() -> None:
    """Each task that has the flag --account is known, but for the one that runs the tests and the policy itself."""
    flags = {name: set(signature(tasks.ns[name].body).parameters) for name in tasks.ns.task_names}

    assert {name for name in flags if "account" in flags[name]} - {"policy", "test"} == set(rights.TASKS)


# Each of these does what the task of its name does.
Deed = Callable[[Account, Settings, Image], Any]


def _cleanup(account: Account, settings: Settings, _: Image) -> None:
    leftovers.apply(account, leftovers.find(account, settings))
    for _step in ("deprecate", "delete"):
        retirements.apply(account, retirements.plan(account, Terms(keep=0)), Terms(keep=0))


def _die(account: Account, settings: Settings) -> None:
    """Leave on the account what a bake leaves that was killed."""
    with runs.begin(settings) as run:
        pass
    tags = {f"{TAG}kind": "bake", f"{TAG}run": run.id, f"{TAG}recipe": "jenkins"}
    account.ec2.create_key_pair(KeyName=run.id, TagSpecifications=tag_specifications(tags, "key-pair"))
    account.ec2.create_security_group(
        GroupName=run.id, Description="x", TagSpecifications=tag_specifications(tags, "security-group")
    )
    account.ec2.create_volume(
        Size=1, AvailabilityZone="us-east-1a", TagSpecifications=tag_specifications(tags, "volume")
    )
    account.ec2.run_instances(
        ImageId=images.find(account, "jenkins")[0].id,
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.small",
        TagSpecifications=tag_specifications(tags, "instance"),
    )


def _launch(account: Account, settings: Settings, image: Image) -> None:
    assert image.id == images.usable(account, channels.get(account, "jenkins", "old").image, "jenkins").id
    for cidr in ("192.0.2.7/32", "192.0.2.8/32"):  # an address that changes has its rule taken back
        [machine] = launches.begin(account, settings, image, Request(1, ("t3.small",), cidr, b""), [80])
        machines.running(account, [machine.id])
        launches.end(account, settings, [machine])


DEEDS: dict[str, Deed] = {
    "images": lambda account, _, __: details.entries(account, images.find(account, "jenkins")),
    "show": lambda account, settings, image: details.find(account, settings, image.id),
    "diff": lambda account, _, image: details.pair(account, "jenkins", image.id, "stable"),
    "channels": lambda account, _, __: channels.find(account, "jenkins"),
    "outputs": lambda _, settings, __: outputs.of_channel(settings, "stable"),
    "promote": lambda account, _, image: channels.move(
        account, channels.read(account, "jenkins", "next"), images.usable(account, image.id, "jenkins").id
    ),
    "rollback": lambda _, settings, __: promotions.roll_back(settings, channel="stable"),
    "copy": lambda _, settings, image: copies.copy(settings, image.id, "eu-west-1"),
    "share": lambda _, settings, image: shares.share(settings, image.id, OTHER),
    "unshare": lambda _, settings, image: shares.unshare(settings, image.id),
    "revoke": lambda _, settings, image: promotions.revoke(settings, image.id, "a hole"),
    "restore": lambda _, settings, image: promotions.restore(settings, image.id),
    "retire": lambda account, _, image: retirements.retire(account, retirements.retirement(account, image)),
    "cleanup": _cleanup,
    "launch": _launch,
    "machines": lambda account, _, __: machines.find(account, "jenkins"),
}


ELSEWHERE = {
    "sts:GetCallerIdentity",  # by each task that connects to AWS
    "ssm:GetParametersByPath",  # to name the channels that there are, if the one that was named isn't
    "kms:Decrypt",  # by nobody: it is denied
    "kms:DescribeKey",  # of an encrypted image
    "ec2:GetConsoleOutput",  # of a machine that doesn't get healthy
}
"""What a task asks only where something is otherwise than here."""


@pytest.mark.local
@pytest.mark.parametrize("task", DEEDS)
def test_a_task_works_with_its_own_rights(
    account: Account, settings: Settings, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """What a task does is allowed by the policy that is printed for it alone, which allows nothing else."""
    baked(account, run="spare")
    older, newer = (images.get(account, baked(account, verdict="pass sha256:0")) for _ in range(2))
    for image in (older, newer):
        channels.move(account, channels.read(account, "jenkins", "stable"), image.id)
    channels.move(account, channels.read(account, "jenkins", "old"), older.id)
    shares_of = {"Attribute": "createVolumePermission", "OperationType": "add", "UserIds": [OTHER]}
    account.ec2.modify_image_attribute(ImageId=older.id, LaunchPermission={"Add": [{"UserId": OTHER}]})
    account.ec2.modify_snapshot_attribute(SnapshotId=older.snapshots[0], **shares_of)
    account.ec2.create_launch_template(LaunchTemplateName="theirs", LaunchTemplateData={"ImageId": newer.id})
    _die(account, settings)
    policy = rights.policy([task])
    limited, denied, asked = enforced(account, policy)
    for room in (copies, outputs, promotions, shares):
        monkeypatch.setattr(room, "connect", lambda _: limited)

    DEEDS[task](limited, settings, older)

    named = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert [] == denied
    assert set() == named - asked - ELSEWHERE


@pytest.mark.local
def test_what_accounts_yml_says_needs_its_rights(account: Account, settings: Settings) -> None:
    """What an entry adds to the rights of a launch is asked for by the launch, but for what EC2 does with the key."""
    iam, kms, ec2 = account.client("iam"), account.client("kms"), account.ec2
    iam.create_instance_profile(InstanceProfileName="web")
    iam.create_role(RoleName="web", AssumeRolePolicyDocument="{}")
    iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName="web")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.1.0/24")
    site = Site(
        vpc=vpc,
        associate_public_ip=False,
        kms_key=kms.create_key()["KeyMetadata"]["KeyId"],
        launch_profile="web",
        instance_types=("t3.small",),
    )
    policies = [rights.policy(["launch"], one) for one in (Site(), site)]
    usual, named = ({action for one in policy["Statement"] for action in one["Action"]} for policy in policies)
    limited, denied, asked = enforced(account, policies[1])
    limited = replace(limited, sites=Sites(site))
    wanted = launches.usual(limited, Request(1, ("t3.large",), "", b""))

    launches.begin(limited, settings, images.get(account, baked(account)), wanted, [80])

    assert [] == denied
    by_ec2 = {action for action in named if action.startswith("kms:")} - {"kms:DescribeKey"}
    assert by_ec2 == named - usual - asked


# Each of these does to a resource without our tags what is allowed on ours.
FOREIGN: dict[str, Callable[[Any, Any, dict[str, str]], Any]] = {
    "tag a group": lambda ec2, _, ids: ec2.create_tags(Resources=[ids["group"]], Tags=tag_list({f"{TAG}recipe": "x"})),
    "tag a machine": lambda ec2, _, ids: ec2.create_tags(
        Resources=[ids["machine"]], Tags=tag_list({f"{TAG}recipe": "x"})
    ),
    "tag an image as another's": lambda ec2, _, ids: ec2.create_tags(
        Resources=[ids["image"]], Tags=tag_list({"Name": "x"})
    ),
    "tag with ours a machine too": lambda ec2, _, ids: ec2.create_tags(
        Resources=[ids["ours"], ids["machine"]], Tags=tag_list({f"{TAG}recipe": "x"})
    ),
    "open a group": lambda ec2, _, ids: ec2.authorize_security_group_ingress(
        GroupId=ids["group"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    ),
    "delete a group": lambda ec2, _, ids: ec2.delete_security_group(GroupId=ids["group"]),
    "delete a group by its name": lambda ec2, _, __: ec2.delete_security_group(GroupName="theirs"),
    "make an untagged group": lambda ec2, _, __: ec2.create_security_group(GroupName="x", Description="x"),
    "terminate a machine": lambda ec2, _, ids: ec2.terminate_instances(InstanceIds=[ids["machine"]]),
    "terminate a machine with ours": lambda ec2, _, ids: ec2.terminate_instances(
        InstanceIds=[ids["our machine"], ids["machine"]]
    ),
    "stop a machine": lambda ec2, _, ids: ec2.stop_instances(InstanceIds=[ids["machine"]]),
    "read a console": lambda ec2, _, ids: ec2.get_console_output(InstanceId=ids["machine"]),
    "make an image of a machine": lambda ec2, _, ids: ec2.create_image(InstanceId=ids["machine"], Name="xxx"),
    "deregister an image": lambda ec2, _, ids: ec2.deregister_image(ImageId=ids["image"]),
    "share an image": lambda ec2, _, ids: ec2.modify_image_attribute(
        ImageId=ids["image"], LaunchPermission={"Add": [{"UserId": OTHER}]}
    ),
    "delete a snapshot": lambda ec2, _, ids: ec2.delete_snapshot(SnapshotId=ids["snapshot"]),
    "delete a volume": lambda ec2, _, ids: ec2.delete_volume(VolumeId=ids["volume"]),
    "delete a key pair": lambda ec2, _, __: ec2.delete_key_pair(KeyName="theirs"),
    "launch without a tag": lambda ec2, _, ids: ec2.run_instances(ImageId=ids["image"], MinCount=1, MaxCount=1),
    "launch with a foreign key": lambda ec2, _, ids: ec2.run_instances(
        ImageId=ids["image"],
        MinCount=1,
        MaxCount=1,
        KeyName="theirs",
        TagSpecifications=tag_specifications({f"{TAG}recipe": "x"}, "instance", "volume"),
    ),
    "launch in a foreign group": lambda ec2, _, ids: ec2.run_instances(
        ImageId=ids["image"],
        MinCount=1,
        MaxCount=1,
        SecurityGroupIds=[ids["group"]],
        TagSpecifications=tag_specifications({f"{TAG}recipe": "x"}, "instance", "volume"),
    ),
    "write a parameter": lambda _, ssm, __: ssm.put_parameter(Name="/theirs", Value="x", Type="String"),
    "write a parameter named alike": lambda _, ssm, __: ssm.put_parameter(
        Name="/bakehouses/x", Value="x", Type="String"
    ),
    "delete a parameter": lambda _, ssm, __: ssm.delete_parameters(Names=["/theirs"]),
    "read a secret parameter": lambda _, ssm, __: ssm.get_parameters(Names=["secret"], WithDecryption=True),
    "read a secret by its name": lambda _, ssm, __: ssm.get_parameter(Name="secret", WithDecryption=True),
    "read one parameter": lambda _, ssm, __: ssm.get_parameter(Name="secret"),
}


@pytest.mark.local
def test_what_is_not_ours_is_refused(account: Account) -> None:
    """With the rights of all tasks nobody changes, deletes, opens or reads what lacks our tags, nor makes it."""
    ec2 = account.ec2
    image = ec2.register_image(Name="theirs")["ImageId"]
    ours = {f"{TAG}recipe": "jenkins"}
    disk = ec2.create_volume(Size=1, AvailabilityZone="us-east-1a")["VolumeId"]
    launch = {"ImageId": image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}
    own = ec2.run_instances(**launch, TagSpecifications=tag_specifications(ours, "instance"))
    ids = {
        "image": image,
        "ours": baked(account),
        "group": ec2.create_security_group(GroupName="theirs", Description="x")["GroupId"],
        "machine": ec2.run_instances(**launch)["Instances"][0]["InstanceId"],
        "our machine": own["Instances"][0]["InstanceId"],
        "volume": disk,
        "snapshot": ec2.create_snapshot(VolumeId=disk)["SnapshotId"],
    }
    ec2.create_key_pair(KeyName="theirs")
    parameter(account, "secret", "a secret", "SecureString")
    limited, _, _ = enforced(account, rights.policy())
    clients = limited.ec2._client, limited.ssm._client
    outcomes = {}

    for name, deed in FOREIGN.items():
        try:
            deed(*clients, ids)
            outcomes[name] = "allowed"
        except ClientError as error:
            outcomes[name] = error.response["Error"]["Code"]

    assert dict.fromkeys(FOREIGN, "UnauthorizedOperation") == outcomes
    clients[0].terminate_instances(InstanceIds=[ids["our machine"]])
