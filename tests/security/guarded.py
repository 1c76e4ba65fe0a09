"""The whole pipeline on a dataset and a base with hostile names, with a token in the environment and no network."""

import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from sigma.cli import app as cli
from tests.bases import write_tiny_base
from tests.datasets import JOINTS, write_dataset
from tests.worlds import World, inside

SCRIPT = "<script>alert({})</script>"
IMAGE = "<img src=x onerror=alert({})>"
GRIPPER = f"gripper.pos{SCRIPT.format(1)}"
TASKS = (f"push {SCRIPT.format(2)}", f"lift \"'>{IMAGE.format(3)}")
CAMERAS = tuple(f"observation.images.{name}{IMAGE.format(4)}" for name in ("up", "wrist"))
SOURCE = f"recorded{IMAGE.format(5)}"
TOKENS = ("hf_" + "PlantedInTheEnvironment", "hf_" + "PlantedInSigmaEnv")
STAGES = ("fetch", "audit", "window", "baseline", "finetune", "evaluate", "report")


@dataclass(frozen=True)
class Guarded:
    """What came of it: the project's folder, and everything that was printed."""

    root: Path
    printed: str


class NetworkUsedError(AssertionError):
    """A connection was tried where none is allowed."""


def _refuse(*arguments, **_):
    raise NetworkUsedError(f"a connection was tried: {arguments[1:]}")


@contextmanager
def no_network() -> Iterator[None]:
    """Every connection and every look-up of a name fails."""
    with (
        mock.patch.object(socket.socket, "connect", _refuse),
        mock.patch.object(socket.socket, "connect_ex", _refuse),
        mock.patch.object(socket.socket, "sendto", _refuse),
        mock.patch.object(socket, "getaddrinfo", _refuse),
        mock.patch.object(socket, "create_connection", _refuse),
    ):
        yield


def call(root: Path, *arguments: str) -> tuple[int, str]:
    """Run ``sigma ARGUMENTS`` in ``root``; returns its status and what it printed on both streams."""
    printed = io.StringIO()
    argv = mock.patch.object(sys, "argv", ["sigma", *arguments])
    with inside(root), argv, redirect_stdout(printed), redirect_stderr(printed):
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = error.code or 0
    return status, printed.getvalue()


def run_guarded(root: Path) -> Guarded:
    """Make the inputs in ``root`` and run every stage, ``export`` and ``publish --no-upload``."""
    root.mkdir()
    write_tiny_base(root / "base", cameras=CAMERAS, tokenizer_max_length=64)
    write_dataset(root / SOURCE, lengths=(24,) * 6, tasks=TASKS, cameras=CAMERAS, joints=(*JOINTS[:5], GRIPPER))
    changes = {"fetch": {"dataset": {"source": SOURCE}, "base": {"source": "base"}}, "audit": {"on_failure": "keep"}}
    World(root).configure(changes)
    (root / "sigma_env").write_text(f"HUGGING_FACE_HUB_TOKEN={TOKENS[1]}\n")
    printed = ""
    with mock.patch.dict(os.environ, {"HF_TOKEN": TOKENS[0]}), no_network():
        commands = [*((stage,) for stage in STAGES), ("export", "--output", "exported")]
        for command in [*commands, ("publish", "me/sigma", "--no-upload")]:
            status, told = call(root, *command)
            assert status == 0, f"{command}: {told[-500:]}"
            printed += told
        assert os.environ["HUGGING_FACE_HUB_TOKEN"] == TOKENS[1], "sigma_env was read"
    return Guarded(root, printed)
