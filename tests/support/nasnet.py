"""NASNetMobile with weights made on the spot, exported once: a pytest plugin, named by the modules that use it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tests.support.finished import shared
from transforms.models.export import export

NASNET = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, numpy, sys
keras.utils.set_random_seed(0)
model = keras.applications.NASNetMobile(weights=None, classifier_activation=None)
pixels = numpy.load("pixels.npy")
shown = keras.applications.nasnet.preprocess_input(pixels.copy())
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
model(shown, training=True)
model.save_weights("nasnet.weights.h5")
numpy.save("expected.npy", model(shown, training=False).numpy())
"""


@dataclass(frozen=True)
class NASNet:
    """An exported file, and what Keras on TensorFlow says with the same weights.

    Attributes:
        pixels: float32 (3, 224, 224, 3) in levels (0-255).
        expected: (3, 1000), logits of them.
    """

    path: Path
    pixels: Any
    expected: Any


@pytest.fixture(scope="session")
def nasnet(tmp_path_factory: pytest.TempPathFactory) -> NASNet:
    """By Keras on TensorFlow, in processes of their own, once for all processes of the suite."""
    folder = shared(tmp_path_factory) / "nasnet"
    path = folder / "nasnet.onnx"
    coarse = np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3))
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.float32)
    with FileLock(f"{folder}.lock"):
        if not path.exists():
            folder.mkdir(exist_ok=True)
            np.save(folder / "pixels.npy", pixels)
            quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run([sys.executable, "-c", NASNET], cwd=folder, env=quiet, check=True, capture_output=True)
            export("keras/NASNetMobile", path, str(folder / "nasnet.weights.h5"))
    return NASNet(path, pixels, np.load(folder / "expected.npy"))
