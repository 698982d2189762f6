"""Program: the command line: what ./inv prints by itself, and what it refuses.

Invoke reads the command line and runs the tasks. By itself it takes its own flags behind any task, and settings from
files and variables of the person's. Here every word is understood or refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import invoke.parser.parser
import invoke.program
from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser import Parser
from invoke.parser.context import ParserContext

from bakehouse import __version__, endings
from bakehouse.errors import InputError

WHAT = "Bakehouse bakes machine images from Ansible roles, proves them, and puts them into service."

GROUPS = {
    "Bake": ("bake", "new-recipe", "images", "show", "diff"),
    "Prove": ("test-role", "prove"),
    "Serve": (
        *("launch", "machines", "probe", "open", "password", "ssh"),
        *("promote", "rollback", "channels", "outputs", "copy", "share", "unshare"),
    ),
    "Clear away": ("terminate", "cleanup", "revoke", "restore", "retire"),
    "The local EC2": ("local.up", "local.status", "local.env", "local.down", "local.reset"),
    "This checkout": ("doctor", "policy", "lint", "test", "bench"),
}
"""The tasks by what they are for, in the order in which they are needed."""

FURTHER = """\
./inv --help TASK shows a task's flags and examples. README.md begins with the first two commands.
./inv --print-completion-script bash (or zsh, or fish) completes these words at the press of the tab key."""

_OWN = ("complete", "help", "list", "print-completion-script", "version")  # of Invoke's flags we have these

_COMPLETIONS = {
    "bash": """\
_bakehouse() {
    local IFS=$' \\t\\n' words
    words=$("${COMP_WORDS[0]}" --complete -- inv "${COMP_WORDS[@]:1}" 2>/dev/null)
    COMPREPLY=($(compgen -W "$words" -- "$2"))
}
complete -F _bakehouse -o default inv ./inv""",
    "zsh": """\
_bakehouse() {
    local words
    read -cA words
    reply=(${(f)"$(${words[1]} --complete -- inv ${words[2,-1]} 2>/dev/null)"})
}
compctl -K _bakehouse + -f inv ./inv""",
    "fish": """\
function __bakehouse
    set --local words (commandline --tokenize --cut-at-cursor) (commandline --current-token)
    $words[1] --complete -- inv $words[2..-1] 2>/dev/null
end
complete --command inv --no-files --arguments '(__bakehouse)'""",
}
"""For each shell, the script that completes ./inv however it is called."""


class UsageError(ParseError, InputError):
    """Say that the command line is wrong, and exit with 2; Invoke's own would exit with 1, as a failed verdict does."""

    message = ""  # Invoke prints a ParseError itself; as an Exit it would print it a second time

    def __init__(self, told: str, context: ParserContext | None = None, hint: str = "") -> None:
        name = context.name if context else None
        InputError.__init__(self, told, hint or (f"./inv --help {name}" if name else "./inv --list"))
        self.context = context

    def __str__(self) -> str:
        return f"error: {self.text}\nhint: {self.hint}"


class StrictParser(Parser):
    """Read a command line, but refuse Invoke's own flags behind a task: there only ``--help`` is understood."""

    def __init__(
        self, contexts: Iterable[ParserContext] = (), initial: ParserContext | None = None, **how: Any
    ) -> None:
        super().__init__(contexts=contexts, initial=initial, **how)
        if initial and self.contexts:
            _keep_flags(initial, ("help",))

    def parse_argv(self, argv: list[str]) -> Any:
        """Return the tasks with their arguments; raises UsageError, which names the nearest word that there is."""
        try:
            return super().parse_argv(argv)
        except UsageError as error:
            raise self._explained(error) from None

    def _explained(self, error: UsageError) -> UsageError:
        context = error.context
        place = context.name if context and context.name else "./inv"
        if lacks := re.match(r"Flag <Argument: ([\w-]+).*> needed value", error.text):
            return UsageError(f"--{lacks[1]} needs a value", context)
        if lacks := re.search("did not receive required positional arguments: (.*)", error.text):
            return UsageError(f"{place} needs {lacks[1].upper()}".replace("'", ""), context)
        unknown = re.fullmatch("No idea what '(.*)' is!", error.text)
        if not unknown:
            return error
        word = unknown[1]
        known: Sequence[str] = list(self.contexts)
        told = f"there is no task {word}"
        if word.startswith("-"):
            known = context.flag_names() if context else []
            told = f"{place} has no flag {word}"
        near = nearest(word, known)
        return UsageError(told, context, f"did you mean {near}?" if near else "")


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the nearest of the known words, or those that a short flag may stand for; empty when none is near."""
    if re.fullmatch("-[A-Za-z]", word):
        return " or ".join(one for one in known if one.startswith(f"-{word.lower()}"))
    begun = [one for one in known if one.startswith(word) or word.startswith(one)]
    bare = {one.lstrip("-"): one for one in known}
    return (begun or [bare[one] for one in get_close_matches(word.lstrip("-"), bare, 1)] or [""])[0]


class NobodysConfig(Config):
    """Configure Invoke by nothing but its defaults, not by the person's files and variables."""

    def load_base_conf_files(self) -> None:
        """Read neither /etc/invoke.yaml nor ~/.invoke.yaml."""

    def load_project(self, merge: bool = True) -> None:
        """Read no invoke.yaml of the checkout."""

    def load_runtime(self, merge: bool = True) -> None:
        """Read no file that INVOKE_RUNTIME_CONFIG names."""

    def load_shell_env(self) -> None:
        """Take no INVOKE_* variable."""


