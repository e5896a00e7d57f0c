"""The command table. Takes a command line, returns an exit code: 0 done, 1 failed, 2 wrong input, 130 stopped.

A command's module is imported only when that command runs: help and completion are quick.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hpctrain.errors import Damaged, RunFailed, Unusable, UserError, nearest
from hpctrain.shown import shown

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("hpctrain.commands.train:main", "run here, in the foreground, on resources.ranks ranks"),
    "submit": (
        "hpctrain.commands.submit:main",
        "run it as a job: on Slurm, or in the background here",
    ),
    "sweep": ("hpctrain.commands.sweep:main", "many runs as one study: grid, random or adaptive search"),
    "report": (
        "hpctrain.commands.report:main",
        "what a study found: leaderboard, plots, costs, one HTML page",
    ),
    "flops": ("hpctrain.commands.flops:main", "count floating-point operations, per layer and per run"),
    "bench": (
        "hpctrain.commands.bench:main",
        "measure this machine's peaks, and how near a training step comes",
    ),
    "scale": ("hpctrain.commands.scale:main", "measure how a training job scales over GPUs"),
    "forecast": ("hpctrain.commands.forecast:main", "how it would scale, from a calibration"),
    "models": ("hpctrain.commands.models:main", "list the networks with parameters and multiply-adds"),
    "data": (
        "hpctrain.commands.data:main",
        "list data sets, fetch one from its official home, pack pictures",
    ),
    "generate": ("hpctrain.commands.generate:main", "text from a trained language model"),
    "status": ("hpctrain.commands.status:main", "what became of the runs"),
    "logs": ("hpctrain.commands.logs:main", "show a run's log; -f follows it"),
    "cancel": ("hpctrain.commands.cancel:main", "stop runs; a checkpoint is saved first"),
    "resume": ("hpctrain.commands.resume:main", "start a stopped or failed run again where it was"),
    "doctor": ("hpctrain.commands.doctor:main", "is this cluster as its preset says? does a job run?"),
    "checkpoints": ("hpctrain.commands.checkpoints:main", "list, verify, compare, prune"),
    "export": ("hpctrain.commands.export:main", "a run's weights for other programs"),
}

ALIASES = {"predict": "forecast"}  # names of earlier versions

USAGE = """usage: hpctrain COMMAND [flags] [settings]

Batch training of convolutional and recurrent networks on Slurm clusters.

{commands}

Settings follow Hydra's grammar: model=resnet50 optimizer.lr=0.1; a recipe is experiment=NAME.
hpctrain COMMAND --help says more. Completion: eval "$(hpctrain train -sc install=bash)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Errors of the user's and of the work become one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: no file of a run may get its number
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter, a name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        return _flushed(_dispatch(argv))
    except UserError as error:
        return _fail(argv, str(error), 2, error)
    except (RunFailed, Damaged, Unusable) as error:
        return _fail(argv, str(error), 1, error)
    except KeyboardInterrupt:
        return _fail(argv, "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is wrong.
        _drop_stdout()
        return 0
    except OSError as error:
        if error.filename is None and not _takes_output():
            return _full(error)
        return _fail(argv, _of_the_system(error), 1)
    except MemoryError:
        return _fail(argv, "this host does not have enough memory for that", 1)
    except Exception as error:
        if os.environ.get("HPCTRAIN_DEBUG"):
            raise
        return _fail(
            argv, f"internal error: {type(error).__name__}: {error} (HPCTRAIN_DEBUG=1 shows where)", 1
        )


def _of_the_system(error: OSError) -> str:
    """What the system refused: which file, and why; the reason's name if a run would end with it."""
    from hpctrain.storage.run_state import reason_of_oserror

    if reason := reason_of_oserror(error):
        return f"{reason}: {error}"
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _flushed(code: int) -> int:
    """Returns the code once the output is written: a full disk or a reader that has gone may show only then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return _full(error)
    return code


def _takes_output() -> bool:
    """Returns whether stdout can be written: of what it refused once, nothing is left to be tried again."""
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # not a file
        return True
    except (OSError, ValueError):
        return False
    return True


def _full(error: OSError) -> int:
    """Says that the output was lost; returns the exit code."""
    _drop_stdout()
    return _say(f"stdout: cannot be written ({error.strerror})", 1)


def _drop_stdout() -> None:
    """Lets what is left of the output go nowhere: Python would try again, and complain, when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(argv: list[str], text: str, code: int, error: Exception | None = None) -> int:
    """Says in one line why the command ends; as a document on stdout too if the command was asked for one."""
    if "--json" in argv:
        facts = (
            {name: str(value) for name, value in vars(error).items()} if isinstance(error, UserError) else {}
        )
        named = {name: shown(facts[name]) for name in ("key", "allowed") if name in facts}
        with contextlib.suppress(OSError):
            print(json.dumps({"error": shown(text), "exit_code": code, **named}), flush=True)
    return _say(text, code)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {n:{width}}  {text}" for n, (_, text) in COMMANDS.items())))
        return 0
    if argv[0] in ("-V", "--version"):
        import hpctrain

        print(f"hpctrain {hpctrain.__version__}")
        return 0
    if argv[0] in ("-sc", "--shell-completion"):
        return _complete(argv)
    if word := next((word for word in argv if "\0" in word), None):  # as only a program can give it
        key, _, value = word.partition("=")
        raise UserError(key, value, "holds a NUL character, which no name and no path can")
    argv[0] = ALIASES.get(argv[0], argv[0])
    if argv[0] not in COMMANDS:
        raise UserError(
            "command", argv[0], f"must be one of {', '.join(COMMANDS)}", nearest(argv[0], COMMANDS)
        )
    module, _, name = COMMANDS[argv[0]][0].partition(":")
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError(
            "folder", os.environ.get("PWD", "."), "was deleted, and you are in it: cd to another"
        ) from None
    os.environ["HPCTRAIN_COMMAND"] = shown(" ".join(["hpctrain", *argv]))  # it is kept with what it starts
    function: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    return function(argv[1:])


def _complete(argv: list[str]) -> int:
    """What Hydra's shell scripts ask while a line is typed: commands first, then Hydra's own answer."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        print(" ".join(name for name in COMMANDS if name.startswith(words[-1])))
        return 0
    # Hydra knows an application's settings, not our commands: it sees the line without the command.
    line = " ".join([words[0], *words[2:]])
    os.environ["COMP_LINE"], os.environ["COMP_POINT"] = line, str(len(line))
    from hpctrain.config.compose import run_app

    return run_app(argv, lambda values: (0, None))


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be full or gone as well
        print(f"hpctrain: {shown(text)}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
