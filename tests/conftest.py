"""What many tests share: real weights and real images, each read once."""

import os
import re
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from tests.support.coarse import INSTALLED
from tests.support.runs import ROOT
from transforms.data.decode import CanvasSpec, decode
from transforms.models.classifier import Classifier
from transforms.models.sources.registry import model_source

pytest_plugins = [
    "tests.support.finished",
    "tests.support.nasnet",
    "tests.support.object_stores",
    "tests.support.runners",
]

# Every process of the tests runs this checkout, beside the models that tests are quick with.
sys.path.insert(0, str(INSTALLED))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(INSTALLED), str(ROOT), os.environ.get("PYTHONPATH"))))

# What one process of the suite has exported the others need not; nothing is left of it, nor taken from earlier runs.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = TemporaryDirectory(prefix="megalith-cache-")
    os.environ["MEGALITH_CACHE"] = _cache.name

# Keras chooses its backend when it is imported, once per process.
os.environ["KERAS_BACKEND"] = "torch"

# Convolution kernels sum in another order with another number of threads, and each process of the suite has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_configure() -> None:
    """In CI a test that skips for want of pictures is a failure: everything stops at once instead."""
    # A shell that starts the suite in the background has Ctrl-C ignored, here and in every process that is begun here;
    # `nohup` has SIGHUP ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sample = Path(__file__).parents[2] / "shared" / "imagenet-sample"
    if os.environ.get("CI") and not sample.is_dir():
        pytest.exit(f"CI needs the pictures of {sample}", returncode=1)


@dataclass(frozen=True)
class Samples:
    """The 20 labelled ImageNet-validation images inside foolbox's wheel, in the order of their number.

    Attributes:
        canvases: uint8 (20, 3, 224, 224).
        labels: int64 (20,).
    """

    canvases: Tensor
    labels: Tensor


def _samples(canvas: CanvasSpec) -> Samples:
    spec = find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    matches = [
        re.fullmatch(r"imagenet_(\d+)_(\d+)\.jpg", each.name) for each in Path(spec.origin).parent.glob("data/*")
    ]
    named = sorted((int(match[1]), int(match[2]), match[0]) for match in matches if match)
    data = [(Path(spec.origin).parent / "data" / name).read_bytes() for _, _, name in named]
    canvases = torch.stack([torch.from_numpy(decode(each, canvas).canvas) for each in data])
    return Samples(canvases, torch.tensor([label for _, label, _ in named]))


def _load(name: str) -> Classifier:
    return model_source(name).load(torch.device("cpu"))


@pytest.fixture(scope="session")
def samples() -> Samples:
    """Resized to 256 and cropped to 224: the canvas holds 7/8 of an image's centre square."""
    return _samples(CanvasSpec(resize=256, crop=224))


@pytest.fixture(scope="session")
def whole_samples() -> Samples:
    """Resized to 224: the canvas holds the whole centre square."""
    return _samples(CanvasSpec(resize=224, crop=224))


@pytest.fixture(scope="session")
def lite0() -> Classifier:
    return _load("packaged/efficientnet-lite0")


@pytest.fixture(scope="session")
def lite1() -> Classifier:
    return _load("packaged/efficientnet-lite1")


@pytest.fixture(scope="session")
def lite2() -> Classifier:
    return _load("packaged/efficientnet-lite2")
