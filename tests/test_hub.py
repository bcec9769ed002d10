"""`hf:owner/name` stands for a policy, a data set or weights; what is fetched is said before."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import released
import torch
from safetensors.torch import save_file

from wamkit import build, load_part
from wamkit.checkpoints.files import find
from wamkit.config.check import check, warnings_of
from wamkit.config.spec import parse_part, read
from wamkit.errors import Note, WamkitError
from wamkit.files.hub import local_path, pin_revision
from wamkit.policy.build import resolve
from wamkit.testing.dataset import record

EXAMPLES = Path(__file__).parent.parent / "examples"
TOY, PHOTO = EXAMPLES / "toy.toml", EXAMPLES / "images/coffee.jpg"
hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")
constants = pytest.importorskip("huggingface_hub.constants")

WAN = {
    "name": "wan", "num_heads": 2, "head_dim": 12, "mlp_dim": 40, "text_width": 20,
    "latent_channels": 16, "cond_channels": 0,
}  # fmt: skip
fetched: list[Any] = []
"""Patterns of files of each download, oldest first."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose subfolders owner/name are what the hub has."""
    home = tmp_path / "remote"
    fetched.clear()

    def repo_info(self: Any, name: str, **options: Any) -> Any:
        assert options["timeout"] <= 10 and options["files_metadata"]
        if not (home / name).is_dir():
            raise errors.HFValidationError(f"no repository {name}")
        files = [p for p in (home / name).rglob("*") if p.is_file()]
        return SimpleNamespace(
            sha="0" * 40,
            card_data={"license": "cc-by-4.0"},
            siblings=[
                SimpleNamespace(rfilename=str(p.relative_to(home / name)), size=p.stat().st_size)
                for p in files
            ],
        )

    def snapshot_download(name: str, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("nothing is here")
        assert options["revision"] == "0" * 40
        fetched.append(options["allow_patterns"])
        return str(home / name)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    return home


def test_a_policy_and_its_weights_are_named_on_the_hub(remote: Path, wamkit: Run) -> None:
    build(TOY).save(remote / "me/toy")
    look = ("--image", PHOTO, "--prompt", "pick up the cup")
    code, _, err = wamkit("act", "hf:me/toy@main", *look)
    assert code == 0 and "fetching hf:me/toy@main: " in err and "license: cc-by-4.0" in err
    shutil.copytree(remote / "me/toy", remote / "me/runs/best")
    assert wamkit("act", "hf:me/runs/best", *look)[0] == 0
    assert wamkit("estimate", "hf:me/toy")[0] == 0
    code, out, _ = wamkit("weights", "inspect", "hf:me/runs/best/backbone.safetensors")
    assert code == 0 and out


def test_a_data_set_is_named_on_the_hub(remote: Path, wamkit: Run) -> None:
    record(
        remote / "me/cups", resolve(TOY), episodes=2, frames=12, image_format="image", size=(48, 64)
    )
    code, out, err = wamkit("data", "check", "hf:me/cups")
    assert code == 0 and "fetching hf:me/cups" in err, out + err
    code, out, err = wamkit("data", "check", "hf:me/nothing")
    assert code == 2 and "cannot be fetched, and no copy is here" in err


@pytest.mark.parametrize("path", ["hf:one", "hf:", "hf:a/b c"])
def test_a_name_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(WamkitError, match="names no repository of the hub"):
        local_path(path)


def test_offline_is_reported_at_once(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WamkitError, match="HF_HUB_OFFLINE is set"):
        local_path("hf:me/toy")


def test_without_the_client_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WamkitError, match="huggingface_hub is not installed"):
        local_path("hf:me/toy")


def test_what_is_missing_is_reported_with_its_size(remote: Path) -> None:
    (remote / "me/big").mkdir(parents=True)
    (remote / "me/big/a.safetensors").write_bytes(b"0" * 2_500_000)
    (remote / "me/big/readme.txt").write_bytes(b"0" * 1000)
    with pytest.warns(Note, match=r"1 file, 2\.50 MB, license: cc-by-4\.0"):
        assert local_path("hf:me/big", files=("*.safetensors",)) == remote / "me/big"


def _published(folder: Path, layers: int) -> dict[str, str]:
    """A published backbone that no variant has the sizes of."""
    backbone: Any = load_part("backbone", WAN | {"layers": layers})
    folder.mkdir(parents=True)
    state = {k: v.contiguous() for k, v in backbone.state_dict().items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "_class_name": "WanTransformer3DModel", "num_attention_heads": 2,
                "attention_head_dim": 12, "in_channels": 16, "out_channels": 16, "text_dim": 20,
                "ffn_dim": 40, "num_layers": layers,
            }
        )
    )  # fmt: skip
    return {"name": "wan", "weights": f"hf:{folder.parent.name}/{folder.name}"}


