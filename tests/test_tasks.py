"""The command line as a person uses it: what is wrong is said in a line with a hint, and exits 2."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from samples import PARTS
from task_fixtures import Outcome, Run

from bakehouse.settings import ROOT


@dataclass
class Place:
    """Hold a checkout of one's own: its folder, and the environment that tasks are run with in it."""

    folder: Path
    environment: dict[str, str]

    def inv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a task as a person does who has nobody to answer a question."""
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def files(self) -> list[Path]:
        """Return the files of a recipe, whichever."""
        return sorted(
            file for part in ("inventory", "packer", "playbooks") for file in (self.folder / part).rglob("*.*ml")
        )

    def write(self, path: str, text: str) -> Path:
        """Write a file of the checkout."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def change(self, path: str, before: str, after: str) -> None:
        """Replace words that are in a file of the checkout."""
        text = (self.folder / path).read_text()
        assert before in text
        self.write(path, text.replace(before, after))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a checkout with a home of its own and no credentials."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    (tmp_path / "home").mkdir()
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BAKEHOUSE_", "DOCKER_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**ours, "HOME": str(tmp_path / "home"), "PATH": path, "AWS_EC2_METADATA_DISABLED": "true"}
    return Place(folder, environment)


def _nothing(place: Place) -> None:
    """Leave the checkout as it is."""


