"""Generators of bad inputs, one module an area; `benchmarks/bad_inputs.py` runs them.

`AREAS` names the modules; each has `cases(material)`, which yields the same `Case`s in the same
order each time. What a case is, `case.py` says; how one runs, `process.py`; what its end is called,
`verdict.py`.
"""

AREAS = (
    "specs",
    "overrides",
    "prompts",
    "images",
    "weights",
    "indexes",
    "pickles",
    "policies",
    "stored",
    "datasets",
    "training_runs",
    "tokenizers",
)
