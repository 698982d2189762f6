"""Every variable of every role: what it can't be is refused by its name before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from ec2_fixtures import ROOT
from role_fixtures import ASSERTING, refusals

TEXT: list[Any] = [2.54, True, None, ["x"]]
URL = [*TEXT, "mirror", "ftp://mirror/x", "https://user:secret@mirror/x", "https://mirror/a b", "https://mirror/x\n"]
PATH = [*TEXT, "files/x", "~/x", "/x\n"]
NUMBER: list[Any] = ["http", 80.5, True, None, "80\n", [80]]
PORT = [*NUMBER, 70000, "65536", -2]
SWITCH: list[Any] = ["perhaps", None, 2]
LIST: list[Any] = ["-Xmx1g", 2.54, None, {"a": 1}, [2.54], ["fine", None]]
PATTERNED = [*TEXT, "a b", "$(id)", "x\n"]

FINE = object()

# Values that can't be taken, by role and variable.
WRONG: dict[str, dict[str, list[Any]]] = {
    "java": {
        "java_version": [*NUMBER, 17, 21.0],
        "java_repository_url": [*URL, ""],
        "java_repository_key_url": [*URL, ""],
        "java_repository_key_fingerprint": [*PATTERNED, "5e38", "a" * 40, "A" * 41, "A" * 40 + "\n", ""],
    },
    "jenkins": {
        "jenkins_line": [*TEXT, "stable", "lts\n"],
        "jenkins_repository_url": URL,
        "jenkins_repository_key_url": URL,
        "jenkins_repository_key_fingerprint": [*PATTERNED, "5e38", "a" * 40, "A" * 41, "A" * 40 + "\n", ""],
        "jenkins_version": [2.540, *PATTERNED, "latest", "2.540; x", "2.540\n"],
        "jenkins_package_file": [*PATH, "/none.deb", "/tmp"],
        "jenkins_package_url": URL,
        "jenkins_package_sha256": [*PATTERNED, "0" * 63, "A" * 64, "0" * 64 + "\n"],
        "jenkins_proxy": [*PATTERNED, "proxy:3128", "https://proxy:3128", "http://proxy", "http://a:b@proxy:3128"],
        "jenkins_no_proxy": [*LIST, ["a b"], ["10.0.0.0/8"], ["*.example.org"], [""]],
        "jenkins_java_home": [*PATH, "/opt/a b"],
        "jenkins_home": [*PATH, "", "/jenkins", "/srv/a b", "/srv/", "/srv/$x"],
        "jenkins_volume": [*PATTERNED, "sdf", "LABEL=", "UUID=a b", "/dev/sdf\n"],
        "jenkins_volume_file_system": [*TEXT, "btrfs"],
        "jenkins_port": [*PORT, 0, -1],
        "jenkins_listen_address": [*PATTERNED, "127.0.0.1; x"],
        "jenkins_prefix": [*PATTERNED, "ci", "/ci/", "/"],
        "jenkins_https_port": [*PORT, 8080],
        "jenkins_https_keystore": [*PATH, "/k"],
        "jenkins_https_password_file": [*PATH, "/p"],
        "jenkins_further_ports": ["50000", 50000, {"a": 1}, None, ["x"], [True], [50000, 0], [65536]],
        "jenkins_heap_initial": [*PATTERNED, "1 g", "0m", "0%", "101%", "512mb", 512],
        "jenkins_heap_max": [*PATTERNED, "2GB", "-2g", "150%", 2],
        "jenkins_java_options": [*LIST, ["-Da=b\n-Dc"]],
        "jenkins_arguments": [*LIST, ["--a=\t"]],
        "jenkins_umask": [*PATTERNED, "27", "0028", 27, 0o27],
        "jenkins_temp_dir": [*PATH, "/a b"],
        "jenkins_start_timeout": [*NUMBER, 0, -1],
        "jenkins_plugins": [*LIST, "git", ["git mailer"], ["git\nmailer"]],
        "jenkins_plugins_folder": [*PATH, "/none"],
        "jenkins_plugin_manager_url": [*URL, ""],
        "jenkins_plugin_manager_sha256": [*PATTERNED, "", "0" * 63, "A" * 64],
        "jenkins_update_center_url": URL,
        "jenkins_update_center_download_url": URL,
        "jenkins_plugin_info_url": URL,
        "jenkins_casc_file": PATH,
        "jenkins_service_enabled": SWITCH,
        "jenkins_service_state": [*TEXT, "restarted", "Started"],
    },
    "nginx": {
        "nginx_port": [*PORT, 0],
        "nginx_page": TEXT,
        "nginx_service_state": [*TEXT, "restarted"],
    },
    "sysprep": {
        **{
            f"sysprep_{concern}": SWITCH
            for concern in ("cloud_init", "packages", "traces", "logs", "identity", "access")
        },
        "sysprep_forbidden_paths": [*LIST, ["etc/token"], ["/etc/a\n/etc/b"]],
    },
}


def refused(role: str, values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return which of these values the role refuses, and the words; each look sees those that passed the ones before.

    So many variables are looked at together, of which each would be refused alone.
    """
    found: dict[str, str] = {}
    while said := next(refusals(role, **{name: value for name, value in values.items() if name not in found}), ""):
        named = re.findall(r"^(\w+) is |(?:argument '|option '|of )(\w+)", said, re.MULTILINE)
        new = {name for names in named for name in names} & values.keys() - found.keys()
        assert new, said
        found |= dict.fromkeys(new, said)
    return found


