from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from promptfed.config import build_config
from promptfed.deployment import preflight as check
from promptfed.deployment import reach as reaching
from promptfed.deployment.node_words import parse_node_config
from promptfed.deployment.preflight import checks
from promptfed.deployment.reach import reach
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
    assert [fine for fine, _ in seen.values()] == [True] * 6
    assert seen["data"][1].startswith("2 classes (ant, bee), images: 6 train, 4 test")
    assert "fingerprint" in seen["backbone"][1]


def test_the_state_dir_that_it_makes_is_closed_to_others(found, tmp_path):
    assert "others may look" not in found()["state-dir"][1]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    (tmp_path / "state").chmod(0o755)  # as the operator wants it
    assert "others may look" in found()["state-dir"][1]


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


@pytest.mark.parametrize(
    ("words", "missing", "why"),
    [
        ({}, "flwr", "Flower is not installed here: pip install 'promptfed[flower]'"),
        ({"secure-sums": True}, "cryptography", "need cryptography, which is missing: pip install 'promptfed[secure]'"),
        ({"max-epsilon": 3}, "dp_accounting", "need dp_accounting, which is missing: pip install 'promptfed[dp]'"),
    ],
)
def test_an_extra_that_the_words_need_is_named(found, monkeypatch, words, missing, why):
    def look(name):
        if name == missing:
            raise check.PackageNotFoundError(name)
        return check_version(name)

    check_version = check.version
    monkeypatch.setattr(check, "version", look)
    monkeypatch.setattr(check, "find_spec", lambda name: None if name == missing else object())
    fine, said = found(words)["extras"]
    assert not fine
    assert why in said


def test_another_flower_is_refused(found, monkeypatch):
    monkeypatch.setattr(check, "version", lambda name: "1.28.0")
    assert found()["extras"] == (
        False, "flwr 1.28.0 is installed, and 1.41.* is needed: pip install 'promptfed[flower]'"
    )  # fmt: skip


def test_a_disk_that_holds_no_socket_is_noticed(found, monkeypatch):
    assert "it keeps the model for 600 s" in found()["process"][1]
    assert "a new process loads the model for each message" in found({"keep-process-seconds": 0})["process"][1]

    def bind(self, address):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(check.socket.socket, "bind", bind, raising=False)
    fine, said = found()["process"]
    assert not fine
    assert "can hold no socket (Operation not permitted): put state-dir on a local disk, or add keep-process" in said


def test_the_key_of_a_node(found, tmp_path):
    from promptfed.deployment.local_deployment import make_keys

    make_keys(tmp_path / "keys", ["north"])
    key = tmp_path / "keys" / "north"
    assert found(key=key)["key"] == (True, f"{key} is a key for this user alone; the server must have its .pub")
    assert "is no private key: give the file" in found(key=tmp_path / "keys" / "north.pub")["key"][1]
    assert "cannot be read: No such file" in found(key=tmp_path / "nokey")["key"][1]
    assert "is no private key" in found(key=tmp_path / "keys" / "san.txt")["key"][1]
    assert "cannot be used" in found(key=tmp_path / "keys" / "server.key")["key"][1]
    key.chmod(0o644)
    assert found(key=key)["key"] == (False, f"the key {key} is open to others (mode 644): chmod 600 {key}")


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
    assert [fine for fine, _ in seen.values()] == [True] * 7, seen
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


def test_texts_that_the_model_cannot_read_whole_are_counted(texts):
    assert texts(TABLE)["lengths"] == (True, "the model reads each of 6 texts whole, up to the tokens of the prompt")
    long = TABLE + "a " + "very " * 2000 + "film\tgood\n"
    fine, said = texts(long)["lengths"]
    assert fine
    assert said.startswith("1 of 7 texts are longer than the ")
    assert "their ends are cut" in said
    fine, said = texts(long, config={"strict": True})["lengths"]
    assert not fine
    assert "which --strict refuses" in said


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


def find_certificates():
    """Any file of certificates: whom nobody reaches, nobody's certificate is compared with."""
    return Path(ssl.get_default_verify_paths().cafile or pytest.skip("no certificates here"))


def test_a_server_that_does_not_answer_costs_five_seconds_at_most(monkeypatch):
    monkeypatch.setattr(reaching, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeploymentError, match=r"no answer within 0 s|does not speak TLS"):
            reach(address, find_certificates(), insecure=False)
    monkeypatch.setattr(reaching.socket, "create_connection", lambda *_, **__: time.sleep(60))
    with pytest.raises(DeploymentError, match=r"cannot be reached: no answer within 0 s \(is the server started"):
        reach("nowhere:8000", None, insecure=True)


def test_files_that_are_no_certificates(tmp_path):
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(DeploymentError, match="is no certificate"):
        reach("server:8000", tmp_path / "ca.crt", insecure=False)
    with pytest.raises(DeploymentError, match="cannot be read: No such file"):
        reach("server:8000", tmp_path / "none.crt", insecure=False)


@pytest.mark.parametrize(("date", "why"), [("Sun, 29 Nov 2015 10:00:00 GMT", "later than at"), ("soon", ""), ("", "")])
def test_the_clocks_of_site_and_server_are_compared(date, why):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(f"HTTP/1.1 200 OK\r\nDate: {date}\r\n\r\n".encode())

        serving = threading.Thread(target=serve)
        serving.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        if why:
            with pytest.raises(DeploymentError, match=rf"the clocks differ: here it is \d+ s {why}"):
                reach(address, None, insecure=True)
        else:
            assert reach(address, None, insecure=True) == f"{address} answers, without TLS"
        serving.join()


def test_a_certificate_of_another_authority_is_refused(tmp_path):
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
