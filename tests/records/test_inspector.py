"""Inspector: what a machine reports, asked here of this computer, with a root and programs of the test's own."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bakehouse.records import inspector

LISTS = {
    "dpkg-query": r"""printf '%b' 'installed\tlibc6\t2.41\tamd64\tglibc\t\n' 'installed\tzlib\t1\tamd64\tzlib\t\n'
                      printf 'config-files\tgone\t3\tall\tgone\t\n'""",
    "rpm": r"""printf 'installed\tkernel\t1:6.2-1\tx86_64\tkernel-6.2-1.src.rpm\tGPL-2.0-only\n'
              printf 'installed\tgpg-pubkey\t5bc232c1-6b03067e\t(none)\t(none)\tpubkey\n'""",
    "systemctl": "echo 'ssh.service enabled enabled'",
    "ss": """cat <<'END'
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=7,fd=3),("sshd",pid=8,fd=3))
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*
udp UNCONN 0 0 127.0.0.11:44347 0.0.0.0:*
tcp LISTEN 0 50 *:8080 *:* users:(("java",pid=9,fd=3))
END""",
    "find": "echo '4755:root:root /usr/bin/a file'",
}


# Of Debian's own, shortened.
RELEASE = """-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: stable-updates
Date: {date}
Valid-Until: {date}
Components: main contrib
SHA256:
 {other:064}      738 main/Contents-amd64
 {packages:064}    28624 main/binary-amd64/Packages
 {packages:064}     8028 main/binary-amd64/Packages.xz
 {other:064}       94 main/binary-amd64/Release
-----BEGIN PGP SIGNATURE-----

{date}
-----END PGP SIGNATURE-----
"""
REPOMD = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo">
  <revision>{date}</revision>
  <data type="filelists"><checksum type="sha256">{other:064}</checksum></data>
  <data type="primary">
    <checksum type="sha256">{packages:064}</checksum>
    <location href="repodata/primary.xml.gz"/>
    <timestamp>{date}</timestamp>
  </data>
</repomd>
"""


@pytest.mark.parametrize("form", [RELEASE, REPOMD])
def test_offered(form: str) -> None:
    """Other packages are a change; another date, signature or list of other things is none."""

    def told(**values: int) -> str:
        return inspector.offered(form.format(**{"date": 1, "packages": 1, "other": 1, **values}).encode())

    assert told() == told(date=2) == told(other=2)
    assert told() != told(packages=2)


def test_an_index_of_no_known_kind() -> None:
    """What can't be read as an index counts as a whole."""
    assert inspector.offered(b"one") != inspector.offered(b"two")


@pytest.fixture
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put package managers on PATH, before those that may be here, that list what LISTS says."""
    for name, script in LISTS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("_programs")
def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed is listed with all that its manager knows and the licences of its copyright file."""
    monkeypatch.setattr(inspector, "licences", lambda path: [path])
    libc, zlib = "/usr/share/doc/libc6/copyright", "/usr/share/doc/zlib/copyright"
    expected = [
        ["rpm", "kernel", "1:6.2-1", "x86_64", "kernel-6.2-1.src.rpm", ["GPL-2.0-only"]],
        ["deb", "libc6", "2.41", "amd64", "glibc", [libc]],
        ["deb", "zlib", "1", "amd64", "zlib", [zlib]],
    ]

    assert expected == [list(one.values()) for one in inspector.packages()]


@pytest.mark.usefixtures("_programs")
def test_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides packages a machine tells what its boot starts, who listens where, its users and its setuid files."""
    monkeypatch.setattr(inspector, "_files", lambda root: {root: "its files"})

    told = inspector.contents()

    assert {"ssh.service": "enabled"} == told["services"]
    assert {"tcp *:8080": "java", "tcp 0.0.0.0:22": "sshd", "udp 127.0.0.53%lo:53": ""} == told["ports"]
    assert {"/usr/bin/a file": "4755:root:root"} == told["setuid"]
    assert "0:0 /root" == told["users"]["root"].rpartition(" ")[0]
    assert {"id", "version", "name", "architecture"} == set(told["system"])
    assert {"/etc": "its files"} == told["files"]


DNF = """
Repo-id            : amazonlinux
Repo-name          : Amazon Linux 2023 repository
Repo-baseurl       : https://example.com/al2023/core/ (2 more)
Repo-filename      : /etc/yum.repos.d/amazonlinux.repo

