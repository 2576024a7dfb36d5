"""Hygiene: what rows can say of Carlini et al. 2019, "On Evaluating Adversarial Robustness" (arXiv:1902.06705).

A check has one query, whose column `holds` is true, false, or null where a row cannot answer. It failed if any row is
false, and passed if one is true and none false.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.section import Exhibit, Section, Table, answer, usual_view
from pipeline.report.series import as_values, series
from pipeline.results.outcomes import quoted
from pipeline.results.statistics import FAR

if TYPE_CHECKING:
    from pipeline.results.tables import Run

PASSED, FAILED, OPEN = "passed", "failed", "not answerable"


@dataclass(frozen=True)
class Check:
    """Something that holds of a sound evaluation.

    Attributes:
        query: its SQL for a run; None where the run has nothing to ask.
        rows: what one of its rows is.
        fill: how to make it answerable.
        mend: what a failure may mean, and what to do.
    """

    title: str
    query: Callable[["Run"], str | None]
    rows: str
    fill: str
    mend: str


def hygiene(run: "Run") -> Section | None:
    """Each check: passed, failed or not answerable, with its number."""
    exhibits = tuple(answered(run, check) for check in CHECKS)
    counts = {status: sum(each.status == status for each in exhibits) for status in (PASSED, FAILED, OPEN)}
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    return Section("Hygiene", (f"{said}. {_WORDS}",), exhibits)


def answered(run: "Run", check: Check) -> Exhibit:
    """What a run's rows say of a check."""
    sql = check.query(run)
    found = answer(run, sql) if sql else Table(("holds",), ())
    answers = found.column("holds")
    good, known = answers.count(True), len(answers) - answers.count(None)
    status = FAILED if False in answers else PASSED if good else OPEN
    number = f"{good} of {known} {check.rows}" if known else "Nothing here can tell"
    unknown = len(answers) - known
    also = f"; {unknown} more cannot be told" if known and unknown else ""
    then = {PASSED: "", FAILED: f" {check.mend}", OPEN: f" {check.fill}"}[status]
    return Exhibit(check.title, found, sql or "", f"{number}{also}.{then}", status=status)


def _white_box(run: "Run") -> str:
    return _WHITE_BOX.format(view=quoted(usual_view(run)))


def _grows(key: str) -> Callable[["Run"], str | None]:
    def query(run: "Run") -> str | None:
        found = series(run, key)
        return _GROWS.format(key=key, series=as_values(found)) if found else None

    return query


def _noise(run: "Run") -> str:
    side = run.record.definitions.canvas.crop
    return _NOISE.format(view=quoted(usual_view(run)), values=3 * side * side)


def _near_published(run: "Run") -> str | None:
    values = ", ".join(f"({quoted(name)}, {accuracy!r})" for name, accuracy in run.record.published.items())
    return _PUBLISHED.format(view=quoted(usual_view(run)), values=values, far=FAR) if values else None


def _near_published_robust(run: "Run") -> str | None:
    values = ", ".join(f"({quoted(name)}, {accuracy!r})" for name, accuracy in run.record.published_robust.items())
    return _PUBLISHED_ROBUST.format(view=quoted(usual_view(run)), values=values, far=FAR) if values else None


def _always(sql: str) -> Callable[["Run"], str | None]:
    return lambda _: sql


_WORDS = (
    "What rows can say of the list by Carlini et al. 2019 (arXiv:1902.06705). A failed check is a reason to look "
    "closer, not a verdict; numbers are compared as they are, without intervals."
)

_WHITE_BOX = """
with rates as (
  select model, norm, eps, bounds, target is not null as targeted, attack,
    list_contains(surrogates, model) as follows, count_if(success) / count(*) as rate
  from transfer
  join (select image_id, attack, surrogates, norm, eps, bounds, target from attacks) using (image_id, attack)
  where defense = 'none' and through = 'none' and view = {view} group by all)
select *, white_box >= black_box as holds
from (select 'attacks on one model' as compared, model as what, norm, eps, bounds, targeted,
        max(rate) filter (follows) as white_box, max(rate) filter (not follows) as black_box
      from rates group by all
      union all
      select 'models under one attack', attack, norm, eps, bounds, targeted, min(rate) filter (follows),
        max(rate) filter (not follows)
      from rates group by all)
order by all
"""

