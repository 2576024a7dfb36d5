"""Attacks on a GPU: `python -m benchmarks.gpu [FOLDER]`, in eight minutes at most.

FOLDER holds pictures and `labels.csv`; foolbox's 20 are taken without one. `--device cpu` tries the script where there
is no GPU, with few pictures and one step: it shows that everything runs, and no figure of it means anything.
"""

import argparse
import itertools
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchattacks
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import HEAD, Measured, Work, interleaved, line
from benchmarks.pictures import CANVAS, AsUsersDo, canvases, floats, listed, lite0, untrained
from benchmarks.whole import copies, experiment, ran
from pipeline.config.attacks import AttackConfig
from transforms.attacks.engine import attack_batch
from transforms.data.pixels import WHITE, CanvasBatch
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.device import Numerics, Precision
from transforms.models.engines.registry import FOLLOWED, prepared
from transforms.steps.process import prepare_numerics

_MODES: dict[str, tuple[Numerics, Precision]] = {
    "ours, exact": ("exact", "fp32"),
    "ours, fast": ("fast", "fp32"),
    "ours, fast, bf16": ("fast", "bf16"),
}
_SIDE = 4096
_LOOKS_AT_ONCE = 2
"""Forward passes that judge an attack, of the clean and of the adversarial image."""


