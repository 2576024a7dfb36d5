"""Comparisons: A against B on the same images, within a run or between two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from pipeline.results.cases import asked, beyond_budget, chosen, not_attacked, shown, white_box
from pipeline.results.findings import WORST, one_target, unlike_targets, worst_outcomes
from pipeline.results.formats import Sheet
from pipeline.results.outcomes import KEYS, RATES, Cases, described, outcomes, usual_denominator
from pipeline.results.record import Json, differing
from pipeline.results.statistics import Paired, PairedMeans, holm, paired
from transforms.data.verdicts import Verdict
from transforms.errors import InputError, unknown
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.results.tables import Run

_IMAGE = ["bytes_sha256", "label"]
"""What makes an image of two runs the same, whatever it is called."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What two sides differ in, case by case, on the images that both have.

    Attributes:
        metric, denominator, verdict: as `findings.measured` says; an image counts if it does on both sides.
        rows: one for each comparison: the keys; one, other (what is compared); images; one_mean, other_mean;
            difference, low, high (95 %); one_only, other_only (images for which only the one or the other is true, null
            of means); test, McNemar or permutation; p, and p_holm, corrected for how many comparisons there are.
        flips: the images for which a rate's value is not the same on both sides: image_id, label, the keys, one, other,
            answer_one, answer_other, value_one, value_other.
        notes: sentences on what was compared.
    """

    metric: str
    denominator: str
    rows: "pd.DataFrame"
    flips: "pd.DataFrame"
    notes: Sequence[str] = ()
    verdict: Verdict = "mean"

    @property
    def what(self) -> str:
        """In words, what is compared."""
        return described(self.metric, self.denominator, verdict=self.verdict)


def within(
    run: "Run",
    by: str,
    metric: str = "accuracy",
    denominator: str | None = None,
    wanted: Cases | None = None,
    *,
    worst: bool = False,
    verdict: Verdict = "mean",
) -> Compared:
    """Compares the values of a key, each with each, where all else is equal: all models under each attack, say.

    Args:
        by: one of `KEYS`.
        metric, denominator, verdict: as `findings.measured` says.
        wanted: values by key; by default what the last experiment names, undefended unless defences are compared.
        worst: whether all attacks together are one, image by image; see `findings.worst_case`.

    Raises:
        InputError: a name is unknown, there are no two values to compare, or they are unlike, as success of attacks
            of which no two want the same classes.
    """
    if by not in KEYS:
        raise unknown("key", by, KEYS)
    wanted = wanted or {}
    across = [key for key in KEYS if key != "defense" or by == key or wanted.get(key)]
    cases = chosen(run, wanted, across, clean=by != "attack" and metric != "success")
    if len(cases[by]) == 1:
        raise InputError(f"compare: there is nothing to compare {by} {cases[by][0]} with")
    if by == "attack" and worst:
        raise InputError("worst case: it is over attacks; compare something else")
    unlike = unlike_targets(run, cases["attack"]) if by == "attack" and metric == "success" else set()
    found = _outcomes(run, metric, denominator, cases, verdict, worst=worst)
    rest = [key for key in KEYS if key != by]
    sides = {name: of.drop(columns=by) for name, of in found.groupby(by)}
    pairs = [*combinations([each for each in cases[by] if each in sides], 2)]
    alike = [pair for pair in pairs if tuple(sorted(pair)) not in unlike]
    if pairs and not alike:
        one_target(run, cases["attack"])
    both = [
        sides[one].merge(sides[other], on=["image_id", *_IMAGE, *rest], suffixes=_SIDES).assign(one=one, other=other)
        for one, other in alike
    ]
    lines = [line for each in both for line in _lines(each, rest, cases, ["image_id"])]
    over = [f"Worst case over {', '.join(each for each in cases['attack'] if each != CLEAN)}."] if worst else []
    left_out = len(pairs) - len(alike)
    skipped = [f"{left_out} pairs of attacks that do not want the same classes are not compared."] if left_out else []
    notes = [
        *white_box(run, cases),
        *asked(run, cases),
        *beyond_budget(run, cases["attack"]),
        *not_attacked(run, cases),
        *over,
        *skipped,
    ]
    return replace(_compared(metric, denominator, lines, both, notes), verdict=verdict)


def between(
    one: "Run",
    other: "Run",
    by: str | None = None,
    metric: str = "accuracy",
    denominator: str | None = None,
    wanted: Cases | None = None,
    *,
    worst: bool = False,
    verdict: Verdict = "mean",
) -> Compared:
    """Compares two runs in the cases that both have, on the images of the same bytes and label.

    Args:
        by: one of `KEYS`, for one line for each of its values: an image's number is then its mean over all other keys,
            clean images left out. By default each case has a line.
        metric, denominator, verdict: as `findings.measured` says.
        wanted: values by key; by default what the last experiment of each run names.
        worst: as of `within`.

    Raises:
        InputError: a name is unknown, the runs have no case or image in common, or unlike things would be averaged.
    """
    if by is not None and by not in KEYS:
        raise unknown("key", by, KEYS)
    pooled = by not in {None, "attack"}
    cases = [chosen(run, wanted or {}, KEYS, clean=metric != "success" and not pooled) for run in (one, other)]
    if pooled and metric == "success":
        one_target(one, cases[0]["attack"])
    if metric == "success":
        for attack in [each for each in other_targets(one, other) if all(each in of["attack"] for of in cases)]:
            raise InputError(f"success: {attack} wants other classes in {one.store.root} than in {other.store.root}")
    found = [
        _outcomes(run, metric, denominator, of, verdict, worst=worst)
        for run, of in zip((one, other), cases, strict=True)
    ]
    sides = [each.drop_duplicates([*_IMAGE, *KEYS]) for each in found]  # a picture may be in a run twice
    both = sides[0].merge(sides[1], on=[*_IMAGE, *KEYS], suffixes=_SIDES).rename(columns={"image_id_one": "image_id"})
    names = one.store.root, other.store.root
    if not len(both):
        raise InputError(f"compare: {names[0]} and {names[1]} have no image with the same bytes, label and case")
    both = both.assign(one=names[0], other=names[1])
    images = [len(side.drop_duplicates(_IMAGE)) for side in (*sides, both)]
    same = f"Of {images[0]} images of one and {images[1]} of other that count, {images[2]} are the same."
    lines = list(_lines(both, list(KEYS) if by is None else [by], cases[0], _IMAGE))
    return replace(_compared(metric, denominator, lines, [both], [same, *_unlike(one, other)]), verdict=verdict)


def other_targets(one: "Run", other: "Run") -> list[str]:
    """Attacks of two runs that, under one name, want different classes of some image that both have."""
    query = (
        "select bytes_sha256, images.label, attack, target from images "
        "join (select image_id, attack, target from attacks) using (image_id)"
    )
    sides = [run.sql(query).drop_duplicates([*_IMAGE, "attack"]) for run in (one, other)]
    both = sides[0].merge(sides[1], on=[*_IMAGE, "attack"], suffixes=_SIDES)
    unlike = both[both["target_one"].fillna(-1) != both["target_other"].fillna(-1)]
    return sorted(set(unlike["attack"]))


def _outcomes(
    run: "Run", metric: str, denominator: str | None, cases: Cases, verdict: Verdict, *, worst: bool
) -> "pd.DataFrame":
    """One row per image that counts and case: image_id, bytes_sha256, label, the keys, answer, value."""
    counted = metric, denominator, cases, verdict
    found = worst_outcomes(run, *counted) if worst else outcomes(*counted)
    return run.sql(
        f"select image_id, bytes_sha256, found.label, {', '.join(KEYS)}, predicted_name as answer, value "  # noqa: S608 - quoted
        f"from ({found}) as found join (select image_id, bytes_sha256 from images) as images using (image_id) "
        "where counts order by all"
    )


def _lines(both: "pd.DataFrame", keys: list[str], cases: Cases, image: list[str]) -> Iterator[Json]:
    """One comparison for each combination of keys, in the order of the cases.

    Args:
        image: columns that say which rows are of the same image.
    """
    groups = dict(list(both.groupby(keys)))
    places = {key: [*cases[key], WORST].index for key in keys}
    for case in sorted(groups, key=lambda each: [places[key](name) for key, name in zip(keys, each, strict=True)]):
        group = groups[case]
        one, other = group["one"].iloc[0], group["other"].iloc[0]
        if group.duplicated(image).any():
            group = group.groupby(image)[["value_one", "value_other"]].mean()
        found = paired(group["value_one"].to_numpy(), group["value_other"].to_numpy())
        yield {**dict(zip(keys, case, strict=True)), "one": one, "other": other, **_numbers(found)}


def _numbers(found: Paired | PairedMeans) -> Json:
    low, high = found.interval
    numbers = {"images": found.of, "difference": found.difference, "low": low, "high": high, "p": found.p_value}
    if isinstance(found, PairedMeans):
        return {**numbers, "one_mean": found.means[0], "other_mean": found.means[1], "test": "permutation"}
    means = {"one_mean": (found.both + found.first) / found.of, "other_mean": (found.both + found.second) / found.of}
    return {**numbers, **means, "one_only": found.first, "other_only": found.second, "test": "McNemar"}


def _compared(
    metric: str,
    denominator: str | None,
    lines: Sequence[Json],
    both: Sequence["pd.DataFrame"],
    notes: Sequence[str],
) -> Compared:
    import pandas as pd  # noqa: PLC0415 - takes a second, and is there by now

    if not lines:
        raise InputError("compare: no image counts on both sides")
    corrected = holm([line["p"] for line in lines])
    rows = pd.DataFrame([{**line, "p_holm": p} for line, p in zip(lines, corrected, strict=True)])
    rows = rows.reindex(columns=[name for name in _COLUMNS if name in rows])
    together = pd.concat(both, ignore_index=True)
    flips = together[together["value_one"] != together["value_other"]]
    flips = flips[[name for name in _FLIPPED if name in flips]]
    return Compared(metric, denominator or usual_denominator(metric), rows, flips, notes)


def _unlike(one: "Run", other: "Run") -> list[str]:
    """What two runs define differently, in words."""
    found = list(differing(one.record.definitions, other.record.definitions))
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    said = [f"{key} {here} and {there}" for key, here, there in found[:_NAMED]]
    return [f"The runs differ in {'; '.join([*said, *more])}."] if found else []


def compared_sheet(compared: Compared) -> Sheet:
    """Comparisons as a table; what is the same in all of its lines is in the title."""
    rows = compared.rows
    places = [key for key in KEYS if key in rows]
    varying = [key for key in places if rows[key].nunique() > 1]
    first = rows.iloc[0]
    same = [shown(key, first[key], alone=True) for key in places if key not in varying]
    sides = [f"{first['one']} (one) against {first['other']} (other)"]
    if len(rows.drop_duplicates(["one", "other"])) > 1:
        varying, sides = [*varying, "one", "other"], []
    form = "{:.0%}" if compared.metric in RATES else "{:.3g}"
    return Sheet(
        title="; ".join([compared.what, *sides, *filter(None, [", ".join(same)])]),
        headings=[*varying, "images", "one's", "other's", "difference", *_FLIPS, "p", "Holm's p", "differ?"],
        cells=[[*(shown(key, row[key]) for key in varying), *_cells(row, form)] for _, row in rows.iterrows()],
        numbers=rows.assign(metric=compared.metric, denominator=compared.denominator, verdict=compared.verdict),
        notes=[*compared.notes, *(_TESTS[name] for name in dict.fromkeys(rows["test"])), _corrected(len(rows))],
    )


def _corrected(of: int) -> str:
    many = f"Holm's p is corrected for {of} comparisons; " if of > 1 else ""
    return f"{many}{'the' if many else 'The'} sides differ where {'it' if many else 'p'} is below {_ALPHA}."


def _cells(row: "pd.Series", form: str) -> list[str]:
    means = [form.format(row[name]) for name in ("one_mean", "other_mean")]
    difference = form.format(row["difference"])
    if row["low"] == row["low"]:
        difference += f" [{form.format(row['low'])}, {form.format(row['high'])}]"
    flipped = [f"{row[name]:.0f}" if row["test"] == "McNemar" else "" for name in ("one_only", "other_only")]
    differ = "yes" if row["p_holm"] < _ALPHA else "unclear"
    p_values = [f"{row[name]:.2g}" for name in ("p", "p_holm")]
    return [str(row["images"]), *means, difference, *flipped, *p_values, differ]


def flips_sheet(compared: Compared) -> Sheet:
    """The images whose answers are unlike, one a line."""
    if compared.metric not in RATES:
        raise InputError(f"flips: {compared.metric} is a number; an image flips in {', '.join(RATES)}")
    cells = [[str(cell) for cell in row] for row in compared.flips.itertuples(index=False)]
    title = f"{compared.what}: images for which it is true on one side only"
    return Sheet(title, list(compared.flips.columns), cells, compared.flips, compared.notes)


_ALPHA = 0.05
_NAMED = 5
"""Differences of definitions in a note, at most."""
_SIDES = ("_one", "_other")
_FLIPS = ("one only", "other only")
_ANSWERS = ("answer_one", "answer_other", "value_one", "value_other")
_FLIPPED = ("image_id", "label", *KEYS, "one", "other", *_ANSWERS)
_COLUMNS = (
    *(*KEYS, "one", "other", "images", "one_mean", "other_mean", "difference", "low", "high"),
    *("one_only", "other_only", "test", "p", "p_holm"),
)
_TESTS = {
    "McNemar": "p of McNemar's exact test on the images for which only one side is true; intervals of Agresti and Min.",
    "permutation": "p of the permutation test that exchanges an image's two numbers; intervals by bootstrap.",
}
