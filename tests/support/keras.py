"""Keras' applications on torch with weights made on the spot."""

from functools import cache
from typing import Any

import keras
import numpy as np

# One of each way to preprocess: BGR without scale, built into the network, ImageNet's mean and deviation, [-1, 1].
MODELS = ["ResNet50", "EfficientNetB0", "DenseNet121", "MobileNetV2"]
MODULES = {
    "ResNet50": keras.applications.resnet50,
    "EfficientNetB0": keras.applications.efficientnet,
    "DenseNet121": keras.applications.densenet,
    "DenseNet201": keras.applications.densenet,
    "MobileNetV2": keras.applications.mobilenet_v2,
}


@cache
def calibrated(name: str) -> Any:
    """With random weights whose answers depend on what is shown: normalised as if trained on noise."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    preprocessed = MODULES[name].preprocess_input(pixels(4, seed=1), data_format="channels_last")
    model(preprocessed, training=True)
    return model


def pixels(count: int, seed: int = 0) -> Any:
    """Smooth pictures of 224 × 224, float32 (count, 224, 224, 3) of whole numbers in [0, 255]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3))
    return coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.float32)
