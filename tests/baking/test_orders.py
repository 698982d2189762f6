"""Orders: what is decided before a bake, what the roles are told of it, and what the image tells of it."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from bakehouse import __version__, images, packers, system
from bakehouse.accounts import Account
from bakehouse.baking import orders
from bakehouse.baking.orders import Order
from bakehouse.errors import AccountError, InputError
from bakehouse.images import Image
from bakehouse.recipes import Base, Recipe

RECIPE = Recipe(
    "web", "debian-13", "t3.small", 8, "playbooks/web.yml", 30, {"nginx-light": {"debian": "https://example.com/x"}}
)
BASE = Base("debian-13", "debian", "debian-13-amd64-*", "136693071363", "admin", "/dev/xvda")
START = Image.from_aws({"ImageId": "ami-1", "State": "available", "CreationDate": "2026-01-01T00:00:00.000Z"})
PACKER = packers.Packer(Path("/usr/bin/packer"), (1, 6, 6))
REPOSITORY = {
    "url": "http://r",
    "key_url": "http://r/key",
    "fingerprint": "AB",
    "version": "1~stand",
    "stands_in_for": "x",
}


def order(stand_in: bool = False, files: dict[str, Path] | None = None) -> Order:
    """Return an order, with a stand-in for its package or a file of it."""
    return Order(RECIPE, BASE, START, {"nginx-light": REPOSITORY} if stand_in else {}, files or {}, PACKER)


def test_variables() -> None:
    """The roles are told nothing by default, of a stand-in's repository, or of a package's file."""
    assert {} == order().variables
    assert {"nginx_light_package_file": "/a.deb"} == order(files={"nginx-light": Path("/a.deb")}).variables
    assert {
        "nginx_light_repository_url": "http://r",
        "nginx_light_repository_key_url": "http://r/key",
        "nginx_light_repository_key_fingerprint": "AB",
    } == order(stand_in=True).variables


def test_variables_of_the_account() -> None:
    """The account's own variables go to the roles; where a package stands in, its repository is the stand-in's."""
    own = {"nginx_light_repository_url": "https://mirror.example/x", "nginx_light_proxy": "http://proxy.example"}

    assert own == replace(order(), own=own).variables
    both = replace(order(stand_in=True), own=own)
    assert ("http://r", "http://proxy.example") == (
        both.variables["nginx_light_repository_url"],
        both.variables["nginx_light_proxy"],
    )
    assert "https://mirror.example/x can't be reached" in both.notices[0]


def test_notices() -> None:
    """Only a stand-in is announced, with what it stands in for and its version."""
    assert [] == order().notices
    (notice,) = order(stand_in=True).notices
    assert all(word in notice for word in ("STAND-IN", "nginx-light", "https://example.com/x", "1~stand"))


def test_provenance() -> None:
    """An image tells its recipe, run, commit, base, user and every version; a stand-in too."""
    told = {
        "bakehouse:kind": "image",
        "bakehouse:recipe": "web",
        "bakehouse:run": "r-1",
        "bakehouse:user": "admin",
        "bakehouse:commit": "abc-dirty",
        "bakehouse:base": "ami-1",
        "bakehouse:kit": __version__,
        "bakehouse:packer": "1.6.6",
        "bakehouse:ansible": version("ansible-core"),
    }

    assert told == order().provenance("r-1", "abc-dirty")
    assert {**told, "bakehouse:nginx-light": "stand-in"} == order(stand_in=True).provenance("r-1", "abc-dirty")


DEB = b"!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n2.0\n"
RPM = b"\xed\xab\xee\xdb\x03\x00\x00\x00"


@pytest.mark.parametrize(("family", "content"), [("debian", DEB), ("redhat", RPM)])
def test_check_files(tmp_path: Path, family: str, content: bytes) -> None:
    """A package of the base's family is taken, under its whole path."""
    file = tmp_path / "a.package"
    file.write_bytes(content)

    assert {"nginx-light": file.resolve()} == orders.check_files(
        RECIPE, replace(BASE, family=family), {"nginx-light": file}
    )


