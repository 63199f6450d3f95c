"""The ``magunet`` command: one verb per step from a CT to a table. Results go to stdout, progress to stderr.
Exit status: 0 done, 2 something given is wrong (one line says what), 130 interrupted, by Ctrl-C or
SIGTERM."""

import argparse
import codecs
import signal
import sys

from compendium.verbs import Verb, data, networks, tables
from magunet.base.errors import InputError, is_out_of_memory

VERBS = {verb.name: verb for module in (data, networks, tables) for verb in vars(module).values()
         if isinstance(verb, Verb)}
"""In the order of the help."""


class OneLineParser(argparse.ArgumentParser):
    """Wrong arguments are one line and status 2, without the usage text around it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def parser() -> OneLineParser:
    """All verbs and their arguments; the help of each ends with an example."""
    top = OneLineParser(prog="magunet", description="Sacroiliac joints in CT, after the MAG-UNet paper.")
    commands = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=OneLineParser)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.text, description=verb.text,
                                      epilog=f"example: magunet {verb.example}")
        for names, options in verb.arguments:
            command.add_argument(*names, **options)
    return top


class Ended(KeyboardInterrupt):
    """By a signal. After a plain KeyboardInterrupt that has passed an ``exec`` of text, as dataclasses do on
    import, Python ends itself by SIGINT, whatever the exit status."""


def _shown(error: UnicodeError) -> tuple[bytes, int]:
    """What to print of characters that the terminal lacks: the bytes of a file's name, else "?"."""
    text = error.object[error.start:error.end]
    return bytes(ord(c) - 0xDC00 if "\udc80" <= c <= "\udcff" else ord("?") for c in text), error.end


codecs.register_error("shown", _shown)


def _end(number: int, frame: object) -> None:
    raise Ended


def main(command_line: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. Without a command line this process's is taken; then Ctrl-C and
    SIGTERM end the verb by an exception, so that nothing is left half-written."""
    if command_line is None:
        command_line = sys.argv[1:]
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.reconfigure(errors="shown")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    words = parser().parse_args(command_line)
    try:
        VERBS[words.verb].call(words)
    except InputError as error:
        return _failed(words.verb, str(error))
    except BrokenPipeError:         # whoever read our output has seen enough
        sys.stdout = None
    except OSError as error:
        where, why = f"{error.filename}: " if error.filename else "", str(error.strerror or error)
        remedy = "" if ";" in why else "; see that it is there and that you may use it, then run this again"
        return _failed(words.verb, where + why + remedy)
    except (KeyboardInterrupt, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            reason = f" ({str(error)[:200]})" if str(error) else ""
            return _failed(words.verb, f"not enough memory{reason}; close other programs, or lower size, "
                                       "depth or width (raise width_divisor)")
        if not any(isinstance(cause, KeyboardInterrupt) for cause in (error, error.__cause__)):
            raise
        return _failed(words.verb, "interrupted; the same command goes on from the last finished step", 130)
    return 0


def _failed(verb: str, reason: str, status: int = 2) -> int:
    print(f"magunet {verb}: {' '.join(reason.split())}", file=sys.stderr)
    return status
