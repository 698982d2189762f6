"""All versions of Packer make the same image: what only some can do, the kit does itself."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from ec2_fixtures import LocalEc2

from bakehouse import packers
from bakehouse.accounts import TAG

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

DIGESTS = ("inputs", "sbom", "provenance")
OWN = re.compile(r"ami-[0-9a-f]+|snap-[0-9a-f]+|\d{8}-\d{6}-[0-9a-f]{4}|\d{4}-\d\d-\d\dT[\d:.]+Z")


def test_images_are_equal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of this Packer and one of the system's have the same attributes and tags, and hold the same."""
    folder = request.config.getoption("packer")
    if not folder:
        pytest.skip("there is no other Packer to compare with: --packer FOLDER (python -m tests.build_packer)")
    local_ec2: LocalEc2 = request.getfixturevalue("local_ec2")
    ec2 = local_ec2.client("ec2")
    made, told = [], []
    without = os.pathsep.join(place for place in os.environ["PATH"].split(os.pathsep) if place != folder)
    for path in (os.environ["PATH"], without):
        monkeypatch.setitem(local_ec2.environ, "PATH", path)
        made.append(local_ec2.inv("bake", "--recipe", "nginx", "--force").stdout.strip())
        told.append(ec2.describe_images(ImageIds=made[-1:])["Images"][0])
    versions = [tags(one)[f"{TAG}packer"] for one in told]

    assert [".".join(map(str, packers.get(local_ec2.state).version)), "1.6.6"] == versions
    assert [common(told[0])] == [common(told[1])]
    assert [] == json.loads(local_ec2.inv("diff", *made, "--json").stdout)["changes"]


def tags(image: dict[str, Any]) -> dict[str, str]:
    """Return the tags of an image."""
    return {tag["Key"]: tag["Value"] for tag in image["Tags"]}


def common(image: dict[str, Any]) -> dict[str, Any]:
    """Return what DescribeImages tells of an image, but for IDs, times, digests and Packer's version."""
    kept = {name: value for name, value in tags(image).items() if name.removeprefix(TAG) not in ("packer", *DIGESTS)}
    known = {**image, "Tags": kept}
    plain: dict[str, Any] = json.loads(OWN.sub("-", json.dumps(known, sort_keys=True, default=str)))
    return plain
