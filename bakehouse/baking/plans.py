"""Plans: whether a bake is due, and why: its inputs are compared with the inputs of the existing images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

from bakehouse import console, images, packers, patience, recipes, system, tools
from bakehouse.accounts import TAG, Account, connect
from bakehouse.baking import extras, orders
from bakehouse.baking.extras import NOTHING, Extras
from bakehouse.baking.orders import Order
from bakehouse.images import Image
from bakehouse.recipes import inputs, roles
from bakehouse.records import inspector, store
from bakehouse.settings import Settings

UNREACHABLE = "can't be reached"
"""Takes the place of the digest when a repository's index can't be fetched."""

_INDEX_BYTES = 50 << 20  # no index of a repository is larger; an endless one is read no further
_PACKAGES = "packages "  # the names of inputs that are repositories begin with this


@dataclass(frozen=True)
class Plan:
    """Hold what a bake would do.

    Attributes:
        account: the account on which it would bake.
        order: what would be baked.
        commit: the checkout's git commit, as ``orders.commit_of`` returns it.
        inputs: the inputs that are known before the bake, by name.
        used: the folders of the roles and of the collections that it would use, by name, as far as they are known.
        image: the existing image that was baked from the same inputs; None when a bake is due.
        reasons: why a bake is due or not, a line each.
    """

    account: Account
    order: Order
    commit: str
    inputs: Mapping[str, str]
    used: tuple[Mapping[str, Path], Mapping[str, Path]]
    image: Image | None
    reasons: tuple[str, ...]


def draw(
    settings: Settings,
    base: str = "",
    package_files: Mapping[str, Path] | None = None,
    architecture: str = "",
    instance_type: str = "",
    added: Extras = NOTHING,
) -> Plan:
    """Return the plan of a bake of the settings' recipe.

    It installs or starts what it needs for that: roles, Packer, the local EC2 and its base. ``base`` names another
    base than the recipe's; ``package_files`` maps packages to the files from which they are to be installed;
    ``architecture`` and ``instance_type`` stand in place of the recipe's; ``added`` is what this bake has besides.
    """
    recipe = recipes.load(settings)
    if architecture:
        recipe = replace(recipe, architecture=recipes.check_architecture(architecture, "--arch"))
    recipe = replace(recipe, instance_type=instance_type or recipe.instance_type)
    ground = recipes.base(settings.root, base or recipe.base)
    extras.insist_on_answers(added, settings.root, recipe.playbook)
    files = orders.check_files(recipe, ground, package_files or {})
    roles.ensure(settings.root, recipe)
    packer = packers.get(settings.state)
    tools.ensure("ssh")
    account = connect(settings, base=ground.name)
    order = orders.place(account, recipe, ground, files, packer, instance_type, added)
    used = roles.folders(settings.root, recipe)
    now = orders.inputs_of(settings, order, *used)
    found = images.find(account, recipe.name)
    offered = states({index for image in found for index in image.repositories})
    key = inputs.own_key(settings.state)
    image, reasons = decide(
        found,
        now,
        offered,
        lambda one: store.inputs(settings, one.id),
        lambda before: inputs.again(settings.root, before, key),
    )
    commit, remark = orders.commit_of(settings.root)
    if remark:
        console.say(remark)
    return Plan(account, order, commit, now, used, image, tuple(reasons))


def tell(plan: Plan, *, force: bool = False) -> None:
    """Print whether a bake is due, and why; with ``force``, that it is baked in any case."""
    for reason in plan.reasons:
        console.say(reason)
    spared = "--force: baking anyway" if force else "nothing to bake; --force bakes anyway"
    console.say(spared if plan.image else "a bake is due")


def decide(
    found: Sequence[Image],
    now: Mapping[str, str],
    offered: Mapping[str, str],
    recorded: Callable[[Image], Mapping[str, str] | None],
    again: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> tuple[Image | None, list[str]]:
    """Return the image that makes a bake of the inputs ``now`` unnecessary, or None, and the reasons, a line each.

    ``found`` are the recipe's images, newest first. ``offered`` is what the repositories of these images offer now, as
    ``states`` returns it. ``recorded`` returns the recorded inputs of an image, or None when there is no record here;
    ``again`` returns, as they are now, those of them that only a bake can tell.
    """

    def now_for(image: Image) -> dict[str, str]:
        known = {**now, **again(recorded(image) or {})}
        return whole(known, {index: offered[index] for index in image.repositories})

    same = []
    for image in found:
        if image.tags.get(f"{TAG}inputs") == inputs.digest(now_for(image)):
            if not _unfit(image):
                proven = ", and it is proven" if image.verdict == "pass" else ""
                return image, [f"image {image.id} ({image.name}) was baked from the same inputs{proven}"]
            same.append(image)
    if same:
        return None, [f"image {image.id} was baked from the same inputs, but {_unfit(image)}" for image in same]
    for image in found:
        if (before := recorded(image)) is not None:
            return None, [f"{line}, since image {image.id}" for line in inputs.changes(before, now_for(image))]
    if found:
        return None, [f"the inputs of the recipe's images are not recorded here (images: {len(found)})"]
    return None, ["there is no image of this recipe yet"]


def states(indexes: Collection[str]) -> dict[str, str]:
    """Return the digest of what each repository index offers, by the index's URL, or UNREACHABLE.

    Signatures are not checked, because indexes are only compared here. The machine that installs packages checks them.
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(indexes, pool.map(_state, indexes), strict=True))


def fetched(known: Mapping[str, str], offered: Mapping[str, str]) -> dict[str, str]:
    """Return what the real repositories offered to a bake's machine.

    Stand-in repositories are left out of ``offered``, because they are already among the ``known`` inputs.
    """
    stand_ins = tuple(name.removeprefix(_PACKAGES) for name in known if name.startswith(_PACKAGES))
    return {index: state for index, state in offered.items() if not index.startswith(stand_ins)}


def whole(known: Mapping[str, str], offered: Mapping[str, str]) -> dict[str, str]:
    """Return all inputs of a bake: those known before it, and what the repositories offered to its machine."""
    return {**known, **{f"{_PACKAGES}{index}": state for index, state in offered.items()}}


def _unfit(image: Image) -> str:
    """Return why an image doesn't make a bake unnecessary; empty when it does."""
    if image.state != "available":
        return f"is {image.state}"
    if image.verdict == "fail":
        return "its proof failed"
    return next((f"was {word}" for word in ("revoked", "deprecated") if f"{TAG}{word}" in image.tags), "")


def _state(index: str) -> str:
    try:
        with system.open_url(index, patience.INDEX.seconds) as answer:
            return inspector.offered(answer.read(_INDEX_BYTES))
    except (OSError, ValueError, HTTPException):
        return UNREACHABLE
