"""Build Packer of today with its plugins from Go's module proxy, once, and print the folder that holds them.

``pytest --packer "$(python -m tests.build_packer)" tests/baking tests/end_to_end`` bakes with it. It takes ten minutes
and 3 GB the first time; after that nothing is built. It needs Go. The genuine Ansible plugin is taken from the folder
that BAKEHOUSE_TEST_PACKER_PLUGINS names, where its file is called ``packer-plugin-ansible``: Go's proxy has it not.
Without that a double takes its place, which is in ``data/packer-plugin-ansible``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bakehouse import documents, packers, releases, system
from bakehouse.console import data, say, step
from bakehouse.errors import BakehouseError, ToolError

DOUBLE = Path(__file__).parent / "data/packer-plugin-ansible"
GENUINE = "BAKEHOUSE_TEST_PACKER_PLUGINS"

_MODULE = """module bakehouse.invalid/build

go 1.25

require {module} v{version}

replace github.com/zclconf/go-cty => github.com/nywilken/go-cty v1.13.3 // both ask for it
"""


def folder() -> Path:
    """Return the folder of what is built: below XDG_CACHE_HOME, else below the home folder's .cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    return caches / "bakehouse" / f"packer-{releases.source().packer}"


def built(place: Path) -> bool:
    """Tell whether a folder holds a Packer and all its plugins."""
    return (place / "packer").exists() and all(one.is_in(place / "plugins") for one in packers.needs())


def build(place: Path) -> None:
    """Build Packer and its plugins in a folder."""
    if not shutil.which("go"):
        raise ToolError("go is missing: it builds Packer for the tests", "https://go.dev/dl/")
    amazon, ansible = packers.needs()
    place.mkdir(parents=True, exist_ok=True)
    with step("build packer"):
        _of_module("github.com/hashicorp/packer", releases.source().packer, place / "packer", place)
    with step(f"build {amazon.product}"):
        _of_module(f"github.com/hashicorp/{amazon.product}", amazon.version, _made(amazon, place), place)
    genuine = Path(os.environ.get(GENUINE, "")) / ansible.product
    if os.environ.get(GENUINE):
        shutil.copy(genuine, _made(ansible, place))
    else:
        with step(f"build a double of {ansible.product}"):
            shutil.copytree(DOUBLE, place / "ansible", dirs_exist_ok=True)
            _go(place / "ansible", f"-X main.number={ansible.version}", _made(ansible, place), ".")
    for plugin in (amazon, ansible):
        file = _made(plugin, place)
        digest = documents.digest(file.read_bytes()).removeprefix(documents.SHA256)
        file.with_name(f"{file.name}_SHA256SUM").write_text(digest)


def _made(plugin: packers.Plugin, place: Path) -> Path:
    file = plugin.place(place / "plugins")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _of_module(module: str, version: str, file: Path, place: Path) -> None:
    folder = place / f"build-{file.name}"
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text(_MODULE.format(module=module, version=version))
    _go(folder, f"-s -w -X {module}/version.VersionPrerelease=", file, module)


def _go(folder: Path, flags: str, file: Path, package: str) -> None:
    environ = system.environment(*system.OUTSIDE, "GOPROXY", "GOSUMDB", "GOPATH", "GOCACHE", GOFLAGS="-mod=mod")
    line = ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(file), package]
    done = system.call(line, environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{package} can't be built: {system.last_line(done.stderr)}", f"in {folder}: {' '.join(line)}")


def main() -> None:
    """Build what isn't built yet, and print the folder."""
    place = folder()
    try:
        if not built(place):
            build(place)
    except BakehouseError as error:
        say(error.message)
        sys.exit(error.code)
    data(str(place))


if __name__ == "__main__":
    main()
