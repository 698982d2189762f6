"""How the kit speaks: data on stdout and talk on stderr, with a terminal and without."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bakehouse import console
from bakehouse.errors import InputError

ROOT = Path(__file__).parent.parent


def on_a_terminal(script: str, answer: str = "", **environ: str) -> str:
    """Run a script whose three streams are a terminal and return what is seen there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", f"from bakehouse import console\n{script}"]
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    env = {**clean, "TERM": "xterm", "COLUMNS": "80", **environ}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT):
        os.close(theirs)
        os.write(ours, answer.encode())
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:  # the other side is gone
            pass
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def test_talk_and_data_keep_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads stdout gets the data alone, and square brackets are no markup."""
    console.say("baking [jenkins] on [/tmp]")
    console.data("ami-1")
    console.data_json({"image": "ami-1"})

    said = capsys.readouterr()
    assert 'ami-1\n{\n  "image": "ami-1"\n}\n' == said.out
    assert "baking [jenkins] on [/tmp]\n" == said.err


def test_steps_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A step is one plain line when it ends, with its time, and says so when it failed."""
    with console.step("make [it]"):
        pass
    with pytest.raises(ValueError, match="no"), console.step("break it"):
        raise ValueError("no")

    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"ok   make \[it\]  \d+\.\d s", first)
    assert re.fullmatch(r"FAIL break it  \d+\.\d s", second)


def test_recorded_steps() -> None:
    """Steps that end meanwhile are taken up with their times, and no others."""
    with console.recorded() as steps:
        console.finished("bake", 2.5, ok=False)
        with console.step("launch"):
            pass
    with console.step("later"):
        pass

    assert [("bake", 2.5, False), ("launch", True)] == [
        (steps[0].name, steps[0].seconds, steps[0].ok),
        (steps[1].name, steps[1].ok),
    ]
    assert steps[0].begun + 2.5 <= steps[1].begun


def test_a_step_on_a_terminal() -> None:
    """With a terminal the step is live, coloured, and ends with a mark."""
    seen = on_a_terminal("with console.step('make it'): pass")

    assert re.search(r"\x1b\[32m✓\x1b\[0m make it  \d+\.\d s\n", seen)


def test_no_color_is_honoured() -> None:
    """With NO_COLOR nothing is coloured, on a terminal either."""
    seen = on_a_terminal("with console.step('make it'): pass", NO_COLOR="1")

    assert re.search(r"[^m]✓ make it  \d+\.\d s\n", seen)
    assert "\x1b[32m" not in seen


def test_a_table_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a table is its rows, with tabs between."""
    console.table(("image", "made"), [("ami-1", "today"), ("ami-2", "")])

    assert "image\tmade\nami-1\ttoday\nami-2\t\n" == capsys.readouterr().out


def test_a_table_for_people() -> None:
    """On a terminal the columns stand under their heads."""
    seen = on_a_terminal("console.table(('image', 'made'), [('ami-1', 'today')])", NO_COLOR="1")

    assert ["image  made", "ami-1  today"] == [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in seen.splitlines()]


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False)])
def test_confirm_asks(answer: str, agreed: bool) -> None:
    """The plan is shown, and only a clear yes is one."""
    seen = on_a_terminal("print(console.confirm(['delete ami-1'], 'really?'))", answer=answer)

    assert seen.index("delete ami-1") < seen.index("really? [y/N]")
    assert seen.endswith(f"{agreed}\n")


def test_confirm_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    """--yes answers, with the plan still shown; where nobody can be asked nothing is taken for an answer."""
    assert console.confirm(["delete ami-1"], "really?", yes=True)
    assert "delete ami-1\n" == capsys.readouterr().err

    with pytest.raises(InputError) as raised:
        console.confirm(["delete ami-1"], "really?")
    assert "add --yes to do it, or --dry-run to only look" == raised.value.hint


def test_a_reader_that_has_enough() -> None:
    """A program that reads a part of the data and goes leaves no traceback."""
    code = """from bakehouse import console, endings
with endings.answering():
    console.data('x' * 1_000_000)
    console.table(['a'], [['b']])"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        told = process.stderr.read()

    assert (0, "") == (process.returncode, told)


@pytest.mark.parametrize(
    ("environ", "live", "coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"CI": "true"}, False, True),
    ],
)
def test_what_is_animated_and_coloured(environ: dict[str, str], live: bool, coloured: bool) -> None:
    """On a terminal a step shows its time while it runs; not in CI, nor on a dumb terminal."""
    seen = on_a_terminal("import time\nwith console.step('make it'): time.sleep(1.3)", **environ)

    assert live == ("0:00:01" in seen)
    assert coloured == ("\x1b[32m" in seen)
    assert "make it  1." in seen


def test_forced_colour_is_not_animated() -> None:
    """FORCE_COLOR colours what is written to a file, and draws each step once."""
    script = "from bakehouse import console\nimport time\nwith console.step('make it'): time.sleep(0.5)"
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**environ, "FORCE_COLOR": "1", "TERM": "xterm"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert 1 == done.stderr.count("make it")
    assert "\x1b[32m" in done.stderr
