"""The examples: other tools launch the image of a channel, and find its machines."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
from ec2_fixtures import ROOT, LocalEc2, docker, mark, state_of, wait

pytestmark = pytest.mark.timeout(600)

CHANNEL = "/bakehouse/jenkins/stable"


@pytest.fixture(scope="module")
def image(baked: subprocess.CompletedProcess[str], local_ec2: LocalEc2) -> Iterator[str]:
    """Give the baked image, which the channel names."""
    ssm, found = local_ec2.client("ssm"), baked.stdout.strip()
    ssm.put_parameter(Name=CHANNEL, Value=found, Type="String", DataType="aws:ec2:image")
    yield found
    ssm.delete_parameter(Name=CHANNEL)


@pytest.mark.docker
def test_cloudformation_launches_the_channels_image(image: str, local_ec2: LocalEc2) -> None:
    """The machine of the stack serves the login page at the URL that is put out, and goes with the stack."""
    cloudformation = local_ec2.client("cloudformation")
    caller = {"ParameterKey": "Caller", "ParameterValue": "127.0.0.1/32"}
    template = (ROOT / "examples/cloudformation.yml").read_text()
    cloudformation.create_stack(StackName="jenkins", TemplateBody=template, Parameters=[caller])
    try:
        [made] = cloudformation.describe_stacks(StackName="jenkins")["Stacks"]
        [url] = (one["OutputValue"] for one in made["Outputs"])
        wait(lambda: status(url) == 200)
    finally:
        cloudformation.delete_stack(StackName="jenkins")
    ours = ("--filter", f"label=bakehouse.checkout={mark(local_ec2.state)}", "--filter", "label=bakehouse.kind=machine")
    wait(lambda: docker("ps", "--all", "--quiet", *ours) == "")


@pytest.mark.docker
def test_ec2_resolves_the_channel(image: str, local_ec2: LocalEc2) -> None:
    """The AWS CLI's example names the image as EC2 itself resolves it."""
    words = (ROOT / "examples/aws-cli.sh").read_text().split()
    named = words[words.index("--image-id") + 1].strip('"')
    ec2 = local_ec2.client("ec2")
    [made] = ec2.run_instances(ImageId=named, InstanceType="t3.medium", MinCount=1, MaxCount=1)["Instances"]
    ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
    assert image == made["ImageId"]
    wait(lambda: state_of(ec2, made["InstanceId"]) == "terminated")


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the collection amazon.aws."""
    folder = tmp_path_factory.mktemp("collections")
    wanted = ["--no-deps", "--require-hashes", "--requirement", str(ROOT / "tests/data/ansible.txt")]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder), *wanted], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        ours = [name for name in archive.namelist() if name.startswith("ansible_collections/amazon/aws/")]
        archive.extractall(folder, ours)
    return folder


@pytest.fixture
def ansible(collections: Path, local_ec2: LocalEc2) -> dict[str, str]:
    """Give the environment in which Ansible finds the machines of the local EC2 through amazon.aws."""
    return {
        **local_ec2.environ,
        "PATH": f"{ROOT}/.venv/bin:{local_ec2.environ['PATH']}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_EC2": local_ec2.endpoint,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
    }


@pytest.mark.docker
def test_the_playbook_verifies_what_the_inventory_finds(
    image: str, local_ec2: LocalEc2, ansible: dict[str, str]
) -> None:
    """With the inventory of amazon.aws the example's playbook reaches a launched machine, and all holds there."""
    machine = local_ec2.inv("launch", "--image", image).stdout.split()[0]
    try:
        [key] = (local_ec2.state / "keys/local").glob("bakehouse-jenkins*[!b]")
        call = ["ansible-playbook", "-i", "inventory/aws_ec2.yml", "examples/verify.yml"]
        known_hosts = f"-o UserKnownHostsFile={local_ec2.state}/known_hosts/{machine}"
        private = {"ansible_ssh_private_key_file": str(key), "ansible_ssh_args": known_hosts}
        done = subprocess.run(
            [*call, "-e", json.dumps(private)], cwd=ROOT, env=ansible, capture_output=True, text=True, check=False
        )
    finally:
        local_ec2.inv("terminate", "--all", "--yes")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"ok: [{machine}] => (item=The login page is Jenkins's)" in done.stdout


def test_terraforms_example_launches_the_channels_image() -> None:
    """Terraform's example is HCL, and its machine is of the image that the channel's parameter holds."""
    read: dict[str, Any] = hcl2.loads((ROOT / "examples/terraform/main.tf").read_text())
    said = json.dumps(read)
    assert CHANNEL in said
    assert "data.aws_ssm_parameter.image.value" in said


def test_the_examples_name_one_channel() -> None:
    """CloudFormation's parameter and the AWS CLI's line name the same channel as Terraform's."""
    assert f"Default: {CHANNEL}\n" in (ROOT / "examples/cloudformation.yml").read_text()
    assert f'"resolve:ssm:{CHANNEL}"' in (ROOT / "examples/aws-cli.sh").read_text()


def status(url: str) -> int:
    """Return the status of a page, 0 while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except OSError:
        return 0
