"""Parquet columns as arrays, through pyarrow, which is imported when the first file is read.

A file of some kilobytes can stand for gigabytes: a value repeated 10^9 times, a long text that
every row refers to. The memory that a read takes is bounded by the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.install import install_hint
from ..files.placeholders import refuse_placeholder

INSTALL = install_hint("data")
LARGEST = 2**31
"""Bytes that the columns of one read may have in memory: 2 GiB."""
ALWAYS = 2**28
"""Bytes that they may have however small the file is: 256 MiB."""
RATIO = 200
"""Bytes in memory for each byte of a larger file. Measured values compress 1 to 20 times."""
TEXT_ROWS = 1024  # at most, of text and of images, that are decoded at once


def import_pyarrow() -> Any:
    """The module pyarrow. Raises WamkitError with the command that installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise WamkitError(f"data sets need pyarrow: {error}", INSTALL) from None
    return pyarrow


def open_parquet(file: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises WamkitError if it is missing or damaged, or has two columns of one name.
    """
    module = import_pyarrow()
    if not isfile(file):  # False as well for a name that is too long
        raise WamkitError(f"{file} is missing", "copy the whole data set again")
    refuse_placeholder(file)
    try:
        found = module.parquet.ParquetFile(file.absolute())  # `press:v2/x` is no address
        names = found.schema_arrow.names
    except (OSError, module.ArrowException) as error:
        raise WamkitError(f"{file} is damaged or incomplete: {error}", "copy it again") from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        listed = ", ".join(map(repr, twice))
        raise WamkitError(
            f"{file} has two columns {listed}", "write it again with one of each name"
        )
    return found


def read(file: Path, columns: Sequence[str] | None = None, group: int | None = None) -> Any:
    """Read the columns of a file, or of one row group, as a `pyarrow.Table`.

    Raises WamkitError if the file is missing or damaged, lacks a column, or if its content is so
    much larger than the file that it must be damaged.
    """
    parquet_file = open_parquet(file)
    names = parquet_file.schema_arrow.names
    wanted = names if columns is None else list(columns)
    if missing := [name for name in wanted if name not in names]:
        raise WamkitError(
            f"{file} has no column {', '.join(map(repr, missing))}; it has {', '.join(names)}",
            "run `wamkit data check` on the folder",
        )
    try:
        groups = range(parquet_file.num_row_groups) if group is None else [group]
        _expect_room(parquet_file, file, wanted, _decoded_bytes(parquet_file, wanted, groups))
        if any(_is_text(parquet_file, place) for place in _leaves(parquet_file, wanted)):
            batches = list(_batches(parquet_file, file, wanted, groups))
            schema = import_pyarrow().schema(
                [parquet_file.schema_arrow.field(name) for name in wanted]
            )
            return import_pyarrow().Table.from_batches(batches, None if batches else schema)
        return (
            parquet_file.read(columns=wanted)
            if group is None
            else parquet_file.read_row_group(group, wanted)
        )
    except (OSError, MemoryError, import_pyarrow().ArrowException) as error:
        raise WamkitError(f"{file} is damaged or incomplete: {error}", "copy it again") from None


def rows(file: Path, columns: Sequence[str] | None = None, most: int = 10**6) -> list[Any]:
    """Read the rows of a metadata file as dictionaries. Raises WamkitError for more than `most`."""
    if (count := open_parquet(file).metadata.num_rows) > most:
        raise WamkitError(
            f"{file} has {count:,} rows, at most {most:,} are read", "split the data set"
        )
    return read(file, columns).to_pylist()  # type: ignore[no-any-return]


def cells(file: Path, column: str, places: Sequence[int]) -> Iterator[Any]:
    """The values of a column in these rows, which ascend, as Python objects.

    Few are in memory at a time. Raises WamkitError as `read` does.
    """
    parquet_file, left, first = open_parquet(file), list(places)[::-1], 0
    try:
        for group in range(parquet_file.num_row_groups):
            count = parquet_file.metadata.row_group(group).num_rows
            if not left or left[-1] >= first + count:
                first += count
                continue
            for batch in _batches(parquet_file, file, [column], [group]):
                while left and left[-1] < first + batch.num_rows:
                    yield batch.column(0)[left.pop() - first].as_py()
                first += batch.num_rows
    except (OSError, MemoryError, import_pyarrow().ArrowException) as error:
        raise WamkitError(f"{file} is damaged or incomplete: {error}", "copy it again") from None


def _batches(parquet_file: Any, file: Path, wanted: list[str], groups: Sequence[int]) -> Any:
    """The rows of some groups in batches, until they are more than `file` may hold."""
    leaves = _leaves(parquet_file, wanted)
    chunks = [
        parquet_file.metadata.row_group(group).column(place).total_uncompressed_size
        for group in groups
        for place in leaves
    ]
    size, total = max(1, min(TEXT_ROWS, ALWAYS // 8 // max([1, *chunks]))), 0
    for batch in parquet_file.iter_batches(size, list(groups), wanted):
        total += batch.nbytes
        _expect_room(parquet_file, file, wanted, total)
        yield batch


def _leaves(parquet_file: Any, wanted: Sequence[str]) -> list[int]:
    """The places of the physical columns that the columns `wanted` are made of."""
    paths = [parquet_file.schema.column(i).path for i in range(len(parquet_file.schema))]
    return [
        i for i, path in enumerate(paths) if any(f"{path}.".startswith(f"{n}.") for n in wanted)
    ]


def _is_text(parquet_file: Any, place: int) -> bool:
    return str(parquet_file.schema.column(place).physical_type) == "BYTE_ARRAY"


def _decoded_bytes(parquet_file: Any, wanted: Sequence[str], groups: Sequence[int]) -> int:
    """Minimum memory of the columns in bytes, from the number of their values."""
    total, rows_read = 0, 0
    widths = {
        i: max(8, parquet_file.schema.column(i).length or 0) for i in _leaves(parquet_file, wanted)
    }
    for group in groups:
        about = parquet_file.metadata.row_group(group)
        rows_read += about.num_rows
        for place, width in widths.items():
            total += max(about.num_rows, about.column(place).num_values) * width
    sizes = (_fixed_size(parquet_file.schema_arrow.field(name).type) for name in wanted)
    return max(total, rows_read * sum(size for size in sizes if size > 1) * 4)


def _fixed_size(kind: Any) -> int:
    """Values of one row of a column of lists of fixed length; a null row has as many."""
    size = 1
    while (length := getattr(kind, "list_size", None)) is not None:
        size, kind = size * length, kind.value_type
    return size


def _expect_room(parquet_file: Any, file: Path, wanted: Sequence[str], needed: int) -> None:
    room = min(LARGEST, max(ALWAYS, RATIO * file.stat().st_size))
    if needed > room:
        rows_said = parquet_file.metadata.num_rows
        raise WamkitError(
            f"{file} has {file.stat().st_size:,} bytes and would take more than {room:,} in "
            f"memory: {rows_said:,} rows of {', '.join(map(repr, wanted[:8]))}",
            "the file is damaged, or write smaller files",
        )


def to_array(column: Any) -> NDArray[Any]:
    """Convert a column of numbers, or of lists of them, to [rows, ...]; a null is NaN.

    Raises ValueError if the lists are not all of one length, or hold other values.
    """
    try:
        return _array(column.combine_chunks())
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"{column.type}: {error}") from None


def _array(column: Any) -> NDArray[Any]:
    kind = str(column.type)
    if not kind.startswith(("fixed_size_list", "list", "large_list")):
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    flat = column.flatten()
    if column.null_count or len(flat) % max(len(column), 1):
        raise ValueError("lists of different lengths")
    if not kind.startswith("fixed_size_list"):
        lengths = np.diff(column.offsets.to_numpy())
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError("lists of different lengths")
    inner = _array(flat)
    return inner.reshape(len(column), -1, *inner.shape[1:])
