"""Lockouts: what would keep everybody out of the machines of an image: sshd, the account, sudo, the boot, a firewall.

This file runs on the machine of a bake, as root, with any Python from 3.9 up. It therefore imports nothing but the
standard library. Its argument is the name of the base's user; it prints a JSON list of lockouts, each an object with
``what`` and ``at``: the file and the line, empty where there is none. It changes nothing.
"""

from __future__ import annotations

import fnmatch
import json
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SSHD = Path("/etc/ssh/sshd_config")
_SSHD_MORE = Path("/etc/ssh/sshd_config.d")
_DAY = 24 * 60 * 60
_CLIENT = "host=client,addr=192.0.2.1"  # anybody

Lockout = tuple[str, str]
"""What locks out, and the file and line that say so."""


def lockouts(user: str) -> list[dict[str, str]]:
    """Return all that would keep a user out of a machine that boots of this disk."""
    found = [*_of_sshd(user), *_of_account(user), *_of_boot(), *_of_sudo(user), *_of_firewalls()]
    return [{"what": what, "at": at} for what, at in found]


def _of_sshd(user: str) -> Iterator[Lockout]:
    code, said = _run("sshd", "-T", "-C", f"user={user},{_CLIENT}")
    if code:
        yield f"sshd can't start: {' '.join(said.split())}", ""
        return
    told: dict[str, list[str]] = {}
    for line in said.splitlines():
        key, _, value = line.partition(" ")
        told.setdefault(key, []).extend(value.split())
    for key, what in (*_of_addresses(told), *_of_login(told, user), *_of_lists(told, user)):
        yield what, _at(rf"^\s*{key}\b", *sorted(_SSHD_MORE.glob("*.conf")), _SSHD)


