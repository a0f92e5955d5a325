"""Collections from files, in the layouts of FeB4RAG, BEIR, the test beds and SQuAD."""

from __future__ import annotations

import json

import pytest

from promptfed.errors import DataError
from promptfed.tasks.sources.retrieval import load_collection


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")


def test_the_bundled_collection_answers_its_own_requests():
    collection = load_collection("texts:search")
    assert [len(corpus.documents) for corpus in collection.corpora] == [25] * 8
    assert len(collection.requests) == 200
    for request in collection.requests:
        (document,) = (k for k, grade in request.relevance[request.origin].items() if grade == 2)
        assert request.answer.lower() in collection.corpora[request.origin].documents[document].lower()
        assert request.grades[request.origin] >= 2
    assert sum(len([g for g in request.grades if g > 0]) > 1 for request in collection.requests) > 100


@pytest.fixture
def feb4rag(tmp_path):
    folder = tmp_path / "dataset"
    write(
        folder / "engines" / "engines.csv", "name,model,Description,vertical", 'wet,m,"Seas, lakes",x', "dry,m,Sand,x"
    )
    write(folder / "queries" / "requests.jsonl", *({"_id": str(k), "text": f"request {k}"} for k in (1, 2, 3)))
    write(folder / "queries" / "rid_mapping.tsv", "1\twet\ta", "2\tdry\tb", "3\tdry\tc")
    write(folder / "qrels" / "BEIR-QRELS-RS.txt", "1 0 wet 75", "1 0 dry 3", "2 0 dry 40", "3 0 dry 0")
    return tmp_path


def test_feb4rag(feb4rag):
    collection = load_collection(f"feb4rag:{feb4rag}")
    assert [(corpus.name, corpus.description) for corpus in collection.corpora] == [
        ("wet", "Seas, lakes"),
        ("dry", "Sand"),
    ]
    assert [(r.text, r.grades, r.origin) for r in collection.requests] == [
        ("request 1", (75.0, 3.0), 0), ("request 2", (0.0, 40.0), 1)]  # fmt: skip
    assert collection.notes == ("left out: requests that no engine answers (1)",)
    assert not collection.has_documents
    assert load_collection(f"feb4rag:{feb4rag / 'dataset'}").requests == collection.requests


@pytest.mark.parametrize(
    ("line", "said"),
    [("1 0 moon 5", "judges engine 'moon'"), ("1 0 wet much", "has the grade 'much'"), ("1 0 wet", "has 3 fields")],
)
def test_bad_judgements_of_feb4rag(feb4rag, line, said):
    write(feb4rag / "dataset" / "qrels" / "BEIR-QRELS-RS.txt", line)
    with pytest.raises(DataError, match=said):
        load_collection(f"feb4rag:{feb4rag}")


def beir(folder, text):
    documents = [{"_id": f"d{k}", "title": "", "text": f"{text} {k}"} for k in range(3)]
    write(folder / "corpus.jsonl", *documents)
    write(folder / "queries.jsonl", {"_id": "q1", "text": f"where is {text}"}, {"_id": "q2", "text": "unjudged"})
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\td2\t2", "q1\td0\t0", "q1\tgone\t1")


def test_beir_folders_one_by_one_or_together(tmp_path):
    beir(tmp_path / "sea", "water")
    beir(tmp_path / "desert", "sand")
    both = load_collection(f"beir:{tmp_path / 'sea'},{tmp_path / 'desert'}")
    assert [corpus.name for corpus in both.corpora] == ["sea", "desert"]
    assert [(r.text, r.grades, r.origin, dict(r.relevance)) for r in both.requests] == [
        ("where is water", (2.0, 0.0), 0, {0: {2: 2.0}}), ("where is sand", (0.0, 2.0), 1, {1: {2: 2.0}})]  # fmt: skip
    assert [corpus.name for corpus in load_collection(f"beir:{tmp_path}").corpora] == ["desert", "sea"]


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([{"text": "a"}, {"text": "b"}], r"corpus.jsonl:1 has no _id: give each document one of its own"),
        ([{"_id": "x", "text": "a"}, {"_id": "x", "text": "b"}], "has document 'x' twice: keep one"),
    ],
)
def test_documents_are_told_apart(tmp_path, documents, words):
    beir(tmp_path, "water")
    write(tmp_path / "corpus.jsonl", *documents)
    with pytest.raises(DataError, match=words):
        load_collection(f"beir:{tmp_path}")


def test_test_beds_of_numbered_files(tmp_path):
    for name in ("bed10", "bed2"):
        for k in (1, 3):
            write(tmp_path / name / f"document.{k}", f"{name} text {k}")
        write(tmp_path / name / "query.1", f"about {name}")
        write(tmp_path / name / "relevance.1", "0", "2", "1")
    collection = load_collection(f"testbed:{tmp_path}")
    assert [corpus.name for corpus in collection.corpora] == ["bed2", "bed10"]
    assert collection.corpora[0].documents == ("bed2 text 1", "bed2 text 3")
    assert [dict(request.relevance) for request in collection.requests] == [{0: {1: 1.0}}, {1: {1: 1.0}}]
    (tmp_path / "bed2" / "relevance.1").unlink()
    with pytest.raises(DataError, match=r"has no relevance\.1 beside it"):
        load_collection(f"testbed:{tmp_path}")


def test_articles_of_a_squad_file(tmp_path):
    def article(title):
        asked = [{"question": f"what is {title}?", "id": title, "answers": [{"text": "a thing"}]}]
        return {
            "title": title,
            "paragraphs": [{"context": "other", "qas": []}, {"context": f"{title} is a thing", "qas": asked}],
        }

    write(tmp_path / "x.json", {"data": [article("First_one"), article("second")]})
    collection = load_collection(f"squad:{tmp_path / 'x.json'}")
    assert [corpus.name for corpus in collection.corpora] == ["First one", "second"]
    assert [(r.origin, r.answer, dict(r.relevance)) for r in collection.requests] == [
        (0, "a thing", {0: {1: 1.0}}), (1, "a thing", {1: {1: 1.0}})]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "said"),
    [("feb4rag", "engines.csv"), ("beir", "corpus.jsonl"), ("testbed", "holds no folder"), ("squad", "cannot read")],
)
def test_missing_files_are_one_line(tmp_path, kind, said):
    with pytest.raises(DataError, match=said) as caught:
        load_collection(f"{kind}:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", '{"data": 3}', '{"data": [{"paragraphs": [{}]}]}', "{"])
def test_a_file_that_is_no_squad_file(tmp_path, content):
    write(tmp_path / "x.json", content)
    with pytest.raises(DataError) as caught:
        load_collection(f"squad:{tmp_path / 'x.json'}")
    assert "\n" not in str(caught.value)


def test_an_empty_corpus_is_refused(tmp_path):
    beir(tmp_path / "sea", "water")
    beir(tmp_path / "void", "sand")
    (tmp_path / "void" / "corpus.jsonl").write_text("")
    with pytest.raises(DataError, match=r"corpus 'void' .* has no documents"):
        load_collection(f"beir:{tmp_path}")
