"""Recipes: what may be named, how bases and parts combine, and what an experiment may set."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pipeline.config.experiment import load_experiment
from tests.support.attacks import (
    EPS,
    PATHS,
    QUICK,
    batch_of,
    bent,
    for_recipe,
    found_by,
    iterate,
    make,
    quick,
    some_canvases,
    surrogates,
)
from tests.support.packages import installing
from tests.support.runs import invoke, tiny, written
from transforms.attacks.balls import BALLS, Ball, LinfBall
from transforms.attacks.drivers.square import Square
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import OBJECTIVES, ObjectiveName
from transforms.attacks.parts.estimators import AtThePoint, VarianceTuning
from transforms.attacks.parts.transformations import DiverseInput, MixedFrequencies, Mixing, ResizedDiversity, Scales
from transforms.attacks.protocol import Attack
from transforms.attacks.recipe import Recipe
from transforms.attacks.recipes.bases import BASES
from transforms.attacks.recipes.common import common
from transforms.attacks.recipes.names import RECIPES, combined, recipe
from transforms.attacks.recipes.parts import PARTS, Part
from transforms.attacks.spec import AttackSpec
from transforms.attacks.units import Length
from transforms.errors import InputError

NAMED = [name for name, each in RECIPES.items() if each.chain[-1] is common]


def loop(name: str, **parameters: Any) -> AttackLoop:
    made = make(name, **parameters)
    assert isinstance(made, AttackLoop)
    return made


def follows_features(name: str) -> bool:
    made = make(name)
    return isinstance(made, AttackLoop) and made.features is not None and made.features.own_objective


COMMON = tuple(Recipe("", (common,)).parameters)
"""What every recipe of the loop has."""

# Names ---------------------------------------------------------------------------------------------------------------


def test_the_fields_names_are_there() -> None:
    """Of TransferAttack's table: every gradient, input-transformation and ensemble attack that the loop covers."""
    expected = (
        "fgsm bim pgd mi-fgsm ni-fgsm pi-fgsm vmi-fgsm vni-fgsm emi-fgsm gra pgn di-fgsm ti-fgsm si-fgsm dem admix"
    )
    assert {
        *expected.split(),
        *["ssa", "sia", "bsr", "svre", "adaea", "cwa", "logit", "logit-margin", "adam-pgd", "lf-fgsm"],
    } <= set(NAMED)


@pytest.mark.parametrize("name", [*NAMED, *PATHS])
def test_every_recipe_says_where_it_is_from(name: str) -> None:
    made = recipe(name)
    assert made.source and made.kind == "gradient" and made.models >= 1
    assert set(made.norms) <= set(BALLS) and "linf" in made.norms


@pytest.mark.parametrize("name", [*NAMED, *PATHS])
def test_every_recipe_can_be_made_in_its_norms_with_its_own_defaults(name: str) -> None:
    made = recipe(name)
    for norm in made.norms:
        defaults = {key: default for key, (_, default) in made.parameters.items()}
        attack = made.make(BALLS[norm](0.3))
        assert isinstance(attack, AttackLoop) and attack.ball == BALLS[norm](0.3)
        assert vars(attack).keys() == vars(made.make(BALLS[norm](0.3), **defaults)).keys()
        assert attack.cost(made.models)[0] >= attack.steps


@pytest.mark.parametrize("name", [*NAMED, *PATHS])
def test_every_recipe_has_the_common_parameters(name: str) -> None:
    parameters = recipe(name).parameters
    assert set(COMMON) <= set(parameters)
    for key, (kind, default) in parameters.items():
        assert default is not inspect.Parameter.empty, key
        if kind in (int, float, bool):
            assert type(default) in (int, float, bool)


def test_unknown_recipes_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^unknown recipe 'mi-fsgm'; did you mean 'mi-fgsm'\?\Z"):
        recipe("mi-fsgm")
    with pytest.raises(InputError, match=r"^unknown recipe 'zzzz'.+\Z"):
        recipe("zzzz")


# Combinations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mi-di-ti", [DiverseInput]),
        ("vmi-di-ti-si", [Scales, DiverseInput]),
        ("vmi-si-di", [DiverseInput, Scales]),
        ("mi-admix-ti", [Mixing, Scales]),
        ("mi-di-mfi", [MixedFrequencies, Scales, DiverseInput]),
        ("mi-di-admix", [Mixing, Scales, DiverseInput]),
        ("bim-dem", [ResizedDiversity]),
    ],
)
def test_the_part_named_last_is_applied_first(name: str, expected: list[type]) -> None:
    """As in the papers: a diverse input of each scale; Admix is mixing, then scales."""
    assert [type(each) for each in loop(name).transformations] == expected
    assert (loop(name).gradient_filter is not AttackLoop.gradient_filter) == ("ti" in name.split("-"))


