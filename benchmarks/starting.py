"""Start-up: seconds until a command has answered, with and without compiled bytecode."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measuring import Measured, interleaved
from benchmarks.whole import MEGALITH, ROOT

_TINY = """
name: tiny
images: {samples: foolbox, limit: 4}
models: {lite0: packaged/efficientnet-lite0}
attacks: {fgsm: {recipe: fgsm, surrogates: [lite0], eps: 4/255}}
targets: [lite0]
"""


def measure(folder: str | None) -> Iterator[Measured]:
    """Of the quickest commands, and of those on a finished run of four images."""
    with tempfile.TemporaryDirectory() as at:
        experiment, output = Path(at) / "tiny.yaml", str(Path(at) / "run")
        experiment.write_text(_TINY)
        named = (str(experiment), "--output", output)
        _call(*named, command="run")
        commands = {
            "--help": (),
            "list attacks": ("attacks",),
            "list models": ("models",),
            "sql": (output, "select 1"),
            "plan of a finished run": named,
            "run of a finished run": named,
        }
        for name, arguments in commands.items():
            call = partial(_call, *arguments, command=name.split()[0])
            contenders = {"bytecode": call, "no bytecode": partial(call, bytecode=False)}
            yield from interleaved(f"megalith {name}", contenders, rounds=2)


def _call(*arguments: str, command: str, bytecode: bool = True) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    if not bytecode:  # as in an image that was built without: nothing is found, and nothing is kept
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": os.devnull}
    called = [*MEGALITH, command, *arguments]
    subprocess.run(called, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
