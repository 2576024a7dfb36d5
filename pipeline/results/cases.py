"""Cases: which attacks, models, views and defences are meant, in the experiment's order."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from pipeline.results.findings import UNDEFENDED, WORST, attacked_defenses, labellers, orders
from pipeline.results.outcomes import KEYS, Cases
from transforms.errors import InputError, unknown
from transforms.rows.parts import CLEAN, experiments_name, variant_of

if TYPE_CHECKING:
    from pipeline.results.tables import Run

ADAPTIVE = ", adaptive"


def chosen(run: "Run", wanted: Cases, across: Collection[str], *, clean: bool) -> dict[str, list[str]]:
    """For each of `KEYS` the values that are meant.

    Where nothing is wanted, they are what the last experiment names and the run has predictions of; defences, unless
    they are across, are none.

    Args:
        wanted: values by key, as a user names them.
        across: keys that may have several values; the others have one each.
        clean: whether clean images are meant if no attack is wanted.

    Raises:
        InputError: the run has no such value, or several of a key that is not across.
    """
    found: dict[str, list[str]] = {}
    there = known(run)
    wanted = {**wanted, "attack": with_targets(run, wanted.get("attack") or (), there["attack"])}
    for key in reversed(KEYS):  # which variants of attacks are meant depends on the defences
        named = _named(run, key, there[key], found.get("defense", ()))
        usual = [each for each in named if clean or key != "attack" or each != CLEAN]
        if missing := [each for each in wanted.get(key) or () if each not in there[key]]:
            raise unknown(key, missing[0], there[key])
        by_default = usual if key in across or key != "defense" else [UNDEFENDED]
        found[key] = list(dict.fromkeys(wanted.get(key) or by_default))
        if not found[key]:
            raise InputError(f"{key}: none is known that counts here; the run has {', '.join(sorted(there[key]))}")
        if key not in across and len(found[key]) > 1:
            raise InputError(f"{key}: {', '.join(found[key])} are not mixed; choose one with --{key}")
    return {key: found[key] for key in KEYS}


def with_targets(run: "Run", attacks: Iterable[str], there: Collection[str]) -> list[str]:
    """Attacks as named, but one that has several targets by its name for each of them."""
    names = orders(run.record)["attack"]
    of = {name: [each for each in names if each in there and experiments_name(each) == name] for name in attacks}
    return [each for name in attacks for each in ([name] if name in there else of[name] or [name])]


def known(run: "Run") -> dict[str, set[str]]:
    """For each of `KEYS` the values that a run has predictions of; raises InputError if it has none at all."""
    _, there = run.rows(f"select distinct {', '.join(KEYS)} from predictions")  # noqa: S608 - our own names
    if not there:
        raise InputError(f"{run.store.root} has no predictions yet; the command that makes the run makes them")
    return {key: set(values) for key, values in zip(KEYS, zip(*there, strict=True), strict=True)}


def _named(run: "Run", key: str, there: Collection[str], defenses: Iterable[str]) -> list[str]:
    """What the last experiment names, in its order. The variants of an adaptive attack come after it, each only if the
    defence that it knows is among those that are meant."""
    order = orders(run.record)[key]
    if key == "attack":
        variants = sorted(each for each in there if variant_of(each) is not None)
        order = [each for name in order for each in (name, *_variants(name, variants, set(defenses)))]
    return [each for each in order if each in there]


def _variants(attack: str, variants: Iterable[str], defenses: Collection[str]) -> list[str]:
    pairs = [(each, variant_of(each) or ("", "")) for each in variants]
    return [each for each, (of, knows) in pairs if of == attack and knows in defenses]


def white_box(run: "Run", cases: Cases) -> list[str]:
    """Which attacks follow the gradients of which of the models, as one sentence or none."""
    _, pairs = run.rows("select distinct attack, unnest(surrogates) from attacks")
    follows = {
        model: [attack for attack in cases["attack"] if (attack, model) in set(pairs)] for model in cases["model"]
    }
    said = "; ".join(f"{', '.join(attacks)} on {model}" for model, attacks in follows.items() if attacks)
    return [f"White-box, where the attack follows the model's gradients: {said}."] if said else []


def labelled(run: "Run") -> list[str]:
    """That labels are what a model says, as one sentence or none."""
    names = ", ".join(labellers(run))
    return [f"Labels are what {names} says of the clean images: accuracy is agreement with it."] if names else []


def asked(run: "Run", cases: Cases) -> list[str]:
    """Which attacks asked which of the models, as one sentence or none."""
    _, rows = run.rows(
        "select attack, victim, max(queries) from attacks where victim is not null group by all order by all"
    )
    said = "; ".join(
        f"{attack} on {victim}, {queries} times an image at most"
        for attack, victim, queries in rows
        if attack in cases["attack"] and victim in cases["model"]
    )
    return [f"Not transfer alone, because the attack asked the model about what it made: {said}."] if said else []


def beyond_budget(run: "Run", attacks: Collection[str]) -> list[str]:
    """Which of the attacks, made by other tools, are beyond their budget on some pictures, as one sentence or none."""
    _, rows = run.rows(
        "select attack, count_if(excess > 0), count(*), max(excess) from attacks group by attack order by attack"
    )
    said = "; ".join(
        f"{attack}, {images} of {of} pictures, by {most:.4g} at most"
        for attack, images, of, most in rows
        if images and attack in attacks
    )
    return [f"Beyond ε, and counted all the same (column excess): {said}."] if said else []


def not_attacked(run: "Run", cases: Cases) -> list[str]:
    """Which of the defences no attack on any of the models knows, as one sentence or none."""
    knowing = {defense for model, defense in attacked_defenses(run) if model in cases["model"]}
    blind = [each for each in cases["defense"] if each not in {UNDEFENDED, *knowing}]
    if not blind:
        return []
    models = ", ".join(cases["model"])
    return [f"No attack on {models} knows {', '.join(blind)}: not attacked, which is not the same as that it holds."]


def shown_attack(attack: str, defense: str) -> str:
    """The name of an attack in tables: a variant behind the defence that it knows is `pgd, adaptive`."""
    variant = variant_of(attack)
    return variant[0] + ADAPTIVE if variant is not None and variant[1] == defense else attack


def shown(key: str, value: str, *, alone: bool = False) -> str:
    """A value of a key in tables; `alone`, with no heading, its key is said as well."""
    return _SHOWN.get((key, value), f"{key} {value}" if alone and value != WORST else value)


_SHOWN = {("attack", CLEAN): "clean", ("defense", UNDEFENDED): "undefended"}
