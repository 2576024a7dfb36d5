"""Gradients of the fused engine, in fp32 and in bf16, against torch's, on real pictures: the same attacks by all.

    python -m benchmarks.agreement FOLDER [IMAGES]

FOLDER holds pictures and `labels.csv`; IMAGES is all of them unless given.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pictures import CANVAS, canvases, floats, listed
from pipeline.config.attacks import AttackConfig
from transforms.attacks.engine import attack_batch
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.models.answers import ask
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.device import Precision
from transforms.models.pin import pin
from transforms.steps.held_models import HeldModels
from transforms.steps.process import prepare_numerics

_BATCH = 8
_ENGINES = ("torch", "fused")
_OTHERS: dict[str, Precision] = {"fused": "fp32", "fused, bf16": "bf16"}
"""What is compared with torch in fp32."""
_SOURCES = {"lite0": "packaged/efficientnet-lite0", "lite1": "packaged/efficientnet-lite1"}
_ATTACKS: dict[str, dict[str, object]] = {
    "fgsm, 2/255": {"recipe": "fgsm", "eps": "2/255"},
    "pgd-3, 1/255": {"recipe": "pgd", "eps": "1/255", "alpha": "0.5/255", "steps": 3},
    "pgd-10, 8/255": {"recipe": "pgd", "eps": "8/255"},
    "mi-fgsm-10, 8/255": {"recipe": "mi-fgsm", "eps": "8/255"},
}
_CONDITIONS = Conditions(0, CANVAS.field_of_view, _BATCH)


def main() -> None:
    """Prints how far the two are apart, attack by attack."""
    prepare_numerics()
    refs = listed(sys.argv[1])
    batch = canvases(refs, int(sys.argv[2]) if len(sys.argv) > 2 else len(refs))
    pins = {(name, engine): pin(source, gradients=engine) for name, source in _SOURCES.items() for engine in _ENGINES}
    held = HeldModels({f"{name}, {engine}": found for (name, engine), found in pins.items()}, "cpu")
    surrogates = {engine: held[f"lite0, {engine}"] for engine in _ENGINES}
    judges = {name: held.target(f"{name}, torch") for name in _SOURCES}
    plain = _first_gradients(surrogates["torch"], batch, "fp32")
    for who, precision in _OTHERS.items():
        cosines = F.cosine_similarity(plain, _first_gradients(surrogates["fused"], batch, precision))
        print(f"{len(batch.labels)} pictures; cosine of first gradients, {who}: {_spread(cosines)}")
    print("| attack | by | success, torch | own | own − torch, 95 % | lite0's labels alike | lite1 wrong | own |")
    print("|---|---|---|---|---|---|---|---|")
    for name, keys in _ATTACKS.items():

        def said(engine: str, precision: Precision, keys: dict[str, object] = keys) -> dict[str, np.ndarray]:
            config = AttackConfig.model_validate({"surrogates": ["lite0"], "precision": precision, **keys})
            (spec,) = config.specs("agreement", ())
            pixels = attack_batch(spec, [surrogates[engine]], batch, _CONDITIONS).canvases
            return {model: _predicted(judge, batch, pixels) for model, judge in judges.items()}

        torchs = said("torch", "fp32")
        for who, precision in _OTHERS.items():
            print(
                f"| {name} | {who} | {_compared(torchs, said('fused', precision), np.array(batch.labels))} |",
                flush=True,
            )


def _compared(torchs: dict[str, np.ndarray], others: dict[str, np.ndarray], labels: np.ndarray) -> str:
    """Cells of a row, from what both models say of the canvases of two engines."""
    first, second = ({model: said != labels for model, said in each.items()} for each in (torchs, others))
    apart = second["lite0"].astype(float) - first["lite0"]
    reach = 1.96 * apart.std(ddof=1) / np.sqrt(len(apart))
    alike = (torchs["lite0"] == others["lite0"]).mean()
    cells = [
        f"{first['lite0'].mean():.1%}",
        f"{second['lite0'].mean():.1%}",
        f"{apart.mean():+.1%} ± {reach:.1%}",
        f"{alike:.1%}",
        f"{first['lite1'].mean():.1%}",
        f"{second['lite1'].mean():.1%}",
    ]
    return " | ".join(cells)


def _first_gradients(classifier: Classifier, batch: CanvasBatch, precision: Precision) -> Tensor:
    """Of cross-entropy at the clean pictures, float64 (N, pixels)."""
    found = []
    for pictures, labels in zip(floats(batch).split(_BATCH), torch.tensor(batch.labels).split(_BATCH), strict=True):
        pictures.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(classifier(pictures).float(), labels, reduction="sum")
        found.append(torch.autograd.grad(loss, pictures)[0].flatten(1).double())
    return torch.cat(found)


def _spread(cosines: Tensor) -> str:
    least, tenth, median = (float(cosines.quantile(part)) for part in (0.0, 0.1, 0.5))
    return f"median {median:.6f}, a tenth below {tenth:.6f}, least {least:.6f}"


def _predicted(judge: Classifier, batch: CanvasBatch, pixels: np.ndarray) -> np.ndarray:
    seen = CanvasBatch(batch.image_ids, batch.labels, pixels)
    (answers,) = ask({("judge", "center"): judge}, NO_DEFENSE, seen, _CONDITIONS).values()
    return answers.top[:, 0]


if __name__ == "__main__":
    main()
