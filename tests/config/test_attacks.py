"""What an experiment refuses of an attack, because it would have no effect or another one than it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.experiment import load_experiment
from tests.support.runs import tiny, written
from transforms.attacks.modifiers.registry import ModifierSpec
from transforms.attacks.spec import AttackSpec
from transforms.errors import InputError
from transforms.models.sources.registry import model_source
from transforms.models.sources.source import ModelSource

BOTH = ["lite0", "lite1"]


def specs(folder: Path, **attack: Any) -> tuple[AttackSpec, ...]:
    """Of an experiment with one attack, on Lite0 within 4/255 unless it says otherwise."""
    attacks = {"a": {"surrogates": ["lite0"], "eps": "4/255", **attack}}
    canvas = {"resize": 256, "crop": 256}  # wide enough for every view
    return load_experiment(str(written(folder, tiny(attacks=attacks, canvas=canvas)))).specs


def refusal(folder: Path, **attack: Any) -> str:
    with pytest.raises(InputError) as caught:
        specs(folder, **attack)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("epsilon", "eps"), ("step_size", "alpha"), ("iterations", "steps"), ("model", "surrogates")]
)
def test_words_of_other_libraries_are_known(theirs: str, ours: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, recipe="pgd", surrogates=["lite0"], eps="4/255", **{theirs: 1})
    assert f"pgd has no parameter '{theirs}'; did you mean '{ours}'?" in said


def test_a_key_that_may_be_of_two_types_is_named_alone(tmp_path: Path) -> None:
    assert refusal(tmp_path, recipe="fia", layer=4).endswith("attacks.a.layer: input should be a valid string, not 4")


@pytest.mark.parametrize(
    ("recipe", "norm"), [("cw", "l2"), ("ddn", "l2"), ("fmn", "linf"), ("deepfool", "linf"), ("autoattack", "linf")]
)
def test_averaged_losses_do_not_say_on_which_side_of_the_boundary_logits_are(
    recipe: str, norm: str, tmp_path: Path
) -> None:
    attack = {"recipe": recipe, "norm": norm, "eps": 2 if norm == "l2" else "4/255", "surrogates": BOTH}
    said = refusal(tmp_path, **attack, fuse="losses")
    assert f"fuse: {recipe} fuses by logits or probabilities, not by losses" in said
    for fuse in ("logits", "probabilities"):
        assert specs(tmp_path, **attack, fuse=fuse)[0].fuse == fuse


@pytest.mark.parametrize("target", [None, "megalith"])
def test_the_logit_of_averaged_probabilities_would_be_another_objective(target: str | None, tmp_path: Path) -> None:
    said = "objective: logit would be cross-entropy with"
    bim = {"recipe": "bim", "objective": "logit", "target": target, "surrogates": BOTH}
    assert f"{said} fuse: probabilities" in refusal(tmp_path, **bim, fuse="probabilities")
    assert f"{said} view: ten-crop" in refusal(tmp_path, **bim, view="ten-crop")
    assert specs(tmp_path, **bim, fuse="logits")
    assert specs(tmp_path, **{**bim, "objective": "margin"}, fuse="probabilities", view="ten-crop")


def test_logit_of_averaged_probabilities_is_refused_as_a_default_too(tmp_path: Path) -> None:
    attack = {"recipe": "logit", "target": "megalith", "view": "saccades"}
    assert "objective: logit would be cross-entropy with view: saccades" in refusal(tmp_path, **attack)
    assert specs(tmp_path, **{**attack, "recipe": "logit-margin"})


@pytest.mark.parametrize(
    ("recipe", "norm"),
    [
        ("square", "linf"),
        ("torchattacks/Square", "linf"),
        ("torchattacks/SPSA", "linf"),
        ("foolbox/BoundaryAttack", "l2"),
        ("foolbox/LinfAdditiveUniformNoiseAttack", "linf"),
    ],
)
def test_precision_is_of_gradients(recipe: str, norm: str, tmp_path: Path) -> None:
    attack = {"recipe": recipe, "norm": norm, "eps": 2 if norm == "l2" else "4/255"}
    said = f"precision: bf16 has no effect on {recipe}, which takes no gradients"
    assert said in refusal(tmp_path, **attack, precision="bf16")
    assert specs(tmp_path, **attack)


@pytest.mark.parametrize("recipe", ["vmi-fgsm", "vni-fgsm", "emi-fgsm", "vmi-di-ti"])
def test_what_looks_back_needs_two_steps(recipe: str, tmp_path: Path) -> None:
    assert "steps: 1 has no step before it" in refusal(tmp_path, recipe=recipe, steps=1)
    assert specs(tmp_path, recipe=recipe, steps=2)


@pytest.mark.parametrize(
    ("recipe", "key", "norm"),
    [
        ("pi-fgsm", "project_factor", "linf"),
        ("ssa", "spectrum_noise", "linf"),
        ("ssa", "spectrum_noise", "l2"),
        ("mi-fgsm", "alpha", "linf"),
    ],
)
def test_lengths_in_levels_are_told_from_those_in_pixels(recipe: str, key: str, norm: str, tmp_path: Path) -> None:
    attack = {"recipe": recipe, "norm": norm, "eps": 3 if norm == "l2" else "16/255"}
    assert f"{key}: 16 is the whole range of a pixel, 1, or more; did you mean 16/255?" in refusal(
        tmp_path, **attack, **{key: 16}
    )
    assert specs(tmp_path, **attack, **{key: "16/255"})


def test_a_black_box_is_attacked_by_what_takes_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whichever kind and library; what follows gradients is refused."""

    def black_box(*arguments: Any) -> ModelSource:
        return replace(model_source(*arguments), differentiable=False)

    monkeypatch.setattr("pipeline.config.experiment.model_source", black_box)
    minimal = {"norm": "l2", "eps": 2}
    assert specs(tmp_path, recipe="square")
    assert specs(tmp_path, recipe="foolbox/BoundaryAttack", **minimal)
    assert "gives no gradients, which bim follows" in refusal(tmp_path, recipe="bim")
    assert "which foolbox/L2FMNAttack follows" in refusal(tmp_path, recipe="foolbox/L2FMNAttack", **minimal)


