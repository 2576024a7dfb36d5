"""Views: queries that have names beside the tables', and what their columns mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from transforms.data.classes import class_name, class_wnid
from transforms.rows.tables import TABLES


@dataclass(frozen=True)
class View:
    """A query over the tables and the views before it, and what each of its columns means."""

    sql: str
    meanings: Mapping[str, str]


@cache
def classes() -> pa.Table:
    """The 1,000 classes, beside the tables: class (int16), wnid, class_name."""
    indices = range(1000)
    columns = [pa.array(indices, pa.int16()), [*map(class_wnid, indices)], [*map(class_name, indices)]]
    return pa.table(columns, names=[*CLASSES_MEAN])


CLASSES_MEAN = {
    "class": "index, 0–999",
    "wnid": "WordNet's id",
    "class_name": "name, as in `predicted_name`",
}

_ANSWERS = """
select seen.image_id, seen.attack, seen.model, seen.view, seen.defense,
       seen.label, labels.class_name as label_name, seen.predicted, seen.predicted_name,
       seen.target, targets.class_name as target_name,
       seen.confidence, seen.label_confidence, seen.target_confidence, seen.margin, seen.correct,
       seen.votes, seen.agreement, seen.abstained,
       case when seen.agreement is null then seen.predicted else list_mode(list_sort(seen.votes)) end as majority,
       majority = seen.label as majority_correct,
       seen.correct and coalesce(seen.agreement, 1) = 1 as worst_correct,
       clean.correct as clean_correct, everywhere.correct as all_models_correct,
       case when seen.attack = 'none' or seen.label is not distinct from seen.target then null
            when seen.target is null then not seen.correct
            else seen.predicted = seen.target and not coalesce(seen.abstained, false) end as success,
       case when success is null then null
            when seen.target is null then not majority_correct else majority = seen.target end as majority_success,
       case when success is null then null
            when seen.target is null then not worst_correct
            when success or seen.agreement is null then success
            else list_contains(seen.votes, seen.target) end as worst_success,
       attacks.recipe, attacks.surrogates, list_contains(attacks.surrogates, seen.model) as white_box,
       coalesce(attacks.victim = seen.model, false) as asked,
       attacks.surrogates_fooled, attacks.through, attacks.norm, attacks.eps, attacks.bounds, attacks.steps,
       attacks.linf, attacks.l2, attacks.ssim
from predictions as seen
left join (select * rename (success as surrogates_fooled) from attacks) as attacks
  on attacks.image_id = seen.image_id and attacks.attack = seen.attack
left join (select image_id, model, view, correct from predictions where attack = 'none' and defense = 'none') as clean
  on clean.image_id = seen.image_id and clean.model = seen.model and clean.view = seen.view
left join (select image_id, view, bool_and(correct) as correct from predictions
           where attack = 'none' and defense = 'none' group by all) as everywhere
  on everywhere.image_id = seen.image_id and everywhere.view = seen.view
left join classes as labels on labels.class = seen.label
left join classes as targets on targets.class = seen.target
"""

_ANSWERS_MEAN = {
    **{name: TABLES["predictions"].meanings[name] for name in ("image_id", "attack", "model", "view", "defense")},
    "label": "true class",
    "label_name": "name of the label",
    "predicted": TABLES["predictions"].meanings["predicted"],
    "predicted_name": "name of predicted",
    "target": "target class of the attack",
    "target_name": "name of the target",
    "confidence": "probability of predicted",
    "label_confidence": "probability of the label",
    "target_confidence": "probability of the target",
    "margin": TABLES["predictions"].meanings["margin"],
    "correct": TABLES["predictions"].meanings["correct"],
    "votes": TABLES["predictions"].meanings["votes"],
    "agreement": TABLES["predictions"].meanings["agreement"],
    "abstained": TABLES["predictions"].meanings["abstained"],
    "majority": "class of most votes, of equally many the lowest; without repeats predicted",
    "majority_correct": "majority is the label",
    "worst_correct": "correct, and so is each repeat",
    "clean_correct": "the same model in the same view is right on the clean, undefended image",
    "all_models_correct": "likewise, all models",
    "success": "not correct; if targeted: predicted is the target; null if clean or of that class",
    "majority_success": "likewise of majority",
    "worst_success": "likewise, or of some repeat",
    "recipe": TABLES["attacks"].meanings["recipe"],
    "surrogates": TABLES["attacks"].meanings["surrogates"],
    "white_box": "the model is one of the surrogates",
    "asked": "the model is the victim, which the attack asked about what it made",
    "surrogates_fooled": "`success` in `attacks`: the attack succeeds on its surrogates",
    **{
        name: TABLES["attacks"].meanings[name]
        for name in ("through", "norm", "eps", "bounds", "steps", "linf", "l2", "ssim")
    },
}

_TRANSFER = """
select image_id, attack, model, view, defense, through, success from answers where clean_correct and success is not null
"""

VIEWS = {
    "answers": View(_ANSWERS, _ANSWERS_MEAN),
    "transfer": View(
        _TRANSFER,
        {
            name: _ANSWERS_MEAN[name]
            for name in ("image_id", "attack", "model", "view", "defense", "through", "success")
        },
    ),
}
"""`answers` has the rows of `predictions`, with what else a question about them needs. `transfer` has those that count
by the usual rules: of attacked images that the model gets right when clean, but for those of the target class."""

MEANINGS: dict[str, Mapping[str, str]] = {
    **{name: table.meanings for name, table in TABLES.items()},
    **{name: view.meanings for name, view in VIEWS.items()},
    "classes": CLASSES_MEAN,
}
"""What a query may name: each table's and each view's columns, in order, and what they mean."""