def test_a_package_of_the_other_family(tmp_path: Path) -> None:
    """An rpm isn't for Debian, and a deb isn't for what has rpm; the base is named."""
    (tmp_path / "a.rpm").write_bytes(RPM)
    (tmp_path / "a.deb").write_bytes(DEB)

    with pytest.raises(InputError, match=r"a\.rpm is not a Debian package, which base debian-13 needs"):
        orders.check_files(RECIPE, BASE, {"nginx-light": tmp_path / "a.rpm"})
    with pytest.raises(InputError, match=r"a\.deb is not an RPM package"):
        orders.check_files(RECIPE, replace(BASE, family="redhat"), {"nginx-light": tmp_path / "a.deb"})


@pytest.mark.parametrize(
    ("package", "content", "message"),
    [
        ("nginx-light", b"PK\x03\x04 a war", "is not a Debian package"),
        ("nginx-light", b"", "is not a Debian package"),
        ("nginx-light", b"!<arch>\nother.o/ ", "is not a Debian package"),
        ("nginx-light", None, "can't be read: No such file"),
        ("apache2", b"", "recipe web has no package apache2"),
    ],
)
def test_refused_files(tmp_path: Path, package: str, content: bytes | None, message: str) -> None:
    """A file that is no package, or of no package of the recipe, is refused before anything is made."""
    file = tmp_path / "a.deb"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(InputError, match=message):
        orders.check_files(RECIPE, BASE, {package: file})


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Give what runs git in a folder."""

    def run(*arguments: str) -> str:
        line = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    return run


UNTOLD = "the image will not tell which commit it was baked of"


def test_commit_of(tmp_path: Path, git: Callable[..., str]) -> None:
    """The commit is told with whether files differ from it; where there is none, it is said why."""
    assert ("none", f"this checkout is in no git repository: {UNTOLD}") == orders.commit_of(tmp_path)
    git("init", "-q")
    empty = f"the git repository {tmp_path} holds no file of this checkout: {UNTOLD}"
    assert ("none", empty) == orders.commit_of(tmp_path)
    (tmp_path / "tasks.py").touch()
    git("add", ".")
    commit, remark = orders.commit_of(tmp_path)
    assert ("none", True) == (commit, remark.startswith("git says: "))
    git("commit", "-q", "-m", "first")
    assert (git("rev-parse", "HEAD"), "") == orders.commit_of(tmp_path)
    git("config", "status.showUntrackedFiles", "no")
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "new.yml").touch()
    assert (f"{git('rev-parse', 'HEAD')}-dirty", "") == orders.commit_of(tmp_path)


def test_commit_of_a_folder_of_a_larger_repository(tmp_path: Path, git: Callable[..., str]) -> None:
    """Its commit is the repository's, and only its own files count; one that the repository doesn't hold has none."""
    for folder in ("images", "vendor"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tasks.py").touch()
    git("init", "-q")
    git("add", "images")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")

    told = f"this checkout is a folder of the git repository {tmp_path}: its commit is {commit}"
    assert (commit, told) == orders.commit_of(tmp_path / "images")
    (tmp_path / "images" / "new").touch()
    assert (f"{commit}-dirty", f"{told}-dirty") == orders.commit_of(tmp_path / "images")
    untold = f"the git repository {tmp_path} holds no file of this checkout: {UNTOLD}"
    assert ("none", untold) == orders.commit_of(tmp_path / "vendor")


def test_commit_of_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where git is missing, that is said."""
    monkeypatch.setattr(system, "environment", lambda **_: {"PATH": "/nowhere"})

    assert ("none", f"git is missing: {UNTOLD}") == orders.commit_of(tmp_path)


