"""Look at a Jenkins, at rest or in service, and tell what is seen; the role's assertions judge it.

This text is run on the machine by its plain Python 3, 3.9 or later: one program instead of a round trip for each look.
Its argument is `at_rest` or `in_service`; a JSON document on stdin says what to look at, and one is printed.
"""

from __future__ import annotations

import glob
import http.client
import json
import os
import ssl
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

UNIT = "jenkins.service"
PROPERTIES = "ActiveState,SubState,Result,NRestarts,UnitFileState,DropInPaths,NeedDaemonReload"
SETTINGS = "Environment,WorkingDirectory,UMask"
PAGES = ("/login", "/health", "/api/json")
PACKAGE = (
    ("rpm", "--query", "--queryformat=installed %{VERSION}", "jenkins"),
    ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "jenkins"),
)


def at_rest(asked: dict[str, Any]) -> dict[str, Any]:
    """Return package, unit and processes, of `files` their owner and mode, and what there is of `patterns`."""
    return {
        "package": package(),
        "unit": unit(),
        "java": java(),
        "files": told("stat", "--format=%n %U:%G %a", *asked["files"], none=1).splitlines(),
        "existing": existing(asked["patterns"]),
    }


def in_service(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the process, its sockets, what the pages below `roots` answer, the file `password` and the errors."""
    return {
        "unit": unit(),
        "java": java(),
        "arguments": arguments(),
        "sockets": sockets(),
        "pages": {page: [answer(root + page) for root in asked["roots"]] for page in PAGES},
        "password": told("stat", "--format=%U %04a", asked["password"], none=1).strip(),
        "errors": errors(),
    }


def package() -> str:
    """Return the state and the version of the package, such as `installed 2.580.1`, or why there are none."""
    complaints = []
    for command in PACKAGE:
        try:
            done = run(*command)
        except FileNotFoundError:  # the other family's
            continue
        if done.returncode == 0:
            return done.stdout
        complaints.append((done.stdout + done.stderr).strip())
    return "; ".join(complaints)


def unit() -> dict[str, str]:
    """Return the properties of the unit."""
    lines = told("systemctl", "show", UNIT, f"--property={PROPERTIES},{SETTINGS}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def java() -> list[str]:
    """Return the process ID, user and arguments of each Java."""
    return [line.strip() for line in told("ps", "-C", "java", "-o", "pid=,user=,args=", none=1).splitlines()]


def existing(patterns: list[str]) -> list[str]:
    """Return what matches shell patterns, unless it is empty."""
    found = {path for pattern in patterns for path in glob.glob(pattern)}
    return sorted(path for path in found if os.path.exists(path) and os.path.getsize(path))


def arguments() -> list[str]:
    """Return the arguments of the first Java, each as it got them."""
    for process in java()[:1]:
        return Path(f"/proc/{process.split()[0]}/cmdline").read_text(errors="replace").split("\0")[:-1]
    return []


def sockets() -> list[str]:
    """Return where user jenkins listens, such as `tcp 127.0.0.1:8080`.

    The process of a socket is hidden from a root who may not trace, as in a container; its user isn't.
    """
    user = f"uid:{told('id', '-u', 'jenkins', none=1).strip()}"
    lines = told("ss", "--no-header", "--listening", "--numeric", "--extended", "--tcp", "--udp").splitlines()
    return sorted(f"{fields[0]} {fields[4]}" for fields in map(str.split, lines) if user in fields)


def answer(url: str) -> dict[str, Any]:
    """Return what a stranger is answered: its status, in words too, and the header X-Jenkins.

    Whether it answers is looked at, and not whose certificate it has: no name of one is 127.0.0.1.
    """
    place = urllib.parse.urlsplit(url)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(place.netloc, timeout=10, context=trusting)
        if place.scheme == "https"
        else http.client.HTTPConnection(place.netloc, timeout=10)
    )
    try:
        connection.request("GET", place.path)
        got = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return {"url": url, "status": 0, "said": str(error) or repr(error), "jenkins": ""}
    else:
        jenkins = got.getheader("X-Jenkins", "")
        return {"url": url, "status": got.status, "said": f"{got.status} {got.reason}", "jenkins": jenkins}
    finally:
        connection.close()


def errors() -> list[str]:
    """Return the unit's errors since boot: what systemd says has a priority, what Jenkins says a level in its line."""
    journal = ("journalctl", f"--unit={UNIT}", "--boot", "--quiet", "--no-pager", "--output=cat")
    severe = [line for line in told(*journal).splitlines() if "\tSEVERE\t" in line]
    return told(*journal, "--priority=err").splitlines() + severe


def told(*command: str, none: int = 0) -> str:
    """Return what a command printed; an exit code other than 0, and than its own for none found, ends the look."""
    done = run(*command)
    if done.returncode not in (0, none):
        sys.exit(f"{' '.join(command)} exits {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command, in words that are the same everywhere."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)


if __name__ == "__main__":
    print(json.dumps({"at_rest": at_rest, "in_service": in_service}[sys.argv[1]](json.load(sys.stdin))))
