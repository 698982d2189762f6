"""Proofs of whole images, as a person asks for them: a good one passes, each planted defect is caught by its name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import ROOT, LocalEc2, Machines, describe, wait

from bakehouse.accounts import tags_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

BUDGET = 30  # seconds; a unit that dies is waited for so long
FOREIGN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC4UWB69vrmj5ed4pGaJDjojQHxxgMnpncgdEnKOLjcF somebody"

# The planting machine's service isn't started by its boot,
PREPARE = "#cloud-config\nbootcmd:\n  - [systemctl, mask, --now, jenkins.service]\n"
# and nothing of the machine's own boot stays in its image.
FORGET = """
systemctl unmask jenkins
cloud-init clean --logs --seed
rm -f /home/admin/.ssh/authorized_keys /root/.ssh/authorized_keys /var/lib/systemd/random-seed
"""
NEW_MACHINE_ID = ": >/etc/machine-id\n"
NEW_HOST_KEYS = "rm -f /etc/ssh/ssh_host_*\n"

STARTED = "systemctl unmask jenkins; systemctl start jenkins; systemctl stop jenkins\n"
FIXED_HOST_KEY = "echo 'ssh_deletekeys: false' >/etc/cloud/cloud.cfg.d/90-planted.cfg\n"
DIES_ON_THE_SECOND_BOOT = """
echo '[Service]
ExecStartPre=+/bin/sh -c "test ! -e /srv/planted && touch /srv/planted"' >/etc/systemd/system/jenkins.service.d/90.conf
"""
OPEN = """
echo '[Service]
Environment="JAVA_OPTS=-Djenkins.install.runSetupWizard=false"' >/etc/systemd/system/jenkins.service.d/90.conf
"""
LEFTOVER = "echo leftover >/var/lib/jenkins/secret.key; chown jenkins: /var/lib/jenkins/secret.key\n"
AUTHORIZED = f"echo '{FOREIGN}' >/home/admin/.ssh/authorized_keys\n"

# Each script plants what two images have between them, so that two proofs show all.
PLANTS = {
    "one": STARTED + FIXED_HOST_KEY + DIES_ON_THE_SECOND_BOOT + FORGET + NEW_MACHINE_ID,
    "two": OPEN + LEFTOVER + FORGET + NEW_HOST_KEYS + AUTHORIZED,
}


@dataclass(frozen=True)
class Proven:
    """Hold what a proof told: its exit code, its data, what it said."""

    code: int
    told: dict[str, Any]
    said: str

    def failed(self, name: str) -> list[tuple[str, str]]:
        """Return when and with which evidence a finding of this name failed."""
        return [
            (one["when"], one["evidence"]) for one in self.told["findings"] if one["name"] == name and not one["ok"]
        ]


@pytest.fixture(scope="module")
def image(baked: subprocess.CompletedProcess[str]) -> str:
    """Give the ID of a good image."""
    return baked.stdout.strip()


@pytest.fixture(scope="module")
def good(local_ec2: LocalEc2, baked: subprocess.CompletedProcess[str], image: str) -> Proven:
    """Give the proof of the good image, which its bake asked for."""
    told = json.loads((local_ec2.state / "proofs/local" / image / "proof.json").read_text())
    return Proven(baked.returncode, told, baked.stderr)


@pytest.fixture(scope="module")
def planted(ec2: Any, group: str, good: Proven, image: str, local_ec2: LocalEc2) -> Iterator[dict[str, str]]:
    """Give the images with planted defects; they are gone afterwards."""
    tags = [tag for tag in ec2.describe_images(ImageIds=[image])["Images"][0]["Tags"] if "verdict" not in tag["Key"]]
    [key] = (local_ec2.state / "keys" / "local").glob("bakehouse-jenkins-*")
    launcher = Machines(ec2, key, key.name, group, image)
    made = {}
    for name, machine in zip(PLANTS, launcher.launch(count=len(PLANTS), UserData=PREPARE), strict=True):
        launcher.ssh(machine, "cloud-init status --wait >/dev/null; sudo sh -ec " + shlex.quote(PLANTS[name]))
        made[name] = launcher.image(machine, f"planted-{name}", NoReboot=True)
        ec2.create_tags(Resources=[made[name]], Tags=tags)
    ec2.terminate_instances(InstanceIds=launcher.launched)
    yield made
    for one in made.values():
        local_ec2.inv("retire", "--image", one, "--yes")
    wait(lambda: {one["State"]["Name"] for one in describe(ec2, *launcher.launched)} == {"terminated"})


@pytest.fixture(scope="module")
def bad(
    local_ec2: LocalEc2, good: Proven, planted: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Proven]:
    """Give the proofs of the images with planted defects, made side by side in a checkout that allows less time."""
    checkout = tmp_path_factory.mktemp("checkout")
    for part in ("bakehouse", "inventory", "packer", "playbooks", "roles"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("ansible.cfg", "tasks.py"):
        shutil.copy(ROOT / part, checkout)
    recipe = checkout / "packer/recipes/jenkins.pkrvars.hcl"
    recipe.write_text(re.sub(r"(?m)^boot_budget .*$", f"boot_budget = {BUDGET}", recipe.read_text()))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**local_ec2.environ, "PATH": path}
    running = {}
    for name, one in planted.items():
        asked = [sys.executable, "-m", "invoke", "prove", "--image", one, "--json"]
        running[name] = subprocess.Popen(asked, cwd=checkout, env=environ, text=True, stdout=-1, stderr=-1)
    return {name: _ended(process) for name, process in running.items()}


def _ended(process: subprocess.Popen[str]) -> Proven:
    told, said = process.communicate(timeout=1500)
    assert told, said
    return Proven(process.returncode, json.loads(told), said)


def test_a_good_image_passes(local_ec2: LocalEc2, ec2: Any, image: str, good: Proven) -> None:
    """A good image passes: its tag says so with the digest of the proof, and tells what stands in for the real."""
    tags = tags_of(ec2.describe_images(ImageIds=[image])["Images"][0])
    folder = local_ec2.state / "proofs/local" / image
    data = (folder / "proof.json").read_bytes()

    assert (0, "pass", []) == (good.code, good.told["verdict"], [one for one in good.told["findings"] if not one["ok"]])
    assert tags["bakehouse:verdict"] == f"pass sha256:{hashlib.sha256(data).hexdigest()}"
    assert (folder / "proof.html").is_file()
    assert ({} == good.told["unproven"]) and ("jenkins" in good.told["stand_ins"]) == ("bakehouse:jenkins" in tags)
    assert all(line in good.said for line in ("rebooted", "stopped", "verified from within", "machines terminated"))
    assert f"image {image} is fit: {folder / 'proof.html'}\n" in good.said


def test_what_a_good_image_is_proven_of(good: Proven) -> None:
    """Both machines were looked at on both boots, and what identifies and protects them was there and compared."""
    seen = {(one["machine"], one["when"], one["name"]) for one in good.told["findings"]}
    different = {what for what, outcome in good.told["shared"].items() if outcome == "different"}
    secrets = {
        f"/var/lib/jenkins/{name}" for name in ("secret.key", "secrets/master.key", "secrets/initialAdminPassword")
    }

    assert 2 == len(good.told["machines"])
    assert {
        (machine, when, name)
        for machine in good.told["machines"]
        for when in ("first boot", "second boot")
        for name in ("SSH", "GET /api/json", "The unit is active")
    } <= seen
    assert {"hostname", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", *secrets} <= different
    assert {"The packages are those of the bake", "The files in /etc are those of the bake"} <= {
        name for *_, name in seen
    }


def test_the_machines_words_are_kept_without_secrets(local_ec2: LocalEc2, image: str, good: Proven) -> None:
    """Console and journal of both machines are kept; the password that the first start tells the journal isn't."""
    folder = local_ec2.state / "proofs/local" / image
    for machine in good.told["machines"]:
        assert "Debian" in (folder / f"{machine}-console.txt").read_text()
        journal = (folder / f"{machine}-journal-first-boot.txt").read_text()
        assert re.search(r"jenkins\[\d+\]: \(secret\)$", journal, re.MULTILINE)


