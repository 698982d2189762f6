"""The role jenkins on a machine: what it refuses, what it makes, and that each of its assertions can fail.

The chapters stand in the order in which they run, on one machine, from bare to upgraded.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ec2_fixtures import PRIVILEGED_MACHINE, ROOT, LocalEc2, Machines
from role_fixtures import CASC, NOTHING, SERVED, Host, Task, Told, chapter, plugin, role, shell, survived

from bakehouse.local.packages import apt
from bakehouse.local.packages.keys import Key

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2700)]

TASKS = ROOT / "roles/jenkins/tasks"
DATA = ROOT / "tests/data"


@dataclass
class Ground:
    """Hold the machine that all chapters share and what is on it below /srv.

    Attributes: variables, of the role by default; versions, of the package, the older one first; folder, on the
    controller, with the files that variables name.
    """

    host: Host
    variables: dict[str, Any]
    versions: tuple[str, str]
    folder: Path


def repositories(debs: list[apt.Deb], key: Key, other: Key) -> dict[str, bytes]:
    """Return a good repository, one without a signature and one that another key has signed, and the good key."""
    good, forged = (apt.repository(debs, apt.Layout("binary/"), one, datetime.now(UTC)) for one in (key, other))
    unsigned = {name: content for name, content in good.items() if not name.endswith(".gpg")}
    made = {"good": good, "forged": forged, "unsigned": unsigned}
    files = {f"{name}/{path}": content for name, of_it in made.items() for path, content in of_it.items()}
    return {**files, "key.asc": key.public()}


# The same package with a later version, as the next release would be; and Jenkins's repository alone, without patience.
PREPARE = """
apt-get install -qq -y --no-install-recommends e2fsprogs fdisk net-tools >/dev/null
rm /etc/apt/sources.list.d/debian.sources; apt-get update -qq
echo "Acquire::Retries 0;" >/etc/apt/apt.conf.d/90retries
cd /srv; mkdir -p volume /run/secrets; echo secret >/run/secrets/admin
dpkg-deb --raw-extract jenkins.deb later
sed -i "s/^Version: .*/&a/" later/DEBIAN/control
dpkg-deb --root-owner-group -Zgzip --build later later.deb >/dev/null
dpkg-deb --field jenkins.deb >jenkins.control; dpkg-deb --field later.deb >later.control
tar --create jenkins.control later.deb later.control
"""


@pytest.fixture(scope="module")
def ground(
    local_ec2: LocalEc2,
    ec2: Any,
    key: tuple[str, Path],
    group: str,
    base: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ground]:
    """Give a bare machine with Java, two versions of the stand-in, and good and bad repositories of them."""
    folder = tmp_path_factory.mktemp("role")
    local_ec2.ask("stand-in", seconds=900, package="jenkins", family="debian")
    [deb] = (local_ec2.folder / "packages/served/jenkins-debian").rglob("*.deb")
    machines = Machines(ec2, key[1], key[0], group, base)
    try:
        made = machines.launch(TagSpecifications=PRIVILEGED_MACHINE)[0]  # some chapters mount something
        yield furnish(Host(machines, made, folder), deb.read_bytes(), folder)
    finally:
        machines.terminate()


def furnish(host: Host, deb: bytes, folder: Path) -> Ground:
    """Put everything on the machine that the chapters need, and Java."""
    host.play([role("java")], {}).succeeded()
    host.put({"jenkins.deb": deb, "Main.java": (DATA / "plugin_manager/Main.java").read_bytes()})
    with tarfile.open(fileobj=io.BytesIO(host.run(PREPARE))) as tar:
        made = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    debs = [
        apt.Deb("jenkins_1.deb", made["jenkins.control"].decode(), deb),
        apt.Deb("jenkins_2.deb", made["later.control"].decode(), made["later.deb"]),
    ]
    key, other = Key(folder / "key"), Key(folder / "other")
    fingerprint, _ = key.make(), other.make()
    host.put({**repositories(debs, key, other), "plugins/git.hpi": plugin("1"), "plugins/mailer.hpi": plugin("1")})
    for name, content in {
        "jenkins.deb": deb,
        "casc.yaml": CASC.encode(),
        "plugins/configuration-as-code.hpi": b"",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content or plugin("2061.vc08919f7fc37"))
    variables = {
        "jenkins_repository_url": "file:///srv/good",
        "jenkins_repository_key_url": "file:///srv/key.asc",
        "jenkins_repository_key_fingerprint": fingerprint,
        "jenkins_version": debs[0].field("Version"),
        "jenkins_plugin_manager_url": "file:///srv/manager.jar",
        "jenkins_plugin_manager_sha256": host.run(COMPILE).decode().split()[0],
        "jenkins_update_center_download_url": "file:/srv/plugins",
    }
    return Ground(host, variables, (debs[0].field("Version"), debs[1].field("Version")), folder)


COMPILE = """
cd /srv
java -m jdk.compiler/com.sun.tools.javac.Main -d manager Main.java
java -m jdk.jartool/sun.tools.jar.Main --create --file manager.jar --main-class Main -C manager .
sha256sum manager.jar
"""

# What a refused role may not have left; the pinned key alone may be there.
LEFT = "cd /etc; ls -d apt/sources.list.d/jenkins.sources systemd/system/jenkins* /usr/bin/jenkins jenkins 2>&- || true"

WRONG_TYPES: dict[str, Any] = {
    "jenkins_port": "http",
    "jenkins_https_port": [8443],
    "jenkins_service_enabled": "perhaps",
    "jenkins_service_state": "restarted",
    "jenkins_line": "stable",
    "jenkins_volume_file_system": "btrfs",
    "jenkins_java_options": {"heap": "1g"},
    "jenkins_arguments": {},
    "jenkins_plugins": {"git": 1},
    "jenkins_no_proxy": {},
}

# What is wrong, the variables (FOLDER is the controller's), and what the refusal must say.
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "wrong types": (WRONG_TYPES, tuple(WRONG_TYPES)),
    "an unknown variable": ({"jenkins_prot": 80}, ("jenkins_prot: this role has no such variable",)),
    "a value out of range": ({"jenkins_port": 70000}, ("nothing was changed: jenkins_port is 70000 hint:",)),
    "no Java": ({"jenkins_java_home": "/opt/none"}, ("/opt/none has none", "apply the java role first")),
    "a wrong fingerprint": ({"jenkins_repository_key_fingerprint": "A" * 40}, (f"but {'A' * 40} is pinned",)),
    "no key": ({"jenkins_repository_key_url": "file:///srv/none"}, ("file:///srv/none can't be fetched",)),
    "a repository that is down": (
        {"jenkins_repository_url": "http://127.0.0.1:9/deb"},
        ("can't be installed from http://127.0.0.1:9/deb",),
    ),
    "an unsigned repository": (
        {"jenkins_repository_url": "file:///srv/unsigned"},
        ("can't be installed from file:///srv/unsigned", "is not signed"),
    ),
    "a repository that another key has signed": (
        {"jenkins_repository_url": "file:///srv/forged"},
        ("can't be installed from file:///srv/forged", "is not signed"),
    ),
    "a version that does not exist": ({"jenkins_version": "0.0.1"}, ("can't be installed", "0.0.1")),
    "a package with another checksum": (
        {"jenkins_package_file": "FOLDER/jenkins.deb", "jenkins_package_sha256": NOTHING},
        ("FOLDER/jenkins.deb has the SHA-256", f"but {NOTHING} is wanted; nothing was installed"),
    ),
    "a URL with another checksum": (
        {"jenkins_package_url": "file:///srv/jenkins.deb", "jenkins_package_sha256": NOTHING},
        ("The checksum for", f"did not match {NOTHING}"),
    ),
    "a volume that isn't there": (
        {"jenkins_volume": "LABEL=none", "jenkins_service_state": "started"},
        ("there is no /dev/disk/by-label/none here, which is jenkins_volume LABEL=none; nothing was changed",),
    ),
    "a volume that would hide files": (
        {"jenkins_home": "/usr/share", "jenkins_volume": "/srv/volume"},
        ("/usr/share holds files, which jenkins_volume /srv/volume would hide; nothing was changed",),
    ),
    "a configuration that is no YAML": (
        {"jenkins_casc_file": "FOLDER/broken.yaml"},
        ("jenkins_casc_file FOLDER/broken.yaml can't be read as YAML",),
    ),
    "a configuration that leaves Jenkins open": (
        {"jenkins_casc_file": "FOLDER/open.yaml", "jenkins_plugins": ["configuration-as-code:1"]},
        ("sets no jenkins.securityRealm", "sets no jenkins.authorizationStrategy, or unsecured"),
    ),
    "a password in the configuration": (
        {"jenkins_casc_file": "FOLDER/clear.yaml", "jenkins_plugins": ["configuration-as-code:1"]},
        ("gives a local user a password in clear",),
    ),
    "a configuration that nothing reads": (
        {"jenkins_casc_file": "FOLDER/casc.yaml", "jenkins_plugins": ["git"]},
        ("the plugin configuration-as-code isn't among the plugins",),
    ),
}

PLATFORM = {"distribution": "Debian", "distribution_major_version": "11", "cacheable": True}
FILL = "mkdir -p /usr/share/java; mount -t tmpfs -o size=4k none /usr/share/java; echo full >/usr/share/java/full"


@pytest.fixture(scope="module")
def refusals(ground: Ground) -> dict[str, Told]:
    """Give what each bad input was answered; the role was applied to a bare machine each time."""
    files = {
        "broken.yaml": "jenkins: [",
        "open.yaml": "jenkins:\n  numExecutors: 0\n",
        "clear.yaml": CASC.replace("${trim:${readFile:/run/secrets/admin}}", "s3cret"),
    }
    for name, text in files.items():
        (ground.folder / name).write_text(text)
    tasks: list[Task] = []
    for name, (wrong, _) in REFUSED.items():
        told = yaml.safe_load(yaml.dump(wrong).replace("FOLDER", str(ground.folder)))
        tasks += [
            chapter(name),
            survived(role("jenkins", **told)),
            shell("Look what is left", LEFT),
        ]
    tasks += [chapter("a full disk", FILL), survived(role("jenkins")), shell("Mend", "umount /usr/share/java")]
    tasks += [
        chapter("another platform"),
        {"ansible.builtin.set_fact": PLATFORM},
        survived(role("jenkins")),
    ]
    return dict(ground.host.play(tasks, ground.variables).apart())


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_input_is_refused(refusals: dict[str, Told], ground: Ground, name: str) -> None:
    """A bad input ends the role with a message that names it, and Jenkins isn't installed."""
    said = " ".join(refusals[name].messages())
    for words in REFUSED[name][1]:
        assert words.replace("FOLDER", str(ground.folder)) in said
    assert "" == refusals[name].said("Look what is left")


