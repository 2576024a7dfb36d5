"""Checks of a run directory: whether its tables are whole, complete, and say what is so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from tqdm import tqdm

from pipeline.config.attacks import AttackConfig
from pipeline.config.base import first_problem
from pipeline.config.experiment import Experiment
from pipeline.results.record import Definitions, own_files, strangers
from pipeline.results.tables import Run
from pipeline.run.plan import make_plan
from transforms.attacks.recipes.names import is_adapted
from transforms.attacks.spec import AttackSpec
from transforms.data.chunks import Chunk
from transforms.data.pixels import Pixels
from transforms.errors import printable
from transforms.models.views import VIEWS, windows
from transforms.rows.attacks import made_by
from transforms.rows.canvases import canvas_sha256, from_png
from transforms.rows.distances import distances
from transforms.rows.parts import CLEAN, canvases_part, experiments_name, file_of, variant_of

CLOSE = {"exact": 1e-4, "fast": 2e-2}
"""By how much probabilities may differ that another kind of CPU or GPU has made, by the run's numerics."""
TIE = {"exact": 0.0, "fast": 2e-2}
"""The two likeliest classes of a picture may change places where their probabilities are less apart than this."""
_ROUNDING = 1e-6
_NAMED = 100
"""Missing tasks that are named, at most: a large run that has hardly begun lacks millions."""
_DISTANCES = {**dict.fromkeys(("linf", "l2", "l1", "l0", "psnr", "ssim"), _ROUNDING), "ciede2000": 1e-3}
"""By how much each may differ; a colour difference is computed in single precision."""

Row = Mapping[str, Any]


@dataclass
class Check:
    """One thing that was checked.

    Attributes:
        what: it says.
        looked_at: how many cases were looked at.
        wrong: one line for each that is not as it should be.
        unknown: one line for each reason for which something could not be looked at.
    """

    what: str
    looked_at: int = 0
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def check_files(run: Run) -> Check:
    """Reads every byte of the run's own files, and names other Parquet files in its tables' folders."""
    check = Check("files are, byte for byte, what was written")
    paths = run.store.paths()
    own = own_files(run.record.definitions, paths)
    for path in tqdm(sorted(own), desc="files", delay=1, leave=False):
        check.looked_at += 1
        if not run.store.is_whole(path):
            check.wrong.append(f"{path} is damaged; the command that ran the experiment makes it again")
    check.unknown += [f"{path} is not this run's own, and no table holds it" for path in sorted(strangers(paths, own))]
    return check


def check_plan(run: Run) -> Check:
    """Compares what is there with the experiment that was run last."""
    check = Check("everything that the experiment asks for is there")
    try:
        experiment = Experiment.model_validate(run.record.experiment)
    except ValidationError as error:
        check.unknown.append(f"the experiment cannot be read on this machine: {first_problem(error)}")
        return check
    # Which parts there should be depends on the number of chunks, not on what is in them.
    chunks = [Chunk(number, ()) for number in range(run.record.definitions.chunks)]
    paths = run.store.paths()
    plan = make_plan(experiment, chunks, paths)
    check.looked_at = plan.total.total()
    for task in islice(plan.missing, _NAMED):
        absent = next(part.path for part in task.parts if file_of(part, paths) is None)
        check.wrong.append(f"{absent} is missing; the same command makes it")
    if len(plan.missing) > _NAMED:
        check.wrong.append(f"{len(plan.missing) - _NAMED} more tasks are missing")
    return check


# What should be there once, and what is.
ACCOUNTS = {
    "images": (
        "select image_id, uri from images union select image_id, coalesce(uri, '') from failures where stage = 'load'",
        """select image_id, uri from images
           union all select image_id, coalesce(uri, '') from failures where stage = 'load'""",
    ),
    "attacks": (
        """select attack, image_id
           from (select attack from attacks union select attack from failures where stage = 'attack')
           cross join images""",
        """select attack, image_id from attacks
           union all select attack, image_id from failures where stage = 'attack'""",
    ),
    "canvases": (
        """select attack, image_id
           from (select 'none' as attack, image_id from images union all select attack, image_id from attacks)
           semi join (select distinct attack from canvases) using (attack)""",
        "select attack, image_id from canvases",
    ),
    "predictions": (
        """select attack, model, view, defense, image_id
           from (select attack, model, view, defense from predictions
                 union select attack, model, view, defense from failures where stage = 'predict')
           join (select 'none' as attack, image_id from images union all select attack, image_id from attacks)
           using (attack)""",
        """select attack, model, view, defense, image_id from predictions
           union all select attack, model, view, defense, image_id from failures where stage = 'predict'""",
    ),
}
_UNACCOUNTED = """
with expected as ({expected}), made as ({made})
select coalesce(found, 0)::bigint as found, * exclude (wanted, found)
from (select *, true as wanted from expected)
full join (select *, count(*) as found from made group by all) using ({keys})
where wanted is null or found is distinct from 1
order by all
"""