def test_nothing_of_a_proof_stays(ec2: Any, good: Proven, bad: dict[str, Proven]) -> None:
    """Of proofs that passed or failed no machine and no group is left."""
    assert not _left(ec2)


def _left(ec2: Any) -> list[str]:
    ours = [{"Name": "tag-key", "Values": ["bakehouse:run"]}]
    groups = ec2.describe_security_groups(Filters=ours)["SecurityGroups"]
    machines = [one for each in ec2.describe_instances(Filters=ours)["Reservations"] for one in each["Instances"]]
    return [one["GroupId"] for one in groups] + [
        one["InstanceId"] for one in machines if one["State"]["Name"] != "terminated"
    ]


def test_started_in_the_bake(bad: dict[str, Proven]) -> None:
    """A service that was started in the bake is told by its secrets, each of which was in the image."""
    [(when, evidence)] = bad["one"].failed("The service was never started before")

    assert "first boot" == when
    assert "/var/lib/jenkins/secrets/master.key" in evidence and "started in the bake" in evidence
    assert bad["one"].failed("/var/lib/jenkins/secrets/initialAdminPassword is unique")


def test_a_fixed_host_key(bad: dict[str, Proven]) -> None:
    """A host key that came with the image is named."""
    assert bad["one"].failed("/etc/ssh/ssh_host_ed25519_key is unique")
    assert not bad["two"].failed("/etc/ssh/ssh_host_ed25519_key is unique")


