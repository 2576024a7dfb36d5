"""keras.applications on Keras 3's torch backend: torch modules, and as differentiable as any.

What Keras knows of its models is asked of Keras itself: input size, preprocessing, and where the weights are.
"""

import importlib
import importlib.util
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from torch import Tensor, nn

from transforms.errors import InputError, printable, unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import ModelSource, needed
from transforms.models.sources.weights import not_downloaded

Application = Callable[..., Any]

_ANY_SIZE = 224
"""MobileNetV3 alone takes any size; this is the one that Keras' documentation gives for its weights."""

_CENTRE = 0.875
"""Keras' figures are of a "single center crop" (README of github.com/keras-team/keras-applications), which it does not
describe further. 224 of 256 pixels is what the papers have whose networks these are."""

_ONE_AT_A_TIME = threading.RLock()
"""Building changes global state of Keras, and asking (`_argument_of`) steps in its way."""

# Top-1 accuracy, from the table at keras.io/api/applications; it lists neither ConvNeXt (in the version at hand) nor
# MobileNetV3.
_PUBLISHED = {
    "Xception": 0.790,
    "VGG16": 0.713,
    "VGG19": 0.713,
    "ResNet50": 0.749,
    "ResNet50V2": 0.760,
    "ResNet101": 0.764,
    "ResNet101V2": 0.772,
    "ResNet152": 0.766,
    "ResNet152V2": 0.780,
    "InceptionV3": 0.779,
    "InceptionResNetV2": 0.803,
    "MobileNet": 0.704,
    "MobileNetV2": 0.713,
    "DenseNet121": 0.750,
    "DenseNet169": 0.762,
    "DenseNet201": 0.773,
    "NASNetMobile": 0.744,
    "NASNetLarge": 0.825,
    "EfficientNetB0": 0.771,
    "EfficientNetB1": 0.791,
    "EfficientNetB2": 0.801,
    "EfficientNetB3": 0.816,
    "EfficientNetB4": 0.829,
    "EfficientNetB5": 0.836,
    "EfficientNetB6": 0.840,
    "EfficientNetB7": 0.843,
    "EfficientNetV2B0": 0.787,
    "EfficientNetV2B1": 0.798,
    "EfficientNetV2B2": 0.805,
    "EfficientNetV2B3": 0.820,
    "EfficientNetV2S": 0.839,
    "EfficientNetV2M": 0.853,
    "EfficientNetV2L": 0.857,
}


def names() -> list[str]:
    """All but NASNetMobile, which Keras does not build on torch."""
    if importlib.util.find_spec("keras") is None:
        return []
    return [name for name, application in _applications().items() if _refusal(application) is None]


def source(name: str, model: str) -> ModelSource:
    needed(name, "keras")
    applications = _applications()
    if model not in applications:
        raise unknown("Keras application", model, applications)
    application = applications[model]
    if refusal := _refusal(application):
        raise InputError(
            f"{name}: Keras says {refusal!r}; make an ONNX file of it once, megalith export {name} {model}.onnx, "
            f"and name that: onnx/{model}.onnx"
        )
    return ModelSource(
        name,
        _preprocessing(application),
        fetch=lambda: _fetch(name, application),
        read=lambda path, _device: _network(name, model, path),
        published=_PUBLISHED.get(model),
    )


def with_weights(model: str, path: Path) -> Any:
    """A Keras model on whatever backend Keras runs here, ending in logits, with the weights of an HDF5 file.

    Raises:
        Exception: nearly any, on a file that is not what it says.
    """
    if path.suffix != ".h5":
        raise ValueError("Keras reads its weights from .h5 and .weights.h5 files")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MobileNetV3 tells of its default size
        built = _applications()[model](weights=None, classifier_activation=None)
        built.load_weights(str(path))
    return built


class _ChannelsFirst(nn.Module):
    """A Keras model as torch modules usually are: (B, 3, h, w) in, and it stays on the device of its input."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        with _library().device(str(windows.device)):
            logits: Tensor = self.model(windows.permute(0, 2, 3, 1), training=False)
        return logits


def _network(name: str, model: str, path: Path) -> nn.Module:
    keras = _library()
    if keras.config.backend() != "torch":
        raise InputError(
            f"{name}: Keras was imported with its {keras.config.backend()} backend; set KERAS_BACKEND=torch before"
        )
    with keras.device("cpu"):
        return _ChannelsFirst(with_weights(model, path))


def _library() -> Any:
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"  # Keras chooses once, when it is imported
    keras = importlib.import_module("keras")
    keras.config.set_image_data_format("channels_last")  # whatever a user's keras.json says
    return keras


def _applications() -> dict[str, Application]:
    functions = inspect.getmembers(_library().applications, inspect.isfunction)
    return {name: each for name, each in functions if "classifier_activation" in inspect.signature(each).parameters}


def _refusal(application: Application) -> str | None:
    """Why Keras does not build a model on this backend, if it does not."""
    try:
        _input_size(application)
    except ValueError as error:
        return printable(error, 300)
    return None


def _input_size(application: Application) -> int:
    shape = _arguments_of("layers", "Input", application, weights=None)["shape"]
    return shape[0] or _ANY_SIZE


def _preprocessing(application: Application) -> Preprocessing:
    """From what Keras' own function makes of a black, a red, a green and a blue pixel."""
    pixels = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32).reshape(4, 1, 1, 3)
    preprocess_input = sys.modules[application.__module__].preprocess_input
    black, *primaries = np.asarray(preprocess_input(pixels, data_format="channels_last"), np.float64).reshape(4, 3)
    places = [int((primary - black).argmax()) for primary in primaries]
    gains = [(primary - black)[place] / 255 for primary, place in zip(primaries, places, strict=True)]
    size = _input_size(application)
    red, green, blue = (_clean(-black[place] / gain) for place, gain in zip(places, gains, strict=True))
    red_std, green_std, blue_std = (_clean(1 / gain) for gain in gains)
    return Preprocessing(
        input_size=size,
        resize=round(size / _CENTRE),
        interpolation="bilinear",
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        value_range=255.0,
        channels="".join("RGB"[place] for place in places),
    )


def _clean(value: float) -> float:
    """Without the noise of Keras' float32, and without a negative zero."""
    return float(f"{value:.6g}") + 0.0


def _fetch(name: str, application: Application) -> Path:
    keras = _library()
    file = _arguments_of("utils.file_utils", "get_file", application, weights="imagenet")
    try:
        return Path(keras.utils.get_file(**file))
    except Exception as error:  # Keras raises a bare one
        home = importlib.import_module("keras.src.backend.config").keras_home()
        path = Path(home, file["cache_subdir"], file["fname"])
        raise not_downloaded(name, path, file["origin"], error) from None


class _Reached(Exception):  # noqa: N818 - not an error
    """Stops an application where it calls one of Keras' functions."""


def _arguments_of(module: str, function: str, application: Application, **arguments: Any) -> dict[str, Any]:
    """With what an application calls one of Keras' own functions: there is no other way to ask for it."""
    home = importlib.import_module(f"keras.src.{module}")
    signature = inspect.signature(getattr(home, function))

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _Reached(signature.bind(*args, **kwargs).arguments)

    with _ONE_AT_A_TIME, mock.patch.object(home, function, stop), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            application(**arguments)
        except _Reached as reached:
            found: dict[str, Any] = reached.args[0]
            return found
    raise AssertionError(f"{application.__name__} never calls {function}")
