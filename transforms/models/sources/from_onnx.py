"""ONNX files, by their paths, run by ONNX Runtime: black boxes."""

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transforms.errors import InputError
from transforms.models.batches import in_micro_batches
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.probes import probes
from transforms.models.sources.source import BACKGROUND, CLASSES, ModelSource, needed
from transforms.models.sources.weights import reading

PREPROCESSING = "megalith.preprocessing"
"""Key of the file's metadata under which an exported model carries its preprocessing, as JSON."""

_TYPES = {1: torch.float32, 2: torch.uint8, 10: torch.float16}
"""Those of TensorProto that pictures may have."""
_PROBES = 4


class Pictures(NamedTuple):
    """What a file takes: how many at a time and of which side, None for any; uint8 are pixels of 0 to 255."""

    batch: int | None
    side: int | None
    channels_first: bool
    dtype: torch.dtype = torch.float32


def names() -> tuple[()]:
    """Files are not listed."""
    return ()


def source(name: str, path: Path, preprocessing: Mapping[str, Any]) -> ModelSource:
    """Raises InputError unless the file is a classifier of ImageNet's classes whose preprocessing is known in full."""
    needed(name, "onnx", "onnxruntime")
    model = _parsed(name, path)
    pictures, classes = _pictures(name, model), _classes(name, model)
    stated = {each.key: each.value for each in model.metadata_props}.get(PREPROCESSING, "{}")
    found = Preprocessing.stated(name, {**_keys(stated), **preprocessing})
    if pictures.side not in (None, found.input_size):
        raise InputError(f"{name}: preprocessing.input_size is {found.input_size}, and the file takes {pictures.side}")
    if pictures.dtype == torch.uint8 and (found.value_range, found.mean, found.std) != (255, (0, 0, 0), (1, 1, 1)):
        raise InputError(
            f"{name}: takes pixels as uint8 and normalises them itself; give preprocessing: "
            "{value_range: 255.0, mean: [0, 0, 0], std: [1, 1, 1]}"
        )
    if classes not in (None, CLASSES + found.offset):
        hint = BACKGROUND if classes == CLASSES + 1 else "it has to be one of ImageNet"
        raise InputError(f"{name}: tells {classes} classes apart, not {CLASSES + found.offset}; {hint}")
    return ModelSource(
        name,
        found,
        fetch=lambda: path,
        read=lambda file, device: _asked(name, Session(file.read_bytes(), device, pictures), found),
        differentiable=False,
        local=True,
    )


def _keys(stated: str) -> dict[str, Any]:
    """What a file says of its preprocessing; nothing if that is no JSON object, since anybody may have written it."""
    try:
        keys = json.loads(stated)
    except ValueError:
        return {}
    return keys if isinstance(keys, dict) else {}


def _parsed(name: str, path: Path) -> Any:
    if not path.is_file():
        raise InputError(
            f"{name}: no file {str(path)!r}; give the path of an ONNX file, such as `megalith export` writes"
        )
    onnx = importlib.import_module("onnx")
    with reading(path, name):
        model = onnx.load(str(path), load_external_data=False)
    if any(
        onnx.external_data_helper.uses_external_data(each)
        for part in (model.graph, *model.functions)
        for each in _tensors(part)
    ):
        raise InputError(f"{name}: keeps its weights in another file; make one file of them with onnx.save_model")
    return model


def _tensors(part: Any) -> Iterator[Any]:
    """All constants of a graph or function, also in the graphs inside it."""
    yield from getattr(part, "initializer", ())
    for attribute in (each for node in part.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _pictures(name: str, model: Any) -> Pictures:
    """What a file takes."""
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise InputError(f"{name}: has {len(inputs)} inputs and {len(model.graph.output)} outputs, not one of each")
    shape, kind = _shape(inputs[0]), inputs[0].type.tensor_type.elem_type
    match shape, _TYPES.get(kind):
        case [batch, 3, height, width], torch.dtype() as dtype if height == width:
            return Pictures(batch, height, True, dtype)
        case [batch, height, width, 3], torch.dtype() as dtype if height == width:
            return Pictures(batch, height, False, dtype)
    written = " × ".join("any" if each is None else str(each) for each in shape)
    named = importlib.import_module("onnx").TensorProto.DataType.Name(kind).lower()
    raise InputError(
        f"{name}: takes {written} of type {named}; it has to take pictures, any × 3 × h × h or any × h × h × 3, of "
        "type float, float16 or uint8"
    )


def _classes(name: str, model: Any) -> int | None:
    """How many a file tells apart, if it says so; (B, classes, 1, 1) is as good as (B, classes)."""
    shape = _shape(model.graph.output[0])
    several = [each for each in shape[1:] if each != 1]
    if len(several) > 1 and None not in several:
        raise InputError(f"{name}: answers {' × '.join(map(str, several))} numbers to a picture, not {CLASSES}")
    return several[0] if len(several) == 1 else None


def _shape(value: Any) -> list[int | None]:
    """None for a dimension that is free."""
    return [each.dim_value or None for each in value.type.tensor_type.shape.dim]


class Session(nn.Module):
    """An ONNX file as a network: windows (B, 3, h, h) to what it answers (B, classes), both on the caller's device.

    On one thread and with deterministic kernels, as all networks here. A file that was made for a certain number of
    pictures gets so many at a time.
    """

    def __init__(self, model: bytes, device: torch.device, pictures: Pictures) -> None:
        super().__init__()
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what goes wrong is raised as well
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"][device.type != "cuda" :]
        providers = [each for each in wanted if each in runtime.get_available_providers()]
        self.pictures = pictures
        self.session = runtime.InferenceSession(model, options, providers=providers)

    def forward(self, windows: Tensor) -> Tensor:
        shown = windows.detach().cpu()
        shown = shown if self.pictures.channels_first else shown.permute(0, 2, 3, 1)
        size = self.pictures.batch or len(shown)
        (answers,) = in_micro_batches(lambda items: (self._answer(shown[items]),), len(shown), size)
        return answers.to(windows.device)

    def _answer(self, shown: Tensor) -> Tensor:
        (entry,) = self.session.get_inputs()
        shown = shown.round() if self.pictures.dtype == torch.uint8 else shown
        (answer,) = self.session.run(None, {entry.name: shown.to(self.pictures.dtype).contiguous().numpy()})
        return torch.from_numpy(answer).float().reshape(len(shown), -1)


def _asked(name: str, session: Session, shown: Preprocessing) -> nn.Module:
    """The network, unless it answers between 0 and 1 and nobody says whether these are probabilities.

    Softmax and sigmoid, of 8 bits too, answer so; logits do it so rarely that a question does no harm.
    """
    if shown.outputs is None:
        answers = Classifier(session, shown, differentiable=False)(probes(_PROBES, shown.input_size))
        if answers.min() >= 0 and answers.max() <= 1:
            raise InputError(
                f"{name}: answers from {float(answers.min()):.2g} to {float(answers.max()):.2g}, which add up to "
                f"{float(answers.sum(dim=1).mean()):.3g} for a picture; give preprocessing: "
                "{outputs: probabilities}, or {outputs: logits}"
            )
    return session
