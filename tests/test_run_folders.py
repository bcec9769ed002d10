"""Folders of runs: damaged, copied without links, or on a full disk; reported, and resumed."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import wamkit as package
from wamkit.config import runs
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.training import read_log, read_saved_state, recordings, same, short_run, state
from wamkit.train.trainer import Summary

SMALL = Path(__file__).parent / "data" / "small.toml"
NEWEST, OLDER = "step-000004", "step-000002"
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("data") / "set", parse(read(SMALL)))


@pytest.fixture(scope="module")
def begun(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, saved after two and after four."""
    place = tmp_path_factory.mktemp("runs") / "run"
    go(folder, place)
    return place


def go(folder: Path, out: Path, **settings: Any) -> Summary:
    return short_run(package.build(SMALL), folder, out, **settings)


def copied(run: Path, goal: Path, *, links: str = "kept") -> Path:
    """A copy of a run whose links were kept, followed or dropped."""
    shutil.copytree(run, goal, symlinks=links != "followed")
    if links == "dropped":
        for name in runs.NAMES:
            (goal / "checkpoints" / name).unlink(missing_ok=True)
    return goal


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_checkpoint_is_reported_and_the_last_one_resumes(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    with room_for(100_000), pytest.raises(WamkitError) as found:
        go(folder, run, steps=6, resume=True)
    message = str(found.value)
    assert "step-000006 could not be written" in message and "too large" in message
    assert f"{NEWEST} is complete: the same command with --resume" in message
    assert not list((run / "checkpoints").glob(".*"))  # room is given back
    assert go(folder, run, steps=6, resume=True).step == 6
    go(folder, tmp_path / "whole", steps=4)
    go(folder, tmp_path / "whole", steps=6, resume=True)
    assert same(state(run), state(tmp_path / "whole"))


def test_no_room_for_the_first_checkpoint_is_reported(folder: Path, tmp_path: Path) -> None:
    with room_for(100_000), pytest.raises(WamkitError, match="nothing was saved before it"):
        go(folder, tmp_path / "run")


def test_no_room_for_a_line_of_the_log_is_reported(folder: Path, tmp_path: Path) -> None:
    with room_for(6000), pytest.raises(WamkitError, match=r"log\.jsonl cannot be written"):
        go(folder, tmp_path / "run", steps=60, save_every=60)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["write_data", "read_data"])
def test_ctrl_c_while_tensors_are_written_or_read_is_still_ctrl_c(
    folder: Path, begun: Path, tmp_path: Path, monkeypatch: Any, interrupt: Any, method: str
) -> None:
    from wamkit.train import states

    def stop(*_: Any) -> None:
        raise interrupt

    base = states.HuggingFaceStorageReader if "read" in method else states.HuggingFaceStorageWriter
    monkeypatch.setattr(base, method, stop)
    with pytest.raises(interrupt):
        go(folder, copied(begun, tmp_path / "run"), steps=6, resume=True)


@pytest.mark.parametrize("place", [".step-000006.part", "step-000006", "last", "best"])
def test_a_file_where_a_folder_or_a_link_should_be_is_no_hindrance(
    folder: Path, begun: Path, tmp_path: Path, place: str
) -> None:
    run = copied(begun, tmp_path / "run", links="dropped")
    (run / "checkpoints" / place).write_text("something else")
    assert go(folder, run, steps=6, resume=True).step == 6
    assert (run / "checkpoints/last/run.json").is_file()


def test_what_is_in_the_way_of_a_new_run_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(WamkitError, match="is a file"):
        go(folder, tmp_path / "run")
    with pytest.raises(WamkitError, match="a run cannot begin in"):
        go(folder, tmp_path / "run" / "below")


def of_state(change: Callable[[Path], Any]) -> Damage:
    return lambda run: change(next((run / "checkpoints" / NEWEST / "state").iterdir()))


