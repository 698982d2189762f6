"""Bakes: the real Packer and Ansible on the local EC2, and nothing left of a bake however it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import docker

from bakehouse import endings, images, packers, patience, recipes, runs, settings
from bakehouse.accounts import TAG, Account, connect, tags_of
from bakehouse.accounts.networks import Place
from bakehouse.baking import bakes, plans, vigils
from bakehouse.baking.orders import Order
from bakehouse.errors import BakeError, StoppedError
from bakehouse.images import Image, details
from bakehouse.patience import Limit
from bakehouse.records import store
from bakehouse.runs import Run, leftovers
from bakehouse.settings import ROOT, Settings

RECIPE = """
recipe        = "tiny"
base          = "debian-13"
instance_type = "t3.small"
volume_size   = 8
playbook      = "playbooks/tiny.yml"
boot_budget   = 30
packages      = {}
"""

PLAYBOOK = """
- hosts: tiny
  become: true
  gather_facts: false
  tasks:
    - name: Write a word
      ansible.builtin.copy: {dest: /etc/tiny, content: "{{ tiny_word }}", mode: "0644"}
    - name: Take some time
      ansible.builtin.command: sleep {{ tiny_seconds }}
      changed_when: false
    - name: Take a package away
      ansible.builtin.command: dpkg --purge {{ tiny_purged }}
      when: tiny_purged is defined
      changed_when: true
    - name: Fail if told to
      ansible.builtin.fail: {msg: "told to, by {{ tiny_word }}"}
      when: tiny_fails
"""

BAKE = """
- ansible.builtin.import_playbook: '../{{ bakehouse_playbook }}'
- hosts: tiny
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.import_tasks: tasks/record.yml
"""

# Bakes in a process of its own.
DRIVER = """
import sys
from pathlib import Path
from bakehouse import endings, settings
from bakehouse.baking import bakes
from bakehouse.errors import BakehouseError
try:
    with endings.obedient("the bake"):
        given = settings.load(recipe="tiny", root=Path(sys.argv[1]))
        print(bakes.bake(given, keep_on_failure=sys.argv[2] == "keep").id)
except BakehouseError as error:
    print(error.message, file=sys.stderr)
    sys.exit(error.code)
"""


def order(base: str = "debian-13") -> Order:
    """Return an order of the checkout's own recipe."""
    start = Image.from_aws({"ImageId": "ami-1", "State": "available", "CreationDate": "2026-01-01T00:00:00.000Z"})
    recipe = recipes.load(settings.load(recipe="jenkins"))
    return Order(recipe, recipes.base(ROOT, base), start, {}, {}, packers.get(settings.load().state))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a run that has just begun, with a key."""
    with runs.begin(settings.load(root=tmp_path)) as run:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(run.key)], check=True)
        yield run


@pytest.mark.local
def test_command(account: Account, run: Run) -> None:
    """Packer takes the very command line, which names the private key and doesn't hold it."""
    run.variables.write_text("{}")
    ours = order()
    line = bakes.command(settings.load(), account, ours, run, Place("t3.small", "", ("sg-1",), True), "cleanup")
    at = line.index("build")
    arguments = [part for part in line[at + 1 :] if part not in ("-color=false", "-timestamp-ui", "-on-error=cleanup")]

    environ = {**os.environ, **ours.packer.environ}
    told = subprocess.run(
        [line[at - 1], "validate", *arguments], env=environ, capture_output=True, text=True, check=False
    )

    assert (0, "") == (told.returncode, told.stdout + told.stderr)
    assert f"key_file={run.alias}/key" in line
    assert not any(secret in " ".join(line) for secret in run.key.read_text().splitlines())


def test_template(run: Run) -> None:
    """Packer 1.6 gets the checkout's template; a later one the same, but that it demands IMDSv2 of the machine."""
    ours = ROOT / "packer"
    demand = 'metadata_options { http_tokens = "required" }'

    assert ours == bakes.template(ours, packers.Packer(Path("packer"), (1, 6, 6)), run)
    copy = bakes.template(ours, packers.Packer(Path("packer"), (1, 16, 0), Path("plugins")), run)

    assert {file.name for file in ours.glob("*.hcl")} == {file.name for file in copy.iterdir()}
    told = {file.name: file.read_text() for file in copy.iterdir()}
    here, there = (text.splitlines() for text in ((ours / "sources.pkr.hcl").read_text(), told.pop("sources.pkr.hcl")))
    assert [f"  {demand}"] == [new for old, new in zip(here, there, strict=True) if old != new]
    assert {name: (ours / name).read_text() for name in told} == told


