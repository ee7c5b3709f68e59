"""Stands between a task and the flow it runs, so that no process of the flow outlives the task.

Run as a script, with nothing imported but what Python itself brings: it must start at once. The
task holds one end of a pipe, the lifeline, and the supervisor the other. When the task ends, in
whatever way, kill -9 included, the lifeline breaks, and the supervisor stops the flow: processes
are asked first, and killed after a grace period. It does the same when it is told to end by a
signal, and with what a flow that has ended leaves behind.

On Linux this reaches every process that the flow has started, also those in sessions of their own:
they become the supervisor's children when their parents end. Elsewhere it reaches those in the
flow's process group, as a flow's steps are.

What runs elsewhere, in a container, has a command that removes it, which is run at the end unless
the flow has ended well. In the container stands a supervisor too; its lifeline is its standard
input.
"""
# pathlib takes longer to import than all the rest.
# ruff: noqa: PTH110, PTH123, PTH208

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence

LINUX = sys.platform == "linux" and os.path.exists("/proc/self/stat")


REMOVING = 20.0
"""Seconds that the removing of what runs elsewhere may take: an engine may not answer at all."""


def main(
    lifeline: int, *held: int, grace: float, command: list[str], remove: Sequence[str] = ()
) -> int:
    """Run the command until it ends or is to end; keep open what is held until nothing is left.

    Unless it ends with exit code 0, the command `remove` is run then, with that code behind it.
    Returns the exit code, or as shells do 128 and the signal's number where one has ended it.
    """
    if LINUX:
        adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    told_to_end: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told_to_end.append(number))
    for descriptor in (lifeline, *held):
        os.set_inheritable(descriptor, False)
    # A group of its own, so that a signal to it does not reach the supervisor.
    flow = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    watched = select.poll()  # select() has no room for a descriptor above 1,023
    for descriptor in (lifeline, woken):
        watched.register(descriptor, select.POLLIN)
    status: int | None = None
    while status is None and not told_to_end:
        readable = [descriptor for descriptor, _ in watched.poll()]
        if woken in readable:
            os.read(woken, 1024)
            status = reap(flow)
        if lifeline in readable:
            break
    status = end(flow, status, grace)
    code = os.waitstatus_to_exitcode(status)
    if code and remove:
        run_briefly([*remove, str(code)])
    return code if code >= 0 else 128 - code


def run_briefly(command: list[str]) -> None:
    """Run the command, for REMOVING seconds at most; a signal to end does not end it."""
    process = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    deadline = time.monotonic() + REMOVING
    while os.waitpid(process, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    with contextlib.suppress(ImportError):  # a Python that was built without
        import ctypes

        pr_set_child_subreaper = 36  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def reap(flow: int) -> int | None:
    """Let go of all children that have ended; the status of the flow, where it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == flow:
                status = ended
    return status


def end(flow: int, status: int | None, grace: float) -> int:
    """End what is left of the flow, and return its status; `status` is that of an ended one."""
    deadline = time.monotonic() + grace
    number = signal.SIGTERM
    asked: set[int] = set()
    while True:
        ended = reap(flow)
        status = ended if ended is not None else status
        left = descendants() if LINUX else [-flow] if group_is_there(flow) else []
        if not left and status is not None:
            return status
        if number == signal.SIGTERM and time.monotonic() > deadline:
            number = signal.SIGKILL
            asked.clear()
        for pid in left:
            if pid not in asked:
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        time.sleep(0.01)


def descendants() -> list[int]:
    """The processes below this one."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in processes():
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def kill_session(session: int) -> None:
    """Kill the processes of a session whose supervisor cannot end them any more; Linux only."""
    while left := [pid for pid, _, its_session in processes() if its_session == session]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def processes() -> Iterator[tuple[int, int, int]]:
    """The id, the parent and the session of each process that is not over, from /proc."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            # PID (NAME) STATE PPID GROUP SESSION: a name may hold anything, parentheses too
            state, parent, _, session = stat.read().rpartition(b")")[2].split()[:4]
            if state != b"Z":
                yield int(name), int(parent), int(session)


def group_is_there(group: int) -> bool:
    """Is any process of the group left?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, of a group in which there are zombies only
        return False
    return True


if __name__ == "__main__":
    descriptors = map(int, sys.argv[1].split(","))
    command = sys.argv[4:]
    remove = [command.pop(0) for _ in range(int(sys.argv[3]))]  # so many words
    sys.exit(main(*descriptors, grace=float(sys.argv[2]), command=command, remove=remove))
