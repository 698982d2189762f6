"""What tests of programs start from: a PATH of their own, and a release server in place of HashiCorp's."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bakehouse import packers, releases, tools

PACKER = "#!/bin/sh\necho Packer v{}\n"
PLUGIN = "#!/bin/sh\n"


POLICY = r"""for name; do printf '%s:\n  Installed: (none)\n  Candidate: 1.6.6\n' $name; done"""
"""An apt-cache that knows each package."""


def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *folders: Mapping[str, str]) -> None:
    """Have nothing on PATH but these folders of scripts, and what those need themselves."""
    last = dict.fromkeys(("cat", "chmod", "env", "grep", "sh", "touch", "true"), "")
    paths = [tmp_path / str(number) for number in range(len(folders) + 1)]
    for path, programs in zip(paths, [*folders, last], strict=True):
        path.mkdir()
        for name, script in programs.items():
            if script:
                (path / name).write_text(f"#!/bin/sh\n{script}\n")
                (path / name).chmod(0o755)
            else:
                (path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, paths)))


class SigningKey:
    """Hold a signing key of GnuPG in a home of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        gpg = str(tools.ensure("gpg"))
        self._gpg = [gpg, "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        self("--passphrase", "", "--quick-generate-key", "Releases of the tests", "ed25519", "sign", "never")
        told = self("--with-colons", "--list-keys").decode()
        [self.fingerprint] = [line.split(":")[9] for line in told.splitlines() if line.startswith("fpr:")]
        self.public = self("--armor", "--export")

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run gpg, and return what it printed."""
        return subprocess.run([*self._gpg, *arguments], input=given, capture_output=True, check=True).stdout

    def sign(self, content: bytes) -> bytes:
        """Return a detached signature, in binary as HashiCorp's are."""
        return self("--detach-sign", given=content)

    def close(self) -> None:
        """End gpg's agent."""
        subprocess.run(["gpgconf", "--homedir", self._gpg[2], "--kill", "all"], check=True)


class ReleaseServer:
    """Serve releases over HTTP on 127.0.0.1.

    Attributes:
        key: the key that signs them.
        files: what is served, by path; a test may change it.
        asked: the paths that were asked for.
        slow: the paths whose answer begins and then falls silent.
    """

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.slow: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def release(self, product: str, version: str, program: str | bytes, packed: str = "") -> None:
        """Release a program for this host: an archive, a list of checksums, and its signature."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writing:
            writing.writestr("LICENSE.txt", "a licence")
            writing.writestr(packed or product, program)
        base = f"/{product}/{version}/{product}_{version}"
        self.files[f"{base}_{releases.target()}.zip"] = archive.getvalue()
        self.sign(product, version)

    def sign(self, product: str, version: str) -> None:
        """Write the list of checksums of a release anew, with its signature."""
        base = f"/{product}/{version}/{product}_{version}"
        archives = {name: content for name, content in self.files.items() if name.startswith(base) and "zip" in name}
        sums = "".join(f"{hashlib.sha256(one).hexdigest()}  {Path(name).name}\n" for name, one in archives.items())
        self.files[f"{base}_SHA256SUMS"] = sums.encode()
        self.files[f"{base}_SHA256SUMS.sig"] = self.key.sign(sums.encode())

    def release_all(self, version: str = "1.16.0") -> None:
        """Release a Packer and the plugins that the kit needs."""
        self.release("packer", version, PACKER.format(version))
        for plugin in packers.needs():
            self.release(plugin.product, plugin.version, PLUGIN, plugin.place(Path()).name)

    def configure(self, folder: Path, packer: str = "1.16.0") -> Path:
        """Write the data file that names this server, its key and the Packer to take, and return its path."""
        (folder / "hashicorp.asc").write_bytes(self.key.public)
        file = folder / "releases.yml"
        told = {"server": self.url, "packer": packer, "key": "hashicorp.asc", "fingerprint": self.key.fingerprint}
        file.write_text("".join(f"{name}: {value}\n" for name, value in told.items()))
        return file

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ours.asked.append(self.path)
                content = ours.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.path in ours.slow:
                    self.wfile.write(content[:1])
                    self.wfile.flush()
                    time.sleep(2)
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        return Handler


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKey]:
    """Give the key with which the tests' releases are signed."""
    key = SigningKey(tmp_path_factory.mktemp("releases") / "gnupg")
    yield key
    key.close()


@pytest.fixture
def server(signing_key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """Give a release server in place of HashiCorp's, which has nothing yet."""
    served = ReleaseServer(signing_key)
    (tmp_path / "packer").mkdir()
    monkeypatch.setattr(releases, "FILE", served.configure(tmp_path / "packer"))
    yield served
    served.close()