def _account(*lines: str) -> Callable[[Place], None]:
    """Give the person an AWS profile ``mine`` with these lines."""

    def change(place: Place) -> None:
        config = place.write("aws-config", "\n".join(["[profile mine]", *lines]))
        place.environment |= {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    return change


_KEYS = ("aws_access_key_id = AKIAEXAMPLE", "aws_secret_access_key = example")


def _set(**variables: str) -> Callable[[Place], None]:
    """Set environment variables."""
    return lambda place: place.environment.update(variables)


def _in_file(path: str, before: str, after: str) -> Callable[[Place], None]:
    """Change words in a file of the checkout."""
    return lambda place: place.change(path, before, after)


def _file(path: str, text: str) -> Callable[[Place], None]:
    """Add a file to the checkout."""

    def change(place: Place) -> None:
        place.write(path, text)

    return change


def _gone(path: str) -> Callable[[Place], None]:
    """Take a file or folder out of the checkout."""

    def change(place: Place) -> None:
        (place.folder / path).rename(place.folder / "gone")

    return change


RECIPE = "packer/recipes/jenkins.pkrvars.hcl"
VARS = "inventory/group_vars/jenkins.yml"
ACCOUNTS = "accounts.yml"

BAD_INPUT = {
    "unknown flag": ("launch --nonsense", _nothing, "launch has no flag --nonsense"),
    "unknown task": ("lunch", _nothing, "there is no task lunch"),
    "a flag without its value": ("launch --count", _nothing, "count"),
    "a task without its image": ("retire", _nothing, "retire needs IMAGE"),
    "unknown recipe": ("bake --recipe nope", _nothing, "there is no recipe nope"),
    "a recipe's name that is none": ("bake --recipe ../x", _nothing, "recipe '../x' is not a name"),
    "a recipe with a syntax error": ("bake", _in_file(RECIPE, "recipe ", "recipe = = "), f"{RECIPE}:2: syntax error"),
    "a recipe with an unknown key": ("bake", _in_file(RECIPE, "volume_size", "volume"), "unknown key volume"),
    "a playbook that isn't there": ("bake", _gone("playbooks/jenkins.yml"), "no playbook playbooks/jenkins.yml"),
    "a role that isn't there": ("bake", _gone("roles/java"), "role java"),
    "a playbook for nobody": ("bake", _in_file("playbooks/jenkins.yml", "hosts: jenkins", "hosts: x"), "no play "),
    "a new recipe that is there": ("new-recipe jenkins --roles nginx", _nothing, f"{RECIPE} exists already"),
    "a new recipe of an unknown role": ("new-recipe web --roles nginx,x", _nothing, "there is no role x"),
    "unknown base": ("bake --base nope", _nothing, "there is no base nope"),
    "a version of Packer that is none": ("bake", _set(BAKEHOUSE_PACKER="latest"), "BAKEHOUSE_PACKER is 'latest'"),
    "a mirror that is no URL": ("bake", _set(BAKEHOUSE_RELEASES="mirror"), "BAKEHOUSE_RELEASES is 'mirror'"),
    "no Docker engine": ("images", _set(DOCKER_HOST="unix:///no/docker.sock"), "(DOCKER_HOST) does not answer"),
    "unknown account": ("images --account nope", _nothing, "there is no account nope"),
    "an account without credentials": ("images --account mine", _account("region = eu-west-1"), "has no credentials"),
    "an account without a region": ("images --account mine", _account(*_KEYS), "mine has no region"),
    "a state folder of another user": ("images", _set(BAKEHOUSE_STATE="theirs"), "belongs to another user"),
    "an unknown key of an account": ("bake", _file(ACCOUNTS, "local: {tag: {}}"), f"{ACCOUNTS}: local: unknown key"),
    "another account's name": ("images", _file(ACCOUNTS, "x: {name: y}"), f"{ACCOUNTS}: x: name 'y' is no pattern"),
    "an account that is no map": ("policy", _file(ACCOUNTS, "local: 1"), f"{ACCOUNTS}: local is not a map"),
    "a package that isn't there": ("bake --jenkins-package no.deb", _nothing, "no.deb can't be read"),
    "a package that isn't a deb": ("bake --jenkins-package x", _file("x", "PK\x03\x04"), "x is not a Debian package"),
    "a fate for a failed bake": ("bake --on-failure explode", _nothing, "--on-failure explode"),
    "a fate for a machine": ("launch --on-failure explode", _nothing, "--on-failure explode"),
    "no machine": ("launch --count 0", _nothing, "--count 0 "),
    "a negative number": ("launch --count -1", _nothing, "--count -1 "),
    "a count that is no number": ("launch --count x", _nothing, "--count x "),
    "a type that is none": ("launch --type huge", _nothing, "--type huge "),
    "a network that is none": ("launch --allow 1.2.3.4/99", _nothing, "--allow 1.2.3.4/99 "),
    "user-data that isn't there": ("launch --user-data none", _nothing, "--user-data none can't be read"),
    "user-data that is too long": ("launch --user-data u", _file("u", "#" * 16385), "has 16385 bytes; EC2 takes 16384"),
    "a service without its port": ("open", _in_file(VARS, "  port: *port\n", ""), "bakehouse_service: port is missing"),
    "two images": ("launch --image ami-1 --channel stable", _nothing, "--image and --channel exclude each other"),
    "a channel's name that is none": ("promote --channel x/y", _nothing, "channel name 'x/y' is not valid"),
    "the bakes' own channel": ("rollback --channel candidate", _nothing, "only bakes move channel candidate"),
    "a reason that is too long": (f"promote --why {'x' * 257}", _nothing, "--why has 257 characters"),
    "terminate what": ("terminate", _nothing, "--machine or --all is missing"),
    "terminate one and all": ("terminate --machine i-1 --all", _nothing, "--machine and --all exclude each other"),
    "revoke why": ("revoke ami-0123456789abcdef0", _nothing, "--why is missing"),
    "a negative number of images": ("cleanup --keep -1", _nothing, "--keep -1 is not a number"),
    "an age that is none": ("cleanup --older-than x", _nothing, "--older-than x is not a number"),
    "everybody": ("share ami-0123456789abcdef0 --account-id all", _nothing, "all is not an account's ID"),
    "unknown scenario": ("test-role --scenario nope", _nothing, "there is no scenario nope"),
    "unknown platform": ("test-role --platform nope", _nothing, "there is no platform nope"),
    "a role without a scenario": ("test-role --role nope", _nothing, "there is no role with a scenario nope"),
    "a report nowhere": ("probe --junit no/r.xml", _nothing, "--junit no/r.xml can't be written: No such file or dir"),
    "a report that is a folder": ("test-role --junit roles", _nothing, "--junit roles can't be written: Is a dir"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "change", "words"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(place: Place, run_task: Run, line: str, change: Callable[[Place], None], words: str) -> None:
    """What a person got wrong is one line that names it and one that helps; exit 2, nothing printed, nothing made."""
    change(place)
    if "BAKEHOUSE_STATE" in place.environment:
        place.environment["BAKEHOUSE_STATE"] = _theirs(place.folder)
    before = place.files()

    outcome = run_task(place.folder, place.environment, *line.split())

    told = outcome.stderr.splitlines()
    assert (2, "", 2) == (outcome.returncode, outcome.stdout, len(told)), outcome.stderr
    assert told[0].startswith("error: ") and words in told[0]
    assert told[1].startswith("hint: ")
    assert [] == [path for path in place.folder.glob(".bakehouse/**/*") if path.is_file() and path.stat().st_size]
    assert before == place.files()


@pytest.mark.parametrize("name", ["unknown flag", "unknown recipe", "an account without a region"])
def test_bad_input_to_a_process(place: Place, run_task: Run, name: str) -> None:
    """A process of its own, as a person starts it, says and does the same as the tests' own."""
    line, change, words = BAD_INPUT[name]
    change(place)

    real = place.inv(*line.split())

    assert (2, "") == (real.returncode, real.stdout)
    assert words in real.stderr
    here = run_task(place.folder, place.environment, *line.split())
    assert Outcome(real.returncode, real.stdout, real.stderr) == here


@pytest.mark.docker
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("launch", "there is no image of recipe jenkins on account local"),
        ("launch --image ami-xyz", "'ami-xyz' is not an image ID"),
        ("launch --image ami-0123456789abcdef0", "there is no image ami-0123456789abcdef0 on account local"),
        ("launch --image BASE", "was not baked by Bakehouse: it has no tag bakehouse:recipe"),
        ("launch --channel nope", "recipe jenkins has no channel nope on account local"),
        ("promote", "no image of recipe jenkins is proven on account local"),
        ("promote --image BASE", "was not baked by Bakehouse: it has no tag bakehouse:recipe"),
        ("rollback --channel nope", "recipe jenkins has no channel nope on account local"),
        ("copy BASE --region mars-1", "there is no region mars-1"),
        ("copy BASE --region me-south-1", "region me-south-1 is not enabled on account local"),
        ("revoke ami-0123456789abcdef0 --why x", "there is no image ami-0123456789abcdef0 on account local"),
        ("restore BASE", "was not baked by Bakehouse: it has no tag bakehouse:recipe"),
        ("show stabel", "recipe jenkins has no channel stabel on account local"),
        ("show BASE", "was not baked by Bakehouse: it has no tag bakehouse:recipe"),
        ("diff ami-xyz candidate", "'ami-xyz' is not an image ID"),
        ("retire ami-xyz --yes", "'ami-xyz' is not an image ID"),
        ("retire BASE --yes", "was not baked by Bakehouse: it has no tag bakehouse:recipe"),
        (
            "terminate --machine i-0123456789abcdef0 --yes",
            "machine i-0123456789abcdef0 does not exist on account local",
        ),
        ("ssh --machine x", "'x' is not a machine ID"),
        ("ssh -- true", "there is no machine of recipe jenkins on account local"),
        ("password", "there is no machine of recipe jenkins on account local"),
        ("probe", "there is no machine of recipe jenkins on account local"),
    ],
)
def test_bad_input_to_an_account(local_ec2: Any, ec2: Any, base: str, run_task: Run, line: str, words: str) -> None:
    """What can be known as wrong only by asking the account is refused likewise, and the account stays as it was."""
    before = _things(ec2)

    outcome = run_task(ROOT, local_ec2.environ, *line.replace("BASE", base).split())

    told = outcome.stderr.splitlines()
    assert (2, "", 2) == (outcome.returncode, outcome.stdout, len(told)), outcome.stderr
    assert told[0].startswith("error: ") and words in told[0]
    assert told[1].startswith("hint: ")
    assert before == _things(ec2)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_an_image_of_another_recipe(local_ec2: Any, ec2: Any, base: str, run_task: Run) -> None:
    """An image of another recipe is neither launched nor retired, and the hint names the recipe to ask for."""
    tag = {"Key": "bakehouse:recipe", "Value": "other"}
    ec2.create_tags(Resources=[base], Tags=[tag])
    try:
        for line in (["launch", "--image", base], ["retire", base, "--yes"]):
            outcome = run_task(ROOT, local_ec2.environ, *line)
            expected = f"error: image {base} is of recipe other, not jenkins\nhint: add --recipe other\n"
            assert (2, expected) == (outcome.returncode, outcome.stderr)
    finally:
        ec2.delete_tags(Resources=[base], Tags=[tag])


def _things(ec2: Any) -> tuple[Any, ...]:
    """Return what bad input could have made or lost."""
    return (
        sorted(one["ImageId"] for one in ec2.describe_images(Owners=["self", "136693071363"])["Images"]),
        [one["Instances"] for one in ec2.describe_instances()["Reservations"]],
        [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]],
        sorted(one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]),
    )


