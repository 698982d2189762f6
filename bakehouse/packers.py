"""Packers: which Packer bakes, and its plugins: found, installed, or fetched as HashiCorp has released them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from bakehouse import documents, patience, releases, system, tools
from bakehouse.console import say, step
from bakehouse.errors import InputError, ToolError, UnreachableError
from bakehouse.settings import ROOT
from bakehouse.tools import TOOLS, Found, Row, Version

VERSION = "BAKEHOUSE_PACKER"
"""The variable that names the version of Packer to fetch where there is none."""

PLUGINS = ROOT / "packer/plugins/plugins.pkr.hcl"
"""The file that says which plugins are needed, in exact versions."""

_TOOL = TOOLS["packer"]
_WITHOUT_PLUGINS = (1, 7)  # the first version that contains no plugins
_BUSL = (1, 10)  # the first version under the Business Source License
_LAST_MPL = "1.9.5"
_PROTOCOL = "x5.0"  # of all plugins, in the names of their files


@dataclass(frozen=True)
class Packer:
    """Hold the Packer that bakes.

    Attributes:
        path: its path.
        version: its version.
        plugins: the folder with its plugins; None for a version that contains them.
    """

    path: Path
    version: Version
    plugins: Path | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that make it use its plugins and no others."""
        return {"PACKER_PLUGIN_PATH": str(self.plugins)} if self.plugins else {}


@dataclass(frozen=True)
class Plugin:
    """Hold one plugin that is needed: its source, such as ``github.com/hashicorp/amazon``, and its version."""

    source: str
    version: str

    @property
    def product(self) -> str:
        """Return its name among HashiCorp's releases."""
        return f"packer-plugin-{self.source.rpartition('/')[2]}"

    def place(self, folder: Path) -> Path:
        """Return where Packer looks for it below the folder of all plugins."""
        return folder / self.source / f"{self.product}_v{self.version}_{_PROTOCOL}_{releases.target()}"

    def is_in(self, folder: Path) -> bool:
        """Tell whether it is there; Packer itself compares it with the checksum beside it."""
        return self.place(folder).exists() and _sum_of(self.place(folder)).exists()


def get(state: Path) -> Packer:
    """Return the Packer to use with its plugins, and get both first if they are missing.

    A Packer on PATH wins. Without one the distribution's is installed if there is one, else HashiCorp's release is
    fetched into the state folder: the version that ``BAKEHOUSE_PACKER`` names, or ``packer/releases.yml``. Plugins are
    fetched too. Raises ToolError, which names the URL and the ways out, when that is impossible.
    """
    wanted = _wanted()
    found = _find(state, wanted)
    found.insist_known()
    if found.trouble and not os.environ.get(VERSION) and tools.obtainable(_TOOL):
        try:
            tools.install(_TOOL, found.trouble)
        except ToolError as error:
            say(error.text)
        found = _find(state, wanted)
    if found.trouble:
        _fetch(state, wanted, found.trouble)
        found = _find(state, wanted)
    if os.environ.get(VERSION) and tools.dotted(found.version) != wanted:
        say(f"{VERSION} is {wanted}, but {found.path} is on PATH and wins: it is {tools.dotted(found.version)}")
    plugins = _plugins(state, found.path) if found.version >= _WITHOUT_PLUGINS else None
    return Packer(found.path, found.version, plugins)


def rows(state: Path) -> list[Row]:
    """Return what ``./inv doctor`` shows of Packer and its plugins; nothing is changed."""
    wanted = _wanted()
    found = _find(state, wanted)
    return [_row(found, wanted), _plugins_row(state, found)]


def needs() -> list[Plugin]:
    """Return the plugins that are needed."""
    read = documents.read_hcl(PLUGINS, ROOT)
    [wanted] = read["packer"][0]["required_plugins"]
    return [Plugin(one["source"], one["version"]) for one in wanted.values() if isinstance(one, dict)]


def _wanted() -> str:
    """Return the version of Packer to fetch where there is none."""
    wanted = os.environ.get(VERSION, "")
    if wanted and not (re.fullmatch(r"\d+\.\d+\.\d+", wanted) and tools.parsed(wanted) >= _TOOL.wanted):
        known = f"name one from {tools.dotted(_TOOL.wanted)} on, such as {_LAST_MPL}, or unset it"
        raise InputError(f"{VERSION} is {wanted!r}, which is no version of Packer that will do", known)
    return wanted or releases.source().packer


def _find(state: Path, wanted: str) -> Found:
    """Return the Packer on PATH, else the one that was fetched, else why there is none."""
    found = tools.find(_TOOL)
    fetched = _place(state, wanted)
    return Found(fetched, tools.parsed(wanted)) if found.trouble and fetched.exists() else found


def _place(state: Path, version: str) -> Path:
    return state / "tools" / f"packer-{version}" / "packer"


def _folder(state: Path) -> Path:
    return state / "tools" / "plugins"


