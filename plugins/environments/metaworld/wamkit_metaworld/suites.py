"""The benchmarks of Meta-World as suites: which tasks, and how long an episode is.

MT10, MT50 and ML45 (Yu et al., arXiv 1910.10897), the lists as in Meta-World v3
(https://github.com/Farama-Foundation/Metaworld, `metaworld/env_dict.py`). ML45 trains on 45 tasks
and adapts to 5 others.
"""

from __future__ import annotations

from typing import Any

from .tasks import TASKS

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")

SUITES = {
    "mt10": MT10,
    "mt50": tuple(TASKS),
    "ml45_train": tuple(task for task in TASKS if task not in ML45_TEST),
    "ml45_test": ML45_TEST,
}
HORIZON = 500
"""Actions of an episode in all of them."""
SETTINGS: dict[str, dict[str, Any]] = {name: {"max_steps": HORIZON} for name in SUITES}
