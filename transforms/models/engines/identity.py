"""Identity: a name for all that an engine makes of a network, and its agreement with torch, depend on."""

import warnings
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from transforms.models.classifier import Classifier

TRACING = Lock()
"""torch's tracing has one state for all threads."""
_traced: Any = torch.jit._get_trace_graph  # type: ignore[attr-defined]
"""As torch's exporter by tracing does it."""
_LIBRARIES = ("onnx", "onnxruntime", "torch")
_OURS = Path(__file__).parents[1]
"""Our code about models, this module's among it."""


def identity(classifier: Classifier) -> str:
    """SHA-256, hexadecimal, of a network on a CPU: its graph, its tensors, the libraries, our code and the processor.

    The graph is the one that torch traces: the network as it runs, with all that its code decides.

    Raises:
        Exception: nearly any, of a network that cannot be traced.
    """
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph, _ = _traced(classifier.network, (example(classifier),))
    digest = sha256()
    libraries = (f"{name} {version(name)}" for name in _LIBRARIES)
    code = (file.read_text() for file in sorted(_OURS.rglob("*.py")))
    for text in (str(graph), torch.backends.cpu.get_cpu_capability(), *libraries, *code):
        digest.update(sha256(text.encode()).digest())
    for name, tensor in _tensors(classifier, graph):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def example(classifier: Classifier) -> Tensor:
    """Two pictures with which a network is traced."""
    side = classifier.preprocessing.input_size
    return torch.zeros(2, 3, side, side)


def _tensors(classifier: Classifier, graph: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and the constants of a graph, of which its text does not have the values."""
    yield from classifier.network.named_parameters()
    yield from classifier.network.named_buffers()
    for node in graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield "constant", node.t("value")