Repo-id            : local
Repo-baseurl       : file:///srv/repository
"""


# As sha256sum tells of deb_a%5fb_dists_stable_InRelease, deb_flat_Release and repomd.xml.
_SUMS = (
    "daa4c380d5489c12aee86b6093008fe05e96611a1aad68f73e15477c40da4e00",
    "c7158ca17bfadc3628be2948e00c15f8191bbef01442c1324a2511bd6cfe5331",
    "75c50f8ca91197b06ec0aeee5aaaae1f3c46982d586e473a489e7e0d694ff8e5",
)


def test_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The indexes that apt and dnf have are told by their URLs, with what each offered: no folder, and no password."""
    names = ("deb_a%5fb_dists_stable_InRelease", "deb_flat_Release", "amazonlinux-0123456789abcdef", "local-1")
    files = [tmp_path / name for name in names]
    for file in files[2:]:
        (file / "repodata").mkdir(parents=True)
    for file in (*files[:2], *(file / "repodata/repomd.xml" for file in files[2:])):
        file.write_text(file.name)
    lists = f"""http://me:s3cret@deb/a_b/dists/stable/main/binary-amd64/Packages main/binary-amd64/Packages \
{tmp_path}/deb_a%5fb_dists_stable_main_binary-amd64_Packages.lz4
http://deb/flat/Packages Packages {tmp_path}/deb_flat_Packages
http://deb/gone/Packages Packages {tmp_path}/deb_gone_Packages
"""
    told = {"apt-get": lists.replace("\\\n", ""), "dnf": DNF}
    monkeypatch.setattr(inspector, "_told", lambda *command: told[command[0]])
    monkeypatch.setattr(inspector, "_DNF_CACHE", str(tmp_path))

    assert {
        "http://deb/a_b/dists/stable/InRelease": f"sha256:{_SUMS[0]}",
        "http://deb/flat/Release": f"sha256:{_SUMS[1]}",
        "https://example.com/al2023/core/repodata/repomd.xml": f"sha256:{_SUMS[2]}",
    } == dict(inspector._repositories())


def test_files(tmp_path: Path) -> None:
    """Each file has its digest, each link its aim; what is a machine's own and no image's is left out."""
    for name in ("ssh/sshd_config", "ssh/ssh_host_ed25519_key", "machine-id", "shadow", "shadow-", "hosts.allow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (tmp_path / "folder").symlink_to("ssh")
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"

    assert {
        f"{tmp_path}/folder": "-> ssh",
        f"{tmp_path}/hosts.allow": digest,
        f"{tmp_path}/localtime": "-> /usr/share/zoneinfo/UTC",
        f"{tmp_path}/ssh/sshd_config": digest,
    } == inspector._files(str(tmp_path))


COPYRIGHTS = {
    "machine-readable": (
        "Format: any\n\nFiles: *\nLicense: GPL-2+\n see /usr/share/common-licenses/GPL-2\n\nLicense: Expat \n Free\n",
        ["Expat", "GPL-2+"],
    ),
    "in free words": ("License: Permission is granted.\nSee /usr/share/common-licenses/LGPL-2.1.\n", ["LGPL-2.1"]),
    "of no known kind": ("\udc80 do what you want\n", []),
}


@pytest.mark.parametrize(("text", "expected"), COPYRIGHTS.values(), ids=COPYRIGHTS)
def test_licences(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A Debian package's licences are those that its copyright file names, or refers to where it is in free words."""
    (tmp_path / "copyright").write_text(text, errors="surrogateescape")

    assert expected == inspector.licences(str(tmp_path / "copyright"))
    assert [] == inspector.licences(str(tmp_path / "none"))


@pytest.mark.usefixtures("_programs")
def test_it_stands_alone() -> None:
    """The file is run by its text alone, as a machine does that has nothing of the kit."""
    line = [sys.executable, "-I", "-c", inspect.getsource(inspector), "contents"]
    told = subprocess.run(line, cwd="/", capture_output=True, text=True, check=True).stdout

    assert inspector.contents() == json.loads(told)


def test_no_package_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that isn't there tells nothing."""
    monkeypatch.setattr(inspector, "_LISTS", (("deb", ("no-such-package-manager",), "--list"),))

    assert [] == inspector.packages()


def test_digest() -> None:
    """A digest tells nothing without its salt, and white space around a content makes no other."""
    assert hashlib.sha256(b"salt" + b"secret").hexdigest() == inspector.digest(b"salt", b" secret\n")
    assert inspector.digest(b"salt", b"secret") != inspector.digest(b"pepper", b"secret")


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*/key*"], ["secrets/key-a", "secrets/key-b"]),
        (["secrets/key-a", "secrets/key-?"], ["secrets/key-a", "secrets/key-b"]),
        (["secrets/none", "secrets"], []),
        (["secrets/empty"], []),
    ],
)
def test_matching(tmp_path: Path, patterns: list[str], found: list[str]) -> None:
    """Each file that matches is there once; an empty one and a folder hold nothing to compare."""
    (tmp_path / "secrets").mkdir()
    for name in ("key-a", "key-b"):
        (tmp_path / "secrets" / name).write_text("x")
    (tmp_path / "secrets" / "empty").touch()

    expected = [str(tmp_path / one) for one in found]
    assert expected == inspector._matching([str(tmp_path / one) for one in patterns])


def test_lines(tmp_path: Path) -> None:
    """Comments and empty lines say nothing."""
    (tmp_path / "keys").write_text("# mine\n\n ssh-ed25519 AAAA me\n")

    assert ["ssh-ed25519 AAAA me"] == inspector._lines(str(tmp_path / "keys"))
