"""The local EC2 of the tests, and what its tests share: a client, a group, a key pair, a launcher of machines."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from samples import PACKER

from bakehouse import documents, local, system
from bakehouse.accounts import rights
from bakehouse.local import checkouts, policies, signatures
from bakehouse.local.bodies import PRIVILEGED

ROOT = Path(__file__).parent.parent

ANYBODY = "0.0.0.0/0"
CALLER = "127.0.0.1/32"


def wait(look: Callable[[], Any], seconds: float = 200) -> Any:
    """Look until the answer is truthy and return it; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {look()}")


def describe(ec2: Any, *ids: str) -> list[dict[str, Any]]:
    """Return the instances' descriptions in the order of their IDs."""
    found = {
        one["InstanceId"]: one
        for reservation in ec2.describe_instances(InstanceIds=list(ids))["Reservations"]
        for one in reservation["Instances"]
    }
    return [found[one] for one in ids]


def state_of(ec2: Any, instance_id: str) -> str:
    """Return an instance's state."""
    return str(describe(ec2, instance_id)[0]["State"]["Name"])


def wait_for_state(ec2: Any, instance_id: str, state: str) -> None:
    """Wait until an instance is in a state."""
    wait(lambda: state_of(ec2, instance_id) == state)


def status_of(ec2: Any, instance_id: str) -> str:
    """Return what DescribeInstanceStatus says of an instance."""
    found = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    return str(found[0]["InstanceStatus"]["Status"]) if found else "none"


def connects(address: str, port: int) -> bool:
    """Tell whether a TCP connection can be made."""
    try:
        socket.create_connection((address, port), timeout=10).close()
    except OSError:
        return False
    return True


PRIVILEGED_MACHINE = [{"ResourceType": "instance", "Tags": [{"Key": PRIVILEGED, "Value": "yes"}]}]
"""The TagSpecifications of a machine whose root may mount, as a recipe may ask for."""