@pytest.mark.local
def test_place(account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The base becomes an image, and a stand-in is looked for, unless there is a file; both are said."""
    base = Base("any", "debian", "amzn-*", "amazon", "admin", "/dev/xvda")
    monkeypatch.setattr(Account, "stand_in", lambda *_: REPOSITORY)

    placed = orders.place(account, RECIPE, base, {}, PACKER)
    given = orders.place(account, RECIPE, base, {"nginx-light": Path("/a.deb")}, PACKER)

    assert (order(stand_in=True).stand_ins, {}) == (placed.stand_ins, given.stand_ins)
    assert placed.start.name.startswith("amzn-")
    told = capsys.readouterr().err
    assert f"base any: {placed.start.id} ({placed.start.name})" in told
    assert 1 == told.count("STAND-IN")
    assert "privileged" not in told
    orders.place(account, replace(RECIPE, privileged=True), base, {}, PACKER)
    assert f"recipe {RECIPE.name} is privileged: on the local EC2 its machines' root is root" in capsys.readouterr().err


@pytest.mark.local
def test_mitogen(account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe that asks for Mitogen is baked with it, and its image says so; where it's missing that is said."""
    base = Base("any", "debian", "amzn-*", "amazon", "admin", "/dev/xvda")
    asking = replace(RECIPE, packages={}, mitogen=True)

    faster = orders.place(account, asking, base, {}, PACKER)
    plain = orders.place(account, replace(asking, mitogen=False), base, {}, PACKER)
    assert "Mitogen" not in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    without = orders.place(account, asking, base, {}, PACKER)

    assert (Path(faster.faster["ANSIBLE_STRATEGY_PLUGINS"]) / "mitogen_linear.py").is_file()
    assert version("mitogen") == faster.provenance("r-1", "abc")["bakehouse:mitogen"]
    assert [{}, {}] == [plain.faster, without.faster]
    assert "bakehouse:mitogen" not in {**plain.provenance("r-1", "abc"), **without.provenance("r-1", "abc")}
    assert f"recipe {RECIPE.name} asks for Mitogen, which .venv lacks: Ansible bakes" in capsys.readouterr().err


@pytest.mark.local
def test_an_architecture_that_is_named(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of the named architecture is looked for, and an instance type of another one is refused before that."""
    looked: list[str] = []
    base = Base("any", "debian", "any-{debian}-{kernel}", "self", "admin", "/dev/xvda")

    def find(_: Account, __: Base, architecture: str) -> Image:
        looked.append(architecture)
        return START

    monkeypatch.setattr(images, "base", find)

    with pytest.raises(InputError, match=r"^instance type t3\.small is x86_64, not arm64$") as refused:
        orders.place(account, replace(RECIPE, packages={}, architecture="arm64"), base, {}, PACKER)
    assert [] == looked and refused.value.hint.startswith("--type names another")
    arm = replace(RECIPE, packages={}, architecture="arm64", instance_type="t4g.small")
    assert START == orders.place(account, arm, base, {}, PACKER).start
    assert ["arm64"] == looked


NEW = packers.Packer(Path("/usr/bin/packer"), (1, 16, 0), Path("plugins"))


@pytest.mark.local
@pytest.mark.parametrize(
    ("packer", "base_requires", "defaults", "refused"),
    [
        (PACKER, False, {}, False),
        (PACKER, False, {"HttpTokensEnforced": "enabled"}, True),
        (PACKER, False, {"HttpTokensEnforced": "disabled"}, False),
        (PACKER, True, {"HttpTokensEnforced": "enabled"}, False),
        (PACKER, True, {"HttpTokensEnforced": "enabled", "HttpTokens": "optional"}, True),
        (PACKER, False, {"HttpTokensEnforced": "enabled", "HttpTokens": "required"}, False),
        (NEW, False, {"HttpTokensEnforced": "enabled"}, False),
    ],
)
def test_an_account_that_enforces_imdsv2(
    account: Account, packer: packers.Packer, base_requires: bool, defaults: dict[str, str], refused: bool
) -> None:
    """What Packer 1.6 can't demand, the account's default or the base must, else the bake ends before it begins."""
    start = replace(START, imdsv2=base_requires)
    if defaults:
        account.ec2.modify_instance_metadata_defaults(**defaults)

    if not refused:
        orders.insist_on_launch(account, Order(RECIPE, BASE, start, {}, {}, packer))
        return
    with pytest.raises(AccountError) as raised:
        orders.insist_on_launch(account, Order(RECIPE, BASE, start, {}, {}, packer))

    assert (
        "account local launches no machine without IMDSv2 (httpTokensEnforced), which Packer 1.6.6 can't demand,"
        " and base ami-1 doesn't"
    ) == raised.value.text
    assert raised.value.hint.endswith("aws ec2 modify-instance-metadata-defaults --http-tokens required")
