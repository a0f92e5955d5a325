from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptfed.backbones import features
from promptfed.backbones.features import IMAGE_BATCH, FeatureCache, FeatureStore, default_cache
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import ConfigError, DataError
from promptfed.types import Split

Noise = Callable[..., Split]
PRINT, KIND = "f" * 64, "images"


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def rows(*numbers: int, dim: int = 4) -> dict[str, torch.Tensor]:
    return {key(n): torch.full((dim,), float(n)) for n in numbers}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", 10**9)


# ---------------------------------------------------------------------------------------------------- cache


def test_what_is_put_is_found_again_by_anyone(cache: FeatureCache) -> None:
    cache.put(PRINT, KIND, rows(1, 2))
    cache.put(PRINT, KIND, rows(3))
    for reader in (cache, FeatureCache(cache.folder, 0)):
        found = reader.get(PRINT, KIND, [key(3), key(1), key(9)])
        assert set(found) == {key(1), key(3)}
        assert torch.equal(found[key(3)], torch.full((4,), 3.0))
    assert cache.get("0" * 64, KIND, [key(1)]) == {}
    assert cache.get(PRINT, "texts", [key(1)]) == {}


def test_a_shard_is_plain_safetensors_named_by_its_hash(cache: FeatureCache) -> None:
    cache.put(PRINT, KIND, rows(1, 2))
    (shard,) = shards(cache.folder)
    assert shard.stem == hashlib.sha256(shard.read_bytes()).hexdigest()
    tensors = load_file(shard)
    assert tensors["keys"].dtype == torch.uint8
    assert [bytes(k).hex() for k in tensors["keys"].tolist()] == [key(1), key(2)]
    assert tensors["features"].tolist() == [[1.0] * 4, [2.0] * 4]
    assert [p.name for p in shard.parent.iterdir()] == [shard.name]  # no draft left


def test_a_few_features_do_not_keep_their_whole_shard_in_memory(cache: FeatureCache) -> None:
    cache.put(PRINT, KIND, rows(*range(100)))
    found = cache.get(PRINT, KIND, [key(7), key(70)])
    assert [feature.untyped_storage().nbytes() for feature in found.values()] == [16, 16]
    assert torch.equal(found[key(70)], torch.full((4,), 70.0))


def test_the_first_to_store_a_feature_wins(cache: FeatureCache) -> None:
    cache.put(PRINT, KIND, rows(1))
    FeatureCache(cache.folder, 10**9).put(PRINT, KIND, {key(1): torch.zeros(4), key(2): torch.full((4,), 2.0)})
    found = cache.get(PRINT, KIND, [key(1), key(2)])
    assert (found[key(1)][0].item(), found[key(2)][0].item()) == (1.0, 2.0)


def test_a_reader_sees_what_others_wrote_meanwhile(cache: FeatureCache) -> None:
    reader = FeatureCache(cache.folder, 10**9)
    assert reader.get(PRINT, KIND, [key(1)]) == {}
    cache.put(PRINT, KIND, rows(1))
    assert set(reader.get(PRINT, KIND, [key(1)])) == {key(1)}


def test_the_longest_unused_shard_goes_first(cache: FeatureCache) -> None:
    born: dict[int, Path] = {}
    for number in range(2):
        cache.put(PRINT, KIND, rows(number, dim=256))
        (born[number],) = set(shards(cache.folder)) - set(born.values())
        os.utime(born[number], (1000 + number, 1000 + number))
    small = FeatureCache(cache.folder, 2 * born[0].stat().st_size)
    small.get(PRINT, KIND, [key(0)])  # the older of the two, but used just now
    small.put(PRINT, KIND, rows(2, dim=256))
    assert born[0].exists()
    assert not born[1].exists()
    assert set(cache.get(PRINT, KIND, [key(n) for n in range(3)])) == {key(0), key(2)}


def test_size_bound_holds_and_zero_keeps_nothing(tmp_path: Path) -> None:
    bounded = FeatureCache(tmp_path / "bounded", 5000)
    for number in range(20):
        bounded.put(PRINT, KIND, rows(number, dim=200))
    sizes = [path.stat().st_size for path in shards(bounded.folder)]
    assert 0 < sum(sizes) <= 5000
    assert key(19) in bounded.get(PRINT, KIND, [key(19)])
    off = FeatureCache(tmp_path / "off", 0)
    off.put(PRINT, KIND, rows(1))
    assert not off.folder.exists()


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_a_damaged_shard_is_a_miss_and_is_dropped(cache: FeatureCache, harm: str) -> None:
    cache.put(PRINT, KIND, rows(1))
    cache.get(PRINT, KIND, [key(1)])  # indexed before the damage
    (shard,) = shards(cache.folder)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes({"truncate": bytes(data[:-8]), "flip": bytes(data), "empty": b""}[harm])
    for reader in (cache, FeatureCache(cache.folder, 10**9)):
        assert reader.get(PRINT, KIND, [key(1)]) == {}
    assert shards(cache.folder) == []
    cache.put(PRINT, KIND, rows(1))
    assert cache.get(PRINT, KIND, [key(1)])[key(1)].tolist() == [1.0] * 4