def _fetch(state: Path, version: str, trouble: str) -> None:
    lack = tools.lack(_TOOL, trouble)
    distribution = system.command_for(_TOOL.packages)
    ways = (
        f"put a packer on PATH, name a mirror of the server in {releases.MIRROR},"
        f" or take your distribution's package: {distribution or _TOOL.home}"
    )
    if not releases.target():
        raise ToolError(lack, tools.remedy(_TOOL))
    say(f"fetching packer {version} (it {_TOOL.purpose}); {_licence(version)} ...")
    with _alone(state):
        if not _place(state, version).exists():
            shutil.rmtree(_place(state, version).parent, ignore_errors=True)
            try:
                _take("packer", version, _place(state, version))
            except UnreachableError as error:
                raise ToolError(f"{lack}, and {error.text}", ways) from error


def _licence(version: str) -> str:
    """Return the words that say under which licence a version of Packer is."""
    if tools.parsed(version) < _BUSL:
        return "its licence is MPL 2.0"
    return f"its licence is BUSL 1.1 ({VERSION}={_LAST_MPL} takes the last one under MPL 2.0)"


def _plugins(state: Path, packer: Path) -> Path:
    """Return the folder that holds the plugins that are needed, and no other versions of them."""
    folder = _folder(state)
    with _alone(state):
        for plugin in needs():
            if not plugin.is_in(folder):
                _have(plugin, folder, packer)
            for other in plugin.place(folder).parent.iterdir():
                if not other.name.startswith(plugin.place(folder).name):
                    _remove(other)
    return folder


def _remove(other: Path) -> None:
    """Remove another version, or what a fetch has left that was killed."""
    if other.is_dir():
        shutil.rmtree(other)
    else:
        other.unlink()


def _have(plugin: Plugin, folder: Path, packer: Path) -> None:
    """Fetch a plugin; where the release server can't be reached, Packer may know another place."""
    place = plugin.place(folder)
    try:
        _take(plugin.product, plugin.version, place)
        documents.replace(_sum_of(place), documents.digest(place.read_bytes()).removeprefix(documents.SHA256).encode())
    except UnreachableError as error:
        if not os.environ.get(releases.MIRROR):
            _init(folder, packer)
        if not plugin.is_in(folder):
            own = f"PACKER_PLUGIN_PATH={folder} packer init {PLUGINS.parent}"
            raise ToolError(
                f"Packer needs its plugin {plugin.source} {plugin.version}, and {error.text}",
                f"run {own} where that can reach GitHub, name a mirror of the server in {releases.MIRROR},"
                " or put a Packer 1.6.6 on PATH, which contains its plugins",
            ) from error


def _init(folder: Path, packer: Path) -> None:
    """Let Packer fetch its plugins; it compares them with their checksums."""
    environ = system.environment(*system.OUTSIDE, **system.PACKER, PACKER_PLUGIN_PATH=str(folder))
    line: list[str | Path] = [packer, "init", PLUGINS.parent]
    with suppress(subprocess.TimeoutExpired):
        system.call(line, environ, capture_output=True, timeout=patience.PLUGINS.seconds, check=False)


def _take(product: str, version: str, place: Path) -> None:
    with step(f"{product} {version} from {releases.source().server}"):
        releases.fetch(product, version, place, lambda: tools.ensure("gpg"))


def _alone(state: Path) -> AbstractContextManager[None]:
    """Let only one task at a time fetch."""
    (state / "tools").mkdir(exist_ok=True)
    return system.alone(state / "tools/lock", lambda who: say(f"waiting for {who}, which fetches Packer ..."))


def _sum_of(place: Path) -> Path:
    return place.with_name(f"{place.name}_SHA256SUM")


def _row(found: Found, wanted: str) -> Row:
    least = f">= {tools.dotted(_TOOL.wanted)}"
    if not found.trouble:
        return Row("packer", tools.dotted(found.version), least, _TOOL.purpose, "", blocking=False)
    if found.silent:
        how = patience.LONGER
    elif not os.environ.get(VERSION) and tools.obtainable(_TOOL):
        how = f"the kit installs the distribution's, or fetches HashiCorp's {wanted}: {_licence(wanted)}"
    elif releases.target():
        how = f"the kit fetches HashiCorp's {wanted} when it needs it: {_licence(wanted)}"
    else:
        return Row("packer", found.trouble, least, _TOOL.purpose, tools.remedy(_TOOL), blocking=True)
    return Row("packer", found.trouble, least, _TOOL.purpose, how, blocking=False)


def _plugins_row(state: Path, packer: Found) -> Row:
    wanted, how = needs(), ""
    if not packer.trouble and packer.version < _WITHOUT_PLUGINS:
        found = "in packer"
    elif lacking := [one for one in wanted if not one.is_in(_folder(state))]:
        found, how = f"missing: {_named(lacking)}", "the kit fetches them when it needs them"
    else:
        found = _named(wanted)
    return Row("packer plugins", found, _named(wanted), "let Packer use EC2 and Ansible", how, blocking=False)


def _named(plugins: list[Plugin]) -> str:
    return ", ".join(f"{one.source.rpartition('/')[2]} {one.version}" for one in plugins)
