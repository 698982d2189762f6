"""HashiCorp's releases: only what is signed with its key is put in place, and each way it can go wrong is one line."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from release_fixtures import ReleaseServer, SigningKey

from bakehouse import patience, releases, tools
from bakehouse.errors import InputError, ToolError, UnreachableError
from bakehouse.patience import Limit
from bakehouse.settings import ROOT

BASE = "/packer/1.16.0/packer_1.16.0"
SUMS, SIGNATURE, ARCHIVE = f"{BASE}_SHA256SUMS", f"{BASE}_SHA256SUMS.sig", f"{BASE}_{releases.target()}.zip"
GENUINE = ROOT / "tests/data/releases/terraform-provider-null_3.1.0_SHA256SUMS"


def gpg() -> Path:
    """Return gpg's path."""
    return tools.ensure("gpg")


def fetch(place: Path) -> None:
    """Fetch Packer 1.16.0."""
    releases.fetch("packer", "1.16.0", place, gpg)


def test_fetch(server: ReleaseServer, tmp_path: Path) -> None:
    """A release that is signed is put in place, can be run, and nothing else is left beside it."""
    server.release_all()
    place = tmp_path / "tools/packer"

    fetch(place)

    assert [place] == list(place.parent.iterdir())
    assert (0o755, "#!/bin/sh\necho Packer v1.16.0\n") == (place.stat().st_mode & 0o777, place.read_text())
    assert [SUMS, SIGNATURE, ARCHIVE] == server.asked


def _other_key(server: ReleaseServer, tmp_path: Path) -> None:
    other = SigningKey(tmp_path / "other")
    server.files[SIGNATURE] = other.sign(server.files[SUMS])
    other.close()


def _both_keys(server: ReleaseServer, tmp_path: Path) -> None:
    """Sign by another key which is beside ours in the key's file."""
    _other_key(server, tmp_path)
    other = SigningKey(tmp_path / "another")
    server.files[SIGNATURE] = other.sign(server.files[SUMS])
    other.close()
    (tmp_path / "packer/hashicorp.asc").write_bytes(server.key.public + other.public)


def _revoked(server: ReleaseServer, tmp_path: Path) -> None:
    other = SigningKey(tmp_path / "revoked")
    server.files[SIGNATURE] = other.sign(server.files[SUMS])
    [certificate] = (tmp_path / "revoked/openpgp-revocs.d").iterdir()
    other("--import", given=certificate.read_bytes().replace(b":-----", b"-----"))
    (tmp_path / "packer/hashicorp.asc").write_bytes(other("--armor", "--export"))
    pinned = releases.FILE.read_text().replace(server.key.fingerprint, other.fingerprint)
    releases.FILE.write_text(pinned)
    other.close()


def _another_programs_list(server: ReleaseServer, _: Path) -> None:
    server.release("packer", "1.5.6", "echo old")
    old = "/packer/1.5.6/packer_1.5.6_SHA256SUMS"
    server.files[SUMS], server.files[SIGNATURE] = server.files[old], server.files[f"{old}.sig"]


def _no_archive(server: ReleaseServer, _: Path) -> None:
    server.files[ARCHIVE] = b"no archive"
    server.sign("packer", "1.16.0")


UNVERIFIED = {
    "another archive than was signed": (
        lambda server, _: server.files.update({ARCHIVE: server.files[ARCHIVE][:-1] + b"!"}),
        "_{target}.zip has the checksum [0-9a-f]{{64}}, and [0-9a-f]{{64}} was signed",
    ),
    "another list than was signed": (
        lambda server, _: server.files.update({SUMS: server.files[SUMS].replace(b"a", b"b")}),
        "_SHA256SUMS is not signed by the key {key}: gpg says .*BADSIG.*",
    ),
    "somebody else's signature": (_other_key, "_SHA256SUMS is not signed by the key {key}: gpg says .*ERRSIG.*"),
    "the signature of a second key in the key's file": (
        _both_keys,
        "_SHA256SUMS is not signed by the key {key}: gpg says .*VALIDSIG.*",
    ),
    "the signature of a key that was revoked": (_revoked, "_SHA256SUMS is not signed by the key .*REVKEYSIG.*"),
    "a signature that is none": (
        lambda server, _: server.files.update({SIGNATURE: b"no signature"}),
        "_SHA256SUMS is not signed by the key {key}: gpg says .*",
    ),
    "an empty signature": (
        lambda server, _: server.files.update({SIGNATURE: b""}),
        "_SHA256SUMS is not signed by the key {key}: gpg says .*",
    ),
    "a signed file that is no archive": (_no_archive, "_{target}.zip can't be unpacked: File is not a zip file"),
    "an archive without the program": (
        lambda server, _: server.release("packer", "1.16.0", "a program", "another"),
        "_{target}.zip holds 0 programs named packer",
    ),
}