_GROWS = """
with rates as (
  select series, attack, any_value({key}) as {key}, count_if(success)::bigint as successes, count(*) as "of"
  from attacks join {series} using (attack) where success is not null and label is distinct from target
  group by series, attack)
select series, attack, {key}, successes, "of",
  successes / "of" >= max(successes / "of") over (
    partition by series order by {key} range between unbounded preceding and 1e-9 preceding) as holds
from rates order by series, {key}
"""

_LARGE = """
with rates as (
  select array_to_string(surrogates, ' + ') as surrogates, attack, any_value(norm) as norm, any_value(eps) as eps,
    count_if(success)::bigint as successes, count(*) as "of"
  from attacks where through = 'none' and target is null and success is not null and norm is not null group by all)
select surrogates, max(successes / "of") as best, max(eps) filter (norm = 'linf') as largest_linf,
  case when best = 1 then true when largest_linf >= 64 / 255 then false end as holds
from rates group by surrogates order by surrogates
"""

_NOISE = """
with size as (
  select model, attack, max(l2) / sqrt({values}) as rms, count_if(success) / count(*) as attacked
  from (select unnest(surrogates) as model, * from attacks
        where through = 'none' and target is null and norm is not null) group by all),
strongest as (select model, max(rms) as rms, max(attacked) as attacked from size group by model),
noise as (
  select seen.model, try_cast(regexp_extract(seen.defense, '^noise:sigma=([0-9.]+)', 1) as double) as sigma,
    count_if(not seen.correct) / count(*) as turned
  from predictions as seen
  join (select image_id, model, view from predictions where attack = 'none' and defense = 'none' and correct) as clean
    using (image_id, model, view)
  where seen.attack = 'none' and seen.defense like 'noise:sigma=%' and seen.view = {view} group by all)
select *, turned_by_noise < attacked / 2 as holds
from (select strongest.model, rms, attacked, min(sigma) as sigma, arg_min(turned, sigma) as turned_by_noise
      from strongest left join noise on noise.model = strongest.model and noise.sigma >= strongest.rms
      group by all)
order by all
"""

_PUBLISHED = """
with rates as (
  select model, count_if(correct)::bigint as successes, count(*) as "of"
  from predictions where attack = 'none' and defense = 'none' and view = {view} group by model),
wilson as (
  select *, 1.959964 ** 2 / "of" as spread, successes / "of" as rate,
    (rate + spread / 2 + sqrt(spread * rate * (1 - rate) + spread ** 2 / 4)) / (1 + spread) as high
  from rates)
select model, successes, "of", rate, high, published::double as published, high >= published - {far} as holds
from wilson left join (values {values}) as known(model, published) using (model) order by model
"""

_PUBLISHED_ROBUST = """
with rates as (
  select model, seen.attack, count_if(correct)::bigint as successes, count(*) as "of"
  from predictions as seen join attacks on attacks.image_id = seen.image_id and attacks.attack = seen.attack
  where recipe = 'autoattack' and norm = 'linf' and abs(eps - 4 / 255) < 1e-9 and attacks.target is null
    and surrogates = [model] and through = 'none' and defense = 'none' and seen.view = {view}
  group by all),
wilson as (
  select *, 1.959964 ** 2 / "of" as spread, successes / "of" as rate,
    (rate + spread / 2 - sqrt(spread * rate * (1 - rate) + spread ** 2 / 4)) / (1 + spread) as low,
    (rate + spread / 2 + sqrt(spread * rate * (1 - rate) + spread ** 2 / 4)) / (1 + spread) as high
  from rates)
select model, attack, successes, "of", rate, low, high, published::double as published,
  high >= published - {far} and low <= published + {far} as holds
from (values {values}) as known(model, published) left join wilson using (model) order by model, attack
"""

_BUDGET = """
select attack, coalesce(any_value(norm), 'no norm') as norm, any_value(eps) as eps, any_value(bounds) as bounds,
  max(length) as largest, case when count(length) > 0 then count_if(length > eps + 1e-6) end::bigint as beyond,
  count(*) as "of", max(length) <= any_value(eps) + 1e-6 as holds
from (select *, case norm when 'linf' then linf when 'l2' then l2 when 'l1' then l1 end as length from attacks)
group by attack order by attack
"""