def test_a_full_disk_fails(refusals: dict[str, Told]) -> None:
    """A disk on which the package has no room fails the role with the cause."""
    said = " ".join(refusals["a full disk"].messages())
    assert "Jenkins can't be installed from file:///srv/good" in said and "No space left on device" in said


def test_another_platform_is_refused(refusals: dict[str, Told]) -> None:
    """A platform that the role doesn't know is named, with those that it knows."""
    [said] = refusals["another platform"].messages()
    assert "can't install Jenkins on Debian 11; nothing was changed. hint: start from one of AlmaLinux 9" in said


@dataclass
class Applied:
    """Hold what applying the role by default has told, one run after the other."""

    foreseen: Told
    first: Told
    second: Told
    checked: Told


@pytest.fixture(scope="module")
def applied(ground: Ground, refusals: dict[str, Told]) -> Applied:
    """Apply the role, first in check mode, then twice, then in check mode again."""
    tasks = [role("jenkins"), role("jenkins", "verify_at_rest")]
    play, variables = ground.host.play, ground.variables
    foreseen = play([role("jenkins")], variables, "--check", "--diff")
    done = dict(play([chapter("first"), *tasks, chapter("second"), *tasks], variables).succeeded().apart())
    checked = play(tasks, variables, "--check", "--diff").succeeded()
    return Applied(foreseen, done["first"], done["second"], checked)


