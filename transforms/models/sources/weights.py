"""Files of weights: fetched into their library's cache, and read without running anything in them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # raised by torch, and no more than that
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from transforms.errors import InputError, printable


def downloaded(name: str, url: str) -> Path:
    """The file in torch's own cache, downloaded and checked against the hash in its name if it is not there yet.

    Raises:
        InputError: it cannot be had; the message names the file and where to get it.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is going to be refused
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("it holds something else than tensors, code perhaps, and is not read") from None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by their names")
    # Training scripts often wrap the state dict beside optimiser and epoch.
    state = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), Mapping)), loaded)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"it holds {', '.join(map(str, list(state)[:5]))}, not tensors by their names")
    return {key.removeprefix("module."): value for key, value in state.items()}


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
        network.load_state_dict({rename(key): value for key, value in state_dict(path).items()})
        return network

    return read


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turns whatever goes wrong with a file into one line, an InputError."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise nearly anything on a file that is not what it says
        raise InputError(f"{path} does not hold the weights of {name}: {printable(error, 300)}") from None