def check_rows(run: Run) -> Check:
    """Accounts for each image in each table."""
    check = Check("each image has one row wherever it should, in its table or in failures")
    for table, (expected, made) in ACCOUNTS.items():
        keys = run.rows(f"{expected} limit 0")[0]
        check.looked_at += run.rows(f"select count(*) from ({made})")[1][0][0]  # noqa: S608 - our own text
        for found, *values in run.rows(_UNACCOUNTED.format(expected=expected, made=made, keys=", ".join(keys)))[1]:
            where = ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
            check.wrong.append(f"{table}: {found} rows instead of 1 for {where}")
    known = len(run.rows(ACCOUNTS["images"][0])[1])
    made_of = run.record.definitions.images.count
    if known != made_of:
        check.wrong.append(f"images: {known} are known, the run was made of {made_of}")
    return check


_AT_ODDS = """
select image_id, attack, 'attacks has another label than images' as fault
from attacks join images using (image_id) where attacks.label <> images.label
union all
select image_id, attack, 'predictions has another label than images'
from predictions join images using (image_id) where predictions.label <> images.label
union all
select image_id, attack, 'predictions has another target than attacks'
from predictions join attacks using (image_id, attack) where predictions.target is distinct from attacks.target
union all
select image_id, attack, 'success does not follow from adversarial_predicted'
from attacks
where success <> case when target is null then adversarial_predicted <> label else adversarial_predicted = target end
union all
select image_id, attack, 'correct does not follow from predicted'
from predictions where correct <> (predicted = label and not coalesce(abstained, false))
union all
select made.image_id, made.attack, 'attacks has another answer of the surrogate than predictions'
from attacks as made
join predictions as before
on before.image_id = made.image_id and before.attack = 'none'
   and before.model = made.surrogates[1] and before.view = made.view and before.defense = 'none'
join predictions as after
on after.image_id = made.image_id and after.attack = made.attack
   and after.model = made.surrogates[1] and after.view = made.view and after.defense = 'none'
where len(made.surrogates) = 1 and made.through = 'none'
  and (made.clean_predicted <> before.predicted
         and before.top5_confidences[1] - before.top5_confidences[2] >= {tie}
       or made.adversarial_predicted <> after.predicted
         and after.top5_confidences[1] - after.top5_confidences[2] >= {tie}
       or abs(made.clean_confidence - before.confidence) > {close}
       or abs(made.adversarial_confidence - after.confidence) > {close})
"""
_MOVED = {"rotation": "max_rotation", "shift_x": "max_translation", "shift_y": "max_translation", "flow": "max_flow"}
"""How far a picture was moved, and what bounds that."""
# `bounds` has six digits of a number.
_BEYOND = """
union all
select image_id, attack, '{moved} is missing, or beyond {bound} of bounds'
from (select *, try_cast(regexp_extract(bounds, '{bound}=([^,]+)', 1) as double) as most from attacks)
where most is not null and not coalesce(abs({moved}) <= most * (1 + 1e-5), false)
"""


def check_agreement(run: Run) -> Check:
    """Compares what stands in two tables, and what follows from another column.

    A surrogate's answers are compared where there was one surrogate and no defence before it. How far a picture was
    moved is held to the bounds of an attack that bounds no norm.
    """
    check = Check("rows agree with one another")
    check.looked_at = sum(run.rows(f"select count(*) from {table}")[1][0][0] for table in ("attacks", "predictions"))  # noqa: S608 - our own text
    numerics = run.record.definitions.numerics
    beyond = "".join(_BEYOND.format(moved=moved, bound=bound) for moved, bound in _MOVED.items())
    at_odds = _AT_ODDS.format(close=CLOSE[numerics], tie=TIE[numerics])
    for image_id, attack, fault in run.rows(f"{at_odds}{beyond}order by all")[1]:
        check.wrong.append(f"{image_id} after {attack}: {fault}")
    return check


HOW = (
    "recipe",
    "surrogates",
    "fuse",
    "victim",
    "view",
    "through",
    "objective",
    "norm",
    "eps",
    "bounds",
    "steps",
    "seed",
)
"""The columns of `rows.attacks.made_by`."""