def test_a_fault_in_the_template_names_the_checkouts_file(run: Run) -> None:
    """What Packer says of the copy is told of the template itself."""
    copy = bakes.template(ROOT / "packer", packers.Packer(Path("packer"), (1, 16, 0), Path("plugins")), run)
    run.log.write_text(f"Error: Unsupported argument\n\n  on {copy}/sources.pkr.hcl line 5:\n\nNot expected here.\n")

    assert (
        "Packer: Unsupported argument: Not expected here. on packer/sources.pkr.hcl line 5" == bakes._error(1, run).text
    )


@pytest.mark.local
def test_environment(account: Account, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packer gets nothing of the person's own AWS account, and its temporary files go into the run's folder."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.setenv(name, "real")

    told = bakes.environment(account.environ(), run, debug=False)

    assert "real" not in [value for name, value in told.items() if name.startswith("AWS_")]
    assert account.endpoint == told["AWS_ENDPOINT_URL_EC2"] == told["AWS_ENDPOINT_URL"]
    assert {str(run.scratch)} == {told["TMPDIR"], told["PACKER_TMP_DIR"]}
    assert str(Path(sys.executable).parent) == told["PATH"].split(os.pathsep)[0]
    assert "PACKER_LOG" not in told
    assert "1" == bakes.environment(account.environ(), run, debug=True)["PACKER_LOG"]


@dataclass(frozen=True)
class Bakery:
    """Hold a checkout with the recipe tiny, and a client of the local EC2 it bakes on."""

    settings: Settings
    account: Account
    before: Mapping[str, set[str]]
    runs_before: Collection[str]

    def begin(self, keep: bool = False, **variables: Any) -> subprocess.Popen[str]:
        """Begin a bake whose playbook gets these variables."""
        told = {"tiny_word": "hello", "tiny_seconds": 0, "tiny_fails": False, **variables}
        (self.settings.root / "inventory/group_vars/tiny.yml").write_text(json.dumps(told))
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.settings.root), "keep" if keep else "cleanup"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bake(self, keep: bool = False, **variables: Any) -> tuple[int, str, str]:
        """Bake, and return the exit code, stdout and stderr."""
        with self.begin(keep, **variables) as process:
            out, told = process.communicate(timeout=600)
        return process.returncode, out, told

    @property
    def run(self) -> Run:
        """Return the test's newest run; IndexError while there is none."""
        return [run for run in runs.known(self.settings).values() if run.id not in self.runs_before][-1]

    def when(self, line: str) -> None:
        """Return when the test's newest run has a log that holds a line."""

        def look() -> bool:
            with suppress(IndexError, FileNotFoundError):
                return line in self.run.log.read_text()
            return False

        until(look)

    def left(self) -> dict[str, set[str]]:
        """Return what is on the account now and was not before the test, by kind."""
        return {kind: new for kind, ids in resources(self.account).items() if (new := ids - self.before[kind])}

    def private_files(self) -> list[str]:
        """Return the files of the newest run that are neither log nor manifest, and its temporary folder."""
        lasting = {"account", "lock", "packer.log", "manifest.json"}
        return sorted({path.name for path in self.run.folder.iterdir()} - lasting)


def until(look: Callable[[], bool], seconds: float = 60) -> None:
    """Return when a look is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def resources(account: Account) -> dict[str, set[str]]:
    """Return the IDs of the account's resources by kind."""
    ec2 = account.ec2
    instances = [one for each in ec2.describe_instances()["Reservations"] for one in each["Instances"]]
    return {
        "instance": {one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"},
        "image": {one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]},
        "snapshot": {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]},
        "volume": {one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]},
        "group": {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]},
        "key": {one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]},
    }


def tree(root: Path) -> set[Path]:
    """Return the files of a checkout."""
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def processes(run: Run) -> list[str]:
    """Return the command lines of the run's processes."""
    return [" ".join(line) for _, line in runs.processes(run)]