@pytest.mark.parametrize(("breaks", "why"), UNVERIFIED.values(), ids=UNVERIFIED)
def test_what_is_not_signed_is_not_kept(
    server: ReleaseServer, tmp_path: Path, breaks: Callable[[ReleaseServer, Path], None], why: str
) -> None:
    """What isn't what was signed is named in one line, and nothing is put in place."""
    server.release_all()
    breaks(server, tmp_path)
    place = tmp_path / "tools/packer"

    with pytest.raises(ToolError) as raised:
        fetch(place)

    expected = why.format(target=releases.target(), key=server.key.fingerprint)
    assert re.fullmatch(re.escape(f"{server.url}{BASE}") + expected, raised.value.text), raised.value.text
    assert f"nothing of it was kept; see who answers for {server.url[7:]}" == raised.value.hint
    assert 2 == raised.value.code
    assert [] == [file for file in (tmp_path / "tools").rglob("*") if file.is_file()]


def _truncate(server: ReleaseServer, _: Path) -> None:
    class Short(bytes):
        """Tell a length that is larger than what is there."""

        def __len__(self) -> int:
            return super().__len__() + 1000

    server.files[ARCHIVE] = Short(server.files[ARCHIVE])


UNREACHABLE = {
    "a list that isn't there": (lambda server, _: server.files.pop(SUMS), SUMS, "the server says 404 Not Found"),
    "a signature that isn't there": (
        lambda server, _: server.files.pop(SIGNATURE),
        SIGNATURE,
        "the server says 404 Not Found",
    ),
    "an archive that isn't there": (
        lambda server, _: server.files.pop(ARCHIVE),
        ARCHIVE,
        "the server says 404 Not Found",
    ),
    "an archive that ends too early": (_truncate, ARCHIVE, "it ended after {size} of {told} bytes"),
    "a server that falls silent": (lambda server, _: server.slow.add(ARCHIVE), ARCHIVE, "timed out"),
}


@pytest.mark.parametrize(("breaks", "path", "why"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_what_can_not_be_fetched(
    server: ReleaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[ReleaseServer, Path], None],
    path: str,
    why: str,
) -> None:
    """What the server hasn't, or doesn't send whole and in time, is named by its URL, and nothing is put in place."""
    monkeypatch.setattr(patience, "SILENCE", Limit(0.5, ""))
    server.release_all()
    size = len(server.files[ARCHIVE])
    breaks(server, tmp_path)

    with pytest.raises(UnreachableError) as raised:
        fetch(tmp_path / "tools/packer")

    expected = why.format(size=size, told=size + 1000)
    assert f"{server.url}{path} can't be fetched: {expected}" == raised.value.text
    assert [] == [file for file in (tmp_path / "tools").rglob("*") if file.is_file()]


def test_a_list_that_has_no_such_archive(server: ReleaseServer, tmp_path: Path) -> None:
    """A signed list of another version is of no use: the version is part of each archive's name."""
    server.release_all()
    _another_programs_list(server, tmp_path)

    with pytest.raises(UnreachableError, match=f"{SUMS} names no {Path(ARCHIVE).name}"):
        fetch(tmp_path / "tools/packer")


def test_no_network(server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers, the URL is named."""
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("BAKEHOUSE_RELEASES", f"{url}/")

        with pytest.raises(UnreachableError) as raised:
            fetch(tmp_path / "tools/packer")

    assert f"{url}{SUMS} can't be fetched: [Errno 111] Connection refused" == raised.value.text


@pytest.mark.parametrize("mirror", ["mirror.example.com", "file:///tmp", "https://"])
def test_a_mirror_that_is_no_url(monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    """A mirror is a URL of the web."""
    monkeypatch.setenv("BAKEHOUSE_RELEASES", mirror)

    with pytest.raises(InputError, match=re.escape(f"BAKEHOUSE_RELEASES is '{mirror}', which is no URL")):
        releases.source()


def test_the_key_is_hashicorps() -> None:
    """The key that is shipped verifies a genuine signature of HashiCorp's, and has the fingerprint that is pinned."""
    told = releases.source()

    releases._verify(gpg(), told, "the list", GENUINE.read_bytes(), Path(f"{GENUINE}.sig").read_bytes())

    assert ("https://releases.hashicorp.com", "C874011F0AB405110D02105534365D9472D7468F") == (
        told.server,
        told.fingerprint,
    )
    with pytest.raises(ToolError, match="BADSIG"):
        releases._verify(gpg(), told, "the list", GENUINE.read_bytes() + b"\n", Path(f"{GENUINE}.sig").read_bytes())


@pytest.mark.parametrize(
    ("kind", "machine", "expected"),
    [
        ("Linux", "x86_64", "linux_amd64"),
        ("Linux", "aarch64", "linux_arm64"),
        ("Darwin", "x86_64", "darwin_amd64"),
        ("Darwin", "arm64", "darwin_arm64"),
        ("FreeBSD", "amd64", ""),
        ("Linux", "riscv64", ""),
    ],
)
def test_the_target(monkeypatch: pytest.MonkeyPatch, kind: str, machine: str, expected: str) -> None:
    """HashiCorp has its own words for systems and architectures."""
    monkeypatch.setattr("platform.system", lambda: kind)
    monkeypatch.setattr("platform.machine", lambda: machine)

    assert expected == releases.target()