def test_a_vanished_shard_is_a_miss_unless_another_holds_the_id(cache: FeatureCache) -> None:
    cache.put(PRINT, KIND, rows(1, 2))
    first = set(shards(cache.folder))
    other = FeatureCache(cache.folder.with_name("other"), 10**9)
    other.put(PRINT, KIND, rows(2, 3))
    (copy,) = shards(other.folder)
    copy.rename(cache.folder / PRINT / KIND / copy.name)  # the same id in two shards, as two machines may write them
    assert len(cache.get(PRINT, KIND, [key(1), key(2), key(3)])) == 3
    for shard in first:
        shard.unlink()
    assert set(cache.get(PRINT, KIND, [key(1), key(2), key(3)])) == {key(2), key(3)}


def test_an_unwritable_folder_is_reported_once_and_work_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file", 10**9)
    cache.put(PRINT, KIND, rows(1))
    cache.put(PRINT, KIND, rows(2))
    assert cache.get(PRINT, KIND, [key(1)]) == {}
    assert [r.getMessage().startswith("features are not kept") for r in caplog.records] == [True]


def test_the_environment_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path))
    monkeypatch.delenv("PROMPTFED_CACHE_GB", raising=False)
    assert default_cache().limit_bytes == 5 * 10**9
    assert tmp_path in default_cache().folder.parents
    monkeypatch.setenv("PROMPTFED_CACHE_GB", "0.5")
    assert default_cache().limit_bytes == 5 * 10**8
    monkeypatch.setenv("PROMPTFED_CACHE_GB", "lots")
    with pytest.raises(ConfigError, match="PROMPTFED_CACHE_GB is 'lots': give a number of gigabytes"):
        default_cache()


