"""System: starts programs on this system in an environment of our choice, becomes root, and installs packages."""

from __future__ import annotations

import fcntl
import grp
import os
import platform
import pwd
import re
import select
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from bakehouse import patience
from bakehouse.errors import NotKnownError

_ALWAYS = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ", "TMPDIR", patience.VARIABLE)

OUTSIDE = (
    *(name for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper())),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_PROXY"),
    *("PIP_CERT", "PIP_CLIENT_CERT", "PIP_KEYRING_PROVIDER", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "PIP_CONFIG_FILE"),
)
"""The person's variables for a program that fetches from outside: proxies, trusted certificates, indexes of Python."""

DOCKER = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "XDG_RUNTIME_DIR")
"""The person's variables for a program that asks Docker: they say where its engine is."""

ANSIBLE = ("ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST")
"""The person's variables for Ansible: they say where the passwords of vaults are."""

PACKER = {"CHECKPOINT_DISABLE": "1", "PACKER_CONFIG": "/none"}
"""Our variables for Packer: it asks nobody for newer versions, and reads no ~/.packerconfig, which can change steps."""

_LINES_EVERY = 0.2  # seconds: so often a log is read while a program writes it

_LONGEST = 40  # bytes: the path of a socket has 107 at most, and what is made there needs 60


def environment(*passing: str, **ours: str) -> dict[str, str]:
    """Return the environment of a program that we start: a few variables of the person's, and ours.

    ``passing`` names more variables to pass on: ``*OUTSIDE``, ``*DOCKER``, ``*ANSIBLE`` or single ones. All others stay
    behind. The programs of the venv are found first, and those in the current folder not at all.
    """
    passed = {name: os.environ[name] for name in (*_ALWAYS, *passing) if name in os.environ}
    venv = str(Path(sys.executable).parent)
    others = [place for place in passed.get("PATH", os.defpath).split(os.pathsep) if place != venv]
    path = os.pathsep.join([venv, *(place for place in others if os.path.isabs(place))])
    return {**passed, "PATH": path, **ours}


def call(argv: Sequence[str | Path], environ: Mapping[str, str], **how: Any) -> Any:
    """Run a program as ``subprocess.run`` does and return its CompletedProcess; its environment is ``environ``."""
    given: dict[str, Any] = {} if "input" in how else {"stdin": subprocess.DEVNULL}
    return subprocess.run(argv, env=environ, **given, **how)  # noqa: PLW1510, because the caller says it


def start(argv: Sequence[str | Path], environ: Mapping[str, str], **how: Any) -> subprocess.Popen[Any]:
    """Start a program as ``subprocess.Popen`` does; its environment is ``environ``."""
    return subprocess.Popen(argv, env=environ, **{"stdin": subprocess.DEVNULL, **how})


