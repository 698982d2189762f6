"""A Docker engine that takes its time: who only looks at the API doesn't wait for it."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import DockerProxy, LocalEc2, another, wait_for_state

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

log = logging.getLogger(__name__)


@pytest.fixture
def behind_proxy(local_ec2: LocalEc2, tmp_path: Path) -> Iterator[tuple[LocalEc2, DockerProxy]]:
    """Give a local EC2 that is up, and the proxy through which it talks to the Docker engine."""
    with another(local_ec2, tmp_path / "state") as made, tempfile.TemporaryDirectory() as short:
        proxy = DockerProxy(Path(short) / "docker.sock")
        made.environ["DOCKER_HOST"] = proxy.host
        made.up()
        yield made, proxy
        proxy.close()


def test_looks_do_not_wait_for_docker(behind_proxy: tuple[LocalEc2, DockerProxy]) -> None:
    """While Docker answers after five seconds, and machines come and go, every look is answered at once."""
    started, proxy = behind_proxy
    ec2 = started.client("ec2")
    base = ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    launch = {"ImageId": base, "MinCount": 1, "MaxCount": 1}
    here, goes = (ec2.run_instances(**launch)["Instances"][0]["InstanceId"] for _ in range(2))
    for one in (here, goes):
        wait_for_state(ec2, one, "running")
    proxy.let(_slowly)

    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        works: list[Future[Any]] = [
            pool.submit(ec2.run_instances, **launch),
            pool.submit(ec2.terminate_instances, InstanceIds=[goes]),
            pool.submit(ec2.get_console_output, InstanceId=here),
            pool.submit(started.ask, "adopt", seconds=120),
        ]
        looks = _looks(ec2, works)
    told = [work.result() for work in works]
    proxy.let(lambda _: True)

    assert time.monotonic() - begun > 10
    assert "pending" == told[0]["Instances"][0]["State"]["Name"]
    assert "systemd" in told[2]["Output"]
    log.info(
        "%d looks in %.1f s: median %.3f s, worst %.3f s",
        len(looks),
        time.monotonic() - begun,
        statistics.median(looks),
        max(looks),
    )
    assert statistics.median(looks) < 0.1
    assert max(looks) < 2.5  # where the lock was held, a look took five


def _slowly(request: bytes) -> bool:
    """Let a request through after five seconds, and a ping, which may not take five, after four."""
    time.sleep(4 if b"/_ping" in request else 5)
    return True


def _looks(ec2: Any, works: list[Future[Any]]) -> list[float]:
    """Return how long each look took, until the works are done."""
    took = []
    while wait(works, timeout=0.02).not_done:
        for look in (ec2.describe_instances, ec2.describe_images, ec2.describe_instance_status):
            begun = time.monotonic()
            look()
            took.append(time.monotonic() - begun)
    return took
