"""A spec that extends another: what is merged, what is refused, and where a mistake stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from specs import TOY

import wamkit as package
from wamkit.config.extends import merge, resolve_extends
from wamkit.config.spec import parse, read, schema
from wamkit.errors import WamkitError
from wamkit.files.toml_lines import key_lines

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.toml").write_text(TOY)
    return tmp_path


def extending(folder: Path, text: str, name: str = "mine.toml") -> Path:
    file = folder / name
    file.write_text(f'extends = "base.toml"\n{text}')
    return file


def test_tables_merge_key_by_key_and_lists_replace(folder: Path) -> None:
    file = extending(
        folder,
        "seed = 3\n[action_head]\nwidth = 48\n[actions]\ngroups = [{name = 'all', size = 5}]\n"
        "[schedules.action]\nsteps = 7\n",
    )
    base, raw = read(folder / "base.toml"), read(file)
    assert raw["action_head"] == {**base["action_head"], "width": 48}
    assert raw["actions"] == {"chunk_size": 8, "groups": [{"name": "all", "size": 5}]}
    assert raw["seed"] == 3 and raw["schedules"] == {"action": {"steps": 7}}
    assert "extends" not in raw and raw["cameras"] == base["cameras"]


def test_a_part_with_another_name_replaces_the_whole_table(folder: Path) -> None:
    raw = read(extending(folder, "[action_head]\nname = 'regression'\n"))
    assert raw["action_head"] == {"name": "regression"}
    assert read(extending(folder, "[action_head]\nname = 'mot'\nwidth = 8\n"))["action_head"] == {
        "name": "mot", "width": 8, "mlp_dim": 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ("toy", {"depth": 3}, {"name": "toy", "depth": 3}),
        ({"name": "toy", "depth": 3}, "toy", {"name": "toy", "depth": 3}),
        ({"name": "toy", "depth": 3}, "wan", "wan"),
        ("float32", "bfloat16", "bfloat16"),
        ({"inner": {"name": "a", "x": 1}}, {"inner": {"x": 2}}, {"inner": {"name": "a", "x": 2}}),
        ({"inner": {"name": "a", "x": 1}}, {"inner": {"name": "b"}}, {"inner": {"name": "b"}}),
        ([1, 2], [3], [3]),
        ({"steps": 3}, 4, 4),
    ],
)
def test_one_key_of_a_spec_merges(old: Any, new: Any, merged: Any) -> None:
    assert merge({"key": old}, {"key": new}) == {"key": merged}


def test_what_is_unset_returns_to_its_default(folder: Path) -> None:
    (folder / "base.toml").write_text(TOY + "[schedules.video]\nshift = 3.0\nsteps = 4\n")
    file = extending(
        folder, "unset = ['action_head.width', 'schedules.video']\nschedules.video.steps = 5\n"
    )
    raw, spec = read(file), parse(read(file))
    assert raw["action_head"] == {"name": "mot", "mlp_dim": 64} and "unset" not in raw
    assert raw["schedules"] == {"video": {"steps": 5}}
    head: Any = spec.action_head
    assert head.width == type(head).model_fields["width"].default


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ('unset = ["action_head.widthh"]', "does not set", "did you mean 'action_head.width'?"),
        ('unset = ["seed.a.b"]', "does not set", "leave it out of unset"),
        ('unset = "action_head.width"', "expected a list of keys of", 'unset = ["actions.clip"]'),
        ("unset = [1]", "expected a list of keys of", 'unset = ["actions.clip"]'),
    ],
)
def test_what_the_base_does_not_set_cannot_be_unset(
    folder: Path, text: str, what: str, hint: str
) -> None:
    with pytest.raises(WamkitError) as error:
        read(extending(folder, text))
    assert what in error.value.what and hint in error.value.hint


def test_a_document_without_a_base_is_as_it_is(tmp_path: Path) -> None:
    document = {"seed": 1, "backbone": {"name": "toy"}}
    assert resolve_extends(document, tmp_path / "a.toml") == document


def test_overrides_apply_to_the_merged_spec(folder: Path) -> None:
    file = extending(folder, "[action_head]\nwidth = 48\n")
    raw = read(file, ["action_head.width=16", "schedules.action.steps=2"])
    assert raw["action_head"]["width"] == 16 and raw["schedules"]["action"]["steps"] == 2


def test_a_base_lies_relative_to_the_file_that_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "mine.toml").write_text('extends = "../base.toml"\n')
    monkeypatch.chdir(inner)
    assert read("mine.toml") == read(folder / "base.toml")
    monkeypatch.chdir("/")
    assert read(inner / "mine.toml") == read(folder / "base.toml")


def test_a_base_may_be_named_by_its_whole_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for path in (folder / "base.toml", "~/base.toml"):
        (other / "mine.toml").write_text(f'extends = "{path}"\n')
        assert read(other / "mine.toml") == read(folder / "base.toml")
    (other / "mine.toml").write_text(f'extends = "{folder}/qqqq/zzz.toml"\n')
    with pytest.raises(WamkitError, match="there is no such file") as error:
        read(other / "mine.toml")
    assert "name a spec that is there" in error.value.hint


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ('extends = "bas.toml"', "there is no such file", "did you mean 'base.toml'?"),
        ('extends = "qqqq/zzz.toml"', "there is no such file", "relative to the folder of x.toml"),
        ('extends = "."', "which is a folder", "ends in .toml"),
        ('extends = "spec.yaml"', "which is no .toml file", "ends in .toml"),
        ('extends = ["base.toml"]', "expected the path of a spec", "extends ="),
        ("extends = 3", "expected the path of a spec", "extends ="),
        ('extends = "x.toml"', "which is this file", "remove extends"),
        ('extends = "turn.toml"', "extends x.toml in turn: a cycle", "one of the two"),
        ('extends = "middle.toml"', "extends base.toml itself", "extend base.toml"),
        ('extends = "broken.toml"', "broken.toml cannot be read: line 2", "correct it there"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("extends =") else "",
)
def test_a_base_that_cannot_be_used_is_refused(
    folder: Path, text: str, what: str, hint: str
) -> None:
    (folder / "spec.yaml").write_text("seed: 1\n")
    (folder / "turn.toml").write_text('extends = "x.toml"\n')
    (folder / "middle.toml").write_text('extends = "base.toml"\n')
    (folder / "broken.toml").write_text("seed = 1\nseed = 2\n")
    (folder / "x.toml").write_text(text + "\n")
    with pytest.raises(WamkitError) as error:
        read(folder / "x.toml")
    assert what in error.value.what and hint in error.value.hint


def test_only_toml_that_people_write_extends(folder: Path) -> None:
    (folder / "mine.yaml").write_text("extends: base.toml\n")
    with pytest.raises(WamkitError, match=r"mine\.yaml says `extends`, which is read in \.toml"):
        read(folder / "mine.yaml")
    tables = {"extends": "base.toml", **read(folder / "base.toml")}
    (conflict,) = package.check(tables)
    assert conflict.between == ("extends",) and "are read in .toml files" in conflict.hint


def test_a_saved_policy_is_whole(folder: Path, wamkit: Run) -> None:
    file, out = extending(folder, "[action_head]\nwidth = 48\n"), folder / "policy"
    assert wamkit("build", file, "--out", out)[0] == 0
    saved = (out / "spec.yaml").read_text()
    assert "extends" not in saved and read(out)["action_head"]["width"] == 48
    assert parse(read(out)).dump() == parse(read(file)).dump()
    (out / "spec.yaml").write_text(f"extends: ../base.toml\n{saved}")
    code, _, err = wamkit("check", out)
    assert code == 2 and "the spec of a saved policy is whole and extends nothing" in err


def test_a_mistake_is_reported_with_its_file_and_line(folder: Path, wamkit: Run) -> None:
    base = folder / "base.toml"
    base.write_text(TOY.replace("mlp_dim", "mlp_dimm"))
    line = base.read_text().splitlines().index("mlp_dimm = 64") + 1
    file = extending(folder, "\n[action_head]\nwidht = 48\n[videos]\n")  # codespell:ignore widht
    code, out, _ = wamkit("check", file)
    assert code == 1
    assert f"action_head.widht: no such key ({file}, line 4)" in out  # codespell:ignore widht
    assert f"action_head.mlp_dimm: no such key ({base}, line {line})" in out
    assert f"videos: no such section in a spec ({file}, line 5)" in out
    code, out, _ = wamkit("check", file, "--set", "action_head.color=1")
    assert "action_head.color: no such key\n" in out  # it stands in no file


def test_a_mistake_within_a_list_is_reported_with_the_line_of_the_list(folder: Path) -> None:
    file = extending(folder, "[cameras]\nviews = [\n  {name = 'a', size = [32, 32], x = 1},\n]\n")
    (conflict,) = package.check(file)
    assert conflict.between == ("cameras.views.0.x",)
    assert conflict.why == f"no such key ({file}, line 3)"


def test_lines_of_keys_are_not_misled_by_texts_lists_and_comments() -> None:
    text = (
        "# a = 1\n"
        'top = """\n[no]\nb = 2\n"""\n'
        "[ one . two ] # x\n"
        "list = [\n  { name = 'z' },\n]\n"
        "deep.er = 3\n"
        '"quoted" = 4\n'
        "[[many]]\nkey = 1\n[a.'b']\nc = 1\n"
    )
    found = key_lines(text)
    assert found == {
        "top": 2, "one.two": 6, "one.two.list": 7, "one.two.deep.er": 10,
        "many": 12, "many.key": 13,
    }  # fmt: skip


def test_every_verb_reads_a_spec_that_extends(folder: Path, wamkit: Run) -> None:
    file = extending(folder, "[video]\nnum_frames = 1\n[paradigm]\nco_training = false\n")
    assert wamkit("explain", file)[0] == 0
    assert wamkit("compare", file, folder / "base.toml", "--no-measure")[0] == 0
    assert wamkit("estimate", file)[0] == 0
    assert wamkit("act", file, "--image", "examples/images/coffee.jpg", "--prompt", "x",
                  "--state", "0,0")[0] == 0  # fmt: skip


def test_the_schema_lets_a_spec_that_extends_leave_out_anything() -> None:
    found = schema()
    assert "required" not in found and found["if"] == {"required": ["extends"]}
    assert {"extends", "unset", "backbone"} <= found["properties"].keys()
    assert "backbone" in found["else"]["required"]
    assert found["else"]["properties"]["actions"]["required"] == ["groups"]
    assert "required" not in found["$defs"]["ActionConfig"]
