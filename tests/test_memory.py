"""Memory of the process."""

import subprocess
import sys

import pytest

# Faults of pages in ten passes of a small network, in a thread of its own as a runner's worker may be.
_PROGRAM = """
from transforms.memory import keep_memory
keep_memory()
import resource, threading
import torch
from torch import nn
torch.set_num_threads(1)
network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 16, 1))
def some(count):
    for _ in range(count):
        pictures = torch.rand(8, 3, 112, 112, requires_grad=True)
        torch.autograd.grad(network(pictures).sum(), pictures)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=lambda: print(some(10) - warm))
warm = some(3)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with memory")
def test_memory_that_a_pass_frees_is_there_for_the_next_one() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 30_000  # some 100,000 where it is returned
