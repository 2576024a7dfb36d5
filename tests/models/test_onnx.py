"""ONNX files: what is exported answers as the original does, and what is no such classifier is refused in one line."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.nasnet import NASNet
from tests.support.runs import IMAGENET_SAMPLE, needs_imagenet_sample
from transforms.data.decode import CanvasSpec, decode
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.export import export
from transforms.models.pin import pin
from transforms.models.sources.registry import model_source
from transforms.models.sources.source import ModelSource
from transforms.models.views import center, look
from transforms.steps.held_models import HeldModels

pytestmark = pytest.mark.system

CPU = torch.device("cpu")
LITE1 = "packaged/efficientnet-lite1"
SHOWN: dict[str, Any] = {
    "input_size": 8,
    "resize": 8,
    "interpolation": "bilinear",
    "antialias": True,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "value_range": 1.0,
    "channels": "RGB",
}


# What megalith exports -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "lite1.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Nobody is told of what torch's exporter warns of.
        export(LITE1, path)
    return path


@needs_imagenet_sample
def test_an_export_answers_as_its_original(exported: Path, lite1: Classifier) -> None:
    """The same label for each of the 200 pictures, and confidences within one in ten thousand."""
    files = sorted(IMAGENET_SAMPLE.glob("*.JPEG"))
    canvases = torch.stack([torch.from_numpy(decode(each.read_bytes(), CanvasSpec(256, 224)).canvas) for each in files])
    assert len(canvases) == 200
    source = model_source(f"onnx/{exported}")
    classifier = source.load(CPU)
    assert not source.differentiable and not classifier.differentiable and source.published is None
    assert source.preprocessing == lite1.preprocessing
    with torch.inference_mode():
        found, expected = (
            torch.cat([look(each, center, some / 255, 224 / 256) for some in canvases.split(7)])
            for each in (classifier, lite1)
        )
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    assert (found.softmax(dim=1) - expected.softmax(dim=1)).abs().max() < 1e-4


def test_an_answer_does_not_depend_on_the_neighbours(exported: Path, samples: Samples) -> None:
    classifier = model_source(f"onnx/{exported}").load(CPU)
    windows = samples.canvases[:4] / 255
    assert torch.equal(classifier(windows), classifier(windows))
    assert torch.equal(classifier(windows)[[2, 0]], classifier(windows[[2, 1, 0, 3]])[[0, 2]])


def test_what_an_export_tells_of_itself(exported: Path) -> None:
    told = {each.key: each.value for each in onnx.load(exported).metadata_props}
    original = model_source(LITE1)
    assert json.loads(told["megalith.preprocessing"]) == json.loads(json.dumps(original.preprocessing.keys()))
    assert told["megalith.source"] == LITE1
    assert told["megalith.weights_sha256"] == original.digest()
    assert [each.name for each in exported.parent.iterdir()] == [exported.name]  # nothing else is left


def test_an_export_can_be_shown_otherwise(exported: Path) -> None:
    found = model_source(f"onnx/{exported}", preprocessing={"interpolation": "nearest"}).preprocessing
    assert found.interpolation == "nearest" and found.resize == 272


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A linear model of somebody's, by the name `mine`."""
    torch.manual_seed(0)
    shown = model_source(LITE1, preprocessing=SHOWN).preprocessing
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1000))
    (tmp_path / "weights").write_bytes(b"abc")
    source = ModelSource("mine", shown, lambda: tmp_path / "weights", lambda *_: network)
    monkeypatch.setattr("transforms.models.export.model_source", lambda *_: source)
    return source


def test_an_exported_model_is_shown_what_its_original_is(mine: ModelSource, tmp_path: Path) -> None:
    export("mine", tmp_path / "mine.onnx")
    found = model_source(f"onnx/{tmp_path / 'mine.onnx'}")
    assert found.preprocessing == mine.preprocessing
    with torch.no_grad():
        assert torch.allclose(found.load(CPU)(windows(3)), mine.load(CPU)(windows(3)), atol=1e-5)


def test_nothing_is_overwritten(exported: Path, tmp_path: Path) -> None:
    before = exported.read_bytes()
    for name, path, message in (
        (LITE1, tmp_path / "x.pt", f"{tmp_path}/x.pt: give the path of a new file whose name ends in .onnx"),
        (LITE1, exported, f"{exported} exists already; give another path, or remove it"),
        ("keras/NASNetMobile", exported, f"{exported} exists already; give another path, or remove it"),
        (LITE1, tmp_path / "no" / "x.onnx", f"{tmp_path}/no/x.onnx: no folder '{tmp_path}/no'"),
        (f"onnx/{exported}", tmp_path / "x.onnx", f"onnx/{exported} is an ONNX file already"),
    ):
        with pytest.raises(InputError) as caught:
            export(name, path)
        assert str(caught.value) == message
    assert exported.read_bytes() == before


