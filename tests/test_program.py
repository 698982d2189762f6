"""The command line: every word is understood, or refused with the nearest that there is."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from hostile import VARIABLES, home
from invoke.parser.context import ParserContext
from task_fixtures import Run

import tasks
from bakehouse.settings import ROOT
from bakehouse.tasks import SHORT, program

TASKS = sorted(tasks.ns.task_names)


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("terminate --machine i-1 --dry --yes", "terminate has no flag --dry", "did you mean --dry-run?"),
        ("launch -c 2", "launch has no flag -c", "did you mean --channel or --count?"),
        ("bake -e", "bake has no flag -e", "did you mean --extra-vars?"),
        ("bake --echo", "bake has no flag --echo", "./inv --help bake"),
        ("bake -d", "bake has no flag -d", "did you mean --debug?"),
        ("bake -p", "bake has no flag -p", "did you mean --plan or --prove?"),
        ("probe -w", "probe has no flag -w", "./inv --help probe"),
        ("terminate --all -R", "terminate has no flag -R", "did you mean --recipe?"),
        ("cleanup --hide out", "cleanup has no flag --hide", "./inv --help cleanup"),
        ("cleanup --config x", "cleanup has no flag --config", "./inv --help cleanup"),
        ("bake --recip nginx", "bake has no flag --recip", "did you mean --recipe?"),
        ("bake --recipes=nginx", "bake has no flag --recipes", "did you mean --recipe?"),
        ("bake --recipe", "--recipe needs a value", "./inv --help bake"),
        ("copy", "copy needs IMAGE, REGION", "./inv --help copy"),
        ("lanch", "there is no task lanch", "did you mean launch?"),
        ("bake nginx", "there is no task nginx", "./inv --help bake"),
        ("local", "there is no task local", "did you mean local.up?"),
        ("--help lanch", "there is no task lanch", "did you mean launch?"),
        ("--debug bake", "./inv has no flag --debug", "./inv --list"),
        ("-c other bake", "./inv has no flag -c", "./inv --list"),
        ("--print-completion-script tcsh", "there is no completion for tcsh", "known: bash, zsh, fish"),
    ],
)
def test_refused(run_task: Run, tmp_path: Path, line: str, error: str, hint: str) -> None:
    """What no task has, Invoke's own flags included, is one line with exit code 2, and nothing is done."""
    told = run_task(tmp_path, os.environ, *shlex.split(line))

    assert (2, "", f"error: {error}\nhint: {hint}\n") == (told.returncode, told.stdout, told.stderr)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TASKS)
def test_examples(name: str) -> None:
    """The examples that a task's help shows are understood."""
    for example in tasks.ns[name].examples:
        context = program.StrictParser(tasks_contexts()).parse_argv([name, *shlex.split(example)])
        assert [name] == [one.name for one in context], example


def tasks_contexts() -> list[ParserContext]:
    """Return what the parser knows of each task."""
    return list(copy.deepcopy(tasks.ns).to_contexts())


def test_every_task_is_in_one_group() -> None:
    """The help names each task once, by what it is for."""
    assert TASKS == sorted(name for names in program.GROUPS.values() for name in names)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help(run_task: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Without a word ./inv says in a line what it is, then its tasks, then where to go on."""
    told = run_task(tmp_path, os.environ, *words)

    first, *_, list_ = told.stdout.split("\n\n")[0], told.stdout
    assert (0, "", program.WHAT) == (told.returncode, told.stderr, first)
    assert [f"{title}:" for title in program.GROUPS] == [line for line in list_.splitlines() if line.endswith(":")]
    assert "  bake          Bake an image of the recipe, if one is due, and print its ID.\n" in list_
    assert list_.endswith(f"{program.FURTHER}\n")
    assert {line for line in list_.splitlines() if len(line) > 105} == set()


@pytest.mark.parametrize("words", [("--help", "terminate"), ("terminate", "--help"), ("terminate", "-h")])
def test_help_of_a_task(run_task: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """The help of a task shows what it does, examples, and its flags with their short forms."""
    told = run_task(tmp_path, os.environ, *words)

    assert (0, "") == (told.returncode, told.stderr)
    assert told.stdout.startswith("Usage: ./inv terminate [FLAGS]\n\nTerminate a machine, or all machines")
    assert "Examples:\n  ./inv terminate --machine i-0a1b2c3d4e5f60718\n" in told.stdout
    for short, flag in (("a", "account"), ("r", "recipe"), ("n", "dry-run"), ("y", "yes")):
        assert SHORT[flag] == short
        assert f"  -{short}" in told.stdout


def test_version(run_task: Run, tmp_path: Path) -> None:
    """--version says Bakehouse's version and those of the programs that it runs."""
    told = run_task(tmp_path, os.environ, "--version")

    assert (0, "Bakehouse ") == (told.returncode, told.stdout[:10])
    assert ["packer", "packer", "docker", "ansible-playbook"] == [
        line.split()[0] for line in told.stdout.splitlines() if line.startswith(("packer", "docker 2", "ansible"))
    ]


def inv(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ./inv itself."""
    return subprocess.run(
        [ROOT / "inv", *words], cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )


def test_nothing_of_invokes_or_pythons_reaches_it(tmp_path: Path) -> None:
    """With every hostile variable and file ./inv prints what it prints without: its words are its own."""
    expected = inv("--help", "bake")
    told = inv("--help", "bake", **VARIABLES, HOME=str(home(tmp_path)))

    assert (0, expected.stdout, expected.stderr) == (told.returncode, told.stdout, told.stderr)


SHELLS = {
    "bash": ("--norc --noprofile -i", "source <(./inv --print-completion-script bash)"),
    "zsh": ("-f -i", "source <(./inv --print-completion-script zsh)"),
    "fish": ("--no-config", "./inv --print-completion-script fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str, tmp_path: Path) -> None:
    """In the shell itself, on a terminal, the tab key completes a task, and a flag of it."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} isn't here")
    options, source = SHELLS[shell]
    environ = {**os.environ, "TERM": "dumb" if shell == "zsh" else "xterm", "HOME": str(tmp_path), "PS1": "> "}
    terminal = pexpect.spawn(shell, options.split(), cwd=str(ROOT), env=environ, encoding="utf-8", timeout=30)
    terminal.sendline(f"{source}; echo read''y")
    terminal.expect("ready")
    for typed, completed in (("./inv ba", "./inv bake"), ("./inv bake --pro", "./inv bake --prove")):
        terminal.send(f"{typed}\t")
        terminal.expect(completed.removeprefix(typed))
        terminal.send("\x01echo it is: \r")  # the completed line is not run
        terminal.expect(f"it is: {completed}")
    terminal.close(force=True)


def test_completion_starts_nothing(tmp_path: Path) -> None:
    """A word is completed without any of the heavy libraries, and without the local EC2."""
    environ = {**os.environ, "BAKEHOUSE_STATE": str(tmp_path / "state")}
    line = [sys.executable, "-X", "importtime", "tasks.py", "--complete", "--", "inv", "bake", "--"]
    done = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)

    assert "--recipe" in done.stdout.split()
    assert "boto3" not in done.stderr
    assert not (tmp_path / "state").exists()
