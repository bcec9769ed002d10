"""No test measures float32 numbers against a fixed bound: another processor rounds otherwise.

What is compared goes through `same_values` and `other_values` of `wamkit.testing.parity`, which
measure at the scale of what is expected, and through `float64` where the numbers matter.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = [
    ROOT / "wamkit" / "testing" / f"{name}.py"
    for name in (
        "contract",
        "policy_contract",
        "batch_independence",
        "backbone_contract",
        "parity",
        "fixtures",
    )
]
FILES = sorted(
    {
        file
        for folder in ("tests", "plugins/*/*/tests", "examples/*/tests")
        for file in [*ROOT.glob(f"{folder}/**/*.py"), *SHIPPED]
        if file.name not in {"test_tolerances.py", "test_tolerance.py"}
    }
)
FIXED = {"allclose", "assert_close", "assert_allclose", "assert_almost_equal", "isclose"}
SIZES = {"abs", "norm"}
REDUCED = {"max", "amax", "mean", "item", "norm"}


def faults(source: str) -> Iterator[str]:
    """What is compared with a fixed bound in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (why := _call(node)):
            yield f"line {node.lineno}: {why}"
        if isinstance(node, ast.Compare) and _is_bound(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def _call(node: ast.Call) -> str:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    given = {k.arg: _number(k.value) for k in node.keywords}
    if name in FIXED and not (_coarse(given.get("atol")) or _exact(given)):
        return ast.unparse(node.func)
    if name == "approx" and 0 < (given.get("abs") or 0) < 1e-5:
        return f"approx(abs={given['abs']:g})"
    return ""


def _coarse(bound: float | None) -> bool:
    """Of whole numbers, such as the brightness of images that were encoded with loss."""
    return bound is not None and bound >= 1


def _exact(given: dict[str | None, float | None]) -> bool:
    return given.get("atol") == 0 and given.get("rtol") == 0


def _is_bound(node: ast.Compare) -> bool:
    """The size of a difference next to a number that is about rounding: small, but not 0."""
    sides = [node.left, *node.comparators]
    numbers = [abs(x) for side in sides if (x := _number(side)) is not None]
    return any(0 < x < 0.02 for x in numbers) and any(_is_difference(side) for side in sides)


def _is_difference(node: ast.AST) -> bool:
    """(a - b).abs().max() and its like, not divided by a scale."""
    while isinstance(node, ast.Call):
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Attribute) and node.func.attr in SIZES | REDUCED:
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                return True
            if isinstance(inner, ast.Name) and node.args:  # np.abs(a - b), torch.norm(a - b)
                inner = node.args[0]
                if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                    return True
        elif isinstance(node.func, ast.Name) and node.func.id in {"float", "abs"} and node.args:
            inner = node.args[0]
            if node.func.id == "abs" and isinstance(inner, ast.BinOp):
                return isinstance(inner.op, ast.Sub)
        if inner is None:
            return False
        node = inner
    return False


def _number(node: ast.AST) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    found = node.value if isinstance(node, ast.Constant) else None
    return float(found) if type(found) in (int, float) else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_differences_are_measured_at_a_scale(file: Path) -> None:
    found = list(faults(file.read_text()))
    assert not found, "use same_values or other_values of wamkit.testing.parity: " + "; ".join(
        found
    )


@pytest.mark.parametrize(
    "source",
    [
        "torch.testing.assert_close(a, b)",
        "torch.testing.assert_close(a, b, rtol=0, atol=2e-5)",
        "assert torch.allclose(a, b, atol=1e-6)",
        "assert not np.allclose(a, b)",
        "np.testing.assert_allclose(a, b, 1e-5)",
        "assert (a - b).abs().max() < 1e-5",
        "assert float((a - b).abs().max()) > 1e-4",
        "assert 1e-6 > (a - b).norm()",
        "assert np.abs(a - b).max() < 1e-6",
        "assert abs(a - b) < 1e-6",
        "assert a == pytest.approx(b, abs=1e-6)",
    ],
)
def test_fixed_bounds_are_found(source: str) -> None:
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "same_values(a, b)",
        "assert torch.equal(a, b)",
        "torch.testing.assert_close(a, b, rtol=0, atol=0)",
        "torch.testing.assert_close(images, b, atol=3, rtol=0)",
        "assert np.abs(images - b).max() < 4",
        "assert (a - b).norm() / b.norm() < 0.03",
        "assert (a - b).norm() < 0.05 * b.norm()",
        "assert p.grad.abs().max() > 0",
        "assert a == pytest.approx(b, rel=1e-4)",
        "assert a == pytest.approx(published, abs=1e-4)",
    ],
)
def test_bounds_at_a_scale_pass(source: str) -> None:
    assert not list(faults(source))