@pytest.mark.usefixtures("mine")
def test_a_failing_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export("mine", tmp_path / "x.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["weights"]


def test_nasnet_answers_as_keras_own(nasnet: NASNet) -> None:
    source = model_source(f"onnx/{nasnet.path}")
    assert (source.preprocessing.input_size, source.preprocessing.mean) == (224, (127.5, 127.5, 127.5))
    found = source.load(CPU)(torch.from_numpy(nasnet.pixels).permute(0, 3, 1, 2) / 255).numpy()
    expected = nasnet.expected
    assert (expected[0] - expected[1]).std() > 0.1 * expected.std() > 0
    assert np.abs(found - expected).max() < 1e-3 * expected.std()


def test_what_is_wrong_in_the_other_process_comes_back(tmp_path: Path) -> None:
    (tmp_path / "no.weights.h5").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"no.weights.h5 does not hold the weights of keras/MobileNet: ") as caught:
        export("keras/MobileNet", tmp_path / "x.onnx", str(tmp_path / "no.weights.h5"))
    assert "\n" not in str(caught.value) and not (tmp_path / "x.onnx").exists()


# What others export --------------------------------------------------------------------------------------------------


def linear(
    path: Path,
    shape: tuple[Any, ...] = ("batch", 3, 8, 8),
    classes: int = 1000,
    softmax: bool = False,
    kind: int = TensorProto.FLOAT,
    says_classes: bool = True,
) -> np.ndarray[Any, Any]:
    """Writes a linear classifier and returns its matrix (classes, values), which sees the values as they lie."""
    sides = [side for side in shape[1:] if isinstance(side, int)]
    matrix = np.random.default_rng(0).normal(size=(int(np.prod(sides)), classes)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    if kind != TensorProto.FLOAT:
        nodes = [helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT), *nodes]
        nodes[1].input[0] = "cast"
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["answer"], axis=1))
    last = "answer" if softmax else "logits"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, (shape[0], classes if says_classes else "classes"))],
        [numpy_helper.from_array(matrix, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return matrix.T


def windows(count: int) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_pictures(batch: str | int, count: int, tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx", (batch, 3, 8, 8))
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)(windows(count))
    assert np.allclose(found.numpy(), windows(count).numpy().reshape(count, -1) @ matrix.T, atol=1e-4)


def test_channels_last(tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx", ("batch", 8, 8, 3))
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)(windows(2))
    expected = windows(2).numpy().transpose(0, 2, 3, 1).reshape(2, -1) @ matrix.T
    assert np.allclose(found.numpy(), expected, atol=1e-4)


def test_preprocessing_comes_before_the_file(tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx")
    other = {**SHOWN, "channels": "BGR", "value_range": 255.0, "mean": [100.0, 110, 120], "std": [1.0, 2, 4]}
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=other).load(CPU)(windows(2))
    pixels = 255 * windows(2).numpy().astype(float)
    shown = (pixels - np.reshape([100, 110, 120], (3, 1, 1))) / np.reshape([1, 2, 4], (3, 1, 1))
    expected = shown[:, ::-1].reshape(2, -1) @ matrix.T.astype(float)
    assert np.allclose(found.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    """The same up to a constant, which no probability and no comparison of classes sees."""
    linear(tmp_path / "logits.onnx")
    linear(tmp_path / "probabilities.onnx", softmax=True)
    logits, found = (
        model_source(f"onnx/{tmp_path / name}.onnx", preprocessing={**SHOWN, "outputs": name}).load(CPU)(windows(3))
        for name in ("logits", "probabilities")
    )
    assert torch.allclose(found, logits.log_softmax(dim=1), atol=1e-3)
    session = onnxruntime.InferenceSession(tmp_path / "probabilities.onnx")
    (raw,) = session.run(None, {"x": windows(3).numpy()})
    assert np.allclose(found.softmax(dim=1).numpy(), raw, atol=1e-6)


def ending(path: Path, *ends: onnx.NodeProto, shape: tuple[Any, ...] = ("batch", 1000), **linear_: Any) -> Any:
    """Writes `linear` with further nodes behind it, from "logits" to "answer", and returns its matrix."""
    matrix = linear(path, **linear_)
    model = onnx.load(path)
    model.graph.node.extend(ends)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answer", TensorProto.FLOAT, shape))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / 256, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.uint8), "zero"),
        ]
    )
    onnx.save(model, path)
    return matrix


SOFTMAX = helper.make_node("Softmax", ["logits"], ["answer"], axis=1)
SIGMOID = helper.make_node("Sigmoid", ["logits"], ["answer"])
EIGHT_BITS = (
    helper.make_node("Softmax", ["logits"], ["p"], axis=1),
    helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["answer"]),
)


