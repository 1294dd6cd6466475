"""Start ranks on this machine without any launcher: ``dist-calo launch -n N [COMMAND...]``."""

import argparse
import sys
from collections.abc import Sequence

from dist_calo.errors import LaunchError
from dist_calo.launching.local import run_local

USAGE = """dist-calo launch -n N [--] [COMMAND...]

Starts N ranks on this machine. COMMAND is any program that calls dist_calo; without one, or when it begins with an
option, it is the trainer: dist-calo launch -n 4 --train.max_steps=100"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the ranks of a command and return the exit code of the first that failed.

    Raises:
        LaunchError: if the number of ranks is below 1 or this process is one of several ranks already.
    """
    parser = argparse.ArgumentParser(prog="dist-calo launch", usage=USAGE, allow_abbrev=False, add_help=False)
    parser.add_argument("-n", "--ranks", type=int, default=None)
    parser.add_argument("-h", "--help", action="store_true")
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, command = _split(given)
    options = parser.parse_args(own)
    if options.help:
        print(f"usage: {USAGE}")
        return 0
    if options.ranks is None:
        raise LaunchError("the number of ranks is missing: dist-calo launch -n 2 [COMMAND...]")
    if not command or command[0].startswith("-"):
        command = [sys.executable, "-m", "dist_calo.train", *command]
    return run_local(command, options.ranks)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split our own options, which come first, from the command after them or after ``--``."""
    own: list[str] = []
    rest = list(arguments)
    while rest:
        if rest[0] == "--":
            return own, rest[1:]
        if rest[0] in ("-n", "--ranks"):
            own, rest = own + rest[:2], rest[2:]
        elif rest[0] in ("-h", "--help") or rest[0].startswith(("--ranks=", "-n")):
            own, rest = [*own, rest[0]], rest[1:]
        else:
            break
    return own, rest
