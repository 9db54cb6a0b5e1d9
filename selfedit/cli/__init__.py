"""The command line: arguments in, tables or JSON out, one clear line and exit 2 on anything a user can mend.

Heavy imports stay inside the commands: `--help` must not load torch.
Exit codes: 0 done (learn: something was kept), 2 bad input, 3 nothing earned its place, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from selfedit import __version__
from selfedit.cli import memories, studies
from selfedit.cli.options import BAD_INPUT, STOPPED
from selfedit.errors import SelfeditError
from selfedit.types import as_utf8

DEFAULT_MODEL = "smollm2-135m"


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    arguments.argv = sys.argv[1:] if argv is None else list(map(str, argv))
    if odd := [
        value for value in vars(arguments).values() if isinstance(value, str) and as_utf8(value) != value
    ]:  # but for paths
        return _fail(f"{odd[0]!r}: not UTF-8")
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()  # a reader that has gone is noticed here, not while Python shuts down
        return code
    except SelfeditError as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        resumes = {"out", "sources"} & vars(arguments).keys()
        print(
            "stopped" + ("; what is finished is kept, the same command goes on from there" if resumes else ""),
            file=sys.stderr,
        )
        return STOPPED
    except (MemoryError, RuntimeError) as error:  # as torch says it, of a processor and of a GPU
        if (
            not isinstance(error, MemoryError)
            and "allocate memory" not in str(error)
            and "out of memory" not in str(error)
        ):
            raise
        return _fail(
            "the memory of this machine is not enough; fewer adapters at once, shorter texts or a smaller --model need less"
        )
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(f"{error.filename or 'the system'}: {error.strerror}")


def _fail(message: str) -> int:
    print(f"selfedit: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selfedit",
        description="A language model that learns documents into its weights: tested, versioned, reversible.",
    )
    parser.add_argument("--version", action="version", version=f"selfedit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=Path, help="memory home (default: SELFEDIT_HOME, or the XDG data folder)")
    common.add_argument("--json", action="store_true", help="print JSON for programs")
    with_model = argparse.ArgumentParser(add_help=False)
    with_model.add_argument(
        "--model", default=DEFAULT_MODEL, help="catalog name, folder, GGUF file or hub id (default: %(default)s)"
    )
    memories.add(commands, common, with_model)
    studies.add(commands, with_model)
    return parser
