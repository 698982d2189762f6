"""The docs hold what the tasks and the code are: README and each page of docs/ name what is there, and nothing else."""

from __future__ import annotations

import ast
import copy
import html
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.tasks import Task

import tasks
from bakehouse import sites, system
from bakehouse.accounts import TAG, rights
from bakehouse.images import outputs
from bakehouse.images.retention import Terms
from bakehouse.settings import ROOT
from bakehouse.tasks import SHORT, program

TASKS = sorted(tasks.ns.task_names)
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]


def task(name: str) -> Task[Any]:
    """Return the task of this name."""
    found: Task[Any] = tasks.ns[name]
    return copy.deepcopy(found)  # Invoke uses up a task's help when it reads the arguments


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_does(name: str) -> None:
    """Each task has a docstring of one sentence that fits a line of the list."""
    [line] = (task(name).__doc__ or "").strip().splitlines()

    assert line.endswith(".")
    assert 70 >= len(line)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_explains_its_flags(name: str) -> None:
    """Each flag has its help, and only the most used have a short form: it would have to stay for ever."""
    arguments = task(name).get_arguments()

    assert [] == [argument.name for argument in arguments if not argument.help]
    short = {argument.names[0]: argument.nicknames for argument in arguments if argument.nicknames}
    assert {name: (letter,) for name, letter in SHORT.items() if name in short} == short


@pytest.mark.parametrize("name", TASKS)
def test_readme_names_the_task(name: str) -> None:
    """README shows how each task is called, by its whole name."""
    assert name in re.findall(r"\./inv ([a-z.-]*[a-z])", README.read_text())


def page(path: Path) -> str:
    """Return the name of a page below the checkout."""
    return str(path.relative_to(ROOT))


def code(text: str) -> list[str]:
    """Return the code of a page: each line of its blocks, and each span."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)


def calls(path: Path) -> list[list[str]]:
    """Return the words behind each ./inv in the code of a page, without a task's bare name."""
    found = [
        shlex.split(re.split(r"[|>;)#]", call)[0].strip(" ,\t"))
        for line in code(path.read_text())
        for call in re.split(r"\./inv ", line)[1:]
    ]
    return [words for words in found if len(words) > 1 or words[0] not in TASKS]


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_every_call_is_understood(path: Path) -> None:
    """Each call of a task in README and docs has the flags and arguments that the task has."""
    own = program.CommandLine(tasks.ns).initial_context.flag_names()
    contexts = copy.deepcopy(tasks.ns).to_contexts()
    wrong = []
    for words in calls(path):
        if words[0].startswith("-"):
            wrong += [] if words[0] in own else [words]
            continue
        try:
            [context] = program.StrictParser(copy.deepcopy(contexts)).parse_argv(words)
        except (program.UsageError, ValueError) as error:
            wrong.append([*words, str(error)])
        else:
            assert words[0] == context.name

    assert [] == wrong


def test_readme_is_short() -> None:
    """README is what a newcomer needs; the rest is in docs."""
    assert 200 > len(README.read_text().splitlines())


def test_readme_groups_the_tasks_as_the_help_does() -> None:
    """The table of tasks has the groups and the order of ./inv."""
    rows = re.findall(r"^\| ([^|]*?) ?\| `\./inv ([a-z.-]+)[^|]*\| [^|]+ \|$", README.read_text(), re.MULTILINE)
    expected = [(title if name == names[0] else "", name) for title, names in program.GROUPS.items() for name in names]

    assert expected == rows


def test_readme_leads_to_every_page() -> None:
    """Each page of docs can be found from README."""
    assert [] == [page(path) for path in DOCS if f"({page(path)})" not in README.read_text()]


def test_the_picture_shows_what_readme_prints() -> None:
    """Each line of the terminal's picture is a line of what README says that the two commands print."""
    drawn = re.findall(r"<text[^>]*>(.*)</text>", (ROOT / "docs/terminal.svg").read_text())
    lines = [" ".join(html.unescape(re.sub("<[^>]*>", "", line)).split()) for line in drawn]
    printed = {" ".join(line.split()) for line in README.read_text().splitlines()}

    assert "$ ./inv bake" == lines[0]
    assert [] == [line for line in lines if line not in printed | {"$"}]


LINKING = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("roles/*/README.md"))]


@pytest.mark.parametrize("path", LINKING, ids=page)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Each relative link leads to a file or folder that is there, and to a heading in it."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?://", link):
            continue
        file, _, heading = link.partition("#")
        place = path.parent / file if file else path
        if not place.exists() or (heading and heading not in anchors(place)):
            wrong.append(link)

    assert [] == wrong


def anchors(path: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


SOURCES = "".join(
    path.read_text()
    for folder in ("bakehouse", "packer", "playbooks", "inventory", "molecule", ".config")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".hcl", ".yml")
)


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_what_is_named_is_there(path: Path) -> None:
    """Each file, tag and variable of the kit that a page names is in the checkout."""
    spans = code(path.read_text())
    folders = "bakehouse|docs|examples|inventory|molecule|packer|playbooks|roles|tests"
    optional = {"inventory/group_vars/all.yml"}  # a person may write it
    files = {span for span in spans if re.fullmatch(rf"({folders})/[\w./-]*", span)} - optional
    tags = {tag for span in spans for tag in re.findall(rf"\b{TAG}([a-z-]+)", span)} - {"jenkins"}  # a package's name
    variables = {name for span in spans for name in re.findall(r"\bBAKEHOUSE_[A-Z_]*[A-Z]", span)}

    assert [] == [file for file in sorted(files) if not (ROOT / file).exists()]
    assert [] == [tag for tag in sorted(tags) if not re.search(rf"({TAG}|TAG}}){tag}", SOURCES)]
    assert [] == [name for name in sorted(variables) if name not in SOURCES]


