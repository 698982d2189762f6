"""What the roles promise: their interface, their modules, and the key that they trust."""

from __future__ import annotations

import base64
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template
from ec2_fixtures import ROOT
from role_fixtures import templar

from bakehouse import recipes, settings

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
TASKS = sorted(path for place in ("roles/*/tasks/*.yml", "playbooks/*.yml") for path in ROOT.glob(place))
LISTS_OF_TASKS = ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always")
PIN = ROOT / "roles/jenkins/files/pin_signing_key.py"
LIST = ROOT / "roles/sysprep/files/list_existing.sh"
LOOK = ROOT / "roles/jenkins/files/look.py"
DROP_IN = ROOT / "roles/jenkins/templates/10-bakehouse.conf.j2"

KEYS = ROOT / "tests/data/keys"  # made by gpg, which also told their fingerprints
ONE, TWO = (KEYS / "one.asc").read_bytes(), (KEYS / "two.asc").read_bytes()
ONE_FINGERPRINT = "269D9E13B74D6776DD7C6B578304A44080B21048"
TWO_FINGERPRINT = "A4AA39C0E4E816DEB9AD53E3CD6491D478F07DC8"


def load(path: Path) -> Any:
    """Return what a YAML file holds."""
    return yaml.safe_load(path.read_text())


def described(role: str) -> dict[str, Any]:
    """Return the defaults in the table of variables of a role's README."""
    text = (ROOT / "roles" / role / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text.replace(r"\|", "¦"), re.MULTILINE)
    texts = {name: default.replace("¦", "|") for name, default in rows}
    return {name: text if "{{" in text else yaml.safe_load(text) for name, text in texts.items()}


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_documented_and_specified(role: str) -> None:
    """A role's defaults, its README and its argument_specs name the same variables with the same defaults."""
    defaults = load(ROOT / "roles" / role / "defaults/main.yml")
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    assert described(role) == defaults
    for entry in specs.values():
        assert {name: option["default"] for name, option in entry["options"].items()} == defaults


@pytest.mark.parametrize("role", ROLES)
def test_inputs_carry_the_name_of_their_role(role: str) -> None:
    """No input of a role can be taken for another role's."""
    inputs = load(ROOT / "roles" / role / "defaults/main.yml")
    assert [] == [name for name in inputs if not name.startswith(f"{role}_")]


