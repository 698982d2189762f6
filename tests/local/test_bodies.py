"""The machines' bodies: what Docker is asked for where it can't do all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import docker.errors
import pytest

from bakehouse.local.bodies import Birth, Bodies, BodyError
from bakehouse.local.drivers import DriverError

BIRTH = Birth("i-1", "snap-1", "192.0.2.9", "ip-192-0-2-9", "", b"", {}, memory=4096, disk=12, privileged=False)


class Engine:
    """Stand in for the client of an engine that refuses a size for disks, or refuses everything."""

    def __init__(self, refuses: str) -> None:
        self.asked: list[dict[str, object]] = []
        self.api = Mock(create_host_config=dict, create_container=self._create)
        self._refuses = refuses

    def _create(self, _: str, host_config: dict[str, object], **__: object) -> dict[str, str]:
        self.asked.append(host_config)
        if self._refuses != "--storage-opt" or host_config["storage_opt"]:
            raise docker.errors.APIError("500", explanation=f"{self._refuses} is not supported")
        return {"Id": "made"}


def test_the_disk_is_limited_where_the_engine_can() -> None:
    """An engine without quotas is asked for one once, and its machines have no limit there; all others are kept."""
    bodies, engine = Bodies("0123456789ab"), Engine("--storage-opt")
    vars(bodies)["docker"] = engine

    assert ["made", "made"] == [bodies._create(birth, "image") for birth in (BIRTH, replace(BIRTH, memory=512))]

    assert [{"size": "12G"}, None, None] == [one["storage_opt"] for one in engine.asked]
    limits = [(one["mem_limit"], one["memswap_limit"], one["pids_limit"]) for one in engine.asked]
    assert [("4096m", "4096m", 4096)] * 2 + [("512m", "512m", 1024)] == limits


def test_another_refusal_is_told() -> None:
    """What an engine refuses for another reason is not tried again without a limit."""
    bodies, engine = Bodies("0123456789ab"), Engine("everything")
    vars(bodies)["docker"] = engine

    with pytest.raises(docker.errors.APIError, match="everything is not supported"):
        bodies._create(BIRTH, "image")

    assert 1 == len(engine.asked)


def test_images_that_go_meanwhile_are_no_fault() -> None:
    """Images are listed in one look: what asked for each of them would fail when one goes in between."""
    rows: list[dict[str, Any]] = [{"Id": "sha256:1", "Labels": {"a": "b"}, "RepoTags": ["a:b"]}]
    rows += [{"Id": name, "Labels": {}, "RepoTags": tags} for name, tags in (("2", ["<none>:<none>"]), ("3", None))]
    bodies = Bodies("0123456789ab")
    vars(bodies)["docker"] = Mock(
        **{"api.images.return_value": rows, "images.get.side_effect": docker.errors.NotFound("")}
    )

    assert [("sha256:1", {"a": "b"}, ["a:b"]), ("2", {}, []), ("3", {}, [])] == bodies.images()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"refused": "no such process"}, "machine i-1 can't be fitted out: no such process"),
        (DriverError("the fitter did not answer"), "the fitter did not answer"),
    ],
    ids=["refused", "no answer"],
)
def test_a_machine_that_can_not_be_fitted_out_is_off(answer: Any, why: str) -> None:
    """It would wait for what doesn't come, so it is switched off, and its start has failed."""
    bodies, container = Bodies("0123456789ab"), Mock(id="4f", attrs={"State": {"Pid": 4711}})
    vars(bodies)["docker"] = Mock(**{"containers.get.return_value": container})
    vars(bodies)["_fitter"] = Mock(ask=Mock(side_effect=[answer]))

    with pytest.raises(BodyError, match=why):
        bodies.start("i-1")

    assert ["start", "kill"] == [call[0] for call in container.method_calls]
