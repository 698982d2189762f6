"""Fit machines out with what needs rights that they must not have: their control groups, routes and memory disks.

This file is run by ``bodies.py`` inside a container that shares the host's process view, so it stands alone. It reads
machines as JSON lines on stdin, and answers each with one JSON line on stdout:

    {"container": "4f…", "pid": 4711, "away": ["169.254.169.254"]}
    {"refused": ""}

It also tells how many inotify instances root's processes on this host have, and how many they may have:

    {"inotify": true}
    {"used": 61, "most": 128}

``pid`` is that of the machine's init, which waits for the file ``READY``. Anyone may have written the machine's disk:
nothing of it is run. A child of this process enters the machine's namespaces, makes its system calls there, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Any

READY = "/run/bakehouse-ready"
SECONDS = 10  # a child that takes longer is ended: the machine's disk may hold a trap

CGROUP2 = 0x63677270  # the file system's magic number, as statfs(2) tells it
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 2, 4, 8, 32
HARMLESS = MS_NOSUID | MS_NODEV | MS_NOEXEC

UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Make a system call by its function in the C library; raises OSError."""
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def fit(container: str, pid: int, away: list[str]) -> None:
    """Fit one machine out; raises OSError when that can't be done, and nothing is changed for another process."""
    place = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)  # of this process for good: its ID may be another's
    with open(os.open("cgroup", os.O_RDONLY, dir_fd=place)) as groups:
        if container not in groups.read():
            raise OSError(f"process {pid} is not the machine's")
    spaces = [os.open(f"ns/{kind}", os.O_RDONLY, dir_fd=place) for kind in ("net", "cgroup", "mnt")]
    call("setns", spaces[0], 0)
    routes = "".join(f"route replace unreachable {one}\n" for one in away)
    subprocess.run(["ip", "-batch", "-"], input=routes, text=True, check=True, capture_output=True)
    sys.meta_path.clear()  # from here on files are the machine's, and no module may be taken from there
    call("setns", spaces[1], 0)
    call("setns", spaces[2], 0)
    os.chdir("/")
    if os.path.lexists(READY):  # it is fitted out
        return
    give_control_groups()
    if has_tmp_in_memory():
        call("mount", b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777")
    os.close(os.open(READY, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644))


def give_control_groups() -> None:
    """Give systemd a tree of its own: where the host has v2 Docker's is there but read-only, on v1 there is none."""
    told = ctypes.create_string_buffer(256)
    call("statfs", b"/sys/fs/cgroup", told)
    if ctypes.c_long.from_buffer(told).value == CGROUP2:
        call("mount", None, b"/sys/fs/cgroup", None, MS_REMOUNT | HARMLESS, None)
    else:
        call("mount", b"cgroup2", b"/sys/fs/cgroup", b"cgroup2", HARMLESS, None)


def has_tmp_in_memory() -> bool:
    """Tell whether the machine's system has /tmp in memory, which it could not mount itself."""
    if os.path.islink("/etc/systemd/system/tmp.mount") or os.path.ismount("/tmp"):  # it is masked, or done
        return False
    return any(os.path.lexists(f"{units}/local-fs.target.wants/tmp.mount") for units in UNITS)


def fitted(asked: dict[str, Any]) -> str:
    """Fit a machine out in a child; return why it could not be, empty when it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        signal.alarm(SECONDS)
        try:
            fit(asked["container"], asked["pid"], asked["away"])
        except Exception as error:
            os.write(writer, str(error).encode(errors="replace")[:1000] or b"?")
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as told:
        why = told.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return why or (f"it took more than {SECONDS} s" if os.waitstatus_to_exitcode(status) else "")


def inotify() -> dict[str, int]:
    """Return how many inotify instances this user's processes have, and how many they may have."""
    used = sum(inotify_of(process) for process in os.listdir("/proc") if process.isdigit())
    with open("/proc/sys/fs/inotify/max_user_instances") as most:
        return {"used": used, "most": int(most.read())}


def inotify_of(process: str) -> int:
    """Return how many inotify instances a process of this user has; 0 when it is another's, or has ended."""
    found = 0
    with contextlib.suppress(OSError):
        if os.stat(f"/proc/{process}").st_uid == os.geteuid():
            for one in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):  # it is closed
                    found += os.readlink(f"/proc/{process}/fd/{one}") == "anon_inode:inotify"
    return found


def main() -> None:
    """Answer each line of stdin, until its end."""
    for line in sys.stdin:
        asked = json.loads(line)
        answer = inotify() if "inotify" in asked else {"refused": fitted(asked)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