class _Bench:
    """What is measured on one device: with full sizes on a GPU, with small ones where the script is only tried."""

    def __init__(self, device: str, folder: str | None) -> None:
        self.device, self.folder = device, folder
        self.small = device == "cpu"
        self.steps, self.rounds = (1, 1) if self.small else (10, 3)
        self.refs = listed(folder)[: 2 if self.small else None]
        self.batch = canvases(self.refs, 2 if self.small else 128)

    def measure(self) -> Iterator[Measured]:
        for name in ("squeezenet1_1",) if self.small else ("resnet50", "vit_b_16"):
            yield from self._attacks(name, untrained(name).to(self.device))
        yield from self._success(lite0().to(self.device))
        yield from self._pipeline()

    def _attacks(self, name: str, classifier: Classifier) -> Iterator[Measured]:
        """Speed of two recipes against torchattacks, and the bound that matrix products set."""
        users = AsUsersDo(classifier)
        eps, alpha = 8 / 255, 2 / 255
        theirs = {
            "PGD": torchattacks.PGD(users, eps, alpha, self.steps),
            "MI-FGSM": torchattacks.MIFGSM(users, eps, alpha, self.steps),
        }
        for attack, recipe in (("PGD", "pgd"), ("MI-FGSM", "mi-fgsm")):
            contenders = {
                "torchattacks": self._theirs(theirs[attack], torch.float32),
                "torchattacks, bf16": self._theirs(theirs[attack], torch.bfloat16),
                **{mode: self._ours(classifier, recipe, self.batch, *how) for mode, how in _MODES.items()},
            }
            measure = f"{attack}-{self.steps}, {name}, random weights"
            yield from interleaved(measure, contenders, rounds=self.rounds, images=len(self.batch.labels))
        passes = 2 * self.steps + _LOOKS_AT_ONCE
        for dtype in (torch.float32, torch.bfloat16):
            bound = self._flops(dtype) / (passes * _flops_of_a_pass(classifier))
            yield Measured(f"PGD-{self.steps}, {name}", f"bound of matrix products, {dtype}", bound, "images/s")

    def _theirs(self, attack: torchattacks.attack.Attack, dtype: torch.dtype) -> Work:
        """torchattacks with torch's own settings, as its users have them."""
        pictures, labels = floats(self.batch).to(self.device), torch.tensor(self.batch.labels).to(self.device)

        def work() -> Tensor:
            _as_shipped()
            with torch.autocast(self.device, dtype, enabled=dtype != torch.float32):
                found: Tensor = attack(pictures, labels).cpu()
            return found

        return work

    def _ours(
        self, classifier: Classifier, recipe: str, batch: CanvasBatch, numerics: Numerics, precision: Precision
    ) -> Callable[[], Tensor]:
        keys = {"eps": "8/255", "alpha": "2/255", "steps": self.steps, "precision": precision}
        config = AttackConfig.model_validate({"recipe": recipe, "surrogates": ["network"], **keys})
        (spec,) = config.specs("benchmark", ())
        conditions = Conditions(0, CANVAS.field_of_view, len(self.batch.labels), self.device, numerics)
        prepare_numerics(numerics)
        surrogate = prepared(classifier, FOLLOWED, "auto", numerics).classifier

        def work() -> Tensor:
            prepare_numerics(numerics)
            return torch.from_numpy(attack_batch(spec, [surrogate], batch, conditions).canvases)

        return work

    def _flops(self, dtype: torch.dtype) -> float:
        """Floating-point operations a second of a large matrix product, TF32 allowed."""
        prepare_numerics("fast")
        side = 256 if self.small else _SIDE
        matrix = torch.ones(side, side, dtype=dtype, device=self.device)
        return 2 * side**3 / min(_seconds(lambda: float((matrix @ matrix)[0, 0])) for _ in range(20))

    def _success(self, classifier: Classifier) -> Iterator[Measured]:
        """How many real pictures the same attack turns in each mode."""
        batch = canvases(self.refs, len(self.refs))
        labels = torch.tensor(batch.labels)
        for mode, how in _MODES.items():
            found = self._ours(classifier, "pgd", batch, *how)()
            prepare_numerics()
            with torch.inference_mode():
                shown = [classifier(some.to(self.device).float() / WHITE).cpu() for some in found.split(8)]
            wrong = (torch.cat(shown).argmax(dim=1) != labels).float().mean()
            yield Measured(f"success of PGD-{self.steps}, EfficientNet-Lite0", mode, float(wrong) * 100, "%")

    def _pipeline(self) -> Iterator[Measured]:
        """Whole runs: images a second, and the share of the time in which the GPU was busy."""
        chunk = 2 if self.small else 64
        attack = {"pgd": {"recipe": "pgd", "surrogates": ["lite0"], "eps": "8/255", "steps": self.steps}}
        with tempfile.TemporaryDirectory() as at:
            images = copies(Path(at), self.folder, len(self.refs))
            for numerics, workers in itertools.product(("exact", "fast"), (1, 2)):
                name = f"{numerics}-{workers}"
                asked = experiment(Path(at), name, images, numerics=numerics, chunk_size=chunk, attacks=attack)
                with _busy(untold=self.small) as share:
                    took = ran(asked, Path(at) / name, f"--direct_num_workers={workers}", f"--device={self.device}")
                note = f"GPU busy {share():.0%}"
                yield Measured("whole run", f"{numerics}, workers: {workers}", took.computing, "s", note=note)


def _as_shipped() -> None:
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def _flops_of_a_pass(classifier: Classifier) -> int:
    """Of one image; a backward pass to the input alone takes as many."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        classifier(torch.zeros(1, 3, 224, 224, device=classifier.device))
    return counter.get_total_flops()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _busy(*, untold: bool) -> Iterator[Callable[[], float]]:
    """The share of the time of the body in which the GPU was busy, as nvidia-smi has it."""
    shares: list[float] = []
    over = threading.Event()

    def look() -> None:
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not untold and not over.wait(0.2):
            shares.append(float(subprocess.check_output(ask, text=True).splitlines()[0]) / 100)  # noqa: S603

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield lambda: sum(shares) / max(1, len(shares))
    finally:
        over.set()
        looking.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("folder", nargs="?", help="Pictures with labels.csv; foolbox's 20 without.")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = given.device
    print(torch.cuda.get_device_name() if device == "cuda" else "no GPU: only tried", torch.__version__)
    print(HEAD)
    for row in _Bench(device, given.folder).measure():
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
