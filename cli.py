"""What every script shares at its edge: one-line errors, exit codes and argument types."""

from __future__ import annotations

import argparse
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

collects = gc.isenabled()
gc.disable()  # what is imported is no garbage: to look for some in it, now and at the end, took half a second
stops = signal.getsignal(signal.SIGINT)
if quits := stops is signal.default_int_handler and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun: whoever stops it now is told nothing

# While each has a core of its own, OpenMP's threads run on for milliseconds when they wait for each other. Beside
# others, such as ffmpeg, none has. Where they are more than cores they sleep after a 300th of that: so they do here.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import errors  # noqa: F401
except ImportError as problem:
    raise SystemExit(f"error: {problem}") from None

import parts
from distributed import MAX_SEED, STOPPING, heeded, leave_processes
from errors import UserError, is_bad_input, is_fault, told
from version import version

gc.freeze()
if collects:
    gc.enable()

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
HERE, FOLDERS = Path(__file__).resolve().parent, ("evaluation", "benchmarks", "demo")  # with scripts
MAX_PORT = 65535


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, as one would type them, but for those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", []) or isinstance(action.default, bool):
            return action.help
        if isinstance(action.default, (list, tuple)):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line, and that knows ``--debug``."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=Formatter)
        self.register("type", Path, path)  # of every flag that takes one
        self.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        self.add_argument(
            "--version", action="version", version=f"wav2lip {version()}", help="Say which version this is, and exit."
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_cells(self, cells: Mapping[str, str], args: argparse.Namespace, folder: Path) -> argparse.Namespace:
        """Return ``args`` with what a row of a table says instead: a cell for every flag, by its name without dashes.

        Files are relative to ``folder``. Raises UserError, as a command line would.
        """
        changed, flags = argparse.Namespace(**vars(args)), []
        for name, cell in cells.items():
            action = self._option_string_actions[f"--{name}"]
            try:
                if action.nargs == 0:  # a switch, which may be off in this row alone
                    setattr(changed, action.dest, boolean(cell))
                elif action.type is Path or (action.type is file_or_name and (folder / cell).exists()):
                    flags.append(f"--{name}={folder / cell}")
                elif action.nargs == "+":
                    numbers = cell.replace(",", " ").split()
                    flags += [f"--{name}", *(str(int(number)) for number in numbers)]  # and no other flag
                else:
                    flags.append(f"--{name}={cell}")
            except (argparse.ArgumentTypeError, ValueError) as problem:
                self.error(f"argument --{name}: {problem}")
        return self.parse_args(flags, changed)


def _is_a_script() -> bool:
    """Whether this process runs one of ours, and not somebody's program that imports it."""
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or os.devnull)
    is_command = main.stem == "wav2lip" or main.name.startswith("wav2lip-")
    return is_command or main.resolve().parent in (HERE, *(HERE / name for name in FOLDERS))


def heed_interrupts() -> None:
    """From now on, Ctrl-C is a KeyboardInterrupt again."""
    if quits and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, stops)


if not _is_a_script():  # which has more to import
    heed_interrupts()


def run(parser: Parser, work: Callable[[argparse.Namespace], None], argv: list[str] | None = None) -> int:
    """Parse ``argv``, do the work, and turn whatever goes wrong into one line on stderr and an exit code."""
    if threading.current_thread() is threading.main_thread():
        heed_interrupts()
        for number in heeded(STOPPING):  # a killed run cleans up as an interrupted one does
            signal.signal(number, _stop)
    if sys.stderr is None:  # closed, as by some that start programs in the background
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file or an old terminal on Windows cannot say every name
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
    return f"{told(error)}{blame}"


def _report(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def quoted(*words: str | Path) -> str:
    """Return the words of a command as one would type them here."""
    if sys.platform == "win32":  # whose names have no quotes in them
        return " ".join(f'"{word}"' if " " in str(word) else str(word) for word in words)
    return shlex.join(map(str, words))


def started(script: str, command: str) -> str:
    """Return how to start a script in the way in which this one was started: as a file, or as an installed command."""
    return command if Path(sys.argv[0]).name.startswith("wav2lip-") else f"python {script}"


# --------------------------------------------------------------------------------------------------------------------
# Argument types


def boolean(text: str) -> bool:
    """True and False as people write them (the reference took ``--static False`` for true)."""
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def turn(text: str) -> int:
    """Degrees clockwise by which frames are turned; yes is a quarter."""
    if text in ("90", "180", "270"):
        return int(text)
    try:
        return 90 * boolean(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a turn; give 90, 180 or 270 degrees") from None


def path(text: str) -> Path:
    """The name of a file or folder; an empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("this name is empty; give a file or a folder")
    return Path(text)


def file_or_name(text: str) -> str:
    """A file, or one of the names of a download; where a table of jobs says it, relative to that if it is there."""
    path(text)
    return text  # as it is: an address keeps its slashes


def positive(kind: type) -> Callable[[str], float]:
    """A number above zero of type ``kind`` (int or float)."""

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
    """A port that a server can listen at."""
    if not text.isdecimal() or not 0 < int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 1 to {MAX_PORT}")
    return int(text)


def whole(text: str) -> int:
    """Any whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def seed(text: str) -> int:
    """A whole number from 0 on that generators of random numbers take."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def moment(text: str) -> float:
    """Seconds into a video, see ``parts.moment``."""
    try:
        return parts.moment(text)
    except UserError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def finite(text: str) -> float:
    """Any number but nan and inf."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value
