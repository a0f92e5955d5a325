"""Classes stand worst first; of many, the matrix has those with most errors."""

from promptfed.report.charts.look import method_look
from promptfed.report.class_section import (
    MOST_CONFUSED,
    Confusion,
    class_chart,
    class_table,
    confusion_chart,
    frequent_errors,
)

NAMES = ["cat", "dog", "eel"]
DETAILS = {"counts": [[0, 0, 4], [0, 1, 3], [0, -1, 1], [1, 1, 2], [2, 0, 2]]}


def confusion() -> Confusion:
    found = Confusion.of(DETAILS, NAMES)
    assert found is not None
    return found


def test_items_errors_and_order() -> None:
    assert confusion().items == {0: 8, 1: 2, 2: 2}
    assert confusion().errors == [(0, 1, 3), (2, 0, 2), (0, -1, 1)]
    assert confusion().worst_first == [2, 0, 1]


def test_table_and_words() -> None:
    columns, rows = class_table(confusion())
    assert columns == ["test", "accuracy (%)", "mostly taken for"]
    assert rows[0] == ("eel", ["2", "0.0 [0.0, 65.8]", "cat 2"])
    assert rows[1] == ("cat", ["8", "50.0 [21.5, 78.5]", "dog 3, no answer 1"])
    assert frequent_errors(confusion()) == ["cat, taken for dog: 3 of 8", "eel, taken for cat: 2 of 2"]


def test_charts_say_what_they_show() -> None:
    chart = class_chart(confusion(), "PromptFL", method_look(0))
    assert chart is not None
    assert "eel: 0 (0 to 65.8), n 2. cat: 50 (21.5 to 78.5), n 8. dog: 100 (34.2 to 100), n 2." in chart.description
    matrix = confusion_chart(confusion())
    assert "6 of 12 test examples are on the diagonal" in matrix.description
    assert "cat is taken for dog 3 times of 8" in matrix.description
    assert ">no answer<" in matrix.__html__()


def test_of_many_classes_those_with_most_errors_are_drawn_and_it_is_said() -> None:
    count = MOST_CONFUSED + 5
    counts = [[k, k, 5] for k in range(count)] + [[24, 23, 2], [22, 24, 1]]
    many = Confusion.of({"counts": counts}, [f"class {k}" for k in range(count)])
    assert many is not None
    assert many.most_confused() == [*range(MOST_CONFUSED - 3), 22, 23, 24]
    assert confusion_chart(many).title == f"Confusion of the {MOST_CONFUSED} classes with most errors, of {count}"


def test_counts_of_other_classes_are_none() -> None:
    assert Confusion.of({"counts": [[0, 7, 1]]}, NAMES) is None
    assert Confusion.of({"counts": []}, NAMES) is None
    assert Confusion.of(None, NAMES) is None