def test_bases_keep_their_own_parts_in_combinations() -> None:
    assert isinstance(loop("vmi-di").estimator, VarianceTuning) and isinstance(loop("mi-di").estimator, AtThePoint)
    assert loop("pgd-ti").random_start and not loop("bim-ti").random_start
    assert recipe("svre-di").models == 2 and recipe("adaea-ti").goals == "untargeted"
    assert recipe("pi-ti").norms == ("linf",) and recipe("adam-di").norms == ("linf", "l2")


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("mi-di", "di-fgsm"),
        ("mi-ti", "ti-fgsm"),
        ("mi-si", "si-fgsm"),
        ("mi-admix", "admix"),
        ("mi-ssa", "ssa"),
        ("mi-usmm", "usmm"),
        ("mi-mfi", "mfi"),
        ("mi-bsr", "bsr"),
        ("mi-sia", "sia"),
        ("mi-lf", "lf-fgsm"),
    ],
)
def test_a_named_recipe_is_its_combination(name: str, same: str) -> None:
    batch = batch_of(some_canvases(3), [0, 1, 2])
    one, other = (found_by(quick(each), surrogates(bent()), batch) for each in (name, same))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mi-dj", "'dj'"),
        ("mi-di-tti", "did you mean 'ti'?"),
        ("mi-fgsm-di", "did you mean 'mi-di'?"),
        ("di-mi", "did you mean 'mi-di'?"),
        ("ti-di-fgsm", "did you mean 'mi-ti-di'?"),
        ("vmi-di-fgsm-ssa", "did you mean 'vmi-di-ssa'?"),
        ("mi-di-di", "'di'"),
        ("mi-mfi-si", "'si'"),
        ("admix-si", "did you mean 'admix'?"),
        ("mi-ti-di-ti", "'ti'"),
        ("mi-", "''"),
    ],
)
def test_unknown_or_repeated_parts_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
        recipe(name)
    assert message in str(raised.value) and repr(name) in str(raised.value)


@pytest.mark.parametrize("base", list(BASES))
def test_any_base_and_part_combine(base: str) -> None:
    """However much the name of the combination looks like that of a recipe."""
    for part in PARTS:
        assert recipe(f"{base}-{part}").norms == BASES[base].norms


def test_a_base_alone_is_not_a_recipe() -> None:
    """It goes by its paper's name."""
    with pytest.raises(InputError, match=r"^unknown recipe 'mi'.+\Z"):
        recipe("mi")


def test_sources_of_a_combination_are_those_of_its_parts() -> None:
    source = recipe("vmi-di-ti-si").source
    for paper in ("2103.15571", "1803.06978", "1904.02884", "1908.06281"):
        assert source.count(paper) == 1
    assert recipe("ni-si").source.count("1908.06281") == 1  # one paper for both


# Parameters ----------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_chain() -> None:
    """Names, types and defaults, in the order of base, parts, and what every loop can do."""
    parameters = recipe("vmi-di-ti").parameters
    assert list(parameters) == [
        *["steps", "alpha", "decay", "normalized", "neighbors", "beta"],
        *["kernel_type", "kernel_size", "kernel_sigma", "resize_rate", "diversity_probability"],
        *COMMON,
    ]
    assert parameters["steps"] == (int, 10) and parameters["beta"] == (float, 1.5)
    assert parameters["alpha"] == (float | None, None)
    assert get_args(parameters["keep"][0]) == ("last", "best", "first")
    assert parameters["objective"] == (ObjectiveName, "cross-entropy")


