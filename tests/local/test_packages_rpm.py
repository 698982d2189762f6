"""The signed repository for dnf, and what stands in for Jenkins and Java on a machine with rpm."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ec2_fixtures import LocalEc2, Machines, describe, wait_for_state

from bakehouse.errors import ToolError

pytestmark = pytest.mark.docker

REPO = "/etc/yum.repos.d/jenkins.repo"
TRUSTED = "/etc/pki/rpm-gpg/RPM-GPG-KEY-jenkins"
BROKEN = "/root/broken"


@dataclass(frozen=True)
class Amazon:
    """A machine that stands in for one of Amazon Linux, and the repository of Jenkins's stand-in."""

    machines: Machines
    id: str
    repository: dict[str, str]

    def run(self, script: str, code: int = 0) -> str:
        """Run a shell script as root; return what it printed, both streams, if it exits with this code."""
        said = self.machines.ssh(self.id, f"sudo bash -c {shlex.quote('exec 2>&1; ' + script)}; printf '\\n%s' $?")
        text, _, ended = said.rpartition("\n")
        assert str(code) == ended, f"{script}: {said}"
        return text.strip()

    def configure(self, url: str = "", key: str = TRUSTED, signed_index: bool = True) -> None:
        """Write the repository's file, as Jenkins's own is, for a repository that dnf has never seen."""
        lines = [
            *("[jenkins]", "name=Jenkins-stable", f"baseurl={url or self.repository['url']}", "gpgcheck=1"),
            *(f"repo_gpgcheck={int(signed_index)}", f"gpgkey=file://{key}"),
        ]
        self.run(f"printf '%s\\n' {shlex.join(lines)} >{REPO}; rm -rf /var/cache/dnf/jenkins*")


@pytest.fixture(scope="module")
def amazon(local_ec2: LocalEc2, ec2: Any, key: tuple[str, Path], group: str, rpm_base: str) -> Iterator[Amazon]:
    """Give a machine of the base that stands in for Amazon Linux; it has the repository's key, and a stranger's."""
    repository = local_ec2.ask("stand-in", seconds=900, package="jenkins", family="redhat")
    machines = Machines(ec2, key[1], key[0], group, rpm_base)
    machines.user = "ec2-user"
    made = Amazon(machines, machines.launch()[0], repository)
    made.run(
        f"""set -e
        curl -sf {repository["key_url"]} -o {TRUSTED}
        export GNUPGHOME=/root/stranger
        mkdir -m 700 $GNUPGHOME
        gpg --batch --quiet --passphrase '' --quick-generate-key stranger ed25519 sign never
        gpg --armor --export >{TRUSTED}-stranger"""
    )
    yield made
    ec2.terminate_instances(InstanceIds=machines.launched)
    wait_for_state(ec2, made.id, "terminated")


