"""The origin's figures for a few images: what was changed, where, and what each network makes of it."""

from typing import TYPE_CHECKING, NamedTuple

from pipeline.report.canvases import address, colour_bar, difference_maps, low_passed, pixels, png_files, thumbnail
from pipeline.report.charts import probabilities
from pipeline.report.section import Exhibit, Picture, Section, answer, budget, usual_view
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_MOST = 6
"""Images with figures; at most so many attacks have one."""
_STRIP = 160
"""Pixels, at most, of the pictures of a strip."""


class _Case(NamedTuple):
    image_id: str
    attack: str
    label_name: str
    eps: float | None
    norm: str | None
    bounds: str | None
    label: int
    target: int | None
    model: str


def figures(run: "Run") -> Section | None:
    """Original beside adversarial, difference maps, probabilities, the low-pass strip, and each network's answer."""
    cases = [_Case(*row) for row in answer(run, _CHOSEN.format(view=quoted(usual_view(run)))).rows]
    exhibits = tuple(exhibit for case in cases[:_MOST] for exhibit in _of_case(run, case))
    return Section("Pictures", (_RULE,), exhibits) if exhibits else None


def _of_case(run: "Run", case: _Case) -> list[Exhibit]:
    files = [png_files(run, attack, [case.image_id]) for attack in ("none", case.attack)]
    clean, adversarial = (found.get(case.image_id) for found in files)
    if clean is None or adversarial is None:
        return []
    keys = {"image": quoted(case.image_id), "attack": quoted(case.attack), "view": quoted(usual_view(run))}
    title = f"{case.label_name}, attacked by {case.attack}"
    found = [_pair(run, case, title, (clean, adversarial), keys), _maps(run, case, title, (clean, adversarial), keys)]
    return [*found, *_all_classes(run, case, title, keys), *_strip(run, case, title, adversarial, keys)]


def _pair(run: "Run", case: _Case, title: str, files: tuple[bytes, bytes], keys: dict[str, str]) -> Exhibit:
    sql = _ANSWERS.format(**keys)
    bound = budget(case.norm, case.eps, case.bounds)
    words = f"Image {case.image_id}; budget: {bound}. The slider moves from the original to the attacked one."
    original, attacked = (
        Picture(address(file, "png"), f"{case.label_name}, {which}", (which,))
        for file, which in zip(files, ("original", f"attacked by {case.attack}"), strict=True)
    )
    return Exhibit(title, answer(run, sql), sql, words, pair=(original, attacked), open=True)


def _maps(run: "Run", case: _Case, title: str, files: tuple[bytes, bytes], keys: dict[str, str]) -> Exhibit:
    maps, most = difference_maps(*map(pixels, files))
    sql = _DISTANCES.format(**keys)
    bar = Picture(colour_bar(), "Colour bar of the difference maps, from less to more")
    words = "What the attack added to each colour channel, in grey levels of 255."
    scale = (f"−{most}", "0", f"+{most}")
    return Exhibit(f"{title}: difference maps", answer(run, sql), sql, words, pictures=maps, bar=(bar, scale))


def _all_classes(run: "Run", case: _Case, title: str, keys: dict[str, str]) -> list[Exhibit]:
    sql = _PROBABILITIES.format(**keys)
    found = answer(run, sql)
    if not found.rows:
        return []
    marked = {case.label: "true class", **({} if case.target is None else {case.target: "target class"})}
    chart = probabilities(found.records(), marked, f"{title}: probability of all 1,000 classes, by model")
    words = "Attacked and undefended; the true and the target class are marked."
    return [Exhibit(f"{title}: probabilities of all classes", found, sql, words, chart=chart)]


def _strip(run: "Run", case: _Case, title: str, adversarial: bytes, keys: dict[str, str]) -> list[Exhibit]:
    sql = _STRIP_OF.format(model=quoted(case.model), **keys)
    found = answer(run, sql)
    if not found.rows:
        return []
    pictures = []
    for row in found.records():
        said = (f"cutoff {row['cutoff']:g}", row["name"], f"{row['index']}, {row['confidence']:.1%}")
        small = thumbnail(low_passed(pixels(adversarial), row["cutoff"]), _STRIP)
        pictures.append(Picture(small, f"Low-passed at {row['cutoff']:g}: {row['name']}", said))
    words = f"The attacked picture as {case.model} is shown it behind each low-pass, and what {case.model} says."
    return [Exhibit(f"{title}: low-passed", found, sql, words, pictures=tuple(pictures))]


_RULE = (
    f"One image for each plain attack, of the first {_MOST} attacks (three of a single attack): of the images that the "
    "surrogates get right when clean and wrong when attacked, the one on which most other models stay right; of "
    "several, the one of which the surrogates are surest."
)

_CHOSEN = """
with seen as (
  select image_id, attack, model, correct from predictions where defense = 'none' and view = {view}),
held as (
  select image_id, attack, avg(correct::int) filter (not list_contains(surrogates, model)) as held
  from seen join (select image_id, attack, surrogates from attacks) using (image_id, attack) group by all),
ranked as (
  select image_id, attack, label_name, eps, norm, bounds, attacks.label, target,
    coalesce(surrogates[1], (select min(model) from seen)) as model,
    row_number() over (partition by attack order by
      success and clean_predicted = attacks.label desc, held desc nulls last, adversarial_confidence desc,
      image_id) as place
  from attacks join images using (image_id) left join held using (image_id, attack) where through = 'none'),
first as (
  select image_id, attack, label_name, eps, norm, bounds, label, target, model
  from ranked where place <= case when (select count(distinct attack) from ranked) = 1 then 3 else 1 end)
select * from first order by attack, image_id
"""

_ANSWERS = """
select model as architecture, predicted_name as name, predicted as index, confidence, name_when_clean,
  confidence_when_clean
from predictions
left join (select model, predicted_name as name_when_clean, confidence as confidence_when_clean from predictions
           where image_id = {image} and attack = 'none' and view = {view} and defense = 'none') using (model)
where image_id = {image} and attack = {attack} and view = {view} and defense = 'none' order by model
"""

_DISTANCES = """
select linf, l2, l1, l0, psnr, ssim from attacks where image_id = {image} and attack = {attack}
"""

_PROBABILITIES = """
select model, unnest(range(1000)) as class, unnest(probabilities) as probability from predictions
where image_id = {image} and attack = {attack} and view = {view} and defense = 'none' and probabilities is not null
order by all
"""

_STRIP_OF = """
select try_cast(regexp_extract(defense, '^lowpass:cutoff=([0-9.]+)$', 1) as double) as cutoff,
  predicted_name as name, predicted as index, confidence
from predictions
where image_id = {image} and attack = {attack} and view = {view} and model = {model}
  and regexp_matches(defense, '^lowpass:cutoff=[0-9.]+$')
order by cutoff desc
"""