def test_check_mode_foresees(applied: Applied) -> None:
    """Check mode on a bare machine tells what would change, and changes none of it."""
    foreseen, done = applied.foreseen.succeeded().changes(), applied.first.changes()
    assert "Install | Add the repository" in foreseen
    assert set(foreseen) <= set(done)
    assert set(done) - set(foreseen) <= {"Install | Jenkins with apt", "Install | Fetch the signing key and pin it"}


def test_a_second_run_changes_nothing(applied: Applied) -> None:
    """What is as it should be stays as it is, and check mode knows it."""
    assert ([], []) == (applied.second.changes(), applied.checked.changes())


# How the machine is broken and mended is told in these words.
WORDS = r"""
set -eu
home=/var/lib/jenkins status=/var/lib/dpkg/status password=$home/secrets/initialAdminPassword
spoilt=$home/spoilt.properties drop_in=/etc/systemd/system/jenkins.service.d
field() { cp $status /run; sed -i "/^Package: jenkins$/,/^$/ $1" $status; }
stray() { cp /bin/sleep /srv/java; systemd-run -qG --unit stray /srv/java 99; }
override() { printf "[Service]\nEnvironment=$1\n" >$drop_in/override.conf; systemctl daemon-reload; }
ready() { timeout 99 sh -c "until python3 -c \"import urllib.request as r; r.urlopen('$1')\" 2>&-; do sleep .2; done"; }
restart() { systemctl reset-failed jenkins; systemctl restart jenkins; }
journal() {
    printf "INVOCATION_ID=$(systemctl show -P InvocationID jenkins)\nPRIORITY=3\nMESSAGE=$1\n" | logger --journald
    journalctl --sync
}
elsewhere() {
    systemctl show --value -p Environment jenkins | tr " " "\\n" >/run/given; systemctl stop jenkins
    systemd-run -qG --unit stray --uid jenkins -p EnvironmentFile=/run/given /usr/bin/jenkins
}
"""

