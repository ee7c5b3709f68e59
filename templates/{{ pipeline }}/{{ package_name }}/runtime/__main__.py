"""`python -m PACKAGE.runtime run|image|python|status|clean …`: the commands that nox starts."""

from __future__ import annotations

import configparser
import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from importlib import import_module
from typing import NoReturn

from .console import as_called, printable, reader_may_leave
from .errors import PipelineError, did_you_mean

COMMANDS = {
    "run": "run a pipeline or a flow",
    "image": "build the Docker image of a flow",
    "python": "start Python with a flow's own packages",
    "status": "show the state of the repo and the last runs",
    "clean": "delete old runs, overlays and images",
}

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names, and return its exit code.

    2 is for a user's mistake, 130 for a stop by Ctrl-C, SIGTERM or SIGHUP.
    """
    name, *options = arguments or ["--help"]
    if name not in COMMANDS:
        usage = [f"usage: python -m {__package__} COMMAND …", ""]
        usage += [f"  {command:<8}{what}" for command, what in COMMANDS.items()]
        if name in ("--help", "-h") and arguments:
            print(*usage, sep="\n")
            return 0
        if arguments:
            usage[:0] = [f"there is no command {name!r}{did_you_mean(name, COMMANDS)}"]
        print(*usage, sep="\n", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, *PASSED_ON):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    stop_with_nox()
    # A line of code tells nothing to whoever set a variable.
    warnings.showwarning = lambda message, *_, **__: print(f"{name}: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", 'Parameter "param_name"')  # a default of Luigi's range tools
    try:
        # Imported here, because `status` also works without the packages that others need.
        command = import_module(f".commands.{name}", __package__)
        exit_code: int = command.main(options)
        return exit_code
    except PipelineError as error:
        reason = str(error)
    except ImportError as error:
        if error.name is None or error.name.startswith(f"{__package__}."):
            raise
        reason = f"the environment has no {error.name}\nhint: nox -s setup"
    except configparser.Error as error:  # of luigi.cfg, which Luigi reads when it is imported
        reason = (
            f"{error}\nhint: in luigi.cfg a section is [NAME], once, and each line NAME = VALUE"
        )
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""  # standard output has no name
        reason = f"{file}{error.strerror or error}"
    except KeyboardInterrupt:
        reason = "stopped" + ("; the same command resumes what was running" * (name == "run"))
        print(f"{name}: {reason}", file=sys.stderr)
        return 130
    print(as_called(printable(f"{name}: {reason}")), file=sys.stderr)
    return 2


def stop(number: int, frame: object) -> NoReturn:
    """Raise KeyboardInterrupt; what follows from nox and uv is the same signal, passed on."""
    for each in PASSED_ON:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def stop_with_nox() -> None:
    """Stop when nox has gone without a word, by kill -9: uv, between it and this process, stays."""
    if nox := os.environ.pop("NOX_PROCESS", ""):
        threading.Thread(target=_stop_after, args=(int(nox),), daemon=True).start()


def _stop_after(process: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux has this, and sees a zombie's end
        select.select([os.pidfd_open(process)], [], [])
        os.kill(os.getpid(), signal.SIGTERM)
        return
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(process, 0)
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def open_streams() -> None:
    """Let each standard stream be open, and show `?` for a character that it cannot encode.

    A descriptor that the caller has closed would become that of another file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Python saw that it was closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        getattr(sys, name).reconfigure(errors="replace")


def command_line() -> NoReturn:
    """Run what the command line names, whatever its standard streams are, and exit."""
    open_streams()
    exit_code = main(sys.argv[1:])
    with reader_may_leave():
        pass  # flushes what is left
    sys.exit(exit_code)


if __name__ == "__main__":
    command_line()
