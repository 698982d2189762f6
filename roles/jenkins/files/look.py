"""Look at a Jenkins, at rest or in service, and tell what is seen; the role's assertions judge it.

This text is run on the machine by its plain Python 3, 3.9 or later: one program instead of a round trip for each look.
Its argument is `at_rest` or `in_service`; a JSON document on stdin says what to look at, and one is printed.
"""

from __future__ import annotations

import base64
import glob
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNIT = "jenkins.service"
PROPERTIES = "ActiveState,SubState,Result,NRestarts,UnitFileState,DropInPaths,NeedDaemonReload"
PRESENT = "MainPID,InvocationID,ActiveEnterTimestampMonotonic"
SETTINGS = "Environment,WorkingDirectory,UMask"
PAGES = ("/login", "/health/", "/api/json")
WHO_AM_I = "/whoAmI/api/json"
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
    """Return what is seen of the unit's process, its sockets, its journal and its pages below `roots`.

    Of the file `password` its owner and mode are told, of the file `set_up` whether it is there, and of each of
    `users`, whose `password` names a file in the words of Configuration as Code, what he is answered.
    """
    seen = unit()
    entries = journal(seen["InvocationID"])
    up = int(seen["ActiveEnterTimestampMonotonic"]) if seen["ActiveState"] == "active" else None
    return {
        "unit": seen,
        "process": told("ps", "-p", seen["MainPID"], "-o", "user=,comm=", none=1).split(),
        "children": sorted(told("ps", "--ppid", seen["MainPID"], "-o", "comm=", none=1).split()),
        "arguments": arguments(seen["MainPID"]),
        "sockets": sockets(seen["MainPID"]),
        "pages": {page: [answer(root + page) for root in asked["roots"]] for page in PAGES},
        "users": [signed_in(asked["roots"][0] + WHO_AM_I, one, missed(entries)) for one in asked["users"]],
        "password": told("stat", "--format=%U %04a", asked["password"], none=1).strip(),
        "set_up": os.path.exists(asked["set_up"]),
        "errors": errors(entries, up),
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
    lines = told("systemctl", "show", UNIT, f"--property={PROPERTIES},{PRESENT},{SETTINGS}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def java() -> list[str]:
    """Return the process ID, user and arguments of each Java."""
    return [line.strip() for line in told("ps", "-C", "java", "-o", "pid=,user=,args=", none=1).splitlines()]


def existing(patterns: list[str]) -> list[str]:
    """Return what matches shell patterns, unless it is empty."""
    found = {path for pattern in patterns for path in glob.glob(pattern)}
    return sorted(path for path in found if os.path.exists(path) and os.path.getsize(path))


def arguments(process: str) -> list[str]:
    """Return the arguments of a process, each as it got them; none of process 0, which is nobody's."""
    line = Path(f"/proc/{process}/cmdline")
    return line.read_text(errors="replace").split("\0")[:-1] if line.exists() else []


def sockets(process: str) -> list[dict[str, Any]]:
    """Return where user jenkins listens, such as `tcp 127.0.0.1:8080`, and whether this process does, if it is known.

    Others that do are builds.
    """
    user = f"uid:{told('id', '-u', 'jenkins', none=1).strip()}"
    lines = told("ss", "--no-header", "--listening", "--numeric", "--extended", "--tcp", "--udp").splitlines()
    its_own = held(process)
    found = []
    for fields in map(str.split, lines):
        if user in fields:
            number = next((field for field in fields if field.startswith("ino:")), "")
            found.append({"at": f"{fields[0]} {fields[4]}", "own": None if its_own is None else number in its_own})
    return sorted(found, key=lambda one: str(one["at"]))


HOLD = """
import os, sys
for name in os.listdir(sys.argv[1]):
    try:
        print(os.readlink(sys.argv[1] + "/" + name))
    except FileNotFoundError:  # closed meanwhile
        pass
"""
AS_JENKINS = ("setpriv", "--reuid=jenkins", "--regid=jenkins", "--clear-groups")
WITH_ITS_RIGHT = ("--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service")


def held(process: str) -> set[str] | None:
    """Return the sockets that a process holds, such as `ino:1234`; None where nobody is told.

    A root who may not trace, as in a container, isn't told, but the process's own user is, with its own rights.
    """
    for who in ((), AS_JENKINS, (*AS_JENKINS, *WITH_ITS_RIGHT)):
        done = run(*who, sys.executable, "-c", HOLD, f"/proc/{process}/fd")
        if done.returncode == 0:
            return {f"ino:{number}" for number in re.findall(r"^socket:\[(\d+)\]$", done.stdout, re.MULTILINE)}
    return None


def answer(url: str, **headers: str) -> dict[str, Any]:
    """Return what is answered: its status, in words too, and the header X-Jenkins.

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
        connection.request("GET", place.path, headers=headers)
        got = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return {"url": url, "status": 0, "said": str(error) or repr(error), "jenkins": ""}
    else:
        jenkins = got.getheader("X-Jenkins", "")
        return {"url": url, "status": got.status, "said": f"{got.status} {got.reason}", "jenkins": jenkins}
    finally:
        connection.close()


def signed_in(url: str, user: dict[str, str], files_missed: set[str]) -> dict[str, Any]:
    """Return whether a user gets in with the password that a file holds: as a person types it, without a line's end.

    A file that isn't there any more can't be tried; then it is told whether Jenkins has missed it at its start.
    """
    file = user["password"].rpartition("readFile:")[2].rstrip("}")
    seen = {"user": user["user"], "file": file, "missed": file in files_missed}
    try:
        password = Path(file).read_text(errors="replace").strip()
    except OSError as error:
        return {**seen, "status": 0, "said": error.strerror}
    word = base64.b64encode(f"{user['user']}:{password}".encode()).decode()
    got = answer(url, Authorization=f"Basic {word}")
    return {**seen, "status": got["status"], "said": got["said"]}


def journal(invocation: str) -> list[dict[str, Any]]:
    """Return the journal of an invocation of the unit, what systemd says of it too: `at` in microseconds, `text`.

    An entry with a priority of error or worse is `bad`.
    """
    which = (f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}")
    form = ("--quiet", "--no-pager", "--output=json", "--output-fields=PRIORITY,MESSAGE")
    lines = told("journalctl", *which, *form).splitlines() if invocation else []
    return [entry(json.loads(line)) for line in lines]


def entry(read: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the journal; a message that isn't UTF-8 comes as a list of bytes."""
    text = read.get("MESSAGE") or ""
    return {
        "at": int(read["__MONOTONIC_TIMESTAMP"]),
        "text": text if isinstance(text, str) else bytes(text).decode(errors="replace"),
        "bad": int(read.get("PRIORITY", 6)) <= 3,
    }


# Jenkins's own format: time, thread, level, logger#method, text. Java's: time, logger and method in a line before.
# Whatever else has the word for the level.
OWN = re.compile(r"\[id=\d+\]\s+SEVERE\s+(?P<logger>[^\s#:]+)\S*\s+(?P<text>.*)")
JAVAS = re.compile(r"SEVERE: (?P<text>.*)")
NAMED = re.compile(r"\w+ \d+, \d{4} \d+:\d\d:\d\d\s\w+ (?P<logger>\S+)( \S+)?$")
OTHER = re.compile(r"(^|[\s\[|])SEVERE([\s:\]|]|$)")


def errors(entries: Iterable[dict[str, Any]], up: int | None) -> dict[str, Any]:
    """Return the errors until the unit was up at `up` (None: it isn't), and number and last one of those after."""
    before, early, late = "", list[str](), list[str]()
    for one in entries:
        if said := error(one, before):
            (late if up is not None and one["at"] > up else early).append(said)
        before = one["text"]
    return {"early": early, "late": len(late), "last": late[-1] if late else ""}


def error(one: dict[str, Any], before: str) -> str:
    """Return what an entry says if it is an error, as `LOGGER: TEXT` where the logger is told; `before` is its line."""
    text = str(one["text"])
    if own := OWN.search(text):
        return f"{own['logger']}: {own['text']}"
    if javas := JAVAS.match(text):
        named = NAMED.match(before)
        return f"{named['logger']}: {javas['text']}" if named else text
    return text if one["bad"] or OTHER.search(text) else ""


def missed(entries: Iterable[dict[str, Any]]) -> set[str]:
    """Return the files that Configuration as Code has not found."""
    return {file for one in entries for file in re.findall(r"Error looking up file '([^']+)'", str(one["text"]))}


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
