"""How large the house is, and whether its rules hold: lines, files, functions, imports, one walk.

    python -m benchmarks.house

The imports are read as text, so that also those within functions count. The walk is measured: the
files of the project whose functions are called while `saliency-compute` makes one mask.
"""

import ast
import io
import os
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("saliency", "data", "pretrain", "evaluate")
LONGEST_FUNCTION = 60
LONGEST_FILE = 400

# what each package may import of the others; a name with dots allows this module alone
MAY_IMPORT = {
    "data": (),
    "saliency": ("data",),
    "pretrain": ("data",),
    "evaluate": (
        "data",
        "pretrain.parts.backbones",
        "pretrain.parts.distributed",
        "pretrain.parts.pyramid",
        "pretrain.parts.small_maps",
    ),
}

_WALK = """
import sys
from pathlib import Path
root, files = sys.argv.pop(1), set()
def note(frame, event, argument):
    code = frame.f_code
    name = code.co_filename
    inside = name.startswith(root + "/") and "site-packages" not in name
    if event == "call" and code.co_name != "<module>" and inside:
        files.add(str(Path(name).relative_to(root)))
sys.path.insert(0, root)
from dilo import saliency_compute
sys.setprofile(note)
try:
    saliency_compute()
except SystemExit as end:
    if end.code:
        raise
finally:
    sys.setprofile(None)
    print("\\n".join(sorted(files)))
"""


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Return the product's modules, by dotted name."""
    paths = [
        root / "dilo.py",
        *(p for name in PACKAGES for p in sorted((root / name).rglob("*.py"))),
    ]
    modules = {}
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def code_lines(text: str) -> int:
    """Return how many lines hold code: no blanks, no comments, no docstrings."""
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def failure_lines(text: str) -> int:
    """Return how many lines raise, a sentence over several lines counted whole, or say `except`."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Raise):
            lines.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.ExceptHandler):
            lines.add(node.lineno)
    return len(lines)


def long_functions(text: str, limit: int = LONGEST_FUNCTION) -> dict[str, int]:
    """Return the functions of more lines than `limit`, docstrings and decorators not counted."""
    long = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            first = body[0].lineno if body else node.end_lineno
            length = node.end_lineno - first + 1
            if length > limit:
                long[node.name] = length
    return long


def imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Return which modules of the product each one imports, anywhere in its text but for types."""
    return {
        name: {target for target in _imported(name, path, modules) if target != name}
        for name, path in modules.items()
    }


def _imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # what only type checkers see imports nothing
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules:
                    yield whole
                elif node.module in modules:
                    yield node.module


def against_the_rules(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports that `MAY_IMPORT` does not allow."""
    wrong = []
    for name, targets in sorted(graph.items()):
        package = name.partition(".")[0]
        if package not in MAY_IMPORT:
            continue
        rules = (package, *MAY_IMPORT[package], *(["dilo"] if name.endswith("__main__") else []))
        for target in sorted(targets):
            allowed = any(target == rule or target.startswith(rule + ".") for rule in rules)
            if not allowed:
                wrong.append(f"{name} imports {target}")
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return groups


def files_of_one_image(root: Path = ROOT) -> list[str]:
    """Return the files whose functions run while `saliency-compute` makes one mask by RBD."""
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)
        cv2.imwrite(str(images / "a.png"), picture)
        done = subprocess.run(
            [sys.executable, "-c", _WALK, str(root), str(images), f"{folder}/masks", "--jobs", "1"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
    return [line for line in done.stdout.splitlines() if line.endswith(".py")]


def measure(root: Path = ROOT) -> list[tuple[str, object]]:
    """Return the rows of the table."""
    modules = sources(root)
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    code = sum(map(code_lines, texts.values()))
    long = {
        f"{name}.{function}": length
        for name, text in texts.items()
        for function, length in long_functions(text).items()
    }
    graph = imports(modules)
    walk = files_of_one_image(root)
    large = [f"{name} {count}" for name, count in lines.items() if count > LONGEST_FILE]
    by_package = {
        package: sum(n for name, n in lines.items() if name.partition(".")[0] == package)
        for package in PACKAGES
    }
    return [
        ("lines", sum(lines.values())),
        *((f"  {package}", count) for package, count in by_package.items()),
        ("files", len(modules)),
        (f"files over {LONGEST_FILE} lines", _listed(large)),
        ("lines of code alone", code),
        ("raise + except, of those", f"{sum(map(failure_lines, texts.values())) / code:.1%}"),
        (f"functions over {LONGEST_FUNCTION} lines", _listed(f"{n} {c}" for n, c in long.items())),
        ("circles of imports", _listed(" - ".join(group) for group in circles(graph))),
        ("imports against the rules", _listed(against_the_rules(graph))),
        ("files entered by one image", f"{len(walk)}: {', '.join(walk)}"),
    ]


def _listed(entries) -> str:
    entries = list(entries)
    return str(len(entries)) + (f": {'; '.join(entries)}" if entries else "")


if __name__ == "__main__":
    print(tabulate(measure(), tablefmt="plain", maxcolwidths=[None, 70]))
