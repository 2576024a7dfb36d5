"""Leaderboards: models × attacks over several run directories that follow one protocol."""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from pipeline.results import findings
from pipeline.results.cases import chosen, known, not_attacked, shown, with_targets
from pipeline.results.comparisons import other_targets
from pipeline.results.crosstabs import cell
from pipeline.results.findings import WORST
from pipeline.results.formats import Sheet
from pipeline.results.outcomes import Cases, described, quoted, uncertainty
from pipeline.results.record import differing
from pipeline.results.statistics import FAR
from transforms.data.verdicts import Verdict
from transforms.errors import InputError, unknown
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.results.tables import Run

    Taking: TypeAlias = tuple[Run, Cases]
    """A run that takes part, and the cases of it that are meant."""


def leaderboard(
    runs: Sequence["Run"], wanted: Cases | None = None, *, allow_unlike: bool = False, verdict: Verdict = "mean"
) -> Sheet:
    """Accuracy of each model, clean, under each attack and in the worst case over them; the most robust model first.

    A model that several runs define alike (weights and preprocessing) is one entry. The worst case is shown of entries
    that one run has all attacks of.

    Args:
        wanted: values by key; by default all that the last experiment of each run names, undefended.
        allow_unlike: whether runs of unlike protocols are shown together all the same. An entry is then of one run, and
            the sheet says what is unlike.
        verdict: as `findings.measured` says.

    Raises:
        InputError: a name is unknown, or protocols are unlike: images, canvas, view, budgets, or what the name of an
            attack means.
    """
    taking = list(_taking(runs, wanted or {}))
    if not taking:
        raise InputError("leaderboard: no run has all that is asked for")
    protocols = [_protocol(*each) for each in taking]
    unlike = list(_unlike(taking, protocols))
    if unlike and not allow_unlike:
        raise InputError(f"leaderboard: unlike {unlike[0]}; choose with --attack or --view, or give --allow-unlike")
    attacks = list(dict.fromkeys(each for _, cases in taking for each in cases["attack"] if each != CLEAN))
    numbers = _entries(taking, attacks, verdict, apart=bool(unlike))
    columns = [CLEAN, *attacks, WORST]
    texts = {(each.entry, each.attack): cell(each) + (" *" if each.white_box else "") for each in numbers.itertuples()}
    common = [shown(key, value, alone=True) for key, value in protocols[0].items() if not unlike]
    absent = [run.store.root for run in runs if run not in {run for run, _ in taking}]
    left_out = [f"Left out, having nothing of what is asked for: {', '.join(absent)}."] if absent else []
    blind = dict.fromkeys(note for each in taking for note in not_attacked(*each))
    published = dict.fromkeys(note for each in taking for note in _published(*each, numbers))
    return Sheet(
        title="; ".join([described("accuracy", "all", verdict=verdict), *common]),
        headings=["model", *(shown("attack", each) for each in columns)],
        cells=[[entry, *(texts.get((entry, each), "") for each in columns)] for entry in _ranked(numbers)],
        numbers=numbers,
        notes=[*_NOTES, *published, *blind, *left_out, *(f"Not comparable: unlike {each}." for each in unlike)],
    )


def _taking(runs: Sequence["Run"], wanted: Cases) -> Iterator["Taking"]:
    """The runs that have anything that is wanted."""
    there = [known(run) for run in runs]
    meant = [
        {**wanted, "attack": with_targets(run, wanted.get("attack", ()), has["attack"])}
        for run, has in zip(runs, there, strict=True)
    ]
    for key, names in wanted.items():
        for name in names:
            if all(name in of[key] and name not in has[key] for of, has in zip(meant, there, strict=True)):
                raise unknown(key, name, set().union(*(each[key] for each in there)))
    for run, of, has in zip(runs, meant, there, strict=True):
        some = {key: [name for name in names if name in has[key]] for key, names in of.items() if names}
        if all(some.values()):
            yield run, chosen(run, some, ("attack", "model"), clean=True)


def _protocol(run: "Run", cases: Cases) -> dict[str, str]:
    """What entries must have in common to be compared."""
    _, ((count, digest),) = run.rows(
        "select count(*), sha256(string_agg(image, ',' order by image)) "
        "from (select bytes_sha256 || ' ' || label as image from images)"
    )
    attacks = ", ".join(map(quoted, cases["attack"]))
    _, budgets = run.rows(f"select distinct norm, eps, bounds from attacks where attack in ({attacks}) order by all")  # noqa: S608 - quoted
    canvas = run.record.definitions.canvas
    return {
        "images": f"{count} ({digest or '':.8})",
        "canvas": f"{canvas.resize}/{canvas.crop}",
        "view": cases["view"][0],
        "defense": cases["defense"][0],
        "budget": ", ".join(f"{norm} {_fraction(eps)}" if norm else bounds for norm, eps, bounds in budgets),
    }