STEPS = {"steps": 10, "alpha": None}
MI = {**STEPS, "decay": 1.0, "normalized": True}
DI = {"resize_rate": 1.1, "diversity_probability": 0.5}
TI = {"kernel_type": "gaussian", "kernel_size": 15, "kernel_sigma": 3.0}
SI = {"scales": 5}
VARIANCE = {"neighbors": 20, "beta": 1.5}
TARGETED = {**MI, "steps": 300, "alpha": 2 / 255, "normalized": False, **DI, "diversity_probability": 0.7}
APGD = {"steps": 100, "restarts": 1, "rho": 0.75, "step_weight": 0.75}
DEFAULTS: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "bim": STEPS,
    "pgd": {**STEPS, "random_start": True},
    "adam-pgd": {**STEPS, "beta1": 0.9, "beta2": 0.999, "stabilizer": 1e-8},
    "mi-fgsm": MI,
    "ni-fgsm": {**STEPS, "decay": 1.0},
    "gi-fgsm": {**STEPS, "decay": 1.0, "pre_steps": 5, "search_factor": 10.0},
    "pi-fgsm": {**STEPS, "amplification": 10.0, "project_factor": None, "project_kernel": 3},
    "vmi-fgsm": {**MI, **VARIANCE},
    "vni-fgsm": {**STEPS, "decay": 1.0, **VARIANCE},
    "emi-fgsm": {**MI, "samples": 11, "radius": 7.0, "sampling": "linear"},
    "gra": {**MI, "neighbors": 20, "beta": 3.5, "attenuation": 0.94},
    "pgn": {**MI, "neighbors": 20, "beta": 3.0, "balance": 0.5},
    "mef": {**STEPS, "steps": 20, "decay": 0.5, "neighbors": 20, "gamma": 2.0, "xi": 0.15, "inner_decay": 0.9},
    "rap": {
        **{**STEPS, "steps": 400, "decay": 1.0, "late_start": None, "inner_steps": 8},
        **{"reverse_eps": None, "reverse_alpha": None},
    },
    "fgsra": {**STEPS, "decay": 1.0, "neighbors": 20, "beta": 2.0, "rho": 0.7, "attenuation": 0.94},
    "dta": {**STEPS, "decay": 1.0, "inner_steps": 10, "inner_decay": 0.0},
    "ops": {**MI, "neighbors": 10, "operators": 20, "beta": 2.0},
    "mumodig": {**MI, "auxiliary": 6, "baselines": 1, "interpolations": 1, "regions": 2, "position": 0.65},
    "decowa": {**MI, "warpings": 20, "mesh": 3, "noise_scale": 2.0, "rho": 0.01},
    "pc-i-fgsm": STEPS,
    "pc-mi-fgsm": {**STEPS, "decay": 1.0},
    "l2t": {**MI, "num_scale": 3, "ops_num": 2, "learning_rate": 0.01},
    "mfi": {
        **{**MI, "mixed_spectra": 3, "mask_radius": 100.0, "gaussian_sigma": 32 / 255, "mask_type": "soft"},
        **SI,
    },
    "di-fgsm": {**MI, **DI},  # 299 pixels become 330
    "ti-fgsm": {**MI, **TI},
    "si-fgsm": {**MI, **SI},
    "si-ni-fgsm": {**STEPS, "decay": 1.0, **SI},
    "dem": {**STEPS, "decay": 1.0, "resize_rates": (1.14, 1.27, 1.4, 1.53, 1.66)},
    "admix": {**MI, "mixed_images": 3, "admix_strength": 0.2, **SI},
    "usmm": {
        **{**MI, "scale_low": 0.1, "scale_high": 0.75, "uniform_scales": 5},
        **{"mix_masks": 3, "mask_range": 0.5},
    },
    "ssa": {**MI, "spectra": 20, "spectrum_noise": None, "spectrum_spread": 0.5},
    "sia": {**MI, "structures": 20, "structure_blocks": 3},
    # The authors' later code has 3 blocks.
    "bsr": {**MI, "shuffles": 20, "shuffle_blocks": 2, "rotation": 24.0, "rotation_kind": "normal"},
    "anda": {**MI, "normalized": False, "shifts": 5, "shift_range": 0.3},
    "lf-fgsm": {**MI, "basis": "dct", "cutoff": 0.5, "step_in": "pixels"},  # ours: the papers try many cutoffs
    "fia": {**MI, "layer": None, "ensemble_number": 30, "drop_probability": 0.3},
    "rpa": {**MI, "layer": None, "ensemble_number": 60, "drop_probability": 0.3},
    "naa": {**MI, "layer": None, "integrated_steps": 30, "gamma": 1.0},
    "bfa": {**MI, "layer": None, "ensemble_number": 30, "eta": 28.0},
    "p2fa": {
        **{**STEPS, "steps": 100, "layer": None, "ensemble_number": 30, "eta": 28.0},
        **{"inner_steps": 10, "feature_decay": 1.0},
    },
    "ila": {**STEPS, "layer": None, "reference_steps": 10},
    "ilpd": {"steps": 100, "alpha": 1 / 255, "layer": None, "gamma": 0.1, "sigma": 0.05},
    "cfm": {
        **{**TARGETED, "normalized": True, "resize_rate": 340 / 299, "diversity_probability": 1.0},
        **{**TI, "kernel_size": 5, "objective": "logit", "mix_probability": 0.1, "mix_limit": 0.75},
    },
    "ftm": {
        **{**TARGETED, "normalized": True, "resize_rate": 340 / 299, "diversity_probability": 1.0, "tuning_beta": 0.01},
        **{**TI, "kernel_size": 5, "objective": "logit", "mix_probability": 0.1, "mix_limit": 0.75},
    },
    "everywhere": {**TARGETED, **TI, "kernel_size": 5, "objective": "logit", "partitions": 4, "local_samples": 9},
    "odi": {
        **{**MI, "steps": 300, "alpha": 2 / 255, **TI, "kernel_size": 5, "objective": "logit"},
        **{"source_3d_models": ("pack", "pillow", "book"), "background_type": "random_pixel"},
        **{"rand_elev": 35.0, "rand_azim": 35.0, "rand_angle": 35.0, "min_dist": 0.8, "rand_dist": 0.4},
        **{"ambient_color": 0.6, "rand_ambient_color": 0.3, "rand_diffuse_color": 0.5},
    },
    "su": {
        **{**TARGETED, "normalized": True, **TI, "kernel_size": 5, "objective": "logit", "layer": None},
        **{"scale_start": 0.1, "scale_interval": 0.0, "similarity_weight": 0.001},
    },
    "svre": {**MI, "inner_steps": None, "inner_alpha": None, "inner_decay": 1.0},
    "adaea": {**MI, "ensemble_beta": 10.0, "threshold": -0.3},
    "smer": {**MI, "inner_decay": 1.0, "inner_rounds": 4, "weight_rate": 0.02, "weight_decay": 0.002},
    "cwa": {**STEPS, "decay": 1.0, "reverse_step": None, "inner_step": 250.0},
    "logit": {**TARGETED, **TI, "kernel_size": 5, "objective": "logit"},
    "logit-margin": {**TARGETED, "normalized": True, **TI, "kernel_size": 5, "objective": "logit-margin"},
    "cw": {
        **{"confidence": 0.0, "steps": 10_000, "learning_rate": 0.01, "binary_search_steps": 9},
        **{"initial_const": 1e-3, "abort_early": True},
    },
    "deepfool": {"steps": 50, "overshoot": 0.02, "candidates": 10},
    "ddn": {"steps": 100, "init_norm": 1.0, "gamma": 0.05, "alpha": 1.0, "alpha_final": 0.01},
    "fmn": {"steps": 100, "alpha": 1.0, "alpha_final": None, "gamma": 0.05, "gamma_final": 0.001},
    "apgd-ce": APGD,
    "apgd-dlr": APGD,
    "apgd-t": {**APGD, "target_classes": 9},
    "square": {"queries": 10_000, "p_init": None},
    "autoattack": {"steps": 100, "queries": 5000},
    "spatial": {"max_rotation": 30.0, "max_translation": 24.0, "num_rotations": 31, "num_translations": 5},
    "spatial-random": {"max_rotation": 30.0, "max_translation": 24.0, "tries": 10},
    # Adam and its steps are ours; perceptual-advex weighs by 0.05 flows in half sides, of 112 pixels.
    "stadv": {"max_flow": 2.0, "tau": 0.0005, "confidence": 0.0, "steps": 100, "learning_rate": 0.05},
    "pictures": {"folder": "", "attack": None},
    "bases": {
        "steps": 10,
        "alpha": None,
        "decay": 0.0,
        "objective": "margin",
        "queries": 50,
        "learning_rate": 0.005,
    },
    "candidates": {"recipes": ("mi-fgsm", "di-fgsm", "si-fgsm", "vmi-fgsm", "bsr"), "queries": 10},
}
"""Of every recipe, as its paper, or its authors' code, has them for ImageNet."""
COMMON_DEFAULTS = {"objective": "cross-entropy", "keep": "last", "random_start": False, "restarts": 1, "eot": 1}


