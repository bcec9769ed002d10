"""Deep images: scaled by the rule that a view states, the same everywhere, or refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

import wamkit as package
from wamkit import Observation, WamkitError
from wamkit.config.cameras import CameraConfig, View
from wamkit.data import LeRobotFolder, Samples, check
from wamkit.data.encoding import precompute
from wamkit.data.video import Video, pyav
from wamkit.files.pixels import read_pixels
from wamkit.policy.build import resolve
from wamkit.policy.cameras import CameraLayout
from wamkit.policy.observation import read_image
from wamkit.serve.client import Client
from wamkit.serve.latency import random_request
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.dataset import record
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import same_values

SMALL = Path(__file__).parent / "data" / "small.toml"
KEY = "observation.images.front"
RANGE = "cameras.views.0.value_range=[600, 3600]"
RAMP = np.linspace(0, 1, 32)[None].repeat(16, 0)
DEPTH = (600 + 3000 * RAMP).astype(np.uint16)
Run = Callable[..., tuple[int, str, str]]


@cache
def spec(*overrides: str) -> Any:
    return resolve(SMALL, ["cameras.views.0.size=[16, 32]", *overrides])


def saved(folder: Path, name: str, values: NDArray[Any]) -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


KINDS = [
    ("depth.png", DEPTH),
    ("depth.tif", DEPTH),
    ("signed.tif", DEPTH.astype(np.int32)),
    ("meters.tif", (0.6 + 3.0 * RAMP).astype(np.float32)),
]


@pytest.mark.parametrize(("name", "values"), KINDS)
def test_a_deep_file_keeps_its_own_units(tmp_path: Path, name: str, values: NDArray[Any]) -> None:
    file = saved(tmp_path, name, values)
    for image in (
        file,
        Image.open(file),
        values,
        torch.from_numpy(values.astype(np.float64))[None],
    ):
        seen = Observation({"front": image}, "go").images["front"]
        assert seen.dtype == torch.float32 and seen.shape == (1, 1, 1, 16, 32)
        assert np.array_equal(seen[0, 0, 0].numpy(), values.astype(np.float32))
    with pytest.raises(WamkitError, match="one channel of more than 8 bits"):
        read_image(file)


def test_a_view_scales_between_its_values_and_ends_there() -> None:
    layout = CameraLayout(
        CameraConfig(views=(View(name="front", size=(16, 32), value_range=(1000, 3000)),))
    )
    images = layout.canvas(Observation({"front": DEPTH}, "go").images)[0, :, 0]
    expected = np.clip((DEPTH.astype(np.float64) - 1000) / 2000, 0, 1) * 2 - 1
    for channel in images:
        same_values(channel, expected.astype(np.float32), 1e-5)
    assert images.min() == -1 and images.max() == 1


def test_a_view_without_a_range_refuses_depth_and_states_what_to_set() -> None:
    policy = package.build(spec())
    with pytest.raises(WamkitError, match="one channel with values from 600 to 3600") as error:
        policy.act(Observation({"front": DEPTH}, "go"))
    assert RANGE in error.value.hint


def test_a_view_with_a_range_refuses_color_and_other_units() -> None:
    policy = package.build(spec(RANGE))
    color = np.zeros((16, 32, 3), np.uint8)
    with pytest.raises(WamkitError, match="8-bit color, and view 'front' expects one channel"):
        policy.act(Observation({"front": color}, "go"))
    with pytest.raises(WamkitError, match=r"from 0.6 to 3.6, are beyond its value_range"):
        policy.act(Observation({"front": DEPTH / 1000}, "go"))
    black = np.zeros((16, 32), np.uint16)  # a camera that is covered
    assert policy.act(Observation({"front": black}, "go")).values.isfinite().all()


def test_depth_that_is_not_finite_is_refused_with_its_pixel() -> None:
    hole = DEPTH.astype(np.float32)
    hole[3, 4] = np.nan
    for image in (hole, torch.from_numpy(hole)[None], Image.fromarray(hole)):
        with pytest.raises(WamkitError, match="nan at row 3, column 4, 1 of 512") as error:
            Observation({"front": image}, "go")
        assert "write 0" in error.value.hint


@pytest.mark.parametrize("value", ["[3, 3]", "[5, 1]", "[0, inf]", "[nan, 1]", "[1]", "7"])
def test_a_range_is_two_rising_finite_values(value: str) -> None:
    with pytest.raises(WamkitError, match="value_range") as error:
        resolve(SMALL, [f"cameras.views.0.value_range={value}"])
    assert "out for" not in str(error.value)  # left out it is none, and no number


def _png(values: NDArray[np.uint16], color: int) -> bytes:
    """A PNG of 16 bits a channel, [height, width, channels], written by hand."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("channels", "color"), [(3, 2), (2, 4), (4, 6)])
