"""Every kind of pixel becomes the 8-bit RGB that docs/data.md promises, within a bound of memory."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from promptfed.errors import ConfigError, DataError
from promptfed.examples import pixels
from promptfed.examples.base import FileItem
from promptfed.tasks.sources import load_source

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
GREY = Image.fromarray(RAMP)


def encoded(image: Image.Image, kind: str = "TIFF", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(data: bytes | Path) -> np.ndarray:
    image, _ = pixels.decode(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


def note(data: bytes) -> str:
    assert pixels.decode(data, "x")[1] == pixels.examine(data, "x")
    return pixels.examine(data, "x")


def lab_of(image: Image.Image) -> Image.Image:
    kinds = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.applyTransform(image.convert("RGB"), ImageCms.buildTransform(*kinds, "RGB", "LAB"))


SAME_RAMP: dict[str, Callable[[], Image.Image]] = {
    "L": lambda: GREY,
    "P": lambda: GREY.convert("P"),
    "RGB": lambda: GREY.convert("RGB"),
    "RGBA": lambda: GREY.convert("RGBA"),
    "RGBX": lambda: GREY.convert("RGBX"),
    "RGBa": lambda: GREY.convert("RGBA").convert("RGBa"),
    "LA": lambda: GREY.convert("LA"),
    "La": lambda: GREY.convert("LA").convert("La"),
    "PA": lambda: GREY.convert("PA"),
    "CMYK": lambda: GREY.convert("CMYK"),
    "YCbCr": lambda: GREY.convert("YCbCr"),
    "HSV": lambda: GREY.convert("RGB").convert("HSV"),
    "LAB": lambda: lab_of(GREY),
    "I;16": lambda: Image.fromarray(RAMP.astype("<u2") * 257),
    "I": lambda: Image.fromarray(RAMP.astype("i4") * 257),
    "F": lambda: Image.fromarray(RAMP.astype("f4") / 255),
}


@pytest.mark.parametrize("mode", SAME_RAMP)
def test_a_ramp_of_grey_is_the_same_ramp_in_every_mode(mode: str) -> None:
    image = SAME_RAMP[mode]()
    assert image.mode == mode
    shown, said = pixels.as_rgb(image)
    assert (shown.mode, said) == ("RGB", "")
    assert np.abs(np.asarray(shown).astype(int) - RAMP[..., None]).max() <= (2 if mode == "LAB" else 0)


def test_bilevel_is_black_and_white() -> None:
    assert seen(encoded(GREY.point(lambda v: 255 * (v > 99), "1"), "PNG"))[0, [99, 100]].tolist() == [
        [0] * 3,
        [255] * 3,
    ]


def big_endian(values: np.ndarray) -> bytes:
    """A 16-bit TIFF of one strip whose numbers have the high byte first."""
    height, width = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 134), (277, 3, 1),
            (278, 3, height), (279, 4, 2 * values.size), (339, 3, 1)]  # fmt: skip
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in tags
    )
    head = struct.pack(">2sHI", b"MM", 42, 8) + struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
    return head.ljust(134, b"\0") + values.astype(">u2").tobytes()


def test_sixteen_bits_are_scaled_from_their_full_range() -> None:
    values = np.array([[0, 257, 1000, 32768, 65535]], "<u2")
    right = [0, 1, 4, 128, 255]
    for data in (encoded(Image.fromarray(values)), encoded(Image.fromarray(values), "PNG"), big_endian(values)):
        assert seen(data)[0, :, 0].tolist() == right
        assert note(data) == ""
    pgm = b"P5 5 1 65535\n" + values.astype(">u2").tobytes()
    assert seen(pgm)[0, :, 0].tolist() == right


def test_twelve_and_eight_bits_in_wider_numbers_are_recognised_and_said() -> None:
    twelve = np.array([[0, 2048, 4095]], "<u2")
    assert seen(encoded(Image.fromarray(twelve), "PNG"))[0, :, 0].tolist() == [0, 128, 255]
    assert note(encoded(Image.fromarray(twelve), "PNG")) == "16-bit values fit 12 bits: 0 becomes black, 4095 white"
    eight = encoded(Image.fromarray(np.array([[0, 100, 255]], "i4")))
    assert seen(eight)[0, :, 0].tolist() == [0, 100, 255]
    assert note(eight) == "32-bit values fit 8 bits: 0 becomes black, 255 white"


def test_wide_and_negative_integers_and_other_floats_are_stretched_and_said() -> None:
    for values in (
        np.array([[-1024, 1024, 3072]], "i4"),
        np.array([[0, 2**30, 2**31 - 2]], "i4"),
        np.array([[100_000, 150_000, 200_000]], "i4"),
        np.array([[-1.0, 0.0, 1.0]], "f4"),
        np.array([[0.0, 1000.0, 2000.0]], "f4"),
    ):
        data = encoded(Image.fromarray(values))
        assert seen(data)[0, :, 0].tolist() == [0, 128, 255]
        assert "the smallest and the greatest become black and white" in note(data)
    unsigned = encoded(
        Image.fromarray(np.array([[2**31, 2**31 + 2**30, 2**32 - 1]], "u4").view("i4")), tiffinfo={339: 1}
    )
    assert seen(unsigned)[0, :, 0].tolist() == [0, 128, 255]


def test_floats_within_0_and_1_and_values_that_are_no_numbers() -> None:
    assert seen(encoded(Image.fromarray(np.array([[0, 0.25, 1]], "f4"))))[0, :, 0].tolist() == [0, 64, 255]
    odd = encoded(Image.fromarray(np.array([[np.nan, 0.5, np.inf, -np.inf]], "f4")))
    assert seen(odd)[0, :, 0].tolist() == [0, 128, 255, 0]
    assert "no finite numbers" in note(odd)
    nothing = encoded(Image.fromarray(np.full((1, 3), np.nan, "f4")))
    assert seen(nothing)[0, :, 0].tolist() == [0, 0, 0]


def test_a_tiff_whose_smallest_value_is_white() -> None:
    data = encoded(Image.fromarray(np.array([[0, 32768, 65535]], "<u2")), tiffinfo={262: 0})
    assert seen(data)[0, :, 0].tolist() == [255, 127, 0]


def test_transparency_is_composed_on_white() -> None:
    black = np.zeros((1, 3), np.uint8)
    alpha = np.array([[0, 128, 255]], np.uint8)
    rgba, la = np.dstack([black] * 3 + [alpha]), np.dstack([black, alpha])
    for image in (Image.fromarray(rgba), Image.fromarray(la)):
        for kind in ("PNG", "TIFF"):
            assert seen(encoded(image, kind))[0, :, 0].tolist() == [255, 127, 0]
    assert seen(encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True))[0, :, 0].tolist() == [255, 127, 0]
    palette = Image.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    palette.putpalette([200, 0, 0, 0, 0, 200])
    for kind in ("PNG", "GIF"):
        assert seen(encoded(palette, kind, transparency=0))[0].tolist() == [[255] * 3, [0, 0, 200], [0, 0, 200]]
    assert seen(encoded(Image.fromarray(black), "PNG", transparency=0)).min() == 255
    assert seen(encoded(Image.new("RGB", (2, 1), (9, 9, 9)), "PNG", transparency=(9, 9, 9))).min() == 255
    deep = Image.fromarray(np.array([[7, 65535, 0]], "<u2"))
    assert seen(encoded(deep, "PNG", transparency=7))[0, :, 0].tolist() == [255, 255, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(kind: str, orientation: int) -> None:
    back = [None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_270][orientation]  # fmt: skip
    scene = Image.new("RGB", (48, 32), (250, 250, 250))
    scene.paste((200, 0, 0), (0, 0, 16, 16))
    scene.paste((0, 0, 200), (32, 16, 48, 32))
    stored = scene if back is None else scene.transpose(back)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(stored, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    image = seen(data)
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - np.asarray(scene)).mean() < 8


def test_damaged_exif_data_are_no_reason_to_lose_the_image() -> None:
    data = encoded(GREY.convert("RGB"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x01" * 40)
    assert seen(data).shape == (8, 256, 3)


def test_ids_of_ordinary_images_are_the_hash_of_their_file_and_others_name_the_rules(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    upright = Image.Exif()
    upright[274] = 1
    rgb = GREY.convert("RGB")
    plain = [encoded(rgb, "PNG"), encoded(GREY, "PNG"), encoded(rgb, "JPEG", exif=upright), encoded(rgb, "BMP"),
             encoded(GREY.convert("P"), "GIF"), encoded(GREY.convert("CMYK"), "JPEG"), b"no image"]  # fmt: skip
    other = [encoded(rgb, "JPEG", exif=turned), encoded(GREY.convert("RGBA"), "PNG"), encoded(rgb, "PNG", exif=turned),
             encoded(SAME_RAMP["I;16"](), "PNG"), encoded(SAME_RAMP["F"]())]  # fmt: skip
    for data, is_plain in [*((d, True) for d in plain), *((d, False) for d in other)]:
        file = tmp_path / "file"
        file.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        assert (pixels.content_id(data, "x") == digest) is is_plain
        assert pixels.content_id(file, "x") == pixels.content_id(data, "x")


def test_exif_data_behind_the_pixels_of_a_png_count_too() -> None:
    exif = Image.Exif()
    exif[274] = 3
    plain = encoded(GREY.convert("RGB"), "PNG")
    end = plain.rindex(b"IEND") - 4
    block = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    data = plain[:end] + chunk + plain[end:]
    assert pixels.content_id(data, "x") != hashlib.sha256(data).hexdigest()
    assert (seen(data) == RAMP[::-1, ::-1, None]).all()


# ------------------------------------------------------------------------------------------------------- bounds


def png(width: int, height: int, colours: int = 0) -> bytes:
    """A PNG of zeros whose header says ``width`` x ``height``; ``colours`` 0: grey, 2: RGB, 6: RGBA."""
    row = b"\0" * (1 + width * {0: 1, 2: 3, 6: 4}[colours])
    data = zlib.compress(row * height if len(row) * height < 10**7 else row, 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((1, 89_000_000), "1 x 89,000,000 pixels: a side more than 200 times the other"),
        ((3000, 5), "3,000 x 5 pixels"),
        ((8165, 8165), "take 267 MB to decode; the most is 140 MB: make it smaller, or set PROMPTFED_IMAGE_MB=267"),
        ((60_000, 60_000), "cannot decode image x"),
    ],
)
def test_too_many_pixels_are_refused_before_any_is_decoded(size: tuple[int, int], why: str) -> None:
    for data in (png(*size, 2), png(*size, 2)[:-12]):
        with pytest.raises(DataError, match=why):
            pixels.decode(data, "x")
        with pytest.raises(DataError, match=why):
            pixels.examine(data, "x")


def test_the_bound_is_the_users_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(600, 600, 2)
    assert pixels.decode(data, "x")[0].size == (600, 600)
    monkeypatch.setenv("PROMPTFED_IMAGE_MB", "1")
    with pytest.raises(DataError, match="set PROMPTFED_IMAGE_MB=2"):
        pixels.decode(data, "x")
    assert pixels.decode(encoded(Image.new("RGB", (1200, 800)), "JPEG"), "x")[0].size == (600, 400)
    with pytest.raises(DataError, match="set PROMPTFED_IMAGE_MB="):
        pixels.decode(encoded(Image.new("RGB", (1200, 800)), "JPEG", progressive=True), "x")
    monkeypatch.setenv("PROMPTFED_IMAGE_MB", "much")
    with pytest.raises(ConfigError, match="PROMPTFED_IMAGE_MB is 'much'"):
        pixels.decode(data, "x")


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not FileItem(save(tmp_path / "small.png", png(600, 600, 2))).is_large()
    assert FileItem(save(tmp_path / "large.png", png(2000, 1600, 2))).is_large()


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -------------------------------------------------------------------------------------- files that are no images


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"\0" * 128 + b"DICM" + b"\0" * 99, "a DICOM file: export it"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "a HEIC file: export it as JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"hello", "no image of a known format"),
        (png(9, 9)[:40], "cannot decode image x"),
    ],
)
def test_what_a_file_is_instead_of_an_image_is_said(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why) as error:
        pixels.decode(data, "x")
    assert "\n" not in str(error.value)
    assert "BytesIO" not in str(error.value)


def test_pipes_sockets_devices_and_folders_never_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s.png"))
    for name, kind in (("pipe", "a pipe"), ("s", "a socket"), ("device", "a device"), ("folder", "a folder")):
        item = FileItem(tmp_path / f"{name}.png")
        for use in (item.load, item.content_id, item.examine, item.is_large):
            with pytest.raises(DataError, match=f"it is {kind}, not a file"):
                use()
    listener.close()


def test_special_files_in_a_data_folder_are_skipped_with_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")):
        save(tmp_path / name, encoded(Image.new("RGB", (4, 4), (number, 0, 0)), "PNG"))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    save(tmp_path / "dog" / "thin.png", png(1, 89_000_000)[:-20])
    source = load_source(f"folder:{tmp_path}")
    assert len(source.samples) == 4
    assert [Path(name).name for name in source.skipped] == ["pipe.png", "thin.png"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_that_make_decoders_stumble_are_one_line() -> None:
    rng = np.random.default_rng(5)
    scene = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 99, zip=True)
    whole = [encoded(scene, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")]
    whole += [encoded(scene, "TIFF", compression="tiff_lzw"), encoded(scene, "PNG", pnginfo=info)]
    for data in whole:
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                damaged[place] = rng.integers(0, 256)
            mutant = bytes(damaged[: int(rng.integers(1, len(data) + 1))])
            with suppress(DataError):
                assert pixels.decode(mutant, "x")[0].mode == "RGB"
            assert len(pixels.content_id(mutant, "x")) == 64


@pytest.mark.slow
def test_a_folder_of_large_pngs_takes_little_memory_and_time(tmp_path: Path) -> None:
    row = b"\0" * (1 + 3 * 5800)
    whole = png(5800, 5800, 2)
    pixels_of = zlib.compress(row * 5800, 6)
    start, end = whole.index(b"IDAT") - 4, whole.rindex(b"IEND") - 4
    block = b"IDAT" + pixels_of
    framed = struct.pack(">I", len(pixels_of)) + block + struct.pack(">I", zlib.crc32(block))
    for k, name in enumerate(("cat", "dog")):
        for i in range(8):
            save(tmp_path / name / f"small{i}.png", encoded(Image.new("RGB", (9, 9), (i, k, 0)), "PNG"))
            save(tmp_path / name / f"bomb{i}.png", png(8165, 8165, 2))
        save(tmp_path / name / "thin.png", png(1, 89_000_000))
        save(tmp_path / name / "large.png", whole[:start] + framed + whole[end:] + bytes([k]))
    script = (
        "import resource, sys; from promptfed.tasks.sources import load_source, folder\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        f"source = load_source('folder:{tmp_path}')\n"
        "print(len(source.samples), len(source.skipped), peak() - before)"
    )
    environment = {**os.environ, "PROMPTFED_CACHE": str(tmp_path / "own cache")}
    command = [sys.executable, "-P", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    kept, skipped, kilobytes = map(int, run.stdout.split())
    assert (kept, skipped) == (18, 18)
    assert kilobytes < 200_000