@pytest.mark.parametrize("name", list(RECIPES))
def test_defaults_are_the_papers(name: str) -> None:
    expected = {**(COMMON_DEFAULTS if name in NAMED else {}), **DEFAULTS[name]}
    assert {key: default for key, (_, default) in recipe(name).parameters.items()} == expected


def test_what_none_stands_for() -> None:
    """Square's first squares are smaller in L∞; SVRE takes four inner steps per surrogate; CWA's way back is eps / 15;
    what PI passes on is as long as its step; SSA's noise is eps, where that is a change of single values."""
    for norm, part in (("linf", 0.05), ("l2", 0.1)):
        plain, said = make("square", norm), make("square", norm, p_init=part)
        assert isinstance(plain, Square) and isinstance(said, Square)
        assert [plain._side(each, 224) for each in (1, 999)] == [said._side(each, 224) for each in (1, 999)]
    own: dict[str, dict[str, Any]] = {
        "fmn": {"alpha_final": 0.01},
        "svre": {"inner_alpha": EPS["linf"] / 10},
        "cwa": {"alpha": EPS["linf"] / 5, "reverse_step": EPS["linf"] / 15},
        "pi-fgsm": {"project_factor": EPS["linf"]},
        "ssa": {"spectrum_noise": EPS["linf"]},
        "rap": {
            **{"alpha": EPS["linf"] / 8, "late_start": 2},
            **{"reverse_eps": EPS["linf"], "reverse_alpha": EPS["linf"] / 8},
        },
    }
    for name, parameters in own.items():
        models = surrogates(*(bent(seed) for seed in range(recipe(name).models)))
        batch = batch_of(some_canvases(3), [0, 1, 2])
        found = [found_by(make(name, steps=10, **each), models, batch) for each in ({}, parameters)]
        assert torch.equal(*found), name
    in_l2 = [
        found_by(make("ssa", "l2", steps=2, **each), surrogates(bent()), batch_of(some_canvases(2), [0, 1]))
        for each in ({}, {"spectrum_noise": 16 / 255})
    ]
    assert torch.equal(*in_l2)
    assert make("svre").cost(3) == make("svre", inner_steps=12).cost(3)


