"""Proofs: find out whether an image is fit, with two machines of it that are booted twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bakehouse import console, endings, images, patience, recipes, runs
from bakehouse.accounts import TAG, Account, access, connect
from bakehouse.errors import NotKnownError, VerdictError
from bakehouse.images import Image
from bakehouse.machines import Machine
from bakehouse.proving import reports
from bakehouse.proving.attempts import Attempt
from bakehouse.proving.reports import Proof
from bakehouse.recipes import services
from bakehouse.records import store
from bakehouse.runs import Run, leftovers
from bakehouse.settings import Settings


def prove(settings: Settings, image_id: str = "") -> Proof:
    """Prove an image, by default the recipe's newest, write the proof down, and tag the image with the verdict.

    Raises CloudError when the account refuses a request, and NotKnownError when an answer doesn't come; then nothing is
    proven and the image's tag stays as it was. The machines are terminated in any case.
    """
    recipe, service = recipes.load(settings), services.load(settings)
    account = connect(settings)
    image = images.usable(account, image_id, recipe.name)
    console.say(f"image {image.id} ({image.name}){''.join(f', {name} is a stand-in' for name in image.stand_ins)}")
    leftovers.clear(account, settings)
    attempt = Attempt(settings, account, recipe, service, image)
    with (
        endings.stating(f"nothing is proven of image {image.id}", "./inv prove starts again"),
        runs.begin(settings) as run,
        console.recorded() as steps,
    ):
        try:
            attempt.carry_out(run)
        finally:
            _clear_away(settings, account, run, attempt.machines)
    proof = attempt.proof(steps)
    _insist_known(proof)
    digest = reports.write(page(settings, proof).parent, proof, attempt.logs, attempt.picture)
    images.tag(account, image.id, {f"{TAG}verdict": f"{proof.verdict} {digest}"})
    return proof


def ensure(settings: Settings, image: Image) -> None:
    """Prove an image unless it has passed a proof already; raises VerdictError when it is not fit."""
    if image.verdict == "pass" and store.proven(settings, image.id, image.proof):
        console.say(f"image {image.id} is proven already")
    else:
        proof = prove(settings, image.id)
        insist(settings, proof)
        console.say(f"image {image.id} is fit: {page(settings, proof)}")


def page(settings: Settings, proof: Proof) -> Path:
    """Return the path of a proof's page; its folder holds all files of the proof."""
    return store.proofs(settings, proof.image) / reports.PAGE


def insist(settings: Settings, proof: Proof) -> None:
    """Raise VerdictError, which names all failed findings, unless the image has passed."""
    if proof.verdict != "pass":
        names = dict.fromkeys(one.finding.name for one in proof.failed)
        raise VerdictError(f"image {proof.image} is not fit: {', '.join(names)}", f"read {page(settings, proof)}")


def _insist_known(proof: Proof) -> None:
    """Raise NotKnownError when there is no verdict, because something isn't known: nothing is written down then."""
    if not proof.verdict:
        told = "; ".join(dict.fromkeys(f"{one.finding.name}: {one.finding.evidence}" for one in proof.unknown))
        raise NotKnownError(
            f"nothing is proven of image {proof.image}, because it isn't known: {told}", patience.LONGER
        )


def _clear_away(settings: Settings, account: Account, run: Run, launched: Sequence[Machine]) -> None:
    with endings.undisturbed(), console.step("machines terminated"):
        leftovers.sweep(account, run)
    for machine in launched:
        access.known_hosts(settings, machine.id).unlink(missing_ok=True)