def test_a_unit_that_dies_on_the_second_boot(bad: dict[str, Proven]) -> None:
    """A unit that runs on the first boot and not on the second is told with what systemd says of it."""
    found = bad["one"].failed("The unit is active")

    assert 2 == len(found)
    assert all(when == "second boot" and "jenkins.service is failed" in evidence for when, evidence in found)
    assert [("second boot", "jenkins.service")] * 2 == bad["one"].failed("No unit has failed")


def test_a_fixed_machine_id(bad: dict[str, Proven]) -> None:
    """A machine-id that came with the image is named."""
    assert bad["two"].failed("/etc/machine-id is unique")
    assert not bad["one"].failed("/etc/machine-id is unique")


def test_a_baked_authorized_key(bad: dict[str, Proven]) -> None:
    """A key that the image lets in is named by user, fingerprint, file and comment."""
    [(_, evidence)] = bad["two"].failed("Only the launch's key is let in")

    key = "SHA256:Bb4fi/SnxWAfHbboEgTl/0fJVOQZxCN3A6nIBiC4cwo"
    assert f"the image lets in: admin by {key} in /home/admin/.ssh/authorized_keys (somebody)" == evidence
    assert not bad["one"].failed("Only the launch's key is let in")


def test_an_open_service(bad: dict[str, Proven]) -> None:
    """A service that gives strangers what they must not have is told from outside and from within."""
    assert ("first boot", "200; 403 is wanted") in bad["two"].failed("GET /api/json")
    assert bad["two"].failed("Strangers are refused")
    assert "first boot" not in dict(bad["one"].failed("GET /api/json"))


def test_a_leftover_secret(bad: dict[str, Proven]) -> None:
    """One secret that was left in the image is named, and not taken for a start."""
    found = bad["two"].failed("No secret was left in the image")

    assert [("first boot", "in the image already: /var/lib/jenkins/secret.key")] == found
    assert bad["two"].failed("/var/lib/jenkins/secret.key is unique")
    assert not bad["two"].failed("The service was never started before")


@pytest.mark.parametrize("name", PLANTS)
def test_a_bad_image_fails(ec2: Any, planted: dict[str, str], bad: dict[str, Proven], name: str) -> None:
    """A bad image's proof exits 1, names each failed finding in one line, and tags the image so."""
    tags = tags_of(ec2.describe_images(ImageIds=[planted[name]])["Images"][0])

    assert (1, "fail") == (bad[name].code, bad[name].told["verdict"])
    assert tags["bakehouse:verdict"].startswith("fail sha256:")
    assert f"error: image {planted[name]} is not fit: " in bad[name].said
    assert {"contents": "not recorded when the image was baked, or not here"} == bad[name].told["unproven"]


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted(local_ec2: LocalEc2, ec2: Any, good: Proven, image: str, asked: signal.Signals) -> None:
    """A proof that is told to stop takes its machines along; those of one that was killed go by cleanup."""
    before = tags_of(ec2.describe_images(ImageIds=[image])["Images"][0])
    line = [sys.executable, "-m", "invoke", "prove", "--image", image]
    with subprocess.Popen(line, cwd=ROOT, env=local_ec2.environ, text=True, stdout=-1, stderr=-1) as process:
        assert process.stderr is not None
        said = ""
        while " running " not in said:
            said += process.stderr.readline()
        process.send_signal(asked)
        told, rest = process.communicate(timeout=600)

    assert "" == told
    if asked == signal.SIGKILL:
        assert _left(ec2)
        local_ec2.inv("cleanup", "--leftovers", "--yes")
    else:
        assert 143 == process.returncode
        assert f"error: ./inv prove was interrupted by SIGTERM: nothing is proven of image {image}" in rest
    assert not _left(ec2)
    assert before == tags_of(ec2.describe_images(ImageIds=[image])["Images"][0])