def every(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield everything in a list of tasks or plays: each play, block and task."""
    for entry in entries:
        yield entry
        for key in LISTS_OF_TASKS:
            yield from every(entry.get(key, []))


def tasks(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every task of a list of tasks or plays, those in blocks too."""
    return (one for one in every(entries) if not {*LISTS_OF_TASKS, "roles"} & one.keys())


@pytest.mark.parametrize("path", TASKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_modules_of_ansible_core_are_used(path: Path) -> None:
    """No module and no lookup is another collection's; that each has its full name is ansible-lint's affair."""
    named = [key for task in tasks(load(path)) for key in task if "." in key]
    assert [] == [name for name in named if not name.startswith("ansible.builtin.")]
    assert [] == re.findall(r"lookup\('(?!ansible\.builtin\.)", path.read_text())


@pytest.mark.parametrize("role", ROLES)
def test_what_is_registered_has_a_name_of_its_own(role: str) -> None:
    """No variable that a role sets is registered too: what was registered wins, in every later task and file."""
    listed = [task for path in (ROOT / "roles" / role / "tasks").glob("*.yml") for task in every(load(path))]
    registered = {task["register"] for task in listed if "register" in task}
    assert set() == registered & {name for task in listed for name in task.get("vars", ())}


@pytest.mark.parametrize("role", ROLES)
def test_what_another_file_registers_has_a_default(role: str) -> None:
    """What a file reads of another's registers may not be there, as that may have been skipped or not asked for.

    Ansible-core before 2.19 looks at every name of an expression, also where its value doesn't matter.
    """
    files = [path for place in ("tasks", "vars", "templates") for path in (ROOT / "roles" / role / place).glob("*")]
    registers = {file: set(re.findall(r"register: (\w+)", file.read_text())) for file in files}
    bare = [
        (file.name, line.strip())
        for file in files
        for name in set().union(*registers.values()) - registers[file]
        for line in file.read_text().splitlines()
        if re.search(rf"\b{name}\b(?!(\.\w+)* (\| default\(|is defined))", line)
    ]
    assert [] == bare


def test_types_are_looked_at_alike() -> None:
    """Roles are used one by one, so each carries the file that looks at its variables' types; none has drifted."""
    texts = {(ROOT / f"roles/{role}/tasks/types.yml").read_text().replace(f"__{role}_", "__") for role in ROLES}
    assert 1 == len(texts)


def test_both_copies_of_a_script_are_the_same() -> None:
    """Roles are used one by one, so two of them carry the script; neither has drifted."""
    assert PIN.read_text() == (ROOT / "roles/java/files/pin_signing_key.py").read_text()


def test_existing_files_are_listed(tmp_path: Path) -> None:
    """Patterns find files and folders, hidden ones and those with spaces too, and no empty file; in both roles."""
    for name in ("plain", ".hidden", "with space", "folder/inner"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to("none")
    names = ["pl*", ".hid*", "with sp*", "folder", "f*/inner", "empty", "dangling", "none*", "none"]
    patterns = [f"{tmp_path}/{name}" for name in names]
    told = subprocess.run(
        ["sh", "-c", LIST.read_text()], input="\n".join(patterns), capture_output=True, text=True, check=True
    )
    expected = [f"{tmp_path}/{name}" for name in ("plain", ".hidden", "with space", "folder", "folder/inner")]
    assert expected == told.stdout.splitlines()
    assert sorted(expected) == runpy.run_path(str(LOOK))["existing"](patterns)


def rendered(**values: Any) -> str:
    """Return the drop-in for these values, with the role's defaults for all others."""
    text = trust_as_template(DROP_IN.read_text())
    return str(templar(**values).template(text, escape_backslashes=False))


def environment(drop_in: str) -> dict[str, str]:
    """Return the variables of a drop-in as systemd reads them: quotes off, escapes and %% resolved."""
    lines = re.findall(r'^Environment="(\w+)=(.*)"$', drop_in, re.MULTILINE)
    return {name: re.sub(r"\\(.)", r"\1", value).replace("%%", "%") for name, value in lines}


JAVA_OPTIONS = [
    "-Xmx1g",
    "-Da=b c",
    "-Da=b  c ",
    " -Da= ",
    "-Dcsp=default-src 'self';",
    '-Da="quoted"',
    "-Da=$HOME and `id` and $(id)",
    "-Da=100%i",
    "-Da=back\\slash\\n",
    "-Da=*?[a-z]{1,2}~!#&|<>()",
    "-Da=größe",
]


@pytest.mark.parametrize("option", JAVA_OPTIONS)
@pytest.mark.parametrize(
    ("variable", "name"), [("jenkins_java_options", "JAVA_OPTS"), ("jenkins_arguments", "JENKINS_OPTS")]
)
def test_arguments_arrive_as_given(variable: str, name: str, option: str) -> None:
    """An argument passes systemd's unquoting and the packaged launcher's splitting and eval unharmed."""
    told = subprocess.run(
        ["sh", "-c", 'eval exec "$JAVA" ${OPTS}'],
        env={
            "JAVA": f"{sys.executable} {KEYS.parent / 'print_arguments.py'}",
            "OPTS": environment(rendered(**{variable: [option, "-last"]}))[name],
        },
        capture_output=True,
        check=True,
    )
    assert [option, "-last"] == json.loads(told.stdout)[-2:]


DROP_INS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"JENKINS_PORT": "8080"}),
    ({"jenkins_port": "8081"}, {"JENKINS_PORT": "8081"}),  # a string, as from the command line
    ({"jenkins_java_home": "/opt/java"}, {"JAVA_HOME": "/opt/java", "JENKINS_PORT": "8080"}),
    (
        {"jenkins_listen_address": "127.0.0.1", "jenkins_prefix": "/ci"},
        {"JENKINS_PORT": "8080", "JENKINS_LISTEN_ADDRESS": "127.0.0.1", "JENKINS_PREFIX": "/ci"},
    ),
    ({"jenkins_home": "/srv/ci/jenkins"}, {"JENKINS_PORT": "8080", "JENKINS_HOME": "/srv/ci/jenkins"}),
    (
        {
            "jenkins_port": -1,
            "jenkins_https_port": 8443,
            "jenkins_https_keystore": "/k",
            "jenkins_https_password_file": "/p",
        },
        {
            "JENKINS_PORT": "-1",
            "JENKINS_HTTPS_PORT": "8443",
            "JENKINS_HTTPS_KEYSTORE": "/k",
            "JENKINS_OPTS": "--config=/p",
        },
    ),
]


