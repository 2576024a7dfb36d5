"""Charts as Vega-Lite specifications, made with Altair. What a chart shows is rows; how it looks is here."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.section import budget
from pipeline.results.record import Json

if TYPE_CHECKING:
    import altair as alt

_INK = "currentColor"
"""The colour of the page's words, which a dark page has light and paper has black."""


def shown(chart: "alt.TopLevelMixin", description: str) -> Json:
    """A chart's specification; the description is what a screen reader says."""
    # Altair takes as long to compare charts with Vega-Lite's schema as to make them; a test does that.
    found: Json = chart.to_dict(validate=False)
    found.pop("$schema", None)
    text = {"labelColor": _INK, "titleColor": _INK, "labelLimit": 320, "titleLimit": 400}
    lines = {"domainColor": _INK, "tickColor": _INK, "gridColor": "#8884"}
    config = {
        "axis": {**text, **lines},
        "legend": {**text, "symbolLimit": 60, "symbolBaseFillColor": _INK, "symbolBaseStrokeColor": _INK},
        "header": text,
        "title": {"color": _INK, "anchor": "start"},
        "view": {"stroke": "#8886"},
        "text": {"color": _INK},
        "background": None,
        "font": "system-ui, sans-serif",
    }
    return {**found, "description": description, "config": config, "background": None}


