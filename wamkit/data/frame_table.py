"""The frames of an episode and the instructions of a data set as LeRobot stores them in parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import strict_json
from . import parquet
from .lerobot_format import Feature


def frames(
    features: Mapping[str, Feature], rows: list[dict[str, Any]], own: Mapping[str, Any]
) -> Any:
    """Convert the frames of an episode, with LeRobot's own columns `own`, to a `pyarrow.Table`."""
    arrow = parquet.import_pyarrow()
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.dtype == "image":
            cells = [{"bytes": _png(row[name]), "path": None} for row in rows]
            kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
            columns[name] = arrow.array(cells, kind)
            continue
        flat = arrow.array(np.concatenate([row[name] for row in rows]))
        size = feature.shape[0]
        columns[name] = flat if size == 1 else arrow.FixedSizeListArray.from_arrays(flat, size)
    return arrow.table(columns | {name: arrow.array(values) for name, values in own.items()})


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def tasks(tasks: Mapping[int, str]) -> Any:
    """Build LeRobot's table of tasks, with the instruction as the pandas index."""
    arrow = parquet.import_pyarrow()
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": stored}
            | {"metadata": None}
            for name, field, kind, stored in (
                ("task_index", "task_index", "int64", "int64"),
                ("task", "task", "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    order = sorted(tasks)  # LeRobot's merge takes them by their place
    columns = {
        "task_index": arrow.array(order, arrow.int64()),
        "task": arrow.array([tasks[index] for index in order], arrow.string()),
    }
    return arrow.table(columns).replace_schema_metadata(
        {b"pandas": strict_json.dumps(about).encode()}
    )
