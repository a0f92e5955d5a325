"""A bundle goes to a folder or to the hub with a card, and comes back the same; anything else is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from promptfed.errors import BundleError, ConfigError
from promptfed.export import hub
from promptfed.export.bundle import Bundle, read_bundle, write_bundle
from promptfed.export.folder import CONFIG, KIND
from promptfed.export.hub import HubPlace, hub_place, pulled_folder
from promptfed.export.origin import BundleOrigin
from promptfed.export.share import parcel_of, place_of, pull, push
from promptfed.prompt_state import PromptState

ORIGIN = BundleOrigin(
    whose="shared",
    data="folder:wards",
    date="2026-11-29",
    accuracy={"base": 0.75, "new": 0.5},
    intervals={"base": (0.7, 0.8)},
    below_zero_shot=("new",),
    privacy=("Privacy: epsilon 8",),
)


class FakeHub:
    """Repositories in memory, behind the methods of the hub's client that are used."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        self.repositories.setdefault(name, {".gitattributes": b""})
        self.private.setdefault(name, private)

    def model_info(self, name: str, *, revision: str | None = None, files_metadata: bool = False) -> Any:
        if name not in self.repositories:
            raise type("RepositoryNotFoundError", (Exception,), {})("401 Client Error.\nlong text")
        files = [
            SimpleNamespace(rfilename=file, size=self.sizes.get(file, len(content)))
            for file, content in self.repositories[name].items()
        ]
        return SimpleNamespace(siblings=files, sha=f"commit{self.commits.get(name, 0)}")

    def create_commit(self, name: str, work: list[Any], *, commit_message: str) -> None:
        for each in work:
            if hasattr(each, "path_or_fileobj"):
                self.repositories[name][each.path_in_repo] = bytes(each.path_or_fileobj)
            else:
                del self.repositories[name][each.path_in_repo]
        self.commits[name] = self.commits.get(name, 0) + 1

    def hf_hub_download(self, name: str, file: str, *, revision: str, local_dir: str) -> str:
        path = Path(local_dir) / file
        path.write_bytes(self.repositories[name][file])
        return str(path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    made = FakeHub()
    monkeypatch.setattr(hub, "hub_api", lambda: made)
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def shared(bundle: Bundle) -> Bundle:
    """A bundle without anything of the client's own."""
    return replace(bundle, personal=PromptState(), meta=bundle.meta.model_copy(update={"origin": ORIGIN}))


def front_matter(files: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    _, head, page = files["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(head), page


def test_the_card_says_what_the_hub_and_a_reader_need(shared: Bundle) -> None:
    parcel = parcel_of(shared, "hf:me/walls", "apache-2.0")
    assert parcel.place == HubPlace("me/walls")
    assert set(parcel.files) <= KIND.files
    head, page = front_matter(parcel.files)
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == (
        "apache-2.0", "promptfed", "zero-shot-image-classification",
    )  # fmt: skip
    assert {"promptfed", "federated-learning"} <= set(head["tags"])
    assert "base_model" not in head  # a made-up backbone has no name on the hub
    assert 'pf.load("hf:me/walls")' in page
    assert "| base | 75.0 | 70.0 to 80.0 |" in page
    assert "| new | 50.0 | unknown |" in page
    assert "Below zero-shot, the model without any training: new." in page
    assert "Privacy: epsilon 8." in page
    assert "Trained on `folder:wards` by federated learning: the images stayed with the clients." in page
    assert parcel.notes == ["it names client 'house 2', data 'folder:wards' and 3 classes"]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("clip-hf:openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("open_clip:hf-hub:org/name", "org/name"),
        ("open_clip:ViT-B-16/openai", None),
        ("clip-hf:./folder", None),
        ("tiny", None),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(shared: Bundle, name: str, base: str | None) -> None:
    assert shared.meta.backbone is not None
    named = shared.meta.backbone.model_copy(update={"name": name})
    meta = shared.meta.model_copy(update={"backbone": named})
    head, _ = front_matter(parcel_of(replace(shared, meta=meta), "hf:me/walls", "mit").files)
    assert head.get("base_model") == base


def test_a_clients_own_prompt_stays_unless_its_owner_says_so(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="holds the own prompt of client 2, which tells of its data"):
        parcel_of(bundle, "shelf", "mit")
    parcel = parcel_of(bundle, "shelf", "other", personal=True)
    assert parcel.notes[-1] == "the card says license: other; --license names yours"


def test_a_folder_takes_it_and_gives_it_back(shared: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf" / "walls"
    where = push(parcel_of(shared, f"folder:{shelf}", "mit"))
    assert where == str(shelf)
    assert read_bundle(shelf).shared == shared.shared
    monkeypatch.chdir(tmp_path)
    folder = pull(str(shelf))
    assert folder == Path("walls")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in shelf.iterdir()
    }
    with pytest.raises(BundleError, match="already holds a bundle"):
        pull(str(shelf))
    (shelf / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"holds 'extra.bin', which no bundle has: nothing is taken"):
        pull(str(shelf), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_hub_takes_it_and_gives_it_back(shared: Bundle, fake: FakeHub, tmp_path: Path) -> None:
    parcel = parcel_of(shared, "hf:me/walls", "mit")
    assert push(parcel) == "https://huggingface.co/me/walls"
    assert fake.private == {"me/walls": True}
    assert pull("hf:me/walls", tmp_path / "walls") == tmp_path / "walls"
    assert read_bundle(tmp_path / "walls").shared == shared.shared
    with pytest.raises(BundleError, match=r"hf:me/walls already holds a bundle"):
        push(parcel)
    fake.repositories["me/walls"]["prompt.txt"] = b"of an earlier bundle"
    push(parcel, overwrite=True)
    assert set(fake.repositories["me/walls"]) == {*parcel.files, ".gitattributes"}
    fake.repositories["me/walls"]["weights.bin"] = b""
    with pytest.raises(BundleError, match=r"holds other files than a bundle \('weights.bin'\)"):
        push(parcel, overwrite=True)
    push(parcel_of(shared, "hf:me/open", "mit"), public=True)
    assert fake.private["me/open"] is False


def test_load_fetches_once_and_goes_on_without_a_network(
    shared: Bundle, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    push(parcel_of(shared, "hf:me/walls", "mit"))
    folder = pulled_folder(HubPlace("me/walls"))
    assert read_bundle(folder).shared == shared.shared
    downloads: list[str] = []
    monkeypatch.setattr(fake, "hf_hub_download", lambda *args, **_: downloads.append(args[1]))
    assert pulled_folder(HubPlace("me/walls")) == folder
    assert downloads == []

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fake, "model_info", offline)
    assert pulled_folder(HubPlace("me/walls")) == folder
    assert "cannot ask the hub for hf:me/walls (no route): check the network; the copy of an earlier" in caplog.text
    with pytest.raises(BundleError, match="cannot ask the hub for hf:me/other"):
        pulled_folder(HubPlace("me/other"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pytorch_model.bin": b"x"}, "holds 'pytorch_model.bin', which no bundle has: nothing is fetched"),
        ({"../escape.json": b"x"}, r"holds '../escape.json', which no bundle has"),
        ({CONFIG: None}, "holds no bundle: there is no promptfed_config.json"),
        ({"prompt.safetensors": b"x" * 100}, "damaged"),
        ({"prompt.txt": b"not named"}, "file 'prompt.txt' is not among those"),
    ],
)
def test_a_strangers_repository_is_compared_before_anything_is_written(
    shared: Bundle, fake: FakeHub, tmp_path: Path, change: dict[str, bytes | None], said: str
) -> None:
    push(parcel_of(shared, "hf:me/walls", "mit"))
    [(name, content)] = change.items()
    if content is None:
        del fake.repositories["me/walls"][name]
    else:
        fake.repositories["me/walls"][name] = content
    with pytest.raises(BundleError, match=said):
        pull("hf:me/walls", tmp_path / "walls")
    assert not (tmp_path / "walls").exists()


def test_sizes_are_compared_before_anything_is_fetched(
    shared: Bundle, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(parcel_of(shared, "hf:me/walls", "mit"))
    fake.sizes["prompt.safetensors"] = 10**12
    monkeypatch.setattr(fake, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(BundleError, match=r"prompt.safetensors has 1000000000000 bytes; at most 2,000,000,000"):
        pull("hf:me/walls", tmp_path / "walls")


def test_what_the_hub_says_becomes_one_line(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"^hf:me/none: there is no such repository[^\n]*hf auth login`$"):
        pull("hf:me/none")
    for kind, said in (("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"), ("GatedRepoError", "the hub refuses")):

        def refuse(*_: object, kind: str = kind, **__: object) -> None:
            raise type(kind, (Exception,), {})("long\ntext")

        monkeypatch.setattr(fake, "model_info", refuse)
        with pytest.raises(BundleError, match=said):
            pull("hf:me/none")


@pytest.mark.parametrize("name", ["hf:", "hf:me", "hf:me/../x", "hf:me/a/b", "hf:me/a@", "hf:-me/a", "hf:me/a b"])
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    if name == "hf:me/a@":
        assert hub_place(name) == HubPlace("me/a")
        return
    with pytest.raises(ConfigError, match="is no repository of the hub: write hf:USER/NAME"):
        place_of(name)


def test_the_commands_show_what_goes_and_say_where(
    shared: Bundle, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from promptfed.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return int(ended.value.code or 0), *capsys.readouterr()

    write_bundle(tmp_path / "own", bundle)
    write_bundle(tmp_path / "walls", shared)
    shelf = tmp_path / "shelf"
    code, out, err = run("push", tmp_path / "walls", shelf, "--dry-run", "--license", "mit")
    assert (code, shelf.exists()) == (0, False), err
    assert f"would go to folder {shelf}:" in out
    assert "prompt.safetensors" in out
    assert "note: it names client" in err
    code, out, err = run("push", tmp_path / "walls", "hf:me/walls", "--dry-run", "--json")
    facts = json.loads(out)
    assert (facts["place"], facts["sent"], facts["address"]) == ("hf:me/walls", False, None)
    code, out, err = run("push", tmp_path / "own", shelf)
    assert (code, err.count("\n")) == (2, 1)
    assert run("push", tmp_path / "walls", shelf, "--quiet")[:2] == (0, f"{shelf}\n")
    assert run("pull", shelf, "--out", tmp_path / "taken", "-q")[:2] == (0, f"{tmp_path / 'taken'}\n")
    code, _, err = run("push", tmp_path / "walls", shelf, "--client", 1)
    assert (code, "leave them out" in err) == (2, True)
    shutil.rmtree(tmp_path / "taken")


def test_a_real_hub_that_is_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs with HF_HUB_OFFLINE."""
    with pytest.raises(BundleError, match=r"^cannot ask the hub for hf:me/none[^\n]*$"):
        pull("hf:me/none")