def data(rows: Sequence[Json]) -> "alt.InlineData":
    """Rows inside the specification."""
    import altair as alt  # noqa: PLC0415 - takes a second, and only the page needs it

    return alt.InlineData(values=[{key: _plain(value) for key, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if finite else None  # NaN compares as false


def rate_matrix(rows: Sequence[Json], down: str, across: str, description: str) -> Json:
    """Rates as a table of coloured cells with their numbers; `marked` rows have a frame.

    Args:
        rows: with `down`, `across`, rate, low, high, successes, of, marked.
    """
    import altair as alt  # noqa: PLC0415 - said above

    keys = {"x": _names(rows, across), "y": _names(rows, down)}
    base = alt.Chart(data([{**row, "shown": _percent(row)} for row in rows])).encode(
        x=alt.X(f"{across}:N", sort=keys["x"], axis=alt.Axis(orient="top", labelAngle=-30), title=None),
        y=alt.Y(f"{down}:N", sort=keys["y"], title=None),
        tooltip=_tips(f"{down}:N", f"{across}:N", *_RATE_TIPS),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("rate:Q", scale=alt.Scale(domain=[0, 1], scheme="oranges"), legend=None),
        stroke=alt.StrokeValue(None, condition={"test": "datum.marked", "value": _INK}),
        strokeWidth=alt.StrokeWidthValue(2),
    )
    words = base.mark_text(fontSize=11).encode(
        text=alt.Text("shown:N"),
        color=alt.ColorValue("black", condition={"test": "datum.rate > 0.7", "value": "white"}),
    )
    size = {"width": {"step": 92}, "height": {"step": 30}}
    return shown((cells + words).properties(**size), description)


_RATE_TIPS = ("successes:Q", "of:Q", "rate:Q", "low:Q", "high:Q")


def _tips(*fields: str) -> "list[alt.Tooltip]":
    """What is shown of a point below the mouse. Of a plain string Altair looks for its class among all, for 20 ms."""
    import altair as alt  # noqa: PLC0415 - said above

    return [*map(alt.Tooltip, fields)]


def _percent(row: Json) -> str:
    if row["rate"] is None:
        return "no image"
    return f"{row['rate']:.0%} [{100 * row['low']:.0f}–{100 * row['high']:.0f}]"


def _names(rows: Sequence[Json], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def rate_lines(
    rows: Sequence[Json], x: str, x_title: str, y_title: str, colour: str, description: str, facet: str | None = None
) -> Json:
    """Rates along a number, with bars of their intervals, a line for each value of `colour`."""
    import altair as alt  # noqa: PLC0415 - said above

    colours, shapes = _told_apart(colour, _names(rows, colour))
    base = alt.Chart().encode(
        x=alt.X(f"{x}:Q", title=x_title, scale=alt.Scale(zero=False)),
        tooltip=_tips(f"{x}:Q", f"{colour}:N", *_RATE_TIPS),
        **colours,
    )
    share = alt.Y("rate:Q", title=y_title, scale=_SHARE(), axis=alt.Axis(format="%"))
    line = base.mark_line().encode(y=share)
    bars = base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    points = base.mark_point(filled=True, size=50).encode(y=alt.Y("rate:Q"), **shapes)
    return _faceted(bars + line + points, rows, facet, description)


def _told_apart(field: str, order: list[Any]) -> tuple[Json, Json]:
    """Colours of lines and points, and shapes of points: whoever sees no colours sees shapes.

    Vega-Lite makes one legend of both where their domains are written out.
    """
    import altair as alt  # noqa: PLC0415 - said above

    colour = alt.Color(f"{field}:N", scale=_palette(order), title=field)
    return {"color": colour}, {"shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=order), title=field)}


_USUAL_COLOURS, _MOST_COLOURS = 10, 20


def _palette(order: list[Any]) -> "alt.Scale":
    """A colour for each value. Vega's usual ones come again after ten, its largest palette has twenty."""
    import altair as alt  # noqa: PLC0415 - said above

    if len(order) > _MOST_COLOURS:
        return alt.Scale(domain=order, scheme="turbo")
    return alt.Scale(domain=order, scheme="tableau20" if len(order) > _USUAL_COLOURS else "tableau10")


def _SHARE() -> "alt.Scale":  # noqa: N802 - a constant that needs Altair
    import altair as alt  # noqa: PLC0415 - said above

    return alt.Scale(domain=[0, 1])


def _faceted(layers: "alt.Chart | alt.LayerChart", rows: Sequence[Json], facet: str | None, description: str) -> Json:

    if facet is None or len(_names(rows, facet)) < 2:  # noqa: PLR2004 - one needs no heading
        return shown(layers.properties(data=data(rows), width=480, height=280), description)
    return _panels(layers.properties(width=260, height=190), rows, facet, description)


def _panels(
    layers: "alt.Chart | alt.LayerChart", rows: Sequence[Json], facet: str, description: str, *, most: int = 3
) -> Json:
    """A panel for each value of `facet`, two or three beside each other so that rows are full but for one."""
    import altair as alt  # noqa: PLC0415 - said above

    names = _names(rows, facet)
    by = alt.Facet(f"{facet}:N", sort=names, title=None)
    columns = 2 if len(names) % 3 == 1 else most
    return shown(layers.facet(by, columns=columns, data=data(rows)), description)


def lines(rows: Sequence[Json], description: str) -> Json:
    """Energy of perturbations over frequency, a line for each attack; 1 is white noise."""
    import altair as alt  # noqa: PLC0415 - said above

    base = alt.Chart(data(rows)).encode(
        x=alt.X("frequency:Q", title="frequency, share of Nyquist"),
        y=alt.Y("density:Q", title="energy, multiple of white noise", scale=alt.Scale(type="log")),
        color=alt.Color("attack:N", scale=_palette(_names(rows, "attack"))),
        tooltip=_tips("attack:N", "frequency:Q", "density:Q", "share:Q", "images:Q"),
    )
    return shown(base.mark_line(point=True).properties(width=480, height=280), description)


_COLOURS = 9
"""So many attacks does the usual palette tell apart; its tenth colour is grey."""


def scatter(rows: Sequence[Json], description: str) -> Json:
    """Success over passes, a panel for each model; what is on the Pareto front is bright, and joined.

    Of more attacks than there are colours, those have one that are on most panels' fronts, and only there.
    """
    import altair as alt  # noqa: PLC0415 - said above

    attacks = _names(rows, "attack")
    few = len(attacks) <= _COLOURS
    if not few:
        attacks = _on_fronts(rows)[:_COLOURS]
    coloured = {"field": "attack", "type": "nominal", "title": "attack", "scale": alt.Scale(domain=attacks)}
    named = [
        {**row, "rivals": _rivals(row), "coloured": few or (row["pareto"] and row["attack"] in attacks)} for row in rows
    ]
    base = alt.Chart().encode(
        x=alt.X("passes:Q", title="forward + backward passes per image", scale=alt.Scale(type="log")),
        y=alt.Y("rate:Q", title="success", scale=_SHARE(), axis=alt.Axis(format="%")),
    )
    front = base.transform_filter("datum.pareto").mark_line(interpolate="step-after", opacity=0.6, color="#888")
    points = base.mark_point(filled=True, size=80).encode(
        color=alt.ColorValue("#888", condition={"test": "datum.coloured", **coloured}),
        shape=alt.Shape("rivals:N", title="goal and budget", sort=_names(named, "rivals")),
        opacity=alt.OpacityValue(0.45, condition={"test": "datum.pareto", "value": 1}),
        tooltip=_tips("attack:N", "model:N", "passes:Q", "pareto:N", *_RATE_TIPS),
    )
    return _faceted(front.encode(detail=alt.Detail("rivals:N")) + points, named, "model", description)


def _on_fronts(rows: Sequence[Json]) -> list[str]:
    """Attacks on Pareto fronts, those on most first. Attacks that share a point share it: on their own surrogate many
    attacks always succeed."""
    front = [row for row in rows if row["pareto"]]
    points = Counter((row["model"], _rivals(row), row["passes"], row["rate"]) for row in front)
    parts: dict[str, float] = dict.fromkeys(_names(front, "attack"), 0.0)
    for row in front:
        parts[row["attack"]] += 1 / points[row["model"], _rivals(row), row["passes"], row["rate"]]
    return sorted(parts, key=lambda name: -parts[name])


def _rivals(row: Json) -> str:
    bound = budget(row["norm"], row["eps"], row["bounds"])
    return f"{'targeted' if row['targeted'] else 'untargeted'}, {bound}"


def rate_dots(rows: Sequence[Json], down: str, colour: str, facet: str, description: str) -> Json:
    """Rates as points with their intervals, a line for each name, a panel for each value of `facet`."""
    import altair as alt  # noqa: PLC0415 - said above

    colours, shapes = _told_apart(colour, _names(rows, colour))
    base = alt.Chart().encode(
        y=alt.Y(f"{down}:N", sort=_names(rows, down), title=None),
        tooltip=_tips(f"{down}:N", f"{colour}:N", f"{facet}:N", *_RATE_TIPS),
        **colours,
    )
    share = alt.X("low:Q", title="accuracy", scale=_SHARE(), axis=alt.Axis(format="%"))
    bars = base.mark_rule(opacity=0.5).encode(x=share, x2=alt.X2("high:Q"))
    points = base.mark_point(filled=True, size=60).encode(x=alt.X("rate:Q"), **shapes)
    panels = (bars + points).properties(width=240, height={"step": 20})
    return _panels(panels, rows, facet, description, most=2)  # beside the names of what is rated


def cost_against_recovery(rows: Sequence[Json], description: str) -> Json:
    """What defences cost on clean images against what they give back, a panel for each attack."""
    import altair as alt  # noqa: PLC0415 - said above

    kinds = alt.Shape("knows:N", sort=["blind", "adaptive"], title="the attack is")
    points = (
        alt.Chart()
        .mark_point(filled=True, size=80)
        .encode(
            x=alt.X("clean_cost:Q", title="clean accuracy lost", axis=alt.Axis(format="%")),
            y=alt.Y("recovery:Q", title="accuracy recovered", axis=alt.Axis(format="%")),
            color=alt.Color("defense:N", scale=_palette(_names(rows, "defense"))),
            shape=kinds,
            tooltip=_tips("defense:N", "knows:N", "attack:N", "clean_cost:Q", "recovery:Q", *_RATE_TIPS),
        )
    )
    return _faceted(points, rows, "attack", description)


def reliability(rows: Sequence[Json], description: str) -> Json:
    """Accuracy over confidence, a line for each model, and the diagonal."""
    import altair as alt  # noqa: PLC0415 - said above

    diagonal = (
        alt.Chart(data([{"confidence": 0, "rate": 0}, {"confidence": 1, "rate": 1}]))
        .mark_line(strokeDash=[4, 4], color="#888")
        .encode(x=alt.X("confidence:Q"), y=alt.Y("rate:Q"))
    )
    base = alt.Chart(data(rows)).encode(
        x=alt.X("confidence:Q", title="confidence", scale=_SHARE()),
        color=alt.Color("model:N", sort=_names(rows, "model")),
        tooltip=_tips("model:N", "confidence:Q", *_RATE_TIPS),
    )
    bars = base.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    line = base.mark_line(point=True).encode(y=alt.Y("rate:Q", title="accuracy", scale=_SHARE()))
    return shown((diagonal + bars + line).properties(width=360, height=360), description)


_SEEN = 0.001
"""A probability that a chart can show."""


def probabilities(rows: Sequence[Json], marked: dict[int, str], description: str) -> Json:
    """Probabilities of all classes, a panel for each model; classes in `marked` have a point and a name."""
    import altair as alt  # noqa: PLC0415 - said above

    seen = [
        {**row, "meaning": marked.get(row["class"], "other")}
        for row in rows
        if row["probability"] >= _SEEN or row["class"] in marked
    ]
    base = alt.Chart().encode(
        x=alt.X("class:Q", title="class", scale=alt.Scale(domain=[0, 999], nice=False)),
        tooltip=_tips("model:N", "class:Q", "probability:Q", "meaning:N"),
    )
    colours, shapes = _told_apart("meaning", [*marked.values(), "other"])
    height = alt.Y("probability:Q", scale=_SHARE())
    stems = base.mark_rule(strokeWidth=2).encode(y=height, y2=alt.Y2Datum(0), **colours)
    named = base.transform_filter("datum.meaning !== 'other'").mark_point(filled=True, size=50)
    points = named.encode(y=alt.Y("probability:Q"), **colours, **shapes)
    layers = (stems + points).properties(width=300, height=120)
    return _panels(layers, seen, "model", description)