class Machines:
    """Launch machines for one test and terminate them after it."""

    def __init__(self, ec2: Any, key_file: Path, key_name: str, group: str, base: str) -> None:
        self.ec2, self.key_file, self.key_name, self.group, self.base = ec2, key_file, key_name, group, base
        self.launched: list[str] = []
        self.user = "admin"

    def launch(self, image: str = "", count: int = 1, until: str = "running", **more: Any) -> list[str]:
        """Launch machines and wait until they are in a state."""
        more = {"KeyName": self.key_name, "SecurityGroupIds": [self.group], **more}
        answer = self.ec2.run_instances(
            ImageId=image or self.base, MinCount=count, MaxCount=count, InstanceType="t3.small", **more
        )
        ids = [one["InstanceId"] for one in answer["Instances"]]
        self.launched += ids
        for one in ids:
            wait_for_state(self.ec2, one, until)
        return ids

    def terminate(self) -> None:
        """Terminate what was launched."""
        if self.launched:
            self.ec2.terminate_instances(InstanceIds=self.launched)
            while self.launched:
                wait_for_state(self.ec2, self.launched.pop(), "terminated")

    def ssh(self, instance_id: str, command: str, key: Path | None = None) -> str:
        """Run a command on a machine as its default user and return what it printed."""
        address = describe(self.ec2, instance_id)[0]["PublicIpAddress"]
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
        argv = ["ssh", "-i", str(key or self.key_file), *(part for o in options for part in ("-o", o))]
        done = subprocess.run(
            [*argv, f"{self.user}@{address}", command], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def image(self, instance_id: str, name: str, **more: Any) -> str:
        """Make an image of a machine and wait until it's available."""
        image = str(self.ec2.create_image(InstanceId=instance_id, Name=name, **more)["ImageId"])
        wait(lambda: self.ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
        return image


class LocalEc2:
    """Drive one local EC2 of its own, in a state folder of its own, as a person does: by the command line."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.folder = state / "local"
        self.program = ROOT / "inv"
        self.environ = {**os.environ, "BAKEHOUSE_STATE": str(state)}
        self.endpoint = ""
        self._tasks: list[str] = []
        self._turn = threading.Lock()

    def inv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a task with the rights that it needs, and no others, and return what it said; fail when it fails."""
        self._give_plugins()
        with self._limited(arguments[0]):
            done = subprocess.run(
                [self.program, *arguments],
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=1200,
                cwd=ROOT,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def _give_plugins(self) -> None:
        """Put the plugins of the Packer that tests bake with where the kit would fetch them to."""
        plugins = self.state / "tools/plugins"
        if PACKER in os.environ and not plugins.exists():
            self.state.mkdir(mode=0o700, exist_ok=True)
            shutil.copytree(Path(os.environ[PACKER]) / "plugins", plugins)  # Packer follows no links there

    @contextlib.contextmanager
    def _limited(self, task: str) -> Iterator[None]:
        """Have the policy enforced that ``./inv policy`` prints for a task, and for those that run beside it."""
        if task not in rights.TASKS:
            yield
            return
        self._limit(lambda: self._tasks.append(task))
        try:
            yield
        finally:
            self._limit(lambda: self._tasks.remove(task))

    def _limit(self, change: Callable[[], None]) -> None:
        file = self.folder / policies.FILE
        with self._turn:
            change()
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._tasks:
                documents.replace(file, json.dumps(rights.policy(self._tasks)).encode())
            else:
                file.unlink(missing_ok=True)

    def up(self) -> str:
        """Start it, with its base, and return what was said."""
        said = self.inv("local.up").stderr
        self.endpoint = json.loads(self.inv("local.status", "--json").stdout)["endpoint"]
        return said

    def kill(self) -> None:
        """End the server as a crash would."""
        pid = json.loads((self.folder / "server.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        wait(lambda: not connects("127.0.0.1", int(self.endpoint.rpartition(":")[2])))

    def variables(self, key: str = signatures.OWN) -> dict[str, str]:
        """Return the variables of a client with the key of that name; it is made if it is missing."""
        file = self.folder / signatures.FILE
        told = json.loads(file.read_text())
        if key not in told:
            told[key] = {"id": key, "secret": secrets.token_hex(20)}
            documents.replace(file, json.dumps(told).encode())
        return local.variables(self.endpoint, signatures.read(self.folder)[key])

    def client(self, service: str, key: str = "tests", config: Any = None) -> Any:
        """Return a plain boto3 client, by default with another access key than the tasks have."""
        told = self.variables(key)
        session = boto3.Session(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
        return session.client(service, endpoint_url=self.endpoint, config=config)

    def ask(self, question: str, **how: Any) -> dict[str, Any]:
        """Ask one of the kit's own questions."""
        return local.ask(self.variables(), question, **how)

    def log(self) -> str:
        """Return the last lines that the server has logged."""
        file = self.folder / local.LOG
        return "\n".join(file.read_text().splitlines()[-60:]) if file.exists() else "none"

    def copy_base(self, docker_image: str) -> None:
        """Make a base of this one's own of what another local EC2's holds; nothing when that has gone by now."""
        made = subprocess.run(["docker", "create", docker_image, "true"], capture_output=True, text=True, check=False)
        if made.returncode:
            return
        told = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", docker_image))
        labels = {**told, "bakehouse.checkout": mark(self.state)}
        changes = (part for key, value in labels.items() for part in ("--change", f"LABEL {key}={json.dumps(value)}"))
        with subprocess.Popen(["docker", "export", made.stdout.strip()], stdout=subprocess.PIPE) as exported:
            subprocess.run(["docker", "import", *changes, "-"], stdin=exported.stdout, check=True, capture_output=True)
        docker("rm", made.stdout.strip())
        assert exported.returncode == 0

    def borrow_base(self, other: LocalEc2) -> None:
        """Take another local EC2's base for this one's own, which is quicker than making it."""
        label = f"FROM {debian_of(other)}\nLABEL bakehouse.checkout={mark(self.state)}\n"
        subprocess.run(["docker", "build", "--quiet", "-"], input=label, text=True, check=True, capture_output=True)


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, as somebody, and return what it printed."""
    line = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


class Checkout:
    """Hold a copy of this checkout, whose tasks get an environment, such as the tests' local EC2's."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder, self.environ = folder, environ
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for file in git(ROOT, *listed[1:]).splitlines():
            if (ROOT / file).is_file() and not file.startswith("tests/"):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, folder / file)

    def inv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a task, in this checkout's venv; fail with all that was said when it fails."""
        line = [sys.executable, "-m", "invoke", *words]
        path = f"{Path(sys.executable).parent}:{self.environ['PATH']}"
        environ = {**self.environ, "PATH": path}
        done = subprocess.run(line, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


class DockerProxy:
    """Stand before the Docker engine's socket and let through what ``passes``: all, pings alone, or nothing."""

    def __init__(self, path: Path) -> None:
        self.host = f"unix://{path}"
        self._passes: Callable[[bytes], bool] = lambda _: True
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def let(self, passes: Callable[[bytes], bool]) -> None:
        """End every connection; on new ones each request that doesn't pass ends its connection."""
        self._passes = passes
        while self._open:
            _end(self._open.pop())

    def close(self) -> None:
        """End every connection, and refuse new ones."""
        _end(self._listener)
        self.let(lambda _: False)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer, inner = self._listener.accept()[0], socket.socket(socket.AF_UNIX)
                inner.connect("/var/run/docker.sock")
                self._open += [inner, outer]
                threading.Thread(target=self._carry, args=(inner, outer, lambda _: True), daemon=True).start()
                threading.Thread(target=self._carry, args=(outer, inner, self._passes), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, passes: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while (chunk := source.recv(65536)) and passes(chunk):
                sink.sendall(chunk)
            if chunk:
                _end(source)
            sink.shutdown(socket.SHUT_WR)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextlib.contextmanager
def another(local_ec2: LocalEc2, state: Path) -> Iterator[LocalEc2]:
    """Give a second local EC2 beside the first, down and with a base; nothing is left of it afterwards."""
    made = LocalEc2(state)
    made.state.mkdir(mode=0o700)
    made.borrow_base(local_ec2)
    try:
        yield made
    finally:
        made.environ.pop("DOCKER_HOST", None)
        made.inv("local.reset", "--yes")


@contextlib.contextmanager
def _one_makes_the_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the file that names the base's Docker image, to one worker at a time: the first makes it, others copy it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with system.alone(folder / "base.lock"):
        yield folder / "base"


@pytest.fixture(scope="session")
def local_ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEc2]:
    """Give the local EC2 of this test run; nothing is left of it afterwards."""
    started = LocalEc2(tmp_path_factory.mktemp("state"))
    try:
        with _one_makes_the_base(tmp_path_factory) as made:
            if made.exists():
                started.copy_base(made.read_text())
            started.up()
            made.write_text(debian_of(started))
        yield started
    finally:
        ours = f"label=bakehouse.checkout={mark(started.state)}"
        started.inv("local.reset", "--yes")
        assert docker("ps", "--all", "--quiet", "--filter", ours) == ""
        assert docker("images", "--all", "--quiet", "--filter", ours) == ""
        assert docker("volume", "ls", "--quiet", "--filter", ours) == ""


@pytest.fixture(scope="session")
def baked(local_ec2: LocalEc2) -> subprocess.CompletedProcess[str]:
    """Give what one bake of the recipe jenkins said, with its proof, for all tests; its stdout is the image's ID."""
    return local_ec2.inv("bake", "--prove")


def mark(state: Path) -> str:
    """Return the label's value that tells the things of one local EC2; before its start it gets one."""
    (state / "local").mkdir(exist_ok=True)
    return checkouts.own((state / "local").resolve())


def docker(*arguments: str) -> str:
    """Run a Docker command and return what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def ec2(local_ec2: Any) -> Any:
    """Give a boto3 client of the local EC2."""
    return local_ec2.client("ec2")


@pytest.fixture(scope="module")
def base(ec2: Any) -> str:
    """Give the base's image ID, found as Debian's own AMIs are found."""
    found = ec2.describe_images(Owners=["136693071363"], Filters=[{"Name": "name", "Values": ["debian-13-amd64-*"]}])
    assert len(found["Images"]) == 1
    return str(found["Images"][0]["ImageId"])


@pytest.fixture(scope="session")
def debian_base(local_ec2: LocalEc2) -> str:
    """Give the Docker image of the Debian base that the test run's local EC2 has made."""
    return debian_of(local_ec2)


def debian_of(made: LocalEc2) -> str:
    """Return the ID of the Docker image of a local EC2's Debian 13, which may not be its only base."""
    labels = (f"bakehouse.checkout={mark(made.state)}", "bakehouse.kind=base", "bakehouse.base=debian-13")
    filters = (part for label in labels for part in ("--filter", f"label={label}"))
    return docker("images", "--no-trunc", "--quiet", *filters).split()[0]


@pytest.fixture(scope="session")
def rpm_base(local_ec2: LocalEc2) -> str:
    """Give the image ID of the base that stands in for Amazon Linux, made once for the test run."""
    return _made(local_ec2, "rpm-stand-in", "self")


@pytest.fixture(scope="session")
def bookworm_base(local_ec2: LocalEc2) -> str:
    """Give the image ID of the Debian 12 base, made once for the test run."""
    return _made(local_ec2, "debian-12", "136693071363")


def _made(local_ec2: LocalEc2, base: str, owner: str) -> str:
    local_ec2.inv("local.up", "--base", base)
    named = [{"Name": "name", "Values": [f"{base}-*"]}]
    [found] = local_ec2.client("ec2").describe_images(Owners=[owner], Filters=named)["Images"]
    return str(found["ImageId"])


@pytest.fixture(scope="module")
def group(ec2: Any) -> Iterator[str]:
    """Give a security group that lets the caller in at port 22."""
    made = ec2.create_security_group(GroupName="test", Description="test")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permission(22, CALLER))
    yield made
    ec2.delete_security_group(GroupId=made)


@pytest.fixture(scope="module")
def key(ec2: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Give an ed25519 key pair that EC2 made: its name and the private key's file."""
    made = ec2.create_key_pair(KeyName="test", KeyType="ed25519")
    yield "test", private_key(tmp_path_factory.mktemp("key") / "test.pem", made["KeyMaterial"])
    ec2.delete_key_pair(KeyName="test")


@pytest.fixture
def machines(ec2: Any, key: tuple[str, Path], group: str, base: str) -> Iterator[Machines]:
    """Give a launcher whose machines are terminated after the test."""
    made = Machines(ec2, key[1], key[0], group, base)
    yield made
    made.terminate()


@pytest.fixture(scope="module")
def shared(ec2: Any, key: tuple[str, Path], group: str, base: str) -> Iterator[tuple[Machines, str]]:
    """Give one running machine that the tests which only look may share."""
    made = Machines(ec2, key[1], key[0], group, base)
    yield made, made.launch()[0]
    made.terminate()


def private_key(path: Path, material: str) -> Path:
    """Write a private key as ssh wants it."""
    path.touch(mode=0o600)
    path.write_text(material)
    return path


def permission(port: int, cidr: str, last: int | None = None) -> list[dict[str, Any]]:
    """Return the IpPermissions of one TCP rule."""
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": last or port, "IpRanges": [{"CidrIp": cidr}]}]


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    """Return the error code with which EC2 refuses a call."""
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    return str(refused.value.response["Error"]["Code"])
