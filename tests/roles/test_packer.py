"""The Packer template: what the oldest Packer takes, and with what must never be missing."""

from __future__ import annotations

import re
import subprocess

import pytest

from bakehouse import packers, recipes, settings, system
from bakehouse.settings import ROOT

TEMPLATE = "".join(path.read_text() for path in sorted((ROOT / "packer").glob("*.pkr.hcl")))


def packer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Packer in the checkout."""
    found = packers.get(settings.load().state)
    environ = system.environment(**system.PACKER, **found.environ)
    return subprocess.run([found.path, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("base", recipes.bases(ROOT))
@pytest.mark.parametrize("recipe", recipes.names(ROOT))
def test_validate(recipe: str, base: str) -> None:
    """The template is valid with every recipe on every base."""
    file = recipes.path(ROOT, recipe)

    told = packer("validate", f"-var-file={file}", "-var", f"base={base}", "packer")

    assert (0, "") == (told.returncode, told.stdout + told.stderr)


def test_validate_refuses() -> None:
    """Validation looks at the bases: one that isn't there fails it."""
    told = packer("validate", f"-var-file={recipes.path(ROOT, 'jenkins')}", "-var", "base=plan9", "packer")

    assert told.returncode != 0


@pytest.mark.parametrize(
    "rule",
    [
        r"use_proxy += false\b",
        r"skip_version_check += true\b",
        r"custom_endpoint_ec2 += var\.endpoint\b",
        r"skip_metadata_api_check += true\b",
        r"aws_polling \{\s+delay_seconds += \d+\s+max_attempts += \d+",
        r"security_group_ids += var\.group_ids\b",
        r"subnet_id += var\.subnet_id\b",
        r"encrypted += var\.encrypted\b",
        r"run_tags += local\.tags\b",
        r"run_volume_tags += local\.tags\b",
        r"snapshot_tags += local\.tags\b",
        r'"bakehouse:run" += var\.run\b',
    ],
)
def test_present(rule: str) -> None:
    """What keeps a bake fast, closed, local and traceable is in the template."""
    assert re.search(rule, TEMPLATE)


@pytest.mark.parametrize(
    "option", ["force_deregister", "force_delete_snapshot", "ami_groups", "access_key", "secret_key"]
)
def test_absent(option: str) -> None:
    """What deletes an image before there is a new one, shares it with all, or holds a secret is not."""
    assert option not in TEMPLATE
