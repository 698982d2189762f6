"""What the local EC2 keeps of its state: nothing acknowledged is lost, and damage is told and costs one generation."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from bakehouse.accounts import Account
from bakehouse.errors import ToolError
from bakehouse.local import generations, state
from bakehouse.local.generations import Generations
from bakehouse.local.state import State
from bakehouse.settings import ROOT

MOTO = version("moto")

EVERYTHING = ("instances", "volumes", "security_groups", "key_pairs", "subnets", "vpcs")


def never() -> None:
    """Fail: the version of moto is the same."""
    raise AssertionError("nothing needs a check")


def contents(account: Account) -> dict[str, Any]:
    """Return all that an account tells of itself."""
    ec2, ssm = account.client("ec2"), account.client("ssm")
    told = {what: getattr(ec2, f"describe_{what}")() for what in EVERYTHING}
    told["images"] = ec2.describe_images(Owners=["self"])
    told["snapshots"] = ec2.describe_snapshots(OwnerIds=["self"])
    told["parameters"] = ssm.get_parameters_by_path(Path="/", Recursive=True)
    told["parameter tags"] = ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId="/a/channel")
    told["keys"] = account.client("kms").list_aliases()
    told["roles"] = account.client("iam").list_instance_profiles()
    told["scaling"] = account.client("autoscaling").describe_auto_scaling_groups()
    for answer in told.values():
        del answer["ResponseMetadata"]
    return told


@pytest.fixture
def full(account: Account) -> Account:
    """Give an account that holds something of all that a state keeps."""
    ec2, ssm = account.client("ec2"), account.client("ssm")
    group = ec2.create_security_group(GroupName="a", Description="a")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    ec2.create_key_pair(KeyName="rsa")
    ec2.create_key_pair(KeyName="ed25519", KeyType="ed25519")
    made = ec2.run_instances(ImageId="ami-0a", MinCount=1, MaxCount=1, KeyName="rsa", SecurityGroupIds=[group])
    one = made["Instances"][0]["InstanceId"]
    image = ec2.create_image(InstanceId=one, Name="an image")["ImageId"]
    ec2.create_tags(Resources=[one, image, group], Tags=[{"Key": "a", "Value": "b"}])
    ssm.put_parameter(Name="/a/channel", Value=image, Type="String", Tags=[{"Key": "a", "Value": "b"}])
    ssm.put_parameter(Name="/a/channel", Value="another", Type="String", Overwrite=True)
    account.client("kms").create_key()
    account.client("iam").create_instance_profile(InstanceProfileName="a")
    role = account.client("iam").create_role(RoleName="a", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    account.client("sts").assume_role(RoleArn=role, RoleSessionName="me")
    scaling = account.client("autoscaling")
    scaling.create_launch_configuration(LaunchConfigurationName="a", ImageId=image, InstanceType="t3.small")
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="a",
        LaunchConfigurationName="a",
        MinSize=0,
        MaxSize=1,
        AvailabilityZones=["us-east-1a"],
    )
    return account


def test_all_is_there_again(full: Account, tmp_path: Path) -> None:
    """What was kept is there again, for all services, and can be changed and kept again."""
    before, begun = contents(full), time.time_ns()
    State(tmp_path).keep()
    state._empty()
    assert contents_are_gone(full)

    since, told = State(tmp_path).load(never)

    assert [] == told
    assert begun < since < time.time_ns()
    assert before == contents(full)
    full.client("ssm").put_parameter(Name="/another", Value="1", Type="String", Tags=[{"Key": "c", "Value": "d"}])
    State(tmp_path).keep()
    state._empty()
    State(tmp_path).load(never)
    told = full.client("ssm").list_tags_for_resource(ResourceType="Parameter", ResourceId="/another")["TagList"]
    assert [{"Key": "c", "Value": "d"}] == told


def contents_are_gone(account: Account) -> bool:
    """Tell whether an account holds nothing."""
    return not account.client("ec2").describe_instances()["Reservations"]


def changed(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Change what a file holds."""
    file.write_bytes(change(file.read_bytes()))


def sound(document: bytes, head: Any = None) -> bytes:
    """Return a generation with the right checksum."""
    rest = json.dumps(head or {"moto": MOTO, "at": "now", "holds": "it"}).encode() + b"\n" + document
    return f"bakehouse-state {generations.FORM} {sha256(rest).hexdigest()}\n".encode() + rest


class Calls:
    """Be what a pickle calls when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        """Return the call."""
        return self.call


def folder_instead(file: Path) -> None:
    """Put a folder in a file's place."""
    file.unlink()
    file.mkdir()


