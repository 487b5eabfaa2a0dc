"""What a docstring must say: the shapes of arrays, and what is raised."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

NAS = Path(__file__).parents[1] / "nas"
ARRAYS = {"NDArray", "Tensor", "Archs", "Costs", "Floats", "BlockIds"}
ERRORS = {"BadInput", "Infeasible", "MissingBlocks", "MissingPackage", "NasError"}
_AXIS = r"[a-z_0-9*]+( \+ \d+)?"
# (n,), (n, genes), (n, blocks + 1), (batch, ...)
SHAPE = re.compile(rf"\({_AXIS},( ?{_AXIS},)*( ?({_AXIS}|\.\.\.))?\)")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions() -> Iterator[tuple[str, Function, str]]:
    """(nas.module.Class.function, its node, its class' docstring) of everything without a leading underscore."""
    for path in sorted(NAS.rglob("*.py")):
        module = ".".join(path.relative_to(NAS.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, Function):
                yield f"{module}.{node.name}", node, ""
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for child in node.body:
                    if isinstance(child, Function):
                        yield f"{module}.{node.name}.{child.name}", child, ast.get_docstring(node) or ""


def protocol_methods() -> dict[str, str]:
    """Method -> what the protocols say of it: a searcher's ``ask`` need not repeat what ``Searcher.ask`` says."""
    classes = [n for p in NAS.rglob("*.py") for n in ast.parse(p.read_text()).body if isinstance(n, ast.ClassDef)]
    said: dict[str, str] = {}
    for cls in classes:
        if any("Protocol" in names_in(base) for base in cls.bases):
            for child in cls.body:
                if isinstance(child, Function):
                    said[child.name] = said.get(child.name, "") + (ast.get_docstring(child) or "")
    return said


FUNCTIONS = [f for f in public_functions() if not f[1].name.startswith("_")]


def names_in(annotation: ast.expr | None) -> set[str]:
    if annotation is None:
        return set()
    text = ast.unparse(annotation)
    return set(re.findall(r"\w+", text)) if "Callable" not in text else set()


def takes_or_returns_arrays(node: Function) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return any(ARRAYS & names_in(a) for a in [*(arg.annotation for arg in arguments), node.returns])


def raises(node: Function) -> bool:
    """Whether the body itself raises one of our errors (what it calls may raise more)."""
    for child in ast.walk(node):
        if isinstance(child, ast.Raise) and child.exc is not None and ERRORS & names_in(child.exc):
            return True
    return False


def gaps(needs, found) -> set[str]:
    said = protocol_methods()

    def doc(name: str, node: Function) -> str:
        is_method = name.split(".")[-2][:1].isupper()
        return (ast.get_docstring(node) or "") + (said.get(node.name, "") if is_method else "")

    return {name for name, node, of_class in FUNCTIONS if needs(node) and not found(doc(name, node), of_class)}


def has_shape(doc: str, of_class: str) -> bool:
    # forward(x) of a module and fields of a record are described once, by their class
    return bool(SHAPE.search(doc) or SHAPE.search(of_class))


def says_raises(doc: str, of_class: str) -> bool:
    return bool(re.search(r"\b[Rr]aises?\b", doc + of_class))


@pytest.mark.parametrize(
    ("needs", "found"), [(takes_or_returns_arrays, has_shape), (raises, says_raises)], ids=["shapes", "raises"]
)
def test_docstrings_say_it(needs, found):
    assert sorted(gaps(needs, found)) == [], "say it in the docstring"


def test_the_walk_sees_the_package():
    names = {name for name, _, _ in FUNCTIONS}
    assert len(names) > 300
    assert {"nas.pareto.hypervolume", "nas.space.SearchSpace.sample", "nas.report.page.write_report"} <= names


def test_gaps_are_found():
    """The checks themselves: on a function with everything and one with nothing."""
    source = "def f(x: NDArray[np.float64]) -> int:\n    raise BadInput('')"
    node = ast.parse(source).body[0]
    assert takes_or_returns_arrays(node)
    assert raises(node)
    assert not takes_or_returns_arrays(ast.parse("def f(x: int) -> Callable[[Archs], int]: ...").body[0])
    assert has_shape("``archs (n, genes)``", "")
    assert not has_shape("Takes an array (of course), weights and one more (bias).", "")
    assert not says_raises("Returns it.", "")
