from __future__ import annotations

import shutil
import socket
import threading

import pytest

from promptfed.config import build_config
from promptfed.deployment import preflight as check
from promptfed.deployment.preflight import checks, parse_node_config, reach
from promptfed.errors import ConfigError, DeploymentError


@pytest.fixture
def found(tmp_path, pictures):
    """``found(words, **more)``: what is checked -> (fine, said)."""
    folder = tmp_path / "data"
    for name in ("ant", "bee"):
        shutil.copytree(pictures / name, folder / name)

    def look(words=None, **more):
        usual = {"site": "north", "data": f"folder:{folder}", "state-dir": str(tmp_path / "state")}
        config = build_config({"data": "sites", "clients": 1, **more.pop("config", {})})
        return {one.what: (one.fine, one.said) for one in checks({**usual, **(words or {})}, config, **more)}

    return look


def test_all_is_well(found):
    seen = found(classes=("ant", "bee", "cat"))
    assert [fine for fine, _ in seen.values()] == [True] * 4
    assert seen["data"][1].startswith("2 classes (ant, bee), images: 6 train, 4 test")
    assert "fingerprint" in seen["backbone"][1]


@pytest.mark.parametrize(
    ("words", "more", "what", "why"),
    [
        ({"data": "folder:/nowhere"}, {}, "data", "does not exist"),
        ({}, {"classes": ("ant", "wasp")}, "data", "class 'bee'"),
        ({"state-dir": "/proc/none"}, {}, "state-dir", "cannot write"),
        ({"backbone": "open_clip:ViT-B-32/none.pt"}, {}, "backbone", "does not exist"),
        ({"site": ""}, {}, "node-config", "no site="),
    ],
)
def test_what_is_wrong_is_said_in_one_line(found, words, more, what, why):
    fine, said = found(words, **more)[what]
    assert not fine
    assert why in said
    assert "\n" not in said


@pytest.fixture
def texts(tmp_path):
    """``texts(content, **more)``: what is checked of a table with that content -> (fine, said)."""
    from ..tiny_language_models import tokenizer, transformer

    transformer("llama").save_pretrained(tmp_path / "llama")
    tokenizer().save_pretrained(tmp_path / "llama")

    def look(content, **more):
        (tmp_path / "texts.tsv").write_text(content)
        words = {"site": "north", "data": f"tsv:{tmp_path / 'texts.tsv'}", "state-dir": str(tmp_path / "state")}
        options = {"data": "sites", "clients": 1, "task": "text-classification", "backbone": f"lm:{tmp_path / 'llama'}"}
        config = build_config({**options, **more.pop("config", {})})
        return {one.what: (one.fine, one.said) for one in checks(words, config, **more)}

    return look


TABLE = "text\tlabel\n" + "".join(f"a {place} film\tgood\na {place} plot\tbad\n" for place in ("the", "very", "not"))


def test_a_table_of_texts_and_a_language_model(texts):
    seen = texts(TABLE, classes=("good", "bad", "fair"))
    assert [fine for fine, _ in seen.values()] == [True] * 4, seen
    assert seen["data"][1] == "2 classes (bad, good), texts: 4 train, 2 test"
    fingerprint = seen["backbone"][1].partition("fingerprint ")[2][:12]
    fine, said = texts(TABLE, fingerprint=fingerprint.upper())["backbone"]
    assert fine
    assert said.endswith("(as at the server)")
    fine, said = texts(TABLE, fingerprint="0123456789ab")["backbone"]
    assert not fine
    assert "and the server's is 0123456789ab: bring the same weights and precision" in said


@pytest.mark.parametrize(
    ("content", "more", "why"),
    [
        ("", {}, "has no readable text"),
        ("text\tlabel\n", {}, "has no readable text"),
        ("words\tlabel\na film\tgood\n", {}, "has no column 'text'; it has words, label (--set task.text_column"),
        (TABLE, {"classes": ("good", "awful")}, "class 'bad' of"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(texts, content, more, why):
    fine, said = texts(content, **more)["data"]
    assert not fine
    assert why in said
    assert "\n" not in said


def test_a_full_disk_is_noticed(found, monkeypatch):
    monkeypatch.setattr(check, "FREE_BYTES", 10**18)
    assert not found()["disk"][0]


def test_a_server_that_is_not_there_or_speaks_another_tongue():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    with pytest.raises(DeploymentError, match="cannot be reached"):
        reach(f"127.0.0.1:{nobody}", None, insecure=True)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        reach("server", None, insecure=True)
    with pytest.raises(ConfigError, match="--root-certificates"):
        reach(f"127.0.0.1:{nobody}", None, insecure=False)


def test_a_certificate_of_another_authority_is_refused(tmp_path):
    import ssl

    from promptfed.deployment.local_deployment import make_keys

    for name in ("ours", "theirs"):
        make_keys(tmp_path / name, [])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ours" / "server.pem", tmp_path / "ours" / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for _ in range(2):
                try:
                    with context.wrap_socket(listening.accept()[0], server_side=True):
                        pass
                except OSError:
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert "answers with a certificate" in reach(address, tmp_path / "ours" / "ca.crt", insecure=False)
        with pytest.raises(DeploymentError, match="does not fit"):
            reach(address, tmp_path / "theirs" / "ca.crt", insecure=False)
        serving.join()


def test_node_config_is_read_as_flower_reads_it():
    words = 'site="St. Mary" data="folder:/site data/x" partition-id=3 device="cuda"'
    expected = {"site": "St. Mary", "data": "folder:/site data/x", "partition-id": 3, "device": "cuda"}
    assert parse_node_config(words) == expected
    flower = pytest.importorskip("flwr.common.config")
    assert flower.parse_config_args([words]) == expected
    with pytest.raises(ConfigError, match="name=value"):
        parse_node_config("site=north")
