"""The command line `avis`: one table of commands, and how each ends.

A command is a module with `add_arguments(parser: argparse.ArgumentParser) -> None` and
`run(args: argparse.Namespace) -> int`, imported only when it is asked for. Exit codes: what `run` returns
(0 done, 1 the work failed), 2 for wrong usage or bad input (a UsageError, one sentence on stderr), 130 when
interrupted, 1 with a sentence for a full disk and its like, 1 in silence when nobody reads the output any more,
1 with a traceback for anything else.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import select
import socket
import sys
from typing import NoReturn

from core.errors import UsageError, printable
from server import numerics

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("server.commands.serve", "restore live video: the server and its page"),
    "restore": ("server.commands.restore", "restore a video file"),
    "eval": ("server.commands.evaluate", "measure the quality of every operator on clips"),
    "verify": ("server.commands.verify", "check the certificate of a restored file"),
    "novel-view": ("server.commands.novel_view", "show a clip from another camera"),
    "bench": ("server.commands.bench", "measure the speed of the engine"),
    "loadtest": ("server.commands.loadtest", "measure a running server with real WebRTC clients"),
    "gateway": ("server.commands.gateway", "one address for the clients of several servers"),
    "cluster": ("server.commands.cluster", "look at the nodes of a cluster, or drain one"),
    "train": ("server.commands.train", "train the tiny model"),
    "weights": ("server.commands.weights", "list, fetch, verify and convert weights"),
    "doctor": ("server.commands.doctor", "say what works on this machine"),
}
"""name: module, one line of help"""

OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EFBIG,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
)
"""a full disk, a missing right, a port that is taken: no fault of ours, so a sentence and no traceback"""

ADVICE = {errno.EADDRINUSE: ". Another program has that port: stop it, or choose another one with --port"}
"""what to do about some of them"""


def overview() -> str:
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: avis COMMAND ...   (avis COMMAND --help)", "", "Live video restoration.", "", *lines])


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one sentence, not below a screen of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells what there is)")


def parse(name: str, arguments: list[str]) -> tuple[argparse.Namespace, object]:
    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = Parser(prog=f"avis {name}", description=text)
    module.add_arguments(parser)
    return parser.parse_args(arguments), module


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    open_standard_streams()
    numerics.prepare()
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    try:
        if name not in COMMANDS:
            raise UsageError(f"the commands are {', '.join(COMMANDS)}, not {name!r}")
        args, module = parse(name, arguments)
        code = int(module.run(args))  # type: ignore[attr-defined]
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"avis: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        elif isinstance(error, OSError) and (error.errno in OF_THE_MACHINE or isinstance(error, socket.gaierror)):
            print(f"avis: {error}{ADVICE.get(error.errno or 0, '')}", file=sys.stderr)
        else:
            logging.getLogger(__name__).exception("avis %s failed", name)
        return 1


def open_standard_streams() -> None:
    """Opens the null device for each standard stream that is closed: else a socket would get its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(0))
