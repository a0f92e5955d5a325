"""Requests and their tools: bundled ones, one's own tables, MetaTool's layout; each tool has a description."""

from __future__ import annotations

import json

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.named_model import named_model
from promptfed.resolve import complete
from promptfed.tasks import TASKS
from promptfed.tasks.sources.bundled_texts import FORMS
from promptfed.tasks.tool_routing import build

TOOLS = {"weather": "Rain and sun.", "music": "Songs, albums", "mail": "Letters."}


def config_of(data, **options):
    return complete(build_config({"task": "tool-routing", "data": data, "clients": 2, "partition": "iid", **options}))


@pytest.fixture
def table(tmp_path):
    rows = [f'"is it {k}, or warmer?",weather\nplay song {k},music\n' for k in range(6)]
    (tmp_path / "own.csv").write_text("request,tool\n" + "".join(rows))
    return tmp_path / "own.csv"


def named(table, **options):
    columns = {"text_column": "request", "label_column": "tool"}
    return config_of(f"csv:{table}", task_options={**columns, **options})


def test_the_bundled_requests_have_twenty_described_tools():
    task = build(complete(build_config({"task": "tool-routing"})))
    assert len(task.base_classes) == 20
    assert task.new_classes == ()
    assert task.form.descriptions == FORMS["tools"].descriptions
    counts = [sum(split.counts(20)[k] for d in task.clients for split in (d.train, d.val)) for k in range(20)]
    assert sum(counts) + len(task.base_test) == 1200


def test_a_csv_with_a_file_of_descriptions(table, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    task = build(named(table, descriptions_file=str(tmp_path / "tools.json")))
    assert task.base_classes == ("music", "weather")
    assert task.form.description("weather") == "Rain and sun."
    assert any("1 tools have a description and no request, and are left out: 'mail'" in note for note in task.notes)
    assert any(", or warmer?" in item.text for item in task.base_test.items)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_descriptions_may_stand_in_a_table(table, tmp_path, ending):
    file = tmp_path / f"tools.{ending}"
    by = {"csv": ",", "tsv": "\t"}[ending]
    file.write_text(f"Tool{by}Description\nweather{by}Rain.\nmusic{by}Songs.\n")
    assert build(named(table, descriptions_file=str(file))).form.description("music") == "Songs."


def test_a_sentence_of_the_options_comes_before_the_file(table, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    options = {"descriptions_file": str(tmp_path / "tools.json"), "descriptions": {"weather": "Snow."}}
    assert build(named(table, **options)).form.description("weather") == "Snow."


def test_tools_with_the_same_sentence_are_told_apart_by_their_names(table):
    task = build(named(table, descriptions={"weather": "A tool.", "music": "a tool."}))
    assert task.form.description("music") == "music: a tool."


def test_bad_input_is_one_line(table, tmp_path):
    with pytest.raises(DataError, match=r"tools 'music', 'weather' of data .* have no description: give a file"):
        build(named(table))
    with pytest.raises(DataError, match="does not exist"):
        build(named(table, descriptions_file=str(tmp_path / "none.json")))
    (tmp_path / "list.json").write_text('["weather"]')
    with pytest.raises(DataError, match="is no object of tools and sentences"):
        build(named(table, descriptions_file=str(tmp_path / "list.json")))
    for text, said in (("3", "is 3"), ('" "', "is empty"), ("null", "is empty")):
        (tmp_path / "one.json").write_text('{"weather": "Tells it.", "music": ' + text + "}")
        with pytest.raises(DataError, match=f"the description of tool 'music' {said}: write a text"):
            build(named(table, descriptions_file=str(tmp_path / "one.json")))
    (tmp_path / "twice.csv").write_text("tool,description\nmusic,x\nmusic,y\n")
    with pytest.raises(DataError, match="describes tool 'music' a second time"):
        build(named(table, descriptions_file=str(tmp_path / "twice.csv")))
    (tmp_path / "odd.csv").write_text("a,b\nx,y\n")
    with pytest.raises(DataError, match="the columns are tool and description"):
        build(named(table, descriptions_file=str(tmp_path / "odd.csv")))
    (tmp_path / "more.csv").write_text("request,tool\nwell, well,music\n")
    with pytest.raises(DataError, match="more cells than the header: put a value"):
        build(named(tmp_path / "more.csv", descriptions=TOOLS))
    with pytest.raises(ConfigError, match="'mial', which is no class here"):
        build(named(table, words={"mial": "post"}, descriptions=TOOLS))


@pytest.mark.parametrize("place", [".", "dataset"])
def test_metatool_s_layout_is_read(tmp_path, place):
    folder = tmp_path / place
    (folder / "data").mkdir(parents=True)
    rows = [f'"Will it rain, on day {k}?",WeatherTool\nSing number {k},MusicTool\n' for k in range(5)]
    (folder / "data" / "all_clean_data.csv").write_text("Query,Tool\n" + "".join(rows))
    (folder / "plugin_des.json").write_text(json.dumps({"WeatherTool": "Forecasts.", "Unused": "Nothing."}))
    (folder / "big_tool_des.json").write_text(json.dumps({"MusicTool": "Plays music."}))
    task = build(config_of(f"metatool:{tmp_path}"))
    assert task.base_classes == ("MusicTool", "WeatherTool")
    assert task.form.description("MusicTool") == "Plays music."
    (folder / "data" / "all_clean_data.csv").unlink()
    with pytest.raises(DataError, match=r"holds no all_clean_data.csv: give a clone of"):
        build(config_of(f"metatool:{tmp_path}"))


def test_paths_become_absolute_and_the_model_may_be_a_black_box(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clone").mkdir()
    assert config_of("metatool:clone").data == f"metatool:{tmp_path / 'clone'}"
    assert config_of("csv:own.csv").data == f"csv:{tmp_path / 'own.csv'}"
    config = config_of("texts:tools", oracle="minilm")
    assert named_model(config).access == "black box"
    assert named_model(config_of("texts:tools")).label == "language model lm:minilm"


def test_the_baselines_are_printed_in_one_table():
    assert TASKS["tool-routing"].baselines == ("zero_shot", "description_words", "local_only")
