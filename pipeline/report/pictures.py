"""A run's pictures as PNG files with a CSV beside them, for papers and other tools."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.report.canvases import amplified, change, pixels, png_files
from pipeline.report.section import answer, distinct
from pipeline.results.formats import csv_lines
from pipeline.results.outcomes import quoted
from transforms.errors import unknown
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_AT_ONCE = 64
"""Pictures in memory."""
_LONGEST = 200
"""Bytes of a file's name, most disks allow 255."""


def write_pictures(run: "Run", folder: Path, attacks: Sequence[str] = (), where: str = "true", times: int = 10) -> int:
    """Writes clean, adversarial and difference of each attacked image that is asked for, and `pictures.csv`.

    Clean and adversarial files are the stored bytes. A difference is shown on middle grey, `times` as large, clipped.

    Args:
        attacks: by name; none means all.
        where: a condition in SQL over the columns of `attacks` and `label_name`.

    Returns:
        How many attacked images there were.

    Raises:
        InputError: there is no such attack, or the condition is wrong.
    """
    known = distinct(run, "attack", "attacks")
    for name in attacks:
        if name not in known:
            raise unknown("attack", name, known)
    named = f"attack in ({', '.join(map(quoted, attacks or known)) or 'null'})"
    found = answer(run, _WANTED.format(named=named, where=where))
    folder.mkdir(parents=True, exist_ok=True)
    written, headings = 0, (*found.headings, "clean_file", "adversarial_file", "difference_file")
    with (folder / "pictures.csv").open("w", encoding="utf-8", newline="") as file:
        file.writelines(csv_lines(headings, ()))
        for attack in attacks or known:
            rows = found.where(attack=attack).rows
            for first in range(0, len(rows), _AT_ONCE):
                lines = _written(run, folder, attack, rows[first : first + _AT_ONCE], times)
                file.writelines(list(csv_lines(headings, lines))[1:])
                written += len(lines)
    return written


def _written(
    run: "Run", folder: Path, attack: str, rows: Sequence[tuple[Any, ...]], times: int
) -> list[tuple[Any, ...]]:
    images = [row[0] for row in rows]
    clean, adversarial = (png_files(run, each, images) for each in (CLEAN, attack))
    lines = []
    for row in rows:
        image = row[0]
        if image not in clean or image not in adversarial:
            continue
        names = [file_name(image, CLEAN), file_name(image, attack), file_name(image, attack, f"x{times}")]
        (folder / names[0]).write_bytes(clean[image])
        (folder / names[1]).write_bytes(adversarial[image])
        changed = change(pixels(clean[image]), pixels(adversarial[image]))
        (folder / names[2]).write_bytes(amplified(changed, times))
        lines.append((*row, *names))
    return lines


def file_name(*parts: str) -> str:
    """The name of a picture: `IMAGE@ATTACK.png`, percent-encoded so that no name leaves the folder or meets another."""
    name = "@".join(quote(part, safe=" ") for part in parts)
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.png"


_WANTED = """
select image_id, attack, label, label_name, target, norm, eps, bounds, success, clean_predicted, adversarial_predicted,
  linf, l2, ssim
from (select attacks.*, label_name from attacks left join (select image_id, label_name from images) using (image_id))
where {named} and ({where})
order by attack, image_id
"""