@pytest.mark.parametrize("ends", [(SOFTMAX,), (SIGMOID,), EIGHT_BITS], ids=["softmax", "sigmoid", "8 bits"])
def test_what_may_be_probabilities_is_asked_about_and_never_guessed(ends: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    ending(path, *ends)
    with pytest.raises(InputError, match=r"give preprocessing: {outputs: probabilities}, or {outputs: logits}$"):
        model_source(f"onnx/{path}", preprocessing=SHOWN).load(CPU)
    (raw,) = onnxruntime.InferenceSession(path).run(None, {"x": windows(3).numpy()})
    found, plain = (
        model_source(f"onnx/{path}", preprocessing={**SHOWN, "outputs": outputs}).load(CPU)(windows(3)).numpy()
        for outputs in ("probabilities", "logits")
    )
    assert np.array_equal(plain, raw)
    expected = raw / raw.sum(axis=1, keepdims=True)
    assert np.allclose(torch.from_numpy(found).softmax(dim=1).numpy(), expected, atol=1e-6)


def test_an_answer_of_four_dimensions(tmp_path: Path) -> None:
    matrix = ending(
        tmp_path / "x.onnx",
        helper.make_node("Unsqueeze", ["logits", "ends"], ["answer"]),
        shape=("batch", 1000, 1, 1),
    )
    model = onnx.load(tmp_path / "x.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "ends"))
    onnx.save(model, tmp_path / "x.onnx")
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)(windows(2))
    assert np.allclose(found.numpy(), windows(2).numpy().reshape(2, -1) @ matrix.T, atol=1e-4)


def test_a_background_class_is_left_out(tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx", classes=1001)
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing={**SHOWN, "offset": 1}).load(CPU)(windows(2))
    assert np.allclose(found.numpy(), (windows(2).numpy().reshape(2, -1) @ matrix.T)[:, 1:], atol=1e-4)


def test_pictures_in_half_precision(tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx", kind=TensorProto.FLOAT16)
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)(windows(2))
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), windows(2).half().float().numpy().reshape(2, -1) @ matrix.T, atol=1e-4)


def test_pictures_as_pixels(tmp_path: Path) -> None:
    matrix = linear(tmp_path / "x.onnx", kind=TensorProto.UINT8)
    shown = {**SHOWN, "value_range": 255.0}
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    found = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=shown).load(CPU)(pixels / 255)
    assert np.allclose(found.numpy(), pixels.float().numpy().reshape(2, -1) @ matrix.T, rtol=1e-4, atol=1e-2)


def test_a_pin_holds_what_a_file_answers_with(tmp_path: Path) -> None:
    linear(tmp_path / "x.onnx", softmax=True)
    pinned = pin(f"onnx/{tmp_path / 'x.onnx'}", preprocessing={**SHOWN, "outputs": "probabilities"})
    assert HeldModels({"x": pinned}, "cpu")["x"](windows(2)).max() < 0


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    linear(tmp_path / "x.onnx")
    assert model_source("onnx/~/x.onnx", preprocessing=SHOWN).weights == tmp_path / "x.onnx"


def test_a_black_box_has_no_gradient(tmp_path: Path) -> None:
    linear(tmp_path / "x.onnx")
    picture = windows(1).requires_grad_()
    classifier = model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)
    assert not classifier(picture).requires_grad and not classifier.differentiable


def test_a_relative_path_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear(tmp_path / "x.onnx")
    monkeypatch.chdir(tmp_path)
    pinned = pin("onnx/x.onnx", preprocessing=SHOWN)
    assert pinned.source == "onnx/x.onnx" and pinned.weights == str(tmp_path / "x.onnx")
    monkeypatch.chdir("/")
    assert HeldModels({"x": pinned}, "cpu")["x"](windows(2)).shape == (2, 1000)


# What is refused -----------------------------------------------------------------------------------------------------


