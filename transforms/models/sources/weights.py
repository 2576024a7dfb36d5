"""Files of weights: fetched into their library's cache, and read without running anything in them."""

import argparse
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # raised by torch, and no more than that
from typing import Any, cast
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from transforms.errors import InputError, out_of_memory, printable

_HARMLESS: list[Any] = [argparse.Namespace, np.dtype, np.float64(0).__reduce__()[0]]
_HARMLESS += [type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float16", "float32", "float64")]
"""What training scripts store beside tensors: settings, and numbers of NumPy. None of it runs code."""

# Training scripts wrap the state dict beside optimiser and epoch; of averaged weights and plain ones, the averaged are
# those that were evaluated, as timm has it too.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net")
_WRAPPER = re.compile(r"(?:module|_orig_mod|attacker|model|net|network|backbone)\.")
_WRAPPERS_OF_KEYS = re.compile(f"(?:{_WRAPPER.pattern})+")
_NORMALISER = re.compile(r"(?:.*\.)?normali[sz](?:er?|ation)\.(?:new_)?(mean|std)|(?:module\.)*(mean|std|mu|sigma)")


def downloaded(name: str, url: str, file: str | None = None) -> Path:
    """The file in torch's own cache, downloaded and checked against the hash in its name if it is not there yet.

    Args:
        file: its name there, where the address has none; nothing is then known of its hash.

    Raises:
        InputError: it cannot be had; the message names the file and where to get it.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", file or Path(urlparse(url).path).name)
    expected = None if file else path.stem.rpartition("-")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected)
        except (OSError, RuntimeError) as error:  # no network; no such folder; the wrong hash
            raise not_downloaded(name, path, url, error) from None
    return path


def not_downloaded(name: str, path: Path, url: str, error: Exception) -> InputError:
    """The error for weights that are neither in a cache nor to be had."""
    return InputError(
        f"{name}: no {path}, and downloading it failed ({printable(error, 300)}); put {url} there, "
        "or give a local file as 'weights:'"
    )


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a file: safetensors by its suffix, anything else as torch.save wrote it (tensors only, no code).

    Raises:
        Exception: nearly any, on a file that is not what it says; `reading` makes one line of it.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415 - needed for such files only

        return load_file(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # of a pickle that is going to be refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("it holds something else than tensors, code perhaps, and is not read") from None
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}, not tensors by their names")
    for _ in _WRAPPERS:  # each at most once: a hostile file may hold itself
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), state)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"it holds {', '.join(map(str, list(state)[:5]))}, not tensors by their names")
    return dict(state)


@dataclass(frozen=True)
class Unwrapped:
    """The tensors of a network, without the modules around it with which it was trained.

    Attributes:
        state: tensors by the network's own names, as far as the file has them.
        normaliser: mean and std of red, green and blue, of pixels in [0, 1], where a module inside the checkpoint
            normalised what the network was shown.
    """

    state: dict[str, Tensor]
    normaliser: tuple[tuple[float, ...], tuple[float, ...]] | None


def unwrapped(state: Mapping[str, Tensor], expected: Collection[str], rename: Callable[[str], str] = str) -> Unwrapped:
    """Takes a network out of data parallelism, compilation, averaging, an attacker and a normaliser around it.

    Args:
        expected: the network's own names of its tensors.
        rename: the network's name for a tensor, from its name in the file.

    Raises:
        ValueError: the file holds the network twice, with other weights.
    """
    if {rename(key) for key in state} == set(expected):
        return Unwrapped({rename(key): value for key, value in state.items()}, None)
    rest, statistics = {}, {}
    for key, value in state.items():
        match = _NORMALISER.fullmatch(key)
        if match and value.numel() == len("RGB") and key not in expected:
            kind = "mean" if (match[1] or match[2]) in ("mean", "mu") else "std"
            statistics[kind] = tuple(value.double().flatten().tolist())
        elif key != "n_averaged":  # a count, of torch.optim.swa_utils.AveragedModel
            rest[key] = value
    prefixes = {key[: match.end()] for key in rest for match in _WRAPPER.finditer(_wrapping(key))} | {""}
    inside = {prefix: [key for key in rest if key.startswith(prefix)] for prefix in prefixes}

    def fits(prefix: str) -> tuple[int, int, int]:
        names = {rename(key.removeprefix(prefix)) for key in inside[prefix]}
        return len(names & set(expected)), -len(names - set(expected)), len(prefix)

    best = max(sorted(prefixes), key=fits)
    found = {rename(key.removeprefix(best)): rest[key] for key in inside[best]}
    for key in sorted(rest.keys() - set(inside[best])):
        copy = found.get(rename(key.removeprefix(_wrapping(key))))
        if copy is None:
            found[key] = rest[key]  # one too many
        elif not torch.equal(copy, rest[key]):
            raise ValueError(f"it holds the network twice, and {key} differs")
    normaliser = (statistics["mean"], statistics["std"]) if len(statistics) == len(("mean", "std")) else None
    return Unwrapped(found, normaliser)


def _wrapping(key: str) -> str:
    """What the modules around a network put before the names of its tensors, if they do."""
    match = _WRAPPERS_OF_KEYS.match(key)
    return match[0] if match else ""


def state_dict_into(
    build: Callable[[], nn.Module], rename: Callable[[str], str] = str
) -> Callable[[Path, torch.device], nn.Module]:
    """A `ModelSource.read` for a state dict: all of its tensors must fit, and none may lack.

    Args:
        build: makes the network, without weights.
        rename: the network's name for a tensor, from its name in the file.
    """

    def read(path: Path, _device: torch.device) -> nn.Module:
        network = build()
        state = state_dict(path)
        expected = network.state_dict().keys()
        found = unwrapped(state, expected, rename)
        if differing := found.state.keys() ^ expected:
            matching = len(found.state.keys() & expected)
            raise ValueError(
                f"of the {len(expected)} tensors that it needs the file has {matching}; the file's {len(state)} are "
                f"{', '.join(list(state)[:5])} …; "
                f"{'lacking' if min(differing) in expected else 'too many'}, for one: {min(differing)}"
            )
        network.load_state_dict(found.state)
        cast(Any, network).normaliser = found.normaliser  # for ModelSource.load, which knows the preprocessing
        return network

    return read


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turns whatever goes wrong with a file into one line, an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise nearly anything on a file that is not what it says
        if out_of_memory(error):
            raise
        raise InputError(f"{path} does not hold the weights of {name}: {printable(error, 300)}") from None
