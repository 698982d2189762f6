"""Bench: a whole bake beside the same image made by one script over SSH, and by Packer with that script."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from bakehouse import console, images, local, packers, recipes, runs, settings
from bakehouse.accounts import TAG, Account, connect, lending, tag_specifications, wait
from bakehouse.accounts.networks import Place
from bakehouse.baking import bakes, orders
from bakehouse.errors import BakeError, BakehouseError, InputError, VerdictError
from bakehouse.images import retirements
from bakehouse.local.bodies import Bodies
from bakehouse.runs import leftovers
from bakehouse.runs.transcripts import Began, Ended, event, plain
from bakehouse.settings import ROOT, Settings

HERE = Path(__file__).parent

STAGES = (
    "boot",
    "SSH",
    "provisioner starts",
    "tasks",
    "package manager",
    "record",
    "stop",
    "image",
    "terminate",
    "rest",
)
"""Where the time goes. The rest is the programs' own start and end, and what lies between the stages."""

_STAGES_OF_STEPS = {
    r"machine( i-\w+)?|Wait for cloud-init": "boot",
    r"Ansible starts|Gathering Facts": "provisioner starts",
    r".* with apt": "package manager",
    r"[\w-]+ : .*": "tasks",
    r"(Look at|Record) what is in the image|Put the record into the image": "record",
    r"image( ami-\w+)?": "image",
    r"machine cleared away": "terminate",
    r"SSH|stop": r"\g<0>",
}
_STEP = re.compile(r"ok   (?P<step>.*)  (?P<seconds>[\d.]+) s")
_BUSY = 10  # percent; with more before a bake the machine was not idle

# sshd makes /var/log/wtmp.db for a login with a terminal, which only Ansible has, and sysprep leaves it empty.
# What an image holds, but for that and the kit's record of it: each package with its version; each file with its
# rights, owner, target and content.
_READ = r"""
dpkg-query --show --showformat='package ${Package} ${Version} ${db:Status-Abbrev}\n'
apt-mark showauto | sed 's/^/as a dependency: /'
find / -xdev ! -path '/usr/share/bakehouse*' ! -path /var/log/wtmp.db -printf '%M %u:%g %p %l\n'
find / -xdev -type f ! -path '/usr/share/bakehouse*' ! -path /var/log/wtmp.db -exec sha256sum {} +
"""
# The content of files that tell when they were made, or list things in any order.
_VOLATILE = re.compile(
    r"[0-9a-f]{64}  (/etc/ssl/certs/java/cacerts|/etc/sudoers\.d/90-cloud-init-users"
    r"|/var/cache/(fontconfig|ldconfig)/.*|/var/cache/apt/pkgcache\.bin|/var/lib/apt/extended_states)"
)


@dataclass(frozen=True)
class Bench:
    """Hold what all ways of baking share: where, from what, and the script of those that have one."""

    settings: Settings
    account: Account
    order: orders.Order
    script: str


@dataclass(frozen=True)
class Outcome:
    """Hold how a bake went: its seconds, those of each stage, the CPUs' use before (%), the load average after."""

    seconds: float
    stages: Mapping[str, float]
    busy: float
    load: float


class Clock:
    """Note when each stage begins, which is when the one before ends."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, str]] = []

    def begin(self, stage: str, ago: float = 0) -> None:
        """Say that a stage begins now, or began some seconds ago."""
        self._marks.append((time.monotonic() - ago, stage))

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage, from the first mark to the last."""
        spent = dict.fromkeys(STAGES, 0.0)
        for (begun, stage), (ended, _) in pairwise(self._marks):
            spent[stage] += ended - begun
        return spent

    def follow(
        self, command: Sequence[str], told: str = "", env: Mapping[str, str] | None = None, folder: Path = ROOT
    ) -> list[str]:
        """Run a program, note the stages that it speaks of, and return its lines; raises BakeError when it fails."""
        lines = []
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder
        ) as process:
            assert process.stdin and process.stdout
            try:
                process.stdin.write(told)
                process.stdin.close()
                for line in map(plain, process.stdout):
                    lines.append(line)
                    self._hear(line)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise BakeError(f"{command[0]} ended with {process.returncode}", "\n".join(lines[-20:]))
        return lines

    def _hear(self, line: str) -> None:
        if line.startswith("== "):  # the script's
            self.begin(line.removeprefix("== "))
        elif step := _STEP.fullmatch(line):  # the kit's, which speaks of a step when it has ended
            self.begin(stage_of(step["step"]), ago=float(step["seconds"]))
            self.begin("rest")
        else:  # Packer's
            match event(line):
                case Began(name):
                    self.begin(stage_of(name))
                case Ended():
                    self.begin("provisioner starts" if line.startswith("Connected") else "rest")


def stage_of(step: str) -> str:
    """Return the stage that a step of a bake belongs to."""
    found = (match.expand(stage) for form, stage in _STAGES_OF_STEPS.items() if (match := re.fullmatch(form, step)))
    return next(found, "rest")