@pytest.mark.parametrize(("values", "expected"), DROP_INS)
def test_drop_in_says_what_is_set_and_no_more(values: dict[str, Any], expected: dict[str, str]) -> None:
    """A variable that isn't set leaves the package's own value alone."""
    assert expected | {"JAVA_OPTS": "-Djava.awt.headless=true"} == environment(rendered(**values))


JAVA_ARGUMENTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"jenkins_heap_initial": "256m", "jenkins_heap_max": "2g"}, ["-Xms256m", "-Xmx2g"]),
    (
        {"jenkins_heap_initial": "25%", "jenkins_heap_max": "50%"},
        ["-XX:InitialRAMPercentage=25", "-XX:MaxRAMPercentage=50"],
    ),
    ({"jenkins_temp_dir": "/srv/tmp"}, ["-Djava.io.tmpdir=/srv/tmp", "-Djna.tmpdir=/srv/tmp"]),
    (
        {"jenkins_casc_file": "/c.yaml", "__jenkins_casc_read": {}},
        ["-Djenkins.install.runSetupWizard=false", "-Djenkins.model.Jenkins.slaveAgentPort=-1"],
    ),
    (
        {"jenkins_casc_file": "/c.yaml", "__jenkins_casc_read": {"jenkins": {"slaveAgentPort": 50000}}},
        ["-Djenkins.install.runSetupWizard=false"],
    ),
    (
        {"jenkins_proxy": "http://proxy:3128", "jenkins_no_proxy": ["localhost", ".example.org"]},
        [
            "-Dhttp.proxyHost=proxy",
            "-Dhttp.proxyPort=3128",
            "-Dhttps.proxyHost=proxy",
            "-Dhttps.proxyPort=3128",
            "-Dhttp.nonProxyHosts=localhost|*.example.org",
        ],
    ),
]


@pytest.mark.parametrize(("values", "expected"), JAVA_ARGUMENTS)
def test_variables_become_arguments_of_java(values: dict[str, Any], expected: list[str]) -> None:
    """Heap, temporary folder, proxy and the setup wizard's end are arguments, before those that were given."""
    values["jenkins_java_options"] = ["-Dlast"]
    arguments = templar(**values).template(trust_as_template("{{ __jenkins_java_arguments }}"))
    assert ["-Djava.awt.headless=true", *expected, "-Dlast"] == arguments


def test_it_may_start_for_as_long_as_a_machine_may_boot() -> None:
    """Systemd doesn't end a start that the recipe's budget allows."""
    budget = recipes.load(settings.load(recipe="jenkins")).boot_budget

    assert "TimeoutStartSec=300\n" in rendered()
    assert 300 >= budget


