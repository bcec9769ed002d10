"""Templates of file names in info.json: an allow-list of fields, and nothing else of `str.format`.

Published are (lerobot/datasets/utils.py at huggingface/lerobot):
v2.0, v2.1  data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet
            videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4
v3.0        data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet
            videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from typing import Any

from ..files.paths import LONGEST, fault_of_name
from .findings import MOST

KEY = "video_key"
FIELDS = {"v2": ("episode_chunk", "episode_index", KEY), "v3": ("chunk_index", "file_index", KEY)}
"""Version -> the fields that its templates may hold; all but `video_key` are whole numbers."""
_NUMBER = re.compile(r"(0([1-9]|1[0-8]))?d?")  # such as 03d: at most 18 digits
_SHOWN = 60  # characters of a template in an error


def fault_of_template(template: Any, version: str, keys: Iterable[str] = ()) -> str | None:
    """Why a template names no file below the data set; None if it can be filled in.

    `version` is "v2" or "v3", `keys` are the values of `video_key`; without any, the
    template is that of the tables and has no `video_key`.
    """
    known: tuple[str, ...] = FIELDS[version]
    cameras = list(keys)
    if not isinstance(template, str):
        return f"it is {template!r:.{_SHOWN}}"
    if len(template) > LONGEST:
        return f"it has {len(template):,} characters, at most {LONGEST:,} are read"
    if not cameras:
        known = tuple(name for name in known if name != KEY)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{template!r:.{_SHOWN}}: {error}"
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in known:
            fields = ", ".join(f"{{{field}}}" for field in known)
            return (
                f"{template!r:.{_SHOWN}} has the field {{{name!r:.{_SHOWN}}}}, known are {fields}"
            )
        if conversion or not (_NUMBER.fullmatch(form or "") if name != KEY else not form):
            suffix = f"{'!' + conversion if conversion else ''}{':' + form if form else ''}"
            return f"{template!r:.{_SHOWN}} writes {name} as {suffix!r:.{_SHOWN}}, expected " + (
                "no format" if name == KEY else "a format such as :03d"
            )
    for key in cameras or [""]:
        longest = dict.fromkeys(known, MOST - 1) | ({KEY: key} if cameras else {})
        if (fault := fault_of_name(fill(template, **longest))) is not None:
            about = f" for {key!r:.{_SHOWN}}" if KEY in template else ""
            return f"{template!r:.{_SHOWN}}{about} {fault}"
    return None


def fill(template: str, **values: int | str) -> str:
    """Fill the fields of a valid template."""
    return template.format(**values)
