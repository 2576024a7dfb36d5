"""Layers: the modules of a network by their names, the usual one, and what may be done to their answers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.config.attacks import AttackConfig
from tests.support.runs import complaint, invoke, refused, rows, run, tiny, written
from transforms.attacks.spec import AttackSpec
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.layers import changing, features
from transforms.models.pin import pin
from transforms.steps.held_models import HeldModels


class Small(nn.Module):
    """Two blocks of convolutions, an activation that is used twice and writes in place, a pair, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block1 = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.block2 = nn.Conv2d(4, 5, 3, stride=4, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.head = nn.Linear(5, 7)

    def forward(self, windows: Tensor) -> Tensor:
        values = self.relu(self.block2(self.relu(self.block1(windows))))
        return self.head(self.pair(values)[0].mean(dim=(2, 3)))


class Pair(nn.Module):
    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values, values


def shown(network: nn.Module, side: int) -> Classifier:
    return Classifier(network.eval(), Preprocessing(side, side, "bilinear", (0, 0, 0), (1, 1, 1)))


@pytest.fixture
def small() -> Classifier:
    return shown(Small(), 32)


def test_layers_are_modules_that_answer_once_with_one_tensor(small: Classifier) -> None:
    """In the order in which they answer, a block after what is in it."""
    found = [(each.name, each.kind, each.shape) for each in small.layers]
    assert found == [
        ("block1.0", "Conv2d", (4, 16, 16)),
        ("block1.1", "BatchNorm2d", (4, 16, 16)),
        ("block1", "Sequential", (4, 16, 16)),
        ("block2", "Conv2d", (5, 4, 4)),
        ("head", "Linear", (7,)),
    ]


def test_a_layer_that_is_not_there_is_refused_with_the_nearest(small: Classifier) -> None:
    assert small.layer("block1.0") == "block1.0" and small.layer(None) == "block2"
    with pytest.raises(InputError, match=r"^unknown layer 'block3'; did you mean 'block[12]'\?\Z"):
        small.layer("block3")
    for name in ("relu", "pair"):
        with pytest.raises(InputError, match=rf"^layer '{name}' answers more than once in a pass, or not with one"):
            small.layer(name)


USUAL = {
    "resnet18": "layer2",
    "vgg11": "features.14",
    "densenet121": "features.denseblock2",
    "mobilenet_v2": "features.6",
    "squeezenet1_1": "features.7",
    "regnet_y_400mf": "trunk_output.block2",
    "shufflenet_v2_x0_5": "stage2",
    "swin_t": "features.3",
    "vit_b_32": "encoder.layers.encoder_layer_5",
    "timm/deit_tiny_patch16_224": "blocks.5",
    "timm/vit_tiny_patch16_224": "blocks.5",
    "timm/mixer_s32_224": "blocks.3",
    "timm/efficientnet_lite0": "blocks.2",
    "timm/swin_tiny_patch4_window7_224": "layers.1",
}


@pytest.mark.parametrize("name", list(USUAL))
def test_the_usual_layer_of_each_family(name: str) -> None:
    """Of convolutions the last block of 28 × 28, of a transformer the middle one."""
    library, _, model = name.rpartition("/")
    network = timm.create_model(model) if library else torchvision.models.get_model(model, weights=None)
    assert shown(network, 224).layer(None) == USUAL[name]


def test_a_network_without_modules_has_no_usual_layer() -> None:
    with pytest.raises(InputError, match=r"^layer: the network has no modules inside"):
        shown(nn.Flatten(), 4).layer(None)


def test_features_are_what_the_layer_answers(small: Classifier) -> None:
    """Not what follows makes of it in place; and nothing behind the layer is computed."""
    windows, network = torch.rand(3, 3, 32, 32), small.network
    assert isinstance(network, Small)
    asked: list[object] = []
    network.head.register_forward_hook(lambda *each: asked.append(each))
    found = features(network, "block1", lambda: small(windows))
    assert torch.equal(found, network.block1(windows)) and (found < 0).any() and not asked


def test_an_answer_can_be_changed_while_a_body_runs(small: Classifier) -> None:
    windows, network = torch.rand(3, 3, 32, 32), small.network
    before = small(windows)
    with changing(network, {"head": lambda answer: 2 * answer}):
        assert torch.equal(small(windows), 2 * before)
    assert torch.equal(small(windows), before)


def test_others_who_show_the_network_something_meanwhile_notice_nothing(small: Classifier) -> None:
    """Workers are threads that share their models."""
    windows, elsewhere = torch.rand(2, 3, 32, 32), []
    before = small(windows)
    with changing(small.network, {"head": torch.zeros_like}):
        thread = Thread(target=lambda: elsewhere.append(small(windows)))
        thread.start()
        thread.join()
        assert not small(windows).any()
    assert torch.equal(elsewhere[0], before)


# In a run ------------------------------------------------------------------------------------------------------------

FIA = {"recipe": "fia", "surrogates": ["lite0"], "eps": "4/255", "steps": 2, "ensemble_number": 2}


def spec(**more: Any) -> AttackSpec:
    keys = {key: value for key, value in {**FIA, **more}.items() if value is not None}
    (made,) = AttackConfig.model_validate(keys).specs("deep", ())
    return made


def test_an_attack_that_looks_inside_is_given_the_network_that_torch_loaded() -> None:
    """Whatever engine the model's gradients have elsewhere; and so is one that asks for it."""
    models = HeldModels({"lite0": pin("packaged/efficientnet-lite0")}, "cpu")
    (plain,) = models.surrogates(spec())
    assert plain.layer(None) == "_blocks.4" and "_conv_stem" in [each.name for each in plain.layers]
    (again,) = models.surrogates(pgd := spec(recipe="pgd", ensemble_number=None, gradients="torch"))
    assert again is plain is not models["lite0"]
    assert models.surrogates(replace(pgd, gradients=None)) == [models["lite0"]]
    assert models.resolved("lite0", followed=True).gradients == "fused"


def test_a_wrong_layer_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    attacks = {"deep": {**FIA, "layer": "hiden"}}
    said = refused(written(tmp_path, tiny(attacks=attacks)), tmp_path / "run")
    assert said == "megalith: attacks.deep: unknown layer 'hiden'; did you mean 'hidden'?"
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.parquet"))
    attacks = {"deep": {**FIA, "layer": ["hidden", "hidden"]}}
    said = refused(written(tmp_path, tiny(attacks=attacks)), tmp_path / "run")
    assert said == "megalith: attacks.deep: layer: 2 names for 1 surrogates; give one for each, or one for all"


def test_run_json_says_which_engine_ran_the_surrogates(tmp_path: Path) -> None:
    """Of an attack that looks inside, or is told so, torch; what else is in the run makes no difference."""
    one = tiny(attacks={"deep": FIA})
    two = tiny(attacks={"deep": {**FIA, "layer": None}, "pgd": tiny()["attacks"]["pgd"]})
    for name, experiment in (("one", one), ("two", two)):
        run(written(tmp_path, experiment, f"{name}.yaml"), tmp_path / name)
        defined = json.loads((tmp_path / name / "run.json").read_text())["definitions"]
        assert defined["attacks"]["deep"]["gradients"] == "torch" and defined["attacks"]["deep"]["layer"] is None
    assert "gradients" not in defined["attacks"]["pgd"]
    deep = [[row for row in rows(tmp_path / name, "attacks") if row["attack"] == "deep"] for name in ("one", "two")]
    assert deep[0] == deep[1] and len(deep[0]) == 3
    run(tmp_path / "two.yaml", tmp_path / "one")  # the same definitions still
    assert invoke("verify", tmp_path / "one").exit_code == 0


def test_several_windows_have_no_features_in_common(tmp_path: Path) -> None:
    said = refused(written(tmp_path, tiny(attacks={"deep": {**FIA, "view": "saccades"}})), tmp_path / "run")
    assert "attacks.deep: view: fia looks inside" in said


def test_list_shows_the_layers_of_a_model() -> None:
    lines = invoke("list", "layers", "coarse0").stdout.splitlines()
    assert ["hidden", "Identity", "64"] in [re.findall(r"[^\s│]+", line) for line in lines]
    assert lines[-1] == "layer: hidden where an attack names none"
    assert "name a model" in complaint(invoke("list", "layers"))
