"""The verbs that work on paper: list, show, check, explain, schema, doctor; and how they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from specs import TOY

from wamkit.cli._output import polite
from wamkit.config.registry import forget, registry
from wamkit.errors import WamkitError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(TOY)
    return file


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Install a distribution with one plugin of this source for the length of a test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[wamkit]\n{name} = {name}_plugin\n")
        (tmp_path / f"{name}_plugin.py").write_text(source)
        forget()

    yield install
    forget()


CLASHING = """
from typing import Literal
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import BackboneConfig, Traits

WAMKIT_API = 1

class Second(BackboneConfig):
    '''Another toy.'''
    name: Literal["toy"] = "toy"

    @property
    def traits(self):
        return Traits(depth=1, width=8, num_heads=1, num_kv_heads=1, head_dim=8, latent_channels=4,
                      text_width=8)

    def build(self):
        raise RuntimeError("it is never built")

@hookimpl
def register(add):
    add(Second)
"""


def test_list_shows_each_part_with_its_summary(wamkit: Run) -> None:
    code, out, err = wamkit("list")
    assert code == 0 and err == ""
    for word in ("kind", "backbone", "toy", "single_pass", "Apache-2.0"):
        assert word in out
    assert "A one-page video diffusion transformer" in out


def test_list_of_one_kind_as_json_holds_that_kind_alone(wamkit: Run) -> None:
    code, out, _ = wamkit("list", "vae", "--json")
    parts = json.loads(out)["parts"]
    assert code == 0 and {part["kind"] for part in parts} == {"vae"}
    assert "pixel_shuffle" in [part["name"] for part in parts]


def test_list_of_an_unknown_kind_names_the_nearest(wamkit: Run) -> None:
    code, out, err = wamkit("list", "backbones")
    assert (code, out) == (2, "")
    assert "error: there is no kind of part called 'backbones'" in err
    assert "hint: did you mean 'backbone'?" in err


def test_a_broken_plugin_and_a_clash_are_reported_and_stop_nothing(
    wamkit: Run, plug: Callable[[str, str], None]
) -> None:
    plug("broken", "raise ImportError('no module named nowhere')")
    plug("second", CLASHING)
    code, out, _ = wamkit("list")
    assert code == 0 and "single_pass" in out
    assert "broken (from broken), broken: ImportError: no module named nowhere" in out
    assert "backbone toy: second, wamkit; write second:toy or toy" in out

    code, out, err = wamkit("doctor")
    assert code == 1
    assert "plugin broken (from broken) is broken: ImportError" in err
    assert "note: backbone toy is offered by second and by wamkit; write second:toy or toy" in out


def test_the_first_party_part_keeps_a_name_that_another_distribution_offers(
    wamkit: Run, plug: Callable[[str, str], None], toy: Path
) -> None:
    plug("second", CLASHING)
    assert wamkit("check", str(toy))[0] == 0
    code, out, _ = wamkit("show", "backbone", "second:toy", "--json")
    assert code == 0 and "Another toy." in out
    code, out, _ = wamkit("check", str(toy), "--set", "backbone=second:toy")
    assert code == 1 and "second:toy denoises latents of 4" in out


def test_a_blocked_plugin_is_listed_and_breaks_nothing(
    wamkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAMKIT_BLOCK_PLUGINS", "mot")
    forget()
    code, out, _ = wamkit("list", "--json")
    skipped = json.loads(out)["skipped"]
    doctor, _, _ = wamkit("doctor")
    forget()
    assert [entry["status"] for entry in skipped] == ["blocked"]
    assert (code, doctor) == (0, 0)


def test_show_prints_keys_with_type_value_and_meaning(wamkit: Run) -> None:
    code, out, _ = wamkit("show", "backbone", "toy", "--set", "depth=7")
    assert code == 0
    (depth,) = [line for line in out.splitlines() if line.startswith("depth")]
    assert depth.split() == ["depth", "int", ">", "0", "7", "Number", "of", "blocks."]
    assert "head_dim" in out and "int > 0, a multiple of 2" in out


def test_show_has_a_row_for_each_variant_and_counts_parameters(wamkit: Run) -> None:
    code, out, _ = wamkit("show", "backbone", "wan", "--json", "--params")
    rows = {row["variant"]: row for row in json.loads(out)["variants"]}
    assert code == 0
    assert rows["2.2-ti2v-5b"]["latent_channels"] == 48
    assert rows["2.2-ti2v-5b"]["parameters"] == 4_999_787_712  # Wan-AI/Wan2.2-TI2V-5B


@pytest.mark.parametrize("kind", ["backbone", "vae", "text_encoder", "action_head", "paradigm"])
def test_show_works_for_every_part_there_is(wamkit: Run, kind: str) -> None:
    for name in registry().names(kind):
        code, out, _ = wamkit("show", kind, name)
        assert code == 0 and out.startswith(f"{kind} {name}")


def test_show_refuses_a_key_that_is_not_there(wamkit: Run) -> None:
    code, _, err = wamkit("show", "backbone", "toy", "--set", "dept=7")
    assert code == 2
    assert "1. backbone.dept: no such key" in err and "hint: did you mean 'depth'?" in err


def test_check_reports_that_a_spec_fits(wamkit: Run, toy: Path) -> None:
    assert wamkit("check", toy) == (0, f"{toy} fits.\n", "")
    assert wamkit("check", toy, "--tiny")[0] == 0
    code, out, _ = wamkit("check", toy, "--json")
    assert code == 0 and json.loads(out)["fits"] is True


def test_check_names_every_mistake_at_once(wamkit: Run, toy: Path) -> None:
    mistakes = ["--set", "backbone.latent_channels=5", "--set", "colour=1", "--set", "seed=-1"]
    code, out, err = wamkit("check", toy, *mistakes)
    assert (code, err) == (1, "")
    assert f"{toy} has 3 conflicts:" in out
    assert "1. colour: no such section in a spec" in out
    assert "2. seed: " in out
    assert "3. vae + backbone: pixel_shuffle makes latents of 768 channels" in out
    assert out.count("hint: ") == 3


def test_check_distinguishes_conflicts_from_missing_files(wamkit: Run, toy: Path) -> None:
    code, out, _ = wamkit("check", toy, "--set", "backbone.weights=nowhere", "--json")
    found = json.loads(out)
    assert code == 1 and found["conflicts"] == []
    assert [entry["between"] for entry in found["missing"]] == [["backbone.weights"]]


def test_build_lists_every_conflict_and_writes_nothing(wamkit: Run, toy: Path) -> None:
    out_folder = toy.parent / "policy"
    mistakes = ["--set", "action_head.wide=3", "--set", "paradigm.name=singel_pass"]
    code, out, err = wamkit("build", toy, "--out", out_folder, *mistakes)
    assert (code, out) == (2, "") and not out_folder.exists()
    assert f"error: {toy} cannot be built: 2 conflicts" in err
    assert "1. action_head.wide" in err and "2. paradigm.name" in err


def test_explain_draws_who_sees_whom(wamkit: Run, toy: Path) -> None:
    code, out, _ = wamkit("explain", toy)
    rows = {line.split()[0]: line.split()[2:] for line in out.splitlines() if "■" in line}
    assert code == 0
    assert rows == {
        "context": ["■", "·", "·", "4"],
        "target": ["■", "■", "·", "12"],
        "action": ["■", "·", "■", "12"],
    }
    assert "computed once and kept: context" in out
    assert "canvas: 32x32 pixels" in out


def test_explain_as_json_counts_tokens_passes_and_parameters(wamkit: Run, toy: Path) -> None:
    code, out, _ = wamkit("explain", toy, "--json")
    report = json.loads(out)
    assert code == 0 and report["roles"] == {"context": 4, "target": 8, "action": 8}
    assert [(s["passes"], s["tokens"]) for s in report["program"]] == [(1, 4), (10, 8)]
    counts = {part["kind"]: part["parameters"] for part in report["parts"]}
    assert counts["backbone"] > 0 and counts["vae"] == 0


def test_explain_stops_at_a_conflict_but_not_at_a_missing_file(wamkit: Run, toy: Path) -> None:
    code, out, _ = wamkit("explain", toy, "--set", "backbone.latent_channels=5")
    assert code == 1 and "pixel_shuffle makes latents of 768 channels" in out
    code, out, err = wamkit("explain", toy, "--set", "backbone.weights=nowhere")
    assert code == 0 and "computed once" in out
    assert "note: backbone.weights: nothing is at nowhere" in err


def test_explain_at_toy_size_lists_the_changed_parts(wamkit: Run, toy: Path) -> None:
    code, out, _ = wamkit("explain", toy, "--tiny")
    assert code == 0 and "canvas: 32x32 pixels" in out


def test_schema_knows_the_installed_parts(wamkit: Run, tmp_path: Path) -> None:
    code, out, _ = wamkit("schema")
    assert code == 0 and "single_pass" in json.dumps(json.loads(out))
    file = tmp_path / "schema.json"
    assert wamkit("schema", "--out", file)[:2] == (0, f"wrote {file}\n")
    assert file.read_text() == out
    code, _, err = wamkit("schema", "--out", tmp_path / "nowhere" / "schema.json")
    assert code == 2 and "cannot be written: No such file or directory" in err


def test_doctor_lists_versions_and_that_nothing_is_broken(wamkit: Run) -> None:
    code, out, _ = wamkit("doctor")
    assert code == 0 and "nothing is broken" in out and "torch " in out
    report = json.loads(wamkit("doctor", "--json")[1])
    assert report["broken"] == [] and report["versions"]["torch"]


def test_a_missing_module_comes_with_the_command_that_cures_it(
    wamkit: Run, plug: Callable[[str, str], None]
) -> None:
    needy = CLASHING.replace('"toy"', '"needy"').replace(
        "    name:", '    requires = ("a_module_nobody_has",)\n    name:'
    )
    plug("needy", needy)
    assert "a_module_nobody_has (missing)" in wamkit("list")[1]
    code, out, _ = wamkit("doctor")
    assert code == 0
    assert "missing a_module_nobody_has, for backbone needy: pip install a_module_nobody_has" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["chek"], "No such command 'chek'. Did you mean 'check'?"),  # codespell:ignore chek
        (["xyzzy"], "The commands are list, show, check"),
        (["check"], "Missing argument"),
        (["check", "nowhere.toml"], "error: no spec at nowhere.toml"),
        (["show", "backbone", "toi"], "did you mean 'toy'?"),  # codespell:ignore toi
    ],
)
def test_bad_usage_ends_with_2_and_states_what_to_type(
    wamkit: Run, args: list[str], message: str
) -> None:
    code, out, err = wamkit(*args)
    assert (code, out) == (2, "") and message in err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth", "is not of the form path.to.key=value"),
        ("dtype.of.what=1", "is the value"),
        ("cameras.views.7.name=x", "is no place in a list of 1"),
    ],
)
def test_a_bad_override_is_explained(wamkit: Run, toy: Path, override: str, message: str) -> None:
    toy.write_text('dtype = "float32"\n' + TOY)
    code, _, err = wamkit("check", toy, "--set", override)
    assert code == 2 and message in err and "hint: " in err


def test_a_file_that_is_no_toml_is_named(wamkit: Run, toy: Path) -> None:
    toy.write_text("[backbone\n")
    code, _, err = wamkit("explain", toy)
    assert code == 2 and f"error: {toy} cannot be read" in err


def test_text_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise WamkitError("found [3, 4], expected [bold] :smile:", "pass [B, T]")

    with pytest.raises(typer.Exit) as end:
        polite(refuse)()
    assert end.value.exit_code == 2
    _, err = capsys.readouterr()
    assert err == "error: found [3, 4], expected [bold] :smile:\nhint: pass [B, T]\n"


def test_a_bug_is_called_a_bug_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble() -> None:
        raise KeyError("depth")

    monkeypatch.delenv("WAMKIT_DEBUG", raising=False)
    with pytest.raises(typer.Exit) as end:
        polite(stumble)()
    _, err = capsys.readouterr()
    assert end.value.exit_code == 2
    assert "error: a bug in wamkit or in a plugin: KeyError: 'depth'" in err
    assert "WAMKIT_DEBUG=1" in err and "Traceback" not in err

    monkeypatch.setenv("WAMKIT_DEBUG", "1")
    with pytest.raises(typer.Exit):
        polite(stumble)()
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as end:
        polite(wait)()
    assert end.value.exit_code == 130
    assert capsys.readouterr() == ("", "")
