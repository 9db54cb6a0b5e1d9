"""Process 1 of a sandbox (`selfedit.sandbox`): sets the limits, runs the program in a child, and ends with it.

Its text is passed to the interpreter of the library, so it imports nothing but the standard library, and as little as
possible. Arguments: the descriptors of the program and of the report, then the limits.

Whether the program reached its end is written to the report, after the random token that precedes the program. The exit
status does not tell it: `os._exit(0)` is no success. What this file needs after the program is copied before it,
because the program may replace it.
"""

import builtins
import os
import resource
import select
import sys
from _thread import start_new_thread
from contextlib import suppress
from types import ModuleType

__builtins__ = dict(vars(builtins))  # for the functions below
NAME = "<program>"
LONGEST_TRACEBACK = 8_000


def limit(seconds: int, memory: int, disk: int, processes: int) -> None:
    """Sets hard limits, which the program cannot raise."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: disk,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, most in limits.items():
        current = resource.getrlimit(kind)[1]
        most = most if current == resource.RLIM_INFINITY else min(most, current - (kind == resource.RLIMIT_CPU))
        resource.setrlimit(kind, (most, most + (kind == resource.RLIMIT_CPU)))  # a signal first, a second later the end


def run(source_file: int, report_file: int, write=os.write, leave=os._exit, process_id=os.getpid) -> None:
    """Runs the program as `__main__`, reports how it ended, and ends the process."""
    with open(source_file, "rb") as file:
        token = file.readline()
        source = file.read()
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__builtins__, sys.argv[:] = builtins, [NAME]
    process, report = process_id(), b"passed"
    try:
        exec(compile(source, NAME, "exec"), main.__dict__)
    except SystemExit:
        report = b"stopped\nexited before its end"
    except BaseException as error:
        report = b"failed\nraised an exception that cannot be shown"
        with suppress(BaseException):
            report = description(error, source)
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(BaseException):
            stream.flush()
    if process_id() == process:  # not a copy that the program made of itself
        write(report_file, token + report)
    leave(0)


def description(error: BaseException, source: bytes) -> bytes:
    """How the program ended, in one word; the line of the traceback that names the error; the traceback."""
    import linecache
    import traceback

    if isinstance(error, MemoryError):
        return b"memory\n"
    lines = source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[NAME] = (len(source), None, lines, NAME)
    error.__traceback__ = error.__traceback__.tb_next  # without this file
    shown = traceback.TracebackException.from_exception(error, limit=-20)
    first, *_, last = 2 * [*shown.format_exception_only()]
    line = (last if isinstance(error, SyntaxError) else first).strip().partition("\n")[0]
    refused = isinstance(error, BlockingIOError) or line == "RuntimeError: can't start new thread"
    whole = "".join(shown.format())[-LONGEST_TRACEBACK:]
    return f"{'processes' if refused else 'failed'}\n{line[:500]}\n{whole}".encode(errors="replace")


def end_with_the_reader(report_file: int) -> None:
    """Ends everything when nobody reads the report any more: the parent was killed. Its death sends no signal to
    processes of another user."""
    poll = select.poll()
    poll.register(report_file, 0)  # errors only
    poll.poll()
    os._exit(1)


def main() -> None:
    source_file, report_file, *limits = map(int, sys.argv[1:])
    limit(*limits)
    os.write(report_file, b"started\n")
    program = os.fork()
    if not program:
        run(source_file, report_file)
    os.close(source_file)
    start_new_thread(end_with_the_reader, (report_file,))
    while True:
        ended, status = os.wait()  # as process 1 also for processes whose parents have ended
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
