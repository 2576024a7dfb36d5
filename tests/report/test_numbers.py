"""Every number on the page, counted once more in plain Python from the rows of the files."""

import csv
import re
from base64 import b64decode
from collections import defaultdict
from html import unescape
from io import StringIO
from pathlib import Path
from typing import Any

import altair
import pytest
import vl_convert
from scipy.stats import binomtest

from pipeline.report import calibration as calibrating
from pipeline.report.budgets import over_cost, over_eps
from pipeline.report.calibration import calibration
from pipeline.report.charts import cost_against_recovery, scatter
from pipeline.report.defenses import defenses
from pipeline.report.lowpass import sweep
from pipeline.report.overview import overview
from pipeline.report.page import SECTIONS, html_page
from pipeline.report.robustness import robustness
from pipeline.report.section import Exhibit, Section, Table
from pipeline.report.transfer import transfer
from pipeline.report.views import views
from pipeline.results.tables import Run, open_run
from tests.support.made import answers, made_run
from tests.support.reported import ATTACKS, random_run
from tests.support.runs import Row, rows

DERIVED = ("Energy by frequency",)
"""Tables that are not their query's: `tests/report/test_canvases.py` has them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("made") / "run", images=12)


@pytest.fixture
def run(made: Path) -> Run:
    return open_run(str(made))


@pytest.fixture(scope="module")
def seen(made: Path) -> list[Row]:
    return rows(made, "predictions")


def there(section: Section | None) -> Section:
    assert section is not None
    return section


def table(section: Section | None, title: str) -> Table:
    (exhibit,) = [each for each in there(section).exhibits if each.title == title]
    return exhibit.table


def rates(found: Table, *keys: str) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Successes and of, by some keys; the interval is scipy's."""
    counted = {}
    for row in found.records():
        of = row["of"]
        interval = binomtest(row["successes"], of).proportion_ci(method="wilson")
        expected = (row["successes"] / of, interval.low, interval.high)
        assert (row["rate"], row["low"], row["high"]) == pytest.approx(expected)
        counted[tuple(row[key] for key in keys)] = row["successes"], of
    assert len(counted) == len(found.rows)
    return counted


def tally(some: list[tuple[tuple[Any, ...], bool]]) -> dict[tuple[Any, ...], tuple[int, int]]:
    found = defaultdict[tuple[Any, ...], list[int]](lambda: [0, 0])
    for keys, good in some:
        found[keys][0] += good
        found[keys][1] += 1
    return {keys: (successes, of) for keys, (successes, of) in found.items()}


def through(attack: str) -> str:
    return ATTACKS[attack].get("through", "none") if attack != "none" else "none"


def transferred(seen: list[Row]) -> list[tuple[Row, bool]]:
    """Undefended rows of plain attacks that count, and whether the attack succeeded."""
    clean = {
        (row["image_id"], row["model"], row["view"]): row["predicted"] == row["label"]
        for row in seen
        if row["attack"] == "none" and row["defense"] == "none"
    }
    found = []
    for row in seen:
        if row["attack"] == "none" or row["defense"] != "none" or through(row["attack"]) != "none":
            continue
        target = ATTACKS[row["attack"]].get("target")
        if clean[row["image_id"], row["model"], row["view"]] and row["label"] != target:
            found.append((row, row["predicted"] != row["label"] if target is None else row["predicted"] == target))
    return found


def test_clean_accuracy(run: Run, seen: list[Row]) -> None:
    clean = [row for row in seen if row["attack"] == "none" and row["defense"] == "none"]
    expected = tally([((row["model"], row["view"]), row["predicted"] == row["label"]) for row in clean])
    assert rates(table(overview(run), "Models on clean images"), "model", "view") == expected


def test_the_paragraph(run: Run, seen: list[Row]) -> None:
    said = " ".join(there(overview(run)).words)
    assert "made of 12 images; 12 could be read, of 10 classes" in said
    assert "4 attacks and 1 variant that knows a defence, 3 models, 2 views and 3 defences" in said
    assert f"gave {len(seen):,} predictions" in said
    others = [
        (row["attack"], good)
        for row, good in transferred(seen)
        if row["model"] not in ATTACKS[row["attack"]]["surrogates"]
    ]
    counts = tally([((attack,), good) for attack, good in others])
    (strongest,) = max(counts, key=lambda each: counts[each][0] / counts[each][1])
    successes, of = counts[strongest,]
    assert f"{strongest} succeeds most often: on {successes}/{of} " in said