# The assertion, how the machine is broken, how it is mended, and what the evidence must name.
AT_REST: list[tuple[str, str, str, str]] = [
    ("Jenkins is installed", "field 's/ok installed/ok unpacked/'", "mv /run/status $status", "unpacked"),
    ("The version is the pinned one", "field 's/^Version: .*/Version: 9/'", "mv /run/status $status", "jenkins 9 is"),
    ("The unit is enabled as asked", "systemctl -q disable jenkins", "systemctl -q enable jenkins", "is disabled, but"),
    ("Jenkins is not running", "stray", "systemctl stop stray", "/srv/java 99"),
    (
        "The drop-in is in force",
        "mv $drop_in /run; systemctl daemon-reload",
        "mv /run/jenkins.service.d $drop_in; systemctl daemon-reload",
        "drop-ins: none",
    ),
    (
        "The drop-in is in force",
        "echo >>$drop_in/10-bakehouse.conf",
        "sed -i '$d' $drop_in/10-bakehouse.conf; systemctl daemon-reload",
        "daemon-reload needed: yes",
    ),
    (
        "The drop-in is in force",
        "override JENKINS_PORT=9",
        "rm $drop_in/override.conf; systemctl daemon-reload",
        "wanted: JENKINS_PORT=8080",
    ),
    ("Jenkins's files are there and its own", "chown root $home", "chown jenkins $home", "root:jenkins 755"),
    ("There is no secret", "cd $home; for one in SECRETS; do echo x >$one; done", "cd $home; rm SECRETS", "SECRETS"),
    ("Services may start", "echo exit 101 >/usr/sbin/policy-rc.d", "rm /usr/sbin/policy-rc.d", "was left behind"),
]
SECRETS = (
    "secrets secret.key secret.key.not-so-secret identity.key.enc users config.xml credentials.xml"
    " jenkins.telemetry.Correlator.xml nodeMonitors.xml queue.xml hudson.model.UpdateCenter.xml"
    " jenkins.install.UpgradeWizard.state jenkins.install.InstallUtil.lastExecVersion failed-boot-attempts.txt"
    " .owner logs"
)

