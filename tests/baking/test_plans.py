"""Plans: a bake is due when something has changed, and what has changed is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bakehouse import images, recipes
from bakehouse.accounts import TAG, Account, tag_list
from bakehouse.baking import orders, plans
from bakehouse.baking.plans import UNREACHABLE
from bakehouse.images import Image
from bakehouse.recipes import inputs
from bakehouse.records import store
from bakehouse.settings import ROOT, Settings

NOW = {"base image": "ami-1", "roles/web/tasks/main.yml": "sha256:1"}
OFFERED = {**NOW, "packages http://deb": "sha256:1"}
AGAIN = {**NOW, "packages http://same": "sha256:1"}
LOOKED_UP = {**NOW, "lookup pipe": "looked up by the bake"}
BEFORE = {**NOW, "roles/web/tasks/main.yml": "sha256:0"}


def image(name: str, of: Mapping[str, str] | None = NOW, state: str = "available", **tags: str) -> Image:
    """Return an image that was baked of these inputs."""
    told = {"inputs": inputs.digest(of), **tags} if of else tags
    ours = tag_list({f"{TAG}{key}": value for key, value in told.items()})
    answer = {"ImageId": name, "Name": name, "State": state, "CreationDate": "2026-01-01T00:00:00.000Z", "Tags": ours}
    return Image.from_aws(answer)


DECISIONS: dict[str, tuple[list[Image], Mapping[str, Any], Mapping[str, str], str, list[str]]] = {
    "no image": ([], {}, NOW, "", ["there is no image of this recipe yet"]),
    "the same": ([image("ami-a")], {}, NOW, "ami-a", ["image ami-a (ami-a) was baked from the same inputs"]),
    "the same, proven": (
        [image("ami-a", verdict="pass sha256:1")],
        {},
        NOW,
        "ami-a",
        ["image ami-a (ami-a) was baked from the same inputs, and it is proven"],
    ),
    "the newest of the same": (
        [image("ami-c", BEFORE), image("ami-b"), image("ami-a")],
        {},
        NOW,
        "ami-b",
        ["image ami-b (ami-b) was baked from the same inputs"],
    ),
    "unfit": (
        [image("ami-d", state="pending"), image("ami-c", verdict="fail sha256:1"), image("ami-b", revoked="why")],
        {},
        NOW,
        "",
        [
            "image ami-d was baked from the same inputs, but is pending",
            "image ami-c was baked from the same inputs, but its proof failed",
            "image ami-b was baked from the same inputs, but was revoked",
        ],
    ),
    "an older one that is fit": (
        [image("ami-b", verdict="fail sha256:1"), image("ami-a")],
        {},
        NOW,
        "ami-a",
        ["image ami-a (ami-a) was baked from the same inputs"],
    ),
    "a change": (
        [image("ami-b", None), image("ami-a", BEFORE)],
        {"ami-a": BEFORE},
        NOW,
        "",
        ["changed: roles/web/tasks/main.yml, since image ami-a"],
    ),
    "what nobody can look up again": (
        [image("ami-a", LOOKED_UP)],
        {"ami-a": LOOKED_UP},
        NOW,
        "",
        ["changed: lookup pipe, looked up by the bake before, can't be seen from here now, since image ami-a"],
    ),
    "no record": (
        [image("ami-b", BEFORE), image("ami-a", BEFORE)],
        {},
        NOW,
        "",
        ["the inputs of the recipe's images are not recorded here (images: 2)"],
    ),
    "packages": (
        [image("ami-b", OFFERED, **{"repository-1": "http://deb"})],
        {"ami-b": OFFERED},
        NOW,
        "",
        ["changed: packages http://deb, another content before, can't be reached now, since image ami-b"],
    ),
    "the same packages": (
        [image("ami-b", AGAIN, **{"repository-1": "http://same"})],
        {},
        NOW,
        "ami-b",
        ["image ami-b (ami-b) was baked from the same inputs"],
    ),
}


@pytest.mark.parametrize(("found", "known", "now", "spare", "reasons"), DECISIONS.values(), ids=DECISIONS)
def test_decide(
    found: list[Image], known: Mapping[str, Any], now: Mapping[str, str], spare: str, reasons: list[str]
) -> None:
    """An image that is fit and was baked from the same inputs spares a bake; else each reason for one is a line."""
    decided, told = plans.decide(
        found,
        now,
        {"http://deb": UNREACHABLE, "http://same": "sha256:1"},
        lambda one: known.get(one.id),
        lambda before: inputs.again(ROOT, before, b"key"),
    )

    assert (spare, reasons) == (decided.id if decided else "", told)


INDEX = "https://example.com/dists/stable/InRelease"


def test_a_repository_that_stands_in_is_known_before() -> None:
    """Of the indexes that a machine tells those aren't taken again whose repository's content is an input already."""
    known = {"packages http://packages:80/jenkins": "sha256:1", "kit": "1"}
    offered = {"http://packages:80/jenkins/binary/InRelease": "sha256:2", INDEX: "sha256:3"}

    assert {INDEX: "sha256:3"} == plans.fetched(known, offered)
    assert {**known, f"packages {INDEX}": "sha256:3"} == plans.whole(known, {INDEX: "sha256:3"})


@pytest.fixture
def kit(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the kit's own settings with a state of its own, on an EC2 where any image is the base."""
    start = account.ec2.register_image(Name="debian-13-amd64-1")["ImageId"]
    monkeypatch.setattr(images, "base", lambda *_: images.there(account, start))
    monkeypatch.setattr(plans, "connect", lambda *_, **__: account)
    monkeypatch.setattr(plans, "states", lambda several: dict.fromkeys(several, "sha256:1"))
    return Settings(root=ROOT, state=tmp_path, account="local", region="", recipe="nginx")


