"""Collections for federated search: the bundled one, FeB4RAG, and folders and files of other corpora."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.readers.files import MEGABYTE
from promptfed.readers.text import text_lines
from promptfed.retrieval.collection import Collection, Corpus, Request, graded
from promptfed.tasks.sources import jsonl, tsv
from promptfed.tasks.sources.class_names import check_names
from promptfed.tasks.sources.unreadable import readable

FOLDER = Path(__file__).parent.parent / "texts"
BUNDLED = "texts:search"
KINDS = {
    "texts": ("retrieval", "bundled", BUNDLED),
    "feb4rag": ("retrieval", "feb4rag", "feb4rag:DIR"),
    "beir": ("retrieval_corpora", "beir", "beir:DIR,DIR,..."),
    "testbed": ("retrieval_corpora", "testbed", "testbed:DIR"),
    "squad": ("retrieval_corpora", "squad", "squad:FILE"),
}
"""Kind -> module, function, and how a user writes it."""
ABOUT, TOUCHES = 2.0, 1.0
"""Relevance of the bundled documents: the one that a request is asked of, and others on its topic."""


def load_collection(data: str) -> Collection:
    """Load the corpora and requests called ``data``.

    Raises:
        ConfigError: The kind is unknown or lacks its path.
        DataError: Files are missing or bad, there is one engine only, or one without documents or requests.
    """
    kind, _, name = data.partition(":")
    if kind not in KINDS:
        raise unknown_name("collection for federated search", data, [form for *_, form in KINDS.values()])
    module, function, form = KINDS[kind]
    if not name:
        raise ConfigError(f"data source '{data}' lacks its path: write {form}")
    read: Callable[[str], Collection] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    with readable(data):
        return checked(read(name))


def checked(collection: Collection) -> Collection:
    """Return the collection without requests that no engine answers.

    Raises:
        DataError: It has fewer than two engines, an empty corpus, or too few requests.
    """
    names = [corpus.name for corpus in collection.corpora]
    if len(names) < 2:
        count = "one corpus only" if names else "no corpus"
        raise DataError(f"data '{collection.name}' has {count}: federated search needs at least two")
    check_names(names, "engine", collection.name)
    if any(corpus.documents for corpus in collection.corpora):
        for corpus in collection.corpora:
            if not corpus.documents:
                raise DataError(f"corpus '{printable(corpus.name)}' of data '{collection.name}' has no documents")
    answered = tuple(request for request in collection.requests if any(grade > 0 for grade in request.grades))
    if len(answered) < len(names):
        raise DataError(
            f"data '{collection.name}' has {len(answered)} requests that an engine answers: at least one for each of "
            f"the {len(names)} engines is needed"
        )
    dropped = len(collection.requests) - len(answered)
    notes = (f"left out: requests that no engine answers ({dropped})",) if dropped else ()
    return Collection(collection.name, collection.corpora, answered, (*collection.notes, *notes))


def bundled(name: str) -> Collection:
    """Return ``texts:search``: eight corpora of 25 short texts, and a request about each.

    A request's own text has the relevance 2. Another text that is on its topic has 1, in whatever corpus it is.
    """
    if f"texts:{name}" != BUNDLED:
        raise unknown_name("bundled corpora", name, [BUNDLED.partition(":")[2]])
    described = {str(row["engine"]): str(row["description"]) for _, row in tsv.rows(FOLDER / "search_engines.tsv")}
    rows = [{name: str(value) for name, value in row.items()} for _, row in tsv.rows(FOLDER / "search.tsv")]
    places: dict[str, list[int]] = {engine: [] for engine in described}
    for place, row in enumerate(rows):
        places[row["engine"]].append(place)
    corpora = tuple(
        Corpus(engine, described[engine], tuple(rows[place]["text"] for place in held))
        for engine, held in places.items()
    )
    engines = list(described)
    number = {place: k for held in places.values() for k, place in enumerate(held)}
    requests = []
    for place, row in enumerate(rows):
        topic = row["topics"].split(",")[0]
        relevance: dict[int, dict[int, float]] = {}
        for other, candidate in enumerate(rows):
            if topic in candidate["topics"].split(","):
                engine = engines.index(candidate["engine"])
                relevance.setdefault(engine, {})[number[other]] = ABOUT if other == place else TOUCHES
        grades, origin = graded(relevance, len(engines)), engines.index(row["engine"])
        requests.append(Request(row["request"], grades, origin, relevance, row["answer"]))
    return Collection(BUNDLED, corpora, tuple(requests))


def feb4rag(path: str) -> Collection:
    """Return FeB4RAG's requests and the grades of its 16 engines, 0 to 100; their documents are not part of it.

    ``path`` is its repository or the folder ``dataset`` of it.

    Raises:
        DataError: A file is missing or bad.
    """
    folder = Path(path).expanduser()
    folder = folder / "dataset" if (folder / "dataset").is_dir() else folder
    _, rows = read_table(folder / "engines" / "engines.csv", MEGABYTE)
    described = {row["name"]: " ".join(row["description"].split()) for _, row in rows}
    engines = {name: place for place, name in enumerate(described)}
    origins = {rid: name for rid, name, *_ in _lines(folder / "queries" / "rid_mapping.tsv", "\t", 3)}
    texts = {str(row["_id"]): str(row["text"]) for _, row in jsonl.rows(folder / "queries" / "requests.jsonl")}
    grades: dict[str, list[float]] = {rid: [0.0] * len(engines) for rid in texts}
    judged = folder / "qrels" / "BEIR-QRELS-RS.txt"
    for rid, _, engine, grade in _lines(judged, None, 4):
        if engine not in engines or rid not in grades:
            raise DataError(
                f"{judged.name} judges engine '{printable(engine)}' for request '{printable(rid)}': unknown"
            )
        grades[rid][engines[engine]] = _number(grade, judged.name)
    if strange := sorted({name for name in origins.values() if name not in engines}):
        raise DataError(f"rid_mapping.tsv names engine '{printable(strange[0])}', which engines.csv lacks")
    corpora = tuple(Corpus(name, description) for name, description in described.items())
    if lacking := [rid for rid in texts if rid not in origins]:
        raise DataError(f"rid_mapping.tsv lacks request '{printable(lacking[0])}'")
    requests = [Request(text, tuple(grades[rid]), engines[origins[rid]]) for rid, text in texts.items()]
    return Collection(f"feb4rag:{path}", corpora, tuple(requests))


def _lines(path: Path, separator: str | None, width: int) -> Iterator[list[str]]:
    """Yield the fields of each line that is not blank. Raises DataError for a line of another number of fields."""
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            fields = [field.strip() for field in line.rstrip("\r\n").split(separator)]
            if len(fields) != width:
                raise DataError(f"{path.name}:{number} has {len(fields)} fields, not {width}")
            yield fields


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{where} has the grade '{printable(text, 40)}': a number from 0 is needed")
    return value
