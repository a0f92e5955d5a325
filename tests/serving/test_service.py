"""A service says what the bundle says, whatever shares its batch, and remembers nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.backbones.passing import PassingStore, PreparedImage
from promptfed.errors import ConfigError, DataError
from promptfed.export.bundle import Bundle, write_bundle
from promptfed.export.predict import Predictor
from promptfed.serving import service as module
from promptfed.serving.service import Service
from promptfed.setup import Setup


def test_batches_of_any_size_give_the_answers_of_predict(
    make_service: Callable[..., Service], bundle: Bundle, setup: Setup, png: Callable[..., bytes], tmp_path: Path
) -> None:
    names = ["red", "green", "blue"] * 3
    paths = []
    for number, name in enumerate(names):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png(name))
    expected = [dict(each.ranked) for each in Predictor(bundle, setup.model).predict(paths)]
    service = make_service(max_batch=4)
    answers = [service.submit("first", None, [service.image(png(name), name)]) for name in names]
    assert [dict(answer.result(20)[0].ranked) for answer in answers] == [pytest.approx(each) for each in expected]
    together = service.submit("second", None, [service.image(png(name), name) for name in names]).result(20)
    assert [dict(each.ranked) for each in together] == [pytest.approx(each) for each in expected]
    other = service.submit("first", ("pink", "cyan"), [service.image(png(), "a")]).result(20)
    assert {name for name, _ in other[0].ranked} == {"pink", "cyan"}


def test_nothing_of_an_image_stays(
    make_service: Callable[..., Service], png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "REFRESH", 2)
    service = make_service()
    for _ in range(5):
        service.submit("first", None, [service.image(png(), "a")]).result(20)
    service.close()
    store = service._store
    assert isinstance(store, PassingStore)
    assert [len(kept) for kept in (store._images, store._patches, store._kept_pixels, store._splits)] == [0] * 4
    assert not (tmp_path / "cache").exists()


def test_an_image_is_checked_before_it_is_decoded(
    make_service: Callable[..., Service], png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(max_megapixels=0.001)
    assert isinstance(service.image(png(side=31), "small"), PreparedImage)
    monkeypatch.setattr("promptfed.examples.pixels.decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"image large has 40 x 40 pixels; at most 0\.001 million"):
        service.image(png(side=40), "large")
    with pytest.raises(DataError, match="cannot decode image none: it is empty"):
        service.image(b"", "none")


def test_a_prepared_image_has_no_picture_any_more(
    make_service: Callable[..., Service], png: Callable[..., bytes]
) -> None:
    service = make_service()
    one, same = service.image(png(), "a"), service.image(png(), "a")
    assert one.content_id() != same.content_id()
    with pytest.raises(DataError, match="image a is preprocessed"):
        one.load()


def test_bundles_are_called_by_their_folders(bundle: Bundle, setup: Setup, tmp_path: Path) -> None:
    for name in ("a/ward", "b/ward", "other"):
        write_bundle(tmp_path / name, bundle)
    with pytest.raises(ConfigError, match="two bundles are called 'ward'"):
        Service.of([tmp_path / "a/ward", tmp_path / "b/ward"])
    with pytest.raises(ConfigError, match="there is no bundle to serve"):
        Service.of([])
    service = Service.of([tmp_path / "a/ward", tmp_path / "other"], model=setup.backbone)
    assert list(service.bundles) == ["ward", "other"]
    assert len(set(service.digests.values())) == 1
    service.warm_up()
    service.close()
