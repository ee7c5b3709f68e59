"""Stands between a task and its flow, so that no process of the flow outlives the task.

It runs as a script with the standard library alone, because it must start at once. The task holds
one end of a pipe, the lifeline, and the supervisor holds the other. However the task ends, even by
kill -9, the lifeline breaks. The supervisor then stops the flow: it asks the processes to stop,
and kills them after a grace period. It does the same when a signal asks it to stop, and with the
processes that a flow leaves behind when it ends.

On Linux this reaches every process that the flow has started, also in other sessions: a process
becomes the supervisor's child when its own parent ends. Elsewhere it reaches the flow's process
group, which includes the flow's steps.

Processes in a container are out of reach. For them there is a command that removes the container,
called at the end unless the flow has succeeded, and a second supervisor in the container, whose
lifeline is its standard input.
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
"""Seconds for the command that removes a container: an engine may not answer at all."""


def main(
    lifeline: int, *held: int, grace: float, command: list[str], remove: Sequence[str] = ()
) -> int:
    """Run the command until it ends or must stop; keep `held` open until its processes are gone.

    Unless the exit code is 0, the command `remove` is then called with it. Returns the exit code,
    or as shells do 128 plus the number of the signal that ended the command.
    """
    if LINUX:
        adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    stop_signals: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: stop_signals.append(number))
    for descriptor in (lifeline, *held):
        os.set_inheritable(descriptor, False)
    # In its own process group, so that a signal to the group does not reach the supervisor.
    flow = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    watched = select.poll()  # select() cannot watch a descriptor above 1,023
    for descriptor in (lifeline, woken):
        watched.register(descriptor, select.POLLIN)
    status: int | None = None
    while status is None and not stop_signals:
        readable = [descriptor for descriptor, _ in watched.poll()]
        if woken in readable:
            os.read(woken, 1024)
            status = reap(flow)
        if lifeline in readable:
            break
    status = stop(flow, status, grace)
    code = os.waitstatus_to_exitcode(status)
    if code and remove:
        run_briefly([*remove, str(code)])
    return code if code >= 0 else 128 - code


def run_briefly(command: list[str]) -> None:
    """Run the command, for REMOVING seconds at most; stop signals do not end it."""
    process = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    deadline = time.monotonic() + REMOVING
    while os.waitpid(process, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    with contextlib.suppress(ImportError):  # a Python that was built without ctypes
        import ctypes

        pr_set_child_subreaper = 36  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def reap(flow: int) -> int | None:
    """Collect all children that have ended; return the flow's status if it is one of them."""
    flow_status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == flow:
                flow_status = status
    return flow_status


def stop(flow: int, status: int | None, grace: float) -> int:
    """Stop all processes of the flow, and return its status; `status` is not None if it ended."""
    deadline = time.monotonic() + grace
    number = signal.SIGTERM
    signalled: set[int] = set()
    while True:
        ended = reap(flow)
        status = ended if ended is not None else status
        alive = descendants() if LINUX else [-flow] if group_exists(flow) else []
        if not alive and status is not None:
            return status
        if number == signal.SIGTERM and time.monotonic() > deadline:
            number = signal.SIGKILL
            signalled.clear()
        for pid in alive:
            if pid not in signalled:
                signalled.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        time.sleep(0.01)


def descendants() -> list[int]:
    """The processes below this one."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in processes():
        children.setdefault(parent, []).append(pid)
    family = [os.getpid()]
    for pid in family:
        family += children.get(pid, [])
    return family[1:]


def kill_session(session: int) -> None:
    """Kill the processes of a session whose supervisor was killed; Linux only."""
    while alive := [pid for pid, _, pid_session in processes() if pid_session == session]:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def processes() -> Iterator[tuple[int, int, int]]:
    """The id, parent and session of each process that has not ended, from /proc."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            # PID (NAME) STATE PPID GROUP SESSION: a name may contain anything, even parentheses
            state, parent, _, session = stat.read().rpartition(b")")[2].split()[:4]
            if state != b"Z":
                yield int(name), int(parent), int(session)


def group_exists(group: int) -> bool:
    """True if any process of the group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, for a group that has only zombies
        return False
    return True


if __name__ == "__main__":
    descriptors = map(int, sys.argv[1].split(","))
    command = sys.argv[4:]
    remove = [command.pop(0) for _ in range(int(sys.argv[3]))]  # the first words, by their number
    sys.exit(main(*descriptors, grace=float(sys.argv[2]), command=command, remove=remove))
