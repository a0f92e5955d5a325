"""Counts of a frozen model's work, and the columns that show them for each kind of model."""

from promptfed.usage import ENCODING, READING, READINGS, Usage


def test_shown_names_a_language_models_counts_only_where_there_are_any() -> None:
    assert not set(READINGS) & set(Usage(image_encoder_calls=3).shown())
    shown = Usage(model_rows=2, model_tokens=40).shown()
    assert (shown["model_rows"], shown["model_tokens"], shown["image_encoder_calls"]) == (2, 40, 0)


def test_work_reads_the_counts_of_its_own_kind() -> None:
    usage = Usage(image_encoder_calls=1200, text_encoder_calls=5, model_rows=8, model_tokens=4160)
    assert ENCODING.cells(usage) == ["1,200", "5"]
    assert READING.cells(usage) == ["8", "4,160"]
    assert READING.words(usage.shown()) == "read 8 texts, 4,160 tokens"
    assert ENCODING.words({"image_encoder_calls": 3}) == "encoded 3 images, 0 texts"  # a run of an earlier version