def checkout(root: Path, bases: str) -> Path:
    """Make a checkout that can bake the recipe tiny, and return its folder."""
    shutil.copytree(ROOT / "packer", root / "packer")
    shutil.copy(ROOT / "ansible.cfg", root)
    shutil.copytree(ROOT / "playbooks/tasks", root / "playbooks/tasks")
    # Without sysprep and most of the kit's own: what a bake does is not theirs.
    texts = {
        "packer/recipes/tiny.pkrvars.hcl": RECIPE,
        "playbooks/tiny.yml": PLAYBOOK,
        "playbooks/bake.yml": BAKE,
    }
    for path, text in texts.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    if bases:
        (root / "packer/bases.auto.pkrvars.hcl").write_text(bases)
    (root / "inventory/group_vars").mkdir(parents=True)
    return root


@pytest.fixture
def bakery(local_ec2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bakery]:
    """Give a checkout of its own, whose path holds a blank, and clear away what is left of its bakes."""
    monkeypatch.setenv("BAKEHOUSE_STATE", str(local_ec2.state))
    given = settings.load(recipe="tiny", root=checkout(tmp_path / "a checkout", bases=""))
    account = connect(given)
    bakery = Bakery(given, account, resources(account), runs.known(given))
    yield bakery
    leftovers.apply(account, leftovers.find(account, bakery.settings, kept=True))
    for image in bakery.left().get("image", ()):
        account.ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_bake(bakery: Bakery) -> None:
    """A bake makes one image that tells its origin and asks for IMDSv2, and leaves nothing else, the log included."""
    files = tree(bakery.settings.root)

    code, out, told = bakery.bake()

    assert (0, 1) == (code, len(out.split())), told
    (answer,) = bakery.account.ec2.describe_images(ImageIds=[out.strip()])["Images"]
    image, run = Image.from_aws(answer), bakery.run
    assert {"image": {image.id}, "snapshot": set(image.snapshots)} == bakery.left()
    assert (f"bakehouse-tiny-{run.id}", "available", True) == (image.name, image.state, image.imdsv2)
    tags = {f"{TAG}kind": "image", f"{TAG}run": run.id, f"{TAG}recipe": "tiny", f"{TAG}user": "admin"}
    assert tags.items() <= image.tags.items()
    (snapshot,) = bakery.account.ec2.describe_snapshots(SnapshotIds=list(image.snapshots))["Snapshots"]
    assert image.tags == tags_of(snapshot)
    assert ([], []) == (bakery.private_files(), processes(run))
    assert "PRIVATE KEY" not in run.log.read_text() + run.manifest.read_text() + str(image.tags)
    for step in ("machine i-", "SSH", "Write a word", "Take some time", "stop", f"image {image.id}"):
        assert f"ok   {step}" in told
    assert "Fail if told to" not in told
    assert {*files, Path("inventory/group_vars/tiny.yml")} == tree(bakery.settings.root)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_an_account_that_enforces_imdsv2(bakery: Bakery) -> None:
    """A newer Packer bakes there; that 1.6 can't is said before anything is made."""
    bakery.account.ec2.modify_instance_metadata_defaults(HttpTokensEnforced="enabled")
    try:
        code, _, told = bakery.bake()
    finally:
        bakery.account.ec2.modify_instance_metadata_defaults(HttpTokensEnforced="no-preference")

    if packers.get(bakery.settings.state).plugins:
        assert 0 == code, told
        return
    assert (2, {}, []) == (code, bakery.left(), list(set(runs.known(bakery.settings)) - set(bakery.runs_before))), told
    assert "error: account local launches no machine without IMDSv2 (httpTokensEnforced), which Packer 1.6.6" in told


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_a_second_bake(bakery: Bakery) -> None:
    """Of the same nothing is baked; what changed is named, before the bake by file and after it by what is in it."""
    first = bakery.bake()[1].strip()
    code, same, told = bakery.bake()
    assert (0, first) == (code, same.strip()), told
    assert "nothing to bake" in told

    code, second, told = bakery.bake(tiny_word="bye", tiny_purged="iputils-ping")

    assert 0 == code, told
    assert {
        f"changed: inventory/group_vars/tiny.yml: tiny_word, since image {first}",
        f"new: inventory/group_vars/tiny.yml: tiny_purged, since image {first}",
    } == {line for line in told.splitlines() if "since image" in line}
    before, after = (images.get(bakery.account, one.strip()) for one in (first, second))
    rows = details.as_change_rows(details.compare(bakery.settings, before, after))
    assert [("packages", "removed", "iputils-ping"), ("files", "changed", "/etc/tiny")] == [
        (part, change, what) for part, change, what, *_ in rows
    ]
    shown = details.find(bakery.account, bakery.settings, after.id)
    assert shown.contents and shown.provenance
    assert [after.id, after.base] == [one.id for one in shown.lineage]
    [subject] = shown.provenance["subject"]
    assert after.tags[f"{TAG}sbom"] == f"sha256:{subject['digest']['sha256']}"
    assert _in_the_image(after) == {
        name: (store.place(bakery.settings, after.id) / name).read_text() for name in (store.SBOM, store.PROVENANCE)
    }


