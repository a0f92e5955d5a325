"""The final answer of worked solutions, as GSM8K's and language models write them."""

from __future__ import annotations

import pytest

from promptfed.blackbox.answers import final_answer, is_right

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (GSM8K, "72"),
        ("#### 1,234", "1234"),
        ("#### $1,000.50", "1000.5"),
        ("The answer is $18.", "18"),
        ("The answer is 18 dollars per day.", "18"),
        ("So the final answer is: 3 * 4 = 12 apples.", "12"),
        ("Answer: 50%", "50"),
        ("The answer: -7", "-7"),
        ("It is \u22127 degrees", "-7"),
        ("She lost -$5", "-5"),
        ("She lost $-5", "-5"),
        ("She has 20-5=15", "15"),
        ("the rows 12-17", "17"),
        ("He pays 2.50 euros", "2.5"),
        ("He pays 3.0.", "3"),
        ("Half, that is .5", "0.5"),
        ("007", "7"),
        ("-0", "0"),
        ("About 3/4 of them", "0.75"),
        ("1/3", "1/3"),
        ("2/6", "1/3"),
        ("5/0", "5/0"),
        ("They meet at 7:30.", "7:30"),
        ("There are 5 apples and 3 pears, which makes 8 pieces.", "8"),
        ("1, 2, 3", "3"),
        ("12,34", "34"),
        ("The answer is yes.", "yes"),
        ("**No**", "no"),
        ("#### 5\n\nQuestion: and 7?\n#### 9", "5"),
        ("The answer is 4. No, the answer is 6.", "6"),
        ("It comes to 14. ####", "14"),
        ("", ""),
        ("  \n \n", ""),
        ("x2 and B12", "x2 and b12"),
        ("1,000,000", "1000000"),
    ],
)
def test_final_answer(said, answer):
    assert final_answer(said) == answer


@pytest.mark.parametrize(
    "junk", ["#" * 50, "9" * 5000, "-" * 9, "answer is answer is", "\x00\ufffd", "1/" * 30, "=" * 9]
)
def test_junk_never_raises(junk):
    assert isinstance(final_answer(junk), str)


def test_right_is_the_same_final_answer():
    assert is_right("He needs 72 clips", GSM8K)
    assert is_right("72.00", GSM8K)
    assert is_right("That makes 1,072 - 1,000 = 72", GSM8K)
    assert not is_right("27", GSM8K)
    assert not is_right("3/4", "1/4")
    assert not is_right("", "")
