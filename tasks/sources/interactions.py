"""Who chose what, in order: a made-up shop chain, MovieLens 100K, and two CSV files of a user's own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.seeding import numpy_stream
from promptfed.tasks.sources import tsv
from promptfed.tasks.sources.unreadable import readable

FOLDER = Path(__file__).parent.parent / "texts"
SHOPS = "shops"
FORMS = (SHOPS, "movielens:DIR", "interactions:FILE,ITEMS")
MOST = 256 * MEGABYTE


@dataclass(frozen=True)
class Interactions:
    """Items and what users chose.

    Attributes:
        name: What messages call the data.
        items: Their names, all different.
        texts: What is publicly said of each item.
        users: For each user, the numbers of the items that they chose, in order.
        homes: The client that each user belongs to.
    """

    name: str
    items: tuple[str, ...]
    texts: tuple[str, ...]
    users: tuple[tuple[int, ...], ...]
    homes: tuple[str, ...]


def load_interactions(data: str, seed: int) -> Interactions:
    """Load the interactions called ``data``.

    Args:
        data: One of FORMS.
        seed: Of the made-up shops.

    Raises:
        ConfigError: The kind is unknown or lacks its path.
        DataError: Files are missing or bad.
    """
    kind, _, path = data.partition(":")
    if data == SHOPS:
        return shops(seed)
    if kind not in ("movielens", "interactions"):
        raise unknown_name("source of interactions", data, FORMS)
    if not path or (kind == "interactions" and path.count(",") != 1):
        raise ConfigError(f"data source '{data}' lacks a path: write {FORMS[1 if kind == 'movielens' else 2]}")
    with readable(data):
        return movielens(path) if kind == "movielens" else tables(*path.split(","))


STRAY = 0.15
"""Share of choices that follow no rule."""
USERS, SHOP_NAMES = 300, ("north", "south", "east", "west", "harbour", "online")


def shops(seed: int) -> Interactions:
    """Return 300 made-up users of six shops, and 200 items of 20 categories.

    Whoever chose something of one category next chooses something of the category that follows it in a fixed circle,
    which nobody is told; 15 of 100 choices are of any item. Nothing is chosen twice by one user.
    """
    draw = numpy_stream(seed, "shops")
    rows = [(str(row["item"]), str(row["use"])) for _, row in tsv.rows(FOLDER / "items.tsv")]
    items = [(name, f"{name}, {use}") for name, use in rows]
    categories = len({use for _, use in rows})
    size = len(rows) // categories
    circle = draw.permutation(categories)
    follower = np.empty(categories, dtype=int)
    follower[circle] = np.roll(circle, -1)
    users = []
    for _ in range(USERS):
        chosen: list[int] = []
        category = int(draw.integers(categories))
        for _ in range(int(draw.integers(6, 25))):
            kind = int(draw.integers(categories)) if draw.random() < STRAY else category
            rest = [kind * size + k for k in range(size) if kind * size + k not in chosen]
            if rest:
                chosen.append(int(draw.choice(rest)))
                category = int(follower[kind])
        users.append(tuple(chosen))
    homes = tuple(SHOP_NAMES[k % len(SHOP_NAMES)] for k in range(USERS))
    names, texts = zip(*items, strict=True)
    return Interactions(SHOPS, names, texts, tuple(users), homes)


def movielens(path: str) -> Interactions:
    """Return MovieLens 100K: every rating is a choice; a client is what users do for a living.

    ``path`` has ``u.data``, ``u.item``, ``u.user``, or the same as RecBole has it (``ml-100k.inter``, ...). Ratings of
    one second are put in the order of the films' numbers: there are many, and figures depend on their order.

    Raises:
        DataError: A line is bad.
    """
    folder = Path(path).expanduser()
    if (folder / "ml-100k.inter").exists():
        return _recbole(path, folder)
    films = [line.split("|") for line in _latin(folder / "u.item")]
    if not films or any(len(row) < 24 for row in films):
        raise DataError(f"'{printable(path)}/u.item' is not that of MovieLens 100K: 24 fields between bars")
    place = {row[0]: k for k, row in enumerate(films)}
    names = _different([row[1] or f"film {row[0]}" for row in films])
    genres = [", ".join(g for g, flag in zip(GENRES, row[5:24], strict=False) if flag == "1") for row in films]
    people = [line.split("|") for line in _latin(folder / "u.user")]
    rows = [line.split("\t") for line in _latin(folder / "u.data")]
    try:
        rated = [(int(time), int(user), place[film]) for user, film, _, time in rows]
        homes = {int(row[0]): row[3] for row in people}
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"'{printable(path)}' is not MovieLens 100K: u.data or u.user has a bad line ({error})"
        ) from error
    texts = [f"{name}: {kind}" if kind else name for name, kind in zip(names, genres, strict=True)]
    return _grouped(f"movielens:{path}", names, texts, rated, homes)


def _recbole(path: str, folder: Path) -> Interactions:
    films, people, rated = (list(tsv.rows(folder / f"ml-100k.{part}")) for part in ("item", "user", "inter"))
    try:
        place = {row["item_id:token"]: k for k, (_, row) in enumerate(films)}
        titles = [f"{row['movie_title:token_seq']} ({row['release_year:token']})" for _, row in films]
        genres = [", ".join(str(row["class:token_seq"]).split()) for _, row in films]
        homes = {int(str(row["user_id:token"])): str(row["occupation:token"]) for _, row in people}
        chosen = [
            (float(str(row["timestamp:float"])), int(str(row["user_id:token"])), place[row["item_id:token"]])
            for _, row in rated
        ]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"'{printable(path)}' is not RecBole's ml-100k: a column or a number is bad ({error})"
        ) from error
    names = _different(titles)
    texts = [f"{name}: {kind}" if kind else name for name, kind in zip(names, genres, strict=True)]
    return _grouped(f"movielens:{path}", names, texts, chosen, homes)


GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def tables(interactions: str, items: str) -> Interactions:
    """Return CSV files: ``user,item,time[,client]`` and ``item,text``. Without clients, all users are of one.

    Raises:
        DataError: A column or a value is missing, or an item has no text.
    """
    columns, rows = read_table(Path(items).expanduser(), MOST)
    _need(items, columns, ("item", "text"))
    text_of: dict[str, str] = {}
    for line, row in rows:
        if not row["text"] or not row["item"]:
            raise DataError(
                f"{printable(items)} line {line} has no item or no text: items are told apart by their texts"
            )
        if row["item"] in text_of:
            raise DataError(f"{printable(items)} line {line}: item '{printable(row['item'])}' is there twice: keep one")
        text_of[row["item"]] = row["text"]
    columns, chosen = read_table(Path(interactions).expanduser(), MOST)
    _need(interactions, columns, ("user", "item", "time"))
    place = {name: k for k, name in enumerate(text_of)}
    users: dict[str, int] = {}
    homes: dict[int, str] = {}
    rated = []
    for line, row in chosen:
        if row["item"] not in place:
            raise DataError(f"{printable(interactions)} line {line}: item '{printable(row['item'])}' has no text")
        if not row["user"]:
            raise DataError(f"{printable(interactions)} line {line} names no user")
        time = _time(row["time"])
        if not math.isfinite(time):
            raise DataError(f"{printable(interactions)} line {line}: time '{printable(row['time'])}' is no number")
        user = users.setdefault(row["user"], len(users))
        homes.setdefault(user, row.get("client") or "all")
        rated.append((time, user, place[row["item"]]))
    return _grouped(f"interactions:{interactions}", list(text_of), list(text_of.values()), rated, homes)


def _grouped(
    name: str, items: list[str], texts: list[str], rated: Iterable[tuple[float, int, int]], homes: dict[int, str]
) -> Interactions:
    """Put choices in order of time, each item once a user."""
    by_user: dict[int, dict[int, None]] = {}
    for _, user, item in sorted(rated):
        by_user.setdefault(user, {}).setdefault(item)
    users = sorted(by_user)
    sequences = tuple(tuple(by_user[user]) for user in users)
    return Interactions(name, tuple(items), tuple(texts), sequences, tuple(homes.get(user, "all") for user in users))


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _need(file: str, columns: list[str], needed: tuple[str, ...]) -> None:
    if not columns:
        raise DataError(f"{printable(file)} is empty; it needs the columns {', '.join(needed)}")
    if absent := [column for column in needed if column not in columns]:
        hint = ", with commas between them" if any(";" in column for column in columns) else ""
        raise DataError(f"{printable(file)} has no column '{absent[0]}'; it needs {', '.join(needed)}{hint}")


def _latin(path: Path) -> list[str]:
    return [line for line in read_bytes(path, MOST).decode("latin-1").splitlines() if line]


def _different(names: list[str]) -> list[str]:
    seen: set[str] = set()
    result = []
    for number, name in enumerate(names, 1):
        own = name if name.casefold() not in seen else f"{name} #{number}"
        seen.add(own.casefold())
        result.append(own)
    return result