def baked(account: Account, settings: Settings, plan: plans.Plan) -> str:
    """Have an image as if it had been baked as planned."""
    image_id = account.ec2.register_image(Name="bakehouse-nginx-1")["ImageId"]
    whole = plans.whole(plan.inputs, plans.fetched(plan.inputs, {INDEX: "sha256:1"}))
    tags = {"recipe": "nginx", "kind": "image", "inputs": inputs.digest(whole)}
    ours = {f"{TAG}{key}": value for key, value in tags.items()}
    images.tag(account, image_id, ours | images.repository_tags([INDEX]))
    store.keep(settings, image_id, {store.INPUTS: json.dumps(whole)})
    return str(image_id)


@pytest.mark.local
def test_draw(account: Account, kit: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan spares the second bake; a new base, kit, repository state or recipe's value makes one due, by its name."""
    first = plans.draw(kit)
    made = baked(account, kit, first)
    second = plans.draw(kit)
    other = account.ec2.register_image(Name="debian-13-amd64-2")["ImageId"]
    was = first.order.start.id
    monkeypatch.setattr(images, "base", lambda *_: images.there(account, other))
    monkeypatch.setattr(orders, "__version__", "9")
    monkeypatch.setattr(plans, "states", lambda several: dict.fromkeys(several, "sha256:2"))
    load = recipes.load
    monkeypatch.setattr(recipes, "load", lambda told: replace(load(told), volume_size=9))

    third = plans.draw(kit)

    assert (None, ("there is no image of this recipe yet",)) == (first.image, first.reasons)
    assert (made, first.inputs) == (second.image.id if second.image else "", second.inputs)
    assert third.image is None
    assert [
        f"changed: base image, {was} before, {other} now, since image {made}",
        f"changed: kit, {first.inputs['kit']} before, 9 now, since image {made}",
        f"changed: packages {INDEX}, since image {made}",
        f"changed: packer/recipes/nginx.pkrvars.hcl: volume_size, 8 before, 9 now, since image {made}",
    ] == list(third.reasons)
