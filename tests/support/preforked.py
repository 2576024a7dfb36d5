"""The command, started many times for the price of one start: a process that has imported everything forks for each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import ROOT

_SERVER = """
import json, os, sys
import pipeline.results.tables, pipeline.run.execute, pipeline.results.render, pipeline.verify.whole
import efficientnet_lite_pytorch
from pipeline.main import main

for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    if "wait" in order:
        answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            os.setsid()
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(os.path.join(order["log"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["megalith", *order["start"]]
            try:
                main()
            except SystemExit as exit:
                sys.stdout.flush()
                os._exit(exit.code)
    print(answer, flush=True)
"""


@dataclass(frozen=True)
class Process:
    """One command at work, in a session of its own."""

    pid: int
    log: Path
    server: "subprocess.Popen[str]"

    def kill(self, signal: int) -> None:
        os.kill(self.pid, signal)

    def wait(self) -> int:
        """Its exit code, negative for the signal of which it died."""
        return _ask(self.server, {"wait": self.pid})

    @property
    def stderr(self) -> str:
        return (self.log / "stderr").read_text()


class Preforked:
    """Starts commands."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server = server

    def start(self, log: Path, *arguments: object) -> Process:
        """`megalith` with these arguments; its stdout and stderr go to files under `log`."""
        log.mkdir(parents=True, exist_ok=True)
        return Process(_ask(self._server, {"start": [*map(str, arguments)], "log": str(log)}), log, self._server)


@contextmanager
def preforked(**environment: str) -> Iterator[Preforked]:
    """A server for as long as the body runs, with something added to its environment."""
    command = [sys.executable, "-c", _SERVER]
    inherited = {**os.environ, **environment}
    with subprocess.Popen(
        command, cwd=ROOT, env=inherited, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Preforked(server)
        assert server.stdin is not None
        server.stdin.close()


def _ask(server: "subprocess.Popen[str]", order: dict[str, object]) -> int:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())
