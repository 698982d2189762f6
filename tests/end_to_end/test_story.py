"""The whole story as a person types it: bake, launch, probe, enter, two machines, stop and start, clear away."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import ROOT, Checkout, LocalEc2, describe, docker, mark, state_of, wait
from hostile import VARIABLES, home

from bakehouse.accounts import rights
from bakehouse.local.packages import apt
from bakehouse.local.packages.keys import Key

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

IDENTITIES = (
    "/etc/machine-id",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/var/lib/jenkins/secret.key",
    "/var/lib/jenkins/secrets/master.key",
    "/var/lib/jenkins/secrets/initialAdminPassword",
)

# What the policy allows besides: newer versions of Packer ask for these,
ONLY_ELSEWHERE = {"DescribeInstanceStatus", "DescribeInstanceTypeOfferings", "DescribeRegions", "DescribeSubnets"}
ONLY_ELSEWHERE |= {"DescribeVpcs"}
# this is asked for because of Packer 1.6 alone,
ONLY_ELSEWHERE |= {"GetInstanceMetadataDefaults"}
# these are for a machine that isn't healthy, and a caller whose address has changed,
ONLY_ELSEWHERE |= {"RevokeSecurityGroupIngress"}
# these are a cleanup's where there is more to look at,
ONLY_ELSEWHERE |= {"DescribeImageAttribute", "DescribeSnapshotAttribute", "DescribeLaunchTemplateVersions"}
ONLY_ELSEWHERE |= {"Decrypt", "EnableImageDeprecation"}
# these are for other regions and accounts,
ONLY_ELSEWHERE |= {"CopyImage", "ModifySnapshotAttribute", "DescribeKey"}
# this is for another architecture,
ONLY_ELSEWHERE |= {"DescribeInstanceTypes"}
# and these are a proof's, the last of one that was killed.
ONLY_ELSEWHERE |= {"GetConsoleOutput", "RebootInstances", "StartInstances", "DeleteVolume"}


class Story:
    """Carry what the chapters hand on; each is a test, and they stand in the order in which they run."""

    image = ""
    second = ""
    said = ""
    machines: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def kit(local_ec2: LocalEc2) -> Iterator[LocalEc2]:
    """Give the command line; whatever a broken chapter leaves is cleared away."""
    yield local_ec2
    local_ec2.inv("terminate", "--all", "--yes")


@pytest.fixture(scope="module", autouse=True)
def busy() -> Iterator[None]:
    """Have programs of this host listen at all addresses on the ports that the machines have, as an sshd does."""
    with contextlib.ExitStack() as listeners:
        for port in (22, 8080):
            with contextlib.suppress(OSError):  # not root, or somebody does already
                listeners.enter_context(socket.create_server(("0.0.0.0", port)))
        yield


@pytest.fixture(scope="module")
def ec2(kit: LocalEc2) -> Any:
    """Give a boto3 client, for what has no task."""
    return kit.client("ec2")


def get(url: str) -> tuple[int, Any]:
    """Return the status and the headers of a page."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_bake(baked: subprocess.CompletedProcess[str], kit: LocalEc2, ec2: Any) -> None:
    """A bake prints the image's ID alone on stdout, says the rest on stderr, and leaves nothing but the image."""
    Story.image, Story.said = baked.stdout.strip(), baked.stderr
    assert re.fullmatch(r"ami-[0-9a-f]{17}", Story.image)
    assert "jenkins : Install | Jenkins with apt" in baked.stderr
    found = ec2.describe_images(ImageIds=[Story.image])["Images"][0]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert found["ImdsSupport"] == "v2.0"
    assert tags["bakehouse:recipe"] == "jenkins"
    assert tags["bakehouse:base"] == found["SourceImageId"]
    assert {
        "bakehouse:run",
        "bakehouse:commit",
        "bakehouse:kit",
        "bakehouse:packer",
        "bakehouse:ansible",
        "bakehouse:mitogen",
    } <= set(tags)
    assert tags["bakehouse:run"] in found["Name"]
    on = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    assert ec2.describe_instances(Filters=on)["Reservations"] == []
    of_the_run = [{"Name": "tag:bakehouse:run", "Values": [tags["bakehouse:run"]]}]
    assert ec2.describe_key_pairs(Filters=of_the_run)["KeyPairs"] == []
    groups = ec2.describe_security_groups(Filters=of_the_run)
    assert groups["SecurityGroups"] == []
    assert [path for path in (kit.state / "runs").rglob("*key*") if path.is_file()] == []


