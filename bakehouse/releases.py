"""Releases: HashiCorp's own programs, fetched from its release server, verified against its key, and put in place."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from bakehouse import documents, patience, system
from bakehouse.errors import InputError, ToolError, UnreachableError
from bakehouse.settings import ROOT

FILE = ROOT / "packer/releases.yml"
"""The file that says which server, version and key are meant."""

MIRROR = "BAKEHOUSE_RELEASES"
"""The variable that names a mirror of the release server."""

_CHUNK = 1 << 16
_SMALL = 1 << 20  # bytes: a list of checksums has a few thousand, a signature a few hundred
_LARGEST = 1 << 30  # bytes of an archive: Packer's has about 20 million, a plugin's about as many

_SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}

_GOOD = {"GOODSIG", "EXPKEYSIG"}  # gpg's words; the second is a signature from before the key's end


@dataclass(frozen=True)
class Source:
    """Hold where releases come from.

    Attributes:
        server: the URL of the release server, without a slash at its end.
        packer: the version of Packer to take when no other is named.
        key: the file with the public key that releases are signed with, armoured, beside ``FILE``.
        fingerprint: the fingerprint of that key, 40 hexadecimal digits.
    """

    server: str
    packer: str
    key: str
    fingerprint: str


def source() -> Source:
    """Return where releases come from: as ``FILE`` says, or from the mirror that the person names.

    Raises InputError when the mirror's URL or the file is malformed.
    """
    told = documents.checked(Source, documents.read_yaml(FILE, ROOT), FILE.name)
    server = os.environ.get(MIRROR, "") or told["server"]
    if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).netloc:
        raise InputError(f"{MIRROR} is {server!r}, which is no URL", f"name a mirror of {told['server']}, or unset it")
    return Source(**{**told, "server": server.rstrip("/")})


def target() -> str:
    """Return this host's system and architecture in HashiCorp's words, such as ``linux_amd64``; empty if unknown."""
    kind, architecture = _SYSTEMS.get(platform.system(), ""), system.architecture()
    return f"{kind}_{system.ARCHITECTURES[architecture]['debian']}" if kind and architecture else ""


def fetch(product: str, version: str, place: Path, gpg: Callable[[], Path]) -> None:
    """Fetch a product's program in a version, verify it, and put it at ``place``; nothing is there before it's whole.

    The list of checksums must be signed with the key, and the archive must have the checksum that the list gives for
    this host's system. ``gpg`` returns the path of gpg. Raises UnreachableError, which names the URL, when a file
    can't be fetched, and ToolError when one isn't what was signed.
    """
    told = source()
    folder = f"{told.server}/{product}/{version}"
    sums, archive = f"{product}_{version}_SHA256SUMS", f"{product}_{version}_{target()}.zip"
    program = gpg()
    listed = _read(f"{folder}/{sums}")
    _verify(program, told, f"{folder}/{sums}", listed, _read(f"{folder}/{sums}.sig"))
    expected = _checksum(listed, archive, f"{folder}/{sums}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as aside:
        fetched = Path(aside) / "archive"
        with fetched.open("w+b") as file:
            if (found := _copy(f"{folder}/{archive}", file)) != expected:
                raise _unverified(f"{folder}/{archive} has the checksum {found}, and {expected} was signed")
            _extract(file, product, f"{folder}/{archive}", Path(aside) / "program")
        (Path(aside) / "program").chmod(0o755)
        os.replace(Path(aside) / "program", place)


def _read(url: str) -> bytes:
    """Return the content of a small file."""
    with tempfile.TemporaryFile() as file:
        _copy(url, file, _SMALL)
        file.seek(0)
        return file.read()


def _copy(url: str, file: IO[bytes], most: int = _LARGEST) -> str:
    """Copy a URL's content into a file, and return the content's SHA-256 checksum in hexadecimal digits."""
    checksum, size = hashlib.sha256(), 0
    seconds = patience.DOWNLOAD.seconds
    deadline = time.monotonic() + seconds
    try:
        with system.open_url(url, patience.SILENCE.seconds) as answer:
            wanted = answer.headers.get("Content-Length")
            while chunk := answer.read1(_CHUNK):
                size += len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not there after {seconds:.0f} s")
                if size > most:
                    raise _unverified(f"{url} is larger than {most} bytes")
                checksum.update(chunk)
                file.write(chunk)
    except HTTPError as error:
        with error:
            raise UnreachableError(f"{url} can't be fetched: the server says {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise UnreachableError(f"{url} can't be fetched: {getattr(error, 'reason', None) or error}") from error
    if wanted and int(wanted) != size:
        raise UnreachableError(f"{url} can't be fetched: it ended after {size} of {wanted} bytes")
    return checksum.hexdigest()


def _verify(gpg: Path, told: Source, url: str, content: bytes, signature: bytes) -> None:
    """Raise ToolError unless a detached signature of the content is by the key of the pinned fingerprint.

    GnuPG looks at it: HashiCorp writes numbers with leading zeros, which stricter programs take for no signature.
    """
    with tempfile.TemporaryDirectory(dir=system.temporary()) as home:
        given = Path(home) / "given"
        given.write_bytes(signature)
        ours = [str(gpg), "--homedir", home, "--batch", "--no-tty", "--no-autostart", "--status-fd", "1"]
        _gpg([*ours, "--import", str(FILE.with_name(told.key))])
        said = _gpg([*ours, "--verify", str(given), "-"], content)
    words = {line.split()[1]: line.split()[2:] for line in said.splitlines() if re.match(r"\[GNUPG:\] \S", line)}
    by = words.get("VALIDSIG", ["nobody we know"])[-1]
    if by != told.fingerprint or not words.keys() & _GOOD:
        raise _unverified(f"{url} is not signed by the key {told.fingerprint}: gpg says {', '.join(words)}")


def _gpg(command: list[str], given: bytes = b"") -> str:
    environ, seconds = system.environment(LC_ALL="C"), patience.SIGNATURE.seconds
    done = system.call(command, environ, input=given, capture_output=True, timeout=seconds, check=False)
    return str(done.stdout.decode(errors="replace"))


def _checksum(listed: bytes, archive: str, url: str) -> str:
    """Return the checksum that a signed list gives for an archive."""
    lines = [line.split() for line in listed.decode(errors="replace").splitlines()]
    checksum = next((line[0] for line in lines if line[1:] == [archive]), "")
    if not checksum:
        raise UnreachableError(f"{url} names no {archive}")
    return checksum


def _extract(file: IO[bytes], product: str, url: str, place: Path) -> None:
    """Write an archive's one program to a path; the archive may hold a licence beside it."""
    try:
        with zipfile.ZipFile(file) as archive:
            programs = [one for one in archive.namelist() if Path(one).name.startswith(product) and one[-1:] != "/"]
            if len(programs) != 1:
                raise _unverified(f"{url} holds {len(programs)} programs named {product}")
            with archive.open(programs[0]) as packed, place.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise _unverified(f"{url} can't be unpacked: {error}") from error


def _unverified(text: str) -> ToolError:
    return ToolError(text, f"nothing of it was kept; see who answers for {urlsplit(source().server).netloc}")