@pytest.mark.parametrize(("port", "granted"), [(80, True), (1023, True), (1024, False), (8080, False)])
def test_only_a_low_port_grants_a_capability(port: int, granted: bool) -> None:
    """The service may bind a port below 1024, and gets no capability otherwise."""
    assert granted == ("AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in rendered(jenkins_port=port))


PLUGINS = ["configuration-as-code:1", "git:5:https://example.org/git.hpi # pinned", "# none", "mailer"]


def test_plugins_have_names() -> None:
    """A line of a plugins.txt names one plugin, with or without a version, a place and a comment."""
    found = templar(jenkins_plugins=PLUGINS).template(trust_as_template("{{ __jenkins_plugin_ids }}"))
    assert ["configuration-as-code", "git", "mailer"] == found


REPOSITORIES = [
    ("Debian", "13", "lts", "https://pkg.jenkins.io/debian-stable"),
    ("Ubuntu", "22", "weekly", "https://pkg.jenkins.io/debian"),
    ("Amazon", "2023", "lts", "https://pkg.jenkins.io/rpm-stable"),
    ("Rocky", "10", "weekly", "https://pkg.jenkins.io/rpm"),
]


@pytest.mark.parametrize(("name", "version", "line", "expected"), REPOSITORIES)
def test_each_platform_has_its_repository(name: str, version: str, line: str, expected: str) -> None:
    """Without another URL the repository is Jenkins's own for the line and the packages, with the key beside it."""
    facts = {"distribution": name, "distribution_major_version": version}
    told = templar(ansible_facts=facts, jenkins_line=line)
    assert expected == told.template(trust_as_template("{{ __jenkins_repository_url }}"))
    assert f"{expected}/jenkins.io-2026.key" == told.template(trust_as_template("{{ __jenkins_repository_key_url }}"))


def packets(armoured: bytes) -> bytes:
    """Return the packets of an armoured key."""
    lines = armoured.decode().splitlines()
    return base64.b64decode("".join(lines[2:-2]))


def armour(data: bytes, kind: str = "PUBLIC KEY BLOCK") -> bytes:
    """Return packets as an armoured block without a checksum."""
    body = base64.b64encode(data).decode()
    return f"-----BEGIN PGP {kind}-----\n\n{body}\n-----END PGP {kind}-----\n".encode()


def pin(text: bytes, fingerprint: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script on a published key with this text."""
    (folder / "published.key").write_bytes(text)
    return fetch_and_pin(f"file://{folder}/published.key", fingerprint, folder / "keyrings/trusted.asc", *options)


def fetch_and_pin(url: str, fingerprint: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the role does, from stdin."""
    call = [sys.executable, "-", *options, url, fingerprint, str(path)]
    with PIN.open() as script:
        return subprocess.run(call, stdin=script, capture_output=True, text=True, check=False)


REFUSED: dict[str, tuple[bytes, str]] = {
    "another key": (TWO, f"has the fingerprint {TWO_FINGERPRINT}, but {ONE_FINGERPRINT} is pinned"),
    "two keys in a block": (
        armour(packets(ONE) + packets(TWO)),
        f"({ONE_FINGERPRINT} {TWO_FINGERPRINT}), but",
    ),
    "the pinned key last": (armour(packets(TWO) + packets(ONE)), "holds 2 keys instead of one"),
    "the key twice": (armour(packets(ONE) * 2), "holds 2 keys instead of one"),
    "two blocks": (ONE + TWO, "holds more than one armoured block"),
    "text before": (b"trust me\n" + ONE, "is not one ASCII-armoured public key block"),
    "text after": (ONE + b"trust me\n", "is not one ASCII-armoured public key block"),
    "not armoured": (packets(ONE), "is not one ASCII-armoured public key block"),
    "a secret key's block": (armour(packets(ONE), "PRIVATE KEY BLOCK"), "is not one ASCII-armoured public"),
    "a secret key's packet": (armour(b"\x94" + packets(ONE)[1:]), "holds 0 keys instead of one"),
    "a packet before the key": (armour(b"\xb4\x01x" + packets(ONE)), "holds more than a public key"),
    "a message after the key": (armour(packets(ONE) + b"\xcb\x01x"), "holds more than a public key"),
    "an older version": (armour(b"\x98\x02\x03x"), "holds a key of version 3"),
    "cut off": (armour(packets(ONE)[:-9]), "ends in the middle of a packet"),
    "cut off in a header": (armour(packets(ONE) + b"\x99"), "ends in the middle of a packet"),
    "of no fixed length": (armour(b"\x9b" + packets(ONE)), "holds a packet without a fixed length"),
    "not packets": (armour(b"plain text"), "is not made of OpenPGP packets"),
    "damaged": (ONE.replace(b"mDME", b"mD#E"), "holds more than one armoured block, or a damaged one"),
    "a web page": (b"<!doctype html><title>404</title>\n", "is not one ASCII-armoured public key block"),
    "nothing": (b"", "is not one ASCII-armoured public key block"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_any_other_key_is_refused(text: bytes, why: str, tmp_path: Path) -> None:
    """A file that isn't the pinned key alone is refused with its reason, and nothing is written."""
    told = pin(text, ONE_FINGERPRINT, tmp_path)
    assert told.returncode == 1
    assert why in told.stderr and "hint:" in told.stderr and "Traceback" not in told.stderr
    assert not (tmp_path / "keyrings").exists()


def test_a_refused_key_leaves_the_trusted_one(tmp_path: Path) -> None:
    """What is trusted already stays as it was when another key is offered."""
    pin(ONE, ONE_FINGERPRINT, tmp_path)
    assert pin(TWO, ONE_FINGERPRINT, tmp_path).returncode == 1
    assert ONE == (tmp_path / "keyrings/trusted.asc").read_bytes()


def test_pinned_key_is_trusted_once(tmp_path: Path) -> None:
    """The pinned key is put where all can read it; checking writes nothing; a second run changes nothing."""
    trusted = tmp_path / "keyrings/trusted.asc"
    assert "changed\n" == pin(ONE, ONE_FINGERPRINT, tmp_path, "--check").stdout
    assert not trusted.exists()
    assert "changed\n" == pin(ONE, ONE_FINGERPRINT, tmp_path).stdout
    assert (ONE, 0o644) == (trusted.read_bytes(), trusted.stat().st_mode & 0o777)
    assert "unchanged\n" == pin(ONE, ONE_FINGERPRINT, tmp_path).stdout


@pytest.mark.parametrize("url", ["file:///nonexistent.key", "http://127.0.0.1:1/a.key"])
def test_a_key_out_of_reach_is_named(url: str, tmp_path: Path) -> None:
    """A key that can't be fetched is one line that names its address, and a hint."""
    told = fetch_and_pin(url, ONE_FINGERPRINT, tmp_path / "trusted.asc")
    assert told.returncode == 1
    assert f"the signing key {url} can't be fetched" in told.stderr and "\nhint: " in told.stderr
    assert "Traceback" not in told.stderr


@pytest.fixture
def gnupg() -> Iterator[Path]:
    """Lend a GnuPG home whose path is short enough for its agent's socket."""
    with tempfile.TemporaryDirectory(prefix="gpg") as home:
        yield Path(home)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


@pytest.mark.skipif(not shutil.which("gpg"), reason="there is no gpg here to agree with")
@pytest.mark.parametrize("algorithm", ["rsa2048", "rsa3072", "ed25519", "nistp256"])
def test_fingerprint_is_the_one_that_gpg_tells(algorithm: str, gnupg: Path, tmp_path: Path) -> None:
    """Of a key with a subkey and two names, fresh from gpg, the same fingerprint comes out."""

    def gpg(*arguments: str) -> str:
        call = ["gpg", "--homedir", str(gnupg), "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    gpg("--quick-generate-key", "Somebody <somebody@example.org>", algorithm, "sign", "never")
    fingerprint = re.findall(r"^fpr:+(\w+):$", gpg("--list-keys", "--with-colons"), re.MULTILINE)[0]
    gpg("--quick-add-uid", fingerprint, "Somebody Else <else@example.org>")
    gpg("--quick-add-key", fingerprint, "rsa2048", "sign", "never")
    assert "changed\n" == pin(gpg("--armor", "--export").encode(), fingerprint, tmp_path).stdout
