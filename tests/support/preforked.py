"""The command, started many times for the price of one start: a process that has imported everything forks for each."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from tests.support.runs import ROOT

_SERVER = """
import atexit, json, os, sys, traceback
import pipeline.results.tables, pipeline.run.execute, pipeline.results.render, pipeline.verify.whole
# What is imported when it is first needed.
import efficientnet_lite_pytorch, onnx, onnxruntime, rich.table
import torch.onnx._internal.torchscript_exporter.utils
from pipeline.main import main
from tests.support.coarse import coarse0, coarse1

for source in (coarse0(), coarse1()):
    source.read(source.weights, None)

def begin(log, arguments, program, environment, cwd):
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(log, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each not in sys.path]
    sys.argv = ["megalith", *arguments]
    os.chdir(cwd)

def work(program):
    try:
        exec(program, {"__name__": "__main__"}) if program else main()
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

ended = {}
for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    if "poll" in order:
        pid = order["poll"]
        if pid not in ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        answer = ended.get(pid)
    else:
        begun, begins = os.pipe()
        answer = os.fork()
        if answer == 0:
            begin(**order)
            os.close(begun)
            os.close(begins)
            code = work(order["program"])
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)
        ended.pop(answer, None)  # Process ids come again.
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
    print(json.dumps(answer), flush=True)
"""


class Process:
    """One command at work, in a session of its own; what tests ask of it is as of `subprocess.Popen`.

    Attributes:
        pid: its process, and the group of all that it starts.
        log: the folder of what it says, in the files `stdout` and `stderr`.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Its exit code, negative for the signal of which it died; None while it is at work."""
        return _ask({"poll": self.pid})

    def wait(self, timeout: float = 540) -> int:
        """Its exit code, when it has ended."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("megalith", timeout)
            time.sleep(0.002)
        return code

    @property
    def returncode(self) -> int | None:
        return self.poll()

    @property
    def stdout(self) -> str:
        return (self.log / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.log / "stderr").read_text()


def start(
    log: Path, *arguments: object, program: str = "", cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Process:
    """`megalith` with these arguments, or a Python program with them.

    Args:
        log: a folder for its stdout and stderr.
        program: its source, instead of the command.
        environment: what differs from this process's.
    """
    log.mkdir(parents=True, exist_ok=True)
    order = {
        "log": str(log),
        "arguments": [*map(str, arguments)],
        "program": program,
        "environment": {**os.environ, **(environment or {})},
        "cwd": str(cwd),
    }
    pid = _ask(order)
    assert pid is not None
    return Process(pid, log)


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`megalith` with these arguments, to its end."""
    with tempfile.TemporaryDirectory() as log:
        process = start(Path(log), *arguments, cwd=cwd)
        code = process.wait()
        return subprocess.CompletedProcess([*map(str, arguments)], code, process.stdout, process.stderr)


def wait_until(moment: Callable[[], bool], process: Process) -> None:
    """Returns as soon as the moment has come, while the process still runs."""
    deadline = time.monotonic() + 300
    while not moment():
        assert process.poll() is None, f"ended with {process.poll()} before its moment"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None


@cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.kill)
    return server


def _ask(order: Mapping[str, object]) -> int | None:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    answer: int | None = json.loads(server.stdout.readline())
    return answer