def _in_the_image(image: Image) -> dict[str, str]:
    """Return the records that are in an image, by their names."""
    [body] = docker("images", "--filter", f"reference=bakehouse/*:{image.root_snapshot}", "--quiet").split()
    look = ["run", "--rm", "--network", "none", "--entrypoint", "cat", body]
    names = (store.SBOM, store.PROVENANCE)
    return {name: docker(*look, f"/usr/share/bakehouse/{name}") for name in names}


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_failure(bakery: Bakery) -> None:
    """A failed task is told with its name and message in one line, exit 1, and nothing is left."""
    code, out, told = bakery.bake(tiny_fails=True)

    assert (1, "") == (code, out)
    assert "FAIL Fail if told to" in told
    assert ["error: Fail if told to: told to, by hello", f"hint: the whole log: {bakery.run.log}"] == told.splitlines()[
        -2:
    ]
    assert ({}, [], []) == (bakery.left(), bakery.private_files(), processes(bakery.run))


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_keep(bakery: Bakery) -> None:
    """On demand a failed bake's machine stays, privileged as its recipe, can be entered, and a cleanup ends it."""
    with (bakery.settings.root / "packer/recipes/tiny.pkrvars.hcl").open("a") as recipe:
        recipe.write("privileged = true\n")
    code, _, told = bakery.bake(keep=True, tiny_fails=True, tiny_word="kept")
    (command,) = [line for line in told.splitlines() if line.startswith("  ssh ")]
    secrets = bakery.run.key.read_text().splitlines()

    script = "sudo mount -t tmpfs tmpfs /mnt && cat /etc/tiny"
    entered = subprocess.run([*shlex.split(command), script], capture_output=True, text=True, check=False)

    assert (1, "kept") == (code, entered.stdout), entered.stderr
    assert not any(secret in bakery.run.log.read_text() for secret in secrets)
    assert {} == leftovers.find(bakery.account, bakery.settings).runs
    leftovers.apply(bakery.account, leftovers.find(bakery.account, bakery.settings, kept=True))
    assert ({}, []) == (bakery.left(), bakery.private_files())


@pytest.mark.docker
@pytest.mark.timeout(900)
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(bakery: Bakery, asked: signal.Signals) -> None:
    """A bake that is told to stop says so in one line, with the signal's exit code, and nothing is left."""
    with bakery.begin(tiny_seconds=60) as process:
        bakery.when("TASK [Take some time]")
        process.send_signal(asked)
        out, told = process.communicate(timeout=300)

    assert (128 + asked, "") == (process.returncode, out)
    assert f"error: the bake was interrupted by {asked.name}: it made no image" in told.splitlines()
    assert ({}, [], []) == (bakery.left(), bakery.private_files(), processes(bakery.run))


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_a_machine_that_dies(bakery: Bakery) -> None:
    """A bake whose machine goes off as it boots says so long before Packer would give up, and nothing is left."""
    with bakery.begin() as process:
        bakery.when("Instance ID: i-")
        [machine] = re.findall(r"Instance ID: (i-\w+)", bakery.run.log.read_text())
        until(lambda: bool(docker("ps", "--quiet", "--filter", f"label=bakehouse.instance={machine}")))
        docker("kill", *docker("ps", "--quiet", "--filter", f"label=bakehouse.instance={machine}").split())
        begun = time.monotonic()
        out, told = process.communicate(timeout=300)

    assert (1, "") == (process.returncode, out)
    assert f"error: machine {machine} is stopped: Server.InternalError: the machine went off while it booted" in told
    assert time.monotonic() - begun < 60  # Packer waits five minutes
    assert ({}, [], []) == (bakery.left(), bakery.private_files(), processes(bakery.run))


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_killed(bakery: Bakery) -> None:
    """What a bake leaves that was killed with its Packer, the next one clears away, running processes included."""
    with bakery.begin(tiny_seconds=60) as process:
        bakery.when("TASK [Take some time]")
        dead = bakery.run
        for pid, line in runs.processes(dead):
            if line[1:2] == ["build"]:
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()
    assert {"instance", "volume", "group", "key"} == set(bakery.left())
    assert processes(dead)

    code, _, told = bakery.bake()

    assert 0 == code, told
    assert f"left by run {dead.id}" in told
    assert {"image", "snapshot"} == set(bakery.left())
    assert ([], True) == (processes(dead), dead.wiped)