def check_definitions(run: Run) -> Check:
    """Compares how rows of `attacks` say that they were made with the definitions of run.json."""
    check = Check("attacks were made as run.json defines them")
    most = "max(forwards), max(backwards), coalesce(max(queries), 0)"
    _, made = run.rows(f"select attack, {', '.join(HOW)}, {most} from attacks group by all order by all")  # noqa: S608 - our own text
    names = [attack for attack, *_ in made]
    for attack, *values in made:
        check.looked_at += 1
        try:
            spec = defined_spec(run.record.definitions, attack, names)
            expected = made_by(spec, run.record.definitions.seed)
            passes = [windows(VIEWS[spec.view]) * each for each in spec.build().cost(len(spec.surrogates))]
        except ValueError as error:
            said = first_problem(error) if isinstance(error, ValidationError) else printable(error)
            check.unknown.append(f"attacks.{attack}: what defines it cannot be read on this machine: {said}")
            continue
        *how, forwards, backwards, queries = values
        differ = [key for key, value in zip(HOW, how, strict=True) if value != expected[key]]
        if not is_adapted(spec.recipe):  # What others cost is an estimate, and no bound.
            # Where gradients are in reduced precision, some attacks judge each point in fp32 besides.
            apart = 0 if spec.precision == "fp32" else passes[1]
            differ += ["forwards"] * (forwards > passes[0] + apart) + ["backwards"] * (backwards > passes[1])
        asked = 0 if spec.victim is None else dict(spec.parameters)["queries"]
        differ += ["queries"] * (queries > asked)
        if differ:
            check.wrong.append(f"attacks.{attack}: rows have another {', '.join(differ)} than run.json")
    return check


def defined_spec(defined: Definitions, attack: str, made: Sequence[str]) -> AttackSpec:
    """An attack as its definition has it; raises ValueError for one that is none.

    Args:
        made: all attacks of the run, an adaptive one's variants among them, which definitions leave out.
    """
    name = experiments_name(attack)
    variants = (variant_of(each) for each in made if experiments_name(each) == name)
    known = list(dict.fromkeys(defense for _, defense in filter(None, variants)))
    written = {**defined.attacks[name], **({"adaptive": known} if known else {})}
    return next(spec for spec in AttackConfig.model_validate(written).specs(name, ()) if spec.name == attack)


def check_canvases(run: Run) -> Check:
    """Looks at every stored canvas beside its rows."""
    check = Check("canvases are those that the rows describe, inside their budget")
    described, side = _described(run), run.record.definitions.canvas.crop
    _, attacks = run.rows("select distinct attack from canvases order by attack <> 'none', attack")
    chunks = range(run.record.definitions.chunks)
    looks = [(chunk, attack) for chunk in chunks for (attack,) in attacks]  # the clean ones first
    clean: dict[str, Pixels] = {}
    paths = run.store.paths()
    for chunk, attack in tqdm(looks, desc="canvases", delay=1, leave=False):
        part = canvases_part(chunk, attack)
        if file_of(part, paths) is None:
            continue  # That was said with the plan.
        clean = {} if attack == CLEAN else clean
        for row in run.store.read(part).to_pylist():
            check.looked_at += 1
            image_id, canvas = row["image_id"], picture(row["canvas"], side)
            if canvas is None:
                faults = [f"it is no PNG of {side} × {side} pixels"]
            else:
                faults = _not_stored(canvas, row)
                if attack == CLEAN:
                    clean[image_id] = canvas
                elif (
                    image_id in clean and (image_id, attack) in described.index
                ):  # What is missing was said with the rows.
                    faults += _not_described(clean[image_id], canvas, described.loc[image_id, attack])
            check.wrong += [f"canvas of {image_id} after {attack}: {fault}" for fault in faults]
    return check


def _described(run: Run) -> pd.DataFrame:
    """Rows of `attacks`, by image id and attack."""
    columns = ["image_id", "attack", "norm", "eps", "excess", "canvas_sha256", *_DISTANCES]
    rows = run.read("attacks", columns).set_index(["image_id", "attack"]).sort_index()
    return rows[~rows.index.duplicated()]  # A second one was said with the rows.


def picture(png: bytes, side: int) -> Pixels | None:
    """A stored canvas, uint8 (3, side, side); None if the bytes are something else."""
    try:
        canvas = from_png(png)
    except (OSError, SyntaxError, ValueError):  # Pillow's, on bytes that are no picture
        return None
    return canvas if canvas.shape == (3, side, side) and canvas.dtype == np.uint8 else None


def _not_stored(canvas: Pixels, row: Row) -> list[str]:
    return [] if canvas_sha256(canvas) == row["canvas_sha256"] else ["its pixels have another digest than its row says"]


def _not_described(clean: Pixels, canvas: Pixels, row: Row) -> list[str]:
    """What a row of `attacks` says that is not so."""
    faults = _not_stored(canvas, row)
    found = distances(clean, canvas)
    beyond = 0 if np.isnan(row["excess"]) else row["excess"]  # which pictures of another tool may be, and say
    # What an attack bounds that bounds no norm does not follow from the canvas; `check_agreement` looks at its columns.
    if not pd.isna(row["norm"]) and found[row["norm"]] > row["eps"] + beyond + _ROUNDING:
        faults.append(f"its {row['norm']} is {found[row['norm']]:.6f}, beyond {row['eps']:.6f}")
    differ = [
        name
        for name, within in _DISTANCES.items()
        if not (np.isnan(row[name]) or math.isclose(found[name], row[name], abs_tol=within))  # older runs lack some
    ]
    return faults + [f"its {name} is {found[name]:.6f}, not {row[name]:.6f}" for name in differ]
