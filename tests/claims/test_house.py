"""What the documents claim of the code, who may import whom, and what a worker is sent."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

import megalith
from transforms.rows.tables import TABLES

ROOT = Path(__file__).parents[2]


def _section(table: str) -> str:
    """What docs/tables.md says of a table."""
    text = (ROOT / "docs" / "tables.md").read_text()
    return re.split(r"^## ", text.partition(f"\n## {table}\n")[2], maxsplit=1, flags=re.M)[0]


def test_every_column_is_documented_in_order() -> None:
    for name, table in TABLES.items():
        section = _section(name)
        rows = re.findall(r"^\| (\w+) \| (.+?) \|", section, flags=re.M)[1:]
        assert [column for column, _ in rows] == table.schema.names
        assert {column for column, kind in rows if "*path*" in kind} == set(table.partitions)
        nullable = {field.name for field in table.schema if field.nullable}
        assert {column for column, kind in rows if "null" in kind} == nullable


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_computed_where_the_tables_page_says(name: str) -> None:
    modules = re.findall(r"`(transforms(?:/\w+)+\.py)`", _section(name))
    written = {
        each.value
        for module in modules
        for each in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(each, ast.Constant)
    }
    assert modules and set(TABLES[name].columns.names) <= written


def test_rows_need_neither_torch_nor_beam_nor_experiments() -> None:
    """Whoever reads a run directory, or tries how a row is computed, needs none of them: not even indirectly."""
    rooms = sorted(each.stem for each in (ROOT / "transforms" / "rows").glob("*.py") if each.stem != "__init__")
    imports = "; ".join(f"import transforms.rows.{each}" for each in rooms)
    banned = "{'torch', 'apache_beam', 'pipeline', 'transforms.attacks', 'transforms.models', 'transforms.defenses'}"
    line = [sys.executable, "-c", f"import sys; {imports}; print({banned} & set(sys.modules))"]
    found = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert found.strip() == "set()"


PACKAGES = ("megalith", "pipeline", "transforms")


class _Imports(ast.NodeVisitor):
    """What a file imports when it is imported itself, and what only its functions import."""

    def __init__(self) -> None:
        self.at_once: set[str] = set()
        self.later: set[str] = set()
        self._inside = 0

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside += 1
        self.generic_visit(node)
        self._inside -= 1

    def visit_Import(self, node: ast.Import) -> None:
        self._found(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self._found([module, *(f"{module}.{alias.name}" for alias in node.names)])

    def _found(self, names: Iterable[str]) -> None:
        (self.later if self._inside else self.at_once).update(names)


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _read(file: Path) -> _Imports:
    imports = _Imports()
    imports.visit(ast.parse(file.read_text()))
    return imports


IMPORTS = {_module(file): _read(file) for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))}


def _with_packages(module: str) -> set[str]:
    """A module and the packages that it lies in, which are imported with it."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts) + 1)}


def _reached(module: str) -> set[str]:
    """Everything that is imported when a module is: ours, however far away, and the packages of others."""
    reached: set[str] = set()
    waiting = {module}
    while waiting:
        each = waiting.pop()
        reached.add(each)
        found = {name for imported in IMPORTS[each].at_once for name in _with_packages(imported)}
        reached |= {name.partition(".")[0] for name in found - IMPORTS.keys()}
        waiting |= (found & IMPORTS.keys()) - reached
    return reached