_ADAPTIVE = """
select model, defense, bool_or(through = defense) as holds
from (select distinct model, defense from predictions where defense <> 'none')
join (select distinct unnest(surrogates) as model, through from attacks) using (model)
group by all order by all
"""

_UNTOUCHED = """
select attack, count_if(l0 = 0 and clean_predicted <> label)::bigint as untouched,
  count_if(l0 = 0)::bigint as unchanged, count(*) as "of",
  not bool_or(l0 = 0 and clean_predicted <> label) as holds
from attacks group by attack order by attack
"""

CHECKS = (
    Check(
        "White-box attacks succeed at least as often as black-box ones",
        _white_box,
        "comparisons, of attacks on one model and of models under one attack, favour whoever follows the gradients",
        "Show an attack to its own surrogate and to another target.",
        "The white-box attack is too weak: more steps, restarts, or another objective.",
    ),
    Check(
        "Success grows with ε",
        _grows("eps"),
        "attacks succeed on the surrogates at least as often as those of a smaller ε",
        "Run the same recipe under several names, each with another `eps:`.",
        "Attacks of the larger ε are not optimised well, or their steps are too short to use it.",
    ),
    Check(
        "Success grows with steps",
        _grows("steps"),
        "attacks succeed on the surrogates at least as often as those of fewer steps",
        "Run the same recipe under several names, each with another `steps:`.",
        "The attack does not converge: a smaller `alpha:` may help.",
    ),
    Check(
        "A large ε reaches 100 %",
        _always(_LARGE),
        "sets of surrogates are fooled on every image by some untargeted attack",
        "Add an untargeted attack with `eps: 128/255`, which may turn any image into grey.",
        "Where even a large ε leaves images right, gradients are masked, or the attack does not follow them.",
    ),
    Check(
        "Random noise of the same norm does not fool",
        _noise,
        "models lose to noise, of at least the strongest attack's L2 norm, less than half of what the attack turns",
        "Add the defence `noise: {sigma: …}` with a sigma of at least `rms` in the table: clean images behind it.",
        "The images are so close to a boundary that any noise of this size fools: a smaller ε tells more.",
    ),
    Check(
        "The budget is kept by the stored bytes",
        _always(_BUDGET),
        "attacks stay within ε on every image",
        "It needs an attack that bounds a norm.",
        "`megalith verify` measures the stored pictures again, and names those beyond. Pictures of other tools may be, "
        "and say by how much in `excess`; `where excess = 0` counts the others.",
    ),
    Check(
        "Clean accuracy is near the published one",
        _near_published,
        "models may be within ten points of what was published, or better: Wilson's upper bound reaches that far",
        "run.json has no published accuracy of these models: runs of this version note it where it is known.",
        "Check weights, preprocessing and labels: success on a broken model means little.",
    ),
    Check(
        "Robust accuracy is near the published one",
        _near_published_robust,
        "models are within ten points of what AutoAttack at 4/255 (L∞) left of them as published: Wilson's interval "
        "reaches that far",
        "It needs a model of `robustbench/`, and `{recipe: autoattack, surrogates: [MODEL], eps: 4/255}`.",
        "Far below it, the model is not the published one, or is shown pictures otherwise; far above, the attack is "
        "not what it should be.",
    ),
    Check(
        "Defences are attacked adaptively",
        _always(_ADAPTIVE),
        "pairs of a model that is attacked and a defence have an attack that knows the defence",
        "It needs an attack and a defence.",
        "Give an attack `adaptive: true`: it is run once more for each defence, through it. Until then accuracy behind "
        "a defence is an upper bound.",
    ),
    Check(
        "No image is left as it was because the surrogate got it wrong",
        _always(_UNTOUCHED),
        "attacks changed every image that their surrogates got wrong when clean",
        "It needs an attack.",
        "Minimal-norm attacks and those that stop early leave such images clean, and other models are then shown a "
        "clean image, which biases transfer: count images that the surrogate was fooled on (the denominator "
        "`surrogate-fooled`).",
    ),
)
