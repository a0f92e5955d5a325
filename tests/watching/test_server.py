"""The server of `promptfed watch`: the token, the name it is called by, what it sends, and what appears on the page."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptfed.errors import ConfigError
from promptfed.watching.server import WatchServer

TOKEN = "a-token"


def run_in(folder: Path, method: str = "promptfl", rounds: int = 2) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("x: 1\n")
    time = "2026-11-29T12:00:00.000+00:00"
    config = {"method": method, "rounds": 4, "data": "folder:<b>mine</b>"}
    events = [{"event": "run_start", "time": time, "method": method, "config": config}]
    for number in range(1, rounds + 1):
        fields = {"stage": method, "round": number, "bytes_up": 1000, "bytes_down": 500, "seconds": 1.0}
        events.append({"event": "client", "time": time, "client": 0, "loss": 1.0, "failure": "", **fields})
        events.append({"event": "round", "time": time, "loss": 1 / number, "val_accuracy": 0.5, **fields})
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WatchServer]:
    run_in(tmp_path / "runs" / "first")
    run_in(tmp_path / "runs" / "compared" / "kgcoop" / "seed-0", "kgcoop")
    made = WatchServer([tmp_path / "runs"], 0, TOKEN)
    made.watched.look(100.0)
    made._thread.start()
    yield made
    made.stop()


def ask(
    server: WatchServer, path: str, method: str = "GET", host: str = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


@pytest.mark.parametrize(
    "path", ["/", "/now", "/other/", "/a-toke/now", "/a-token", "//", "/a-tokenx/", "/%61-token/x/y"]
)
def test_without_the_token_there_is_nothing(server: WatchServer, path: str) -> None:
    status, _, content = ask(server, path)
    assert status == 404
    assert "promptfl" not in content


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:80"])
def test_another_name_of_this_machine_is_refused(server: WatchServer, host: str) -> None:
    assert ask(server, f"/{TOKEN}/", host=host)[0] == 421
    assert ask(server, f"/{TOKEN}/", host=f"localhost:{server.port}")[0] == 200


def test_nothing_is_kept_and_only_the_page_s_own_script_runs(server: WatchServer) -> None:
    status, headers, page = ask(server, f"/{TOKEN}/")
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert "access-control-allow-origin" not in headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce is not None
    assert re.findall(r"<script[^>]*>", page) == [f'<script nonce="{nonce[1]}">']
    assert not re.search(r'(src|href)="https?:', page)
    assert ask(server, f"/{TOKEN}/")[1]["content-security-policy"] != policy
    assert ask(server, f"/{TOKEN}/", "HEAD")[2] == ""
    assert ask(server, f"/{TOKEN}/now", "POST")[0] == 501


def test_runs_of_the_folder_are_shown_and_text_is_escaped(server: WatchServer) -> None:
    _, headers, part = ask(server, f"/{TOKEN}/now")
    assert "compared/kgcoop/seed-0" in part
    assert "2/4" in part
    assert "folder:&lt;b&gt;mine&lt;/b&gt;" in part
    assert part.count("<svg") == 2
    assert "no sign of life since 2026-11-29 12:00:00 UTC" in part or "running" in part
    again = ask(server, f"/{TOKEN}/now", If_None_Match=headers["etag"])
    assert again[0] in (200, 304)


def test_a_name_leads_to_one_run_alone(server: WatchServer) -> None:
    part = ask(server, f"/{TOKEN}/now")[2]
    chosen = re.search(r'href="(\?run=[0-9a-f]+)">first<', part)
    assert chosen is not None
    alone = ask(server, f"/{TOKEN}/now{chosen[1]}")[2]
    assert alone.count('<h2 id="s') == 1
    assert f'data-from="now{chosen[1]}"' in ask(server, f"/{TOKEN}/{chosen[1]}")[2]
    assert '<h2 id="s' not in ask(server, f"/{TOKEN}/now?run=none")[2]
    assert 'data-from="now"' in ask(server, f'/{TOKEN}/?run="><script>')[2]


def test_a_run_that_begins_later_appears_and_one_that_goes_on_grows(server: WatchServer, tmp_path: Path) -> None:
    run_in(tmp_path / "runs" / "late", "fedprox")
    with (tmp_path / "runs" / "first" / "events.jsonl").open("a") as file:
        file.write('{"event": "round", "time": "2026-11-29T12:01:00+00:00", "stage": "promptfl", "round": 3}\n')
    assert ">late<" not in ask(server, f"/{TOKEN}/now")[2]
    server.watched.look(200.0)
    part = ask(server, f"/{TOKEN}/now")[2]
    assert ">late<" in part
    assert "3/4" in part


def test_what_is_outside_the_folder_is_not_shown(server: WatchServer, tmp_path: Path) -> None:
    run_in(tmp_path / "outside", "secret_method")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    hidden = tmp_path / "runs" / "taken"
    hidden.mkdir()
    (hidden / "config.yaml").write_text("x: 1\n")
    (hidden / "events.jsonl").symlink_to(tmp_path / "outside" / "events.jsonl")
    server.watched.look(200.0)
    part = ask(server, f"/{TOKEN}/now")[2]
    assert "secret_method" not in part
    assert ">taken<" in part
    for path in ("../outside/events.jsonl", "..%2f..%2foutside%2fevents.jsonl", "first/events.jsonl"):
        assert ask(server, f"/{TOKEN}/{path}")[0] == 404


def test_a_folder_that_is_not_there_and_a_port_that_is_taken(server: WatchServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder: name a run, or a folder with runs"):
        WatchServer([tmp_path / "none"])
    with pytest.raises(ConfigError, match="another --port, or 0 for a free one"):
        WatchServer([tmp_path], server.port)


def test_a_token_is_drawn_and_an_empty_folder_waits(tmp_path: Path) -> None:
    with WatchServer([tmp_path]) as one, WatchServer([tmp_path]) as other:
        assert one.token != other.token
        assert len(one.token) >= 20
        assert "Nothing yet" in ask(one, f"/{one.token}/now")[2]
