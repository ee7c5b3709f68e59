"""`python -m PACKAGE.runtime run|image|status|clean …`: the commands that nox starts."""

from __future__ import annotations

import signal
import sys
from importlib import import_module

from .errors import PipelineError

COMMANDS = ("run", "image", "status", "clean")


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names, and return its exit code.

    2 for a user's mistake, 130 where the command is stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    name, *options = arguments or [""]
    if name not in COMMANDS:
        print(f"usage: python -m {__package__} {'|'.join(COMMANDS)} …", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        # Each needs packages that the others do without: `status` runs where there are none.
        command = import_module(f".commands.{name}", __package__)
        exit_code: int = command.main(options)
        return exit_code
    except PipelineError as error:
        reason = str(error)
    except ImportError as error:
        if error.name is None or error.name.startswith(f"{__package__}."):
            raise
        reason = f"the environment has no {error.name}\nhint: nox -s setup"
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""  # none where it is standard output
        reason = f"{file}{error.strerror or error}"
    except KeyboardInterrupt:
        reason = "stopped" + ("; the same command resumes what was running" * (name == "run"))
        print(f"{name}: {reason}", file=sys.stderr)
        return 130
    print(f"{name}: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