def refused(path: Path, preprocessing: dict[str, Any] | None = None) -> str:
    """Before anything is loaded."""
    with pytest.raises(InputError) as caught:
        model_source(f"onnx/{path}", preprocessing=SHOWN if preprocessing is None else preprocessing)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    return message.replace(f"onnx/{path}", "it")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"classes": 1001},
            "it: tells 1001 classes apart, not 1000; give preprocessing: {offset: 1} if the first is a background",
        ),
        ({"classes": 10}, "it: tells 10 classes apart, not 1000"),
        ({"shape": ("batch", 3, 9, 9)}, "it: preprocessing.input_size is 8, and the file takes 9"),
        ({"shape": ("batch", 3, 8, 9)}, "it: takes any × 3 × 8 × 9 of type float; it has to take pictures"),
        ({"shape": ("batch", 1, 8, 8)}, "it: takes any × 1 × 8 × 8 of type float; it has to take pictures"),
        ({"shape": (2, 3, 8)}, "it: takes 2 × 3 × 8 of type float; it has to take pictures"),
        ({"kind": TensorProto.INT8}, "it: takes any × 3 × 8 × 8 of type int8; it has to take pictures"),
        (
            {"kind": TensorProto.UINT8},
            "it: takes pixels as uint8 and normalises them itself; "
            "give preprocessing: {value_range: 255.0, mean: [0, 0, 0], std: [1, 1, 1]}",
        ),
    ],
    ids=str,
)
def test_files_that_do_not_fit(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    linear(tmp_path / "x.onnx", **keys)
    assert refused(tmp_path / "x.onnx").startswith(message)


def test_a_number_of_classes_that_only_running_shows(tmp_path: Path) -> None:
    linear(tmp_path / "x.onnx", classes=999, says_classes=False)
    with pytest.raises(InputError, match=r"x.onnx\): answers \(1, 999\) to one picture, not \(1, 1000\) logits"):
        model_source(f"onnx/{tmp_path / 'x.onnx'}", preprocessing=SHOWN).load(CPU)


def test_preprocessing_that_nobody_states(tmp_path: Path) -> None:
    linear(tmp_path / "x.onnx")
    message = refused(tmp_path / "x.onnx", {"input_size": 8, "mean": [0.0, 0.0, 0.0]})
    assert message == (
        "it: give its preprocessing, which nothing else says: "
        "resize, interpolation, std, antialias, value_range, channels"
    )


@pytest.mark.parametrize("stated", ["", "[1]", "nonsense", '{"resize": "big"}', '{"mean": 5}', "{}"])
def test_metadata_that_anybody_wrote(stated: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    linear(path)
    model = onnx.load(path)
    model.metadata_props.add(key="megalith.preprocessing", value=stated)
    onnx.save(model, path)
    assert "preprocessing" in refused(path, {})
    assert model_source(f"onnx/{path}", preprocessing=SHOWN).preprocessing.input_size == 8


@pytest.mark.parametrize("content", [b"", b"not ONNX\nat all", b"\x80\x04cposix\nsystem\n", b"\xff" * 64], ids=len)
def test_files_that_are_no_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    refused(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    linear(path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path)


def test_a_graph_that_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    linear(path)
    model = onnx.load(path)
    model.graph.node[1].op_type = "Penguin"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"x.onnx does not hold the weights of onnx/.*Penguin") as caught:
        model_source(f"onnx/{path}", preprocessing=SHOWN).load(CPU)
    assert "\n" not in str(caught.value)


def _outside_initializer(model: Any) -> None:
    pass


def _outside_in_a_constant(model: Any) -> None:
    (weights,) = model.graph.initializer
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    model.graph.node.insert(0, constant)
    del model.graph.initializer[:]


@pytest.mark.parametrize("place", [_outside_initializer, _outside_in_a_constant])
def test_weights_in_a_second_file(place: Callable[[Any], None], tmp_path: Path) -> None:
    """A digest of the one would not be of the other, and the other may be any file of the machine."""
    path = tmp_path / "x.onnx"
    linear(path)
    model = onnx.load(path)
    place(model)
    onnx.save(model, path, save_as_external_data=True, location="beside", size_threshold=0, convert_attribute=True)
    assert (tmp_path / "beside").exists()
    assert refused(path) == "it: keeps its weights in another file; make one file of them with onnx.save_model"


def test_two_inputs(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    linear(path)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1,)))
    onnx.save(model, path)
    assert refused(path) == "it: has 2 inputs and 1 outputs, not one of each"


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "x.onnx", tmp_path):
        assert refused(path).startswith(f"it: no file {str(path)!r}")


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util  # noqa: PLC0415 - beside its only use

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(InputError, match=r"^onnx/x.onnx needs: pip install onnx onnxruntime$"):
        model_source("onnx/x.onnx")
    with pytest.raises(InputError, match=r"^exporting .*lite1 needs: pip install onnx onnxruntime onnxscript$"):
        export(LITE1, tmp_path / "x.onnx")