def floor(bench: Bench, clock: Clock, stack: ExitStack) -> str:
    """Bake with EC2's API and ssh alone, and return the image's ID."""
    run, place = stack.enter_context(_begun(bench))
    ec2, order, name = bench.account.ec2, bench.order, bakes.key_name(bench.account, run)
    tags = {"Name": name, f"{TAG}kind": "bake", f"{TAG}recipe": order.recipe.name, f"{TAG}run": run.id}
    disk = {"VolumeSize": order.recipe.volume_size, "VolumeType": "gp3", "DeleteOnTermination": True}

    def reach(state: str) -> str:
        def look() -> str | None:
            found = ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"][0]
            return found.get("PublicIpAddress", "-") if found["State"]["Name"] == state else None

        return wait(f"{machine} to be {state}", look, 300, every=0.1)

    clock.begin("boot")
    answer = ec2.run_instances(
        ImageId=order.start.id,
        InstanceType=order.recipe.instance_type,
        MinCount=1,
        MaxCount=1,
        KeyName=name,
        SecurityGroupIds=[*place.groups],
        BlockDeviceMappings=[{"DeviceName": order.base.root_device, "Ebs": disk}],
        TagSpecifications=tag_specifications(tags, "instance", "volume"),
    )
    machine = answer["Instances"][0]["InstanceId"]
    there = f"{order.base.user}@{reach('running')}"
    clock.begin("SSH")
    trust = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={run.known_hosts}"]
    clock.follow(["ssh", "-q", "-i", str(run.key), *trust, there, "sudo sh -s"], bench.script)
    clock.begin("stop")
    ec2.stop_instances(InstanceIds=[machine])
    reach("stopped")
    clock.begin("image")
    tagged = tag_specifications(tags, "image", "snapshot")
    image: str = ec2.create_image(InstanceId=machine, Name=name, TagSpecifications=tagged)["ImageId"]
    made = [{"Name": "image-id", "Values": [image]}, {"Name": "state", "Values": ["available"]}]
    wait(f"{image} to be available", lambda: ec2.describe_images(Filters=made)["Images"] or None, 300, every=0.1)
    clock.begin("terminate")
    ec2.terminate_instances(InstanceIds=[machine])
    reach("terminated")
    return image


def packer(bench: Bench, clock: Clock, stack: ExitStack) -> str:
    """Bake with the kit's Packer template, whose provisioner is the script, and return the image's ID."""
    run, place = stack.enter_context(_begun(bench))
    folder = run.scratch / "packer"
    folder.mkdir()
    for file in [*(ROOT / "packer").glob("*.hcl"), HERE / "build.pkr.hcl"]:  # the last takes its namesake's place
        (folder / file.name).write_bytes(file.read_bytes())
    (run.folder / "floor.sh").write_text(bench.script)
    command = bakes.command(bench.settings, bench.account, bench.order, run, place, "cleanup")
    clock.begin("rest")
    with lending.environ(bench.account) as lent:
        environ = {**lent, **bench.order.packer.environ}
        clock.follow([*command[:-1], str(folder)], env=bakes.environment(environ, run, debug=False))
    clock.begin("rest")
    [image] = bench.account.ec2.describe_images(Filters=[{"Name": f"tag:{TAG}run", "Values": [run.id]}])["Images"]
    return str(image["ImageId"])


def kit(bench: Bench, clock: Clock, stack: ExitStack) -> str:
    """Bake as a person does, and return the image's ID."""
    return _baked(bench, clock, stack, [str(ROOT / "inv")], ROOT)


def slower(bench: Bench, clock: Clock, stack: ExitStack) -> str:
    """Bake as a person does whose recipe doesn't ask for Mitogen, and return the image's ID."""
    checkout = Path(stack.enter_context(TemporaryDirectory())) / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", ".bakehouse", ".*_cache"))
    recipe = recipes.path(checkout, bench.order.recipe.name)
    recipe.write_text(re.sub(r"(?m)^mitogen += true$", "", recipe.read_text()))
    return _baked(bench, clock, stack, [sys.executable, "-m", "invoke"], checkout)


def _baked(bench: Bench, clock: Clock, stack: ExitStack, kit: list[str], checkout: Path) -> str:
    """Bake with the kit in a checkout, and return the image's ID; the stack takes the image away."""
    clock.begin("rest")
    name = bench.order.recipe.name
    environ = {**os.environ, "BAKEHOUSE_STATE": str(bench.settings.state)}
    line = [*kit, "bake", "--force", "--account", "local", "--recipe", name]
    lines = clock.follow(line, env=environ, folder=checkout)
    image = images.get(bench.account, next(line for line in lines if line.startswith("ami-")), name)
    stack.callback(lambda: retirements.retire(bench.account, retirements.retirement(bench.account, image)))
    return image.id


WAYS = {"A floor": floor, "B packer": packer, "C kit": kit, "D no Mitogen": slower}
RATIOS = {
    "C/A": ("C kit", "A floor"),
    "B/A": ("B packer", "A floor"),
    "C/B": ("C kit", "B packer"),
    "D/C": ("D no Mitogen", "C kit"),
}