def become(argv: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become another program, which gets our terminal and whose exit code is ours."""
    os.execvpe(argv[0], argv, environ)  # noqa: S606


def join(group: str, say: Callable[[str], None]) -> None:
    """Begin this program anew as a member of a group, without a new login; return when that isn't ours to do.

    A person who is no member yet becomes one, if they may become root without a password. ``say`` tells the person.
    """
    try:
        name, told = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrnam(group)
    except KeyError:
        return
    if told.gr_gid in (os.getegid(), *os.getgroups()) or not shutil.which("sg"):
        return
    if name not in told.gr_mem:
        root = become_root()
        if root is None or run(*root, "usermod", "--append", "--groups", group, name)[0]:
            return
        say(f"{name} is a member of the group {group} from now on")
    become(["sg", group, "-c", shlex.join([sys.executable, *sys.orig_argv[1:]])], dict(os.environ))


def in_own_group(command: Sequence[str]) -> list[str]:
    """Return a command that runs in the person's own group, also after ``join``: newuidmap insists on that."""
    try:
        own = grp.getgrgid(pwd.getpwuid(os.geteuid()).pw_gid)
    except KeyError:
        return [*command]
    joined = os.getegid() != own.gr_gid and shutil.which("sg")
    return ["sg", own.gr_name, "-c", shlex.join(command)] if joined else [*command]


@contextmanager
def only(environ: Mapping[str, str]) -> Iterator[None]:
    """Make ``environ`` this process's own environment in this context, for a library that passes on all of it."""
    before = dict(os.environ)
    try:
        _replace(environ)
        yield
    finally:
        _replace(before)


def _replace(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)


def temporary() -> str:
    """Return the folder for temporary folders, with a path that is short enough for sockets in them.

    It is TMPDIR; without that the person's own XDG_RUNTIME_DIR, which nobody else can enter; else /tmp.
    """
    wanted, own = os.environ.get("TMPDIR", ""), os.environ.get("XDG_RUNTIME_DIR", "")
    usable = (wanted if os.path.isdir(wanted) and os.access(wanted, os.W_OK | os.X_OK) else "", is_ours(own) and own)
    return next((one for one in usable if one and os.path.isabs(one) and len(os.fsencode(one)) <= _LONGEST), "/tmp")


def is_ours(folder: str | Path) -> bool:
    """Tell whether a path is a folder of ours that nobody else can enter, and no link to one."""
    try:
        told = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(told.st_mode) and told.st_uid == os.geteuid() and not told.st_mode & 0o077


def run(
    *command: str,
    passing: Sequence[str] = (),
    folder: str | None = None,
    limit: patience.Limit | None = patience.PROGRAM,
    uncut: bool = False,
) -> tuple[int, str]:
    """Run a command without input, and return its exit code and its whole output.

    The code is 127 when the command can't be run. Raises NotKnownError when it takes longer than the ``limit``: that is
    no answer. ``passing`` is as for ``environment``. With ``uncut``, Ctrl-C doesn't reach the command: the kit stops
    after the command has ended.
    """
    seconds = limit.seconds if limit else None
    environ = environment(*passing, LC_ALL="C", **PACKER)
    # A file, not a pipe: a daemon that the command leaves behind would hold a pipe open.
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            process = start(command, environ, stdout=said, stderr=said, cwd=folder, start_new_session=uncut)
            try:
                until_ended(process, seconds)
            finally:
                if not uncut:
                    process.kill()
                process.wait()
        except subprocess.TimeoutExpired as error:
            named = " ".join(command[:2])
            raise NotKnownError(f"{named} gave no answer in {seconds:.0f} s", patience.LONGER) from error
        except OSError as error:
            return 127, str(error)
        said.seek(0)
        return process.returncode, said.read()


def with_us(*command: str) -> list[str]:
    """Return a command that gets SIGTERM when we end, even by SIGKILL. It works only where setpriv is, as on Linux."""
    return [*(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()), *command]


def until_ended(process: subprocess.Popen[Any], seconds: float | None) -> None:
    """Wait until a process has ended; raises subprocess.TimeoutExpired after the seconds.

    The system tells it, where it can: ``Popen.wait`` would look twenty times a second.
    """
    if seconds is not None and process.poll() is None and hasattr(os, "pidfd_open"):
        with suppress(ProcessLookupError):  # another thread of ours was quicker to see its end
            ended = os.pidfd_open(process.pid)
            try:
                select.select([ended], [], [], seconds)
            finally:
                os.close(ended)
            seconds = 0
    process.wait(seconds)


def follow(process: subprocess.Popen[bytes], log: Path) -> Iterator[str]:
    """Yield the lines of a log until the process that writes it has ended."""
    rest = ""
    with log.open(errors="replace") as reader:
        while True:
            ended = process.poll() is not None
            text = reader.read()
            *lines, rest = (rest + text).split("\n")
            yield from lines
            if ended and not text:
                return
            if not text:
                with suppress(subprocess.TimeoutExpired):
                    until_ended(process, _LINES_EVERY)


ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    "x86_64": {"ec2": "x86_64", "kernel": "x86_64", "debian": "amd64"},
    "arm64": {"ec2": "arm64", "kernel": "aarch64", "debian": "arm64"},
}
"""For each architecture, by EC2's word for it, the words of EC2, the kernel and Debian."""


