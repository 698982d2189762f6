"""./inv: the way in, from a bare machine to a running task."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile import VARIABLES, home

ROOT = Path(__file__).parent.parent

PYTHON = """\
#!/bin/sh
# As much of a Python as inv asks for: it makes a venv with the same in it, has a pip, and runs the tasks.
case "$*" in
    --version) echo Python 3.12.1 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip download "*--require-hashes*)
        sleep "${DOWNLOAD_TAKES:-0}" && mkdir "${0%/bin/python}/wheels" ;;
    */tasks.py*) echo "$PWD" "$@" ;;
esac
"""

MAKING = "making .venv from requirements.lock (once, about half a minute; longer on a slow host) ..."

PROGRAMS = "sh awk cat chmod cmp cp dirname env flock grep id ln mkdir mv readlink rm sed sleep tail touch tr true"


class Checkout:
    """A checkout that has nothing but inv and a lock, on a system that has nothing but these programs."""

    def __init__(self, folder: Path, **programs: str) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.bin = folder.with_name("bin")
        self.bin.mkdir()
        for name in PROGRAMS.split():
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name, script in programs.items():
            (self.bin / name).unlink(missing_ok=True)
            (self.bin / name).write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
            (self.bin / name).chmod(0o755)
        folder.mkdir()
        shutil.copy(ROOT / "inv", folder)
        (folder / "requirements.lock").write_text("as it was\n")

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a call."""
        return {**os.environ, "PATH": str(self.bin), "PYTHONPATH": str(ROOT), **more}

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run inv to its end."""
        command = [str(self.folder / "inv"), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environ(**more), capture_output=True, text=True, timeout=600, check=False
        )

    def called(self, *arguments: str, cwd: Path | None = None) -> str:
        """Return what Python's double says when it was called as it should be."""
        return f"{' '.join([str(cwd or self.folder), str(self.folder / 'tasks.py'), *arguments])}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Give a checkout, in a folder with a space in its name, on a system with a Python."""
    return Checkout(tmp_path / "a checkout", python3=PYTHON)


def test_the_first_run_makes_the_venv_and_says_so(checkout: Checkout) -> None:
    """One line is said while the venv is made; stdout belongs to the task alone."""
    first = checkout.run("bake", "--recipe", "a")

    assert (0, checkout.called("bake", "--recipe", "a")) == (first.returncode, first.stdout)
    assert (
        "making .venv from requirements.lock (once, about half a minute; longer on a slow host) ...\n" == first.stderr
    )


def test_the_next_run_is_quiet_and_uses_what_is_there(checkout: Checkout) -> None:
    """A venv that is there is used as it is."""
    checkout.run()
    (checkout.venv / "rest").touch()

    again = checkout.run("bake")

    assert (0, checkout.called("bake"), "") == (again.returncode, again.stdout, again.stderr)
    assert (checkout.venv / "rest").exists()


@pytest.mark.parametrize("link", ["absolute", "relative", "twice"])
def test_from_anywhere_and_through_links(checkout: Checkout, tmp_path: Path, link: str) -> None:
    """The tasks are those of its own checkout, and the person's folder stays the current one."""
    script, target = tmp_path / "link", checkout.folder / "inv"
    if link == "twice":
        (tmp_path / "first").symlink_to(target)
        target = Path("first")
    script.symlink_to(os.path.relpath(target, tmp_path) if link == "relative" else target)

    done = subprocess.run(
        [script, "bake"], cwd=tmp_path, env=checkout.environ(), capture_output=True, text=True, check=True
    )

    assert checkout.called("bake", cwd=tmp_path) == done.stdout


def _change_the_lock(checkout: Checkout) -> None:
    (checkout.folder / "requirements.lock").write_text("another\n")


def _lose_the_stamp(checkout: Checkout) -> None:
    (checkout.venv / "stamp").unlink()


def _lose_the_python(checkout: Checkout) -> None:
    (checkout.venv / "bin" / "python").unlink()


def _change_the_python(checkout: Checkout) -> None:
    (checkout.venv / "bin" / "python").write_text(PYTHON.replace("3.12.1", "3.13.0"))


def _move(checkout: Checkout) -> None:
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.venv = checkout.folder / ".venv"


@pytest.mark.parametrize("change", [_change_the_lock, _lose_the_stamp, _lose_the_python, _change_the_python, _move])
def test_a_stale_or_half_made_venv_is_made_anew(checkout: Checkout, change: Callable[[Checkout], None]) -> None:
    """What the venv was made for and is no more: it is made again, from nothing."""
    checkout.run()
    (checkout.venv / "rest").touch()
    change(checkout)

    done = checkout.run()

    assert (0, checkout.called()) == (done.returncode, done.stdout)
    assert "making .venv" in done.stderr
    assert not (checkout.venv / "rest").exists()