def test_the_stand_in_is_announced(kit: LocalEc2, ec2: Any) -> None:
    """An image with a package that stands in for Jenkins says so in its tags and its listing."""
    tags = ec2.describe_images(ImageIds=[Story.image])["Images"][0]["Tags"]
    told = json.loads(kit.inv("images", "--json").stdout)
    assert [one["image"] for one in told] == [Story.image]
    stand_in = {"Key": "bakehouse:jenkins", "Value": "stand-in"} in tags
    assert stand_in == (told[0]["provenance"].get("jenkins") == "stand-in") == ("STAND-IN" in Story.said)


def test_nothing_to_bake(kit: LocalEc2, tmp_path: Path) -> None:
    """Where nothing has changed, in another checkout too, a bake is the image there is, at once; a change is named."""
    again = kit.inv("bake", "--prove")
    other = Checkout(tmp_path / "checkout", kit.environ)
    with (other.folder / "README.md").open("a") as readme:
        readme.write("A comment.\n")
    there = other.inv("bake", "--plan")
    with (other.folder / "roles/jenkins/templates/jenkins.sources.j2").open("a") as template:
        template.write("# A comment.\n")
    with (other.folder / "inventory/group_vars/jenkins.yml").open("a") as variables:
        variables.write("jenkins_umask: '0027'\n")
    changed = other.inv("bake", "--plan")

    assert Story.image == again.stdout.strip()
    assert f"image {Story.image} is proven already" in again.stderr
    assert (Story.image, "") == (there.stdout.strip(), changed.stdout)
    assert [
        f"new: inventory/group_vars/jenkins.yml: jenkins_umask, since image {Story.image}",
        f"changed: roles/jenkins/templates/jenkins.sources.j2, since image {Story.image}",
        "a bake is due",
    ] == changed.stderr.splitlines()[-3:]


def test_promote(kit: LocalEc2) -> None:
    """The bake's image is the candidate and, its proof being a pass, is promoted to stable, stand-in or not."""
    assert kit.inv("promote", "--allow-stand-in", "--why", "the first").stdout.strip() == Story.image
    told = {one["channel"]: one for one in json.loads(kit.inv("channels", "--json").stdout)}
    assert {name: one["image"] for name, one in told.items()} == {"candidate": Story.image, "stable": Story.image}
    assert told["stable"]["history"][0]["why"] == "the first"
    assert bool(told["stable"]["history"][0]["stand_ins"]) == ("STAND-IN" in Story.said)


def test_launch(kit: LocalEc2) -> None:
    """Two machines come up healthy, and their login pages answer as Jenkins's does."""
    done = kit.inv("launch", "--channel", "stable", "--count", "2")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    Story.machines, Story.urls = tuple(zip(*rows, strict=True))
    assert len(Story.machines) == 2
    for url in Story.urls:
        status, headers = get(f"{url}/login")
        assert (status, bool(headers["X-Jenkins"])) == (200, True)
        assert get(f"{url}/api/json")[0] == 403