def test_ansible_takes_it_for_amazon_linux(amazon: Amazon, tmp_path: Path) -> None:
    """Systemd and cloud-init are content, Ansible finds Amazon Linux 2023 and dnf, a person finds a stand-in."""
    assert "running" == amazon.machines.ssh(amazon.id, "systemctl is-system-running --wait")
    assert "status: done" == amazon.machines.ssh(amazon.id, "cloud-init status --wait")
    assert "systemd-tmpfiles-clean.timer" == amazon.run("systemctl show '*.timer' --property=Id --value")
    assert "Stand-in for Amazon Linux 2023" in amazon.run("grep PRETTY_NAME /etc/os-release")

    address = describe(amazon.machines.ec2, amazon.id)[0]["PublicIpAddress"]
    (tmp_path / "inventory").write_text(f"one ansible_host={address} ansible_user=ec2-user\n")
    ansible = [str(Path(sys.executable).with_name("ansible")), "one", "-i", "inventory", "-m", "ansible.builtin.setup"]
    options = [f"--private-key={amazon.machines.key_file}", "--tree=facts", "-a", "gather_subset=distribution,pkg_mgr"]
    told = subprocess.run(
        [*ansible, *options],
        env={**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    facts = json.loads((tmp_path / "facts/one").read_text())["ansible_facts"]

    assert ["Amazon", "2023", "RedHat", "dnf"] == [
        facts[f"ansible_{name}"] for name in ("distribution", "distribution_major_version", "os_family", "pkg_mgr")
    ]


# What is done to a copy of the repository, which the right key has signed; whether its index has to be signed; who says
# no. `resign` signs the package anew with a stranger's key, `index` makes the index anew, unsigned.
BREAKAGES = {
    "index of a stranger": ("rm repodata/*.asc; gpg --armor --detach-sign repodata/repomd.xml", True, "Bad GPG sign"),
    "index not signed": ("rm repodata/*.asc", True, "GPG signature is not available"),
    "index changed": ("echo >>repodata/repomd.xml", True, "Bad GPG sign"),
    "package of a stranger": ("resign; index", False, "Error: GPG check FAILED"),
    "package not signed": ("rpmsign --delsign *.rpm; index", False, "noarch.rpm is not signed"),
    "package changed": ("printf x | dd of=$(echo *.rpm) bs=1 seek=9000 conv=notrunc", True, "has incorrect checksum"),
}

COPY = f"""
rm -rf {BROKEN}; mkdir -p {BROKEN}/repodata; cd {BROKEN}; export GNUPGHOME=/root/stranger
curl -sf -o repodata/repomd.xml URL/repodata/repomd.xml -o repodata/repomd.xml.asc URL/repodata/repomd.xml.asc
for file in $(grep -o 'repodata/[^"]*' repodata/repomd.xml); do curl -sf -o $file URL/$file; done
curl -sfO URL/NAME
resign() {{ rpmsign --define '_gpg_name stranger' --resign *.rpm; }}
index() {{ createrepo_c --quiet .; }}
"""


@pytest.mark.parametrize(("breakage", "signed_index", "says"), BREAKAGES.values(), ids=BREAKAGES)
def test_dnf_refuses_what_is_not_signed(amazon: Amazon, breakage: str, signed_index: bool, says: str) -> None:
    """An index or a package without the key's signature, or changed after it, is refused; nothing is installed."""
    name = f"jenkins-{amazon.repository['version']}-1.noarch.rpm"
    amazon.run(COPY.replace("URL", amazon.repository["url"]).replace("NAME", name) + breakage)
    amazon.configure(f"file://{BROKEN}", signed_index=signed_index)

    assert says in amazon.run("dnf -y install jenkins", code=1)
    amazon.run("rpm -q jenkins", code=1)


def test_dnf_trusts_the_key_and_no_other(amazon: Amazon) -> None:
    """The repository as it is, for one who was told another key, is refused."""
    amazon.configure(key=f"{TRUSTED}-stranger")

    assert "Bad GPG sign" in amazon.run("dnf -y install jenkins", code=1)
    amazon.run("rpm -q jenkins", code=1)


PATHS = [
    ("/usr/share/java/jenkins.war", "644 root root"),
    ("/usr/bin/jenkins", "755 root root"),
    ("/usr/lib/systemd/system/jenkins.service", "644 root root"),
    ("/usr/share/jenkins/migrate", "755 root root"),
    ("/usr/lib/tmpfiles.d/jenkins.conf", "755 root root"),
    ("/var/lib/jenkins", "755 jenkins jenkins"),
    ("/var/cache/jenkins", "750 jenkins jenkins"),
]
ABSENT = ("/etc/default/jenkins", "/etc/sysconfig/jenkins", "/etc/init.d/jenkins", "/var/log/jenkins")


def test_the_rpm_is_installed_as_the_official_one(amazon: Amazon) -> None:
    """From the repository as it is: signed, neither enabled nor started, the files where the official rpm has them."""
    version = amazon.repository["version"]
    amazon.configure()

    amazon.run(f"dnf -y install jenkins-{version}")

    key_id = amazon.repository["fingerprint"][-16:].lower()
    assert amazon.run("rpm -q --qf '%{RSAHEADER:pgpsig}' jenkins").endswith(key_id)
    assert f"{version} 1 noarch" == amazon.run("rpm -q --qf '%{VERSION} %{RELEASE} %{ARCH}' jenkins")
    assert "Stand-in for Jenkins, not Jenkins" == amazon.run("rpm -q --qf '%{SUMMARY}' jenkins")
    assert "disabled" == amazon.run("systemctl is-enabled jenkins", code=1)
    assert "inactive" == amazon.run("systemctl is-active jenkins", code=3)
    assert "/var/lib/jenkins:/bin/false" == amazon.run("getent passwd jenkins | cut -d: -f6-")
    names = " ".join(path for path, _ in PATHS)
    assert [f"{path} {mode}" for path, mode in PATHS] == amazon.run(f"stat -c '%n %a %U %G' {names}").splitlines()
    amazon.run("; ".join(f"! test -e {path}" for path in ABSENT))


def test_it_runs_on_what_stands_in_for_corretto(amazon: Amazon) -> None:
    """With the base's Java and fonts by dnf it starts and answers; removed, it is stopped and its home stays."""
    amazon.configure()
    amazon.run("command -v java", code=1)

    amazon.run("dnf -y install java-21-amazon-corretto-headless fontconfig freetype harfbuzz jenkins")

    assert "Stands in for Amazon Corretto 21" in amazon.run("rpm -q --qf '%{SUMMARY}' java-21-amazon-corretto-headless")
    home = amazon.run("echo /usr/lib/jvm/java-21-amazon-corretto.$(uname -m)")
    assert 'version "21.' in amazon.run(f"{home}/bin/java -version")
    assert "contains" in amazon.run(f"{home}/bin/keytool -list -cacerts -storepass changeit")
    amazon.run("systemctl enable jenkins; systemctl start jenkins")
    assert amazon.repository["version"] in amazon.run("curl -sfi localhost:8080/login")

    amazon.run("dnf -y remove jenkins")

    amazon.run("pgrep java", code=1)
    amazon.run("test -s /var/lib/jenkins/secret.key")
    amazon.run("systemctl cat jenkins", code=1)


@pytest.mark.parametrize(("package", "family"), [("apache2", "debian"), ("jenkins", "suse")])
def test_nothing_stands_in_for_everything(local_ec2: LocalEc2, package: str, family: str) -> None:
    """What nothing stands in for is refused by name, with what there is."""
    with pytest.raises(ToolError) as refused:
        local_ec2.ask("stand-in", package=package, family=family)

    assert f"nothing stands in for {package} on a system of the family {family}" in refused.value.text
    assert "jenkins (debian), jenkins (redhat), java (debian)" in refused.value.hint
