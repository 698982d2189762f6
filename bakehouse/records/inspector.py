"""Inspector: reports what is in a machine, and which files, keys and passwords identify it and let people in.

This file runs on the machine itself, as root, with any Python from 3.9 up. It therefore imports nothing but the
standard library. Its one argument is either the word ``contents`` or a JSON document for ``look``; it prints the answer
of that function as JSON. No secret leaves the machine: it reports only digests of secret files, and the caller makes up
a new salt for them each time.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_JOURNAL_LINES = 1000
# Kind of package, and the command that lists: state, name, version, architecture, source, licence.
_LISTS = (
    (
        "deb",
        ("dpkg-query", "--show"),
        r"--showformat=${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t\n",
    ),
    (
        "rpm",
        ("rpm", "--query", "--all"),
        r"--queryformat=installed\t%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n",
    ),
)
_LICENCE = re.compile(r"^License: *(\S.*?) *$", re.MULTILINE)
_COMMON = re.compile(r"/usr/share/common-licenses/([\w.+-]*\w)")

# The lines of apt's Release, and the part of dnf's repomd.xml, that say which packages there are. The rest changes even
# when no package does: Debian signs an index anew, with another date, several times a day.
_APT = re.compile(rb"^ ([0-9a-f]{32,} +\d+ (?:\S*/)?Packages(?:\.\w+)?)$", re.MULTILINE)
_DNF = re.compile(rb'<data type="primary">.*?<checksum[^>]*>([0-9a-f]+)</checksum>', re.DOTALL)

_LONG = 20  # characters of a word that may be a key or a token

_USER = re.compile(r"//[^/]*@")
_DNF_CACHE = "/var/cache/dnf"

# Files in /etc that differ between the machines of an image, hold the time of creation, or are made from other files.
_OF_A_MACHINE = (
    *("machine-id", "ssh/ssh_host_*", "hostname", "hosts", "resolv.conf", "mtab", "hostid", "adjtime"),
    *("iscsi/initiatorname.iscsi", "netplan/50-cloud-init.yaml", "network/interfaces.d/50-cloud-init*"),
    *("NetworkManager/system-connections/*", "systemd/network/10-cloud-init-*", "udev/rules.d/70-persistent-net.rules"),
    *("sudoers.d/90-cloud-init-users", "shadow*", "gshadow*", "passwd-", "group-", "subuid-", "subgid-", ".updated"),
    *("ld.so.cache", "ssl/certs/java/cacerts"),
)


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the traits of this machine.

    ``asked`` holds four values:
        salt: the salt of the files' digests.
        files: shell patterns of files that identify a machine; empty files are left out.
        secrets: shell patterns of files that are secret; empty files are left out.
        made: when the image was made, in seconds since the epoch; a secret last changed before then is ``old``.
    """
    salt = asked["salt"].encode()
    present, secret = _matching(asked["files"]), _matching(asked["secrets"])
    return {
        "hostname": os.uname().nodename,
        "files": {path: digest(salt, Path(path).read_bytes()) for path in [*present, *secret]},
        "secrets": secret,
        "marks": marks(salt, secret),
        "old": [path for path in secret if os.stat(path).st_mtime < asked["made"]],
        "keys": [[user, path, line] for user, path in _key_files() for line in _lines(path)],
        "passwords": [user for user, password in _passwords() if not password.startswith(("!", "*"))],
        "contents": contents(),
        "journal": _told("journalctl", "--boot", "--no-pager", "--quiet", f"--lines={_JOURNAL_LINES}"),
    }


