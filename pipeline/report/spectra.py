"""Where in frequency perturbations are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report.canvases import Canvas, change, energies, frequency_rings, pixels, png_files
from pipeline.report.charts import lines
from pipeline.report.section import Exhibit, Section, Table, answer, some_images
from pipeline.results.outcomes import quoted
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_IMAGES, _ATTACKS, _BANDS = 24, 12, 28
"""Pictures of each attack, attacks, rings."""


def spectra(run: "Run") -> Section | None:
    """Energy of perturbations by radius, from the stored canvases of some images."""
    attacks = [name for (name,) in answer(run, _ATTACKED).rows][:_ATTACKS]
    images = some_images(run, _IMAGES)
    clean = {image: pixels(png) for image, png in png_files(run, CLEAN, images).items()} if attacks else {}
    rows = tuple(row for attack in attacks for row in _spectrum(run, attack, clean))
    if not rows:
        return None
    table = Table(("attack", "frequency", "share", "density", "images"), rows)
    words = f"Of at most {_IMAGES} images, spread evenly over the run, and {_ATTACKS} attacks. {_SPECTRA_SAY}"
    chart = lines(table.records(), "Energy of perturbations by spatial frequency, a line for each attack")
    names, pictures = ", ".join(map(quoted, [CLEAN, *attacks])), ", ".join(map(quoted, images))
    sql = _CANVASES.format(names=names, pictures=pictures)
    return Section("Spectra of perturbations", (words,), (Exhibit("Energy by frequency", table, sql, chart=chart),))


def _spectrum(run: "Run", attack: str, clean: Mapping[str, Canvas]) -> list[tuple[str, float, float, float, int]]:
    found = png_files(run, attack, clean)
    changes = [changed for image, png in found.items() if (changed := change(clean[image], pixels(png))).any()]
    if not changes:
        return []
    rings = frequency_rings(changes[0].shape[0], _BANDS)
    share = np.mean([energies(changed, rings, _BANDS) for changed in changes], axis=0)
    of_noise = np.bincount(rings.ravel(), minlength=_BANDS) / rings.size
    return [
        (attack, round((ring + 0.5) / _BANDS, 4), float(share[ring]), float(share[ring] / of_noise[ring]), len(changes))
        for ring in np.flatnonzero(of_noise)  # a small canvas has rings without a frequency
    ]


_ATTACKED = "select distinct attack from attacks where through = 'none' order by attack"

_CANVASES = """
select image_id, attack, canvas from canvases
where attack in ({names})
  and image_id in ({pictures})
"""

_SPECTRA_SAY = (
    "`share` is the mean share of a perturbation's energy in a ring of frequencies, `density` the same for each "
    "coefficient as a multiple of white noise's: above 1, a perturbation keeps more energy there than noise does. "
    "Frequencies are shares of Nyquist; the corners beyond belong to the last ring."
)