def test_launched_as_asked(kit: LocalEc2, ec2: Any) -> None:
    """A launched machine requires IMDSv2, has an encrypted root volume, and lets in the caller alone at 22 and 8080."""
    found = describe(ec2, *Story.machines)
    for one in found:
        assert one["MetadataOptions"]["HttpTokens"] == "required"
        volume = ec2.describe_volumes(VolumeIds=[one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"][0]
        assert volume["Encrypted"]
    group = ec2.describe_security_groups(GroupIds=[found[0]["SecurityGroups"][0]["GroupId"]])["SecurityGroups"][0]
    rules = {(rule["FromPort"], rule["IpRanges"][0]["CidrIp"]) for rule in group["IpPermissions"]}
    assert rules == {(22, "127.0.0.1/32"), (8080, "127.0.0.1/32")}


def test_two_machines_are_two(kit: LocalEc2) -> None:
    """Two machines of one image share neither host key nor machine-id nor any Jenkins secret."""
    look = f"for file in {' '.join(IDENTITIES)}; do sudo cat $file | tr -d '\\n'; echo; done"
    first, second = (kit.inv("ssh", "--machine", one, "--", look).stdout.splitlines() for one in Story.machines)
    assert all(first)
    assert len(first) == len(second) == len(IDENTITIES)
    assert not set(first) & set(second)


# What Jenkins's own packages are tried with: its drop-in, then java before the start, the page, java while and after.
UPSTREAM = r"""
cd /etc/systemd/system/jenkins.service.d; ls; systemctl stop jenkins; pgrep --count java
cat >override.conf <<'END'
[Service]
Environment="JAVA_OPTS=-Xmx256m -Dhudson.model.DirectoryBrowserSupport.CSP=\"default-src 'self';\""
TimeoutStartSec=600
END
systemctl daemon-reload; timeout 250 systemctl start jenkins
curl -s -w "\n%{http_code}\n" http://127.0.0.1:8080/login | grep --only-matching '<title>.*</title>\|^200$'
pgrep --count java; tr '\0' '\n' </proc/$(pgrep java)/cmdline | grep 'CSP\|Xmx'
systemctl stop jenkins; pgrep --count java; rm override.conf; systemctl daemon-reload; systemctl start jenkins
"""


def test_upstreams_own_assertions_hold(kit: LocalEc2) -> None:
    """No override.conf but a person's, which wins; no java before the start; the login page; one java; none after."""
    script = base64.b64encode(UPSTREAM.encode()).decode()
    told = kit.inv("ssh", "--machine", Story.machines[0], "--", f"echo {script} | base64 --decode | sudo sh")
    options = ["-Xmx256m", "-Dhudson.model.DirectoryBrowserSupport.CSP=default-src 'self';"]
    page = ["<title>Sign in - Jenkins</title>", "200"]
    assert ["10-bakehouse.conf", "0", *page, "1", *options, "0"] == told.stdout.splitlines()


def test_password(kit: LocalEc2, tmp_path: Path) -> None:
    """The password task prints what is in the machine's file, and nothing else, in a hostile shell too."""
    machine = Story.machines[0]
    there = kit.inv("ssh", "--machine", machine, "--", f"sudo cat {IDENTITIES[-1]}").stdout
    assert kit.inv("password", "--machine", machine).stdout.strip() == there.strip()
    hostile = LocalEc2(kit.state)
    hostile.environ = {**kit.environ, **VARIABLES, "HOME": str(home(tmp_path))}
    assert hostile.inv("password", "--machine", machine).stdout.strip() == there.strip()
    assert re.fullmatch(r"[0-9a-f]{32}", there.strip())


def test_ssh_passes_the_exit_code_on(kit: LocalEc2) -> None:
    """The exit code of ./inv ssh is that of the command."""
    done = subprocess.run([kit.program, "ssh", "--", "exit 7"], env=kit.environ, capture_output=True, check=False)
    assert done.returncode == 7


def test_machines_are_in_the_inventory(kit: LocalEc2) -> None:
    """Ansible reaches both machines through the kit's inventory, with the group_vars of the bake."""
    activated = {**kit.environ, "PATH": f"{kit.program.parent}/.venv/bin:{kit.environ['PATH']}"}
    ask = ["ansible", "-i", "inventory", "jenkins", "-m", "ansible.builtin.debug", "-a", "var=jenkins_port"]
    done = subprocess.run(ask, env=activated, cwd=kit.program.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("jenkins_port: 8080") == 2
    ping = ["ansible", "-i", "inventory", "jenkins", "-m", "ping"]
    done = subprocess.run(ping, env=activated, cwd=kit.program.parent, capture_output=True, text=True, check=False)
    assert done.stdout.count("SUCCESS") == 2, done.stdout + done.stderr


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


def test_the_examples_playbook_verifies_them(kit: LocalEc2, collections: Path) -> None:
    """With the inventory of amazon.aws the example's playbook reaches both machines, and all holds there."""
    environ = {
        **kit.environ,
        "PATH": f"{ROOT}/.venv/bin:{kit.environ['PATH']}",
        **kit.variables("tests"),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
    }
    [key] = (kit.state / "keys/local").glob("bakehouse-jenkins-*")
    known_hosts = f"-o UserKnownHostsFile={kit.state}/known_hosts/local/{{{{ inventory_hostname }}}}"
    private = json.dumps({"ansible_ssh_private_key_file": str(key), "ansible_ssh_args": known_hosts})
    call = ["ansible-playbook", "-i", "inventory/aws_ec2.yml", "examples/verify.yml", "-e", private]
    done = subprocess.run(call, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for machine in Story.machines:
        assert f"ok: [{machine}] => (item=The login page is Jenkins's)" in done.stdout


def test_stop_and_start(kit: LocalEc2, ec2: Any) -> None:
    """A machine that was stopped and started is healthy again, with its secrets as they were."""
    machine = Story.machines[0]
    before = kit.inv("password", "--machine", machine).stdout
    ec2.stop_instances(InstanceIds=[machine])
    wait(lambda: state_of(ec2, machine) == "stopped")
    ec2.start_instances(InstanceIds=[machine])
    wait(lambda: state_of(ec2, machine) == "running")
    url = kit.inv("open", "--machine", machine).stdout.strip()
    wait(lambda: reaches(f"{url}/login"))
    kit.inv("probe", "--machine", machine)
    assert kit.inv("password", "--machine", machine).stdout == before


def reaches(url: str) -> bool:
    """Tell whether a page is there."""
    try:
        return get(url)[0] == 200
    except OSError:
        return False


def test_probe_fails_an_unhealthy_machine(kit: LocalEc2) -> None:
    """A machine whose Jenkins was stopped fails its probe, and the findings say why."""
    machine = Story.machines[1]
    kit.inv("ssh", "--machine", machine, "--", "sudo systemctl stop jenkins")
    probe = [str(kit.program), "probe", "--machine", machine, "--json"]
    done = subprocess.run(probe, env=kit.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "jenkins.service is inactive" in done.stdout


@pytest.fixture(scope="module")
def changed(kit: LocalEc2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Give a checkout with another variable, while the stand-in's repository has a newer one; then it's as before."""
    folder = tmp_path_factory.mktemp("changed")
    checkout = Checkout(folder / "checkout", kit.environ)
    with (checkout.folder / "inventory/group_vars/jenkins.yml").open("a") as variables:
        variables.write("jenkins_umask: '0027'\n")
    served = kit.folder / "packages/served/jenkins-debian"
    if not served.exists():
        pytest.skip("Jenkins's own repository is used, and can't be made to change")
    shutil.copytree(served, folder / "before")
    [deb] = served.rglob("*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, folder / "deb"], check=True)
    control = folder / "deb/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", r"\g<0>+1", control.read_text()))
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", folder / "deb", deb], check=True, capture_output=True)
    newer = apt.Deb(deb.name, control.read_text(), deb.read_bytes())
    key = Key(kit.folder / "packages/gnupg")
    for name, content in apt.repository([newer], apt.Layout("binary/"), key, datetime.now(UTC)).items():
        (served / name).write_bytes(content)
    yield checkout
    shutil.rmtree(served)
    shutil.move(folder / "before", served)


def test_bake_what_has_changed(kit: LocalEc2, changed: Checkout) -> None:
    """A newer package in a repository and another variable are each a reason to bake, and all that differs then."""
    done = changed.inv("bake", "--prove")
    Story.second = done.stdout.strip()
    assert Story.second != Story.image
    reasons = [line for line in done.stderr.splitlines() if line.endswith(f", since image {Story.image}")]
    assert len(reasons) == 2, done.stderr
    assert reasons[0].startswith("new: inventory/group_vars/jenkins.yml: jenkins_umask,")
    assert re.match("changed: packages http://.*/jenkins-debian, ", reasons[1])
    differ = json.loads(changed.inv("diff", "stable", "candidate", "--json").stdout)
    assert [(one["part"], one["change"], one["what"]) for one in differ["changes"]] == [
        ("packages", "changed", "jenkins"),
        ("files", "changed", "/etc/systemd/system/jenkins.service.d/10-bakehouse.conf"),
    ]
    assert differ["changes"][0]["after"] == f"{differ['changes'][0]['before']}+1"


def test_roll_back(kit: LocalEc2, ec2: Any, changed: Checkout) -> None:
    """Whatever image the channel points to is launched, on the way forward and back; the history has it all."""

    def launched() -> str:
        machine = kit.inv("launch", "--channel", "stable").stdout.partition("\t")[0]
        [found] = describe(ec2, machine)
        kit.inv("terminate", "--machine", machine, "--yes")
        return str(found["ImageId"])

    assert kit.inv("promote", "--allow-stand-in").stdout.strip() == Story.second == launched()
    assert kit.inv("rollback", "--why", "it crashes").stdout.strip() == Story.image == launched()
    told = {one["channel"]: one["history"] for one in json.loads(kit.inv("channels", "--json").stdout)}
    assert [one["image"] for one in told["candidate"]] == [Story.image, Story.second]
    assert [one["image"] for one in told["stable"]] == [Story.image, Story.second, Story.image]
    assert told["stable"][-1]["why"] == "it crashes"
    listed = {one["image"]: one for one in json.loads(kit.inv("images", "--json").stdout)}
    assert {image: one["channels"] for image, one in listed.items()} == {
        Story.second: ["candidate"],
        Story.image: ["stable"],
    }
    assert sorted(listed[Story.image]["users"]) == sorted(f"machine {one}" for one in Story.machines)
    kit.inv("retire", Story.second, "--yes")


def test_revoke(kit: LocalEc2) -> None:
    """A revoked image is not launched, though a channel points to it, until it is restored."""
    said = kit.inv("revoke", Story.image, "--why", "a hole").stderr
    assert f"channel stable of recipe jenkins points to {Story.image}: ./inv rollback moves it back" in said
    launch = [str(kit.program), "launch", "--channel", "stable"]
    done = subprocess.run(launch, env=kit.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: image {Story.image} was revoked: a hole" in done.stderr
    assert kit.inv("restore", Story.image).stdout.strip() == Story.image


def test_cleanup(kit: LocalEc2) -> None:
    """What a channel points to stays, even if no image is to be kept, and the plan says so."""
    told = [line.split("\t") for line in kit.inv("cleanup", "--keep", "0").stdout.splitlines()]
    [[step, _, recipe, _, why]] = [row for row in told if row[1] == Story.image]
    assert (step, recipe) == ("stay", "jenkins")
    assert re.fullmatch("channel (candidate|stable) points to it", why)


def test_clear_away(kit: LocalEc2, ec2: Any) -> None:
    """After terminate and retire there is no machine, image or snapshot of ours left in the account."""
    kit.inv("terminate", "--all", "--yes")
    assert json.loads(kit.inv("machines", "--json").stdout) == []
    assert docker("ps", "--quiet", "--filter", f"label=bakehouse.instance={Story.machines[0]}") == ""
    snapshot = ec2.describe_images(ImageIds=[Story.image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    said = kit.inv("retire", "--image", Story.image, "--yes").stderr
    assert "delete channel stable, which points to it, with its history" in said
    assert json.loads(kit.inv("channels", "--json").stdout) == []
    assert json.loads(kit.inv("images", "--json").stdout) == []
    kept = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert snapshot not in [one["SnapshotId"] for one in kept]
    tags = docker("images", "--format", "{{.Tag}}", f"bakehouse/{mark(kit.state)}").split()
    wait(lambda: snapshot not in tags)


def test_the_stated_rights_are_enough_and_least(kit: LocalEc2) -> None:
    """Each task has run with its own rights alone and was denied nothing; each statement is needed."""
    asked = set(kit.ask("health")["operations"]["local"])
    decided = kit.ask("decisions")["decisions"]
    policy = rights.policy()
    allowed = {action.partition(":")[2] for statement in policy["Statement"] for action in statement["Action"]}
    allowing = {statement["Sid"] for statement in policy["Statement"] if statement["Effect"] == "Allow"}

    assert [] == [one for one in decided if not one["allowed"]]
    assert allowing == {one["by"][0] for one in decided if len(one["by"]) == 1}
    assert asked - allowed == set()
    assert allowed - asked <= ONLY_ELSEWHERE