def test_a_stale_venv_that_is_activated(checkout: Checkout) -> None:
    """A stale venv is made anew with the system's Python, also when its own comes first on PATH."""
    checkout.run()
    (checkout.venv / "bin/python3").symlink_to("python")
    (checkout.folder / "requirements.lock").write_text("changed\n")

    done = checkout.run(PATH=f"{checkout.venv / 'bin'}:{checkout.bin}")

    assert (0, checkout.called()) == (done.returncode, done.stdout), done.stderr
    assert not (checkout.venv / "bin/python3").exists()


def test_killed_in_the_middle(checkout: Checkout) -> None:
    """What a killed first run leaves is no obstacle to the next."""
    command = [str(checkout.folder / "inv")]
    with subprocess.Popen(command, env=checkout.environ(DOWNLOAD_TAKES="60"), start_new_session=True) as first:
        deadline = time.monotonic() + 100
        while not (checkout.venv / "pip.log").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)
    assert (checkout.venv / "bin" / "python").exists()

    assert checkout.called() == checkout.run().stdout


def test_two_first_runs_at_once(checkout: Checkout) -> None:
    """The second waits for the first, and both run their task."""
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: checkout.run(DOWNLOAD_TAKES="1"), range(2)))

    assert [checkout.called()] * 2 == [one.stdout for one in both]
    assert 1 == "".join(one.stderr for one in both).count("making .venv")


@pytest.mark.parametrize(
    ("programs", "hint"),
    [
        ({}, "https://www.python.org/downloads/"),
        ({"python3": "exit 1", "python3.12": "exit 1"}, "https://www.python.org/downloads/"),
        ({"dnf": ""}, "sudo dnf install python3.11"),
        ({"brew": ""}, "brew install python@3.13"),
        ({"apt-get": "", "id": "echo 1000"}, "sudo apt-get install python3-venv"),
        ({"apt-get": "", "id": "echo 1000", "sudo": "exit 1"}, "sudo apt-get install python3-venv"),
    ],
)
def test_no_python(tmp_path: Path, programs: dict[str, str], hint: str) -> None:
    """Where the kit may not install a Python it names the command that does."""
    done = Checkout(tmp_path / "checkout", **programs).run()

    said = "error: no Python 3.11 or later that can make a venv is on PATH\n"
    assert (2, "", f"{said}hint: {hint}\n") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("user", ["0", "1000"])
def test_python_comes_from_the_distribution(tmp_path: Path, user: str) -> None:
    """As root, or where sudo asks for no password, apt-get brings Python; it is told in one line."""
    apt = f'echo "$*" >>{tmp_path}/asked; case $* in *install*) mv {tmp_path}/bin/python {tmp_path}/bin/python3; esac'
    programs = {"apt-get": apt, "id": f"echo {user}", "sudo": 'shift; exec "$@"', "python": PYTHON}
    checkout = Checkout(tmp_path / "checkout", **programs)

    done = checkout.run()

    assert (0, checkout.called()) == (done.returncode, done.stdout)
    assert "installing python3-venv (it makes the kit's .venv) ..." == done.stderr.splitlines()[0]
    assert 2 == len(done.stderr.splitlines())
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends python3-venv")


def test_the_distribution_fails(tmp_path: Path) -> None:
    """When apt-get can't bring Python its last word is passed on."""
    programs = {"apt-get": "echo E: no such mirror; exit 100", "id": "echo 0"}

    done = Checkout(tmp_path / "checkout", **programs).run()

    assert 2 == done.returncode
    assert "error: python3-venv can't be installed: E: no such mirror\n" in done.stderr


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    """A python3 that is too old does not keep a newer one from being found."""
    checkout = Checkout(tmp_path / "checkout", **{"python3": "exit 1", "python3.12": PYTHON})

    assert checkout.called() == checkout.run().stdout


def test_a_venv_that_can_not_be_made(tmp_path: Path) -> None:
    """Where no venv can be made the error names it."""
    checkout = Checkout(tmp_path / "checkout", python3="[ $1 = -c ]")

    done = checkout.run()

    assert (2, "") == (done.returncode, done.stdout)
    hint = "make the checkout writable for you, and see that the disk isn't full"
    assert done.stderr.endswith(f"error: {checkout.venv} can't be made\nhint: {hint}\n")


# With a real Python and a real pip


def _lock(folder: Path) -> dict[str, str]:
    """Lock a package made beside the folder, which tasks.py runs; return what lets pip find it, and nothing else."""
    (folder / "tasks.py").write_text("import invoke\n\ninvoke.main()\n")
    index = folder.with_name("index")
    index.mkdir()
    wheel = index / "invoke-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("invoke.py", "import os, sys\ndef main():\n    print(os.getcwd(), *sys.argv)\n")
        archive.writestr("invoke-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: invoke\nVersion: 1.0\n")
        archive.writestr("invoke-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("invoke-1.0.dist-info/entry_points.txt", "[console_scripts]\ninvoke = invoke:main\n")
        archive.writestr("invoke-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.lock").write_text(f"invoke==1.0 --hash=sha256:{digest}\n")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}


