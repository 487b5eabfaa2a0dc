"""What mutation testing changes: an operator turned round, a number off by one, a condition negated (Cosmic Ray).

Left out, by rule, is what no test should fix, because another value would be as right (``exempt``).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPERATORS = [
    f"core/{name}"
    for name in """
    ReplaceBinaryOperator_Add_Sub ReplaceBinaryOperator_Sub_Add ReplaceBinaryOperator_Mul_Div
    ReplaceBinaryOperator_Div_Mul ReplaceBinaryOperator_FloorDiv_Mul ReplaceBinaryOperator_Mod_Add
    ReplaceBinaryOperator_Pow_Mul ReplaceBinaryOperator_BitAnd_BitOr ReplaceBinaryOperator_LShift_RShift
    ReplaceComparisonOperator_Eq_NotEq ReplaceComparisonOperator_NotEq_Eq ReplaceComparisonOperator_Lt_LtE
    ReplaceComparisonOperator_Lt_GtE ReplaceComparisonOperator_LtE_Lt ReplaceComparisonOperator_LtE_Gt
    ReplaceComparisonOperator_Gt_GtE ReplaceComparisonOperator_Gt_LtE ReplaceComparisonOperator_GtE_Gt
    ReplaceComparisonOperator_GtE_Lt ReplaceComparisonOperator_Is_IsNot ReplaceComparisonOperator_IsNot_Is
    ReplaceUnaryOperator_Delete_USub ReplaceUnaryOperator_Delete_Not AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue
    ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue NumberReplacer ZeroIterationForLoop
    """.split()  # noqa: SIM905 - as many lines as operators, otherwise
]
_UPPER = re.compile(r"_?[A-Z][A-Z0-9_]*")
# keyword -> why neither value is wrong
_FREE_KEYWORDS = {
    "frozen": "forbids what nobody does",
    "kw_only": "forbids what nobody does",
    "slots": "memory only",
    "strict": "of zip: an assertion that both are as long",
    "maxsize": "how much a cache keeps",
    "stacklevel": "which line a warning names",
}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Occurrence ``occurrence`` of ``operator`` in ``module``, which stands at ``line``, ``column`` (from 1, from 0)."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int

    @cached_property
    def code(self) -> str:
        """The module with the mutant in it."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        return str(mutate_code((ROOT / self.module).read_text(), get_operator(self.operator)(), self.occurrence))

    @cached_property
    def is_python(self) -> bool:
        """False for what Cosmic Ray makes of ``**settings``, of ``not name := value`` and the like."""
        try:
            compile(self.code, self.module, "exec")
        except SyntaxError:
            return False
        return True

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(f"{self.module} {self.code}".encode()).hexdigest()[:16]

    def order(self, seed: int) -> str:
        """Sorted by this, the mutants of a module are in random order, which another rule of exemption leaves alone."""
        return hashlib.sha256(f"{seed} {self.module} {self.operator} {self.occurrence}".encode()).hexdigest()

    @cached_property
    def change(self) -> tuple[str, str]:
        """The line before and after."""
        before, after = ((ROOT / self.module).read_text().split("\n"), self.code.split("\n"))
        return next((a.strip(), b.strip()) for a, b in zip(before, after, strict=False) if a != b)


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of a module but the exempt ones."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.plugins import get_operator

    source = (ROOT / module).read_text()
    nodes, found = [], []

    class Collect(Visitor):  # type: ignore[misc]
        def visit(self, node: object) -> object:
            nodes.append(node)
            return node

    Collect().walk(get_ast(source))
    places = Places(source)
    for operator in OPERATORS:
        made = get_operator(operator)()
        positions = [position for node in nodes for position in made.mutation_positions(node)]
        for occurrence, ((line, column), _) in enumerate(positions):
            if not places.exempt(line, column):
                found.append(Mutant(module=module, operator=operator, occurrence=occurrence, line=line, column=column))
    return found


