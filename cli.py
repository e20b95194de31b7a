"""The command-line frame of every script: one-line errors, exit codes and argument types."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

gc_was_enabled = gc.isenabled()
gc.disable()  # imports leave no garbage; collecting during them, and once more at exit, took half a second
old_handler = signal.getsignal(signal.SIGINT)
if replaced := old_handler is signal.default_int_handler and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports ends the process without a traceback

# OpenMP threads spin for milliseconds while they wait for each other, which takes cores from others such as ffmpeg. If
# there are more threads than cores, they spin a 300th of that before they sleep; this sets the same here.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import errors  # noqa: F401
except ImportError as problem:
    raise SystemExit(f"error: {problem}") from None

import parts
from distributed import MAX_SEED, STOP_SIGNALS, active_signals, leave_processes
from errors import UserError, describe_error, is_bad_input, is_fault
from version import version

gc.freeze()
if gc_was_enabled:
    gc.enable()

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
HERE, FOLDERS = Path(__file__).resolve().parent, ("evaluation", "benchmarks", "demo")  # with scripts
MAX_PORT = 65535


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that appends defaults as one would type them, except uninformative ones."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", []) or isinstance(action.default, bool):
            return action.help
        if isinstance(action.default, (list, tuple)):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser with one-line errors, ``--debug`` and ``--version``."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=Formatter)
        self.register("type", Path, path)  # for every flag with type=Path
        self.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        self.add_argument(
            "--version", action="version", version=f"wav2lip {version()}", help="Print the version and exit."
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_cells(self, cells: Mapping[str, str], args: argparse.Namespace, folder: Path) -> argparse.Namespace:
        """Return ``args`` overridden by a table row: ``cells`` maps flags, without dashes, to their values.

        Paths are relative to ``folder``. Raises UserError, as for a command line.
        """
        changed, flags = argparse.Namespace(**vars(args)), []
        for name, cell in cells.items():
            action = self._option_string_actions[f"--{name}"]
            try:
                if action.nargs == 0:  # a switch, which this row may turn off
                    setattr(changed, action.dest, boolean(cell))
                elif action.type is Path or (action.type is file_or_name and (folder / cell).exists()):
                    flags.append(f"--{name}={folder / home_expanded(cell)}")
                elif action.nargs == "+":
                    numbers = cell.replace(",", " ").split()
                    flags += [f"--{name}", *(str(whole(number)) for number in numbers)]  # no smuggled flags
                else:
                    flags.append(f"--{name}={cell}")
            except argparse.ArgumentTypeError as problem:
                self.error(f"argument --{name}: {problem}")
        return self.parse_args(flags, changed)


def _is_a_script() -> bool:
    """Return whether this process runs one of our scripts, rather than a program that imports this module."""
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or os.devnull)
    names = main.stem, main.parent.stem  # on Windows, a command is an archive with a __main__.py
    is_command = any(name == "wav2lip" or name.startswith("wav2lip-") for name in names)
    return is_command or main.resolve().parent in (HERE, *(HERE / name for name in FOLDERS))


def restore_interrupts() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if replaced and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, old_handler)


if not _is_a_script():  # scripts have more to import, and call this in run()
    restore_interrupts()


def run(parser: Parser, work: Callable[[argparse.Namespace], None], argv: list[str] | None = None) -> int:
    """Parse ``argv``, do the work, and turn any error into one line on stderr and an exit code."""
    if threading.current_thread() is threading.main_thread():
        restore_interrupts()
        for number in active_signals(STOP_SIGNALS):  # so that a terminated run cleans up like an interrupted one
            signal.signal(number, _stop)
    if sys.stderr is None:  # closed, as some background launchers do
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # files and old terminals on Windows cannot encode all names
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = parser.parse_args(argv)
    except SystemExit:  # --help
        return 0
    except UserError as problem:
        return _report(str(problem), BAD_INPUT)
    try:
        work(args)
        leave_processes()
        return 0
    except KeyboardInterrupt as stop:
        return _report(str(stop) or "stopped before the end", INTERRUPTED)
    except Exception as error:
        if args.debug:
            raise
        return _report(_one_line(error), BAD_INPUT if is_bad_input(error) else FAILED)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _one_line(error: Exception) -> str:
    blame = "; this is a fault of the program, run again with --debug and report it" if is_fault(error) else ""
    return f"{describe_error(error)}{blame}"


def _report(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def quoted(*words: str | Path) -> str:
    """Return the words of a command quoted for this platform's shell."""
    if sys.platform == "win32":  # file names there contain no quotes
        return " ".join(f'"{word}"' if " " in str(word) else str(word) for word in words)
    return shlex.join(map(str, words))


def started(script: str, command: str) -> str:
    """Return how to start a script the way this one was started: as a file, or as an installed command."""
    if Path(sys.argv[0]).name.startswith("wav2lip-"):
        return command
    python = Path(sys.executable)  # a plain "python" may be another one
    return f"{quoted(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)} {script}"


# --------------------------------------------------------------------------------------------------------------------
# Argument types


def boolean(text: str) -> bool:
    """Parse True and False as people write them (the reference took ``--static False`` for true)."""
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def turn(text: str) -> int:
    """Parse a clockwise rotation in degrees; yes means 90."""
    if text in ("90", "180", "270"):
        return int(text)
    try:
        return 90 * boolean(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a turn; give 90, 180 or 270 degrees") from None


def path(text: str) -> Path:
    """Parse a path; an empty one, as from an unset variable, is an error, since it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("this name is empty; give a file or a folder")
    return home_expanded(text)


def home_expanded(text: str) -> Path:
    """Return a path in which a leading ``~`` is the home folder, as in ``--flag=~/file``, which shells leave alone."""
    with contextlib.suppress(RuntimeError):  # nobody has that name
        return Path(text).expanduser()
    return Path(text)


def file_or_name(text: str) -> str:
    """Parse a file or the name of a download; in a job table, a file is relative to the table if it exists there."""
    known = path(text)
    return str(known) if text.startswith("~") else text  # a Path would collapse the slashes of a URL


def positive(kind: type) -> Callable[[str], float]:
    """Return a parser of numbers above zero of type ``kind`` (int or float)."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number above 0")
        return value

    return parse


def port(text: str) -> int:
    """Parse a port for a server to listen on."""
    if not text.isdecimal() or not 0 < int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 1 to {MAX_PORT}")
    return int(text)


def whole(text: str) -> int:
    """Parse any whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def seed(text: str) -> int:
    """Parse a seed for random number generators."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def moment(text: str) -> float:
    """Parse a time in a video, see ``parts.moment``."""
    try:
        return parts.moment(text)
    except UserError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def finite(text: str) -> float:
    """Parse any number except nan and inf."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value
