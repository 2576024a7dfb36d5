"""The page as a whole: runs of all kinds give one, it needs nothing else, and names in it do no harm."""

import json
import re
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.report.page import report, slug, write_report
from pipeline.results.record import read_record
from pipeline.results.tables import open_run
from tests.support.made import answers, made_run
from tests.support.reported import SIDE, png, random_run
from tests.support.runs import EMPTY_RUN, Finished, complaint, everything, invoke
from transforms.errors import InputError
from transforms.storage.store import Store


class Parsed(HTMLParser):
    """What a browser makes of a page: its elements, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            kind, before = self.scripts.pop()
            self.scripts.append((kind, before + data))
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def parsed(folder: Path) -> Parsed:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Parsed(report(open_run(str(folder))))


def sound(page: Parsed) -> None:
    """What holds of every page."""
    assert [kind for kind, _ in page.scripts].count(None) == 2
    for kind, content in page.scripts:
        assert kind in (None, "application/json")
        if kind:
            json.loads(content)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        address = attributes.get("src") or attributes.get("href") or "#"
        assert address.startswith(("data:image/", "data:text/csv;", "#")), (tag, address)
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        if tag == "img":
            assert attributes["alt"]


def empty(folder: Path) -> Path:
    Store(str(folder)).publish_bytes("run.json", json.dumps(EMPTY_RUN).encode())
    return folder


def only_failures(folder: Path) -> Path:
    failed = [{"image_id": f"i{n}", "message": "no picture in it"} for n in range(3)]
    return made_run(folder, failures=failed, definitions={"images": {"count": 3, "sha256": ""}})


def no_attacks(folder: Path) -> Path:
    return made_run(folder, answers([0, 1]), canvases=[{"image_id": "i0"}, {"image_id": "i1"}])


def one_image(folder: Path) -> Path:
    seen = [*answers([0]), *answers([5], attack="pgd")]
    canvases = [
        {"image_id": "i0", "attack": attack, "canvas": _flat(level)} for attack, level in (("none", 9), ("pgd", 8))
    ]
    return made_run(folder, seen, [{"image_id": "i0", "attack": "pgd"}], canvases=canvases)


def without_canvases(folder: Path) -> Path:
    return made_run(folder, [*answers([0]), *answers([5], attack="pgd")], [{"image_id": "i0", "attack": "pgd"}])


def unfinished(folder: Path) -> Path:
    """An attack that no model has looked at yet."""
    return made_run(folder, answers([0, 0]), [{"image_id": "i0", "attack": "pgd"}])


def _flat(level: int) -> bytes:
    return png(np.full((SIDE, SIDE, 3), level, np.uint8))


RUNS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (empty, "0 images; 0 could be read, of 0 classes. 0 attacks, 0 models, 0 views and 0 defences"),
    "only failures": (only_failures, "3 tasks failed; the reasons are below."),
    "no attacks": (no_attacks, "No attack was run: an experiment with attacks: fills this."),
    "one image, one model": (one_image, "1 attack, 1 model, 1 view and 0 defences gave 2 predictions. Nothing failed."),
    "without canvases": (without_canvases, "Images spread evenly over the run, each after every attack: 1 × 1."),
    "unfinished": (unfinished, "1 of 2 sets of predictions lack images"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_runs_of_all_kinds_give_a_page(kind: str, tmp_path: Path) -> None:
    make, said = RUNS[kind]
    page = parsed(make(tmp_path / "run"))
    sound(page)
    assert said in page.words
    assert "nan" not in page.words.lower().split()


def test_a_whole_run_gives_all_sections(small_run: Finished) -> None:
    page = parsed(small_run.output)
    sound(page)
    for title in ("Pictures", "Transfer", "Success over cost", "Defences", "Robust and fragile", "Hygiene", "Gallery"):
        assert f" {title} " in page.words


@pytest.fixture(scope="module")
def page_of_everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(open_run(str(random_run(tmp_path_factory.mktemp("page") / "run", images=6))))


def test_the_page_asks_nobody_for_anything(page_of_everything: str) -> None:
    """Its own policy forbids it, and names by their digests the two scripts that may run."""
    sound(Parsed(page_of_everything))
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]+)"', page_of_everything)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules
    assert "unsafe" not in rules["script-src"]
    assert rules["script-src"].count("sha256-") == 2


def test_every_chart_has_a_description_and_its_data_beside_it(page_of_everything: str) -> None:
    charts = re.findall(r'<div class="chart wide"[^>]*aria-label="Chart: ([^"]+)"', page_of_everything)
    assert len(charts) > 8
    assert all(charts)
    exhibits = page_of_everything.split('<div class="exhibit">')[1:]
    for exhibit in exhibits:
        if '<div class="chart wide"' in exhibit:
            assert "<summary>Data</summary>" in exhibit
            assert "<summary>SQL</summary>" in exhibit
            assert 'href="data:text/csv;' in exhibit


HOSTILE = (
    "</script><img src=x onerror=alert(1)>{{7*7}}",
    "=cmd|' /C calc'!A0{% raw %}",
    '"><svg onload=alert(1)><!--<script>`<i>`',
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_no_harm(name: str, tmp_path: Path) -> None:
    """As a class, an image, an attack, a model, a defence, a title and a failure."""
    place = {"model": f"model {name}", "view": f"view {name}"}
    seen = [
        {
            "image_id": name,
            "predicted": 0,
            "predicted_name": f"class {name}",
            **place,
            "defense": defense,
            "attack": attack,
        }
        for attack in ("none", f"attack {name}")
        for defense in ("none", f"defence {name}", "lowpass:cutoff=0.5", "lowpass:cutoff=1.0")
    ]
    attacks = [{"image_id": name, "attack": f"attack {name}", "surrogates": [place["model"]], "recipe": name}]
    canvases = [
        {"image_id": name, "canvas": _flat(9)},
        {"image_id": name, "attack": f"attack {name}", "canvas": _flat(7)},
    ]
    images = [{"image_id": name, "label_name": f"label {name}"}]
    failures = [{"image_id": name, "message": f"failure {name}", "error_type": name}]
    title = {"name": f"title {name}"}
    made = made_run(tmp_path / "run", seen, attacks, images, canvases, failures, experiment=title)
    page = parsed(made)
    sound(page)
    harmless = " ".join(name.replace("`", "").split())
    for what in ("title", "label", "attack", "model", "defence", "failure", "class"):
        assert f"{what} {harmless}" in page.words.replace("`", ""), what
    assert page.elements.count(("i", {})) == 0
    assert "49" not in {word for text in page.texts for word in text.split()}


def test_what_readers_are_warned_of_stands_on_the_page_and_is_said_once(tmp_path: Path) -> None:
    run = open_run(str(unfinished(tmp_path / "run")))
    with pytest.warns(UserWarning, match="1 of 2 sets of predictions lack images") as said:
        page = Parsed(report(run))
    assert len(said) == 1
    assert ("p", {"class": "notice"}) in page.elements


def test_the_command_writes_into_the_run_directory_and_harms_nothing(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    before = everything(output)
    result = invoke("report", output)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{output}/report.html: ")
    assert result.stderr == ""
    after = everything(output)
    assert after.keys() - before.keys() == {"report.html"}
    assert all(after[path] == before[path] for path in before)
    assert open_run(str(output)).record == read_record(Store(str(output)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_run(str(output)).rows("select 1")


def test_a_page_may_go_elsewhere_and_is_replaced_whole(tmp_path: Path) -> None:
    made = no_attacks(tmp_path / "run")
    page = tmp_path / "pages" / "a page.html"
    page.parent.mkdir()
    page.write_text("an older one")
    assert invoke("report", made, "--output", page).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert [each.name for each in page.parent.iterdir()] == ["a page.html"]
    assert not (made / "report.html").exists()


def test_where_no_page_can_be_written_is_told(tmp_path: Path) -> None:
    made = no_attacks(tmp_path / "run")
    said = complaint(invoke("report", made, "--output", tmp_path / "missing" / "page.html"))
    assert said.startswith("megalith: --output: ")
    assert said.endswith("is not a file in a folder of this machine")
    assert "not a run directory" in complaint(invoke("report", tmp_path))
    run = open_run(str(made))
    run.store = Store("s3://bucket/run")
    with pytest.raises(InputError, match="--output: give a file on this machine"):
        write_report(run)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Success over ε", "success-over"), ("a/../b <i>", "a-b-i"), ("ε", "data"), ("x" * 99, "x" * 80)],
)
def test_names_of_files_on_the_page(text: str, expected: str) -> None:
    assert slug(text) == expected