def _in(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


BEAM = ("transforms.steps", "transforms.storage", "pipeline.run")
NUMERICS = ("transforms.attacks", "transforms.defenses", "transforms.models", "transforms.data")
READING = ("megalith", "pipeline.results", "pipeline.report", "transforms.rows.tables", "transforms.rows.parts")


@pytest.mark.parametrize("module", IMPORTS)
def test_walls_by_path(module: str) -> None:
    """What a file may import, wherever in it."""
    imported = IMPORTS[module].at_once | IMPORTS[module].later
    packages = {name.partition(".")[0] for name in imported}
    if not _in(module, *BEAM):
        assert "apache_beam" not in packages
    if _in(module, "transforms"):
        assert not packages & {"pipeline", "megalith"}
    if _in(module, *NUMERICS):
        assert "pyarrow" not in packages
        assert not any(_in(each, "transforms.storage", "transforms.steps", "transforms.rows") for each in imported)
    if _in(module, "pipeline.report"):
        ours = {each for each in imported if each in IMPORTS and _in(each, "pipeline")}
        assert not packages & {"torch", "torchvision"}
        assert all(_in(each, "pipeline.report", "pipeline.results") for each in ours - {"pipeline"})


@pytest.mark.parametrize("module", [each for each in IMPORTS if _in(each, *NUMERICS, *READING)])
def test_walls_through_all_imports(module: str) -> None:
    """What is loaded when a room is, through whatever it imports."""
    reached = _reached(module)
    assert "apache_beam" not in reached
    if _in(module, *READING) and module != "pipeline.results.remote_files":
        assert "torch" not in reached


def test_no_module_imports_itself_through_others() -> None:
    """Of those that are imported at once; a package that only offers names of its modules is no module of its own."""
    modules = {module for module in IMPORTS if not (ROOT / module.replace(".", "/")).is_dir()}
    rest = {module: IMPORTS[module].at_once & modules for module in modules}
    while free := {module for module, others in rest.items() if not others & rest.keys() - {module}}:
        rest = {module: others for module, others in rest.items() if module not in free}
    assert rest == {}


COMMAND = """
import sys; sys.argv = ['megalith', {arguments}]; from pipeline.main import main
try: main()
except SystemExit: pass
"""


@pytest.mark.system
@pytest.mark.parametrize(
    "code",
    [
        "from megalith import open_run; open_run({run!r}).rows('select 1')",
        "from pipeline.results import open_run; open_run({run!r}).rows('select count(*) from predictions')",
        COMMAND.replace("{arguments}", "'sql', {run!r}, 'select 1'"),
    ],
)
def test_reading_results_loads_neither_torch_nor_beam(code: str, tmp_path: Path) -> None:
    assert _loaded(code, ("torch", "apache_beam", "scipy.stats", "prompt_toolkit", "pygments"), tmp_path) == "[]"


@pytest.mark.system
@pytest.mark.parametrize("arguments", ["'table', {run!r}", "'compare', {run!r}, '--by', 'model'"])
def test_numbers_need_neither_torch_nor_beam(arguments: str, tmp_path: Path) -> None:
    code = COMMAND.replace("{arguments}", f"{arguments}, '--view', 'center'")
    assert _loaded(code, ("torch", "apache_beam", "prompt_toolkit", "pygments"), tmp_path) == "[]"


def _loaded(code: str, watched: tuple[str, ...], tmp_path: Path) -> str:
    """Which of some packages a program has loaded at its end, that reads the golden run."""
    with tarfile.open(ROOT / "tests" / "system" / "golden" / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    program = (
        f"{code.format(run=str(tmp_path / 'run'))}\nimport sys; print([n for n in {watched!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.system
def test_a_page_and_pictures_need_neither_torch_nor_beam_nor_experiments(tmp_path: Path) -> None:
    """A run directory copied to a laptop is enough."""
    with tarfile.open(ROOT / "tests" / "system" / "golden" / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    program = (
        "from pathlib import Path; import sys\n"
        "from megalith import open_run; from pipeline.report.page import report\n"
        "from pipeline.report.pictures import write_pictures\n"
        f"run = open_run({str(tmp_path / 'run')!r})\n"
        f"report(run); write_pictures(run, Path({str(tmp_path / 'out')!r}))\n"
        "watched = ('torch', 'apache_beam', 'pipeline.run', 'pipeline.config.experiment', 'transforms.attacks')\n"
        "print([name for name in watched if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_promised_name_is_there() -> None:
    for name in megalith.__all__:
        assert getattr(megalith, name).__name__ == name
    with pytest.raises(AttributeError, match="it promises Ball, Batch"):
        _ = megalith.open_runs


def test_the_package_that_workers_build_is_complete(tmp_path: Path) -> None:
    """As Beam does for --setup_file: build a source distribution with what is installed here."""
    for name in (*PACKAGES, "setup.py", "pyproject.toml", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (built,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    ours = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    read = {"transforms/data/imagenet_classes.csv", "pipeline/report/template.html", "pipeline/report/page.js"}
    assert {str(each.relative_to(ROOT)) for each in ours} | read <= packed


def test_the_version_is_said_in_one_place_and_cited() -> None:
    assert f"version: {version('megalith')}\n" in (ROOT / "CITATION.cff").read_text()
    assert "version" not in (ROOT / "setup.py").read_text()
