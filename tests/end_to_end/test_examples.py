"""The examples: other tools launch the image of a channel. That they find its machines is a chapter of the story."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import hcl2
import pytest
from ec2_fixtures import ROOT, LocalEc2, docker, mark, state_of, wait

pytestmark = pytest.mark.timeout(1800)

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


def test_terraforms_example_launches_the_channels_image() -> None:
    """Terraform's example is HCL, all that it refers to is in it, and its machine's image is what the channel holds."""
    read = json.loads(json.dumps(hcl2.loads((ROOT / "examples/terraform/main.tf").read_text())).replace('\\"', ""))
    variables = {f"var.{name}": block for one in read["variable"] for name, block in one.items()}
    sources = {f"data.{kind}.{name}": block for one in read["data"] for kind, name, block in named(one)}
    things = {f"{kind}.{name}": block for one in read["resource"] for kind, name, block in named(one)}

    expressions = " ".join(re.findall(r"\$\{(.*?)\}", json.dumps(read)))
    referred = set(re.findall(r"var\.\w+|data\.\w+\.\w+|\baws_\w+\.\w+", expressions))
    assert {"data.aws_ssm_parameter.image", "var.channel"} <= referred <= {*variables, *sources, *things}
    assert "data.aws_ssm_parameter.image.value" in things["aws_instance.machine"]["ami"]
    assert "${var.channel}" == sources["data.aws_ssm_parameter.image"]["name"]
    assert CHANNEL == variables["var.channel"]["default"]


def named(blocks: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the kind, the name and the content of each block of HCL that has both."""
    for kind, found in blocks.items():
        yield from ((kind, name, block) for name, block in found.items() if isinstance(block, dict))


def test_the_examples_name_one_channel() -> None:
    """CloudFormation's parameter and the AWS CLI's line name the same channel as Terraform's."""
    assert f"Default: {CHANNEL}\n" in (ROOT / "examples/cloudformation.yml").read_text()
    assert f'"resolve:ssm:{CHANNEL}"' in (ROOT / "examples/aws-cli.sh").read_text()


def status(url: str) -> int:
    """Return the status of a page, 0 while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except OSError:
        return 0
