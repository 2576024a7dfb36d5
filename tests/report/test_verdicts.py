"""The page's exhibit of verdicts over the repeats of random defences, against a count by hand."""

from pathlib import Path

from pipeline.report.defenses import defenses
from pipeline.results.tables import open_run
from tests.support.made import answers, made_run

NOISE, BLUR = "noise:sigma=0.03,repeats=3", "blur:sigma=1.0"
KNOWS = f"pgd@{NOISE}"
VOTES = {"none": [[0, 0, 0], [0, 0, 7], [7, 7, 0]], "pgd": [[0, 7, 7], [7, 7, 7], [0, 0, 0]]}
MEANS = {"none": [0, 0, 0], "pgd": [0, 7, 0]}


def test_each_verdict_has_its_rate_and_deterministic_defences_have_none(tmp_path: Path) -> None:
    rows = [row for attack in VOTES for row in answers([0] * 3, attack=attack)]
    rows += [row for attack in VOTES for row in answers([0] * 3, attack=attack, defense=BLUR)]
    for attack, votes in VOTES.items():
        noisy = answers(MEANS[attack], attack=attack, defense=NOISE)
        for row, each in zip(noisy, votes, strict=True):
            row["votes"], row["agreement"] = each, each.count(row["predicted"]) / 3
        rows += noisy
    # What knows the defence stands with its attack's name, one panel for all defences.
    for row in answers([7, 7, 0], attack=KNOWS, defense=NOISE):
        rows.append({**row, "votes": [row["predicted"]] * 3, "agreement": 1.0})
    struck = [{"image_id": f"i{n}", "attack": "pgd"} for n in range(3)]
    struck += [{"image_id": f"i{n}", "attack": KNOWS, "through": NOISE} for n in range(3)]
    section = defenses(open_run(str(made_run(tmp_path, rows, struck))))
    assert section is not None
    (exhibit,) = [each for each in section.exhibits if "verdicts" in each.title]
    counted = {
        (row["attack"], row["defense"], row["verdict"]): (row["successes"], row["of"])
        for row in exhibit.table.records()
    }
    assert counted == {
        ("none", NOISE, "mean"): (3, 3),
        ("none", NOISE, "majority"): (2, 3),
        ("none", NOISE, "worst-of-n"): (1, 3),
        ("pgd", NOISE, "mean"): (2, 3),
        ("pgd", NOISE, "majority"): (1, 3),
        ("pgd", NOISE, "worst-of-n"): (1, 3),
        ("pgd, adaptive", NOISE, "mean"): (1, 3),
        ("pgd, adaptive", NOISE, "majority"): (1, 3),
        ("pgd, adaptive", NOISE, "worst-of-n"): (1, 3),
    }
    assert exhibit.chart is not None
