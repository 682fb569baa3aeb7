"""The shape of the house: no circle of imports, between modules or rooms, and no folder that is too full to look around in."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {"solvers": "neuralde.solvers", "adjoints": "neuralde.adjoints", "neuralde": "neuralde"}
LARGEST = 16


def modules():
    """Every module of the three layers by its import name, and whether it is a package."""
    found = {}
    for folder, name in LAYERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
            if folder == "neuralde" and parts[0] in ("solvers", "adjoints"):
                continue  # links to the layers themselves
            package = parts[-1] == "__init__"
            found[".".join([name, *(parts[:-1] if package else parts)])] = (path, package)
    return found


def imported(name, known):
    """The modules that importing one imports: not what only type checkers or functions import."""
    path, package = known[name]
    stack, found = list(ast.parse(path.read_text("utf-8")).body), set()
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.If, ast.Try)) and "TYPE_CHECKING" not in ast.dump(getattr(node, "test", node)):
            stack += node.body + node.orelse
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            parts = name.split(".") if package else name.split(".")[:-1]
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*parts, *([node.module] if node.module else [])])
            inner = {f"{origin}.{alias.name}" for alias in node.names}
            found |= (inner & set(known)) or {origin}
    return (found & set(known)) - {name}


def circles(graph):
    """The groups of nodes that reach each other."""
    reach = {}
    for node in graph:
        seen, stack = set(), [node]
        while stack:
            for following in graph.get(stack.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        reach[node] = seen
    return sorted({tuple(sorted(b for b in reach[a] if a in reach[b])) for a in graph if a in reach[a]})


def room(name):
    """The folder of a module inside its layer."""
    layer = next(
        x for x in ("neuralde.solvers", "neuralde.adjoints", "neuralde") if name == x or name.startswith(x + ".")
    )
    rest = name[len(layer) + 1 :].split(".")
    return f"{layer}.{rest[0]}" if len(rest) > 1 else None


@pytest.fixture(autouse=True)
def source_tree():
    """These tests read the source; a wheel has none beside the tests."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: imported(name, known) for name in known}


def test_the_search_finds_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [("b", "c")]


def test_no_module_imports_itself_through_others(graph):
    assert len(graph) > 150
    assert circles(graph) == []


@pytest.mark.parametrize("layer", ["neuralde.solvers", "neuralde.adjoints"])
def test_no_room_imports_itself_through_others(graph, layer):
    rooms = {}
    for name, others in graph.items():
        here = room(name)
        if here is not None and here.startswith(layer + "."):
            there = {room(x) for x in others if x.startswith(layer + ".")}
            rooms.setdefault(here, set()).update(there - {None, here})
    assert len(rooms) > 2
    assert circles(rooms) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_no_folder_is_too_full(layer):
    for folder in [ROOT / layer, *(x for x in (ROOT / layer).rglob("*") if x.is_dir() and not x.is_symlink())]:
        if "__pycache__" in folder.parts or (layer == "neuralde" and {"solvers", "adjoints"} & set(folder.parts[-3:])):
            continue
        inside = [x for x in folder.iterdir() if x.suffix == ".py" or (x.is_dir() and x.name != "__pycache__")]
        inside = [x for x in inside if x.name != "__init__.py" and not x.is_symlink()]
        assert len(inside) <= LARGEST, f"{folder.relative_to(ROOT)}: {len(inside)} files and folders"
