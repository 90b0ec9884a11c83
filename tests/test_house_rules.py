"""Rules of the house that no linter checks: sizes, import direction, paths, arguments that are read."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_TEST_LINES = 500
MAX_BODY_LINES = 60
LONG_BODY_LINES = 40
LONG_BODY_SHARE = 0.05

TOP_LEVEL = {"llava", "scripts", "playground", "images", "tests", "constraints", ".ci"}
TOP_LEVEL |= {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}

LAYERS = ("codec", "data", "model", "train", "eval")
MAY_IMPORT = {
    "codec": set(),
    "data": {"codec"},
    "model": {"codec", "data"},
    "train": {"codec", "data", "model"},
    "eval": {"codec", "data", "model"},
}


def tracked(suffix=""):
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    paths = [ROOT / line for line in listing.stdout.splitlines() if line.endswith(suffix)]
    found = [path for path in paths if path.is_file()]
    assert found, f"no {suffix} file: is this a git checkout?"
    return found


def source_files():
    files = [path for path in tracked(".py") if ROOT / "tests" not in path.parents]
    assert len(files) > 40
    return files


def functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            yield node, (node.end_lineno or 0) - body[0].lineno + 1


def test_top_level_holds_only_the_agreed_names():
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert names <= TOP_LEVEL


def test_files_are_short():
    too_long = {}
    for path in tracked(".py"):
        limit = MAX_TEST_LINES if ROOT / "tests" in path.parents else MAX_FILE_LINES
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            too_long[str(path.relative_to(ROOT))] = lines
    assert too_long == {}


def test_functions_are_short():
    bodies = [(f"{path.name}:{node.name}", size) for path in source_files() for node, size in functions(path)]
    assert [name for name, size in bodies if size > MAX_BODY_LINES] == []
    assert sum(size > LONG_BODY_LINES for _, size in bodies) <= LONG_BODY_SHARE * len(bodies)


def test_imports_point_one_way():
    wrong = []
    for path in (ROOT / "llava").rglob("*.py"):
        layer = path.relative_to(ROOT / "llava").parts[0]
        if layer not in LAYERS:
            continue
        imported = set(
            re.findall(r"^\s*(?:from|import) llava\.(\w+)", path.read_text(encoding="utf-8"), re.M)
        )
        bad = (imported & set(LAYERS)) - MAY_IMPORT[layer] - {layer}
        wrong += [f"{path.name} imports {name}" for name in bad]
    assert wrong == []


def test_the_codec_needs_numpy_only():
    allowed = {
        "numpy",
        "llava",
        "__future__",
        "re",
        "dataclasses",
        "collections",
        "typing",
        "itertools",
        "functools",
        "math",
        "enum",
        "argparse",
        "sys",
    }
    for path in (ROOT / "llava" / "codec").glob("*.py"):
        roots = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.M))
        assert roots <= allowed, f"{path.name}: {roots - allowed}"


def test_no_absolute_paths_and_no_open_ends():
    pattern = re.compile(r"(?<![\w.~])/(?:work|root|home|mnt|Users)/\w|\bTODO\b|\bFIXME\b")
    hits = []
    for path in tracked():
        if (
            path.suffix in {".py", ".sh", ".toml", ".md", ".txt", ".json", ".jinja"}
            and path.name != "test_house_rules.py"
        ):
            text = path.read_text(encoding="utf-8")
            hits += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert hits == []


def test_nothing_named_torchvision_is_required():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = re.findall(r'"([\w\-\[\]]+)[<>=~]', text)
    assert len(required) > 15 and "torchvision" not in required
    assert "torchvision" not in (ROOT / "constraints" / "tested.txt").read_text(encoding="utf-8")


def test_shell_scripts_parse_and_stop_at_errors():
    scripts = [path for path in tracked(".sh") if path.name != "environment.sh"]
    assert len(scripts) >= 4
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert "set -euo pipefail" in path.read_text(encoding="utf-8"), path.name


def readme_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_file_that_readme_runs_exists():
    commands = readme_commands()
    assert len(commands) >= 8
    for command in commands:
        for name in re.findall(
            r"(?:^|\s)((?:llava|scripts|playground|images)/[\w./\-]+\.(?:py|sh|jpg|json))", command
        ):
            if "json_files/" in name or "refer_seg/" in name:
                continue
            assert (ROOT / name).is_file(), f"{name} in README: {command}"
        for module in re.findall(r"-m (llava\.[\w.]+)", command):
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


@pytest.mark.parametrize(
    "name", ["tiny-llava-refshapes", "tiny-llava-refshapes-bricks", "tiny-sam-refshapes"]
)
def test_links_in_readme_point_to_shipped_models(name):
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "playground" / "checkpoints" / name / "README.md").is_file()