def _fraction(eps: float) -> str:
    """A budget as experiments give it: 4/255, or 3."""
    levels = Fraction(eps * 255).limit_denominator(1000)
    return f"{levels}/255" if eps < 1 and abs(eps * 255 - levels) < _ROUNDING else f"{eps:g}"


def _unlike(taking: Sequence["Taking"], protocols: Sequence[dict[str, str]]) -> Iterator[str]:
    """What is not the same in all runs, in words."""
    (first, *others), names = [run for run, _ in taking], [run.store.root for run, _ in taking]
    for key, value in protocols[0].items():
        for name, protocol in zip(names[1:], protocols[1:], strict=True):
            if protocol[key] != value:
                yield f"{key}: {value} in {names[0]}, {protocol[key]} in {name}"
    if ", " in protocols[0]["budget"]:
        yield f"budgets: {protocols[0]['budget']} in {names[0]}"
    for run in others:
        for key, here, there in differing(first.record.definitions, run.record.definitions):
            if key.startswith("attacks."):
                yield f"attacks of one name: {key} is {here} in {first.store.root}, {there} in {run.store.root}"
        for attack in other_targets(first, run):
            yield f"attacks of one name: {attack} wants other classes in {run.store.root} than in {first.store.root}"


def _entries(taking: Sequence["Taking"], attacks: Sequence[str], verdict: Verdict, *, apart: bool) -> "pd.DataFrame":
    """Rates by entry and attack: entry, run, model, attack, white_box, successes, of, rate, low, high."""
    import pandas as pd  # noqa: PLC0415 - takes a second, and is there by now

    rows = pd.concat([_rates(*each, attacks, verdict) for each in taking], ignore_index=True)
    rows["identity"] = rows["identity"] + (rows["run"] if apart else "")
    rows = rows.drop_duplicates(["identity", "attack"])
    namesakes = rows.groupby("model")["identity"].transform("nunique") > 1
    first = rows.groupby("identity")["run"].transform("first")
    rows["entry"] = rows["model"].where(~namesakes, rows["model"] + " (" + first + ")")
    return rows[["entry", "run", "model", "attack", "white_box", "successes", "of", "rate", "low", "high"]]


def _rates(run: "Run", cases: Cases, attacks: Sequence[str], verdict: Verdict) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415 - said above

    rates = [findings.measured(run, "accuracy", None, {**cases, "attack": [CLEAN, *attacks]}, verdict).rows]
    if set(attacks) <= set(cases["attack"]):
        rates.append(findings.worst_case(run, "accuracy", None, cases, verdict).rows.assign(attack=WORST))
    rows = pd.concat(rates, ignore_index=True).assign(run=run.store.root)
    models = run.record.definitions.models
    identities = {name: json.dumps([name, each.weights_sha256, each.preprocessing]) for name, each in models.items()}
    _, pairs = run.rows("select distinct attack, unnest(surrogates) from attacks")
    white = set(pairs) | {(WORST, model) for attack, model in pairs if attack in attacks}
    return rows.assign(
        identity=rows["model"].map(identities),
        white_box=[pair in white for pair in zip(rows["attack"], rows["model"], strict=True)],
    )


def _published(run: "Run", cases: Cases, numbers: "pd.DataFrame") -> Iterator[str]:
    """What was published of robust models, clean and under AutoAttack, and whether ours is far below it."""
    _, found = run.rows(
        "select distinct surrogates[1], attack from attacks where recipe = 'autoattack' and norm = 'linf' "
        "and abs(eps - 4 / 255) < 1e-9 and target is null and len(surrogates) = 1 and through = 'none'"
    )
    sure = dict(found)
    high = {(each.model, each.attack): each.high for each in numbers.itertuples() if each.run == run.store.root}
    for model in cases["model"]:
        clean, robust = run.record.published.get(model), run.record.published_robust.get(model)
        if clean is not None and robust is not None:
            known = [("clean", clean, CLEAN), ("under AutoAttack at 4/255 (L∞)", robust, sure.get(model, ""))]
            said = [
                f"{value:.1%} {how}"
                + (", which ours is far below" if high.get((model, attack), 1) < value - FAR else "")
                for how, value, attack in known
            ]
            yield f"Published of {model}: {'; '.join(said)}."


def _ranked(numbers: "pd.DataFrame") -> list[str]:
    """Entries by their worst case, then by their mean under attack; those without a worst case come last."""
    worst = numbers[numbers["attack"] == WORST].set_index("entry")["rate"]
    attacked = numbers[~numbers["attack"].isin([CLEAN, WORST])].groupby("entry")["rate"].mean()
    entries = list(dict.fromkeys(numbers["entry"]))
    return sorted(entries, key=lambda each: (-worst.get(each, -1.0), -attacked.get(each, -1.0)))


_ROUNDING = 1e-6
_NOTES = (
    uncertainty("accuracy"),
    "* white-box: an attack follows the model's gradients.",
    "Worst case: the images that are right when clean and under each attack.",
)
