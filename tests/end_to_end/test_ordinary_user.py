"""The short story as an ordinary user in the group docker: nothing of it needs root, and nothing of it is root's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ec2_fixtures import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2700)]

NAME = "bakehouse-test"
NEEDED = ("python3-venv", "mmdebstrap", "uidmap", "packer", "gnupg")


class Person:
    """Hold a user of this system with a checkout in the home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.checkout = home / "checkout"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program as that user, with nothing of our environment."""
        clean = ["env", "-i", f"HOME={self.home}", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
        argv = ["runuser", "-u", NAME, "--", *clean, *words]
        return subprocess.run(argv, cwd=self.checkout, capture_output=True, text=True, timeout=1800, check=False)

    def inv(self, *words: str) -> str:
        """Run a task, and return what it printed; fail with all that was said when it fails."""
        done = self.run("./inv", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def person() -> Iterator[Person]:
    """Make a user in the group docker with a checkout, on a system where an administrator has installed the tools."""
    if os.geteuid() != 0:
        pytest.skip("who runs this is an ordinary user, and the other tests are that user's")
    missing = [
        name for name in NEEDED if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode
    ]
    if missing:
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], check=True, capture_output=True
        )
    subprocess.run(["useradd", "--create-home", "--groups", "docker", "--key", "UID_MIN=40000", NAME], check=True)
    made = Person(Path(pwd.getpwnam(NAME).pw_dir))
    try:
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for file in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / file).exists():
                (made.checkout / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, made.checkout / file)
        subprocess.run(["chown", "-R", f"{NAME}:", str(made.checkout)], check=True)
        yield made
    finally:
        made.run("./inv", "local.reset", "--yes")
        subprocess.run(["pkill", "-KILL", "-u", NAME], check=False)
        subprocess.run(["userdel", "--remove", NAME], check=True, capture_output=True)


def test_the_short_story(person: Person) -> None:
    """Bake, launch, look and clear away; every file is the user's own, and nothing is left running."""
    before = set(theirs(Path("/tmp")))
    image = person.inv("bake", "--recipe", "nginx").strip()
    machine, url = person.inv("launch", "--recipe", "nginx").strip().split("\t")
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert (answer.status, answer.headers["Server"].partition("/")[0]) == (200, "nginx")
    person.inv("terminate", "--machine", machine, "--recipe", "nginx", "--yes")
    person.inv("retire", image, "--recipe", "nginx", "--yes")
    person.inv("local.reset", "--yes")
    assert {NAME} == set(owners(person.home).values())
    assert [] == [path for path in theirs(Path("/tmp")) if path not in before]
    assert [] == running()


def owners(folder: Path) -> dict[str, str]:
    """Return who owns each file and folder in a folder and below; what others take away meanwhile is left out."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(OSError):
                user = os.lstat(f"{place}/{name}").st_uid
                found[f"{place}/{name}"] = NAME if user == pwd.getpwnam(NAME).pw_uid else f"uid {user}"
    return found


def theirs(folder: Path) -> list[str]:
    """Return what is the user's in a folder; a user of that number may have left something there before."""
    return [path for path, owner in owners(folder).items() if owner == NAME]


def running() -> list[str]:
    """Return the command lines of the user's processes; a zombie is none, it only waits for somebody to notice."""
    told = subprocess.run(["ps", "-u", NAME, "-o", "stat=,args="], capture_output=True, text=True, check=False).stdout
    return [line for line in told.splitlines() if not line.startswith("Z")]
