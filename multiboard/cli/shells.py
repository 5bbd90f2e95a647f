# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a shell and ``man`` are told of the command: made from the parsers, so that it is right."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cliff.command import Command

#: What the command is for.
DESCRIPTION = "Look at job boards on any store, act on them, work on them, and see one work."


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    flags: Sequence[str]
    help: str
    #: What its value is called; None for one that takes none.
    value: str | None
    choices: Sequence[str]


@dataclass(frozen=True)
class Described:
    """A command, as its parser has it."""

    name: str
    summary: str
    description: str
    usage: str
    options: Sequence[Option]
    #: The words that it takes, each with its meaning.
    words: Sequence[tuple[str, str]]


def described(app: Any) -> list[Described]:
    """Return all commands of the application, sorted by name."""
    found = []
    for name, factory in sorted(app.command_manager):
        command = factory.load()(app, None, cmd_name=name)
        parser = command.get_parser(f"{app.NAME} {name}")
        text = command.get_description() or ""
        plain = [action for action in parser._actions if not action.option_strings]
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        found.append(
            Described(
                name,
                text.strip().splitlines()[0] if text.strip() else "",
                "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n")),
                usage,
                list(_options(parser)),
                [(str(action.metavar or action.dest), _help(action)) for action in plain],
            )
        )
    return found


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            value = None
            if action.nargs != 0:
                value = str(action.metavar or action.dest.upper()).strip("<>")
            choices = [str(choice) for choice in action.choices or ()]
            yield Option(list(action.option_strings), _help(action), value, choices)


def _help(action: argparse.Action) -> str:
    return " ".join((action.help or "").replace("%%", "%").split())


# -- completion ------------------------------------------------------------------------------------


def bash(name: str, commands: Sequence[Described]) -> str:
    """Return what bash completes the command by."""
    lines = [
        f"# bash completion of {name}: put it into your .bashrc, or among bash-completion's files.",
        f"_{name}() {{",
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}",
        "    local command= known= word",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        "        case $word in",
        "            -*) ;;",
        '            *) command="${command:+$command }$word"',
        f"               case $command in {_of_two(commands)}) ;; *) break ;; esac ;;",
        "        esac",
        "    done",
        '    case "$command $previous" in',
    ]
    for command in commands:
        for option in command.options:
            at = "|".join(_quoted(f"{command.name} {flag}") for flag in option.flags)
            if option.choices:
                lines.append(f"        {at}) known={_quoted(' '.join(option.choices))} ;;")
            elif option.value is not None:
                lines.append(f"        {at}) return ;;  # the shell's own, as for a file")
    lines += ["    esac", '    if [ -z "$known" ]; then', "        case $command in"]
    for start, seconds in _starts(commands):
        lines.append(f"            {_quoted(start)}) known={_quoted(' '.join(seconds))} ;;")
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        lines.append(f"            {_quoted(command.name)}) known={_quoted(flags)} ;;")
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$known" -- "$current"))',
        "}",
        f"complete -o default -F _{name} {name}",
    ]
    return "\n".join(lines) + "\n"


