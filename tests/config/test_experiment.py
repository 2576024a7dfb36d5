"""The experiment's file: what it means, what it leaves to defaults, and that nobody changes it afterwards."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.config.experiment import Experiment, load_experiment
from pipeline.config.yaml import read_yaml
from tests.support.runs import ROOT, written
from transforms.data.classes import class_name, class_wnid
from transforms.defenses.defense import NO_DEFENSE, Defense, Filter
from transforms.errors import InputError

PGD: dict[str, Any] = {"recipe": "pgd", "surrogates": ["a"], "eps": "4/255"}
LEAST: dict[str, Any] = {
    "name": "least",
    "images": {"samples": "foolbox"},
    "models": {"b": "packaged/efficientnet-lite1", "a": "packaged/efficientnet-lite0"},
}


def load(folder: Path, *changes: str, **sections: Any) -> Experiment:
    return load_experiment(str(written(folder, {**LEAST, **sections})), changes)


def test_defaults(tmp_path: Path) -> None:
    experiment = load(tmp_path, attacks={"pgd": PGD})
    assert (experiment.seed, experiment.chunk_size, experiment.all_probabilities) == (0, 16, False)
    assert (experiment.canvas.resize, experiment.canvas.crop) == (256, 224)
    assert experiment.canvas.spec.field_of_view == 224 / 256
    assert experiment.targets == ("b", "a")  # all models, in the order in which they are named
    assert experiment.views == ("center",)
    assert experiment.defenses == ()
    (spec,) = experiment.specs
    assert (spec.fuse, spec.view, spec.defense, spec.precision, spec.norm, spec.target) == (
        "logits",
        "center",
        NO_DEFENSE,
        "fp32",
        "linf",
        None,
    )
    assert dict(spec.parameters) == {
        "steps": 10,
        "alpha": None,
        "random_start": True,
        "restarts": 1,
        "objective": "cross-entropy",
        "keep": "last",
        "eot": 1,
    }


def test_a_recipes_own_defaults(tmp_path: Path) -> None:
    """The logit attack as published: 300 steps of 2/255, no normalisation, towards a logit."""
    (spec,) = load(tmp_path, attacks={"logit": {**PGD, "recipe": "logit", "target": "megalith"}}).specs
    own = dict(spec.parameters)
    assert (own["steps"], own["alpha"], own["normalized"], own["objective"]) == (300, 2 / 255, False, "logit")
    assert (own["diversity_probability"], own["kernel_size"]) == (0.7, 5)


def test_any_base_with_any_parts(tmp_path: Path) -> None:
    attack = {**PGD, "recipe": "vmi-di-ti-si", "scales": 3, "resize_rate": 1.2, "neighbors": 5, "kernel_size": 7}
    (spec,) = load(tmp_path, attacks={"all": attack}).specs
    assert spec.build().cost(1) == (10 * 3 + 9 * 5 * 3,) * 2


def test_a_defense_that_the_attack_knows(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, attacks={"pgd": {**PGD, "defense": "lowpass:cutoff=1/2"}}).specs
    assert spec.defense == Defense((Filter("lowpass", (("cutoff", 0.5),)),))
    assert spec.defense.name == "lowpass:cutoff=0.5"


def test_nothing_but_models_and_images_is_needed(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert experiment.attacks == {}
    assert experiment.specs == ()


def test_an_experiment_is_frozen(tmp_path: Path) -> None:
    experiment = load(tmp_path, attacks={"pgd": PGD})
    for section, key in (
        (experiment, "seed"),
        (experiment.canvas, "crop"),
        (experiment.images, "limit"),
        (experiment.models["a"], "source"),
        (experiment.attacks["pgd"], "eps"),
        (experiment.attacks["pgd"].parameters, "steps"),
    ):
        before = getattr(section, key)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)
        assert getattr(section, key) == before
    with pytest.raises(AttributeError):
        experiment.specs[0].eps = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("4/255", Fraction(4, 255)),
        ("8/255", Fraction(8, 255)),
        (0.03, Fraction(3, 100)),
        ("0.03", Fraction(3, 100)),
        ("1/255", Fraction(1, 255)),
        (0.5, Fraction(1, 2)),
        ("0.5/255", Fraction(1, 510)),
    ],
)
def test_fractions_are_exact(text: str | float, exact: Fraction, tmp_path: Path) -> None:
    experiment = load(tmp_path, attacks={"pgd": {**PGD, "alpha": text}})
    (spec,) = experiment.specs
    assert dict(spec.parameters)["alpha"] == exact.numerator / exact.denominator
    if exact >= Fraction(1, 255):  # a budget smaller than a grey level is refused
        eps = load(tmp_path, attacks={"pgd": {**PGD, "eps": text}}).attacks["pgd"].eps
        assert eps == exact and isinstance(eps, Fraction)


def test_the_same_budget_written_in_two_ways_is_the_same(tmp_path: Path) -> None:
    one = load(tmp_path, attacks={"pgd": {**PGD, "eps": "8/510"}})
    other = load(tmp_path, attacks={"pgd": PGD})
    assert one.specs == other.specs
    assert one.model_dump(mode="json") == other.model_dump(mode="json")


def test_what_is_dumped_can_be_loaded(tmp_path: Path) -> None:
    """run.json keeps the experiment; every parameter of every attack must be in it."""
    attack = {**PGD, "steps": 3, "alpha": "1/255", "restarts": 2, "target": "megalith"}
    dumped = load(tmp_path, attacks={"pgd": attack}).model_dump(mode="json")["attacks"]["pgd"]
    flat = {**dumped, **dumped.pop("parameters", {})}
    assert {key: flat[key] for key in ("eps", "target", "recipe", "surrogates")} == {
        "eps": "4/255",
        "target": 649,
        "recipe": "pgd",
        "surrogates": ["a"],
    }
    assert {key: flat.get(key) for key in ("steps", "alpha", "random_start", "restarts")} == {
        "steps": 3,
        "alpha": "1/255",
        "random_start": True,
        "restarts": 2,
    }


def test_grids_of_defenses_in_the_order_written(tmp_path: Path) -> None:
    defenses = {"jpeg": {"quality": [90, 75]}, "lowpass": {"cutoff": [1.0, 0.9, "7/10"]}, "blur": {"sigma": 2}}
    experiment = load(tmp_path, defenses=defenses)
    assert [defense.name for defense in experiment.defenses] == [
        "jpeg:quality=90",
        "jpeg:quality=75",
        "lowpass:cutoff=1.0",
        "lowpass:cutoff=0.9",
        "lowpass:cutoff=0.7",
        "blur:sigma=2.0",
    ]
    assert experiment.defenses[0] == Defense((Filter("jpeg", (("quality", 90),)),))
    assert isinstance(dict(experiment.defenses[0].filters[0].parameters)["quality"], int)


def test_one_defense_has_one_name(tmp_path: Path) -> None:
    """1 and 1.0 are the same cutoff: two spellings must not become two defences in the tables."""
    names = {
        load(tmp_path, defenses={"lowpass": {"cutoff": [value]}}).defenses[0].name for value in (1, 1.0, "1", "2/2")
    }
    assert names == {"lowpass:cutoff=1.0"}
    with pytest.raises(InputError, match="cutoff"):
        load(tmp_path, defenses={"lowpass": {"cutoff": [0.5, "1/2"]}})


@pytest.mark.parametrize(
    "written_as", ["megalith", "Megalith", "megalithic structure", 649, "649", class_wnid(649), "megalithic_structure"]
)
def test_classes_by_index_wnid_and_name(written_as: str | int, tmp_path: Path) -> None:
    experiment = load(tmp_path, attacks={"pgd": {**PGD, "target": written_as}})
    target = experiment.attacks["pgd"].target
    assert target == 649
    assert class_name(target) == "megalith"


def test_models_in_the_short_and_the_long_form(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"weights")
    own = {"source": "packaged/efficientnet-lite0", "weights": str(tmp_path / "mine.pth")}
    experiment = load(tmp_path, models={"a": "packaged/efficientnet-lite0", "own": own})
    assert experiment.models["a"].source == experiment.models["own"].source == "packaged/efficientnet-lite0"
    assert experiment.models["a"].weights is None
    assert experiment.models["own"].weights == str(tmp_path / "mine.pth")


def test_only_models_that_somebody_needs_are_used(tmp_path: Path) -> None:
    models = dict.fromkeys(("a", "b", "c"), "packaged/efficientnet-lite0")
    experiment = load(tmp_path, models=models, attacks={"pgd": PGD}, targets=["c"])
    assert set(experiment.used_models) == {"a", "c"}


def test_changes_come_before_validation_and_the_last_one_wins(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        "attacks.pgd.eps=2/255",
        "seed=5",
        "seed=6",
        "attacks.new.recipe=fgsm",
        "attacks.new.surrogates=[b]",
        "attacks.new.eps=1/255",
        "targets=[a]",
        "defenses.lowpass.cutoff=[0.5]",
        "models.a=packaged/efficientnet-lite2",
        attacks={"pgd": {**PGD, "eps": "nonsense, but replaced"}},
        seed=4,
    )
    assert experiment.seed == 6
    assert experiment.attacks["pgd"].eps == Fraction(2, 255)
    assert experiment.attacks["new"].followed == ("b",)
    assert experiment.targets == ("a",)
    assert [defense.name for defense in experiment.defenses] == ["lowpass:cutoff=0.5"]
    assert experiment.models["a"].source == "packaged/efficientnet-lite2"


def test_a_change_keeps_the_equals_signs_of_its_value(tmp_path: Path) -> None:
    experiment = load(tmp_path, "images.folder=a=b", "images.samples=null")
    assert experiment.images.folder == "a=b"


def test_yaml_1_2(tmp_path: Path) -> None:
    """In YAML 1.1 `no` is false and 010 is eight."""
    path = tmp_path / "experiment.yaml"
    path.write_text(
        "name: no\nseed: 010\nimages: {samples: foolbox}\n"
        "models: {on: packaged/efficientnet-lite0, y: packaged/efficientnet-lite1}\n"
    )
    experiment = load_experiment(str(path))
    assert (experiment.name, experiment.seed, list(experiment.models)) == ("no", 10, ["on", "y"])


EXPERIMENTS = sorted((ROOT / "data" / "experiments").glob("*.yaml"))


def test_there_are_experiments() -> None:
    assert {"penguin.yaml", "quickstart.yaml"} <= {path.name for path in EXPERIMENTS}


@pytest.mark.system
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_of_this_repository_are_valid(path: Path) -> None:
    # The origin's names a file that has to be exported first: test_origin.py makes one.
    exported = ["models.nasnet=keras/MobileNetV2"] if path.stem == "origin" else []
    experiment = load_experiment(str(path), exported)
    assert experiment.name == path.stem
    assert experiment.specs


def examples() -> list[str]:
    """The YAML blocks of the documentation; those of plugin-attack.md need a package, and are tested with it."""
    pages = [ROOT / "README.md", ROOT / "docs" / "attacks.md"]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [block for text in texts for block in re.findall(r"^```ya?ml\n(.*?)^```", text, flags=re.M | re.S)]


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole experiment is loaded as it is; sections alone are put into a small one."""
    monkeypatch.chdir(tmp_path)
    models = {name: f"packaged/efficientnet-{name}" for name in ("lite0", "lite1", "lite2")}
    models |= {"a": models["lite0"], "b": models["lite1"]}
    for text in examples():
        section = YAML(typ="safe", pure=True).load(text)
        whole = {**LEAST, **section, "models": {**models, **section.get("models", {})}}
        for model in whole["models"].values():
            if isinstance(model, dict) and "weights" in model:  # the reader's own file
                (tmp_path / model["weights"]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / model["weights"]).touch()
        experiment = load_experiment(str(written(tmp_path, whole)))
        assert set(section.get("attacks", {})) <= set(experiment.attacks), text