def test_colors_of_16_bits_are_refused_before_they_are_cut(
    tmp_path: Path, channels: int, color: int
) -> None:
    file = tmp_path / "deep.png"
    file.write_bytes(_png(DEPTH[..., None].repeat(channels, -1), color))
    for image in (file, Image.open(file)):
        with pytest.raises(WamkitError, match="channels of more than 8 bits") as error:
            Observation({"front": image}, "go")
        assert "one channel of 16 bits" in error.value.hint
    (tmp_path / "wide.ppm").write_bytes(
        b"P6 32 16 65535\n" + DEPTH[..., None].repeat(3, -1).astype(">u2").tobytes()
    )
    with pytest.raises(WamkitError, match="channels of more than 8 bits"):
        Observation({"front": Image.open(tmp_path / "wide.ppm")}, "go")
    with pytest.raises(WamkitError, match="begins with b'P6 32 16"):
        read_image(tmp_path / "wide.ppm")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "HSV", "YCbCr"])
def test_images_of_8_bits_are_as_they_were(mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 32, 3), np.uint8)).convert(mode)
    seen = Observation({"front": image}, "go").images["front"][0, 0]
    assert np.array_equal(seen.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(
        np.arange(16 * 32 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 32, 3)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "held.png", exif=exif)
    with Image.open(tmp_path / "held.png") as reader:
        expected = np.asarray(ImageOps.exif_transpose(reader).convert("RGB"))
    assert np.array_equal(read_pixels(tmp_path / "held.png"), expected)


def depth_at(episode: int, frame: int) -> NDArray[np.uint16]:
    return (DEPTH + 10 * frame + 100 * episode).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set whose images are PNG files of 16 bits, which its metadata calls color."""
    made = record(tmp_path / "set", spec(), image_format="image", size=(16, 32))
    file = next((made / "data").rglob("*.parquet"))
    table = pq.read_table(file)

    def cell(row: int) -> dict[str, Any]:
        stream = io.BytesIO()
        Image.fromarray(depth_at(row // 12, row % 12)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    cells = pa.array([cell(row) for row in range(table.num_rows)], table.schema.field(KEY).type)
    pq.write_table(table.set_column(table.column_names.index(KEY), KEY, cells), file)
    return made


def test_training_and_acting_scale_alike(folder: Path) -> None:
    ranged = spec(RANGE)
    sample = Samples(folder, ranged)[5]
    images = CameraLayout(ranged.cameras).canvas({"front": sample["images"]["front"][None]})
    seen = Observation({"front": Image.fromarray(depth_at(0, 5))}, "go")
    acted = CameraLayout(ranged.cameras).canvas(seen.images)
    assert torch.equal(images[:, :, :1], acted) and acted.std() > 0.3


def test_a_data_set_of_depth_is_refused_without_a_range(folder: Path, tmp_path: Path) -> None:
    for make in (
        lambda: Samples(folder, spec()),
        lambda: precompute(LeRobotFolder(folder), spec(), tmp_path / "latents"),
    ):
        with pytest.raises(WamkitError, match=f"{KEY}' of episode 0 at frame 0: one ch") as error:
            make()
        assert "set cameras.views.0.value_range=[600, 36" in error.value.hint


def test_data_check_reports_depth(folder: Path) -> None:
    shape, view = check(folder, spec(), decode=True)
    assert "24 of 24 images" in shape.why and "the metadata says [16, 32, 3]" in shape.why
    assert "view 'front'" in view.why and "value_range=[600, 3810]" in view.hint
    (found,) = check(folder, spec(RANGE))
    assert "2 of 2 images that were checked" in found.why
    info = folder / "meta" / "info.json"
    info.write_text(info.read_text().replace("32,\n                3", "32,\n                1"))
    assert LeRobotFolder(folder).features[KEY].shape == (16, 32, 1)
    assert check(folder, spec(RANGE), decode=True) == []


def test_data_check_reports_a_range_in_another_unit(folder: Path) -> None:
    found = check(folder, spec("cameras.views.0.value_range=[0.3, 3.5]"), decode=True)
    assert "100% of the values" in found[-1].why and "they go from 600 to 3810" in found[-1].hint


def test_data_check_reports_color_where_depth_is_expected(tmp_path: Path) -> None:
    made = record(tmp_path / "set", spec(), size=(16, 32))
    found = check(made, spec(RANGE), decode=True)
    assert len(found) == 1 and "8-bit color, and view 'front' expects one channel" in found[0].why


def _film(file: Path, codec: str, kind: str) -> Path:
    av = pyav()
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, kind
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(depth_at(0, i), format="gray16le")
            frame = frame if kind == "gray16le" else frame.reformat(format=kind)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def test_videos_of_16_bit_gray_keep_their_own_units(tmp_path: Path) -> None:
    video = Video(_film(tmp_path / "a.mkv", "ffv1", "gray16le"))
    assert video.is_deep
    for i, images in enumerate(video.at([0.0, 0.1, 0.2], 1e-3)):
        assert np.array_equal(images[..., 0], depth_at(0, i))


def test_videos_of_16_bit_color_are_refused(tmp_path: Path) -> None:
    video = Video(_film(tmp_path / "a.mov", "png", "rgb48be"))
    with pytest.raises(WamkitError, match="format rgb48be, which is not read"):
        video.at([0.0], 1e-3)


def test_depth_trains_is_saved_and_acts_from_the_command_line(wamkit: Run, tmp_path: Path) -> None:
    policy = package.build(spec(RANGE))
    assert policy.loss(batch_of(policy.spec), seed=0).total.isfinite()
    assert policy.imagine(observation(policy.spec, batch=1), seed=0).canvas.isfinite().all()
    out, file = policy.save(tmp_path / "out"), saved(tmp_path, "depth.png", DEPTH)
    args = ("act", out, "--image", f"front={file}", "--prompt", "go", "--json")
    code, text, _ = wamkit(*args)
    import json

    expected = policy.act(Observation({"front": file}, "go"), seed=0).values
    assert code == 0 and json.loads(text)["actions"] == expected.tolist()
    color = saved(tmp_path, "color.png", np.zeros((16, 32, 3), np.uint8))
    code, _, err = wamkit(*args[:3], f"front={color}", *args[4:])
    assert code == 2 and "8-bit color" in err


def test_a_server_takes_depth_where_a_view_has_a_range() -> None:
    policy, listener = package.build(spec(RANGE)), bind("127.0.0.1", 0)
    with run_in_thread(Server(policy, "small"), listener), Client(*address_of(listener)) as client:
        assert client.metadata["cameras"]["front"]["value_range"] == [600, 3600]
        request = {"observation/front": DEPTH, "prompt": "go", "seed": 0}
        expected = policy.act(Observation({"front": DEPTH}, "go"), seed=0).values[0].numpy()
        for image in (DEPTH, DEPTH[..., None], DEPTH.astype(np.float32)):
            reply = client.infer({**request, "observation/front": image})
            assert np.array_equal(reply["actions"], expected)
        assert client.infer(random_request(client.metadata))["actions"].shape == expected.shape
        with pytest.raises(WamkitError, match="expected one channel"):
            client.infer({**request, "observation/front": np.zeros((16, 32, 3), np.uint8)})
        with pytest.raises(WamkitError, match="nan at row"):
            client.infer({**request, "observation/front": np.full((16, 32), np.nan, np.float32)})


def test_a_server_of_color_refuses_depth() -> None:
    policy, listener = package.build(spec()), bind("127.0.0.1", 0)
    request = {"observation/front": DEPTH, "prompt": "go"}
    with (
        run_in_thread(Server(policy, "small"), listener),
        Client(*address_of(listener)) as client,
        pytest.raises(WamkitError, match="views with value_range"),
    ):
        client.infer(request)
