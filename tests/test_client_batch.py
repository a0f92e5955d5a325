import pytest

from promptfed.client_batch import MOST_CLIENTS, automatic_batch, tokens_of_client
from promptfed.config import RunConfig, build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment


@pytest.mark.parametrize(("tokens", "clients"), [(1, MOST_CLIENTS), (100, 6), (300, 2), (301, 1), (10_000, 1), (0, 16)])
def test_the_more_tokens_a_client_brings_the_fewer_are_side_by_side(tokens, clients):
    assert automatic_batch(tokens) == clients


def test_a_tower_that_reads_beginnings_once_counts_them_once(backbone, monkeypatch):
    classes = ["apple", "bear", "cat"]
    tokens = backbone.class_tokens(classes, 5)
    rows, length = tokens.embeddings.shape[:2]
    assert tokens_of_client(backbone, classes, 5) == rows * length
    monkeypatch.setattr(type(backbone), "reads_beginnings_once", True)
    assert tokens_of_client(backbone, classes, 5) == tokens.shared + rows * (length - tokens.shared)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", True, None])
def test_anything_but_a_number_from_1_or_auto_is_refused(value):
    with pytest.raises(ConfigError, match=r"client_batch' is .* give a number of clients from 1, or auto"):
        RunConfig(client_batch=value)


def test_auto_becomes_a_number_when_the_model_is_known():
    few = Experiment.build(build_config({"client_batch": "auto", "clients": 2, "shots": 2}))
    one = Experiment.build(build_config({"client_batch": "auto", "method": "fedclip", "clients": 2, "shots": 2}))
    assert 1 < few.config.clients_at_once == few.config.client_batch <= MOST_CLIENTS
    assert one.config.client_batch == 1
    assert RunConfig(client_batch="auto").clients_at_once == 1
