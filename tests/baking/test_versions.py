"""All versions of Packer make the same image: what only some can do, the kit does itself."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import Checkout, LocalEc2
from release_fixtures import ReleaseServer

from bakehouse import packers, releases, tools
from bakehouse.accounts import TAG

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

DIGESTS = ("inputs", "sbom", "provenance")
OWN = re.compile(r"\b(?:ami|i|snap)-[0-9a-f]{17}\b|\d{8}-\d{6}-[0-9a-f]{4}|\d{4}-\d\d-\d\dT[\d:.]+Z")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Give the folder of the Packer that is asked for."""
    asked = request.config.getoption("packer")
    if not asked:
        pytest.skip("there is no other Packer to bake with: --packer FOLDER (python -m tests.build_packer)")
    return Path(asked)


@pytest.fixture
def kit(folder: Path, request: pytest.FixtureRequest) -> LocalEc2:
    """Give the local EC2, which isn't started where nothing is to be baked."""
    started: LocalEc2 = request.getfixturevalue("local_ec2")
    return started


def test_images_are_equal(folder: Path, kit: LocalEc2, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of this Packer and one of the system's have the same attributes and tags, and hold the same."""
    ec2 = kit.client("ec2")
    made, told = [], []
    without = os.pathsep.join(place for place in os.environ["PATH"].split(os.pathsep) if place != str(folder))
    for path in (os.environ["PATH"], without):
        monkeypatch.setitem(kit.environ, "PATH", path)
        made.append(kit.inv("bake", "--recipe", "nginx", "--force").stdout.strip())
        told.append(ec2.describe_images(ImageIds=made[-1:])["Images"][0])

    assert [tools.dotted(packers.get(kit.state).version), "1.6.6"] == [tags(one)[f"{TAG}packer"] for one in told]
    assert common(told[0]) == common(told[1])
    assert [] == json.loads(kit.inv("diff", *made, "--json").stdout)["changes"]


def test_a_host_without_packer(folder: Path, kit: LocalEc2, server: ReleaseServer, tmp_path: Path) -> None:
    """Where no Packer is, the kit fetches one with its plugins from the release server, and bakes with it."""
    server.release("packer", releases.source().packer, (folder / "packer").read_bytes())
    for plugin in packers.needs():
        file = plugin.place(folder / "plugins")
        server.release(plugin.product, plugin.version, file.read_bytes(), file.name)
    checkout = Checkout(tmp_path / "checkout", {**kit.environ, "PATH": all_but_packer(tmp_path / "bin")})
    server.configure(checkout.folder / "packer")
    shutil.rmtree(kit.state / "tools", ignore_errors=True)

    done = checkout.inv("bake", "--recipe", "nginx", "--force")

    image = kit.client("ec2").describe_images(ImageIds=[done.stdout.strip()])["Images"][0]
    assert releases.source().packer == tags(image)[f"{TAG}packer"]
    assert "its licence is BUSL 1.1" in done.stderr
    assert 3 * 3 == len(server.asked)


def all_but_packer(place: Path) -> str:
    """Return a PATH of all programs that are on ours, but for packer."""
    place.mkdir()
    for folder in reversed(os.get_exec_path()):
        for program in [one for one in Path(folder).glob("*") if one.name != "packer"]:
            (place / program.name).unlink(missing_ok=True)
            (place / program.name).symlink_to(program)
    return str(place)


def tags(image: dict[str, Any]) -> dict[str, str]:
    """Return the tags of an image."""
    return {tag["Key"]: tag["Value"] for tag in image["Tags"]}


def common(image: dict[str, Any]) -> dict[str, Any]:
    """Return what DescribeImages tells of an image, but for IDs, times, digests and Packer's version."""
    kept = {name: value for name, value in tags(image).items() if name.removeprefix(TAG) not in ("packer", *DIGESTS)}
    known = {**image, "Tags": kept}
    plain: dict[str, Any] = json.loads(OWN.sub("-", json.dumps(known, sort_keys=True, default=str)))
    return plain