WRITER = """
import sys, torch
from pathlib import Path
from promptfed.backbones.features import FeatureCache
cache, me = FeatureCache(Path(sys.argv[1]), int(sys.argv[3])), int(sys.argv[2])
for step in range(30):
    ids = [f"{number:064x}" for number in (step, 1000 * me + step)]
    cache.put("f" * 64, "images", {i: torch.full((64,), float(int(i, 16))) for i in ids})
    for i, feature in cache.get("f" * 64, "images", [f"{n:064x}" for n in range(2030)]).items():
        assert feature.tolist() == [float(int(i, 16))] * 64, i
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [10**9, 4000])
def test_two_processes_share_a_cache(tmp_path: Path, limit: int) -> None:
    """Both write the same ids and their own, reading all the while; with the small limit they evict each other."""
    command = [sys.executable, "-P", "-W", "ignore", "-c", WRITER, str(tmp_path)]
    both = [subprocess.Popen([*command, str(me), str(limit)], stderr=subprocess.PIPE) for me in (1, 2)]
    for process in both:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint.decode()
    found = FeatureCache(tmp_path, 0).get(PRINT, KIND, [f"{n:064x}" for n in range(2030)])
    if limit == 10**9:
        assert len(found) == 90
    else:
        assert sum(path.stat().st_size for path in shards(tmp_path)) <= limit


# ---------------------------------------------------------------------------------------------------- store


def test_the_second_use_calls_nothing(small: OpenClipBackbone, cache: FeatureCache, noise: Noise) -> None:
    split, texts = noise(*range(11)), ["a cat", "an owl", "a cat"]
    store, before = FeatureStore(small, cache), (small.calls.images, small.calls.texts)
    images, words = store.images(split), store.texts(texts)
    assert (small.calls.images - before[0], small.calls.texts - before[1]) == (11, 2)
    assert images.shape == (11, 24)
    assert torch.equal(words[0], words[2])
    spent = (small.calls.images, small.calls.texts)
    assert torch.equal(store.images(split), images)
    warm = FeatureStore(small, FeatureCache(cache.folder, 10**9))
    again = noise(*range(11))
    assert torch.equal(warm.images(again), images)
    assert torch.equal(warm.texts(texts), words)
    assert (small.calls.images, small.calls.texts) == spent
    assert all(not item.loads for item in again.items)  # not even decoded


def test_features_are_the_backbones(small: OpenClipBackbone, cache: FeatureCache, noise: Noise) -> None:
    split = noise(*range(5))
    pixels = torch.stack([small.preprocess(item.load()) for item in split.items])
    store = FeatureStore(small, cache)
    torch.testing.assert_close(store.images(split), small.encode_images(pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(store.texts(["a cat", "owls"]), small.encode_text(["a cat", "owls"]), atol=1e-5, rtol=0)
    assert store.images(noise()).shape == (0, 24)
    assert store.texts([]).shape == (0, 24)


def test_a_feature_does_not_depend_on_what_else_is_missing(
    small: OpenClipBackbone, tmp_path: Path, noise: Noise
) -> None:
    """Bit for bit: alone, in other company, in another order, and with part of it cached before."""
    seeds = list(range(2 * IMAGE_BATCH + 3))
    texts = ["owl", "a photo of a cat", "x " * 20]

    def store(name: str) -> FeatureStore:
        return FeatureStore(small, FeatureCache(tmp_path / name, 10**9))

    together = store("together")
    images, words = together.images(noise(*seeds)), together.texts(texts)
    backwards = store("backwards").images(noise(*reversed(seeds)))
    assert torch.equal(backwards.flip(0), images)
    partly = store("partly")
    partly.images(noise(4, 17))
    partly.texts(texts[1:2])
    assert torch.equal(partly.images(noise(*seeds)), images)
    assert torch.equal(partly.texts(texts), words)
    assert torch.equal(store("alone").images(noise(7)), images[7:8])


def test_the_same_image_in_two_splits_is_encoded_once(small: OpenClipBackbone, tmp_path: Path, noise: Noise) -> None:
    store, before = FeatureStore(small, FeatureCache(tmp_path, 0)), small.calls.images
    first, second = store.images(noise(1, 2, 2)), store.images(noise(2, 3))
    assert small.calls.images - before == 3
    assert torch.equal(first[1], second[0])


def test_fill_tells_its_progress_and_leaves_nothing_to_do(
    small: OpenClipBackbone, cache: FeatureCache, noise: Noise
) -> None:
    store, told = FeatureStore(small, cache), list[tuple[int, int]]()
    items = noise(*range(IMAGE_BATCH + 2)).items
    store.fill(items, lambda done, total: told.append((done, total)))
    assert told == [(IMAGE_BATCH, IMAGE_BATCH + 2), (IMAGE_BATCH + 2, IMAGE_BATCH + 2)]
    store.fill(items, lambda done, total: told.append((done, total)))
    assert len(told) == 2
    spent = small.calls.images
    store.images(noise(3, 4))
    assert small.calls.images == spent


def test_features_made_in_inference_mode_can_be_trained_on(
    small: OpenClipBackbone, cache: FeatureCache, noise: Noise
) -> None:
    store, split = FeatureStore(small, cache), noise(1, 2)
    with torch.inference_mode():
        store.images(split)
        store.texts(["a cat"])
    weight = torch.ones(24, requires_grad=True)
    ((store.images(split) * weight).sum() + (store.texts(["a cat"]) * weight).sum()).backward()
    torch.testing.assert_close(weight.grad, store.images(split).sum(0) + store.texts(["a cat"])[0])


def test_an_unreadable_image_is_named_and_the_work_before_it_is_kept(
    small: OpenClipBackbone, cache: FeatureCache, noise: Noise
) -> None:
    seeds = range(IMAGE_BATCH + 2)
    with pytest.raises(DataError, match="cannot read image noise 9: image file is truncated"):
        FeatureStore(small, cache).images(noise(*seeds, broken=(9,)))
    spent = small.calls.images
    FeatureStore(small, cache).images(noise(*range(IMAGE_BATCH)))
    assert small.calls.images == spent


def test_backbones_do_not_share_features(
    small: OpenClipBackbone, checkpoint: Callable[[str, str], Path], cache: FeatureCache, noise: Noise
) -> None:
    from promptfed.backbones.openclip_loading import load_openclip

    path = checkpoint("small-clip", ".safetensors")
    narrow = load_openclip(f"open_clip:small-clip/{path}", precision="bfloat16")
    wide = FeatureStore(small, cache).images(noise(1))
    assert not torch.equal(FeatureStore(narrow, cache).images(noise(1)), wide)
    assert narrow.calls.images == 1


def test_long_work_is_written_in_parts(
    small: OpenClipBackbone, cache: FeatureCache, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", IMAGE_BATCH)
    images = FeatureStore(small, cache).images(noise(*range(2 * IMAGE_BATCH + 1)))
    assert len(shards(cache.folder)) == 3
    assert torch.equal(FeatureStore(small, FeatureCache(cache.folder, 0)).images(noise(*range(17))), images)