def test_environment_names_every_variable() -> None:
    """docs/environment.md names each variable of the person's that the kit takes, and each place of its files."""
    told = set(code((ROOT / "docs/environment.md").read_text()))
    passed = {*system._ALWAYS, *system.OUTSIDE, *system.DOCKER, *system.ANSIBLE}
    read = set(re.findall(r"environ\.get\(\"((?:BAKEHOUSE|AWS)_[A-Z_]+)\"", SOURCES))
    kept = [f".bakehouse/{kind}/ACCOUNT/" for kind in re.findall(r"\.kept\(\"(\w+)\"\)", SOURCES)]

    assert [] == sorted(name for name in passed if not {name, name.lower()} & told)
    assert {"BAKEHOUSE_ACCOUNT", "AWS_REGION"} < read
    assert [] == sorted(read - told)
    assert len(kept) == 4
    assert [] == [place for place in kept if not any(span.startswith(place) for span in told)]


def test_aws_names_each_statement() -> None:
    """docs/aws.md says of each statement of the policy what it allows."""
    told = set(code((ROOT / "docs/aws.md").read_text()))
    site = sites.load(ROOT, "company", "accounts.example.yml").everywhere

    assert [] == [one["Sid"] for one in rights.policy(site=site)["Statement"] if one["Sid"] not in told]


def test_retention_names_the_terms() -> None:
    """docs/retention.md says how many stay and how many go, as cleanup does."""
    text = (ROOT / "docs/retention.md").read_text()

    assert Terms(keep=3, days=0, limit=20, at_once=False) == Terms()
    assert "the newest three of each recipe" in text
    assert "At most 20 are deprecated and 20 deleted" in text


def test_channels_names_the_formats() -> None:
    """docs/channels.md has a row for each format of ./inv outputs."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/channels.md").read_text(), re.MULTILINE)

    assert list(outputs.FORMATS) == rows


def test_roles_names_the_scenarios() -> None:
    """docs/roles.md has a row for each scenario of Molecule."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/roles.md").read_text(), re.MULTILINE)

    assert sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")) == sorted(rows)


def test_the_stand_in_is_tested_row_by_row() -> None:
    """docs/stand-in.md names at least one test for each behaviour, and each of them is there."""
    rows = re.findall(r"^\| (.+) \| .+ \| (.+) \|$", (ROOT / "docs/stand-in.md").read_text(), re.MULTILINE)[2:]
    there = "".join((ROOT / f"tests/local/test_packages{which}.py").read_text() for which in ("", "_rpm"))
    named = {behaviour: re.findall(r"`(test_\w+)`", tests) for behaviour, tests in rows}

    assert len(rows) > 15
    assert [] == [behaviour for behaviour, tests in named.items() if not tests]
    assert [] == [test for tests in named.values() for test in tests if f"def {test}(" not in there]


def test_line_ends() -> None:
    """Every file of the checkout has the line ends that .gitattributes demands."""
    command = ["git", "ls-files", "--eol", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    odd = [line for line in told.splitlines() if re.search(r"\b[iw]/(crlf|mixed)\b", line)]
    unmarked = [line for line in told.splitlines() if "w/-text" in line and "attr/-text" not in line]

    assert [] == odd
    assert [] == unmarked


def test_every_public_name_has_a_docstring() -> None:
    """What is public in the package, the tasks and the tests says in a sentence what it is."""
    assert [] == [f"{path}: {name}" for path, name in _silent()]


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    """The list of tasks needs none of the libraries that take long to import, only Invoke."""
    line = [sys.executable, "-X", "importtime", "-m", "invoke", "--list"]
    told = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    heavy = {"ansible", "ansible_runner", "boto3", "botocore", "docker", "hcl2", "molecule", "moto", "requests", "rich"}

    assert {"invoke"} == (heavy | {"invoke"}) & set(re.findall(r"\| +(\w+)$", told, re.MULTILINE))


def _silent() -> Iterator[tuple[str, str]]:
    for path in (
        ROOT / "tasks.py",
        *ROOT.glob("bakehouse/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("inventory/*.py"),
    ):
        tree = ast.parse(path.read_text())
        if path.stat().st_size and not ast.get_docstring(tree):
            yield str(path.relative_to(ROOT)), "the module"
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith(("_", "do_", "visit_")):
                continue  # private, or a name that another library has chosen
            if not ast.get_docstring(node) and not _is_local(tree, node):
                yield str(path.relative_to(ROOT)), node.name


def _is_local(tree: ast.Module, wanted: ast.AST) -> bool:
    """Tell whether a definition is inside of a function, or of something private."""
    return any(
        wanted in ast.walk(node) and wanted is not node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.ClassDef) and node.name.startswith("_"))
    )
