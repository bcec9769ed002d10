"""VAEs and text encoders that fit a backbone by size, and that its weights never met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner
from wamkit_qwen_image import QwenImage
from wamkit_toy import Toy

import wamkit
from wamkit.cli import app
from wamkit.config.check import check, warnings_of
from wamkit.config.parts import Caution, TextEncoderConfig, TrainedWith, Traits, VAEConfig
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, override, parse, read
from wamkit.errors import WamkitWarning
from wamkit.testing.fixtures import compose, default, spec_with

ROOT = Path(__file__).parent.parent
LTX, LIGHT = ROOT / "examples/fastwam_on_ltx.toml", ROOT / "examples/light_wam.toml"


def warned(source: Path, *changes: str) -> list[tuple[str, ...]]:
    return [caution.between for caution in warnings_of(read(source, list(changes)))]


class Stranger(QwenImage):
    """A backbone of somebody else, for latents of 16 channels."""

    name: Literal["third_party"] = "third_party"  # type: ignore[assignment]
    known: bool = True

    @property
    def traits(self) -> Traits:
        known = TrainedWith(vae="wan2.1") if self.known else TrainedWith()
        return super().traits.model_copy(update={"trained_with": known})


def around(vae: str, **settings: Any) -> PolicySpec:
    spec = compose(Stranger(variant="tiny"), default(registry().get("paradigm", "single_pass")))
    part: Any = registry().get("vae", vae)
    parts = {"backbone": Stranger(variant="tiny", **settings), "vae": part()}
    return spec.model_copy(update=parts)


def test_unknown_devices_report_their_facts_and_similar_ones_are_distinguished() -> None:
    assert not warnings_of(around("wan2.1")) and not warnings_of(around("taew2.1"))
    (found,) = warnings_of(around("flux1"))
    assert found.between == ("vae", "backbone")
    assert "third_party tiny was trained with wan2.1; latents of flux1" in found.why
    assert found.hint.startswith('set vae.name = "wan2.1", or vae.adapter = "linear"')
    assert warnings_of(around("taef1")) and not warnings_of(around("flux1", known=False))


def test_a_learned_projection_is_no_reason_for_a_warning() -> None:
    assert warned(LTX, 'text_encoder={name="umt5-xxl"}') == [("text_encoder", "backbone")]
    assert not warned(LTX, 'text_encoder={name="umt5-xxl",adapter="linear"}')
    assert warned(LTX, 'vae={name="ltx2"}') == [("vae", "backbone")]
    assert not warned(LTX, 'vae={name="ltx2",adapter="linear"}')


@pytest.mark.parametrize(
    ("vae", "strange"),
    [("wan2.1", False), ("taew2.1", False), ("flux1", True), ("taef1", True)],
)
def test_tiny_vaes_stand_in_for_those_whose_latents_they_make(vae: str, strange: bool) -> None:
    assert bool(warned(LIGHT, f'vae={{name="{vae}"}}')) is strange


def test_stored_embeddings_are_those_of_their_encoder(tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    assert warned(LTX, f'text_encoder={{name="umt5-xxl",embeddings_file="{file}"}}')
    assert not warned(LTX, f'text_encoder={{name="t5-xxl",embeddings_file="{file}"}}')


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda f: f.stem)
def test_no_published_spec_is_warned_of(file: Path) -> None:
    assert warnings_of(file) == []
    assert warnings_of(parse(read(file)).tiny()[0]) == []


def test_what_is_learned_anew_or_has_no_weights_is_not_warned_of() -> None:
    for backbone in registry().names("backbone"):
        assert not warnings_of(spec_with(backbone=backbone))
    bytes_ = 'text_encoder={name="bytes",embedding=4096}'
    assert not warned(LTX, bytes_) and not check(read(LTX, [bytes_]))


def test_hints_of_conflicts_name_the_parts() -> None:
    conflicts = check(read(LTX, ['vae={name="wan2.1"}', 'text_encoder={name="t5-11b"}']))
    hints = {c.between: c.hint for c in conflicts if not c.missing}
    assert "was trained with (ltx)" in hints["vae", "backbone"]
    assert "was trained with (t5-xxl)" in hints["text_encoder", "backbone"]
    anything = check(override(read(LTX), ['backbone={name="toy",latent_channels=3}']))
    assert any("was trained with, or set vae.adapter" in c.hint for c in anything)


def test_every_published_variant_names_parts_that_are_there() -> None:
    known = {kind: set(registry().names(kind)) for kind in ("vae", "text_encoder")}
    spaces: dict[str, set[str | None]] = {"vae": set(), "text_encoder": set()}
    for cls in registry():
        part: Any = default(cls)
        if isinstance(part, VAEConfig):
            spaces["vae"].add(part.latent_space)
        if isinstance(part, TextEncoderConfig):
            spaces["text_encoder"].add(part.embedding_space)
    assert spaces["vae"] - {None} <= known["vae"]
    for name in registry().names("backbone"):
        part = registry().get("backbone", name)
        for variant in getattr(part, "sizes", {}):
            traits = part(variant=variant).traits  # type: ignore[attr-defined]
            if variant == "tiny":
                assert not traits.trained_with.text_encoder
                continue
            assert traits.trained_with.vae and set(traits.trained_with.vae) <= known["vae"]
            if traits.text != "none":
                assert traits.trained_with.text_encoder
                missing = set(traits.trained_with.text_encoder) - known["text_encoder"]
                assert missing <= {"gemma-3-12b"}


def test_a_warning_is_reported_everywhere_and_changes_no_exit_code(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(LIGHT.read_text().replace('name = "wan2.1"', 'name = "flux1"', 1))
    small = ("--set", "text_encoder={name='bytes',embedding=4096}")
    checked = CliRunner().invoke(app, ["check", str(spec), *small])
    assert checked.exit_code == 0 and "mean something else" in checked.output
    for verb in ("check", "explain"):
        out = CliRunner().invoke(app, [verb, str(spec), *small, "--json"])
        (found,) = json.loads(out.stdout)["warnings"]
        assert out.exit_code == 0 and set(found) == {"between", "why", "hint"}
    assert "mean something else" in CliRunner().invoke(app, ["explain", str(spec), *small]).output
    table = CliRunner().invoke(
        app, ["matrix", "--backbone", "toy", "--paradigm", "joint", "--json"]
    )
    assert all(cell["warnings"] == [] for cell in json.loads(table.stdout)["cells"])


class Doubtful(Toy):
    """A part that has something to say about the spec it is in."""

    name: Literal["doubtful"] = "doubtful"  # type: ignore[assignment]

    def cautions(self, spec: PolicySpec) -> Any:
        yield Caution(between=("backbone",), why=f"{spec.vae.name} is slow", hint="wait")


def test_a_part_may_warn_by_itself() -> None:
    spec = compose(Doubtful(), default(registry().get("paradigm", "single_pass")))
    assert [str(c) for c in warnings_of(spec)] == [
        f"backbone: {spec.vae.name} is slow\n    hint: wait"
    ]


def test_building_warns_as_python_does(tmp_path: Path) -> None:
    sizes = "layers=1,num_heads=1,mlp_dim=8,text_width=16"
    changes = [
        f'backbone={{name="wan",variant="2.1-t2v-1.3b",{sizes}}}',
        'vae={name="flux1",width="tiny"}',
        'text_encoder={name="bytes"}',
        'action_head={name="regression"}',
        'paradigm={name="single_pass"}',
        "video={num_frames=1,num_observed=1}",
        'cameras.views=[{name="image",size=[32,32]}]',
        "dtype=float32",
    ]
    with pytest.warns(WamkitWarning, match="latents of flux1 have as many channels, 16"):
        wamkit.build(LIGHT, changes)
    out = tmp_path / "policy"
    sets = [word for change in changes for word in ("--set", change)]
    built = CliRunner().invoke(app, ["build", str(LIGHT), *sets, "--out", str(out), "--json"])
    assert built.exit_code == 0, built.output
    assert len(json.loads(built.stdout)["warnings"]) == 1
    assert built.stderr.count("warning: ") == 1
    seen = ["--image", str(LIGHT.parent / "images/coffee.jpg"), "--prompt", "lift"]
    seen += ["--state", "0,0,0,0,0,0,0,0", "--json"]
    for source, more in ((str(LIGHT), sets), (str(out), [])):
        acted = CliRunner().invoke(app, ["act", source, *more, *seen])
        assert acted.exit_code == 0, acted.stderr
        assert json.loads(acted.stdout)["actions"]
        assert acted.stderr.count("latents of flux1 have as many channels, 16") == 1
        args = ["train", source, *more, "--data", str(tmp_path / "none"), "--out"]
        trained = CliRunner().invoke(app, [*args, str(tmp_path / "run"), "--json"])
        assert trained.exit_code == 2 and "no data set" in trained.stderr
        assert trained.stderr.count("latents of flux1 have as many channels, 16") == 1