def test_a_real_venv_has_what_is_locked_and_nothing_else(tmp_path: Path) -> None:
    """A tampered package is refused, naming the log; the right one is taken, compiled, and not that of PYTHONPATH."""
    checkout = Checkout(tmp_path / "a checkout", python3=f'exec {sys.executable} "$@"')
    more = _lock(checkout.folder)
    wheel = tmp_path / "index" / "invoke-1.0-py3-none-any.whl"
    content = wheel.read_bytes()
    wheel.write_bytes(content + b"tampered")

    failed = checkout.run(**more)

    assert (2, "") == (failed.returncode, failed.stdout)
    assert f"error: pip could not fill {checkout.venv}\nhint: look into {checkout.venv}/pip.log\n" in failed.stderr
    assert "DO NOT MATCH THE HASHES" in (checkout.venv / "pip.log").read_text()

    wheel.write_bytes(content)
    (tmp_path / "invoke.py").write_text("def main(): print('a stranger')")
    done = checkout.run("bake", **more, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(tmp_path))

    assert (0, checkout.called("bake")) == (done.returncode, done.stdout)
    assert 1 == len(list(checkout.venv.rglob("invoke*.pyc")))


def test_pip_takes_from_the_person_where_packages_come_from_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file or variable of pip's or Python's breaks the venv, and a package index of the person's is asked."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    checkout = Checkout(tmp_path / "a checkout", python3=f'exec {sys.executable} "$@"')
    index = _lock(checkout.folder)["PIP_FIND_LINKS"]
    pip_conf = home(tmp_path / "home") / ".config/pip/pip.conf"
    pip_conf.write_text(f"{pip_conf.read_text()}no-index = true\nfind-links =\n    {index}\n    /nowhere\n")
    hostile = {name: value for name, value in VARIABLES.items() if name.startswith(("PIP_", "PYTHON", "INVOKE_"))}

    done = checkout.run("bake", **hostile, HOME=str(tmp_path / "home"))

    assert (0, checkout.called("bake")) == (done.returncode, done.stdout), done.stderr
    assert ["invoke.py"] == [path.name for path in checkout.venv.rglob("invoke.py")]


def test_a_venv_of_another_user_is_used_or_left(checkout: Checkout) -> None:
    """Where the venv is what the lock says, another user takes it; where it isn't, they are told, and it stays."""
    checkout.run()
    os.chown(checkout.venv, 12345, 12345) if os.geteuid() == 0 else pytest.skip("only root can give a folder away")

    assert checkout.called("bake") == checkout.run("bake").stdout
    (checkout.folder / "requirements.lock").write_text("another\n")
    refused = checkout.run("bake")

    told = f"error: {checkout.venv} is another user's, and is not what requirements.lock says\n"
    assert (2, "", f"{told}hint: work in a clone of your own\n") == (refused.returncode, refused.stdout, refused.stderr)
    assert (checkout.venv / "stamp").exists()


def test_progress_is_told(checkout: Checkout) -> None:
    """On a terminal a line says how far pip is, while it runs; a second ./inv says for what it waits."""
    environ = checkout.environ(DOWNLOAD_TAKES="4", TERM="xterm")
    ours, theirs = pty.openpty()
    with subprocess.Popen([checkout.folder / "inv"], env=environ, stdout=subprocess.DEVNULL, stderr=theirs) as first:
        os.close(theirs)
        told = b""
        while b"0 of 1 packages collected, 1 s" not in told:
            told += os.read(ours, 1000)
        second = checkout.run("bake")
        assert first.wait(100) == 0
    os.close(ours)

    assert "waiting for another ./inv, which makes .venv ...\n" == second.stderr
    assert checkout.called("bake") == second.stdout


def test_completion_makes_no_venv(checkout: Checkout) -> None:
    """A shell that completes a line gets no word rather than minutes of waiting."""
    done = checkout.run("--complete", "--", "inv", "ba")

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert not checkout.venv.exists()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a folder that another user may enter: pytest's own ones are for the one who runs it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="only root can be another user")
def test_as_an_ordinary_user(open_path: Path) -> None:
    """An ordinary user without a home gets a venv of their own, and nothing is root's."""
    checkout = Checkout(open_path / "checkout", python3='exec /usr/bin/python3 "$@"')
    more = _lock(checkout.folder)
    user = 12345
    for path in (checkout.folder, *checkout.folder.iterdir()):
        os.chown(path, user, user)

    done = subprocess.run(
        [str(checkout.folder / "inv")],
        user=user,
        group=user,
        extra_groups=[],
        umask=0o077,
        cwd=checkout.folder,
        env=checkout.environ(**more, HOME="/nowhere"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, checkout.called()) == (done.returncode, done.stdout), done.stderr
    assert {user} == {path.lstat().st_uid for path in checkout.venv.rglob("*")}


# The real one


def test_the_lock_holds_everything_with_hashes_and_no_address() -> None:
    """Each package that pyproject.toml names is pinned and hashed, and the index is the person's own."""
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=;]", name)[0].lower().replace("_", "-") for name in wanted}
    pinned = re.findall(r"^([a-z0-9-]+)==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)

    assert set() == names - set(pinned)
    assert len(pinned) == len(re.findall(r"^[a-z]", lock, re.MULTILINE))
    assert "://" not in lock
    assert "--index-url" not in lock