USERS = "The users of Configuration as Code get in"

# What a machine may have: a Java of somebody else's, an error after the start, a build that listens.
NO_FAULT = (
    "stray; journal broken; systemd-run -qG --unit build --uid jenkins python3 -m http.server 8099;"
    " ready http://127.0.0.1:8099"
)

IN_SERVICE: list[tuple[str, str, str, str]] = [
    (
        "The unit is active",
        "elsewhere; ready http://127.0.0.1:8081/ci/login",
        "systemctl stop stray",  # the next way starts it again
        "jenkins.service is inactive (dead)",
    ),
    (
        "Java and Jenkins have their arguments as given",
        "override JENKINS_OPTS=; restart",
        "",  # the next way overrides it
        'and ["--debug=6"] last',
    ),
    (
        "The unit's process is Java, of user jenkins",
        "J=$(readlink -f /usr/bin/java); cp $J ${J%java}other; override JENKINS_JAVA_CMD=${J%java}other; restart",
        "",
        "other of jenkins; java of jenkins is wanted",
    ),
    (
        "Jenkins listens on its ports and no other",
        "override JENKINS_LISTEN_ADDRESS=0.0.0.0; restart",
        "",
        ":8081 instead of tcp 127.0.0.1:8081 alone",
    ),
    (
        "The journal holds no error",
        'override "A=B\\nExecStartPre=/bin/echo SEVERE: broken"; restart',
        "rm $drop_in/override.conf; systemctl daemon-reload; restart",
        "1 errors of jenkins.service in this start, the first: SEVERE: broken",
    ),
    ("The login page is Jenkins's", "echo /login=503 >$spoilt", "rm $spoilt", "8081/ci/login is not 200"),
    ("Jenkins finds itself healthy", "echo /health=503 >$spoilt", "rm $spoilt", "8081/ci/health/ is not 200"),
    ("Strangers are refused", "echo /api/json=200 >$spoilt", "rm $spoilt", "open to everyone"),
    (
        "The admin password is its own secret",
        "chmod 644 $password",
        "chmod 640 $password",
        "is 0644 of jenkins, not 0640",
    ),
    (
        "The admin password is its own secret",
        "mv $password /run",
        f"mv /run/initialAdminPassword $password; {NO_FAULT}",
        "is missing, and Jenkins is not set up",
    ),
]
# What can't be seen of a unit that isn't active.
FOLLOWS = {
    "The unit is active": [
        "The unit's process is Java, of user jenkins",
        "Java and Jenkins have their arguments as given",
    ]
}


def chapters(table: list[tuple[str, str, str, str]], tasks_from: str) -> Iterator[Task]:
    """Yield the tasks that break the machine in each way, verify it and mend it; and verify the mended machine."""
    mend = ""
    for number, (_, broken, mended, _) in enumerate(table):
        yield chapter(str(number), f"{WORDS}\n{mend}\n{broken}".replace("SECRETS", SECRETS))
        yield survived(role("jenkins", tasks_from))
        mend = mended
    yield chapter(str(len(table)), f"{WORDS}\n{mend}".replace("SECRETS", SECRETS))
    yield role("jenkins", tasks_from)


def broken(
    ground: Ground, table: list[tuple[str, str, str, str]], tasks_from: str, *first: Task, **variables: Any
) -> dict[str, Told]:
    """Return what a verification says of the machine that is broken in each way, by number, after some first tasks."""
    told = ground.host.play([*first, *chapters(table, tasks_from)], ground.variables | variables)
    by_chapter = dict(told.apart())
    assert str(len(table)) in by_chapter, told.messages()[-1]  # a machine that can't be broken or mended ends the play
    return by_chapter


def judge(table: list[tuple[str, str, str, str]], told: dict[str, Told], number: int) -> None:
    """Assert that one way of breaking the machine has failed one assertion, with evidence that names it."""
    name, _, _, evidence = table[number]
    found = told[str(number)].findings()
    assert [name, *FOLLOWS.get(name, [])] == list(found)
    assert [] == [word for word in evidence.replace("SECRETS", SECRETS).split() if word not in found[name]]