@pytest.mark.docker
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("setpriv"), reason="nothing tells Packer of our death")
def test_kit_killed(bakery: Bakery) -> None:
    """When the kit alone is killed, Packer stops and ends its machine by itself."""
    with bakery.begin(tiny_seconds=60) as process:
        bakery.when("TASK [Take some time]")
        process.kill()
        process.communicate()

    bakery.when("Cleanly cancelled builds")
    assert {"group", "key"} == set(bakery.left())


# Packers that fail in ways in which the real one can't be made to in a test. What they print is what it prints.
HALF_MADE = """
import boto3
ec2 = boto3.client("ec2")
machine = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
image = ec2.create_image(InstanceId=machine, Name="half made")["ImageId"]
ec2.terminate_instances(InstanceIds=[machine])
print(f"    amazon-ebs.machine: AMI: {image}", flush=True)
print("--> amazon-ebs.machine: Error waiting for AMI: timeout", flush=True)
sys.exit(1)
"""
NOTHING_RECORDED = HALF_MADE.replace("sys.exit(1)", "sys.exit(0)")
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""
DYING = """
import boto3
ec2 = boto3.client("ec2")
machine = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
print(f"==> amazon-ebs.machine: Instance ID: {machine}", flush=True)
print("==> amazon-ebs.machine: Waiting for SSH to become available...", flush=True)
ec2.terminate_instances(InstanceIds=[machine])
time.sleep(600)
"""
BASES = """
bases = {
  debian-13 = {
    family = "debian", image_name = "amzn-*", owner = "amazon", user = "me", root_device = "/dev/xvda"
  }
}
"""


@pytest.mark.local
@pytest.mark.parametrize(
    ("script", "text"),
    [
        (HALF_MADE, "Packer: Error waiting for AMI: timeout"),
        (NOTHING_RECORDED, "the bake left no record of what is in the image"),
        (KILLED, "Packer was ended by SIGKILL"),
        (DEAF, "the bake was interrupted by SIGINT: it made no image"),
        (DYING, "machine i- is terminated: Client.UserInitiatedShutdown: User initiated shutdown"),
    ],
    ids=["half-made image", "nothing recorded", "killed", "deaf", "dying machine"],
)
@pytest.mark.usefixtures("signals")
def test_broken_packer(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    """When Packer leaves half an image, dies, doesn't stop or loses its machine, that is said, and nothing is left."""
    packer = tmp_path / "packer"
    packer.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{script}")
    packer.chmod(0o755)
    given = settings.load(recipe="tiny", root=checkout(tmp_path / "checkout", BASES))
    monkeypatch.setattr(packers, "get", lambda _: packers.Packer(packer, (1, 6, 6)))
    monkeypatch.setattr(plans, "connect", lambda *_, **__: account)
    monkeypatch.setattr(type(account), "caller", lambda _: "127.0.0.1/32")
    monkeypatch.setattr(patience, "PACKER_STOPS", Limit(1, ""))
    monkeypatch.setattr(vigils, "_EVERY", 0.1)
    before = resources(account)

    with pytest.raises((BakeError, StoppedError)) as failed, endings.obedient("the bake"):
        bakes.bake(given)

    (run,) = runs.known(given).values()
    told = re.sub(r"i-\w+ is", "i- is", failed.value.text)
    assert (text, before, True, []) == (told, resources(account), run.wiped, processes(run))
