"""Bases made of Debian's packages, with mmdebstrap."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bakehouse import system, tools
from bakehouse.local.bases.containers import APT_PACKAGES, MakingFailed, Say, changes, prepare

if TYPE_CHECKING:
    from docker import DockerClient

_SOURCES = """\
Types: deb
URIs: {main}
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {security}
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

_AS_ONE = """\
exec 3<&0
trap : HUP
trap 'trap : TERM; kill 0' TERM
"$@" <&3 3<&- &
wait $!
code=$?
wait
exit $code
"""
"""Run a command to its very end; told to end, tell its whole process group: mmdebstrap heeds it in a child only."""


# By Ansible's count a folder of lists is as fresh as it is young: an emptied one must look old.
_CLEAN = 'cd "$1"; chroot . apt-get clean; rm -rf var/lib/apt/lists/*; touch --date=@0 var/lib/apt/lists'


def bootstrap(suite: str, docker: DockerClient, user: str, labels: Mapping[str, str], say: Say) -> str:
    """Make a base of a Debian release, named by its suite, of the mirrors that this machine uses itself."""
    mirrors = _mirrors(system.run("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Origin: Debian")[1])
    command = [
        *(str(tools.ensure("mmdebstrap")), "--variant=minbase", f"--include={','.join(APT_PACKAGES)}"),
        f'--customize-hook=chroot "$1" sh -euc {shlex.quote(prepare())} prepare {user}',
        f"--customize-hook={_CLEAN}",
        "--skip=cleanup/apt",
        *(suite, "-"),
    ]
    if mirrors:
        command.append("-")
    with _running(command, _SOURCES.format(suite=suite, **mirrors) if mirrors else "", say) as tar:
        answer = docker.api.import_image_from_stream(tar, changes=changes(labels))
    told: dict[str, Any] = json.loads(answer.strip().rpartition("\n")[2])
    if "error" in told:
        raise MakingFailed(told["error"])
    return str(told["status"])


def _mirrors(targets: str) -> dict[str, str]:
    """Return the mirrors of Debian that this machine uses itself; nothing when a machine could not reach them."""
    found = dict(reversed([line.split(" ", 1) for line in targets.splitlines() if " http" in line]))
    mirrors = {"main": found.get("Debian", ""), "security": found.get("Debian-Security", "")}
    hosts = [urlsplit(mirror).hostname or "localhost" for mirror in mirrors.values()]
    return {} if any(host == "localhost" or host.startswith("127.") for host in hosts) else mirrors


@contextmanager
def _running(command: Sequence[str], given: str, say: Say) -> Iterator[Iterator[bytes]]:
    """Run a program, tell what it says it does, yield what it writes, and end it on the way out.

    Whoever reads to the end gets a MakingFailed when the program failed: half a base can't pass for a whole one.
    """
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as told:
        file.write(given.encode())
        file.seek(0)
        # In a session of its own: when it fails or is told to stop it hangs up on its whole process group. What it says
        # goes to a file: a pipe that nobody reads any more would kill it before it has cleared away.
        process = system.start(
            system.in_own_group(system.with_us("sh", "-c", _AS_ONE, "sh", *command)),
            system.environment(*system.OUTSIDE, TMPDIR=scratch()),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=told,
            start_new_session=True,
        )
        assert process.stdout
        said: list[str] = []
        lines = system.follow(process, Path(f"/proc/self/fd/{told.fileno()}"))  # it has no name, so nothing can stay
        listener = Thread(target=_listen, args=(lines, said, say))
        listener.start()

        def written(stream: Any) -> Iterator[bytes]:
            while part := stream.read(1 << 20):
                yield part
            if process.wait():
                listener.join()
                raise _complaint(said)

        try:
            yield written(process.stdout)
        finally:
            if process.poll() is None:
                process.terminate()
            process.stdout.close()  # or it would wait for a reader
            process.wait()
            listener.join()


def _listen(lines: Iterator[str], said: list[str], say: Say) -> None:
    for line in lines:
        said.append(line.strip())
        if step := re.fullmatch(r"I: ((downloading|extracting|installing|creating).*)\.\.\.", said[-1]):
            say(f"  {step[1]}")


def _complaint(said: Sequence[str]) -> MakingFailed:
    """Return the error of mmdebstrap: a full disk, else its first error, or its last words."""
    full = [line for line in said if "No space left" in line]
    errors = [line for line in said if line.startswith("E: ")]
    told = (full or errors or said[-1:] or ["mmdebstrap said nothing"])[0]
    network = re.search("Failed to fetch|Could not (resolve|connect)|Connection|timed out", "\n".join(said))
    return MakingFailed(told, "is the mirror reachable? apt-get update tells" if network else "")


def scratch() -> str:
    """Return a folder on a disk: /tmp may be memory, and mmdebstrap's other users must be able to enter."""
    return os.environ.get("TMPDIR") or "/var/tmp"
