"""The process in which rows are computed."""

import subprocess
import sys

import pytest

_PAGES = 64 * 2**20 // 4096

# Faults of pages while 64 MiB are taken, written and freed ten times, as activations are in each pass of a network.
_PROGRAM = """
import resource, threading
import torch
from transforms.steps.process import keep_memory
keep_memory()
def passes():
    torch.zeros(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=passes)  # as a runner's worker may be
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with memory")
def test_memory_that_a_pass_frees_is_there_for_the_next_one() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) <= 2 * _PAGES  # ten times as many where it is returned
