"""How the role jenkins judges what it sees of a Jenkins in service: no machine is needed for that."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import trust_as_template
from ec2_fixtures import ROOT
from role_fixtures import templar

ROLE = ROOT / "roles/jenkins"
LOOK = runpy.run_path(str(ROLE / "files/look.py"))

# As a genuine Jenkins 2.426.2 and others of its age wrote them.
UPDATE = "Error checking update sites for 1 attempt(s). Last exception was: UnknownHostException: updates.jenkins.io"
OURS = "2026-11-22 10:01:30.851+0000 [id=55]\t{}\t{}: {}"
JAVAS = "Nov 22, 2026 10:01:30 AM {} {}"
HARMLESS = OURS.format("SEVERE", "hudson.PluginManager#doCheckUpdatesServer", UPDATE)
BROKEN = OURS.format("SEVERE", "jenkins.InitReactorRunner$1#onTaskFailed", "Failed Loading plugin git v5.7.0 (git)")
UP = OURS.format("INFO", "hudson.lifecycle.Lifecycle#onReady", "Jenkins is fully up and running")

LINES: dict[str, tuple[list[str], list[str]]] = {
    "Jenkins's format": ([HARMLESS, UP], [f"hudson.PluginManager: {UPDATE}"]),
    "Java's format": (
        [JAVAS.format("hudson.PluginManager", "doCheckUpdatesServer"), f"SEVERE: {UPDATE}"],
        [f"hudson.PluginManager: {UPDATE}"],
    ),
    "Java's format, cut off": (["Starting the Jenkins server", "SEVERE: it broke"], ["SEVERE: it broke"]),
    "an inner class": ([BROKEN], ["jenkins.InitReactorRunner$1: Failed Loading plugin git v5.7.0 (git)"]),
    "a format of somebody's own": (["10:01 [SEVERE] it broke"], ["10:01 [SEVERE] it broke"]),
    "no error": ([UP, "WARNING: a SEVERELY broken thing", "at hudson.Severe.SEVERE_TYPE(Severe.java)"], []),
}


def entries(lines: list[str], **more: Any) -> list[dict[str, Any]]:
    """Return lines as entries of the journal, a second after each other."""
    return [
        LOOK["entry"]({"MESSAGE": line, "__MONOTONIC_TIMESTAMP": str(second * 1_000_000), **more})
        for second, line in enumerate(lines)
    ]


@pytest.mark.parametrize(("lines", "expected"), LINES.values(), ids=LINES)
def test_errors_are_seen_in_each_format(lines: list[str], expected: list[str]) -> None:
    """An error is told with its logger in Jenkins's format and in Java's, and as it is in any other."""
    assert {"early": expected, "late": 0, "last": ""} == LOOK["errors"](entries(lines), None)


def test_what_comes_later_is_counted() -> None:
    """What is said after the unit was up is apart: how much, and the last."""
    seen = LOOK["errors"](entries([HARMLESS, UP, HARMLESS, BROKEN]), 1_500_000)

    assert (1, 2, "jenkins.InitReactorRunner$1: Failed") == (len(seen["early"]), seen["late"], seen["last"][:35])


def test_what_systemd_calls_an_error_is_one() -> None:
    """A message with a priority of error or worse is one, in whatever bytes it comes."""
    seen = LOOK["errors"](
        entries(["Failed to start", "fine"], PRIORITY="3")[:1] + entries(["fine"], PRIORITY="6"), None
    )
    odd = LOOK["entry"]({"MESSAGE": list(b"caf\xe9"), "__MONOTONIC_TIMESTAMP": "1", "PRIORITY": "2"})

    assert ["Failed to start"] == seen["early"]
    assert ["caf\ufffd"] == LOOK["errors"]([odd], None)["early"]


MISSED = (
    "WARNING\ti.j.p.casc.SecretSourceResolver$FileStringLookup#lookup: "
    "Configuration import: Error looking up file '/run/secrets/admin' with UTF-8 encoding. Will default to empty string"
)


@pytest.mark.parametrize(
    ("password", "lines", "expected"),
    [
        ("${trim:${readFile:/run/none/admin}}", [], ("/run/none/admin", False)),
        ("${readFile:/run/secrets/admin}", [MISSED], ("/run/secrets/admin", True)),
        ("${trim:${readFile:/run/none/other}}", [MISSED], ("/run/none/other", False)),
    ],
)
def test_a_file_that_is_gone(password: str, lines: list[str], expected: tuple[str, bool]) -> None:
    """Of a file that isn't there it is told whether Jenkins has missed it at its start."""
    user = {"user": "admin", "password": password}

    seen = LOOK["signed_in"]("http://127.0.0.1:1/", user, LOOK["missed"](entries(lines)))

    assert (*expected, 0, "No such file or directory") == tuple(
        seen[key] for key in ("file", "missed", "status", "said")
    )


