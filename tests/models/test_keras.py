"""Keras' applications on torch: equal to Keras' own call, differentiable, and shown what Keras' own functions make."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from torch import Tensor

from tests.support.keras import MODELS, MODULES, calibrated, pixels
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.sources import from_keras
from transforms.models.sources.registry import model_source, source_names

pytestmark = pytest.mark.system

CPU = torch.device("cpu")


def windows(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(pixels(count)).permute(0, 3, 1, 2).to(dtype) / 255


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("weights")

    def saved(name: str) -> str:
        path = folder / f"{name}.weights.h5"
        if not path.exists():
            calibrated(name).save_weights(path)
        return str(path)

    return saved


Weights = Callable[[str], str]


@pytest.fixture(scope="module")
def loaded(weights: "Weights") -> Callable[[str], Classifier]:
    """In single precision, each loaded once."""
    return cache(lambda name: model_source(f"keras/{name}", weights(name)).load(CPU))


Loaded = Callable[[str], Classifier]


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_keras_own(name: str, loaded: Loaded) -> None:
    classifier = loaded(name)
    with torch.inference_mode():
        found = classifier(windows(2)).numpy()
    shown = MODULES[name].preprocess_input(pixels(2), data_format="channels_last")
    expected = calibrated(name).predict(shown, verbose=0)
    assert (expected[0] - expected[1]).std() > 0.1 * expected.std() > 0
    assert np.abs(found - expected).max() < 1e-3 * expected.std()


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keras in double precision; on torch its batch normalisation would still round to single."""
    monkeypatch.setitem(keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MODELS)
def test_gradients_against_finite_differences(name: str, weights: Weights) -> None:
    """Central differences in double precision along random directions, at a picture without two equal pixels."""
    network = model_source(f"keras/{name}", weights(name)).load(CPU)
    classifier = Classifier(network.network.double(), network.preprocessing).double()
    generator = torch.Generator().manual_seed(0)
    picture = windows(1, torch.float64) + 0.01 * torch.rand((1, 3, 224, 224), generator=generator, dtype=torch.float64)
    picture.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(picture)[0, 7], picture)
    step = 1e-10  # a ReLU is bent somewhere: the shorter the step, the fewer kinks it passes
    for _ in range(3):
        direction = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
        slope = (gradient * direction).sum()
        with torch.no_grad():
            above, below = (classifier(picture + sign * step * direction)[0, 7] for sign in (1, -1))
        assert float((above - below) / (2 * step)) == pytest.approx(float(slope), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_float32_gradients_flow_to_every_pixel(name: str, loaded: Loaded) -> None:
    classifier = loaded(name)
    assert model_source(f"keras/{name}").differentiable and classifier.differentiable
    picture = windows(2).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(picture)[:, 7].sum(), picture)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9
    assert not any(each.requires_grad for each in classifier.parameters())


# Preprocessing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [each.removeprefix("keras/") for each in source_names() if each.startswith("keras/")])
def test_preprocessing_is_keras_own(name: str) -> None:
    """Of any pixel, not only of those from which it was found out."""
    found = model_source(f"keras/{name}").preprocessing
    module = sys.modules[getattr(keras.applications, name).__module__]
    drawn = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    expected = module.preprocess_input(drawn.copy(), data_format="channels_last")
    shown = (drawn / 255 * found.value_range - found.mean) / found.std
    shown = shown[..., ::-1] if found.channels == "BGR" else shown
    assert np.allclose(shown, expected, rtol=1e-5, atol=1e-3)


def test_blue_comes_first_for_caffes_networks() -> None:
    channels = {name: model_source(f"keras/{name}").preprocessing.channels for name in [*MODELS, "VGG16"]}
    assert channels == {**dict.fromkeys(MODELS, "RGB"), "ResNet50": "BGR", "VGG16": "BGR"}
    found = model_source("keras/ResNet50").preprocessing
    assert found.mean == (123.68, 116.779, 103.939)  # Caffe's means, here of red, green, blue
    assert (found.std, found.value_range) == ((1, 1, 1), 255)


@pytest.mark.parametrize(
    ("name", "size"),
    [  # from Keras' documentation
        ("ResNet50", 224),
        ("InceptionV3", 299),
        ("Xception", 299),
        ("NASNetLarge", 331),
        ("EfficientNetB0", 224),
        ("EfficientNetB7", 600),
        ("EfficientNetV2S", 384),
        ("MobileNetV3Large", 224),
        ("ConvNeXtTiny", 224),
    ],
)
def test_input_sizes(name: str, size: int) -> None:
    found = model_source(f"keras/{name}").preprocessing
    assert found.input_size == size
    assert found.field_of_view == pytest.approx(7 / 8, abs=2e-3)


def test_what_is_published() -> None:
    """keras.io/api/applications."""
    assert model_source("keras/ResNet50").published == 0.749
    assert model_source("keras/MobileNetV3Small").published is None
    # Of one family, the larger network is the better one.
    family = [model_source(f"keras/EfficientNetB{number}").published or 0.0 for number in range(8)]
    assert family == sorted(family) and len({*family}) == 8 and family[-1] == 0.843


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_in_the_old_format(tmp_path: Path) -> None:
    """As the applications' own downloads are."""
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, calibrated("MobileNetV2"))
    classifier = model_source("keras/MobileNetV2", str(path)).load(CPU)
    with torch.inference_mode():
        expected = calibrated("MobileNetV2")(2 * windows(1).permute(0, 2, 3, 1) - 1, training=False)
        assert torch.allclose(classifier(windows(1)), expected, atol=1e-3 * float(expected.std()))