def wrote(unit: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the last lines of a unit's journal, of the whole one without a unit, and the marks of the secrets.

    ``asked`` holds the salt and the shell patterns of the secret files, as for ``look``.
    """
    of_unit = [f"--unit={unit}"] if unit else []
    return {
        "journal": _told("journalctl", *of_unit, "--boot", "--no-pager", "--quiet", f"--lines={_JOURNAL_LINES}"),
        "marks": marks(asked["salt"].encode(), _matching(asked["secrets"])),
    }


def marks(salt: bytes, paths: list[str]) -> list[list[Any]]:
    """Return by what secrets are recognized in a text: the salted digest and the length of each.

    A file of one line is a secret as a whole; of a longer file each long word is one. Those of a file that is no text
    are none: no text holds them.
    """
    found = set()
    for path in paths:
        with contextlib.suppress(UnicodeDecodeError):
            text = Path(path).read_text("utf-8").strip()
            words = text.split() if "\n" in text else [text]
            found |= {word for word in words if len(word) >= (_LONG if "\n" in text else 1)}
    return [[digest(salt, word.encode()), len(word)] for word in sorted(found)]


def digest(salt: bytes, content: bytes) -> str:
    """Return the salted digest of a content, without white space at its beginning and end."""
    return hashlib.sha256(salt + content.strip()).hexdigest()


def contents() -> dict[str, Any]:
    """Return what is in this machine.

    The setuid files are those on the root file system with the setuid or setgid bit. The repositories are the indexes
    that the package manager has fetched, by URL. ``contents.Contents`` explains the other parts.
    """
    return {
        "system": _system(),
        "packages": packages(),
        "services": {line.split()[0]: "enabled" for line in _told(*_SERVICES).splitlines() if line.strip()},
        "ports": dict(sorted(_ports(_told("ss", "-Hltunp")))),
        "users": {one.pw_name: f"{one.pw_uid}:{one.pw_gid} {one.pw_dir} {one.pw_shell}" for one in pwd.getpwall()},
        "setuid": dict(line.split(" ", 1)[::-1] for line in sorted(_told(*_SETUID).splitlines())),
        "files": _files("/etc"),
        "repositories": dict(sorted(_repositories())),
    }


_DOCKER = "127.0.0.11:"  # Docker's resolver listens here in a container, at changing ports
_SERVICES = ("systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--plain", "--no-pager")
_SETUID = ("find", "/", "-xdev", "-type", "f", "-perm", "/6000", "-printf", "%m:%u:%g %p\\n")


def packages() -> list[dict[str, Any]]:
    """Return the installed packages: kind (deb, rpm), name, version, architecture, source, licences."""
    found = []
    for kind, command, form in _LISTS:
        for line in _told(*command, form).splitlines():
            state, name, version, architecture, source, licence = line.split("\t")
            if state == "installed" and architecture != "(none)":  # rpm lists the keys that it trusts too
                one = {"kind": kind, "name": name, "version": version, "architecture": architecture, "source": source}
                found.append(
                    {**one, "licences": [licence] if licence else licences(f"/usr/share/doc/{name}/copyright")}
                )
    return sorted(found, key=lambda one: (one["name"], one["kind"], one["version"], one["architecture"]))


def licences(path: str) -> list[str]:
    """Return the licences that a Debian package's copyright file names.

    In a file without the machine-readable format these are the common licences that it refers to.
    """
    with contextlib.suppress(OSError):
        text = Path(path).read_text(errors="replace")
        return sorted(set((_LICENCE if text.startswith("Format:") else _COMMON).findall(text)))
    return []


def offered(index: bytes) -> str:
    """Return the digest of the packages that an index lists, whatever its date and signature.

    For an index of an unknown kind it is the digest of all of it.
    """
    told = sorted({*_APT.findall(index), *_DNF.findall(index)}) or [index]
    return "sha256:" + hashlib.sha256(b"\n".join(told)).hexdigest()


def _repositories() -> Iterator[tuple[str, str]]:
    """Yield the URL of each repository index that apt or dnf has fetched, and the digest of what it offered.

    A user and password in a URL are left out, because the URLs get into the image's tags and records.
    """
    for url, path in (*_of_apt(), *_of_dnf()):
        if url.startswith("http") and os.path.isfile(path):
            yield _USER.sub("//", url), offered(Path(path).read_bytes())


def _of_apt() -> Iterator[tuple[str, str]]:
    """Yield URL and file of the indexes that apt may have fetched; apt keeps an index beside its list of packages."""
    form = "$(URI) $(METAKEY) $(FILENAME)"
    for line in _told("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        url, key, path = line.split(" ")
        beside = path.rpartition(key.replace("_", "%5f").replace("/", "_"))[0]
        yield from ((url[: -len(key)] + name, beside + name) for name in ("InRelease", "Release"))


def _of_dnf() -> Iterator[tuple[str, str]]:
    """Yield URL and file of the indexes that dnf has fetched, each in a folder named after its repository."""
    name = ""
    for line in _told("dnf", "--cacheonly", "--quiet", "repoinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Repo-id":
            name = value.strip()
        elif key.strip() == "Repo-baseurl":
            index = "repodata/repomd.xml"
            url = value.split()[0].rstrip(",/")
            yield from ((f"{url}/{index}", path) for path in glob.glob(f"{_DNF_CACHE}/{name}-*/{index}"))


def _system() -> dict[str, str]:
    """Return the operating system's ID, version and name from os-release, and the architecture."""
    lines = [line.partition("=") for line in _lines("/etc/os-release")]
    told = {key: value.strip("\"'") for key, _, value in lines}
    named = {
        word: told.get(key, "") for word, key in (("id", "ID"), ("version", "VERSION_ID"), ("name", "PRETTY_NAME"))
    }
    return {**named, "architecture": os.uname().machine}


def _ports(told: str) -> Iterator[tuple[str, str]]:
    """Yield each port that is listened on, such as ``tcp 0.0.0.0:22``, and the programs that listen."""
    for line in told.splitlines():
        kind, _, _, _, local, _, *rest = line.split()
        if rest or not local.startswith(_DOCKER):
            yield f"{kind} {local}", " ".join(sorted(set(re.findall(r'\("([^"]+)"', " ".join(rest)))))


def _files(root: str) -> dict[str, str]:
    """Return the digest of each file in a folder, or a link's target, except those of ``_OF_A_MACHINE``."""
    found = {}
    for place, folders, names in os.walk(root):
        for name in sorted(names + [one for one in folders if os.path.islink(os.path.join(place, one))]):
            path = os.path.join(place, name)
            if not any(fnmatch.fnmatch(os.path.relpath(path, root), own) for own in _OF_A_MACHINE):
                with contextlib.suppress(FileNotFoundError):  # a running machine may replace it at this moment
                    if os.path.islink(path):
                        found[path] = f"-> {os.readlink(path)}"
                    elif os.path.isfile(path):
                        found[path] = f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    return dict(sorted(found.items()))


def _matching(patterns: list[str]) -> list[str]:
    """Return the files that match any of these patterns and are not empty."""
    paths = {path for pattern in patterns for path in glob.glob(pattern)}
    return sorted(path for path in paths if os.path.isfile(path) and os.path.getsize(path))


def _key_files() -> list[tuple[str, str]]:
    """Return user and path of every file from which sshd reads authorized keys."""
    names = [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    for line in _told("sshd", "-T").splitlines():
        if line.startswith("authorizedkeysfile "):
            names = line.split()[1:]
    found: dict[str, str] = {}
    for user in pwd.getpwall():
        for name in names:
            path = name.replace("%h", user.pw_dir).replace("%u", user.pw_name).replace("%%", "%")
            path = os.path.normpath(os.path.join(user.pw_dir, path))
            if os.path.isfile(path):
                found.setdefault(path, user.pw_name)
    return [(user, path) for path, user in found.items()]


def _lines(path: str) -> list[str]:
    """Return the lines of a file, except empty lines and comments."""
    lines = Path(path).read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _passwords() -> list[tuple[str, str]]:
    """Return each user's name and the password field of /etc/shadow."""
    rows = [line.split(":") for line in _lines("/etc/shadow")]
    return [(row[0], row[1]) for row in rows if len(row) > 1]


def _told(*command: str) -> str:
    """Return what a command printed; nothing when the machine has no such command."""
    with contextlib.suppress(FileNotFoundError):
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        return answer.stdout
    return ""


if __name__ == "__main__":
    word, *more = sys.argv[1:]
    if word == "journal":
        print(json.dumps(wrote(more[0], json.loads(more[1]))))
    else:
        print(json.dumps(contents() if word == "contents" else look(json.loads(word))))