class CommandLine(invoke.program.Program):
    """Run the tasks of a namespace from the command line."""

    def __init__(self, namespace: Collection) -> None:
        super().__init__(
            version=__version__, namespace=namespace, name="Bakehouse", binary="./inv", config_class=NobodysConfig
        )

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:  # noqa: A002, as Invoke calls it
        """Run the tasks of a command line, and exit with their code."""
        with endings.answering():
            super().run(argv, exit)

    @property
    def initial_context(self) -> ParserContext:
        """Return the flags that are understood before a task."""
        return _keep_flags(super().initial_context, _OWN)

    def _make_parser(self) -> Parser:
        if self.args.complete.value:  # whose words may be flags of ./inv too
            return Parser(self.collection.to_contexts(), self.initial_context)
        parser: Parser = super()._make_parser()
        return parser

    def parse_core_args(self) -> None:
        """Read the flags before the first task; print the script of a shell's completion if it is asked for."""
        super().parse_core_args()
        shell = self.args["print-completion-script"].value
        if shell:
            if shell not in _COMPLETIONS:
                raise UsageError(f"there is no completion for {shell}", hint=f"known: {', '.join(_COMPLETIONS)}")
            _tell(_COMPLETIONS[shell])
            raise Exit

    @property
    def binary_names(self) -> list[str]:
        """Return the word that the scripts of completion put before the person's words."""
        return ["inv"]

    def print_version(self) -> None:
        """Print the versions of Bakehouse and of the programs that it runs."""
        from bakehouse import packers, settings, tools

        _tell(f"Bakehouse {__version__}")
        for row in [*packers.rows(settings.load().state), *tools.doctor()]:
            _tell(f"{row.tool} {row.found}")

    def parse_cleanup(self) -> None:
        """Answer flags such as --help; raises UsageError when help is asked for a task that isn't there."""
        asked = self.args.help.value
        if isinstance(asked, str) and asked not in self.parser.contexts:
            near = nearest(asked, list(self.parser.contexts))
            raise UsageError(f"there is no task {asked}", hint=f"did you mean {near}?" if near else "")
        super().parse_cleanup()

    def print_help(self) -> None:
        """Print what Bakehouse is, its tasks by what they are for, and where to go on."""
        _tell(f"{WHAT}\n\nUsage: ./inv TASK [FLAGS]\n")
        self.list_tasks()
        _tell(FURTHER)

    def list_tasks(self) -> None:
        """Print the tasks by what they are for."""
        width = max(len(name) for names in GROUPS.values() for name in names)
        for title, names in GROUPS.items():
            _tell(f"{title}:")
            for name in names:
                _tell(f"  {name:{width}}  {self.collection[name].__doc__}")
            _tell("")

    def print_task_help(self, name: str) -> None:
        """Print what a task does, examples, and its flags."""
        context, task = self.parser.contexts[name], self.collection[name]
        arguments = "".join(f" {argument.name.upper()}" for argument in context.positional_args)
        _tell(f"Usage: ./inv {name}{arguments}{' [FLAGS]' if context.flags else ''}\n\n{task.__doc__}\n")
        _tell("Examples:")
        for example in task.examples:
            _tell(f"  ./inv {name}{' ' if example else ''}{example}")
        _tell("")
        if context.flags:
            _tell("Flags:")
            self.print_columns(context.help_tuples())


def strict() -> None:
    """Make Invoke refuse what it doesn't understand, also where it is started by its own command."""
    setattr(invoke.parser.parser, "ParseError", UsageError)  # noqa: B010, because mypy refuses the assignment
    setattr(invoke.program, "Parser", StrictParser)  # noqa: B010


def _tell(text: str) -> None:
    # console.data does this too, but it takes long to import.
    sys.stdout.write(f"{text}\n")


def _keep_flags(context: ParserContext, names: Sequence[str]) -> ParserContext:
    """Return a context of flags in which only the arguments of these names can be given."""
    flags: Any = context.flags
    for flag in set(flags) - {f"--{name}" for name in names}:
        for alias in flags.aliases_of(flag):
            flags.unalias(alias)
        del flags[flag]
    return context
