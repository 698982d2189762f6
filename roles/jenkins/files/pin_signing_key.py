"""Put a repository's signing key where apt trusts it, if it is the pinned key and nothing but that key.

Runs on the machine with its plain Python 3, 3.9 or later: a minimal Debian has no gpg.
OpenPGP's packets, armour and fingerprints: RFC 4880, sections 4.2, 6.2 and 12.2.
"""

import argparse
import base64
import binascii
import hashlib
import os
import sys
import urllib.request
from collections.abc import Iterator

PUBLIC_KEY = 6
# What may follow the primary key: signatures, user ids, subkeys, user attributes.
PARTS_OF_A_KEY = {2, 13, 14, 17}
BEGIN, END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"


class RefusedError(Exception):
    """Say why a key is not trusted."""


def dearmour(text: bytes) -> bytes:
    """Return the packets of the one armoured block that is all there is in `text`."""
    lines = [line.strip() for line in text.decode("ascii", "replace").strip().splitlines()]
    if len(lines) < 2 or lines[0] != BEGIN or lines[-1] != END or "" not in lines:
        raise RefusedError("is not one ASCII-armoured public key block")
    body = lines[lines.index("") + 1 : -1]
    if body and body[-1].startswith("="):  # the armour's checksum; the fingerprint says more
        body.pop()
    try:
        return base64.b64decode("".join(body), validate=True)
    except binascii.Error:
        raise RefusedError("holds more than one armoured block, or a damaged one") from None


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each packet's tag and body."""
    at = 0
    while at < len(data):
        tag, at, length = header(data, at)
        if at + length > len(data):
            raise RefusedError("ends in the middle of a packet")
        yield tag, data[at : at + length]
        at += length


def header(data: bytes, at: int) -> tuple[int, int, int]:
    """Read a packet header: its tag, where the body starts, the body's length."""
    first, *rest = data[at : at + 6]
    rest += [0] * 5
    if not first & 0x80:
        raise RefusedError("is not made of OpenPGP packets")
    if first & 0x40:
        tag, octet = first & 0x3F, rest[0]
        if octet < 192:
            return tag, at + 2, octet
        if octet < 224:
            return tag, at + 3, (octet - 192 << 8) + rest[1] + 192
        if octet == 255:
            return tag, at + 6, int.from_bytes(bytes(rest[1:5]), "big")
    elif first & 3 != 3:
        size = 1 << (first & 3)
        return first >> 2 & 0x0F, at + 1 + size, int.from_bytes(bytes(rest[:size]), "big")
    raise RefusedError("holds a packet without a fixed length")


def fingerprint(key: bytes) -> str:
    """Return the fingerprint of a version 4 public key packet."""
    if key[:1] != b"\x04":
        raise RefusedError(f"holds a key of version {key[0] if key else 'none'}; only version 4 can be pinned")
    return hashlib.sha1(b"\x99" + len(key).to_bytes(2, "big") + key).hexdigest().upper()  # noqa: S324  # what OpenPGP defines


def refuse_all_but(pinned: str, text: bytes) -> None:
    """Raise unless `text` is the public key with the fingerprint `pinned`, alone."""
    found = list(packets(dearmour(text)))
    keys = [fingerprint(body) for tag, body in found if tag == PUBLIC_KEY]
    if len(keys) != 1:
        raise RefusedError(f"holds {len(keys)} keys instead of one ({' '.join(keys)}), but {pinned} is pinned")
    if keys != [pinned]:
        raise RefusedError(f"has the fingerprint {keys[0]}, but {pinned} is pinned")
    if found[0][0] != PUBLIC_KEY or {tag for tag, _ in found[1:]} - PARTS_OF_A_KEY:
        raise RefusedError("holds more than a public key")


def put(text: bytes, path: str, pretend: bool) -> bool:
    """Make `path` hold `text`, at once or not at all; return whether that is a change."""
    if os.path.exists(path):
        with open(path, "rb") as file:
            if file.read() == text:
                return False
    if not pretend:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(f"{path}.new", "wb") as file:
            file.write(text)
        os.chmod(f"{path}.new", 0o644)
        os.replace(f"{path}.new", path)
    return True


def main() -> None:
    """Fetch, judge, put; say `changed` or `unchanged`, or why not and what to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="judge the key, change nothing")
    parser.add_argument("url")
    parser.add_argument("fingerprint")
    parser.add_argument("path")
    told = parser.parse_args()
    try:
        with urllib.request.urlopen(told.url, timeout=30) as answer:
            text = answer.read(1 << 20)
        refuse_all_but(told.fingerprint, text)
    except OSError as error:
        sys.exit(f"the signing key {told.url} can't be fetched: {error}\nhint: is it the right URL?")
    except RefusedError as why:
        sys.exit(
            f"the signing key {told.url} {why}; nothing was trusted or installed\n"
            "hint: find out why it differs before you change the pinned fingerprint"
        )
    print("changed" if put(text, told.path, told.check) else "unchanged")


if __name__ == "__main__":
    main()