def test_a_verdict_needs_draws_to_be_over(tmp_path: Path) -> None:
    noise = "noise:sigma=0.05,repeats=2"
    (judged,) = specs(tmp_path, recipe="pgd", verdict="majority", defense=noise)
    assert (judged.verdict, judged.defense.name) == ("majority", noise)
    assert specs(tmp_path, recipe="pgd", defense=noise)[0].verdict == "mean"
    for defense in ("none", "jpeg:quality=75"):
        said = refusal(tmp_path, recipe="pgd", verdict="worst-of-n", defense=defense)
        assert "attacks.a: verdict: worst-of-n has no effect, because the attack knows no random defence" in said
    adaptive = refusal(tmp_path, recipe="pgd", verdict="worst-of-n", adaptive=True)
    assert "attacks.a.verdict: worst-of-n has no effect, because none of the defences is random" in adaptive
    said = refusal(tmp_path, recipe="pgd", verdict="mode", defense=noise)
    assert "unknown verdict 'mode'" in said


def test_a_smooth_approximation_needs_a_defence_that_has_one(tmp_path: Path) -> None:
    assert specs(tmp_path, recipe="pgd", backward="smooth", defense="jpeg:quality=75")[0].backward == "smooth"
    assert specs(tmp_path, recipe="pgd", backward="smooth", adaptive=True)[1].backward == "smooth"  # behind jpeg
    said = refusal(tmp_path, recipe="pgd", backward="smooth", defense="blur:sigma=1.0")
    assert "attacks.a: backward: smooth has no effect on blur:sigma=1.0; it has on jpeg" in said
    said = refusal(tmp_path, recipe="square", backward="smooth", defense="jpeg:quality=75")
    assert "attacks.a: backward: smooth has no effect on square, which takes no gradients" in said


# --- modified surrogates


def modified(modify: Any, **more: Any) -> dict[str, Any]:
    return {"recipe": "mi-fgsm", "surrogates": [{"model": "lite0", "modify": modify}], **more}


@pytest.mark.parametrize(
    "modify", ["sgm", ["sgm"], {"sgm": None}, {"sgm": {}}, {"sgm": {"gamma": 0.2}}, {"sgm": {"gamma": "1/5"}}]
)
def test_a_modifier_may_be_written_short(modify: Any, tmp_path: Path) -> None:
    (spec,) = specs(tmp_path, **modified(modify))
    assert spec.surrogates == ("lite0",) and spec.plain
    assert spec.modifiers == (("lite0", (ModifierSpec("sgm", (("gamma", 0.2),)),)),)


def test_each_surrogate_has_modifiers_of_its_own(tmp_path: Path) -> None:
    both = ["lite1", {"model": "lite0", "modify": {"ghost": {"skip_range": 0.3}, "sgm": {}}}]
    (spec,) = specs(tmp_path, recipe="mi-fgsm", surrogates=both)
    assert spec.surrogates == ("lite1", "lite0")
    assert [(name, [each.name for each in some]) for name, some in spec.modifiers] == [("lite0", ["sgm", "ghost"])]