def link_to_itself(file: Path) -> None:
    """Put a link in a file's place that leads nowhere."""
    file.unlink()
    file.symlink_to(file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "a byte": lambda file: file.write_bytes(b"\0"),
    "zeros": lambda file: changed(file, lambda was: bytes(len(was))),
    "text": lambda file: file.write_text("not a state"),
    "the first line alone": lambda file: changed(file, lambda was: was.partition(b"\n")[0]),
    "the first line, ended": lambda file: changed(file, lambda was: was.partition(b"\n")[0] + b"\n"),
    "half": lambda file: changed(file, lambda was: was[: len(was) // 2]),
    "all but the last byte": lambda file: changed(file, lambda was: was[:-1]),
    "a byte more": lambda file: changed(file, lambda was: was + b"."),
    "twice": lambda file: changed(file, lambda was: was * 2),
    "form 1": lambda file: changed(file, lambda was: was.replace(b"-state 2 ", b"-state 1 ", 1)),
    "no form": lambda file: changed(file, lambda was: was.replace(b"-state 2 ", b"-state x ", 1)),
    "no checksum": lambda file: changed(file, lambda was: was.replace(b" 2 ", b" 2 z", 1)),
    "a head that is no JSON": lambda file: file.write_bytes(with_head(b"{")),
    "a head that is a list": lambda file: file.write_bytes(with_head(b"[]")),
    "a head without a version": lambda file: file.write_bytes(with_head(b"{}")),
    "a document that is no pickle": lambda file: file.write_bytes(sound(b"{}")),
    "no document": lambda file: file.write_bytes(sound(b"")),
    "a list": lambda file: file.write_bytes(sound(pickle.dumps([1]))),
    "a number for the backends": lambda file: file.write_bytes(sound(pickle.dumps({"ec2": {"1": {"us-east-1": 5}}}))),
    "a folder": folder_instead,
    "a link to itself": link_to_itself,
    "calls a program": lambda file: file.write_bytes(sound(pickle.dumps(Calls(os.system, f"touch {file}.ran")))),
    "evaluates": lambda file: file.write_bytes(sound(pickle.dumps(Calls(eval, f"open('{file}.ran', 'w')")))),
    "imports": lambda file: file.write_bytes(sound(pickle.dumps(Calls(__import__, "antigravity")))),
    "gets attributes": lambda file: file.write_bytes(sound(pickle.dumps(Calls(getattr, "", "join")))),
    "opens a file": lambda file: file.write_bytes(sound(pickle.dumps(Calls(open, f"{file}.ran", "w")))),
    "makes code": lambda file: file.write_bytes(sound(pickle.dumps(Calls(types.SimpleNamespace)))),
    "calls a function of moto's": lambda file: file.write_bytes(sound(b"cmoto.core.utils\nget_random_hex\n(tR.")),
    "calls through moto": lambda file: file.write_bytes(sound(b"\x80\x04\x8c\x0fmoto.core.utils\x8c\tos.system\x93.")),
    "calls a filter that is none": lambda file: file.write_bytes(
        sound(pickle.dumps(Calls(state._filter, "", "__class__")))
    ),
}


def with_head(head: bytes) -> bytes:
    """Return a generation with a head of its own and the right checksum."""
    rest = head + b"\n" + pickle.dumps({})
    return f"bakehouse-state {generations.FORM} {sha256(rest).hexdigest()}\n".encode() + rest


@pytest.fixture
def kept(account: Account, tmp_path: Path) -> tuple[Account, Path]:
    """Give an account whose state was kept with one parameter, and then with two; and the folder."""
    for number in ("1", "2"):
        account.client("ssm").put_parameter(Name=f"/{number}", Value=number, Type="String")
        State(tmp_path).keep()
    return account, tmp_path


def parameters(account: Account) -> list[str]:
    """Return the names of an account's parameters."""
    found = account.client("ssm").get_parameters_by_path(Path="/", Recursive=True)["Parameters"]
    return sorted(one["Name"] for one in found)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_costs_one_generation_and_is_told(kept: tuple[Account, Path], damage: str) -> None:
    """Whatever has happened to the newest generation, it is kept aside and told, nothing of it is run, one is used."""
    account, folder = kept
    newest, before = Generations(folder / "state").files()
    DAMAGES[damage](newest)
    state._empty()

    since, told = State(folder).load(never)

    assert since
    assert ["/1"] == parameters(account)
    assert 2 == len(told)
    assert f"it is kept: {newest}.damaged" in told[0]
    assert " is used: " in told[1]
    assert told[1].endswith(" 0 machines, 1 parameters")
    assert [before] == Generations(folder / "state").files()
    assert os.path.lexists(f"{newest}.damaged")
    assert not list(folder.rglob("*.ran"))
    State(folder).keep()
    assert int(newest.name) + 1 == int(Generations(folder / "state").files()[0].name)


@hypothesis.settings(
    max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None
)
@hypothesis.given(data=strategies.data())
def test_no_changed_byte_goes_unseen(tmp_path: Path, data: strategies.DataObject) -> None:
    """Whichever byte of a generation changes to whatever: it is damaged, and never loaded."""
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    made = Generations(tmp_path / "state")
    made.add({"moto": "1"}, state._frozen())
    (file,) = made.files()
    content = bytearray(file.read_bytes())
    at = data.draw(strategies.integers(0, len(content) - 1))
    content[at] ^= data.draw(strategies.integers(1, 255))
    file.write_bytes(content)

    with pytest.raises((generations.DamagedError, ToolError)):
        made.read(file)


def test_a_newer_kits_state_is_refused_and_stays(kept: tuple[Account, Path]) -> None:
    """What a newer kit has written is neither used nor set aside, and the message says what to do."""
    _, folder = kept
    newest = Generations(folder / "state").files()[0]
    changed(newest, lambda was: was.replace(b"-state 2 ", b"-state 3 ", 1))

    with pytest.raises(ToolError, match="by a newer kit, in form 3") as error:
        State(folder).load(never)

    assert "use that kit" in error.value.hint
    assert newest in Generations(folder / "state").files()


def test_a_write_that_fails_costs_nothing(kept: tuple[Account, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of a write leaves the earlier generations, and no half of a new one."""
    account, folder = kept
    before = {file: file.read_bytes() for file in Generations(folder / "state").files()}

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            State(folder).keep()

    assert before == {file: file.read_bytes() for file in (folder / "state").iterdir()}
    assert [] == State(folder).load(never)[1]
    assert ["/1", "/2"] == parameters(account)


def test_a_folder_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    """A file in the place of the state's folder is named."""
    (tmp_path / "state").write_text("")

    with pytest.raises(ToolError, match=r"the state folder .* can't be used: "):
        State(tmp_path).load(never)


def test_what_another_version_of_moto_has_kept(kept: tuple[Account, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version's state is used where this moto can tell all that is in it, and else set aside and told."""
    account, folder = kept
    monkeypatch.setattr(state, "moto_version", "99")
    looked: list[int] = []

    assert [] == State(folder).load(lambda: looked.append(1))[1]
    assert ["/1", "/2"] == parameters(account)

    since, told = State(folder).load(lambda: 1 / 0)  # type: ignore[arg-type]

    assert [1] == looked
    assert 0 == since
    assert 2 == len(told)
    assert "moto 99 can't use it (division by zero)" in told[0]
    assert [] == parameters(account)


# Run with one version of moto or the other: keeps a state, or uses one, and tells all that is in it.
VERSIONS = """
import json, os, sys
from pathlib import Path
os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="a", AWS_DEFAULT_REGION="us-east-1")
import boto3, moto
from bakehouse.local.state import State

def everything():
    ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
    told = [getattr(ec2, f"describe_{what}")() for what in sys.argv[3].split(",")]
    told += [ec2.describe_images(Owners=["self"]), ssm.get_parameters_by_path(Path="/")]
    told += [boto3.client("iam").list_roles()]
    return [{key: value for key, value in one.items() if key != "ResponseMetadata"} for one in told]

with moto.mock_aws():
    state, lines = State(Path(sys.argv[2])), []
    if sys.argv[1] == "use":
        lines = state.load(everything)[1]
    else:
        ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
        ec2.create_key_pair(KeyName="a", KeyType="ed25519")
        launch = dict(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, KeyName="a")
        made = ec2.run_instances(**launch)["Instances"][0]["InstanceId"]
        image = ec2.create_image(InstanceId=made, Name="an image")["ImageId"]
        ec2.create_tags(Resources=[made, image], Tags=[{"Key": "a", "Value": "b"}])
        ssm.put_parameter(Name="/channel", Value=image, Type="String")
        boto3.client("iam").create_role(RoleName="a", AssumeRolePolicyDocument="{}")
        state.keep()
    print(json.dumps([moto.__version__, lines, everything()], default=str))
"""


@pytest.mark.parametrize("keeps", ["ours", "the other"])
def test_two_versions_of_moto_share_a_state(request: pytest.FixtureRequest, tmp_path: Path, keeps: str) -> None:
    """What this version of moto has kept the one of --moto can use, and the other way round."""
    other = request.config.getoption("moto")
    if not other:
        pytest.skip("no --moto names another version")
    fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "other")]
    subprocess.run([*fetch, f"moto=={other}"], check=True)

    def run(work: str, which: str) -> Any:
        path = [str(ROOT)] if which == "ours" else [str(tmp_path / "other"), str(ROOT)]
        line = [sys.executable, "-c", VERSIONS, work, str(tmp_path), ",".join(EVERYTHING)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        return json.loads(subprocess.run(line, env=environ, check=True, stdout=subprocess.PIPE).stdout)

    kept, used = run("keep", keeps), run("use", "the other" if keeps == "ours" else "ours")

    assert {MOTO, other} == {kept[0], used[0]}
    assert ([], kept[2]) == (used[1], used[2])