SERVING: dict[str, Any] = {
    "unit": {"ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0", "MainPID": "7"},
    "process": ["jenkins", "java"],
    "children": [],
    "arguments": ["/usr/bin/java", "-Djava.awt.headless=true", "-jar", "jenkins.war"],
    "sockets": [{"at": "tcp *:8080", "own": True}],
    "pages": {
        "/login": [{"url": "http://127.0.0.1:8080/login", "status": 200, "said": "200 OK", "jenkins": "2.580.1"}],
        "/health/": [{"url": "http://127.0.0.1:8080/health/", "status": 200, "said": "200 OK", "jenkins": "2.580.1"}],
        "/api/json": [{"url": "http://127.0.0.1:8080/api/json", "status": 403, "said": "403 Forbidden", "jenkins": ""}],
    },
    "users": [],
    "password": "jenkins 0640",
    "set_up": False,
    "errors": {"early": [], "late": 0, "last": ""},
}
CASC: dict[str, Any] = {"jenkins_casc_file": "/c.yaml", "__jenkins_casc_read": {"jenkins": {"slaveAgentPort": 50000}}}
CASC_SEEN = {
    "arguments": ["java", "-Djava.awt.headless=true", "-Djenkins.install.runSetupWizard=false"],
    "password": "",
}


def findings(values: dict[str, Any], seen: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Return the verification's findings on what was seen: whether each is good, and its evidence."""
    loaded = DataLoader().load_from_file(str(ROLE / "tasks/verify_in_service.yml"), trusted_as_template=True)
    looked = {"stdout": json.dumps({**SERVING, **seen})}
    judging = templar(**{**loaded[-1]["vars"], **values, "__jenkins_looked": looked})
    judged = judging.template(trust_as_template("{{ __jenkins_findings }}"))
    return {one["name"]: (one["ok"], " ".join((one["good"] if one["ok"] else one["bad"]).split())) for one in judged}


def page(path: str, status: int, said: str, version: str) -> dict[str, Any]:
    """Return what was seen of the pages when one of them is another."""
    one = {"url": f"http://127.0.0.1:8080{path}", "status": status, "said": said, "jenkins": version}
    return {"pages": {**SERVING["pages"], path: [one]}}


def old(version: str) -> dict[str, Any]:
    """Return what was seen of the pages of a Jenkins of this version that refuses strangers its health."""
    login = page("/login", 200, "200 OK", version)["pages"]
    return {"pages": {**login, "/health/": page("/health/", 403, "403 Forbidden", version)["pages"]["/health/"]}}


def user(status: int, said: str, missed: bool = False) -> dict[str, Any]:
    """Return what was seen of a user of Configuration as Code."""
    one = {"user": "admin", "file": "/run/secrets/admin", "missed": missed, "status": status, "said": said}
    return {**CASC_SEEN, "users": [one]}


HEALTH, PORTS = "Jenkins finds itself healthy", "Jenkins listens on its ports and no other"
PASSWORD, USERS, JOURNAL = (
    "The admin password is its own secret",
    "The users of Configuration as Code get in",
    "The journal holds no error",
)
AGENTS = [*SERVING["sockets"], {"at": "tcp *:50000", "own": True}]
BUILD = [*SERVING["sockets"], {"at": "tcp *:4711", "own": False}]
UNTOLD = [*SERVING["sockets"], {"at": "tcp *:4711", "own": None}]

# The finding, the variables, what was seen, whether it is good, and the evidence.
JUDGED: list[tuple[str, dict[str, Any], dict[str, Any], bool, str]] = [
    (HEALTH, {}, {}, True, "http://127.0.0.1:8080/health/ is 200"),
    (HEALTH, {}, old("2.426.2"), True, "not looked at: Jenkins 2.426.2 is older than 2.506, which tells it first"),
    (HEALTH, {}, old("2.506"), False, "http://127.0.0.1:8080/health/ is not 200: 403 Forbidden"),
    (HEALTH, {}, old("2.580.1~standin1"), False, "http://127.0.0.1:8080/health/ is not 200: 403 Forbidden"),
    (
        "The unit's process is Java, of user jenkins",
        {},
        {"children": ["git", "java"]},
        True,
        "process 7, java of jenkins; its children: git, java",
    ),
    (
        "The unit's process is Java, of user jenkins",
        {},
        {"process": ["root", "sh"]},
        False,
        "process 7, sh of root; java of jenkins is wanted",
    ),
    (PORTS, {}, {}, True, "Jenkins listens on tcp *:8080"),
    (PORTS, {}, {"sockets": BUILD}, True, "Jenkins listens on tcp *:8080; builds listen on tcp *:4711"),
    (PORTS, {}, {"sockets": UNTOLD}, False, "Jenkins listens on tcp *:8080, tcp *:4711 instead of tcp *:8080 alone;"),
    (
        PORTS,
        {"jenkins_further_ports": [50000]},
        {"sockets": AGENTS},
        True,
        "Jenkins listens on tcp *:8080, tcp *:50000",
    ),
    (PORTS, {"jenkins_further_ports": [50000]}, {}, True, "Jenkins listens on tcp *:8080"),
    (PORTS, {}, {"sockets": AGENTS}, False, "Jenkins listens on tcp *:8080, tcp *:50000 instead of tcp *:8080 alone;"),
    (PORTS, CASC, {**CASC_SEEN, "sockets": AGENTS}, True, "Jenkins listens on tcp *:8080, tcp *:50000"),
    (PORTS, {"jenkins_listen_address": "127.0.0.1"}, {}, False, "tcp *:8080 instead of tcp 127.0.0.1:8080 alone;"),
    (PORTS, {}, {"sockets": []}, False, "Jenkins listens on nothing instead of tcp *:8080 alone;"),
    (PASSWORD, {}, {}, True, "/var/lib/jenkins/secrets/initialAdminPassword is 0640 of jenkins"),
    (PASSWORD, {}, {"password": "", "set_up": True}, True, "there is no first password any more: Jenkins is set up"),
    (PASSWORD, {}, {"password": ""}, False, "initialAdminPassword is missing, and Jenkins is not set up, not 0640"),
    (PASSWORD, {}, {"password": "jenkins 0644", "set_up": True}, False, "is 0644 of jenkins, not 0640 or less"),
    (PASSWORD, CASC, CASC_SEEN, True, "there is no first password: Configuration as Code made the users"),
    (
        PASSWORD,
        CASC,
        {**CASC_SEEN, "password": "jenkins 0640", "set_up": True},
        False,
        "is 0640 of jenkins, not absent",
    ),
    (USERS, {}, {}, True, "not looked at: none has a password in a file on the machine"),
    (USERS, CASC, user(200, "200 OK"), True, "admin signed in"),
    (
        USERS,
        CASC,
        user(0, "No such file or directory"),
        True,
        "not looked at; of admin not looked at: /run/secrets/admin: No such file or directory",
    ),
    (
        USERS,
        CASC,
        user(0, "No such file or directory", missed=True),
        False,
        "admin does not get in with the password in /run/secrets/admin: Jenkins has not found the file at its start",
    ),
    (USERS, CASC, user(401, "401 Unauthorized"), False, "in /run/secrets/admin: 401 Unauthorized (a line's end in the"),
    (JOURNAL, {}, {}, True, "no error of jenkins.service in this start"),
    (
        JOURNAL,
        {},
        {"errors": {"early": [f"hudson.PluginManager: {UPDATE}"], "late": 2, "last": "x: broke"}},
        True,
        f"in this start; harmless: hudson.PluginManager: {UPDATE}; since it is up 2, the last: x: broke",
    ),
    (
        JOURNAL,
        {},
        {"errors": {"early": [f"hudson.PluginManager: {UPDATE}", "x: broke"], "late": 0, "last": ""}},
        False,
        "1 errors of jenkins.service in this start, the first: x: broke",
    ),
]


@pytest.mark.parametrize(("name", "values", "seen", "good", "evidence"), JUDGED)
def test_it_is_judged(name: str, values: dict[str, Any], seen: dict[str, Any], good: bool, evidence: str) -> None:
    """What was seen makes one finding good or bad with its evidence, and no other finding bad."""
    judged = findings(values, seen)

    assert good == judged[name][0], judged[name][1]
    assert evidence in judged[name][1]
    assert [] == [other for other, (ok, _) in judged.items() if not ok and other != name]


PINS = [
    ("configuration-as-code:2061.vc08919f7fc37", "${trim:${readFile:/x}}", []),
    ("configuration-as-code", "${trim:${readFile:/x}}", []),
    ("configuration-as-code:latest", "${trim:${readFile:/x}}", []),
    ("configuration-as-code:1.55.1", "${readFile:/x}", []),
    ("configuration-as-code:1.55.1", "${trim:${readFile:/x}}", ["configuration-as-code 1.55.1 doesn't know"]),
    ("configuration-as-code:2006.v001a_2ca_6b_574", "${trim:${readFile:/x}}", ["2006.v001a_2ca_6b_574 doesn't know"]),
]


@pytest.mark.parametrize(("plugin", "password", "expected"), PINS)
def test_a_plugin_that_cannot_trim_is_refused(tmp_path: Path, plugin: str, password: str, expected: list[str]) -> None:
    """A pin of the plugin that doesn't know `trim` is refused with a file that trims, and with no other."""
    (tmp_path / "casc.yaml").write_text(
        "jenkins:\n  securityRealm: {local: {users: [{id: admin, password: '" + password + "'}]}}\n"
        "  authorizationStrategy: loggedInUsersCanDoAnything\n"
    )
    tasks = DataLoader().load_from_file(str(ROLE / "tasks/casc.yml"), trusted_as_template=True)
    judging = templar(
        **tasks[-1]["vars"], jenkins_casc_file=str(tmp_path / "casc.yaml"), jenkins_plugins=["git", plugin]
    )

    refused = judging.template(trust_as_template("{{ __jenkins_refused }}"))

    assert len(expected) == len(refused)
    assert all(words in one["bad"] for words, one in zip(expected, refused, strict=True))