def test_run_json_has_every_parameter_and_is_read_again(tmp_path: Path) -> None:
    attacks = {
        "a": {**modified("tgr"), "eps": "4/255"},
        "b": {"recipe": "bim", "surrogates": ["lite0"], "eps": "4/255"},
        "c": {**modified({"fpr": {"blocks": [1, 6, 11]}}), "eps": "4/255"},
    }
    experiment = load_experiment(str(written(tmp_path, tiny(attacks=attacks))))
    defined = experiment.model_dump(mode="json")["attacks"]
    assert defined["c"]["surrogates"][0]["modify"]["fpr"]["blocks"] == [1, 6, 11]
    modify = {"tgr": {"attention": "1/4", "qkv": "3/4", "mlp": "1/2"}}
    assert defined["a"]["surrogates"] == [{"model": "lite0", "modify": modify}]
    assert defined["b"]["surrogates"] == ["lite0"]  # as it was before there were modifiers
    assert load_experiment(str(written(tmp_path, tiny(attacks=defined)))).specs == experiment.specs


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (modified("smg"), "surrogates.0.modify: unknown key 'smg'; did you mean 'sgm'?"),
        (modified({"sgm": 0.5}), "surrogates.0.modify.sgm: should be a section of keys, not 0.5"),
        (modified({"sgm": {"gama": 0.5}}), "surrogates.0.modify.sgm: unknown key 'gama'; did you mean 'gamma'?"),
        (modified({"sgm": {"gamma": 1}}), "surrogates.0: modify.sgm.gamma: 1.0 is not in [0, 1)"),
        (modified({"att": {"truncated": 1.5}}), "surrogates.0.modify.att.truncated: input should be a valid integer"),
        (modified({"fpr": {"blocks": [1.5]}}), "surrogates.0.modify.fpr.blocks.0: input should be a valid integer"),
        (modified({"fpr": {"blocks": [-1]}}), "surrogates.0: modify.fpr.blocks: -1 is not at least 0"),
        (modified("fpr", recipe="autoattack"), "surrogates: fpr is random, which autoattack does not draw anew"),
        (modified(["sgm", "sgm"]), "surrogates.0: 'sgm' is listed twice"),
        (modified([]), "surrogates.0: modify: [] is neither a name nor a section"),
        (modified(7), "surrogates.0: modify: 7 is neither a name nor a section"),
        (modified("sgm", recipe="square"), "surrogates: modify has no effect on square, which takes no gradients"),
        (modified("ghost", recipe="cw", norm="l2", eps=2), "surrogates: ghost is random, which cw does not draw anew"),
        (modified("ghost", recipe="torchattacks/PGD"), "surrogates: ghost is random, which torchattacks/PGD does not"),
        (modified("sgm", eot=2), "eot: 2 without a random"),
        ({"recipe": "bim", "surrogates": ["lite0", {"model": "lite0", "modify": "sgm"}]}, "'lite0' is listed twice"),
        ({"recipe": "bim", "surrogates": [{"model": "lite0", "modified": "sgm"}]}, "unknown key 'modified'"),
        ({"recipe": "bim", "surrogates": [{"modify": "sgm"}]}, "surrogates.0.model: is missing"),
        ({"recipe": "bim", "surrogates": "lite0"}, "surrogates: should be a list, as in [lite0]"),
        ({"recipe": "bim", "surrogates": []}, "surrogates: bim needs 1 or more, not 0"),
        ({"recipe": "bim", "surrogates": [{"model": "liteO"}]}, "unknown model in attacks.a.surrogates: 'liteO'"),
    ],
)
def test_what_makes_no_sense_of_a_modifier_is_refused(attack: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, **attack)


def test_a_random_modifier_may_be_averaged(tmp_path: Path) -> None:
    (spec,) = specs(tmp_path, **modified("ghost", eot=3))
    assert spec.build().redraws


# --- one surrogate at a time


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ({"recipe": "svre"}, "fuse: svre follows its surrogates one by one, by itself; leave drawn out"),
        ({"recipe": "cw", "norm": "l2", "eps": 2}, "fuse: cw fuses by logits or probabilities, not by drawn"),
        ({"recipe": "apgd-ce"}, "fuse: apgd-ce does not draw a surrogate for each step; recipes of the loop do"),
        ({"recipe": "bim", "surrogates": ["lite0"]}, "fuse: drawn has no effect with one surrogate"),
        ({"recipe": "fgsm"}, "fuse: drawn would follow a single surrogate in a single step"),
    ],
)
def test_surrogates_are_drawn_where_that_makes_sense(attack: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, **{"surrogates": BOTH, "fuse": "drawn", **attack})
