"""The command line: arguments in, tables or JSON out, and one clear line and exit code 2 for what a user can correct.

Heavy imports stay inside the commands: `--help` must not load torch.
Exit codes: 0 done (learn: something was kept), 1 code that was run failed (`code --run`), 2 bad input, 3 nothing was
kept, 130 stopped or declined by the user.
"""

from __future__ import annotations

import argparse
import sys

from selfedit import __version__, thread_waiting
from selfedit.cli import code, memories, studies, talk, watch
from selfedit.cli.options import BAD_INPUT, STOPPED, Parser, add_backend, add_json, path
from selfedit.errors import SelfeditError
from selfedit.terminal import flush, note, one_line, prepare_streams
from selfedit.types import as_utf8

DEFAULT_MODEL = "smollm2-135m"
EARLY = {"--home": 2, "--model": 2, "--backend": 2, "--json": 1}
"""Options that may stand before the command, and how many arguments they are."""


def main(argv: list[str] | None = None) -> int:
    prepare_streams()
    code = _run(sys.argv[1:] if argv is None else [str(argument) for argument in argv])
    fault = flush(sys.stdout)
    if fault and not isinstance(fault, BrokenPipeError):  # a reader that has gone is no fault
        code = _fail(f"cannot write the output: {fault.strerror}")
    flush(sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    arguments = argparse.Namespace()
    try:
        argv = _command_first(argv)
        _parser().parse_args(argv, arguments)
        arguments.argv = argv
        for value in vars(arguments).values():
            if isinstance(value, str) and as_utf8(value) != value:  # a Path may be in any encoding
                raise SelfeditError(f"{value!r} is not UTF-8; give text in UTF-8")
        if getattr(arguments, "out", None):
            from selfedit.disk import check_writable

            check_writable(arguments.out, "--out")
        if "torch" not in sys.modules:  # torch reads how its threads wait when it is imported
            thread_waiting.choose_by_load()
        return arguments.run(arguments)
    except SystemExit as end:  # of --help and --version
        return int(end.code or 0)
    except SelfeditError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        resumes = {"out", "sources", "lock"} & vars(arguments).keys()
        note("stopped" + ("; finished work is kept, and the same command continues from there" if resumes else ""))
        return STOPPED
    except (MemoryError, RuntimeError) as error:  # torch reports a lack of memory, of a CPU or a GPU, as RuntimeError
        if not isinstance(error, MemoryError) and not any(
            phrase in str(error) for phrase in ("allocate memory", "out of memory")
        ):
            raise
        return _fail(
            "this machine has too little memory; use fewer adapters at once, shorter texts or a smaller --model"
        )
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(f"{error.filename or 'the system'}: {error.strerror}")


def _command_first(argv: list[str]) -> list[str]:
    """`--home X chat …` → `chat … --home X`. An option behind the command counts more than one before it."""
    early, command = [], argv
    while command and (name := command[0].partition("=")[0]) in EARLY:
        count = 1 if "=" in command[0] else EARLY[name]
        early.append((name, command[:count]))
        command = command[count:]
    name = command[0].partition("=")[0] if command else ""
    if name.startswith("--") and not ("--help".startswith(name) or "--version".startswith(name)):
        raise SelfeditError(f"{name} comes behind the command: selfedit COMMAND {name} …; see `selfedit --help`")
    given = {argument.partition("=")[0] for argument in command}
    added = [part for name, parts in early if name not in given for part in parts]
    at = command.index("--") if "--" in command else len(command)
    return [*command[:at], *added, *command[at:]] if command else []


def _fail(message: str) -> int:
    note(f"selfedit: {one_line(message)}")
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="selfedit",
        description="A language model that learns documents into its weights: tested, versioned, reversible.",
    )
    parser.add_argument("--version", action="version", version=f"selfedit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    common = Parser(add_help=False)
    common.add_argument("--home", type=path, help="memory home (default: SELFEDIT_HOME, or the XDG data folder)")
    add_json(common)
    with_model = Parser(add_help=False)
    with_model.add_argument("--model", default=DEFAULT_MODEL, help="catalog name, folder, GGUF file or hub id")
    with_backend = Parser(add_help=False, parents=[with_model])
    add_backend(with_backend)
    memories.add(commands, common, with_backend)
    watch.add(commands, common, with_backend)
    code.add(commands, common, with_backend)
    talk.add(commands, common, with_backend)
    studies.add(commands, with_model, with_backend)
    return parser