def measure(bench: Bench, rounds: int) -> list[dict[str, Outcome]]:
    """Bake all ways in each round, to and fro; raises VerdictError when their images are not the same."""
    done = []
    for number in range(1, rounds + 1):
        outcomes, made = {}, {}
        with ExitStack() as stack:
            for way in WAYS if number % 2 else reversed(WAYS):
                busy, clock = busy_percent(), Clock()
                if busy > _BUSY:
                    console.say(f"the machine is not idle: {busy:.0f} % of its CPUs are busy")
                with console.step(f"round {number}: {way}"):
                    made[way] = WAYS[way](bench, clock, stack)
                clock.begin("rest")
                stages = clock.stages()
                outcomes[way] = Outcome(sum(stages.values()), stages, busy, os.getloadavg()[0])
            if number == 1:
                compare({way: contents(bench, image) for way, image in made.items()})
        done.append(outcomes)
    return done


def contents(bench: Bench, image_id: str) -> frozenset[str]:
    """Return what an image holds, a line a fact, but for what no two bakes have in common."""
    snapshot = images.there(bench.account, image_id).root_snapshot
    bodies = Bodies(local.checkout(bench.settings))
    how = {"hostname": "bench", "labels": bodies.labels("bench"), "network_mode": "none", "remove": True}
    told: bytes = bodies.docker.containers.run(bodies.reference(snapshot), ["sh", "-c", _READ], **how)
    return frozenset(line for line in told.decode().splitlines() if not _VOLATILE.fullmatch(line))


def compare(states: Mapping[str, frozenset[str]]) -> None:
    """Raise VerdictError, after saying in what, when an image is not the kit's, which sysprep has proved clean."""
    wanted = states["C kit"]
    for way, state in states.items():
        for line in sorted(state ^ wanted):
            console.say(f"{way}: {'has' if line in state else 'lacks'} {line}")
    if differing := [way for way, state in states.items() if state != wanted]:
        raise VerdictError(f"not the kit's image: {', '.join(differing)}; so the times can't be compared")
    console.say(f"the images are the same in all of {len(wanted)} points")


def busy_percent(seconds: float = 2) -> float:
    """Return how busy the CPUs are just now, in percent."""

    def ticks() -> tuple[int, int]:
        each = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(each), each[3] + each[4]  # idle, and waiting for a disk

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return 100 * (1 - (idle_after - idle_before) / (all_after - all_before))


def report(rounds: Sequence[Mapping[str, Outcome]], as_json: bool) -> None:
    """Print what each round took, the ratios, their medians, and where the time goes."""
    series = {way: [one[way].seconds for one in rounds] for way in WAYS}
    series |= {name: [one[way].seconds / one[to].seconds for one in rounds] for name, (way, to) in RATIOS.items()}
    medians = {name: median(values) for name, values in series.items()}
    spent = {stage: {way: median(one[way].stages[stage] for one in rounds) for way in WAYS} for stage in STAGES}
    if as_json:
        machine = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "cpus": os.cpu_count()}
        told = [{way: asdict(outcome) for way, outcome in one.items()} for one in rounds]
        console.data_json({**machine, "medians": medians, "stages": spent, "rounds": told})
        return
    rows = [[name, *(f"{one:.2f}" for one in (*values, medians[name]))] for name, values in series.items()]
    rows += [[f"busy before {way}, %", *(f"{one[way].busy:.0f}" for one in rounds), ""] for way in WAYS]
    rows += [[f"load after {way}", *(f"{one[way].load:.1f}" for one in rounds), ""] for way in WAYS]
    console.table((f"{os.cpu_count()} CPUs", *(f"round {at + 1}" for at in range(len(rounds))), "median"), rows)
    rows = [[stage, *(f"{seconds:.1f}" for seconds in by_way.values())] for stage, by_way in spent.items()]
    console.table(("median seconds", *WAYS), rows)


@contextmanager
def _begun(bench: Bench) -> Iterator[tuple[runs.Run, Place]]:
    """Begin a run with a key pair and a group, as a bake does; in the end clear away all it made, its image too."""
    with runs.begin(bench.settings) as run:
        try:
            yield run, bakes._make_key_and_group(bench.account, bench.order, run)[0]
        finally:
            leftovers.apply(bench.account, leftovers.of_run(bench.account, run))


def _prepared(told: Settings) -> Bench:
    recipe = recipes.load(told)
    base = recipes.base(told.root, recipe.base)
    account = connect(told, base=base.name)
    order = orders.place(account, recipe, base, {}, packers.get(told.state))
    variables = yaml.safe_load((ROOT / "roles/jenkins/defaults/main.yml").read_text()) | order.variables
    inputs = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if "_repository_" in name]
    return Bench(told, account, order, "\n".join([*inputs, (HERE / "floor.sh").read_text()]))


def main() -> None:
    """Read the flags, bake, print."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", default="3")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # what was made is cleared away on the way out
    try:
        if not (flags.rounds.isdecimal() and int(flags.rounds)):
            raise InputError(f"--rounds {flags.rounds} is not a number of rounds", "three or more make a median")
        report(measure(_prepared(settings.load("local", "jenkins")), int(flags.rounds)), flags.json)
    except BakehouseError as error:
        console.say(error.message)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
