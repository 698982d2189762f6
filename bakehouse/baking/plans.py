"""Plans: whether a bake is due, and why: what would go into it is held against what went into the images there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from bakehouse import console, images, recipes, tools
from bakehouse.accounts import TAG, Account, connect
from bakehouse.baking import orders
from bakehouse.baking.orders import Order
from bakehouse.images import Image
from bakehouse.recipes import inputs, roles
from bakehouse.records import inspector, store
from bakehouse.settings import Settings

UNREACHABLE = "can't be reached"
"""What stands in place of the digest of what a repository offers."""

_INDEX_SECONDS = 5
_PACKAGES = "packages "  # what the names of repositories begin with among the inputs


@dataclass(frozen=True)
class Plan:
    """Hold what a bake would do.

    Attributes: cloud, the door to the account; order, what would be baked from what; commit, of the checkout; inputs,
    all that would go into it; image, the one that was baked of the same and need not be baked again, or None; reasons,
    why, a line each.
    """

    account: Account
    order: Order
    commit: str
    inputs: Mapping[str, str]
    image: Image | None
    reasons: tuple[str, ...]


def draw(settings: Settings, base: str = "", package_files: Mapping[str, Path] | None = None) -> Plan:
    """Return the plan of a bake of the recipe that the settings name; what it needs to know of is made or started.

    ``base`` names another base than the recipe's, ``package_files`` maps a package to a file of it to install.
    """
    recipe = recipes.load(settings)
    ground = recipes.base(settings.root, base or recipe.base)
    files = orders.check_files(recipe, ground, package_files or {})
    roles.ensure(settings.root, recipe)
    packer = tools.packer()
    tools.ensure("ssh")
    account = connect(settings, base=ground.name)
    order = orders.place(account, recipe, ground, files, packer)
    now = orders.inputs_of(settings.root, order, *roles.folders(settings.root, recipe))
    found = images.find(account, recipe.name)
    offered = states({index for image in found for index in image.repositories})
    image, reasons = decide(found, now, offered, lambda one: store.inputs(settings, one.id))
    return Plan(account, order, orders.commit_of(settings.root), now, image, tuple(reasons))


def tell(plan: Plan, *, force: bool = False) -> None:
    """Say whether a bake is due, and why; ``force``, that it comes all the same."""
    for reason in plan.reasons:
        console.say(reason)
    spared = "--force: it is baked all the same" if force else "nothing to bake; --force bakes all the same"
    console.say(spared if plan.image else "a bake is due")


def decide(
    found: Sequence[Image],
    now: Mapping[str, str],
    offered: Mapping[str, str],
    recorded: Callable[[Image], Mapping[str, str] | None],
) -> tuple[Image | None, list[str]]:
    """Say which of a recipe's images, newest first, spares a bake of these inputs, if any, and why or why not.

    ``offered`` is what the repositories offer now from which the images were baked; ``recorded`` returns what an image
    was baked of, where that is known here.
    """
    now_for = {image.id: whole(now, {index: offered[index] for index in image.repositories}) for image in found}
    same = [image for image in found if image.tags.get(f"{TAG}inputs") == inputs.digest(now_for[image.id])]
    spare = next((image for image in same if not _unfit(image)), None)
    if spare:
        proven = ", and it is proven" if spare.verdict == "pass" else ""
        return spare, [f"image {spare.id} ({spare.name}) was baked of the same{proven}"]
    if same:
        return None, [f"image {image.id} was baked of the same, but {_unfit(image)}" for image in same]
    for image in found:
        if (before := recorded(image)) is not None:
            return None, [f"{line}, since image {image.id}" for line in inputs.changes(before, now_for[image.id])]
    if found:
        return None, [f"of {len(found)} images none has a record here of what it was baked of"]
    return None, ["there is no image of this recipe yet"]


def states(indexes: Collection[str]) -> dict[str, str]:
    """Return for the URL of each repository's index the digest of what is offered there, or UNREACHABLE.

    The signature is left to the machine: here an index is compared and nothing is taken from it.
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(indexes, pool.map(_state, indexes), strict=True))


def fetched(known: Mapping[str, str], offered: Mapping[str, str]) -> dict[str, str]:
    """Return what a bake's machine was offered without those repositories that stand in for others: these are known."""
    stand_ins = tuple(name.removeprefix(_PACKAGES) for name in known if name.startswith(_PACKAGES))
    return {index: state for index, state in offered.items() if not index.startswith(stand_ins)}


def whole(known: Mapping[str, str], offered: Mapping[str, str]) -> dict[str, str]:
    """Return all inputs of a bake: those known before it, and what the repositories offered that its machine had."""
    return {**known, **{f"{_PACKAGES}{index}": state for index, state in offered.items()}}


def _unfit(image: Image) -> str:
    """Return why an image can't spare a bake; empty when it can."""
    if image.state != "available":
        return f"is {image.state}"
    if image.verdict == "fail":
        return "its proof failed"
    return next((f"was {word}" for word in ("revoked", "deprecated") if f"{TAG}{word}" in image.tags), "")


def _state(index: str) -> str:
    try:
        with urlopen(index, timeout=_INDEX_SECONDS) as answer:
            return inspector.offered(answer.read())
    except (OSError, ValueError, HTTPException):
        return UNREACHABLE
