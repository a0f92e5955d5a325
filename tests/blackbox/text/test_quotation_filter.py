"""Nothing that a client holds leaves it word for word inside a prompt."""

from __future__ import annotations

import pytest

from promptfed.blackbox.text.quotation_filter import Quotations, sentences, shortened

CANARY = "The purple heron sings at midnight behind our garage"


def removed(prompt, *private, words=6):
    return Quotations(private, words).removed(prompt)


def test_a_sentence_with_six_private_words_is_dropped_and_the_rest_stays():
    prompt = "Read with care. Note that THE PURPLE heron, sings at midnight! Answer briefly."
    assert removed(prompt, CANARY) == "Read with care. Answer briefly."


def test_five_private_words_in_a_row_stay():
    prompt = "The purple heron sings at dawn."
    assert removed(prompt, CANARY) == prompt
    assert removed(prompt, CANARY, words=5) == ""


def test_a_quotation_over_two_sentences_costs_both():
    assert removed("Start. The purple heron. Sings at midnight. End.", CANARY) == "Start. End."


def test_a_quotation_that_removal_made_is_dropped_too():
    prompt = "the purple heron sings. alpha beta gamma delta epsilon zeta. at midnight behind."
    assert removed(prompt, CANARY, "alpha beta gamma delta epsilon zeta") == ""


def test_a_whole_short_text_is_a_quotation_and_a_word_is_none():
    assert removed("Say it. He is fired!", "he is fired") == "Say it."
    assert removed("Think of fire.", "fire") == "Think of fire."


@pytest.mark.parametrize(
    "secret",
    ["4929 1234 5678", "4929-1234-5678", "492912345678", "4929. 1234 56", "ann.lee@example.org", "ANN.LEE@example.org"],
)
def test_numbers_and_addresses_are_giveaways(secret):
    private = ("My card is 4929 1234-5678", "write to Ann.Lee@example.org")
    assert removed(f"Be kind. It is {secret} now. Be short.", *private) == "Be kind. Be short."
    assert removed("Use 4 steps and 2025 words.", *private) == "Use 4 steps and 2025 words."


def test_cut_at_sentences_then_at_words():
    assert shortened("One two. Three four. Five.", 20) == "One two. Three four."
    assert shortened("One two three", 9) == "One two"
    assert shortened("x" * 50, 9) == "x" * 9
    assert shortened("", 9) == shortened("  \n", 9) == ""
    assert all(len(shortened(CANARY + ". " + CANARY, n)) <= n for n in range(1, 120))


def test_sentences_keep_decimals_and_lines():
    assert sentences("Pay 2.50 now. Then go!\nDone") == ["Pay 2.50 now.", "Then go!", "Done"]
