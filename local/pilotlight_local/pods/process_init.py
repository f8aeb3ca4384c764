"""PID 1 of one pod: starts the container's process, keeps its log bounded, and outlives none of its children.

Run as a script by `process_pod.py` (`python -I -S process_init.py`), standard library only, so that it starts in
milliseconds. File descriptor 0 is a socket to the platform. The platform first sends one JSON line
`{"argv", "env", "cwd", "log_path", "log_limit_bytes"}`, later `term` (SIGTERM to the container) or `kill` lines;
this process answers `{"pid": n}`, and at the end `{"exit_code": n}` (128 + n for signal n).
End of file on the socket means that the platform is gone, however it went: everything below this process is killed.

It is the subreaper of its pod (prctl(2)), so a grandchild that left its process group or session still ends here.
Must not: import anything outside the standard library, decide about restarts, read its own environment.
"""

# pathlib costs more to import than all of this module.
# ruff: noqa: PTH105, PTH123, PTH208
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
READ_BYTES = 1 << 16
RESET_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


def set_process_option(option: int, value: int) -> None:
    """prctl(2); raises OSError when the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


class BoundedLog:
    """Append-only file that moves to `<name>.1` when it is full; at most twice the limit lies on disk."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        if self._size_bytes + len(data) > self._limit_bytes:
            os.close(self._fd)
            os.replace(self._path, self._path + ".1")
            self._open()
        # A full disk must not stop the pod: its log is lost, its service is not.
        with contextlib.suppress(OSError):
            self._size_bytes += os.write(self._fd, data)


def process_tree(with_zombies: bool) -> dict[int, list[int]]:
    """Children of every process by its pid."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                # The command name may hold spaces and parentheses: the fields start after the last one.
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if with_zombies or fields[0] != b"Z":
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def children(pid: int) -> list[int]:
    """Pids of the processes whose parent is `pid`, those included that nobody has waited for yet."""
    return process_tree(with_zombies=True).get(pid, [])


def descendants(pid: int) -> list[int]:
    """Pids of every live process below `pid`."""
    by_parent = process_tree(with_zombies=False)
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in by_parent.get(parent, [])]
        found += level
    return found


def kill_descendants() -> None:
    """SIGKILL until none is left: one pass may miss a child born meanwhile."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def reap(main_pid: int) -> int | None:
    """Collect every child that ended; the main process's exit code when it was among them."""
    exit_code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return exit_code
        if pid == 0:
            return exit_code
        if pid == main_pid:
            code = os.waitstatus_to_exitcode(status)
            exit_code = code if code >= 0 else 128 - code


def start_container(argv: list[str], env: dict[str, str], cwd: str, output_fd: int) -> int:
    """Fork and exec in a session of its own; an exec that fails is written to the log and exits 127."""
    parent = os.getpid()
    # An order to end may come before the child has the default handlers: it must wait for them, not be ignored.
    signal.pthread_sigmask(signal.SIG_BLOCK, RESET_SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, RESET_SIGNALS)
        return pid
    try:
        os.setsid()
        set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(137)
        signal.set_wakeup_fd(-1)
        for name in RESET_SIGNALS:
            signal.signal(name, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, RESET_SIGNALS)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        os.chdir(cwd)
        os.closerange(3, 256)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the pod's own command, no shell wanted
    except BaseException as error:
        os.write(2, f"cannot start {argv[0]!r}: {error}\n".encode())
    finally:
        os._exit(127)


def drain(fd: int, log: BoundedLog) -> bool:
    """Copy what the pipe holds now; False at its end."""
    while True:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        log.write(data)


def run(platform: socket.socket) -> int:
    """Start the pod, serve the platform's orders, return the exit code."""
    with platform.makefile("rb") as lines:
        order = json.loads(lines.readline())
    log = BoundedLog(order["log_path"], order["log_limit_bytes"])

    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_read, False)
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # The terminal's Ctrl-C goes to the platform, which ends its pods in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    output_read, output_write = os.pipe()
    main_pid = start_container(order["argv"], order["env"], order["cwd"], output_write)
    os.close(output_write)
    os.set_blocking(output_read, False)
    platform.sendall(json.dumps({"pid": main_pid}).encode() + b"\n")

    readers = [platform.fileno(), wakeup_read, output_read]
    exit_code: int | None = None
    while exit_code is None:
        ready, _, _ = select.select(readers, [], [])
        if output_read in ready and not drain(output_read, log):
            readers.remove(output_read)
        if platform.fileno() in ready:
            orders = platform.recv(READ_BYTES)
            if not orders or b"kill" in orders:
                kill_descendants()
            elif b"term" in orders:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(main_pid, signal.SIGTERM)
            if not orders:
                return 137
        if wakeup_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup_read, READ_BYTES)
            exit_code = reap(main_pid)
    kill_descendants()
    drain(output_read, log)
    with contextlib.suppress(OSError):
        platform.sendall(json.dumps({"exit_code": exit_code}).encode() + b"\n")
    return exit_code


def main() -> None:
    platform = socket.socket(fileno=0)
    # A platform that died while this process was starting is seen as end of file on the socket.
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    sys.exit(run(platform))


if __name__ == "__main__":
    main()