def _of_addresses(told: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the words of sshd_config, each with what they lock out, that say where sshd listens."""
    if "22" not in told["port"]:
        yield "Port", f"sshd listens on port {' '.join(told['port'])}, not on 22"
    addresses = told["listenaddress"]
    if all(re.match(r"127\.|\[::1\]", one) for one in addresses):
        yield "ListenAddress", f"sshd listens at {' '.join(addresses)} alone"


def _of_login(told: dict[str, list[str]], user: str) -> Iterator[tuple[str, str]]:
    """Yield the words of sshd_config, each with what they lock out, that say how one logs in."""
    if told["pubkeyauthentication"] == ["no"]:
        yield "PubkeyAuthentication", "sshd takes no keys"
    home = Path(pwd.getpwnam(user).pw_dir)
    files = [home / one.replace("%h", str(home)).replace("%u", user) for one in told["authorizedkeysfile"]]
    # cloud-init puts the key where sshd_config itself says so for each user; what that includes it doesn't read.
    follows = re.search(r"(?im)^\s*AuthorizedKeysFile\s.*%[uh]", _read(_SSHD))
    if home / ".ssh/authorized_keys" not in files and not follows:
        yield "AuthorizedKeysFile", f"sshd reads {' '.join(map(str, files))}, where cloud-init puts no key"
    methods = told.get("authenticationmethods", ["any"])
    if not {"any", "publickey"} & {*methods}:
        yield "AuthenticationMethods", f"a key alone is not enough: {' '.join(methods)}"
    command = told.get("forcecommand", ["none"])
    if command != ["none"]:
        yield "ForceCommand", f"sshd runs nothing but {' '.join(command)}"
    if user == "root" and told["permitrootlogin"][0] in ("no", "forced-commands-only"):
        yield "PermitRootLogin", "root may not log in"


def _of_lists(told: dict[str, list[str]], user: str) -> Iterator[tuple[str, str]]:
    """Yield the words of sshd_config, each with what they lock out, that name users and groups."""
    for kind, names in (("Users", [user]), ("Groups", _run("id", "-Gn", user)[1].split())):
        allowed, denied = (told.get(f"{word}{kind.lower()}", []) for word in ("allow", "deny"))
        if allowed and not _any(allowed, names):
            yield f"Allow{kind}", f"{user} is not among Allow{kind} {' '.join(allowed)}"
        if _any(denied, names):
            yield f"Deny{kind}", f"{user} is among Deny{kind} {' '.join(denied)}"


def _any(patterns: list[str], names: list[str]) -> bool:
    """Tell whether one of sshd's patterns, ``NAME`` or ``NAME@HOST``, matches one of the names."""
    return any(fnmatch.fnmatchcase(name, one.partition("@")[0]) for one in patterns for name in names)


def _of_account(user: str) -> Iterator[Lockout]:
    told = pwd.getpwnam(user)
    if Path(told.pw_shell).name in ("nologin", "false"):
        yield f"{user}'s shell is {told.pw_shell}", _at(f"^{user}:", Path("/etc/passwd"))
    shadow = Path("/etc/shadow")
    for fields in (line.split(":") for line in _read(shadow).splitlines()):
        if fields[0] == user and fields[7].isdecimal() and int(fields[7]) * _DAY < time.time():
            yield f"{user}'s account has ended", _at(f"^{user}:", shadow)
    if Path("/etc/nologin").exists():
        yield "nobody may log in while there is the file /etc/nologin", ""


def _of_boot() -> Iterator[Lockout]:
    if not _starts("ssh.service", "ssh.socket", "sshd.service", "sshd.socket"):
        yield "sshd doesn't start at boot", ""


def _of_sudo(user: str) -> Iterator[Lockout]:
    """Yield why the user can't become root without a terminal and a password; it is tried."""
    code, said = _run("setsid", "--wait", "runuser", "-u", user, "--", "sudo", "-n", "true")
    if code:
        files = [*sorted(Path("/etc/sudoers.d").glob("*")), Path("/etc/sudoers")]
        yield (
            f"{user} can't become root with sudo: {' '.join(said.split()) or code}",
            _at(rf"requiretty|^\s*{user}\b", *files),
        )


def _of_firewalls() -> Iterator[Lockout]:
    """Yield the firewalls that start at boot, let in what is named alone, and name neither port 22 nor ssh."""
    ufw = Path("/etc/ufw/ufw.conf")
    accepts = re.search(r'(?m)^DEFAULT_INPUT_POLICY="?ACCEPT', _read(Path("/etc/default/ufw")))
    named = re.search(r"(?m)^### tuple ### (allow|limit) (any|tcp) (22|any) ", _read(ufw.with_name("user.rules")))
    if re.search(r"(?m)^ENABLED=yes", _read(ufw)) and not accepts and not named:
        yield "ufw lets nobody in at port 22", _at("^ENABLED=yes", ufw)
    for unit, file, closed in (
        ("nftables.service", Path("/etc/nftables.conf"), r"hook\s+input[^}]*policy\s+drop"),
        ("netfilter-persistent.service", Path("/etc/iptables/rules.v4"), r"(?m)^:INPUT\s+DROP"),
        ("iptables.service", Path("/etc/sysconfig/iptables"), r"(?m)^:INPUT\s+DROP"),
    ):
        rules = re.sub(r"(?m)#.*$", "", _read(file))
        if re.search(closed, rules) and not re.search(r"\b(22|ssh)\b", rules) and _starts(unit):
            yield f"{unit} lets nobody in at port 22", _at(r"hook\s+input|^:INPUT", file)
    if _starts("firewalld.service"):
        zone, services, ports = (
            _run("firewall-offline-cmd", f"--{one}")[1].split()
            for one in ("get-default-zone", "list-services", "list-ports")
        )
        if zone != ["trusted"] and "ssh" not in services and "22/tcp" not in ports:
            yield f"firewalld lets nobody in at port 22, in its zone {' '.join(zone)}", ""


def _starts(*units: str) -> bool:
    """Tell whether one of the units starts at boot."""
    told = _run("systemctl", "is-enabled", *units)[1].split()
    return bool({"enabled", "alias", "generated"} & {*told})


def _at(pattern: str, *files: Path) -> str:
    """Return the file and the line that a pattern matches first, whatever the case; empty when it matches none."""
    for file in files:
        for number, line in enumerate(_read(file).splitlines(), 1):
            if re.search(pattern, line, re.IGNORECASE):
                return f"{file}:{number}"
    return ""


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _run(*argv: str) -> tuple[int, str]:
    """Return the exit code of a program and all that it said; 127 where there is no such program."""
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(argv, text=True, errors="replace", check=False, **how)  # type: ignore[call-overload]
    except FileNotFoundError:
        return 127, ""
    return int(done.returncode), str(done.stdout).strip()


if __name__ == "__main__":
    json.dump(lockouts(sys.argv[1]), sys.stdout)