@pytest.mark.parametrize("view", ["center", "ten-crop"])
def test_the_transfer_matrix(run: Run, seen: list[Row], view: str) -> None:
    found = there(transfer(run))
    for targeted, title in ((False, "Untargeted"), (True, "Targeted")):
        some = [
            ((row["attack"], row["model"]), good)
            for row, good in transferred(seen)
            if row["view"] == view and ("target" in ATTACKS[row["attack"]]) is targeted
        ]
        shown = table(found, f"{title} attacks, view {view}")
        assert rates(shown, "attack", "model") == tally(some)
        assert {row["attack"]: row["surrogates"] for row in shown.records()} == {
            attack: " + ".join(ATTACKS[attack]["surrogates"]) for (attack, _), _ in some
        }
        assert all(row["surrogate"] == (row["model"] in row["surrogates"]) for row in shown.records())


def test_success_over_eps(run: Run, made: Path, seen: list[Row]) -> None:
    section = over_eps(run)
    some = [
        ((ATTACKS[row["attack"]]["eps"], row["model"]), good)
        for row, good in transferred(seen)
        if row["view"] == "center" and row["attack"] in ("weak", "strong")
    ]
    assert rates(table(section, "Attacks that differ in ε alone, linf"), "eps", "model") == tally(some)
    curve = table(section, "Minimal-norm attacks: success on the surrogates within each budget")
    norms = [row["minimal_norm"] for row in rows(made, "attacks") if row["attack"] == "small"]
    for row in curve.records():
        assert (row["successes"], row["of"]) == (sum(norm <= row["eps"] for norm in norms), 12)
    assert max(curve.column("eps")) == pytest.approx(max(norms))


def test_success_over_cost(run: Run, seen: list[Row]) -> None:
    found = table(over_cost(run), "Success and passes")
    some = [((row["attack"], row["model"]), good) for row, good in transferred(seen) if row["view"] == "center"]
    assert rates(found, "attack", "model") == tally(some)
    assert set(found.column("passes")) == {2, 20}


