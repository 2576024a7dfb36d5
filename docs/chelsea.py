"""The picture at the top of the README: python -m docs.chelsea. A run makes it, and nothing else knows its numbers."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from skimage import data

from megalith import open_run
from transforms.defenses.grid import parse
from transforms.rows.canvases import from_png

PICTURE = Path(__file__).with_suffix(".png")
LOWPASS = "lowpass:cutoff=0.6"
_TIMES = 32
_EXPERIMENT = f"""
name: chelsea
images: {{folder: pictures, labels: labels.csv}}
canvas: {{resize: 256, crop: 224}}
models: {{lite0: packaged/efficientnet-lite0}}
attacks: {{megalith: {{recipe: pgd, surrogates: [lite0], target: megalith, eps: 4/255, steps: 50, alpha: 1/255}}}}
targets: [lite0]
defenses: ["{LOWPASS}"]
"""
_LABELS = "file,label\nchelsea.png,tiger cat\n"
_ANSWERS = f"""
select predicted_name, confidence from predictions
where (attack, defense) in (('none', 'none'), ('megalith', 'none'), ('megalith', '{LOWPASS}'))
order by attack <> 'none', defense <> 'none'
"""  # noqa: S608 - nothing of a user's
_CANVASES = "select canvas from canvases order by attack <> 'none'"
_SIDE, _GAP, _CAPTION, _LETTERS = 224, 12, 52, 16


class Tile(NamedTuple):
    """A picture, uint8 (3, S, S), and two lines to be read under it."""

    pixels: np.ndarray
    what: str
    seen: str


def tiles(folder: Path) -> list[Tile]:
    """Runs the experiment on scikit-image's photograph `chelsea` (CC0) in an empty folder; needs a minute at most."""
    (folder / "pictures").mkdir()
    Image.fromarray(data.chelsea()).save(folder / "pictures" / "chelsea.png")
    (folder / "labels.csv").write_text(_LABELS)
    (folder / "chelsea.yaml").write_text(_EXPERIMENT)
    megalith = [sys.executable, "-m", "pipeline.main", "run", "chelsea.yaml", "--output", "run"]
    subprocess.run(megalith, cwd=folder, check=True, capture_output=True)  # noqa: S603 - our own command
    run = open_run(str(folder / "run"))
    answers = [f"{name}, {confidence:.0%}" for name, confidence in run.rows(_ANSWERS)[1]]
    clean, adversarial = (from_png(png) for (png,) in run.rows(_CANVASES)[1])
    change = adversarial.astype(int) - clean
    shown_change = np.clip(128 + _TIMES * change, 0, 255).astype(np.uint8)
    lowpassed = parse(LOWPASS)(torch.from_numpy(adversarial)[None])[0].numpy()
    return [
        Tile(clean, "photograph", answers[0]),
        Tile(shown_change, f"change, {_TIMES} times", f"at most {abs(change).max()} of 255 grey levels"),
        Tile(adversarial, "photograph + change", answers[1]),
        Tile(lowpassed, "the same, low-pass filtered", answers[2]),
    ]


def words(shown: list[Tile]) -> str:
    """What the picture shows, for those who do not see it."""
    return "; ".join(f"{tile.what}: {tile.seen}" for tile in shown)


def drawn(shown: list[Tile]) -> Image.Image:
    """The tiles side by side, their lines below them."""
    across = _SIDE + _GAP
    picture = Image.new("RGB", (across * len(shown) - _GAP, _SIDE + _CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_LETTERS)
    for place, tile in enumerate(shown):
        picture.paste(Image.fromarray(tile.pixels.transpose(1, 2, 0)), (across * place, 0))
        for line, text in enumerate((tile.what, tile.seen)):
            middle = (across * place + _SIDE // 2, _SIDE + 6 + line * 22)
            draw.text(middle, text, fill=("dimgray", "black")[line], font=font, anchor="ma")
    return picture


def main() -> None:
    """Draws the picture anew, with its words inside."""
    with tempfile.TemporaryDirectory() as folder:
        shown = tiles(Path(folder))
    about = PngImagePlugin.PngInfo()
    about.add_itxt("Description", words(shown))
    drawn(shown).save(PICTURE, pnginfo=about, optimize=True)
    print(f"{PICTURE}: {words(shown)}")


if __name__ == "__main__":
    main()
