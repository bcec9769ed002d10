"""`wamkit compose`: what is chosen and why, what is refused, what is written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit.cli.compose.asked import Asked
from wamkit.cli.compose.dataset import groups_by_name
from wamkit.cli.compose.short_forms import groups_of, part_table, state_of, views_of
from wamkit.config.check import check
from wamkit.config.composing import Composition, Request, compose_spec
from wamkit.config.hint_changes import fixes_of
from wamkit.config.spec import parse, read
from wamkit.errors import Conflict, WamkitError
from wamkit.files.documents import parse_toml
from wamkit.files.toml_text import toml_text
from wamkit.testing.dataset import record

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
FASTWAM = ROOT / "examples" / "fastwam.toml"


def composition_of(**asked: Any) -> Composition:
    return compose_spec(Asked(**asked).request())


def reasons(made: Composition) -> dict[str, str]:
    return {choice.key: choice.reason for choice in made.choices}


def test_a_whole_command_line_is_written_explained_and_passes_the_check(
    wamkit: Run, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "my.toml"
    args = "--backbone ltx:0.9-2b --vae ltx --text t5-xxl --head mot --paradigm joint"
    robot = "--views front=224x224,wrist=224x224 --actions joints:14:quantile --state 14"
    code, printed, err = wamkit(
        "compose", *f"{args} {robot} --chunk 32 --hz 20".split(), "--out", out
    )
    assert code == 0, err
    raw = read(out)
    assert raw["actions"] == {
        "groups": [{"name": "joints", "size": 14, "normalization": "quantile"}],
        "chunk_size": 32,
        "control_hz": 20,
    }
    assert raw["video"] == {"num_frames": 9, "frame_stride": 4} and raw["state"] == {"size": 14}
    assert "cameras.layout" in printed and "the views tile a canvas of 224x448 pixels" in printed
    assert "text 128, context 98, target 98, action 32" in printed
    assert [c for c in check(raw) if not c.missing] == []
    text = out.read_text()
    assert text.startswith("# Composed by: wamkit compose --backbone ltx:0.9-2b")
    assert "# Actions a second on the robot" in text and "# Actions in a chunk (N)" in text
    assert all(len(line) <= 100 for line in text.splitlines()[2:])


def test_nothing_is_overwritten_unless_it_is_said(wamkit: Run, tmp_path: Path) -> None:
    out = tmp_path / "my.toml"
    out.write_text("# mine\n")
    code, _, err = wamkit("compose", "--backbone", "toy", "--out", out)
    assert code == 2 and "my.toml exists" in err and "--force" in err
    assert out.read_text() == "# mine\n"
    assert wamkit("compose", "--backbone", "toy", "--out", out, "--force")[0] == 0
    assert check(read(out)) == []
    code, _, err = wamkit("compose", "--backbone", "toy", "--out", tmp_path / "my.txt")
    assert code == 2 and "is no .toml file" in err


def test_without_a_file_the_spec_is_printed_and_the_reasons_are_notes(wamkit: Run) -> None:
    code, out, err = wamkit("compose", "--backbone", "toy", "--views", "front=64x96")
    assert code == 0 and check(parse_toml(out)) == []
    assert "note: paradigm = " in err and "note: video.num_frames = 9: " in err


def test_without_words_and_terminal_it_says_what_to_type(wamkit: Run) -> None:
    code, out, err = wamkit("compose")
    assert (code, out) == (2, "") and "nothing to compose from" in err
    assert "wamkit compose --backbone" in err


@pytest.mark.parametrize(
    ("args", "fixed"),
    [
        ("--backbone ltx:0.9-9b", "--backbone ltx:0.9-2b"),
        ("--backbone ltx --set backbone.variant=0.9-9b", "--set 'backbone.variant=\"0.9-2b\"'"),
        ("--backbone toy --set vae.adapter=linera", "--set 'vae.adapter=\"linear\"'"),
    ],
)
def test_a_typo_is_fixed_by_the_value_that_is_meant_and_no_other_part(
    wamkit: Run, args: str, fixed: str
) -> None:
    code, _, err = wamkit("compose", *args.split())
    assert code == 1 and "did you mean" in err
    (line,) = [line for line in err.splitlines() if "fixed by: " in line]
    assert line.partition("fixed by: ")[2] == fixed
    command = shlex.split(err.rpartition("this was tried, and fits: ")[2])
    assert command[3] == args.split()[1].replace("9b", "2b")
    assert wamkit(*command[1:])[0] == 0


def test_a_value_like_no_other_is_fixed_by_those_of_the_same_part(wamkit: Run) -> None:
    code, _, err = wamkit("compose", "--backbone", "wan:zzzzzz")
    assert code == 1 and "fixed by: --backbone wan:" in err and "--backbone ltx" not in err


@pytest.mark.parametrize(
    "args",
    [
        ["--swap", "backbone=toy", "--swap", "backbone=wan"],
        ["--backbone", "toy", "--swap", "backbone=wan"],
        ["--text", "bytes", "--swap", "text_encoder=bytes"],
        ["--swap", "text=bytes", "--swap", "text_encoder=hash"],
    ],
)
def test_a_kind_that_is_named_twice_is_refused(wamkit: Run, args: list[str]) -> None:
    code, _, err = wamkit("compose", "--like", FASTWAM, *args)
    kind = "backbone" if "backbone" in args[-1] else "text_encoder"
    assert code == 2 and f"both name the {kind}" in err and "leave one of them out" in err
    assert " ".join(args[:2]) in err and " ".join(args[2:]) in err


def test_json_has_a_version_the_choices_and_the_text(wamkit: Run) -> None:
    code, out, _ = wamkit("compose", "--backbone", "toy", "--json")
    printed = json.loads(out)
    assert code == 0 and printed["schema_version"] == 1 and printed["fits"]
    assert parse_toml(printed["toml"]) == printed["spec"]
    assert {"key", "value", "reason"} == set(printed["choices"][0])
    assert printed["tokens"]["action"] == printed["spec"]["actions"]["chunk_size"]


def test_a_refusal_names_all_conflicts_and_a_command_that_was_tried(wamkit: Run) -> None:
    args = "--backbone timm_vit --head regression --paradigm joint --state 14"
    args += " --set action_head.state=none"
    code, out, err = wamkit("compose", *args.split())
    assert code == 1 and out == "" and "2 conflicts" in err
    assert "fixed by: --paradigm single_pass" in err
    command = shlex.split(err.rpartition("this was tried, and fits: ")[2])
    assert wamkit(*command[1:])[0] == 0
    code, out, _ = wamkit("compose", *args.split(), "--json")
    printed = json.loads(out)
    assert code == 1 and not printed["fits"] and shlex.split(printed["fitting_command"]) == command
    assert ["--set", "state.size=0"] in printed["conflicts"][0]["fixes"]


def test_parts_that_a_backbone_was_trained_with_come_first() -> None:
    made = composition_of(parts={"backbone": "ltx"})
    assert (made.raw["vae"]["name"], made.raw["text_encoder"]["name"]) == ("ltx", "t5-xxl")
    assert reasons(made)["vae"] == "ltx 0.9-2b was trained with it"
    made = composition_of(parts={"vae": "wan2.1"})
    assert made.raw["backbone"] == {"name": "wan", "variant": "2.1-t2v-1.3b"}
    assert reasons(made)["backbone"] == "was trained with wan2.1"
    made = composition_of(parts={"backbone": "ltx2"})  # whose own encoder nobody offers
    assert "gemma-3-12b, which ltx2 2.0 was trained with, is not installed" in str(reasons(made))
    made = composition_of(parts={"backbone": "timm_vit"})
    assert made.raw["vae"] == {"name": "pixel_shuffle", "strides": [1, 14, 14]}
    assert made.raw["video"]["num_frames"] == 1
    made = composition_of(parts={"backbone": "flux2"})
    assert made.raw["paradigm"]["name"] == "image_edit"


def test_an_empty_request_becomes_a_whole_spec() -> None:
    made = compose_spec(Request())
    assert not made.conflicts and parse(made.raw).backbone.name == made.raw["backbone"]["name"]


def test_what_is_left_open_is_set_as_hints_say_and_what_was_typed_never_is() -> None:
    wanted = {"parts": {"backbone": "toy", "head": "reader"}, "state": "5"}
    made = composition_of(**wanted)
    assert not made.conflicts
    made = composition_of(**wanted, settings=("action_head.state=none",))
    assert made.raw["action_head"]["state"] == "none" and len(made.conflicts) == 1
    made = composition_of(
        parts={"backbone": "ltx", "vae": "wan2.2"}
    )  # no projection is learned unasked
    assert "adapter" not in made.raw["vae"] and made.conflicts


def test_sizes_of_open_views_follow_the_tokens_and_the_other_views() -> None:
    made = composition_of(parts={"backbone": "timm_vit"}, views=("front", "wrist"))
    sizes = [view["size"] for view in made.raw["cameras"]["views"]]
    assert sizes == [[224, 224], [224, 224]]
    made = composition_of(parts={"backbone": "ltx"}, views=("front=192x320", "wrist"))
    assert made.raw["cameras"]["views"][1]["size"] == [192, 224]
    views = ("top=224x448", "left=128x224", "right=128x224")
    assert composition_of(views=views).raw["cameras"]["layout"] == "t_shape"


def test_settings_of_a_part_that_is_still_open_are_kept() -> None:
    made = composition_of(parts={"backbone": "toy"}, settings=("action_head.width=96", "seed=3"))
    assert made.raw["action_head"] == {"name": "mot", "width": 96} and made.raw["seed"] == 3


def test_a_swap_keeps_what_holds_and_says_what_does_not() -> None:
    made = composition_of(like=FASTWAM, swap=("backbone=cosmos",))
    base, raw = read(FASTWAM), made.raw
    assert not made.conflicts and raw["backbone"]["name"] == "cosmos"
    for key in ("actions", "state", "cameras", "video", "schedules", "paradigm", "action_head"):
        assert raw[key] == base[key]
    assert raw["text_encoder"]["prompt_template"] == base["text_encoder"]["prompt_template"]
    why = reasons(made)
    assert "wan2.2 makes latents of 48 channels" in why["vae"]
    assert "umt5-xxl makes embeddings of width 4096" in why["text_encoder"]
    assert [one.key for one in made.dropped] == ["backbone.variant"]


def test_a_swapped_editor_gets_one_future_image_as_far_ahead() -> None:
    made = composition_of(like=FASTWAM, parts={"backbone": "flux2"})
    assert not made.conflicts
    assert made.raw["video"] == {"num_frames": 2, "frame_stride": 32}
    assert "it denoises one frame a pass" in reasons(made)["video.num_frames"]


def test_a_spec_that_is_not_swapped_stays_as_it_is() -> None:
    for file in sorted((ROOT / "examples").glob("*.toml")):
        made = compose_spec(Request(base=read(file)))
        assert not made.conflicts, file
        base = read(file)
        assert {k: made.raw[k] for k in base if k != "backbone"} == {
            k: base[k] for k in base if k != "backbone"
        }, file


def test_a_swap_needs_a_spec_and_a_known_kind(wamkit: Run) -> None:
    code, _, err = wamkit("compose", "--swap", "backbone=toy")
    assert code == 2 and "add --like SPEC" in err
    code, _, err = wamkit("compose", "--like", FASTWAM, "--swap", "bakcbone=toy")
    assert code == 2 and "did you mean 'backbone'?" in err


def test_a_data_set_says_what_the_robot_is(wamkit: Run, tmp_path: Path) -> None:
    folder = record(tmp_path / "cups", parse(read(ROOT / "examples" / "toy.toml")))
    out = tmp_path / "cups.toml"
    code, _, err = wamkit("compose", "--backbone", "toy", "--data", folder, "--out", out)
    assert code == 0 and "robot example, 1 camera, 4 actions" in err
    raw, text = read(out), out.read_text()
    assert f"Data: {folder}, of the robot example." in " ".join(text.split("\n# "))
    assert "\n# Actions: " in text
    assert raw["cameras"]["views"] == [{"name": "front", "size": [48, 64]}]
    assert raw["actions"]["control_hz"] == 10
    assert sum(group["size"] for group in raw["actions"]["groups"]) == 4
    assert wamkit("data", "check", folder, "--spec", out)[0] == 0


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ("left_waist left_elbow left_gripper right_waist right_elbow right_gripper", "left:2 "
         "gripper:1 right:2 gripper_2:1"),
        ("shoulder_pan.pos elbow.pos wrist.pos gripper.pos", "joints:3 gripper:1"),
        ("0 1 2", "action:3"),
        ("x y z", "joints:3"),
    ],
)  # fmt: skip
def test_names_of_values_become_groups(labels: str, groups: str) -> None:
    found = groups_by_name(labels.split())
    assert " ".join(f"{group['name']}:{group['size']}" for group in found) == groups


def test_short_forms_are_read_and_mistakes_reported() -> None:
    assert views_of(["a=48x64,b", "c=32"]) == [
        {"name": "a", "size": [48, 64]},
        {"name": "b"},
        {"name": "c", "size": [32, 32]},
    ]
    assert groups_of(["arm:7:quantile:relative,grip:1"]) == [
        {"name": "arm", "size": 7, "normalization": "quantile", "kind": "relative"},
        {"name": "grip", "size": 1},
    ]
    assert state_of("14:mean_std") == {"state.size": 14, "state.normalization": "mean_std"}
    assert part_table("backbone", "ltx:0.9-2b") == {"name": "ltx", "variant": "0.9-2b"}
    for wrong, hint in (
        (lambda: views_of(["a=4x5x6"]), "NAME=HEIGHTxWIDTH"),
        (lambda: groups_of(["arm"]), "NAME:SIZE"),
        (lambda: groups_of(["arm:7:quantil"]), "did you mean 'quantile'?"),
        (lambda: state_of("many"), "write a number"),
        (lambda: part_table("backbone", "ltxx"), "did you mean 'ltx2?'?"),
        (lambda: part_table("paradigm", "joint:x"), "write joint alone"),
    ):
        with pytest.raises(WamkitError) as error:
            wrong()
        assert hint.replace("ltx2?", "ltx2") in error.value.hint or "ltx" in error.value.hint


@pytest.mark.parametrize(
    ("hint", "ways"),
    [
        ('set a.b = 1, or state.size = 0', ["state.size=0"]),
        ('set action_head.state = "text" or "token", or state.size = 0',
         ['action_head.state="text"', 'action_head.state="token"', "state.size=0"]),
        ("set vae.name = \"x\" and vae.strides = [1, 2, 2]",
         ['vae.name="x" vae.strides=[1, 2, 2]']),
        ("set action_head.layer_stride to at most 3", ["action_head.layer_stride=3"]),
        ("write one of them", []),
        ("did you mean 'b'?", []),
    ],
)  # fmt: skip
def test_a_hint_says_what_a_program_can_set(hint: str, ways: list[str]) -> None:
    from wamkit.config.hint_changes import as_overrides

    found = fixes_of(Conflict(between=("x",), why="", hint=hint))
    assert [" ".join(as_overrides(way)) for way in found] == ways


def test_of_a_mistyped_value_a_hint_says_which_is_meant() -> None:
    place = ("vae.adapter",)
    near = Conflict(between=place, why="", hint="did you mean 'linear'? write one of none, linear")
    assert fixes_of(near) == [(("vae.adapter", "linear"),)]
    far = Conflict(between=place, why="", hint="write one of none, 2")
    assert fixes_of(far) == [(("vae.adapter", "none"),), (("vae.adapter", 2),)]


def test_comments_are_whole_sentences_about_the_value_that_is_written() -> None:
    from wamkit.config.composing.document import spec_text

    tables: dict[str, Any] = {"text_encoder": {"name": "t5-xxl"}, "vae": {"name": "wan2.2"}}
    for padding, meaning in (
        ("zeros", "hidden from T5, zero vectors"),
        ("mask", "as in LTX-Video"),
    ):
        tables["text_encoder"]["padding"] = padding
        above, line = _comment_of(spec_text(tables), "padding")
        assert meaning in f"{above} {line}" and f"# {padding}:" not in f"{above} {line}"
    tables["vae"] |= {"adapter": "none"}
    assert _comment_of(spec_text(tables), "adapter") == ("", 'adapter = "none"')
    tables["vae"] |= {"adapter": "linear"}
    assert "back" in " ".join(_comment_of(spec_text(tables), "adapter"))
    text = spec_text(composition_of(parts={"backbone": "wan"}).raw)
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    assert comments and not any(line.endswith("...") for line in comments)
    assert text.count("(") == text.count(")")
    assert max(map(len, (line for line in text.splitlines() if "#" in line))) <= 100


def _comment_of(text: str, key: str) -> tuple[str, str]:
    """What stands above a key as its comment, and its line."""
    lines = text.splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
    above = place
    while above and lines[above - 1].startswith("# "):
        above -= 1
    return " ".join(lines[above:place]), lines[place]


def test_tables_are_written_as_toml_that_reads_back() -> None:
    raw = {
        "a": 1.5,
        "b": {"text": 'q"\\\n\x7f', "list": [{"x": 1}, {"y y": [True, "é"]}], "deep": {"k": {}}},
        "empty": {},
    }
    text = toml_text(raw, lambda path: "printed" * 40 if path == "a" else path)
    assert parse_toml(text) == raw
    with pytest.raises(WamkitError, match="cannot be written"):
        toml_text({"a": None}, lambda _: "")