def _theirs(folder: Path) -> str:
    """Return a folder that belongs to another user."""
    if os.geteuid() != 0:
        return "/usr"
    theirs = folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    return str(theirs)


class _Sts(BaseHTTPRequestHandler):
    """Answer as AWS does when credentials have expired."""

    def do_POST(self) -> None:
        body = (
            b"<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code>"
            b"<Message>The security token included in the request is expired</Message></Error></ErrorResponse>"
        )
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def expired() -> Iterator[str]:
    """Serve AWS's answer to expired credentials, and return its URL."""
    server = HTTPServer(("127.0.0.1", 0), _Sts)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_expired_credentials(place: Place, run_task: Run, expired: str) -> None:
    """Credentials that AWS no longer takes are said to have expired, with how to get new ones."""
    there = ("[services here]", "sts =", f"  endpoint_url = {expired}")
    _account(*_KEYS, "region = eu-west-1", "services = here", *there)(place)

    outcome = run_task(place.folder, place.environment, "images", "--account", "mine")

    assert (2, "") == (outcome.returncode, outcome.stdout)
    assert "expired" in outcome.stderr.splitlines()[0]
    assert outcome.stderr.splitlines()[1].startswith("hint: run aws sso login")


def test_list(place: Place) -> None:
    """The list of tasks needs no state folder and makes none."""
    outcome = place.inv("--list")

    assert 0 == outcome.returncode
    assert "local.status" in outcome.stdout
    assert not (place.folder / ".bakehouse").exists()