def assertions(tasks_from: str) -> set[str]:
    """Return the names of all assertions of a verification."""
    judged = yaml.safe_load((TASKS / f"{tasks_from}.yml").read_text())[-1]
    return {finding["name"] for finding in judged["vars"]["__jenkins_findings"]}


@pytest.mark.parametrize(("table", "file"), [(AT_REST, "verify_at_rest"), (IN_SERVICE, "verify_in_service")])
def test_each_assertion_is_seen_to_fail(table: list[tuple[str, str, str, str]], file: str) -> None:
    """There is a way to break the machine for every assertion; users are tried where there are some, elsewhere."""
    assert assertions(file) - {USERS} == {name for name, *_ in table}


@pytest.fixture(scope="module")
def at_rest(ground: Ground, applied: Applied) -> dict[str, Told]:
    """Give what the verification at rest says of the machine, broken in each way."""
    return broken(ground, AT_REST, "verify_at_rest")


@pytest.mark.parametrize("number", range(len(AT_REST)), ids=lambda number: f"{number}-{AT_REST[number][0]}")
def test_at_rest_a_broken_machine_fails(at_rest: dict[str, Told], number: int) -> None:
    """A machine that is broken in one way fails that assertion and no other; mended it fails none."""
    judge(AT_REST, at_rest, number)
    at_rest[str(len(AT_REST))].succeeded()


@pytest.fixture(scope="module")
def in_service(ground: Ground, at_rest: dict[str, Told]) -> dict[str, Told]:
    """Change variables, start the machine, and give what the verification in service says of it, broken in each way."""
    first = [chapter("served"), role("jenkins"), role("jenkins", "verify_in_service")]
    return broken(ground, IN_SERVICE, "verify_in_service", *first, **SERVED)


def test_a_changed_variable_is_applied(in_service: dict[str, Told]) -> None:
    """Another port, prefix and address change the drop-in and the service alone, and are served."""
    changes = in_service["served"].succeeded().changes()
    assert ["Configure | Write the drop-in", "Service | Enabled and in its state"] == changes


@pytest.mark.parametrize("number", range(len(IN_SERVICE)), ids=lambda number: f"{number}-{IN_SERVICE[number][0]}")
def test_in_service_a_broken_machine_fails(in_service: dict[str, Told], number: int) -> None:
    """A machine that is broken in one way fails that assertion and no other; mended it fails none."""
    judge(IN_SERVICE, in_service, number)
    in_service[str(len(IN_SERVICE))].succeeded()


def test_what_is_no_fault_is_told(in_service: dict[str, Told]) -> None:
    """A build's port, and errors since the start, are told with what is good; another start's errors aren't."""
    told = in_service[str(len(IN_SERVICE))].good()
    assert "; builds listen on tcp 0.0.0.0:8099" in told["Jenkins listens on its ports and no other"]
    assert told["The journal holds no error"].endswith("; since it is up 1, the last: broken")
    assert "not looked at: none has a password in a file on the machine" == told[USERS]


@pytest.fixture(scope="module")
def grown(ground: Ground, in_service: dict[str, Told]) -> dict[str, Told]:
    """Ask for a plugin and for an argument that there aren't, then for better ones and a later version, twice."""
    later: dict[str, Any] = {"jenkins_version": ground.versions[1], "jenkins_plugins": ["git:1", "# and", "mailer"]}
    tasks = [
        chapter("missing"),
        survived(role("jenkins", jenkins_plugins=["git", "nosuch:1"])),
        chapter("wrong", "systemctl stop build stray*"),
        survived(role("jenkins", jenkins_arguments=["--nosuch"])),
        chapter("there", 'timeout 99 sh -c "until systemctl is-failed -q jenkins; do sleep .2; done"'),
        role("jenkins", **later),
        role("jenkins", "verify_in_service", **later),
        chapter("again"),
        role("jenkins", **later),
    ]
    return dict(ground.host.play(tasks, ground.variables | SERVED).apart())