def test_a_change_of_one_attack_leaves_alone_what_it_was_an_alias_of(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(
        "name: a\nimages: {samples: foolbox}\nmodels: {a: packaged/efficientnet-lite0}\n"
        "attacks:\n  one: &one {recipe: pgd, surrogates: [a], eps: 4/255}\n  two: *one\n  three: {<<: *one, steps: 3}\n"
    )
    attacks = load_experiment(str(path), ["attacks.two.eps=2/255", "attacks.three.surrogates=[a]"]).attacks
    assert [attacks[name].eps for name in ("one", "two", "three")] == [Fraction(each, 255) for each in (4, 2, 4)]
    assert dict(attacks["three"].parameters)["steps"] == 3


REFUSED = {
    "a date": ("seed: 2020-01-01", "line 4 holds a timestamp"),
    "a date that there is not": ("seed: 2020-13-45", "line 4 holds a timestamp"),
    "a set, which has no order": ("targets: !!set {a}", "line 4 holds a set"),
    "a number of many digits": ("seed: " + "9" * 5000, "line 4 has a number of more than 64 signs"),
    "a number that is none": ("seed: !!int x", "not valid YAML: invalid literal for int"),
    "nothing but brackets": ("targets: " + "[" * 2000, "nested too deeply"),
    "itself": ("targets: &t [*t]", "line 4 is nested too deeply"),
    "aliases of aliases": (
        "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join(['*a' + str(n - 1 or '')] * 9)}]\n" for n in range(1, 9)),
        "more than 65,536 values, its aliases written out",
    ),
    "a key with a line break": ('"a\\nb": 1', "unknown key 'a\\\\nb'"),
    "a name with a line break": ('attacks: {"a\\nb": {}}', "attacks.a b"),
    "a name with a colour": ('attacks: {"a\\e[31mb": {recipe: pgd}}', r"attacks.a\\x1b\[31mb"),
    "a megabyte": ("name: " + "x" * 2**20, "larger than 131,072 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_strange_yaml_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    text, words = REFUSED[what]
    path = tmp_path / "experiment.yaml"
    path.write_text(f"name: a\nimages: {{samples: foolbox}}\nmodels: {{a: packaged/efficientnet-lite0}}\n{text}\n")
    with pytest.raises(InputError, match=words) as caught:
        load_experiment(str(path))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500


def test_a_picture_for_an_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=r"picture\.jpg' is no text in UTF-8, as YAML is"):
        load_experiment(str(tmp_path / "picture.jpg"))


def test_thirty_two_levels_are_the_deepest() -> None:
    def nested(levels: int) -> str:
        return "a: " + "[" * levels + "]" * levels

    found, levels = read_yaml(nested(32), "here")["a"], 1
    while found:
        found, levels = found[0], levels + 1
    assert levels == 32
    with pytest.raises(InputError, match="nested too deeply; at most 32 levels"):
        read_yaml(nested(33), "here")
