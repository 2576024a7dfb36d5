"""Any model as an ONNX file, with its preprocessing inside: `onnx/PATH` names it in an experiment."""

import importlib
import json
import os
import uuid
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from transforms.errors import InputError
from transforms.models.sources.from_onnx import PREPROCESSING
from transforms.models.sources.registry import model_source
from transforms.models.sources.source import ModelSource, needed
from transforms.models.sources.weights import reading
from transforms.plugins import refusing

_TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


def export(name: str, path: Path, weights: str | None = None) -> None:
    """Writes a model as one ONNX file: float (batch, 3, h, h), of Keras (batch, h, h, 3), to logits (batch, 1000).

    What it takes is preprocessed; its metadata tell how, and source and SHA-256 of the weights. torch models are
    exported by torch; those of Keras, in a process of its own, by Keras on TensorFlow, which builds also what it
    refuses to build on torch. The file appears whole or not at all.

    Args:
        name, weights: as for `model_source`.
        path: of the new file.

    Raises:
        InputError: as `model_source` and `ModelSource.load` do; the path is taken, or its folder is not there; the
            model is an ONNX file already, too large for one (2 GB), or not one that can be exported.
    """
    if name.startswith("onnx/"):
        raise InputError(f"{name} is an ONNX file already")
    if path.suffix != ".onnx":
        raise InputError(f"{path}: give the path of a new file whose name ends in .onnx")
    if path.exists():
        raise InputError(f"{path} exists already; give another path, or remove it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {str(path.parent)!r}")
    if not name.startswith("keras/"):
        needed(f"exporting {name}", "onnx", "onnxruntime", "onnxscript")
        with refusing(f"exporting {name}"):
            return _publish(*_by_torch(model_source(name, weights)), path)
    needed(f"exporting {name}", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
    # Keras chooses its backend once per process, and the one here may have chosen torch.
    with refusing(f"exporting {name}"), ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(_by_keras, name, path, weights).result()


def _by_torch(source: ModelSource) -> tuple[ModelSource, Any]:
    classifier = source.load(torch.device("cpu"))
    side = source.preprocessing.input_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            classifier.network,
            (torch.zeros(2, 3, side, side),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["pictures"],
            output_names=["logits"],
            verbose=False,
        )
    return source, program.model_proto


def _by_keras(name: str, path: Path, weights: str | None) -> None:
    os.environ.update(_TENSORFLOW)
    importlib.import_module("keras")
    source = model_source(name, weights)
    side = source.preprocessing.input_size
    with reading(source.weights, name):
        model = importlib.import_module("transforms.models.sources.from_keras").with_weights(
            name.partition("/")[2], source.weights
        )
    model(importlib.import_module("numpy").zeros((1, side, side, 3), "float32"))  # Keras exports only what has run
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "model.onnx"))
        model.export(file, format="onnx", verbose=False)
        _publish(source, importlib.import_module("onnx").load(file), path)


def _publish(source: ModelSource, model: Any, path: Path) -> None:
    told = {
        PREPROCESSING: json.dumps(source.preprocessing.keys()),
        "megalith.source": source.name,
        "megalith.weights_sha256": source.digest(),
    }
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(model.SerializeToString())
        unfinished.rename(path)
    except ValueError:  # protobuf's limit
        raise InputError(f"{source.name} is too large for one ONNX file (2 GB)") from None
    finally:
        unfinished.unlink(missing_ok=True)
