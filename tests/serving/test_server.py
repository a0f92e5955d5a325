"""A real server: it says where it is, answers many at once, and stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")

from promptfed.errors import ConfigError
from promptfed.serving.server import BundleServer, serving, token_from
from promptfed.serving.service import Service


def asked(address: str, images: list[bytes], token: str | None = None) -> dict[str, object]:
    import base64

    body = json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/classify", body, headers), timeout=30) as reply:
        return dict(json.load(reply))


def test_many_ask_at_once_and_get_their_own_answers(
    make_service: Callable[..., Service], png: Callable[..., bytes]
) -> None:
    service = make_service(max_wait_ms=50)
    with serving(service, token="t") as server:
        assert server.address.startswith("http://127.0.0.1:")
        colours = ["red", "green", "blue"] * 4
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda name: asked(server.address, [png(name)], "t"), colours))
        for name, answer in zip(colours, answers, strict=True):
            assert answer == answers[colours.index(name)]
        assert service.batcher.batches < len(colours)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            asked(server.address, [png()])
    with pytest.raises(urllib.error.URLError):
        asked(server.address, [png()], "t")


def test_an_address_that_cannot_be_is_refused(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    with pytest.raises(ConfigError, match=r"other machines can reach --host 0\.0\.0\.0: put a token"):
        BundleServer(service, "0.0.0.0", 0, None)
    with pytest.raises(ConfigError, match="port 70000 is not a port"):
        BundleServer(service, "127.0.0.1", 70000, None)
    with pytest.raises(ConfigError, match="--host no such host is no address"):
        BundleServer(service, "no such host", 0, "t")
    with serving(service) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1 port {port}"):
            BundleServer(service, "127.0.0.1", port, None)
    monkeypatch.setenv("MY_TOKEN", " abc ")
    assert (token_from("MY_TOKEN"), token_from(None)) == ("abc", None)
    with pytest.raises(ConfigError, match="environment variable NO_TOKEN is not set"):
        token_from("NO_TOKEN")


@pytest.mark.slow
def test_a_process_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    from promptfed.api import train

    options = {"clients": 2, "shots": 1, "rounds": 1, "baselines": (), "progress": False}
    run = train(model="tiny", task_options={"val_shots": 1}, folder=tmp_path / "run", **options)
    bundle = run.export(client=0, path=tmp_path / "bundle")
    from promptfed.tasks.sources.icon_source import source

    source("").samples[0].item.load().save(tmp_path / "icon.png")
    command = [sys.executable, "-P", "-m", "promptfed", "serve", str(bundle), "--port", "0", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        [served] = asked(address, [(tmp_path / "icon.png").read_bytes()])["results"]  # type: ignore[misc]
        import promptfed as pf

        [plain] = pf.load(bundle).predict([tmp_path / "icon.png"])
        assert [row["class"] for row in served["ranked"]] == [name for name, _ in plain.ranked]
        shares = [row["probability"] for row in served["ranked"]]
        assert shares == pytest.approx([share for _, share in plain.ranked], abs=1e-5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.wait()
