"""Specs: read from three formats, overridden, and refused with every mistake at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import wamkit
from wamkit.config.spec import override, parse, parse_part, read, schema
from wamkit.errors import Note, SpecError, WamkitError
from wamkit.policy.build import resolve

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))
TOY = next(p for p in EXAMPLES if p.stem == "toy")


@pytest.fixture
def raw() -> dict[str, Any]:
    return read(TOY)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_fits(file: Path) -> None:
    assert [c for c in wamkit.check(file) if not c.missing] == []
    spec, _ = parse(read(file)).tiny()
    assert wamkit.check(spec) == []


def test_toml_yaml_and_json_state_the_same(raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "spec.json").write_text(json.dumps(raw))
    specs = [parse(read(p)) for p in (TOY, tmp_path / "spec.yaml", tmp_path / "spec.json")]
    assert specs[0] == specs[1] == specs[2]


def test_a_dumped_spec_has_every_default_and_reads_back(raw: dict[str, Any]) -> None:
    spec = parse(raw)
    plain = json.loads(json.dumps(spec.dump()))
    assert plain["backbone"]["latent_channels"] == 3 * 4 * 8 * 8
    assert plain["schedules"]["action"]["steps"] == 10
    assert parse(plain) == spec


def test_overrides_reach_into_tables_and_lists(raw: dict[str, Any]) -> None:
    changed = override(
        raw,
        [
            "schedules.action.steps=5",
            "actions.groups.0.size=4",
            "text_encoder.prompt_template='do: {instruction}'",
            "vae.strides=[1, 8, 8]",
            "dtype=bfloat16",
        ],
    )
    spec = parse(changed)
    assert spec.schedules.action.steps == 5 and spec.actions.groups[0].size == 4
    assert spec.text_encoder.prompt_template == "do: {instruction}" and spec.vae.stride == (1, 8, 8)
    assert spec.dtype == "bfloat16" and raw["vae"]["strides"] == [4, 8, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "the override 'steps' is not of the form path.to.key=value"),
        ("actions.groups.7.size=1", "'7' is no place in a list of 2"),
        ("backbone.name.x=1", "name is the value 'toy', not a table"),
    ],
)
def test_a_bad_override_states_what_is_wrong(raw: dict[str, Any], text: str, message: str) -> None:
    with pytest.raises(WamkitError, match=message.replace(".", r"\.")):
        override(raw, [text])


def test_all_mistakes_are_reported_at_once(raw: dict[str, Any]) -> None:
    raw["backbone"]["name"] = "toi"  # codespell:ignore toi
    raw["action_head"]["widht"] = 3  # codespell:ignore widht
    raw["cameras"]["views"][0]["size"] = [60, 96]
    raw["parodigm"] = raw.pop("paradigm")
    conflicts = wamkit.check(raw)
    message = "\n".join(map(str, conflicts))
    assert "no backbone is called 'toi'" in message  # codespell:ignore toi
    assert "did you mean 'toy'?" in message
    wrong = "action_head.widht: no such key"  # codespell:ignore widht
    assert f"{wrong}\n    hint: did you mean 'width'?" in message
    assert "parodigm: no such section in a spec\n    hint: did you mean 'paradigm'?" in message
    assert "paradigm: the spec does not name one" in message
    assert len(conflicts) == 4  # what needs the backbone cannot be judged without it
    raw["backbone"]["name"] = "toy"
    assert any("the canvas is 60 pixels high" in str(c) for c in wamkit.check(raw))


def test_parts_that_do_not_fit_are_refused_with_a_hint_that_works(raw: dict[str, Any]) -> None:
    def complaints(*overrides: str) -> list[str]:
        return [c.hint for c in wamkit.check(override(raw, overrides))]

    assert complaints("backbone.latent_channels=7") != []
    hints = complaints("text_encoder.embedding=32")
    assert 'set text_encoder.adapter = "linear"' in hints[0]
    assert complaints("text_encoder.embedding=32", "text_encoder.adapter=linear") == []
    assert complaints("video.num_frames=8") == ["set video.num_frames = 5 or 9"]
    assert complaints("video.num_frames=5") == []
    assert complaints("state.size=3") != []
    assert complaints("state.size=3", "action_head.state=token") == []
    assert complaints("action_head.layer_stride=9") == ["set action_head.layer_stride to at most 4"]
    assert complaints("video.num_observed=9") == [
        "set video.num_frames = 13, or video.num_observed = 1"
    ]
    assert complaints("text_encoder.prompt_template=go") == [
        "write {instruction} where the instruction belongs"
    ]
    relative = ["actions.groups.0.kind=relative"]
    assert len(complaints(*relative)) == 2
    fixed = [*relative, "actions.groups.0.state=0", "state.size=3", "action_head.state=text"]
    assert complaints(*fixed) == []


def test_views_must_tile_the_canvas(raw: dict[str, Any]) -> None:
    views = [{"name": "head", "size": [64, 96]}, {"name": "left", "size": [32, 48]}]
    raw["cameras"] = {"layout": "t_shape", "views": [*views, {"name": "left", "size": [16, 32]}]}
    message = "\n".join(map(str, wamkit.check(raw)))
    assert "two views are called 'left'" in message
    assert "views in one row must be equally high, found left 32, left 16" in message
    assert "rows of a t_shape must be equally wide, found [96, 80]" in message


def test_weights_that_are_not_there_are_missing_not_wrong(raw: dict[str, Any]) -> None:
    raw["backbone"]["weights"] = "/nowhere/at/all"
    (conflict,) = wamkit.check(raw)
    assert conflict.missing and conflict.why == "nothing is at /nowhere/at/all"
    with pytest.raises(SpecError, match="cannot be built: 1 conflict"):
        resolve(raw)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "x = [", "cannot be read"),
        ("a.yaml", "- 1\n- 2\n", "holds a list, a spec is a table"),
        ("a.json", "{", "cannot be read"),
        ("a.txt", "x", r"is no spec: its name ends in '\.txt'"),
        ("b.toml", None, "no spec at"),
    ],
)
def test_files_that_are_no_specs_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(WamkitError, match=message):
        read(tmp_path / name)


def test_the_schema_describes_what_is_installed() -> None:
    text = json.dumps(schema())
    assert '"const": "toy"' in text and "Height and width on the canvas." in text


def test_tiny_keeps_the_composition_and_states_what_changed() -> None:
    spec, changes = parse(read(EXAMPLES[0].with_name("fastwam.toml"))).tiny()
    assert (spec.actions.chunk_size, spec.actions.size, spec.state.size) == (32, 7, 8)
    assert changes["text_encoder"] == "umt5-xxl -> bytes"
    assert changes["backbone"] == "wan, tiny"
    assert spec.paradigm.name == "single_pass" and len(spec.cameras.views) == 2


def test_tiny_cameras_keep_their_proportions(raw: dict[str, Any]) -> None:
    views = [{"name": "head", "size": [256, 320]}]
    views += [{"name": side, "size": [128, 160]} for side in ("left", "right")]
    raw["cameras"] = {"layout": "t_shape", "views": views}
    spec, changes = parse(raw).tiny()
    assert [view.size for view in spec.cameras.views] == [(64, 64), (32, 32), (32, 32)]
    assert changes["cameras"] == "canvas 384x320 -> 96x64" and wamkit.check(spec) == []


def test_a_backbone_that_cannot_imagine_so_much_is_refused(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse(raw)
    traits = spec.backbone.traits
    for change, hint in (
        ({"imagines": False}, "set video.num_frames = 1, or choose a backbone that was trained to"),
        (
            {"frames": "one"},
            "set video.num_frames = 5, and video.frame_stride to when that image is",
        ),
    ):
        other = traits.model_copy(update=change)
        monkeypatch.setattr(type(spec.backbone), "traits", property(lambda _, t=other: t))
        assert [c.hint[: len(hint)] for c in wamkit.check(spec)] == [hint]


def test_a_part_that_gets_another_name_leaves_its_settings_behind(raw: dict[str, Any]) -> None:
    raw["text_encoder"] = {
        "name": "bytes",
        "prompt_template": "do {instruction}",
        "embeddings_file": "x",
    }
    raw["backbone"] = {"name": "toy", "weights": "w"}
    for form in ("backbone.name=wan", "backbone=wan"):
        with pytest.warns(Note, match="backbone is now 'wan': left out weights"):
            assert override(raw, [form])["backbone"] == {"name": "wan"}
    with pytest.warns(Note, match="left out embeddings_file, which .*; kept prompt_template"):
        changed = override(raw, ["text_encoder.name=t5-xxl"])
    assert changed["text_encoder"] == {"name": "t5-xxl", "prompt_template": "do {instruction}"}
    both = ["backbone.layers=2", "backbone.name=wan"]
    for order in (both, both[::-1]):
        with pytest.warns(Note):
            assert override(raw, order)["backbone"] == {"name": "wan", "layers": 2}
    again = override(raw, ["backbone.name=toy", "text_encoder.prompt_template=put {instruction}"])
    assert again["backbone"] == raw["backbone"]
    assert again["text_encoder"]["prompt_template"] == "put {instruction}"


def test_a_nested_paradigm_that_gets_another_name_does_too(raw: dict[str, Any]) -> None:
    raw["paradigm"] = {"name": "adaptive", "inner": {"name": "idm", "drop_future_prob": 0.5}}
    with pytest.warns(Note, match="paradigm.inner is now 'joint': left out drop_future_prob"):
        changed = override(raw, ["paradigm.inner.name=joint"])
    assert changed["paradigm"] == {"name": "adaptive", "inner": {"name": "joint"}}


@pytest.mark.parametrize(
    ("text", "expected_message", "never"),
    [
        (
            'actions.groups=[{name="a",size=4,normalize="x"}]',
            ["actions.groups.0.normalize", "did you mean 'normalization'?"],
            ["at least 1 item"],
        ),
        ("state.normalization=quantiles", ["did you mean 'quantile'?", "min_max, mean_std"], []),
        ("actions.normalise=x", ["actions.groups[0].normalization"], []),
        ("actions.groups.0.chunk_size=8", ["it belongs elsewhere: actions.chunk_size"], []),
        ("action_head.control_hz=8", ["it belongs elsewhere: actions.control_hz"], []),
        ("chunk_size=8", ["it belongs elsewhere: actions.chunk_size"], []),
        ("cameras.views=[top,left]", ['views = [{ name = "top", size = [224, 224] }'], []),
        ('cameras.views=["top"]', ['write a table: { name = "top", size'], []),
        ("cameras.views.0.flip=horizontally", ["did you mean 'horizontal'?"], ["at least 1"]),
        ("schedules.action.solver=eulr", ["did you mean 'euler'?", "heun"], []),
        ("schedules.action.steps=ten", ["a whole number, such as steps = 10"], []),
        ("dtype=bfloat", ["did you mean 'bfloat16'?"], []),
        ("paradigm.name=jont", ["did you mean 'joint'?"], []),  # codespell:ignore jont
    ],
)
def test_a_mistake_is_reported_with_what_may_stand_there(
    raw: dict[str, Any], text: str, expected_message: list[str], never: list[str]
) -> None:
    found = "\n".join(map(str, wamkit.check(override(raw, [text]))))
    assert all(message in found for message in expected_message), found
    assert not any(message in found for message in [*never, "wamkit schema"]), found


def test_a_variant_is_reported_with_the_nearest() -> None:
    with pytest.raises(WamkitError, match=r"did you mean '2\.2-ti2v-5b'"):
        parse_part("backbone", {"name": "wan", "variant": "2.2-t2v-5b"})


def test_a_byte_order_mark_is_read_over_and_other_encodings_are_named(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "examples/toy.toml").read_text()
    plain = tmp_path / "plain.toml"
    plain.write_text(text)
    marked = tmp_path / "marked.toml"
    marked.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read(marked) == read(plain)
    for suffix, dumped in ((".json", json.dumps(read(plain))), (".yaml", json.dumps(read(plain)))):
        file = tmp_path / f"marked{suffix}"
        file.write_bytes(b"\xef\xbb\xbf" + dumped.encode())
        assert read(file) == read(plain)
    wide = tmp_path / "wide.toml"
    wide.write_text(text, encoding="utf-16")
    with pytest.raises(WamkitError, match="UTF-16 or UTF-32, expected UTF-8"):
        read(wide)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# one\n# gr\xfc\xdfe\n")
    with pytest.raises(WamkitError, match="line 2 holds the byte 0xfc"):
        read(latin)


def test_the_home_of_nobody_is_a_path_that_is_not_there(raw: dict[str, Any]) -> None:
    with pytest.raises(WamkitError, match=r"no spec at ~nobodyhere/x\.toml"):
        read("~nobodyhere/x.toml")
    raw["backbone"] = {"name": "toy", "weights": "~nobodyhere/x.safetensors"}
    raw["text_encoder"] = {"name": "bytes", "embeddings_file": "~nobodyhere/text.safetensors"}
    found = "\n".join(map(str, wamkit.check(raw)))
    assert "nothing is at ~nobodyhere" in found and "no file is at ~nobodyhere" in found


@pytest.mark.parametrize("text", ["backbone=toy", "backbone.name=toy", 'backbone="toy"'])
def test_naming_the_part_that_is_there_loses_none_of_its_settings(text: str) -> None:
    raw = {"backbone": {"name": "toy", "depth": 7}}
    assert override(raw, [text]) == raw
    assert override({"backbone": "toy"}, [text])["backbone"] in ("toy", {"name": "toy"})