def test_a_plugin_that_is_not_there_fails(grown: dict[str, Told]) -> None:
    """A plugin that the update centre doesn't have fails the role by its name."""
    [said] = [said for said in grown["missing"].messages() if "hint:" in said]
    assert said.startswith("the plugins can't be had: Unable to find plugin nosuch")


def test_a_corrected_setting_is_not_held_against_it(grown: dict[str, Told]) -> None:
    """A setting with which Jenkins fails until systemd gives up fails the role; corrected, it is in force at once."""
    assert "Unable to restart service jenkins.service" in " ".join(grown["wrong"].messages())
    grown["there"].succeeded()


def test_a_raised_pin_upgrades_and_plugins_come(grown: dict[str, Told], ground: Ground) -> None:
    """A later version and plugins are installed, the service restarts with them, and no cache is left."""
    assert "Install | Jenkins with apt" in grown["there"].succeeded().changes()
    told = ground.host.run(
        "dpkg-query -W jenkins; ls /var/lib/jenkins/plugins; ls -A /var/tmp; ls -A /var/lib/jenkins/.cache || true"
    )
    version = f"jenkins\t{ground.versions[1]}"
    assert [version, "git.jpi", "mailer.jpi", "plugins.txt"] == [
        line for line in told.decode().splitlines() if not line.startswith("systemd-private-")
    ]


def test_plugins_are_gotten_once(grown: dict[str, Told]) -> None:
    """What was gotten is not gotten again."""
    assert [] == grown["again"].succeeded().changes()


ELSEWHERE: dict[str, Any] = {
    "jenkins_home": "/srv/ci/jenkins",
    "jenkins_volume": "/srv/volume",
    "jenkins_port": 80,
    "jenkins_listen_address": "127.0.0.1",
    "jenkins_prefix": "/ci",
    "jenkins_https_port": 8443,
    "jenkins_https_keystore": "/srv/keystore.p12",
    "jenkins_https_password_file": "/run/secrets/https",
    "jenkins_heap_initial": "32m",
    "jenkins_heap_max": "50%",
    "jenkins_java_options": [
        "-Dcsp=default-src 'self'; x",
        '-Dodd= a  "b" $HOME `id` 100%i \\n *?[a-z] ~!#&|<>() größe ',
    ],
    "jenkins_arguments": ["--simpleAccessLogger.format=a b  'c' \"d\" $(id) %h;e"],
    "jenkins_umask": "0027",
    "jenkins_temp_dir": "/var/cache/jenkins/tmp",
    "jenkins_plugins_folder": "FOLDER/plugins",
    "jenkins_casc_file": "FOLDER/casc.yaml",
}
SECRETS_AT_BOOT = """
keytool -genkeypair -alias x -keyalg EC -dname CN=x -keystore /srv/keystore.p12 -storepass "pass word" 2>/dev/null
echo "httpsKeyStorePassword=pass word" >/run/secrets/https
chown jenkins /srv/keystore.p12 /run/secrets/https; chmod 400 /srv/keystore.p12 /run/secrets/https
"""
# As a boot does it; so many starts of one machine within five minutes are more than the unit allows.
WITHOUT = "rm /srv/ci/jenkins/secrets/initialAdminPassword /run/secrets/admin; systemctl restart jenkins.service"
START = "umount /srv/ci/jenkins; systemctl reset-failed jenkins.service; systemctl start jenkins.service"


@pytest.fixture(scope="module")
def elsewhere(ground: Ground, grown: dict[str, Told]) -> dict[str, Told]:
    """Move Jenkins to a volume of its own, with HTTPS and Configuration as Code; verify it at rest and in service."""
    ground.host.run(SECRETS_AT_BOOT)
    values = {
        name: value.replace("FOLDER", str(ground.folder)) if isinstance(value, str) else value
        for name, value in ELSEWHERE.items()
    }
    tasks = [
        chapter("at rest"),
        role("jenkins"),
        role("jenkins", "verify_at_rest", jenkins_https_password_file="/none"),
        chapter("in service", START),
        role("jenkins", "verify_in_service"),
        chapter("with a first password", "echo x >/srv/ci/jenkins/secrets/initialAdminPassword"),
        survived(role("jenkins", "verify_in_service")),
        chapter("without the secret", WITHOUT),
        survived(role("jenkins", "verify_in_service")),
    ]
    return dict(ground.host.play(tasks, {**ground.variables, "jenkins_version": ground.versions[1], **values}).apart())


