# SPDX-License-Identifier: Apache-2.0
"""The entry point, and the one place where whatever went wrong becomes one line and a documented status.

Little is imported here: what fails while the rest is imported (no memory, Ctrl-C) is met by ``main`` too.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final, NoReturn

from uaptrace.abi.errors import ReaderGoneError, UaptraceError
from uaptrace.process.limits import keep_single_threaded
from uaptrace.process.plain import plain
from uaptrace.process.streams import abandon_output, prepare_streams

DEBUG_VARIABLE: Final = "UAPTRACE_DEBUG"
"""Set to anything: where an error comes from is shown too, as Python's traceback."""
INTERRUPTED_STATUS: Final = 130
"""128 + SIGINT, as a shell reports it."""


def main() -> None:
    """Run the command that the arguments name, and exit with its documented status; every error is one line on standard error."""
    keep_single_threaded()
    threading.excepthook = _thread_failed
    sys.unraisablehook = _not_raised
    try:
        prepare_streams()
        from uaptrace.commands.group import run_command

        status = run_command()
        sys.stdout.flush()
    except BaseException as error:
        status = explain(error)
        abandon_output()
    _end(status)


def _end(status: int) -> NoReturn:
    """End at once where a thread was left behind, such as one that compares a password: it may be in a library that aborts the
    process when it comes back and the interpreter is gone."""
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def explain(error: BaseException) -> int:
    """Say in one line what went wrong, where there is something to say. Returns the exit status."""
    status, text = _meaning(error)
    if DEBUG_VARIABLE in os.environ and text:
        import traceback

        traceback.print_exception(error)
    if text:
        _complain(text)
    return status


def _meaning(error: BaseException) -> tuple[int, str]:
    """Exit status, and what to say; nothing where the caller knows."""
    match error:
        case UaptraceError():
            return error.exit_status, str(error)
        case KeyboardInterrupt():
            return INTERRUPTED_STATUS, ""
        case SystemExit():
            return (error.code if isinstance(error.code, int) else UaptraceError.exit_status if error.code else 0), ""
        case BrokenPipeError():
            return ReaderGoneError.exit_status, ""
        case MemoryError():
            return UaptraceError.exit_status, "out of memory: raise the limit (ulimit -v), or give a smaller input"
        case OSError():
            names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
            return UaptraceError.exit_status, ": ".join([*names, error.strerror or str(error) or type(error).__name__])
        case ImportError():
            return UaptraceError.exit_status, f"cannot import a module that uaptrace needs: {error}"
        case RuntimeError() if str(error) == "can't start new thread":
            return UaptraceError.exit_status, "no more threads can be started: raise the limit (ulimit -u)"
        case _:
            return (
                UaptraceError.exit_status,
                f"unexpected {type(error).__name__}: {error} ({DEBUG_VARIABLE}=1 shows where; please report it)",
            )


def _complain(text: str) -> None:
    print(f"uaptrace: {plain(' '.join(text.split()))}", file=sys.stderr, flush=True)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        explain(failed.exc_value)


def _not_raised(failed: sys.UnraisableHookArgs) -> None:
    """Python tells of errors in destructors, which nobody can act on: only a developer wants to know."""
    if DEBUG_VARIABLE in os.environ and failed.exc_value is not None:
        explain(failed.exc_value)


if __name__ == "__main__":
    main()
