"""What every test starts from: nobody's credentials, settings or home, and a Docker engine where one is used."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import hypothesis
import pytest
from botocore import loaders
from samples import PACKER
from xdist.scheduler import LoadScopeScheduling

from bakehouse import packers, tools
from bakehouse.errors import ToolError

hypothesis.settings.register_profile("kit", database=None, deadline=None)  # no folder, and no clock that fails a test
hypothesis.settings.load_profile("kit")

pytest_plugins = ["ec2_fixtures", "moto_fixtures", "release_fixtures", "stand_in_fixtures", "task_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the account on which the tests of the tier aws run."""
    parser.addoption(
        "--account", default="local", help="an AWS profile for the tests of the tier aws; local by default"
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="try the roles on every ansible-core that they claim, and all quick tests on a bare Debian 13",
    )
    parser.addoption(
        "--packer", default="", help="bake with the Packer and the plugins in this folder: python -m tests.build_packer"
    )
    parser.addoption(
        "--moto", default="", help="another version of moto, with which states of the local EC2 are shared"
    )
    parser.addoption("--rounds", default="10", help="how often what happens at random moments is tried; 10 by default")


@pytest.fixture(scope="session", autouse=True)
def _nobody(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take the person's AWS credentials, the kit's own settings and the home folder out of the environment.

    They stay where a real account was asked for, which needs them.
    """
    if request.config.getoption("account") != "local":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "BAKEHOUSE_", "ANSIBLE_", "PACKER_", "PKR_", "INVOKE_", "MOLECULE_")):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        if folder := request.config.getoption("packer"):
            patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
            patch.setenv(PACKER, folder)
            patch.setattr(packers, "_folder", lambda _: Path(folder) / "plugins")
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """Let all sessions of boto3 share what botocore has read of AWS's services, as those of one task do.

    A task in a test's own process would read it anew, which takes three times as long as all else that the task does.
    """
    read: dict[Any, Any] = {}

    def sharing(*given: Any) -> loaders.Loader:
        made = loaders.create_loader(*given)
        vars(made)["_cache"] = read.setdefault(given, {})
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", sharing)
        yield


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Give what presses Ctrl-C on the test, which Python answers with a KeyboardInterrupt whatever was done before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def signals() -> Iterator[None]:
    """Give the test its signals back, which a task leaves ignored that was stopped: its process is about to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, former in before.items():
        signal.signal(number, former)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the local EC2s that the test used have logged last."""
    from ec2_fixtures import LocalEc2

    report = yield
    for name, used in getattr(item, "funcargs", {}).items():
        if report.failed and isinstance(used, LocalEc2):
            report.sections.append((f"log of {name}", used.log()))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first the modules whose tests may take longest, then what else starts machines: so workers end together."""
    allowed: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        allowed[item.path] = max(allowed.get(item.path, 0), limit.args[0] if limit else 0)
    machines = {item.path for item in items if item.get_closest_marker("docker")}
    items.sort(key=lambda item: (-allowed[item.path], item.path not in machines))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole modules, and to one of them those that share a bake."""
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = _scope
    return scheduling


def _scope(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return "baked" if Path(file).stem in ("test_examples", "test_proofs_of_images", "test_story") else file


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the Docker engine running before the first test that uses it."""
    if (
        session.config.option.collectonly
        or session.config.option.account != "local"
        or not any(item.get_closest_marker("docker") for item in session.items)
    ):
        return
    try:
        tools.ensure("docker")
    except ToolError as error:
        pytest.exit(error.message, returncode=2)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show on which cores the roles were tried, and the seconds that each role took there."""
    done = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind) if one.when == "call"]
    told = [value for report in done for name, value in report.user_properties if name == "core"]
    if told:
        terminalreporter.section("roles on each ansible-core, in seconds")
        for core, seconds in told:
            columns = "  ".join(f"{role} {spent:4.0f}" for role, spent in seconds.items())
            terminalreporter.line(f"{core:<36}  {columns}  together {sum(seconds.values()):4.0f}")