def architecture(word: str = "") -> str:
    """Return EC2's word for an architecture, by default for this system's; empty when ``word`` is unknown."""
    word = word or platform.machine()
    return next((name for name, words in ARCHITECTURES.items() if word in words.values()), "")


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        try:
            address = ip_address(socket.inet_aton(host))  # as the resolver understands 127.1 and 2130706433
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def open_url(url: str | Request, seconds: float) -> Any:
    """Open a URL as ``urllib.request.urlopen`` does, but never through a proxy if it leads to a private address.

    Raises ValueError for another scheme than http and https: a tag of an account may name a file of this host.
    """
    place = urlsplit(url if isinstance(url, str) else url.full_url)
    if place.scheme not in ("http", "https"):
        raise ValueError(f"{place.scheme} is neither http nor https")
    host = place.hostname or ""
    handlers = [ProxyHandler({})] if host == "localhost" or _is_private(host) else []
    return build_opener(*handlers).open(url, timeout=seconds)


def _is_private(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return False


@contextmanager
def alone(file: Path, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Wait for the lock on a file, and hold it. The file is made if it is missing.

    If that takes longer than a second, ``waiting`` is called with who holds the lock, such as "bake (process 4711)";
    it may raise, and then there is no waiting.
    """
    with file.open("a+") as lock:
        if not _locked(lock, 1):
            lock.seek(0)
            waiting(lock.read().strip() or "another task")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(f"{(*sys.argv, '', '')[1]} (process {os.getpid()})")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def holder(file: Path) -> str:
    """Return who holds the lock on a file, such as "bake (process 4711)"; empty when nobody does."""
    try:
        with file.open() as lock:
            if _locked(lock, 0, fcntl.LOCK_SH):
                return ""
            return lock.read().strip() or "another task"
    except OSError:
        return ""


def _locked(lock: IO[str], seconds: float, kind: int = fcntl.LOCK_EX) -> bool:
    """Try for so long to get a lock, and return whether we have it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def last_line(text: str) -> str:
    """Return the last line of a command's output, where most commands print their error."""
    return text.strip().rpartition("\n")[2]


def become_root() -> tuple[str, ...] | None:
    """Return the words to put before a command to run it as root without a password; None where that is impossible."""
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if run("sudo", "-n", "true")[0] == 0 else None


def has_systemd() -> bool:
    """Return whether systemd runs here."""
    return Path("/run/systemd/system").is_dir()


def can_install() -> bool:
    """Return whether the kit can install packages: it must be able to become root, on a system with apt-get."""
    return shutil.which("apt-get") is not None and become_root() is not None


def having(packages: Sequence[str]) -> tuple[str, ...]:
    """Return those of the packages that apt can install, as its lists say."""
    _, told = run("apt-cache", "policy", *packages)
    names = re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", told, re.MULTILINE)
    return tuple(name for name in packages if name in names)


def install(packages: Sequence[str]) -> str:
    """Install those of the packages that exist here; the first one must. Return the error as text, empty on success."""
    if not having(packages[:1]):
        _apt("update")
    if not having(packages[:1]):
        return f"this distribution has no package {packages[0]}"
    if _apt("install", *having(packages)):
        _apt("update")  # the lists may name versions that the mirror no longer has
        return _apt("install", *having(packages))
    return ""


def command_for(packages: Mapping[str, tuple[str, ...]]) -> str:
    """Return the command that installs the packages on this system; empty when it has none of them."""
    if shutil.which("apt-get"):
        command, names = "sudo apt-get install", packages.get("apt-get", ())
        names = having(names) if _has_lists() else names[:1]
    elif shutil.which("dnf"):
        command, names = "sudo dnf install", packages.get("dnf", ())
    else:
        command, names = "brew install", packages.get("brew", ()) if shutil.which("brew") else ()
    return f"{command} {' '.join(names)}" if names else ""


def _has_lists() -> bool:
    return any(Path("/var/lib/apt/lists").glob("*Packages*"))


def _apt(*arguments: str) -> str:
    """Run apt-get, and return its error as text, empty on success."""
    options = ("-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120")
    root = become_root() or ()
    # Uncut, because Ctrl-C must not leave packages half configured.
    code, told = run(
        *(*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments),
        passing=OUTSIDE,
        limit=None,
        uncut=True,
    )
    return (last_line(told) or f"apt-get ended with {code}") if code else ""