def test_everything_at_once(elsewhere: dict[str, Told], ground: Ground) -> None:
    """Home on a volume, both ports, heap, odd arguments, plugins from a folder and a configuration are all in force."""
    elsewhere["at rest"].succeeded()
    assert "admin signed in" == elsewhere["in service"].succeeded().good()[USERS]
    told = ground.host.run("stat -c %a /srv/volume/config.xml; ps -C java -o args= | grep -c word || true")
    assert ["640", "0"] == told.decode().split()


def test_a_secret_that_was_missing_is_found(elsewhere: dict[str, Told]) -> None:
    """Where the file of a user's password isn't there at the start, nobody can log in: that is bad."""
    found = elsewhere["without the secret"].findings()
    assert [USERS] == list(found)
    assert (
        "admin does not get in with the password in /run/secrets/admin: Jenkins has not found the file" in found[USERS]
    )


def test_a_first_password_beside_a_configuration_is_found(elsewhere: dict[str, Told]) -> None:
    """Where Configuration as Code makes the users, a first password would be one that nobody watches."""
    assert ["The admin password is its own secret"] == list(elsewhere["with a first password"].findings())


VOLUME = """
cd /srv; rm -f /var/lib/jenkins-volume; truncate --size=4M empty full; mkfs.ext4 -q -L mine full; cp full before
truncate --size=4M table; echo label: gpt | sfdisk -q table; cp table table.before
for one in table full empty; do sh /srv/make $PWD/$one ext4; done
cmp full before; cmp table table.before; blkid -p -o value -s TYPE empty
"""


def test_a_volume_gets_a_file_system_once(ground: Ground) -> None:
    """An empty volume gets a file system; one with a file system or a partition table keeps every byte."""
    ground.host.put({"make": (ROOT / "roles/jenkins/files/make_file_system.sh").read_bytes()})
    told = ground.host.run(VOLUME).decode().splitlines()
    assert "/srv/table is left as it is:" in told[0] and "PTTYPE=gpt" in told[0]
    assert "/srv/full is left as it is:" in told[1] and "LABEL=mine" in told[1]
    assert ["/srv/empty has a new ext4 file system", "ext4"] == told[2:]


SWAPPED = """
cd /srv; rm -f /var/lib/jenkins-volume empty; truncate --size=4M empty; cp empty before
sh make $PWD/empty ext4; mv empty first; cp before empty
sh make $PWD/empty ext4 2>&1 || echo refused; cmp empty before; mkfs.ext4 -q empty; cp empty other
sh make $PWD/empty ext4 2>&1 || echo refused; cmp empty other; cp first empty
sh make $PWD/empty ext4; blkid -p -o value -s UUID first; rm empty; truncate --size=4M empty
echo 0123456789abcdef0123456789abcdef >id; mount --bind id /etc/machine-id
sh make $PWD/empty ext4; umount /etc/machine-id
"""


def test_a_machine_keeps_to_its_volume(ground: Ground) -> None:
    """Another device under the volume's name, empty or not, keeps every byte; a new machine has a volume of its own."""
    ground.host.put({"make": (ROOT / "roles/jenkins/files/make_file_system.sh").read_bytes()})
    made, *told = ground.host.run(SWAPPED).decode().splitlines()
    uuid = told[5]
    refusal = f"/srv/empty is left as it is: Jenkins's volume was UUID={uuid}, and this is another."
    assert "/srv/empty has a new ext4 file system" == made
    assert [refusal, refusal] == [one.partition(" hint: ")[0] for one in told[0:3:2]]
    assert ["refused", "refused"] == told[1:4:2]
    assert f"UUID={uuid}" in told[4] and "/srv/empty has a new ext4 file system" == told[6]