def test_a_traceback_only_where_it_is_asked_for(place: Place) -> None:
    """BAKEHOUSE_DEBUG, which --debug sets, puts the traceback before the line; without it there is none."""
    plain = place.inv("bake", "--recipe", "nope")
    debug = place.inv("bake", "--recipe", "nope", "--debug")

    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback")
    assert plain.stderr == "\n".join(debug.stderr.splitlines()[-2:]) + "\n"


def test_local_status_starts_nothing(place: Place) -> None:
    """Where the local EC2 is down, its status says so in JSON, and it stays down."""
    outcome = place.inv("local.status", "--json")

    assert 0 == outcome.returncode, outcome.stderr
    assert '"endpoint": ""' in outcome.stdout
    assert not (place.folder / ".bakehouse" / "local" / "server.json").exists()


def test_a_local_ec2_without_its_engine_can_be_looked_at(place: Place, tmp_path: Path) -> None:
    """Where no Docker engine answers at its socket, status and down do their part."""
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "docker.sock"))
    place.environment["DOCKER_HOST"] = f"unix://{tmp_path}/docker.sock"

    told = json.loads(place.inv("local.status", "--json").stdout)

    assert ("", None, None, None) == (told["endpoint"], told["bases"], told["images"], told["machines"])
    assert f"the Docker engine at unix://{tmp_path}/docker.sock (DOCKER_HOST) does not answer" == told["docker"]
    assert 0 == place.inv("local.down").returncode
