"""Records merge by key: words with the clients that sent them, sentences without near copies."""

from __future__ import annotations

import pytest

from promptfed.records.merging import MergeRule, merged_records, read_records, read_upload
from promptfed.records.record import Record, RecordSchema, records_tensor

SCHEMA = RecordSchema(texts={"when": 100})


def words(key, *some, support=1):
    return Record(key, words=some, support=support)


def said(key, text, support=1):
    return Record(key, {"when": text}, support=support)


BY_CLIENT = {
    0: [words("music", "song", "play", support=5), words("news", "today")],
    1: [words("music", "play", "album", support=2)],
    2: [words("music", "play", "song", support=3)],
}


def test_words_count_the_clients_that_sent_them_most_first():
    music, news = merged_records(BY_CLIENT, MergeRule())
    assert music == Record("music", {}, ("play", "song", "album"), (3, 2, 1), support=10, clients=3)
    assert news == Record("news", {}, ("today",), (1,), support=1, clients=1)


def test_words_of_fewer_clients_than_asked_are_left_out():
    [music] = merged_records(BY_CLIENT, MergeRule(least_clients=2))
    assert music.words == ("play", "song")
    assert music.counts == (3, 2)
    assert merged_records(BY_CLIENT, MergeRule(least_clients=4)) == []


def test_only_so_many_words_are_kept():
    assert merged_records(BY_CLIENT, MergeRule(words=1))[0].words == ("play",)


def test_clients_in_another_order_make_the_same_records():
    turned = dict(reversed(BY_CLIENT.items()))
    assert merged_records(turned, MergeRule()) == merged_records(BY_CLIENT, MergeRule())


def test_near_copies_count_as_one_sentence_with_both_clients_behind_it():
    by_client = {
        0: [said("music", "The user wants to hear a song or an album.", support=2)],
        1: [said("music", "the user wants to hear a song, or an album", support=4)],
        2: [said("music", "Questions about who sings.", support=5)],
    }
    first, second = merged_records(by_client, MergeRule())
    assert first.texts["when"] == "the user wants to hear a song, or an album", "that of the greatest support"
    assert (first.clients, first.support) == (2, 6)
    assert (second.clients, second.support) == (1, 5)
    assert merged_records(by_client, MergeRule(keep=1)) == [first]


def test_sentences_need_so_many_clients_that_say_anything_about_the_key():
    by_client = {0: [said("music", "Songs.")], 1: [said("music", "Who sings."), said("news", "Headlines.")]}
    assert {record.key for record in merged_records(by_client, MergeRule(least_clients=2))} == {"music"}


def test_reading_leaves_out_what_is_refused_and_says_why():
    lines = [said("music", "Songs."), said("music", "See www.evil.com"), said("bank", "Money.")]
    accepted, refused = read_records(records_tensor(lines), SCHEMA, ("music", "news"))
    assert accepted == lines[:1]
    assert refused == ["an address", "a key that nobody knows"]


def test_a_client_speaks_for_itself_alone_and_once_of_a_key():
    sent = [
        Record("music", words=("song",), counts=(9,), support=7, clients=50),
        words("music", "album"),
        said("music", "Songs."),
        said("music", "More songs."),
    ]
    accepted, refused = read_upload(records_tensor(sent), SCHEMA, ("music",))
    assert accepted == [words("music", "song", support=7), said("music", "Songs.")]
    assert refused == ["a second record of its key"] * 2


def test_who_claims_to_speak_for_many_is_held_to_the_length_of_one():
    long = Record("music", words=tuple(f"word{k}" for k in range(60)), clients=2)
    assert read_records(records_tensor([long]), SCHEMA)[0] == [long]
    accepted, [why] = read_upload(records_tensor([long]), SCHEMA)
    assert accepted == []
    assert "where 240 are allowed" in why


def test_bytes_that_are_no_text_are_an_error():
    with pytest.raises(ValueError, match="bytes in one row"):
        read_records(records_tensor([said("a", "b")]).float(), SCHEMA)
