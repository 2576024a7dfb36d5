"""Whether models are as often right as they are confident."""

from typing import TYPE_CHECKING

from pipeline.report.charts import reliability
from pipeline.report.section import Exhibit, Section, answer, counted, usual_view
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_ENOUGH = 100
"""Clean images of a model: with fewer, bins hold a handful each."""


def calibration(run: "Run") -> Section | None:
    """Reliability on clean images, and the expected calibration error."""
    values = {"view": quoted(usual_view(run)), "enough": _ENOUGH}
    bins_sql, error_sql = _BINS.format(**values), _ERROR.format(bins=_BINS.format(**values).strip())
    bins = counted(run, bins_sql)
    if not bins.rows:
        return Section("Calibration", (f"Fewer than {_ENOUGH} clean images: more images fill this.",))
    exhibits = (
        Exhibit("Reliability", bins, bins_sql, chart=reliability(bins.records(), "Accuracy by confidence, clean")),
        Exhibit("Expected calibration error", answer(run, error_sql), error_sql, _ERROR_SAYS, open=True),
    )
    return Section("Calibration", (_WORDS,), exhibits)


_WORDS = "Clean, undefended images in ten bins of confidence. A calibrated model is on the diagonal (Guo et al. 2017)."
_ERROR_SAYS = "The mean distance of confidence from accuracy over the bins, weighted by their images."

_BINS = """
select model, least(floor(confidence::double * 10), 9) / 10 as bin, avg(confidence) as confidence,
  count_if(correct)::bigint as successes, count(*) as "of"
from predictions where attack = 'none' and defense = 'none' and view = {view}
  and model in (select model from predictions where attack = 'none' and defense = 'none' and view = {view}
                group by model having count(*) >= {enough})
group by model, bin order by model, bin
"""

_ERROR = """
select model, sum(abs(confidence - successes / "of") * "of") / sum("of") as error, sum("of")::bigint as images
from ({bins})
group by model order by model
"""
