"""Corpora with documents for federated search: BEIR folders, small test beds, and articles of a SQuAD file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from promptfed.errors import DataError
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.readers.json_reader import JsonLimits, read_json
from promptfed.retrieval.collection import Collection, Corpus, Request, graded
from promptfed.tasks.sources import jsonl, tsv
from promptfed.tasks.sources.unreadable import check_folder

MOST_DOCUMENTS = 200_000
"""Documents that are searched exactly, in memory."""
MOST_REQUESTS = 200
"""Requests that are taken of each BEIR folder, in the order of its judgements."""
SQUAD = JsonLimits(size=64 * MEGABYTE, values=4_000_000)


def beir(paths: str) -> Collection:
    """Return the corpora of BEIR folders, one engine each; a folder of such folders stands for all of them.

    Each has ``corpus.jsonl`` (_id, title, text), ``queries.jsonl`` (_id, text) and ``qrels/test.tsv`` (or dev, train).
    Only documents of a request's own folder can answer it: nobody has judged the others.

    Raises:
        DataError: A file is missing or bad.
    """
    folders: list[Path] = []
    for path in paths.split(","):
        folder = Path(path).expanduser()
        inner = sorted(file.parent for file in folder.glob("*/corpus.jsonl"))
        folders += [folder] if (folder / "corpus.jsonl").exists() else inner or [folder]
    parts = [_beir_folder(folder) for folder in folders]
    corpora = tuple(corpus for corpus, _ in parts)
    requests = [
        Request(text, graded({engine: relevance}, len(parts)), engine, {engine: relevance})
        for engine, (_, asked) in enumerate(parts)
        for text, relevance in asked
    ]
    return Collection(f"beir:{paths}", corpora, tuple(requests))


def _beir_folder(folder: Path) -> tuple[Corpus, list[tuple[str, dict[int, float]]]]:
    number: dict[str, int] = {}
    documents: list[str] = []
    for place, row in jsonl.rows(folder / "corpus.jsonl"):
        if len(documents) >= MOST_DOCUMENTS:
            raise DataError(
                f"{printable(folder)} has more than {MOST_DOCUMENTS:,} documents, which are searched exactly"
            )
        if row.get("_id") in (None, ""):
            raise DataError(f"{printable(folder / place)} has no _id: give each document one of its own")
        if (name := str(row["_id"])) in number:
            raise DataError(f"{printable(folder)}/corpus.jsonl has document '{printable(name, 60)}' twice: keep one")
        number[name] = len(documents)
        documents.append(f"{row.get('title') or ''} {row.get('text') or ''}".strip())
    texts = {str(row.get("_id")): str(row.get("text") or "") for _, row in jsonl.rows(folder / "queries.jsonl")}
    splits = tsv.split_files(str(folder / "qrels"), ".tsv")
    judged: dict[str, dict[int, float]] = {}
    for _, row in tsv.rows(next(splits[name] for name in ("test", "val", "train") if name in splits)):
        request, document, score = (row.get(name) for name in ("query-id", "corpus-id", "score"))
        if request is None or document is None or score is None:
            raise DataError(f"{printable(folder)}/qrels needs the columns query-id, corpus-id and score")
        if request in texts and document in number and _grade(score, folder) > 0:
            judged.setdefault(request, {})[number[document]] = _grade(score, folder)
    asked = [(texts[request], relevance) for request, relevance in judged.items()][:MOST_REQUESTS]
    return Corpus(folder.name, folder.name.replace("-", " "), tuple(documents)), asked


def testbed(path: str) -> Collection:
    """Return corpora of numbered files: ``NAME/document.N``, ``query.N``, and ``relevance.N`` with a line a document.

    Line i of a request's relevance is the grade of ``document.i``.

    Raises:
        DataError: A file is missing or bad.
    """
    folder = Path(path).expanduser()
    check_folder(folder)
    folders = sorted({file.parent for file in folder.glob("*/document.*")}, key=_by_number)
    if not folders:
        raise DataError(f"'{printable(path)}' holds no folder with files document.1, document.2, ...")
    corpora, requests = [], []
    for engine, corpus in enumerate(folders):
        numbered = _numbered(corpus, "document")
        place = {number: k for k, number in enumerate(numbered)}
        corpora.append(Corpus(corpus.name, corpus.name, tuple(map(_text, numbered.values()))))
        judged = _numbered(corpus, "relevance")
        for number, file in _numbered(corpus, "query").items():
            if number not in judged:
                raise DataError(f"{printable(file)} has no relevance.{number} beside it")
            lines = enumerate(_text(judged[number]).split(), 1)
            relevance = {place[k]: grade for k, line in lines if (grade := _grade(line, judged[number])) and k in place}
            grades = graded({engine: relevance}, len(folders))
            requests.append(Request(_text(file), grades, engine, {engine: relevance}))
    return Collection(f"testbed:{path}", tuple(corpora), tuple(requests))


def squad(path: str) -> Collection:
    """Return a SQuAD file: each article is a corpus, its paragraphs are documents, its questions have one answer each.

    Raises:
        DataError: It is no such file.
    """
    content = read_json(Path(path).expanduser(), SQUAD)
    try:
        return _articles(path, content["data"])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"'{printable(path)}' is no SQuAD file: it needs the keys data, paragraphs, context, qas and question"
        ) from error


def _articles(path: str, articles: list[dict[str, Any]]) -> Collection:
    corpora, requests = [], []
    for engine, article in enumerate(articles):
        name = str(article.get("title") or f"article {engine + 1}").replace("_", " ")
        paragraphs = article["paragraphs"]
        corpora.append(Corpus(name, name, tuple(str(paragraph["context"]) for paragraph in paragraphs)))
        for place, paragraph in enumerate(paragraphs):
            for question in paragraph["qas"]:
                relevance = {engine: {place: 1.0}}
                answers = question.get("answers") or [{"text": ""}]
                grades = graded(relevance, len(articles))
                requests.append(Request(str(question["question"]), grades, engine, relevance, str(answers[0]["text"])))
    return Collection(f"squad:{path}", tuple(corpora), tuple(requests))


def _numbered(folder: Path, stem: str) -> dict[int, Path]:
    """Return number -> file, by number."""
    files = {int(file.name[len(stem) + 1 :]): file for file in folder.glob(f"{stem}.*") if file.suffix[1:].isdecimal()}
    return dict(sorted(files.items()))


def _text(file: Path) -> str:
    return " ".join(read_bytes(file, MEGABYTE).decode("utf-8", "replace").split())


def _grade(text: str, where: Path) -> float:
    if not re.fullmatch(r"-?\d{1,6}(\.\d{1,6})?", text.strip()):
        raise DataError(f"{printable(where)} has the grade '{printable(text, 40)}': a number is needed")
    return max(0.0, float(text))


def _by_number(folder: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", folder.name)
    return (int(digits) if digits else 2**31, folder.name)
