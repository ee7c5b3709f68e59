"""`python -m PACKAGE.runtime run|image|python|status|clean …`: the commands that nox starts."""

from __future__ import annotations

import signal
import sys
from importlib import import_module

from .errors import PipelineError

COMMANDS = ("run", "image", "python", "status", "clean")


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names, and return its exit code.

    2 is for a user's mistake, 130 for a stop by Ctrl-C, SIGTERM or SIGHUP.
    """
    name, *options = arguments or [""]
    if name not in COMMANDS:
        print(f"usage: python -m {__package__} {'|'.join(COMMANDS)} …", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
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
        nox = options[1] if options[:1] == ["--nox"] else "nox"  # as the user calls it
        reason = f"the environment has no {error.name}\nhint: {nox} -s setup"
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""  # standard output has no name
        reason = f"{file}{error.strerror or error}"
    except KeyboardInterrupt:
        reason = "stopped" + ("; the same command resumes what was running" * (name == "run"))
        print(f"{name}: {reason}", file=sys.stderr)
        return 130
    print(f"{name}: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