@pytest.mark.parametrize("role", WRONG)
def test_what_cannot_be_taken_is_refused(role: str) -> None:
    """Each value that a variable can't take is refused with the variable's name, and with no secret that it holds."""
    for values in zip_longest(*WRONG[role].values(), fillvalue=FINE):
        tried = {name: value for name, value in zip(WRONG[role], values, strict=True) if value is not FINE}
        said = refused(role, tried)
        assert {} == {name: value for name, value in tried.items() if name not in said}
        assert "secret" not in str(said)


def test_every_variable_has_wrong_values() -> None:
    """The table has each variable of each role."""
    specs = {
        role: yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]["main"]
        for role in sorted(path.name for path in (ROOT / "roles").iterdir())
    }
    assert {role: list(spec["options"]) for role, spec in specs.items()} == {
        r: list(names) for r, names in WRONG.items()
    }


@pytest.mark.parametrize(
    ("role", "values", "said"),
    [
        ("jenkins", {"jenkins_version": 2.540}, "jenkins_version is 2.54 hint: put it into quotes; YAML reads a value"),
        ("jenkins", {"jenkins_java_options": "-Xmx1g"}, 'jenkins_java_options is "-Xmx1g" hint: it takes a list;'),
        ("nginx", {"nginx_port": 0}, "nginx_port is 0; nothing was changed. hint: it takes 1 to 65535"),
        ("jenkins", {"jenkins_port": -1}, "jenkins_port is -1 hint: it takes 1 to 65535, or -1 for none beside"),
        ("jenkins", {"jenkins_package_url": "https://a/b.deb"}, "jenkins_package_sha256 is '' hint: it takes the 64"),
        (
            "jenkins",
            {"jenkins_repository_url": "https://user:secret@mirror/x"},
            'jenkins_repository_url is "https://…@mirror/x" hint: it takes http://HOST, https://HOST or file:/PATH,',
        ),
    ],
)
def test_a_refusal_says_what_to_do(role: str, values: dict[str, Any], said: str) -> None:
    """It tells that nothing was changed, the variable as it arrived, and what it takes."""
    told = " ".join(next(refusals(role, **values)).split())
    assert said in told and "nothing was changed" in told


def test_a_package_comes_from_one_place(tmp_path: Path) -> None:
    """A URL is refused beside a file."""
    (tmp_path / "jenkins.deb").touch()
    url = {"jenkins_package_url": "https://example.org/jenkins.deb", "jenkins_package_sha256": "0" * 64}
    said = next(refusals("jenkins", **url, jenkins_package_file=str(tmp_path / "jenkins.deb")))
    assert "jenkins_package_url is https://example.org/jenkins.deb beside jenkins_package_file" in said


def test_what_can_be_taken_is(tmp_path: Path) -> None:
    """Neither the defaults, nor values that make sense together, nor numbers in text are refused."""
    (tmp_path / "git.jpi").touch()
    jenkins = {
        "jenkins_version": "2.540",
        "jenkins_package_url": "https://example.org/jenkins.deb",
        "jenkins_package_sha256": "0" * 64,
        "jenkins_proxy": "http://proxy.example.org:3128",
        "jenkins_no_proxy": ["localhost", ".example.org", "::1"],
        "jenkins_java_home": "/opt/jdk-21.0.1+12",
        "jenkins_home": "/srv/jenkins",
        "jenkins_volume": "LABEL=jenkins",
        "jenkins_port": -1,
        "jenkins_https_port": "443",
        "jenkins_https_keystore": "/etc/jenkins/keystore.p12",
        "jenkins_https_password_file": "/run/jenkins.properties",
        "jenkins_heap_max": "50%",
        "jenkins_umask": "0027",
        "jenkins_further_ports": [50000, "50001"],
        "jenkins_plugins": ["# a comment", "", "git:5.7.0  # pinned", "mailer", "x::https://example.org/x.hpi"],
        "jenkins_plugins_folder": str(tmp_path),
        "jenkins_update_center_download_url": "file:/srv/plugins",
        "jenkins_service_enabled": "no",
    }
    good: dict[str, dict[str, Any]] = {
        "java": {"java_version": "25"},
        "jenkins": jenkins,
        "nginx": {"nginx_port": "8080", "nginx_page": "größe"},
        "sysprep": {"sysprep_access": "no", "sysprep_forbidden_paths": ["/etc/a b*", ""]},
    }
    said = {role: [*refusals(role), *refusals(role, **good[role])] for role in ASSERTING}
    assert {role: [] for role in ASSERTING} == said
    assert [] == list(refusals("jenkins", jenkins_port="8081"))  # as from the command line