def test_the_pareto_front(tmp_path: Path) -> None:
    """Of four images: successes, passes, and whether another attack has as much for less, or more for as much."""
    cases = {
        "cheap": (1, 2, True),
        "wasteful": (1, 4, False),
        "weaker": (2, 8, False),
        "better": (3, 8, True),
        "twin": (3, 8, True),
        "dear": (4, 100, True),
        "dearer": (4, 200, False),
    }
    predictions, attacks = answers([0] * 4), []
    for name, (successes, passes, _) in cases.items():
        predictions += answers([9] * successes + [0] * (4 - successes), attack=name)
        cost = {"forwards": passes // 2, "backwards": passes // 2}
        attacks += [{"image_id": f"i{n}", "attack": name, **cost} for n in range(4)]
    large = {"attack": "other budget", "eps": 0.5, "forwards": 500, "backwards": 500}
    predictions += answers([0] * 4, attack="other budget")
    attacks += [{"image_id": f"i{n}", **large} for n in range(4)]
    found = table(over_cost(open_run(str(made_run(tmp_path / "run", predictions, attacks)))), "Success and passes")
    expected = {**{name: good for name, (_, _, good) in cases.items()}, "other budget": True}
    assert dict(zip(found.column("attack"), found.column("pareto"), strict=True)) == expected


@pytest.mark.parametrize("count", [9, 10, 24])
def test_no_colour_stands_for_two_attacks(count: int) -> None:
    """Of more attacks than there are colours, those on the front have one, and the others are grey."""
    rows = [
        {"attack": f"a{n}", "model": "lite0", "norm": "linf", "eps": 4 / 255, "bounds": None}
        | {"targeted": False, "passes": 2.0 + n}
        | {"pareto": n % 3 == 0, "successes": n, "of": 24, "rate": n / 24, "low": 0.0, "high": 1.0}
        for n in range(count)
    ]
    svg = vl_convert.vegalite_to_svg(scatter(rows, "said"))
    fills = dict(re.findall(r'aria-label="forward[^"]*attack: (a\d+);[^>]*fill="(#\w+)"', svg))
    assert len(fills) == count
    coloured = [fill for fill in fills.values() if fill != "#888"]
    assert len(coloured) == len(set(coloured))
    assert {name for name in fills if fills[name] != "#888"} == {
        row["attack"] for row in rows if row["pareto"] or count <= 9
    }


def test_attacks_that_all_succeed_take_no_colour_from_others() -> None:
    """Eleven attacks tie on two surrogates; on a third model another is the only one on the front."""
    shared = {
        "norm": "linf",
        "eps": 4 / 255,
        "bounds": None,
        "targeted": False,
        "of": 24,
        "low": 0.0,
        "high": 1.0,
        "passes": 20.0,
    }
    rows = [
        *(
            {**shared, "attack": f"a{n}", "model": model, "pareto": True, "rate": 1.0, "successes": 24}
            for n in range(11)
            for model in ("one", "two")
        ),
        {**shared, "attack": "a11", "model": "other", "pareto": True, "rate": 0.5, "successes": 12},
    ]
    svg = vl_convert.vegalite_to_svg(scatter(rows, "said"))
    (fill,) = re.findall(r'aria-label="forward[^"]*attack: a11;[^"]*model: other;[^>]*fill="(#\w+)"', svg)
    assert fill != "#888"


@pytest.mark.parametrize("count", [10, 20, 28])
def test_each_defence_has_a_colour_of_its_own(count: int) -> None:
    rows = [
        {"attack": "pgd", "defense": f"d{n}", "knows": "blind", "clean_cost": n / 100, "recovery": n / 50}
        | {"successes": n, "of": 50, "rate": n / 50, "low": 0.0, "high": 1.0}
        for n in range(count)
    ]
    svg = vl_convert.vegalite_to_svg(cost_against_recovery(rows, "said"))
    fills = dict(re.findall(r'aria-label="clean accuracy[^"]*defense: (d\d+);[^>]*fill="([^"]+)"', svg))
    assert len(fills) == len(set(fills.values())) == count


def test_the_sweep(run: Run, seen: list[Row]) -> None:
    some = [
        ((row["attack"], row["model"], float(row["defense"].partition("=")[2])), row["predicted"] == row["label"])
        for row in seen
        if row["defense"].startswith("lowpass") and row["view"] == "center" and through(row["attack"]) == "none"
    ]
    found = table(sweep(run), "Accuracy behind lowpass, by cutoff")
    assert rates(found, "attack", "model", "cutoff") == tally(some)


def test_defences_clean_blind_and_adaptive(run: Run, seen: list[Row]) -> None:
    def accuracy(model: str, attack: str, defense: str) -> tuple[int, int]:
        some = [
            row["predicted"] == row["label"]
            for row in seen
            if (row["model"], row["attack"], row["defense"], row["view"]) == (model, attack, defense, "center")
        ]
        return sum(some), len(some)

    section = there(defenses(run))
    assert {each.title for each in section.exhibits if "behind" in each.title} == {
        f"Accuracy of {model} behind each defence" for model in "ab"
    }
    for model in "ab":
        found = table(section, f"Accuracy of {model} behind each defence")
        counted = rates(found, "attack", "defense", "knows")
        for row in found.records():
            names = {"clean": "none", "adaptive": f"{row['attack']}@{row['defense']}", "blind": row["attack"]}
            name = names[row["knows"]]
            assert counted[row["attack"], row["defense"], row["knows"]] == accuracy(model, name, row["defense"])
            bare = accuracy(model, "none", "none")[0] - accuracy(model, "none", row["defense"])[0]
            assert row["clean_cost"] == pytest.approx(bare / 12)
            if row["knows"] == "clean":
                assert row["recovery"] is None
            else:
                won = row["successes"] - accuracy(model, row["attack"], "none")[0]
                assert row["recovery"] == pytest.approx(won / 12)
        assert {(row["attack"], row["defense"]) for row in found.records() if row["knows"] == "adaptive"} == {
            ("weak", "jpeg:quality=75")
        }
        assert sum(row["knows"] == "blind" for row in found.records()) == 4 * 4


def test_views_on_the_same_images(run: Run, seen: list[Row]) -> None:
    section = views(run)
    plain = [row for row in seen if row["defense"] == "none" and through(row["attack"]) == "none"]
    some = [((row["attack"], row["model"], row["view"]), row["predicted"] == row["label"]) for row in plain]
    assert rates(table(section, "Accuracy by view"), "attack", "model", "view") == tally(some)
    right = {
        (row["attack"], row["model"], row["view"], row["image_id"]): row["predicted"] == row["label"] for row in plain
    }
    for row in table(section, "Each view against center, on the same images").records():
        pairs = [
            (right[row["attack"], row["model"], "center", image], right[row["attack"], row["model"], "ten-crop", image])
            for image in {each["image_id"] for each in plain}
        ]
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        assert [row[key] for key in ("both", "first", "other", "neither")] == counts
        assert row["difference"] == pytest.approx((counts[1] - counts[2]) / 12)
        odd = counts[1] + counts[2]
        assert row["p"] == pytest.approx(binomtest(counts[1], odd).pvalue if odd else 1)


def test_robust_and_fragile_classes_and_images(run: Run, seen: list[Row]) -> None:
    section = robustness(run)
    some = [(row, good) for row, good in transferred(seen) if row["view"] == "center"]
    for what, key in (("classes", "label"), ("images", "image_id")):
        counts = tally([((row[key],), good) for row, good in some])
        for which, sign in (("Least", -1), ("Most", 1)):
            found = table(section, f"{which} robust {what}")
            shown = rates(found, key)
            assert shown.items() <= counts.items()
            assert len(shown) == min(10, len(counts))
            assert found.column("rate") == sorted(found.column("rate"), reverse=sign < 0)
            left = [successes / of for each, (successes, of) in counts.items() if each not in shown]
            assert all(sign * rate >= sign * found.column("rate")[-1] for rate in left)


def test_calibration(run: Run, seen: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    assert there(calibration(run)).words == ("Fewer than 100 clean images: more images fill this.",)
    monkeypatch.setattr(calibrating, "_ENOUGH", 12)
    section = calibration(run)
    clean = [row for row in seen if (row["attack"], row["defense"], row["view"]) == ("none", "none", "center")]
    binned = [((row["model"], min(int(row["confidence"] * 10), 9) / 10), row) for row in clean]
    some = tally([(keys, row["predicted"] == row["label"]) for keys, row in binned])
    found = table(section, "Reliability")
    assert rates(found, "model", "bin") == some
    errors = dict(zip("abc", (0.0, 0.0, 0.0), strict=True))
    for (model, place), (successes, of) in some.items():
        mean = sum(row["confidence"] for keys, row in binned if keys == (model, place)) / of
        errors[model] += abs(mean - successes / of) * of / 12
    shown = table(section, "Expected calibration error")
    assert dict(zip(shown.column("model"), shown.column("error"), strict=True)) == pytest.approx(errors)


@pytest.fixture(scope="module")
def exhibits(made: Path) -> list[Exhibit]:
    run = open_run(str(made))
    return [each for make in SECTIONS if (section := make(run)) for each in section.exhibits]


def test_each_table_is_what_its_query_answers(run: Run, exhibits: list[Exhibit]) -> None:
    """As somebody gets it who pastes the query into `megalith sql`."""
    asked = [each for each in exhibits if each.sql and each.title not in DERIVED]
    assert len(asked) > 25
    for exhibit in asked:
        headings, answered = run.rows(exhibit.sql)
        assert headings == list(exhibit.table.headings[: len(headings)]), exhibit.title
        kept = [row[: len(headings)] for row in exhibit.table.rows]
        assert sorted(map(rounded, kept)) == sorted(map(rounded, answered)), exhibit.title


def rounded(row: tuple[Any, ...]) -> list[str]:
    """A row to be compared: the last bits of a mean depend on which thread was first."""
    return [f"{each:.9g}" if isinstance(each, float) else str(each) for each in row]


def test_charts_are_those_of_vega_lites_schema(exhibits: list[Exhibit]) -> None:
    """Altair compares them with it; null, of which Vega makes no background, the schema does not know."""
    ours = {"config", "background"}
    charts = [{key: chart[key] for key in chart.keys() - ours} for each in exhibits if (chart := each.chart)]
    assert len(charts) > 8
    for chart in charts:
        altair.Chart.from_dict(chart)
    with pytest.raises(Exception, match="'tall'"):
        altair.Chart.from_dict({**charts[0], "height": "tall"})


def test_csv_files_and_queries_on_the_page_are_those_of_the_exhibits(exhibits: list[Exhibit]) -> None:
    page = html_page("made", [Section("All", (), tuple(exhibits))], [])
    links = re.findall(r'<a download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)">', page)
    assert len(links) == sum(bool(each.table.rows) for each in exhibits)
    (content,) = [b64decode(each).decode() for name, each in links if name == "success-and-passes.csv"]
    (exhibit,) = [each for each in exhibits if each.title == "Success and passes"]
    header, *lines = csv.reader(StringIO(content))
    assert header == list(exhibit.table.headings)
    assert [float(line[-2]) for line in lines] == exhibit.table.column("low")
    queries = [unescape(each) for each in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)]
    assert queries == [each.sql.strip() for each in exhibits if each.sql]