def other(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Tensors changed, and the list of files made to fit them, as a port would."""

    def damage(run: Path) -> None:
        from wamkit.config.records import manifest

        checkpoint = run / "checkpoints" / NEWEST
        file = next((checkpoint / "state").iterdir())
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
        (checkpoint / "files.json").unlink()
        content = manifest(checkpoint).model_dump_json()
        (checkpoint / "files.json").write_text(content)

    return damage


def text(name: str, text: str | bytes) -> Damage:
    data = text.encode() if isinstance(text, str) else text
    return lambda run: (run / name).write_bytes(data)


def record(**changes: Any) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEWEST / "run.json"
        report = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in report.items() if v != "absent"}))

    return damage


def placed(position: int) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEWEST / "run.json"
        report = json.loads(file.read_text())
        report["loader"]["position"] = position
        file.write_text(json.dumps(report))

    return damage


def loader(**changes: Any) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEWEST / "run.json"
        report = json.loads(file.read_text())
        report["loader"] |= changes
        file.write_text(json.dumps(report))

    return damage


def files(name: str) -> Damage:
    mark = f"1:{16 * '0'}"
    return text(f"checkpoints/{NEWEST}/files.json", json.dumps({"files": {name: mark}}))


def settings(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(run: Path) -> None:
        import yaml

        notes = yaml.safe_load((run / "train.yaml").read_text())
        change(notes)
        (run / "train.yaml").write_text(yaml.safe_dump(notes))

    return damage


def first(tensors: dict[str, torch.Tensor], change: Callable[[torch.Tensor], Any]) -> None:
    name = min(name for name in tensors if name.startswith("weight/"))
    tensors[name] = change(tensors[name])


RUN = f"checkpoints/{NEWEST}/run.json"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 1234\n"
FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "a state cut off": (
        of_state(lambda p: p.write_bytes(p.read_bytes()[:1000])),
        [NEWEST, "has 1000 bytes of", f"--resume then continues from {OLDER}"],
    ),
    "an empty state": (of_state(lambda p: p.write_bytes(b"")), [NEWEST, "has 0 bytes of"]),
    "a pointer for a state": (
        of_state(lambda p: p.write_text(POINTER)),
        ["is a pointer of git-lfs", "`git lfs pull` fetches it"],
    ),
    "a pointer for a record": (text(RUN, POINTER), ["is a pointer of git-lfs"]),
    "a pointer for settings": (text("train.yaml", POINTER), ["is a pointer of git-lfs"]),
    "no state": (of_state(Path.unlink), [NEWEST, ".safetensors is missing"]),
    "no folder": (lambda r: shutil.rmtree(r / "checkpoints" / NEWEST / "state"), ["is missing"]),
    "another's state": (
        of_state(lambda p: p.write_bytes(p.read_bytes()[:-64] + bytes(range(64)))),
        ["is another file than was saved, or it is damaged"],
    ),
    "a foreign shard": (
        of_state(lambda p: shutil.copy(p, p.with_name("shard-00007.safetensors"))),
        ["shard-00007.safetensors does not belong to it"],
    ),
    "a folder for a file": (of_state(lambda p: (p.unlink(), p.mkdir())), ["cannot be read"]),
    "other shapes": (
        other(lambda t: first(t, lambda x: x[:1].clone())),
        ["holds another state", "expected"],
    ),
    "other dtypes": (other(lambda t: first(t, lambda x: x.double())), ["torch.float64; expected"]),
    "fewer tensors": (
        other(lambda t: [t.pop(name) for name in list(t) if name.startswith("weight/")]),
        ["is missing", "more"],
    ),
    "more tensors": (
        other(lambda t: t.update(ghost=torch.ones(2))),
        ["ghost belongs to nothing here"],
    ),
    "no list of files": (
        lambda r: (r / "checkpoints" / NEWEST / "files.json").unlink(),
        ["files.json cannot be read: No such file"],
    ),
    "a list of numbers": (
        text(f"checkpoints/{NEWEST}/files.json", '{"files": {"a": 3, "b": "x"}}'),
        ["files.json is damaged", "files.a", "files.b"],
    ),
    "an empty record": (text(RUN, ""), ["run.json is damaged: it is empty"]),
    "a binary record": (text(RUN, bytes([0xFF, 0, 0x80])), ["run.json is damaged: it is no text"]),
    "half a record": (text(RUN, '{"step": 4,'), ["run.json is damaged: "]),
    "a list": (text(RUN, "[1]"), ["it holds a list, not a table"]),
    "depths": (text(RUN, "[" * 100_000), ["run.json is damaged"]),
    "no keys": (text(RUN, "{}"), ["step: it is missing", "loader: it is missing", "noise"]),
    "unknown keys": (record(setp=4), ["setp: no such key"]),
    "two faults": (
        record(step="4", noise=None, best_step=-1),
        ["step: ", "found '4'", "noise: ", "best_step: ", "found -1"],
    ),
    "another step": (record(step=7), [f"it is of step 7, its folder is {NEWEST}"]),
    "a huge number": (record(step=10**40), ["run.json is damaged: step"]),
    "no number": (record(best=float("nan")), ["run.json is damaged"]),
    "another order": (
        record(loader={"epoch": 0, "position": 1, "seed": 0, "size": 7, "batch": 4}),
        ["the order was of size 7"],
    ),
    "another place": (placed(10**9), ["the order has 5 batches, and this is place 1000000000"]),
    "an epoch of 10^9": (
        loader(epoch=10**9),
        ["run.json is damaged: epoch 1000000000 and position", "the step is 4"],
    ),
    "a place that is taken already": (loader(position=0), ["after 0 batches, and the step is 4"]),
    "a place below 0": (placed(-1), ["run.json is damaged: loader.position"]),
    "a seed of 10^30": (loader(seed=10**30), ["run.json is damaged: loader.seed"]),
    "a file outside": (
        files("state/../../../../x"),
        ["files.json is damaged", "has the part '..'"],
    ),
    "an absolute file": (files("/etc/passwd"), ["files.json is damaged", "is an absolute path"]),
    "empty settings": (text("train.yaml", ""), ["train.yaml is damaged: it is empty"]),
    "a number": (text("train.yaml", "3"), ["train.yaml is damaged: it holds a int"]),
    "broken YAML": (text("train.yaml", "a: [1,\nb: }"), ["train.yaml is damaged"]),
    "a binary file": (text("train.yaml", bytes(range(128, 160))), ["train.yaml is damaged"]),
    "wrong types": (
        text("train.yaml", "data: 3\nsettings: 7\n"),
        ["data: ", "settings: ", "folder: it is missing"],
    ),
    "a setting lost": (settings(lambda t: t["settings"].pop("lr")), ["it lacks settings.lr"]),
    "an unknown setting": (
        settings(lambda t: t["settings"].update(rate=1)),
        ["settings.rate: no such key"],
    ),
    "a wrong setting": (
        settings(lambda t: t["settings"].update(lr="fast", steps=-1)),
        ["settings.lr: ", "settings.steps: "],
    ),
    "an empty spec": (text("spec.yaml", ""), ["spec.yaml"]),
    "no spec": (lambda r: (r / "spec.yaml").unlink(), ["lacks spec.yaml", "put spec.yaml back"]),
    "half a spec": (text("spec.yaml", "backbone: {name: toy}\n"), ["spec.yaml", "vae", "actions"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_before_anything_is_changed(
    folder: Path, begun: Path, tmp_path: Path, fault: str
) -> None:
    damage, message = FAULTS[fault]
    run = copied(begun, tmp_path / "run")
    damage(run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    with pytest.raises(WamkitError) as found:
        go(folder, run, steps=6, resume=True)
    assert [word for word in message if word not in str(found.value)] == [], found.value
    assert "hint: " in str(found.value)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_damaged_lines_of_a_log_are_reported_and_kept_in_a_file(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines()
    bad = [
        b"[1]",
        b'{"step": "x"}',
        b'{"loss": 1}',
        bytes([0xFF, 0x80]),
        b'{"step": 1, "parts": 3}',
    ]
    log.write_bytes(b"\n".join([*bad, *lines, b'{"step": 4, "lo']))
    notes: list[str] = []
    from wamkit.data import Columns
    from wamkit.testing.training import SHORT
    from wamkit.train.config import TrainConfig
    from wamkit.train.trainer import Data, train

    config = TrainConfig.model_validate({**SHORT, "steps": 6})
    data = Data(folder, Columns())
    train(package.build(SMALL), data, run, config, resume=True, note=notes.append)
    assert ["damaged lines: 1, 2, 3, 4, 5;" in line for line in notes] == [True]
    assert (run / "log-damaged.jsonl").read_bytes().startswith(b"[1]")
    steps = [line["step"] for line in read_log(run) if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def killed_before_a_checkpoint(folder: Path, run: Path, **settings: Any) -> None:
    """Leave what a run leaves that is killed after its first update."""

    def kill(step: int, _: Any) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        short_run(package.build(SMALL), folder, run, on_step=kill, **settings)


@pytest.mark.parametrize("missing", [(), ("log.jsonl",), ("log.jsonl", "train.yaml", "spec.yaml")])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    folder: Path, begun: Path, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    killed_before_a_checkpoint(folder, run)
    for name in missing:
        (run / name).unlink()
    with pytest.raises(WamkitError, match="a run was begun in it, and has no checkpoint") as error:
        go(folder, run)
    assert error.value.hint.startswith("--resume begins it again")
    assert go(folder, run, resume=True).step == 4
    assert same(state(run), state(begun)) and len(read_log(run)) == len(read_log(begun))


def test_a_run_without_a_checkpoint_begins_again_as_it_was_or_not_at_all(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed_before_a_checkpoint(folder, run)
    with pytest.raises(WamkitError, match=r"another lr: lr was 0\.003, is 0\.1"):
        go(folder, run, lr=0.1, resume=True)
    (run / "train.yaml").write_text("settings: {")  # cut short by a version that did so
    assert go(folder, run, lr=0.1, resume=True).step == 4


def test_a_folder_that_holds_more_than_a_run_that_was_begun_is_left_alone(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed_before_a_checkpoint(folder, run)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(WamkitError, match="holds other files than a run that was begun"):
        go(folder, run, resume=True)
    gone = copied(begun, tmp_path / "gone")
    shutil.rmtree(gone / "checkpoints")
    (gone / "loss.svg").unlink()
    with pytest.raises(WamkitError, match="reaches step 4: there was one after step 2"):
        go(folder, gone, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(WamkitError, match="there is no run in"):
        go(folder, tmp_path / "other", resume=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_trains_is_refused(
    folder: Path, begun: Path, tmp_path: Path, resume: bool
) -> None:
    from wamkit.files.locking import lock

    run = copied(begun, tmp_path / "run") if resume else tmp_path / "run"
    with lock(run), pytest.raises(WamkitError, match=f"is in use: process {os.getpid()}") as error:
        go(folder, run, steps=6, resume=resume)
    assert "wait until it has ended, or stop it; or choose another" in error.value.hint
    assert go(folder, run, steps=6, resume=resume).step == 6
    assert not (run / ".lock").exists()


def test_what_killed_runs_left_goes_and_what_lost_its_name_gets_it_again(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    place = run / "checkpoints"
    (place / NEWEST).rename(place / f".{NEWEST}.old.part")  # between two renames of old versions
    for name in (".step-000006.part", ".step-000003.00000000-1-1-0.part"):
        (place / name / "state").mkdir(parents=True)
    (place / ".last.part-link").symlink_to(OLDER)
    (place / "last").unlink()
    (place / "last").symlink_to(OLDER)
    assert go(folder, run, resume=True).step == 4  # all of its steps are done
    assert (place / "last").resolve().name == NEWEST
    assert {p.name for p in place.iterdir()} == {OLDER, NEWEST, "last", "best"}


def test_a_run_from_before_a_setting_that_decides_no_number_goes_on(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    settings(lambda notes: notes["settings"].pop("timeout"))(run)
    assert go(folder, run, steps=6, resume=True).step == 6


@pytest.mark.parametrize("links", ["kept", "followed", "dropped"])
def test_a_run_goes_on_whatever_became_of_its_links(
    folder: Path, begun: Path, tmp_path: Path, links: str
) -> None:
    run = copied(begun, tmp_path / "run", links=links)
    done = go(folder, run, steps=6, resume=True)
    assert done.step == 6 and done.best is not None and done.best.is_dir()
    place = run / "checkpoints"
    assert (place / "last").resolve() == place / "step-000006"
    assert (place / "best").resolve() == done.best
    names = {p.name for p in place.iterdir()}
    assert names == {OLDER, NEWEST, "step-000006", "last", "best"}


def test_links_that_lead_nowhere_or_elsewhere_are_not_followed(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run", links="dropped")
    (run / "checkpoints/last").symlink_to("/nowhere/step-000099")
    (run / "checkpoints/best").symlink_to(begun)
    assert go(folder, run, steps=5, resume=True).step == 5
    assert (begun / "spec.yaml").is_file()
    (run / "checkpoints/last").unlink()
    (run / "checkpoints/last").symlink_to(OLDER)
    assert go(folder, run, steps=6, resume=True).step == 6


def test_a_checkpoint_that_is_here_under_the_name_last_alone_is_gone_on_from(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run", links="followed")
    for name in (NEWEST, OLDER, "best"):
        shutil.rmtree(run / "checkpoints" / name)
    assert runs.find(run).policy == run / "checkpoints/last/policy"
    assert go(folder, run, steps=6, resume=True).step == 6
    assert runs.steps(run / "checkpoints")[0].name == NEWEST


def test_an_older_copy_under_the_name_last_is_not_lost_and_not_taken(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run", links="dropped")
    place = run / "checkpoints"
    shutil.copytree(place / OLDER, place / "last")
    changed = (place / "last/run.json").read_text().replace('"epoch": ', '"epoch":  ')
    (place / "last/run.json").write_text(changed)  # not the same file: it may be all there is of it
    assert go(folder, run, steps=6, resume=True).step == 6
    assert (place / "last-copy-1/run.json").read_text() == changed


def test_without_links_text_files_name_the_checkpoints(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wamkit: Any
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    done = go(folder, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints"
    assert (place / "last").read_text() == f"{NEWEST}\n"
    assert done.best is not None and (place / "best").read_text() == f"{done.best.name}\n"
    assert go(folder, tmp_path / "run", steps=6, resume=True).step == 6
    whole = read_saved_state(tmp_path / "run", "step-000006")
    assert same(Policy.load(place / "last/policy").state_dict(), whole)
    assert wamkit("check", place / "last")[0] == wamkit("check", place / "best/policy")[0] == 0


def test_a_checkpoint_that_was_not_finished_is_passed_over_with_a_note(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    (run / "checkpoints" / NEWEST / "run.json").unlink()
    assert go(folder, run, steps=6, resume=True).step == 6
    other = copied(begun, tmp_path / "other", links="dropped")
    shutil.rmtree(other / "checkpoints" / NEWEST)
    assert go(folder, other, steps=6, resume=True).step == 6
    assert same(state(run), state(other))
    for checkpoint in runs.steps(run / "checkpoints"):
        (checkpoint / "run.json").unlink()
    with pytest.raises(WamkitError, match=r"no finished checkpoint: .* lacks run\.json") as found:
        go(folder, run, steps=7, resume=True)
    assert "remove" not in str(found.value)


def test_a_run_and_its_checkpoints_are_names_of_the_policy_in_them(
    begun: Path, tmp_path: Path, wamkit: Any
) -> None:
    run = copied(begun, tmp_path / "run")
    best = runs.best(run / "checkpoints")
    assert best is not None
    for place in (run, run / "checkpoints"):
        found = runs.find(place)
        assert found.policy == best / "policy" and "the best on held-out" in str(found.note)
    for name in (NEWEST, "last"):
        assert runs.find(run / "checkpoints" / name).policy.parent.name == name
    assert runs.find(best / "policy") == runs.Found(best / "policy")
    assert same(Policy.load(run).state_dict(), Policy.load(best / "policy").state_dict())
    (run / "checkpoints/best").unlink()
    assert runs.find(run / "checkpoints/best/policy").policy == best / "policy"
    shutil.rmtree(best)
    shutil.copytree(begun / "checkpoints" / OLDER, run / "checkpoints" / OLDER, dirs_exist_ok=True)
    code, _, err = wamkit("explain", run)
    assert code == 0 and "note:" in err and "taking checkpoints/step-" in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "it is empty"),
        (["meta/info.json"], "it is a data set"),
        (["model_index.json"], "a published model in diffusers' layout"),
        (["pyproject.toml"], "a Python project"),
        (["a.txt", "b.txt"], "it holds a.txt, b.txt"),
        (["train.yaml"], "has no checkpoint with a policy: none was saved yet"),
        (["checkpoints/step-000003/state/x"], "has no checkpoint with a policy: none is whole"),
        (["state/x"], "a checkpoint that was not finished"),
    ],
)
def test_a_folder_that_holds_no_policy_states_what_it_is(
    tmp_path: Path, files: list[str], message: str, wamkit: Any
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
    code, _, err = wamkit("act", place, "--prompt", "x", "--image", SMALL)
    assert code == 2 and message in err and "hint:" in err