def test_defaults_of_a_recipe_win_over_those_of_its_parts() -> None:
    parameters = recipe("logit").parameters
    expected = {"steps": 300, "alpha": 2 / 255, "normalized": False, "diversity_probability": 0.7, "kernel_size": 5}
    assert {key: parameters[key][1] for key in expected} == expected and parameters["objective"][1] == "logit"
    made = loop("logit")
    assert made.steps == 300 and made.alpha == 2 / 255 and made.objective is OBJECTIVES["logit"]
    assert loop("logit", steps=20).steps == 20
    assert recipe("logit-margin").parameters["objective"][1] == "logit-margin"
    assert recipe("logit").goals == recipe("logit-margin").goals == "targeted"


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_objectives_are_what_is_climbed(name: str) -> None:
    assert loop("mi-fgsm", objective=name).objective is OBJECTIVES[name]


@pytest.mark.parametrize("name", [*NAMED, *PATHS])
def test_every_parameter_has_an_effect(name: str) -> None:
    """Another value of any of them ends elsewhere, costs something else, or is refused: nothing is silently ignored.
    `normalized` counts where there is decay, `stabilizer` where gradients are as small as it."""
    made = recipe(name)
    other = {
        **{"inner_rounds": 3, "weight_rate": 2.0, "weight_decay": 3.0},
        **{"operators": 3, "auxiliary": 3, "baselines": 2, "interpolations": 2, "regions": 4, "position": 0.1},
        **{"warpings": 3, "mesh": 4, "noise_scale": 1.0, "rho": 3.0 if name == "decowa" else 0.2},
        **{"late_start": 2, "reverse_eps": 0.02, "reverse_alpha": 0.003},
        **{"shifts": 2, "shift_range": 0.7, "patches_kept": 0.3, "patch_size": 2},
        **{"gamma": {"naa": 0.1, "ilpd": 0.6}.get(name, 1.0), "xi": 0.5},
        **{"layer": "second", "ensemble_number": 3, "drop_probability": 0.7, "integrated_steps": 3, "eta": 0.5},
        **{"reference_steps": 3, "sigma": 0.3, "feature_decay": 0.1, "mix_probability": 0.9, "mix_limit": 0.2},
        **{"partitions": 2, "local_samples": 3},
        **{"scale_start": 0.4, "scale_interval": 0.3, "similarity_weight": 10.0},
        **{"source_3d_models": ("cup", "ball"), "background_type": "random_solid"},
        **{"rand_elev": 5.0, "rand_azim": 5.0, "rand_angle": 90.0, "min_dist": 0.6, "rand_dist": 1.0},
        **{"ambient_color": 0.1, "rand_ambient_color": 0.6, "rand_diffuse_color": 0.0},
        **{"tuning_beta": 0.5, "num_scale": 3, "ops_num": 1, "learning_rate": 1e5},
        **{"mixed_spectra": 3, "mask_radius": 1.0, "gaussian_sigma": 0.01, "mask_type": "hard"},
        **{"pre_steps": 3, "search_factor": 0.5},
        **{"scale_low": 0.2, "scale_high": 0.9, "uniform_scales": 3, "mix_masks": 3, "mask_range": 0.3},
        **{"steps": 4, "alpha": 0.004, "decay": 0.3, "neighbors": 3, "samples": 4, "spectra": 3, "structures": 3},
        **{"shuffles": 3, "mixed_images": 3, "scales": 3, "resize_rates": (1.3, 1.8), "kernel_size": 5},
        **{
            "inner_steps": 2 if name == "p2fa" else 5,
            "beta": 0.7,
            "radius": 3.0,
            "attenuation": 0.3,
            "balance": 0.9,
            "beta1": 0.2,
        },
        **{"beta2": 0.3, "stabilizer": 0.1, "amplification": 4.0, "project_factor": 3 / 255, "project_kernel": 5},
        **{
            "resize_rate": 1.7,
            "diversity_probability": 0.1 if name in {"cfm", "ftm"} else 1.0,
            "kernel_sigma": 1.0,
            "admix_strength": 0.7,
        },
        **{"spectrum_noise": 0.2, "spectrum_spread": 0.9, "structure_blocks": 2, "shuffle_blocks": 3},
        **{
            "rotation": 90.0,
            "rotation_kind": "uniform",
            "basis": "fourier",
            "cutoff": 0.3,
            "step_in": "coefficients",
            "inner_alpha": 0.05,
        },
        **{"sampling": "uniform", "kernel_type": "linear", "inner_decay": 0.3},
        **{"ensemble_beta": 300.0, "threshold": 0.5, "reverse_step": 0.04, "inner_step": 0.01},
        **{"objective": "margin", "keep": "best", "random_start": not made.parameters["random_start"][1]},
    }
    models = for_recipe(name)
    targets = [1, 2, 3, 0] if made.goals == "targeted" else None
    few: dict[str, Any] = {"resize_rate": 1.3, "rotation": 24.0, "steps": 3, "similarity_weight": 1.0}
    few |= {"inner_steps": 1} if name == "p2fa" else {"steps": 5} if name == "mi-patchout" else {}
    base = {key: value for key, value in {**QUICK, **few}.items() if key in made.parameters}
    batch = batch_of(some_canvases(4), [0, 1, 2, 3], targets)

    def ends(**changed: object) -> tuple[object, torch.Tensor]:
        ball: Ball = LinfBall(12 / 255)
        attack = make(name, **{**base, **changed})
        return attack.cost(made.models), iterate(name, ball, surrogates(*models), batch, **{**base, **changed})

    plain = ends()
    for key in made.parameters:
        if key in {"restarts", "eot"}:
            continue  # see what they cost
        if key == "normalized":
            changed = ends(normalized=not made.parameters[key][1])
        elif key == "objective" and follows_features(name):
            with pytest.raises(InputError, match="objective: margin has no effect"):
                ends(objective="margin")
            continue
        elif key == "objective" and name in {"adaea", "smer"}:
            changed = ends(objective="logit-margin")
        elif key == "keep" and name == "fgsm":
            continue
        elif key == "objective" and name == "logit-margin":
            changed = ends(objective="logit")
        else:
            changed = ends(**{key: other[key]})
        assert changed[0] != plain[0] or not torch.equal(changed[1], plain[1]), key