def _starts(commands: Sequence[Described]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what may follow nothing, and the first word of a command of two."""
    yield "", [*sorted({c.name.split()[0] for c in commands}), "--help", "--version"]
    for first in sorted({c.name.split()[0] for c in commands if " " in c.name}):
        yield first, [c.name.split()[1] for c in commands if c.name.startswith(f"{first} ")]


def _of_two(commands: Sequence[Described]) -> str:
    return "|".join(sorted({c.name.split()[0] for c in commands if " " in c.name}))


def zsh(name: str, commands: Sequence[Described]) -> str:
    """Return what zsh completes the command by."""
    lines = [
        f"#compdef {name}",
        f"_{name}() {{",
        "    local -a known",
        "    local command=$words[2]",
        f'    case $command in {_of_two(commands)}) command+=" $words[3]" ;; esac',
        "    if (( CURRENT == 2 )); then",
        "        known=(",
    ]
    seen = set()
    for command in commands:
        first = command.name.split()[0]
        if first not in seen:
            seen.add(first)
            lines.append(f"            {_quoted(f'{first}:{_plain(command.summary)}')}")
    lines += ["        )", "        _describe command known", "        return", "    fi"]
    for first, seconds in list(_starts(commands))[1:]:
        lines += [
            f"    if (( CURRENT == 3 )) && [[ $words[2] == {first} ]]; then",
            f"        compadd {' '.join(seconds)}",
            "        return",
            "    fi",
        ]
    lines.append("    case $command in")
    for command in commands:
        lines.append(f"        {_quoted(command.name)})")
        lines.append("            _arguments \\")
        for option in command.options:
            what = ""
            if option.value is not None:
                choices = f"({' '.join(option.choices)})" if option.choices else "_files"
                what = f":{_plain(option.value)}:{choices}"
            for flag in option.flags:
                spec = f"*{flag}[{_plain(option.help)}]{what}"
                lines.append(f"                {_quoted(spec)} \\")
        lines.append("                '*:word:_files' ;;")
    lines += ["    esac", "}", f'_{name} "$@"']
    return "\n".join(lines) + "\n"


def fish(name: str, commands: Sequence[Described]) -> str:
    """Return what fish completes the command by."""
    lines = [f"# fish completion of {name}", f"complete -c {name} -f"]
    firsts: dict[str, str] = {}
    for command in commands:
        firsts.setdefault(command.name.split()[0], command.summary)
    for first, summary in firsts.items():
        lines.append(f"complete -c {name} -n __fish_use_subcommand -a {first} -d {_fish(summary)}")
    for first, seconds in list(_starts(commands))[1:]:
        at = f"__fish_seen_subcommand_from {first}; and not __fish_seen_subcommand_from"
        at += " " + " ".join(seconds)
        lines.append(f"complete -c {name} -n {_fish(at)} -a {_fish(' '.join(seconds))}")
    for command in commands:
        at = f"__fish_seen_subcommand_from {command.name.split()[0]}"
        for option in command.options:
            words = [f"complete -c {name} -n {_fish(at)}"]
            for flag in option.flags:
                words.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
            if option.choices:
                words.append(f"-x -a {_fish(' '.join(option.choices))}")
            elif option.value is not None:
                words.append("-r -F")
            words.append(f"-d {_fish(option.help)}")
            lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(text: str) -> str:
    """Return a text for zsh's specifications, where brackets and colons mean something."""
    return "".join(f"\\{mark}" if mark in "[]:\\" else mark for mark in text)


SHELLS = {"bash": bash, "fish": fish, "zsh": zsh}


class Completion(Command):
    """Print what completes this command in a shell: source <(multiboard completion bash)."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "shell", choices=sorted(SHELLS), metavar="SHELL", help="bash, fish or zsh"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        self.app.stdout.write(SHELLS[parsed_args.shell](self.app.NAME, described(self.app)))
        return 0


# -- the manual ------------------------------------------------------------------------------------

_STATUSES = (
    ("0", "it was done; for health --check: all is well"),
    ("1", "an error, in one line on the error output; for health --check: not reachable"),
    ("2", "the command line can't be used, or there is nobody to ask and no --yes"),
    ("3", "health --check: a limit is passed"),
    ("4", "conductor run: it was told to stop, and jobs under way were handed back"),
    ("130", "Ctrl-C"),
)


def manual(name: str, summary: str, commands: Sequence[Described]) -> str:
    """Return the manual page, for man."""
    version = importlib.metadata.version("multiboard")
    lines = [
        f'.TH {name.upper()} 1 "" "{name} {version}"',
        ".SH NAME",
        f"{name} \\- {_roff(summary[:1].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {name}\n.RI [ options ]\n.I command\n.RI [ words ...]",
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += [f".SS {_roff(command.name)}", _roff(command.usage)]
        lines += [f".PP\n{_roff(part)}" for part in command.description.split("\n\n") if part]
        for word, text in command.words:
            lines += [".TP", f".I {_roff(word)}", _roff(text) or "\\&"]
        for option in command.options:
            flags = ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in option.flags)
            value = "" if option.value is None else f" \\fI{_roff(option.value)}\\fR"
            choices = f" One of: {', '.join(option.choices)}." if option.choices else ""
            lines += [".TP", flags + value, _roff(option.help + choices) or "\\&"]
    lines += [
        ".SH ENVIRONMENT",
        ".TP\n.B MULTIBOARD_URL\nthe store, where a command line does not name it",
        ".TP\n.B COLUMNS\nhow wide a table may be",
        ".TP\n.B NOTIFY_SOCKET\nwhere conductor run reports that it is ready, and that it stops",
        ".SH EXIT STATUS",
    ]
    for status, meaning in _STATUSES:
        lines += [".TP", f".B {status}", _roff(meaning)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Return a text as roff shows it."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


class Manual(Command):
    """Print the manual page of this command: multiboard man | man -l -."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        self.app.stdout.write(manual(self.app.NAME, DESCRIPTION, described(self.app)))
        return 0