def refused(path: Path, name: str = "keras/MobileNetV2") -> str:
    with pytest.raises(InputError) as caught:
        model_source(name, str(path)).load(CPU)
    message = str(caught.value)
    assert message.startswith(f"{path} does not hold the weights of {name}: ")
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_files_that_are_not_hdf5(suffix: str, weights: Weights, tmp_path: Path) -> None:
    whole = Path(weights("MobileNetV2")).read_bytes()
    for content in (b"", b"not\nHDF5", pickle.dumps([1]), whole[:-100_000]):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        refused(path)


def test_another_suffix(tmp_path: Path) -> None:
    for suffix in (".keras", ".pth", ".safetensors"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(b"PK")
        assert "Keras reads its weights from .h5 and .weights.h5 files" in refused(path)


def test_another_networks_weights(weights: Weights, tmp_path: Path) -> None:
    refused(Path(weights("ResNet50")))
    old = tmp_path / "old.h5"
    with h5py.File(old, "w") as file:
        save_weights_to_hdf5_group(file, calibrated("ResNet50"))
    refused(old)


def test_ten_classes(tmp_path: Path) -> None:
    path = tmp_path / "ten.weights.h5"
    keras.applications.MobileNetV2(weights=None, classes=10).save_weights(path)
    refused(path)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Keras' downloads."""
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return tmp_path / "models"


FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
URL = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{FILE}"


def test_what_offline_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: Any, **_keys: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    source = model_source("keras/MobileNetV2")
    with pytest.raises(InputError) as caught:
        source.digest()
    message = str(caught.value)
    assert message.startswith(f"keras/MobileNetV2: no {home / FILE}, and downloading it failed (no route to host)")
    assert URL in message and "'weights:'" in message and "\n" not in message


def test_a_cached_download_is_taken(home: Path, weights: Weights) -> None:
    home.mkdir()
    with h5py.File(home / FILE, "w") as file:
        save_weights_to_hdf5_group(file, calibrated("MobileNetV2"))
    source, other = model_source("keras/MobileNetV2"), model_source("keras/MobileNetV2", weights("MobileNetV2"))
    assert source.weights == home / FILE
    with torch.inference_mode():
        assert torch.allclose(source.load(CPU)(windows(1)), other.load(CPU)(windows(1)))


# Keras' own limits ---------------------------------------------------------------------------------------------------


def test_nasnet_is_refused_by_keras() -> None:
    with pytest.raises(InputError) as caught:
        model_source("keras/NASNetMobile")
    message = str(caught.value)
    assert "not available with the torch backend" in message and "\n" not in message
    assert "megalith export keras/NASNetMobile NASNetMobile.onnx" in message and "onnx/NASNetMobile.onnx" in message
    assert "keras/NASNetMobile" not in source_names() and "keras/NASNetLarge" in source_names()


def test_unknown_applications() -> None:
    for name, meant in (("resnet50", "ResNet50"), ("ResNet5O", "ResNet50"), ("EfficientNetb0", "EfficientNetB0")):
        with pytest.raises(InputError, match=f"unknown Keras application '{name}'; did you mean '{meant}'"):
            model_source(f"keras/{name}")


def test_keras_on_another_backend(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras.config.backend", lambda: "jax")
    with pytest.raises(InputError) as caught:
        model_source("keras/MobileNetV2", weights("MobileNetV2")).load(CPU)
    assert str(caught.value) == (
        "keras/MobileNetV2: Keras was imported with its jax backend; set KERAS_BACKEND=torch before"
    )


def test_keras_on_torch_whatever_the_user_set(tmp_path: Path) -> None:
    """Backend, layout of images, and with them the results, depend neither on the environment nor on keras.json."""
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow", "image_data_format": "channels_first"}')
    code = (
        "from transforms.models.sources.registry import model_source as m; "
        "print(m('keras/VGG16').preprocessing.channels)"
    )
    code += "; import keras; print(keras.config.backend(), keras.config.image_data_format())"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BGR", "torch", "channels_last"]


def test_it_stays_on_its_device(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Keras would choose another, as it does on a machine with an accelerator."""
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    found = model_source("keras/MobileNetV2", weights("MobileNetV2")).load(CPU)(windows(1))
    assert found.device == CPU and found.isfinite().all()


def test_asking_keras_leaves_it_as_it_was() -> None:
    layer, fetch = keras.src.layers.Input, keras.src.utils.file_utils.get_file
    model_source("keras/MobileNetV2")
    assert keras.src.layers.Input is layer and keras.src.utils.file_utils.get_file is fetch
    assert from_keras.names()


def test_without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util  # noqa: PLC0415 - beside its only use

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "keras" else find(name))
    with pytest.raises(InputError, match=r"^keras/ResNet50 needs: pip install keras$"):
        model_source("keras/ResNet50")
    assert not any(name.startswith("keras/") for name in source_names())