# Refusals ------------------------------------------------------------------------------------------------------------

TWO = {"surrogates": ["lite0", "lite1"]}


def load(folder: Path, **attack: Any) -> AttackSpec:
    """Of an experiment with one attack, on Lite0 within 4/255 unless it says otherwise."""
    attacks = {"a": {"surrogates": ["lite0"], "eps": "4/255", **attack}}
    (spec,) = load_experiment(str(written(folder, tiny(attacks=attacks)))).specs
    return spec


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"recipe": "mi-fgsm", "steps": 1, "decay": 0.5}, "decay: 0.5 has no effect with steps: 1"),
        ({"recipe": "mi-fgsm", "steps": 1, "normalized": False}, "normalized: False has no effect with steps: 1"),
        ({"recipe": "adam-pgd", "steps": 1, "beta1": 0.5}, "beta1: 0.5 has no effect with steps: 1"),
        ({"recipe": "adam-pgd", "steps": 1, "beta2": 0.5}, "beta2: 0.5 has no effect with steps: 1"),
        ({"recipe": "gra", "steps": 1, "attenuation": 0.5}, "attenuation: 0.5 has no effect with steps: 1"),
        ({"recipe": "adaea", "steps": 1, "decay": 0.5, **TWO}, "decay: 0.5 has no effect with steps: 1"),
        ({"recipe": "svre", "steps": 1, "normalized": False, **TWO}, "normalized: False has no effect with steps: 1"),
        ({"recipe": "svre", "steps": 1, "decay": 0.5, **TWO}, "decay: 0.5 has no effect with steps: 1"),
        ({"recipe": "svre", "inner_steps": 1, **TWO}, "inner_steps: 1 is not at least 2"),
        (
            {"recipe": "ti-fgsm", "kernel_type": "linear", "kernel_sigma": 2},
            "kernel_sigma: 2.0 has no effect with kernel_type: linear",
        ),
        ({"recipe": "mi-fgsm", "decay": 0, "normalized": False}, "normalized: False has no effect with decay: 0"),
        ({"recipe": "ni-fgsm", "steps": 1}, "steps: 1 has no step before it"),
        ({"recipe": "si-ni-fgsm", "steps": 1}, "steps: 1 has no step before it"),
        ({"recipe": "ni-fgsm", "decay": 0}, "decay: 0.0 is not above 0"),
        ({"recipe": "gra", "attenuation": 1}, "attenuation: 1.0 is not in (0, 1)"),
        ({"recipe": "adaea", "threshold": -1, **TWO}, "threshold: -1.0 is not in (-1, 1]"),
        ({"recipe": "mi-lf", "cutoff": 0.996}, "cutoff: 0.996 keeps every frequency of a canvas of 224 pixels"),
        ({"recipe": "bim", "objective": "logit", "fuse": "losses", **TWO}, "fuse: losses would average logits"),
        ({"recipe": "logit", "target": 1, "fuse": "losses", **TWO}, "fuse: losses would average logits"),
    ],
)
def test_a_part_without_effect_is_refused_in_one_line(attack: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
        load(tmp_path, **attack)
    assert f"attacks.a: {said}" in str(raised.value)


@pytest.mark.parametrize(
    "attack",
    [
        {"recipe": "mi-fgsm", "steps": 1},
        {"recipe": "adam-pgd", "steps": 1},
        {"recipe": "gra", "steps": 1},
        {"recipe": "logit", "target": 1, "steps": 1},
        {"recipe": "logit", "target": 1, "decay": 0},
        {"recipe": "mi-fgsm", "decay": 0},
        {"recipe": "mi-lf", "cutoff": 0.995},
        {"recipe": "mi-lf", "cutoff": 0.995, "basis": "fourier"},
        {"recipe": "svre", "steps": 1, "inner_decay": 0.5, **TWO},
        {"recipe": "cwa", "steps": 1, "decay": 0.5, **TWO},
        {"recipe": "gi-fgsm", "steps": 1, "decay": 0.5},
        {"recipe": "bim", "objective": "logit", "fuse": "logits", **TWO},
    ],
)
def test_a_default_without_effect_is_not(attack: dict[str, Any], tmp_path: Path) -> None:
    """Nobody asked for it. `run.json` writes defaults out, and can be read again. SVRE and CWA have inner steps."""
    spec = load(tmp_path, **attack)
    assert load(tmp_path, **{**dict(spec.parameters), **attack}) == spec


@pytest.mark.parametrize(("name", "key"), [("svre", "inner_decay"), ("cwa", "decay"), ("gi-fgsm", "decay")])
def test_momentum_within_a_single_step_has_an_effect(name: str, key: str) -> None:
    batch, models = batch_of(some_canvases(3), [0, 1, 2]), surrogates(bent(0), bent(1))
    decays: list[dict[str, Any]] = [{key: decay} for decay in (0.1, 1.0)]
    found = [found_by(make(name, steps=1, **each), models, batch) for each in decays]
    assert not torch.equal(*found)


# A recipe of one's own -----------------------------------------------------------------------------------------------


def test_adding_a_recipe_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A combination under a name of its own, with its own defaults."""
    monkeypatch.setitem(RECIPES, "strong", combined("vmi", "di", "ti", source="Us 2026", neighbors=2, kernel_size=3))
    parameters = recipe("strong").parameters
    assert parameters["neighbors"] == (int, 2) and recipe("strong").source == "Us 2026"
    batch = batch_of(some_canvases(2), [0, 1])
    ours = found_by(make("strong", steps=3), surrogates(bent()), batch)
    assert torch.equal(
        ours, found_by(make("vmi-di-ti", steps=3, neighbors=2, kernel_size=3), surrogates(bent()), batch)
    )


def test_adding_a_part_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keyword parameters become the experiment's, and it combines with every base."""

    def quiet(changed: AttackLoop, *, loudness: float = 0.5) -> AttackLoop:
        return replace(changed, gradient_filter=lambda gradient: gradient.clamp(-loudness, loudness))

    monkeypatch.setitem(PARTS, "quiet", Part("Us 2026", (quiet,)))
    assert recipe("mi-quiet-di").parameters["loudness"] == (float, 0.5)
    batch = batch_of(some_canvases(2), [0, 1])
    plain = found_by(make("mi-fgsm"), surrogates(bent()), batch)
    assert torch.equal(found_by(make("mi-quiet", loudness=1e9), surrogates(bent()), batch), plain)
    assert not torch.equal(found_by(make("mi-quiet", loudness=1e-4), surrogates(bent()), batch), plain)


def test_a_recipe_need_not_be_a_loop() -> None:
    """A chain may end in anything that attacks."""

    def still(ball: Ball, *, steps: int = 1) -> Attack:
        class Still:
            def __init__(self) -> None:
                self.steps = steps

            def cost(self, models: int) -> tuple[int, int]:
                return 0, 0

            def __call__(self, _models: object, batch: object) -> object:
                raise AssertionError

        return Still()  # type: ignore[return-value]

    made = Recipe("Us 2026", (still,), kind="other", norms=("linf",))
    assert made.parameters == {"steps": (int, 1)} and made.make(LinfBall(0.1), steps=3).steps == 3


def nudged(changed: AttackLoop, *, nudge: Length = 1 / 255) -> AttackLoop:
    """A part whose parameter is a length."""
    return replace(changed, lookahead=nudge)


NUDGED = """
from dataclasses import replace
from tests.attacks.test_recipes import nudged
from transforms.attacks.recipes.names import combined

made = combined("mi")
recipe = replace(made, source="Us 2026", chain=(*made.chain, nudged))
"""


@pytest.mark.parametrize("name", ["mi-nudged", "nudging"])
def test_a_length_of_a_new_recipe_is_checked_and_listed_without_another_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A built-in part is a function with an entry in `PARTS`, a plug-in's recipe a module of its own. The unit stands
    in the parameter's type, and the rest follows."""
    monkeypatch.setitem(PARTS, "nudged", Part("Us 2026", (nudged,)))
    with installing("megalith.attacks", tmp_path, monkeypatch) as install:
        install("nudging_attacks", NUDGED, nudging="nudging_attacks:recipe")
        assert dict(load(tmp_path, recipe=name, nudge="2/255").parameters)["nudge"] == 2 / 255
        assert dict(load(tmp_path, recipe=name).parameters)["nudge"] == 1 / 255
        assert dict(load(tmp_path, recipe=name, norm="l2", eps=3, nudge=2).parameters)["nudge"] == 2
        for written, said in (
            ({"nudge": 2}, "nudge: 2 is the whole range of a pixel, 1, or more; did you mean 2/255?"),
            ({"nudge": "far"}, "nudge: 'far'"),
            ({"nugde": "2/255"}, f"{name} has no parameter 'nugde'; did you mean 'nudge'?"),
        ):
            with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
                load(tmp_path, recipe=name, **written)
            assert f"attacks.a: {said}" in str(raised.value).replace("a.nudge", "a: nudge")
        listed = next(line for line in invoke("list", "attacks", name).stdout.splitlines() if "nudge " in line)
        assert "1/255" in listed and "length in the attack's norm" in listed
