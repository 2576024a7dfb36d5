"""What was asked, and what came out."""

import json
from typing import TYPE_CHECKING

from pipeline.report.section import Exhibit, Section, Table, answer, counted
from pipeline.results.statistics import Rate
from transforms.rows.parts import variant_of

if TYPE_CHECKING:
    from pipeline.results.tables import Run


def overview(run: "Run") -> Section:
    """Plain numbers first; then models, attacks, the experiment, time and failures."""
    models, attacks, failures = counted(run, _MODELS), answer(run, _ATTACKS), answer(run, _FAILURES)
    exhibits = [
        Exhibit(
            "Models on clean images",
            models,
            _MODELS,
            "Top-1 accuracy, undefended; intervals are Wilson's, 95 %.",
            open=True,
        ),
        Exhibit("Attacks", attacks, _ATTACKS, _ATTACKS_SAY, open=True),
        Exhibit("Failures", failures, _FAILURES, "The most frequent first.", open=True),
        _times(run),
        _experiment(run),
    ]
    kept = tuple(each for each in exhibits if each.table.rows)
    return Section("What was asked, and what came out", _said(run, models, attacks, failures), kept)


def _said(run: "Run", models: Table, attacks: Table, failures: Table) -> tuple[str, ...]:
    ((images, labels),) = answer(run, "select count(*), count(distinct label) from images").rows
    ((predictions, views, defenses),) = answer(run, _COUNTS).rows
    asked = f"The run is made of {run.record.definitions.images.count:,} images; {images:,} could be read, of "
    asked += f"{_some(labels, 'class', 'classes')}. {_attacks(attacks)}, "
    asked += f"{_some(len(set(models.column('model'))), 'model')}, {_some(views, 'view')} and "
    asked += f"{_some(defenses, 'defence')} gave {_some(predictions, 'prediction')}."
    said = [asked, *_strongest(run)]
    failed = sum(failures.column("images"))
    said.append(f"{failed:,} tasks failed; the reasons are below." if failed else "Nothing failed.")
    return tuple(said)


def _attacks(attacks: Table) -> str:
    names = attacks.column("attack")
    variants = sum(variant_of(name) is not None for name in names)
    known = f" and {_some(variants, 'variant')} that {'knows' if variants == 1 else 'know'} a defence"
    return _some(len(names) - variants, "attack") + (known if variants else "")


def _some(count: int, thing: str, things: str = "") -> str:
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def _strongest(run: "Run") -> list[str]:
    found = answer(run, _STRONGEST).rows
    if not found:
        return []
    attack, models, successes, of = found[0]
    rate = Rate(successes, of)
    return [
        f"Of the attacks on models that they did not see, {attack} succeeds most often: on {rate} of the answers that "
        f"{_some(models, 'other model')} gave right to clean images."
    ]


def _times(run: "Run") -> Exhibit:
    rows = tuple(
        (number, step, each["count"], round(each["seconds"], 1))
        for number, cost in enumerate(run.record.costs, start=1)
        for step, each in cost.get("steps", {}).items()
    )
    seconds = ", ".join(f"{cost['seconds']:g} s" for cost in run.record.costs if "seconds" in cost)
    words = f"Seconds of all workers added up, by step, of each time that the run was started. On the clock: {seconds}."
    return Exhibit("Cost by step and time", Table(("start", "step", "times", "seconds"), rows), words=words)


def _experiment(run: "Run") -> Exhibit:
    rows = tuple((key, json.dumps(value, ensure_ascii=False)) for key, value in run.record.experiment.items())
    return Exhibit("The experiment", Table(("key", "value"), rows), words="As it was run last, every key written out.")


_ATTACKS_SAY = (
    "Success is on the surrogates; distances are means, in the unit of [0, 1] pixels, and passes means per image."
)

_COUNTS = """
select count(*), count(distinct view), count(distinct defense) filter (defense <> 'none') from predictions
"""

_MODELS = """
select model, view, count_if(correct)::bigint as successes, count(*) as "of"
from predictions where attack = 'none' and defense = 'none' group by all order by all
"""

_ATTACKS = """
select attack, any_value(recipe) as recipe, array_to_string(any_value(surrogates), ' + ') as surrogates,
  any_value(norm) as norm, any_value(eps) as eps, any_value(bounds) as bounds, any_value(steps) as steps,
  count(target) > 0 as targeted, count_if(success and label is distinct from target)::bigint as successes,
  count_if(label is distinct from target)::bigint as "of",
  avg(linf) as linf, avg(l2) as l2, avg(ssim) as ssim, avg(forwards) as forwards, avg(backwards) as backwards
from attacks group by attack order by attack
"""

_FAILURES = """
select stage, error_type, message, count(*) as images, min(image_id) as "one of them"
from failures group by all order by images desc, message
"""

_STRONGEST = """
select attack, count(distinct model) as models, count_if(success)::bigint as successes, count(*) as "of"
from transfer join (select image_id, attack, surrogates from attacks) using (image_id, attack)
where defense = 'none' and through = 'none' and not list_contains(surrogates, model)
group by attack order by count_if(success) / count(*) desc, attack limit 1
"""