def test_sizes_are_read_from_the_hub_before_the_weights(remote: Path, wamkit: Run) -> None:
    table = _published(remote / "me/small-wan", 2)
    raw = read(TOY) | {"backbone": table}
    (caution,) = (c for c in warnings_of(raw) if "backbone.weights" in c.between)
    assert "not here yet" in caution.why and "sizes are not known" in caution.why
    with pytest.warns(Note, match="1 file, "):
        policy_part: Any = load_part("backbone", table)
    assert len(policy_part.blocks) == 2
    assert not [c for c in warnings_of(raw) if "not here yet" in c.why]
    conflicts = [c for c in check(raw | {"backbone": table | {"layers": 3}}) if "layers" in c.why]
    assert len(conflicts) == 1 and "backbone.layers" in conflicts[0].between[0]


def test_weights_on_the_hub_are_converted_with_their_own_sizes(
    remote: Path, wamkit: Run, tmp_path: Path
) -> None:
    table = _published(remote / "me/smaller-wan", 1)
    goal = tmp_path / "new.safetensors"
    encoder = ("weights", "convert", table["weights"], "--part", "backbone:wan", "--out", goal)
    code, out, err = wamkit(*encoder)
    assert code == 0 and goal.is_file(), out + err


def test_a_name_that_is_none_is_a_conflict_of_the_spec(remote: Path) -> None:
    raw = read(TOY)
    found = check(raw | {"backbone": raw["backbone"] | {"weights": "hf:one"}})
    assert [c for c in found if c.between == ("backbone.weights",) and "no repository" in c.why]


def test_a_text_encoder_is_named_on_the_hub(remote: Path) -> None:
    pytest.importorskip("transformers", reason="the part needs it")
    (remote / "me/words/text_encoder").mkdir(parents=True)
    config = {"model_type": "umt5", "d_model": 32}
    (remote / "me/words/text_encoder/config.json").write_text(json.dumps(config))
    with pytest.raises(WamkitError, match="there is no tokenizer in"):
        load_part("text_encoder", {"name": "umt5-xxl", "weights": "hf:me/words"})
    part: Any = parse_part("text_encoder", {"name": "umt5-xxl", "weights": "hf:me/words"})
    assert part.embedding == 32


def test_the_commit_that_was_read_is_in_the_card_and_in_the_spec(remote: Path) -> None:
    made = build(TOY)
    made.save(remote / "me/toy")
    named = "hf:me/toy/backbone.safetensors@main"
    policy = build(TOY, [f"backbone.weights={named}"])
    folder = policy.save(remote.parent / "out")
    assert f"hf:me/toy/backbone.safetensors@{'0' * 40}" in (folder / "README.md").read_text()
    assert "hf:" not in (folder / "spec.yaml").read_text()  # its file lies next to it


@pytest.mark.parametrize("name", ["hf:me/a", "hf:me/a@main", "hf:me/a/b.safetensors", "hf:me/a#x"])
def test_a_name_is_pinned_to_what_was_read(remote: Path, name: str) -> None:
    (remote / "me/a").mkdir(parents=True)
    (remote / "me/a/b.safetensors").write_bytes(b"")
    where = name.partition("#")[0]
    local_path(where)
    commit, rest = "0" * 40, name.removeprefix("hf:me/a").removesuffix("@main")
    path, _, prefix = rest.partition("#")
    assert pin_revision(name) == f"hf:me/a{path}@{commit}" + (f"#{prefix}" if prefix else "")
    assert pin_revision(pin_revision(name)) == pin_revision(name)
    assert (
        pin_revision("some/folder") == "some/folder"
        and pin_revision("hf:never/read") == "hf:never/read"
    )


def test_a_text_encoder_stays_on_the_hub_at_its_commit(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wamkit.files import hub
    from wamkit.policy import saving as folder

    policy = build(TOY)
    monkeypatch.setitem(hub._commits, ("hf:me/words@main", "model"), "1" * 40)
    encoder: Any = parse_part("text_encoder", {"name": "umt5-xxl", "weights": "hf:me/words@main"})
    spec = policy.spec.model_copy(update={"text_encoder": encoder})
    assert folder.strip_paths(spec).text_encoder.weights == f"hf:me/words@{'1' * 40}"


def test_a_repository_of_pickled_files_alone_is_fetched(remote: Path, tmp_path: Path) -> None:
    folder = remote / "me/pickled"
    folder.mkdir(parents=True)
    torch.save({"layer.weight": torch.ones(2, 2)}, folder / "model.pt")
    with pytest.warns(Note):
        assert [file.name for file in find("hf:me/pickled")] == ["model.pt"]
    assert "*.pt" not in fetched[0] and "*.pt" in fetched[-1]


def test_a_released_checkpoint_is_imported_from_the_hub(
    remote: Path, tmp_path: Path, wamkit: Run
) -> None:
    released.fastwam(remote / "me/fastwam")
    (remote / "me/fastwam/README.md").write_text("---\nlicense: mit\n---\n# Fast-WAM\n")
    out = tmp_path / "policy"
    for source in ("hf:me/fastwam", "hf:me/fastwam/libero_uncond_2cam224.pt"):
        code, _, err = wamkit(
            "import", source, "--out", out, "--random-parts", *released.set_options()
        )
        assert code == 0, err
        card = (out / "README.md").read_text()
        assert f"{source}@{'0' * 40}" in card and "license: mit" in card
        assert json.loads((out / "statistics.json").read_text())["action"]