class Places:
    """Where in a module something stands: in which statement, in which function, in the text of an error, ..."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._tree = ast.parse(source)

    def exempt(self, line: int, column: int) -> str | None:
        """Why another value here would not be wrong, or None: then a test should notice it."""
        around = list(self._around(line, column))
        if isinstance(around[0], ast.Assign | ast.AnnAssign) and _is_tuning(around[0]):
            return "definition of a tuning constant"
        for outer, node in zip([None, *around], around, strict=False):
            if isinstance(node, ast.keyword) and (why := _free(outer, node)):
                return why
            if isinstance(outer, ast.FunctionDef) and (why := _free_default(outer, node)):
                return why
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.random.default_rng" and _is_constant(node):
                return "a fixed seed: another is as good"
            if isinstance(node, ast.JoinedStr) and any(isinstance(n, ast.Raise) for n in around):
                return "text of an error"
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                return "types only"
            if isinstance(outer, ast.Call) and ast.unparse(outer.func) == "round" and node in outer.args[1:]:
                return "how many digits are kept"
            if (
                isinstance(node, ast.Slice)
                and isinstance(outer, ast.Subscript)
                and "digest()" in ast.unparse(outer.value)
            ):
                return "how long a digest is"
        return None

    def statement(self, line: int) -> tuple[int, int]:
        """First and last line of the statement (of a compound one: of its head) at a line."""
        inner = [n for n in self._around(line, None) if isinstance(n, ast.stmt)][-1]
        return inner.lineno, _head_end(inner)

    def function(self, line: int) -> tuple[int, int] | None:
        """First and last line of the body of the function whose head stands at a line."""
        for node in self._around(line, None):
            if isinstance(node, ast.FunctionDef) and line <= _head_end(node):
                return node.body[0].lineno, node.end_lineno or node.lineno
        return None

    def _around(self, line: int, column: int | None) -> Iterator[ast.AST]:
        """The nodes that hold a place, outermost first."""
        byte = None if column is None else len(self._lines[line - 1][:column].encode())
        node: ast.AST | None = self._tree
        while node is not None:
            node = next((n for n in _children(node) if _holds(n, line, byte)), None)
            if node is not None:
                yield node


def _is_tuning(node: ast.Assign | ast.AnnAssign) -> bool:
    """Numbers and texts under a name in capitals; what computes there is no constant."""
    names = [n for t in (node.targets if isinstance(node, ast.Assign) else [node.target]) for n in ast.walk(t)]
    computes = any(isinstance(n, ast.Call | ast.Lambda | ast.Compare | ast.comprehension) for n in ast.walk(node))
    return not computes and all(_UPPER.fullmatch(n.id) for n in names if isinstance(n, ast.Name))


def _free(outer: ast.AST | None, node: ast.keyword) -> str | None:
    if isinstance(outer, ast.Call) and ast.unparse(outer.func) == "Meta" and node.arg in ("ge", "gt", "le", "lt"):
        far = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, int | float)]
        return "round number far beyond what anyone needs" if any(abs(n.value) >= 1000 for n in far) else None
    return _FREE_KEYWORDS.get(node.arg or "")


def _free_default(function: ast.FunctionDef, node: ast.AST) -> str | None:
    """Of an argument. 0 and 1 are no tuning: they mean none, first or unchanged, and another number is wrong."""
    given = function.args
    named = [*zip([*given.posonlyargs, *given.args][::-1], given.defaults[::-1], strict=False)]
    for name, default in [*named, *zip(given.kwonlyargs, given.kw_defaults, strict=True)]:
        if default is node and isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            if name.annotation is not None and ast.unparse(name.annotation) == "Seed":
                return "a default seed: another is as good"
            return None if node.value in (0, 1) else "default of an argument, tuned like a constant"
    return None


def _is_constant(call: ast.Call) -> bool:
    return bool(call.args) and not any(isinstance(n, ast.Name) for a in call.args for n in ast.walk(a))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno"):
            yield child
        else:
            yield from _children(child)


def _holds(node: ast.AST, line: int, byte: int | None) -> bool:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])  # type: ignore[attr-defined]
    last = node.end_lineno  # type: ignore[attr-defined]
    if byte is None or decorators:
        return bool(first <= line <= last)
    return bool((first, node.col_offset) <= (line, byte) < (last, node.end_col_offset))  # type: ignore[attr-defined]


def _head_end(node: ast.stmt) -> int:
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if body else (node.end_lineno or node.lineno)
