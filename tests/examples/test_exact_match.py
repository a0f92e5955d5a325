"""The final answer of worked solutions, as GSM8K's and language models write them."""

from __future__ import annotations

import pytest

from promptfed.examples.exact_match import final_answer, first_word, is_right

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


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("这条评论是正面的", "正面"),
        ("我认为是负面", "负面"),
        ("答案是\uff1a正面。", "正面"),
        ("這是一則負面評論", "負面"),
        ("このレビューは肯定的です", "肯定的"),
        ("これはネガティブな感想だ", "ネガティブ"),
        ("รีวิวนี้เป็นเชิงบวกมาก", "เชิงบวก"),
        ("ຄຳຕອບແມ່ນບວກ", "ບວກ"),
        ("នេះជាវិជ្ជមាន។", "វិជ្ជមាន"),
        ("ဒါကအပြုသဘောပါ", "အပြုသဘော"),
        ("འདི་བཟང་པོ་རེད", "བཟང"),
        ("这是positive的评论", "positive"),
        ("判断为Negative", "negative"),
        ("ラベルはＰｏｓ", "pos"),
        ("이 리뷰는 긍정적입니다", "긍정"),
        ("Es ist GROSSARTIG!", "großartig"),
        ("C'est tre\u0300s bien", "très"),
        ("It was good.", "good"),
        ("good_or_bad? good", "good"),
    ],
)
def test_a_label_is_found_in_a_sentence_of_any_script(said, word):
    assert first_word(said, word) is not None


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("unhappy", "happy"),
        ("happyish", "happy"),
        ("нехороший", "хороший"),
        ("अच्छा", "अच्छ"),
        ("비긍정", "긍정"),
        ("这是好评", "差"),
        ("good_or_bad", "good"),
        ("category 12", "1"),
        ("anything", ""),
    ],
)
def test_a_label_inside_another_word_does_not_count(said, word):
    assert first_word(said, word) is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("答案是42。", "42"),
        ("一共有18个苹果", "18"),
        ("合計は1,250円です", "1250"),
        ("ทั้งหมด7บาท", "7"),
        ("共-3度", "-3"),
    ],
)
def test_numbers_stand_in_scripts_without_blanks(said, answer):
    assert final_answer(said) == answer
