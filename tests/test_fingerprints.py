"""Every composition computes what it computed when `data/fingerprints.json` was recorded.

`data/make_fingerprints.py` recorded it, in float64, and says what each number is.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent / "data" / "make_fingerprints.py"


def _script() -> ModuleType:
    """The script that recorded them; dataclasses look their module up by its name."""
    found = importlib.util.spec_from_file_location("make_fingerprints", SCRIPT)
    assert found is not None and found.loader is not None
    sys.modules[found.name] = module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


fingerprints = _script()
CASES = fingerprints.cases()
RECORDED = fingerprints.recorded()


def test_every_case_is_recorded_and_no_other() -> None:
    assert set(RECORDED) == set(CASES), f"run {SCRIPT.name}, which says how"


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_was_recorded(name: str) -> None:
    found = fingerprints.fingerprint(CASES[name]())
    apart = fingerprints.deviations(found, RECORDED[name])
    wrong = {quantity: error for quantity, error in apart.items() if error > fingerprints.ALLOWED}
    assert not wrong, f"deviations relative to the scale of each: {wrong}"


def test_a_change_of_order_or_size_is_seen() -> None:
    name = "toy-mot-joint"
    expected = RECORDED[name]
    for quantity, numbers in expected.items():
        moved = numbers * (1 + 1e-7) if isinstance(numbers, float) else [*numbers]
        if isinstance(moved, list):
            moved[-2] += 1e-7 * max(abs(x) for x in numbers if isinstance(x, float))
        apart = fingerprints.deviations({**expected, quantity: moved}, expected)
        assert [key for key, error in apart.items() if error > fingerprints.ALLOWED] == [quantity]
    fewer = {quantity: expected[quantity] for quantity in list(expected)[1:]}
    assert max(fingerprints.deviations(fewer, expected).values()) == float("inf")
