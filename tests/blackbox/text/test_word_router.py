"""Words choose among documents: TF-IDF by hand, and which words tell of a key."""

from __future__ import annotations

import math

import torch

from promptfed.blackbox.text.word_router import WordRouter, telling_words, words_of


def test_words_are_lower_case_without_stop_words_and_endings():
    assert words_of("What's the Flights' cost to Zürich? I\u2019ve booked tickets") == [
        "flight",
        "cost",
        "zürich",
        "book",
        "ticket",
    ]
    assert words_of("the a of") == []
    assert words_of("日本 天気") == ["日本", "天気"]
    assert words_of("class glasses berries") == ["class", "glass", "berry"]


def test_cosines_are_those_worked_out_by_hand():
    router = WordRouter([{"rain": 1, "wind": 1}, {"song": 3, "wind": 1}])
    once, twice = math.log(3 / 2) + 1, 1.0
    rain = torch.tensor([once, twice])
    song = torch.tensor([(1 + math.log(3)) * once, twice])
    [[first, second]] = router.cosines(["wind and rain"]).tolist()
    text = torch.tensor([twice, once])
    assert first == torch.dot(text.flip(0), rain).div(text.norm() * rain.norm()).item() or math.isclose(
        first, 1, abs_tol=1e-6
    )
    assert math.isclose(second, (twice / text.norm() * twice / song.norm()).item(), abs_tol=1e-6)


def test_a_text_without_a_known_word_has_no_cosine():
    assert WordRouter([{"rain": 1}, {}]).cosines(["hello", "", "rain"]).tolist() == [[0, 0], [0, 0], [1, 0]]
    assert WordRouter([{"rain": 1}]).cosines([]).shape == (0, 1)


def test_telling_words_are_frequent_here_and_rare_elsewhere():
    texts = {"music": ["play the song", "play the album", "play a song please"], "games": ["play chess", "chess again"]}
    found = telling_words(texts)
    assert list(found["music"])[:2] == ["play", "song"]
    assert found["music"]["play"] == 3
    assert next(iter(found["games"])) == "chess", "play stands with music too"
    assert list(telling_words(texts, 1)["music"]) == ["play"]


def test_words_that_name_single_things_do_not_tell():
    found = telling_words({"parcels": ["track RB77412 and 123456 for 12 tickets"]})["parcels"]
    assert set(found) == {"track", "12", "ticket"}
