"""Who chose what, from the made-up shops, MovieLens' files and CSV files."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from promptfed.errors import ConfigError, DataError
from promptfed.retrieval.recommending import figures, popularity
from promptfed.tasks.sources.interactions import load_interactions

MOVIELENS = Path(os.environ.get("PROMPTFED_DATA", "../shared/data")) / "ml-100k"


def test_made_up_users_go_round_a_circle_of_categories():
    data = load_interactions("shops", 0)
    assert (len(data.items), len(data.users), len(set(data.homes))) == (200, 300, 6)
    assert len(set(data.items)) == len(set(data.texts)) == 200
    assert load_interactions("shops", 0) == data
    assert load_interactions("shops", 1).users != data.users
    steps = np.zeros((20, 20))
    for chosen in data.users:
        assert len(set(chosen)) == len(chosen)
        for before, after in pairwise(chosen):
            steps[before // 10, after // 10] += 1
    follower = steps.argmax(1)
    assert sorted(follower.tolist()) == list(range(20))
    assert 0.8 < steps.max(1).sum() / steps.sum() < 0.95


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


def test_movielens_files(tmp_path):
    flags = ["0"] * 19
    action = [*flags]
    action[1] = action[14] = "1"
    rows = (("1", "Amélie (2001)", flags), ("2", "Heat (1995)", action), ("3", "Heat (1995)", flags))
    films = ["|".join([number, title, "", "", "", *genres]) for number, title, genres in rows]
    write(tmp_path / "u.item", *films, encoding="latin-1")
    write(tmp_path / "u.user", "1|24|M|writer|1", "2|30|F|doctor|2")
    write(tmp_path / "u.data", "1\t2\t5\t20", "1\t1\t3\t10", "2\t3\t1\t5", "1\t3\t1\t20")
    data = load_interactions(f"movielens:{tmp_path}", 0)
    assert data.items == ("Amélie (2001)", "Heat (1995)", "Heat (1995) #3")
    assert data.texts[:2] == ("Amélie (2001)", "Heat (1995): Action, Romance")
    assert data.users == ((0, 1, 2), (2,))
    assert data.homes == ("writer", "doctor")
    write(tmp_path / "u.data", "1\t9\t5\t20")
    with pytest.raises(DataError, match="has a bad line"):
        load_interactions(f"movielens:{tmp_path}", 0)


def test_own_tables(tmp_path):
    write(tmp_path / "items.csv", "item,text", 'a,"tea, green"', "b,coffee")
    write(
        tmp_path / "log.csv",
        "user,item,time,client",
        "ann,b,2,north",
        "ann,a,1,north",
        "bob,a,1,south",
        "ann,a,3,north",
    )
    name = f"interactions:{tmp_path / 'log.csv'},{tmp_path / 'items.csv'}"
    data = load_interactions(name, 0)
    assert data.texts == ("tea, green", "coffee")
    assert data.users == ((0, 1), (0,))
    assert data.homes == ("north", "south")


@pytest.mark.parametrize(
    ("items", "log", "said"),
    [
        ("item,text\na,\n", "user,item,time\nx,a,1\n", "has no item or no text"),
        ("item\na\n", "user,item,time\nx,a,1\n", "has no column 'text'"),
        ("item,text\na,tea\n", "user,item\nx,a\n", "has no column 'time'"),
        ("item,text\na,tea\n", "user,item,time\nx,b,1\n", "item 'b' has no text"),
        ("item,text\na,tea\n", "user,item,time\nx,a,noon\n", "time 'noon' is no number"),
        ("item,text\na,tea\n", "user,item,time\nx,a,nan\n", "time 'nan' is no number"),
        ("item,text\na,tea\n", "user,item,time\n,a,1\n", "line 2 names no user"),
        ("item,text\na,tea\na,coffee\n", "user,item,time\nx,a,1\n", "line 3: item 'a' is there twice"),
        ("item,text\n,tea\n,coffee\n", "user,item,time\nx,a,1\n", "line 2 has no item or no text"),
        ("item,text\na,tea\n", "user;item;time\nx;a;1\n", "it needs user, item, time, with commas between them"),
        ("item,text\na,tea\n", "", "is empty; it needs the columns user, item, time"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, items, log, said):
    (tmp_path / "items.csv").write_text(items)
    (tmp_path / "log.csv").write_text(log)
    with pytest.raises(DataError, match=said) as caught:
        load_interactions(f"interactions:{tmp_path / 'log.csv'},{tmp_path / 'items.csv'}", 0)
    assert "\n" not in str(caught.value)


def test_unknown_and_missing_data(tmp_path):
    with pytest.raises(ConfigError, match="source of interactions 'netflix'"):
        load_interactions("netflix", 0)
    with pytest.raises(ConfigError, match="lacks a path: write interactions:FILE,ITEMS"):
        load_interactions("interactions:one.csv", 0)
    with pytest.raises(DataError, match="cannot read"):
        load_interactions(f"movielens:{tmp_path}", 0)


@pytest.mark.skipif(not MOVIELENS.is_dir(), reason="PROMPTFED_DATA has no ml-100k")
def test_popularity_on_movielens():
    data = load_interactions(f"movielens:{MOVIELENS}", 0)
    assert (len(data.items), len(data.users)) == (1682, 943)
    tests = [(chosen[:-1], chosen[-1]) for chosen in data.users]
    scores = np.tile(popularity([history for history, _ in tests], 1682), (943, 1))
    recall, gain = figures(scores, tests)
    assert recall == pytest.approx(0.0498, abs=5e-5)
    assert gain == pytest.approx(0.0255, abs=5e-4)
