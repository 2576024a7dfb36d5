"""All benchmarks of one machine, in about fifteen minutes.

    python -m benchmarks [--pictures FOLDER] [--json FILE] [SECTION ...]

FOLDER holds pictures and `labels.csv`; without it foolbox's 20 samples are used. SECTION is one or more of starting,
reading, evaluating, attacking and whole; all of them unless given.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import HEAD, Measured, line
from transforms.steps.process import prepare_numerics

RESULTS = Path(__file__).parent / "results.json"
"""What docs/performance.md shows."""
SECTIONS = ("starting", "reading", "evaluating", "attacking", "whole")
_PEERS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox", "adv-lib")
_LIBRARIES = ("torch", "torchvision", "onnxruntime", "apache-beam", "pillow", "numpy")


def machine() -> dict[str, Any]:
    """What the figures depend on: the processor, how fast it multiplies matrices and copies memory, and versions."""
    said = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    processor = {key.strip(): value.strip() for key, value in said.items()}
    flags = set(processor.get("flags", "").split())
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if kind in flags]
    return {
        "processor": processor.get("model name", platform.processor()),
        "instructions": kinds,
        "fp32_gflops": round(_gflops(torch.float32), 1),
        "bf16_gflops": round(_gflops(torch.bfloat16), 1),
        "copy_gb_per_second": round(_copy_speed(), 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*_LIBRARIES, *_PEERS)},
    }


def _gflops(kind: torch.dtype, side: int = 1024) -> float:
    """Of one thread, at the best of some products of square matrices."""
    matrix = torch.rand(side, side).to(kind)
    return 2 * side**3 / _best(lambda: matrix @ matrix) / 1e9


def _copy_speed(size: int = 2**26) -> float:
    """GB/s of one thread, read and written, at the best of some copies too large for a cache."""
    source, target = torch.rand(size // 4), torch.empty(size // 4)
    return 2 * size / _best(lambda: target.copy_(source)) / 1e9


def _best(work: Any, times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Measures, prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--pictures", metavar="FOLDER")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    prepare_numerics()
    found, rows, started = machine(), list[Measured](), time.perf_counter()
    print(json.dumps(found), HEAD, sep="\n", flush=True)
    for section in given.sections or SECTIONS:
        for row in import_module(f"benchmarks.{section}").measure(given.pictures):
            print(line(row), flush=True)
            rows.append(row)
            kept = {"machine": found, "rows": [asdict(each) for each in rows]}
            given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
