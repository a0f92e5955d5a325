"""Sums by homomorphic encryption: they are the sum, and the server holds nothing that opens them."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from promptfed.errors import ConfigError, SecureSumError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.he import DEGREE, PLAIN_MODULUS, HeClient, HeKeys, HeSums, added, require_tenseal
from promptfed.privacy.simulated_sums import expected_traffic
from promptfed.prompt_state import PromptState

SHARED = PromptState({"a": torch.zeros(1)})


def test_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(ConfigError, match=r"he needs tenseal, .*: pip install 'promptfed\[he\]'$"):
        require_tenseal()


def test_the_modulus_has_room_for_sums_and_slots():
    assert all(PLAIN_MODULUS % divisor for divisor in range(2, math.isqrt(PLAIN_MODULUS) + 1))
    assert PLAIN_MODULUS % (2 * DEGREE) == 1
    assert PLAIN_MODULUS > 2**33


@pytest.fixture(scope="module")
def keys():
    pytest.importorskip("tenseal", reason="needs pip install 'promptfed[he]'")
    return HeKeys()


@pytest.mark.parametrize(("clients", "size"), [(3, 5), (10, 4_096), (4, 10_000)])
def test_the_sum_of_what_clients_encrypt_is_the_plain_sum(keys, clients, size):
    fixed = FixedPoint(0.1, clients)
    client, values = HeClient(keys, fixed), np.random.default_rng(size).uniform(-0.1, 0.1, (clients, size))
    total = added(keys.public, [client.encrypted(row) for row in values])
    assert len(total) == math.ceil(size / DEGREE)
    assert np.abs(client.decrypted(total, clients) - values.sum(0)).max() <= fixed.error_bound


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sum_does_not_wrap_around(keys, sign):
    client = HeClient(keys, FixedPoint(0.5, 4))
    total = added(keys.public, [client.encrypted(np.full(3, 0.5 * sign)) for _ in range(4)])
    assert client.decrypted(total, 4) == pytest.approx(np.full(3, 2.0 * sign))


def test_the_server_s_half_decrypts_nothing(keys):
    tenseal = require_tenseal()
    context = tenseal.context_from(keys.public)
    assert not context.has_secret_key()
    [sent] = HeClient(keys, FixedPoint(1.0, 3)).encrypted(np.zeros(4))
    with pytest.raises(ValueError, match="secret"):
        tenseal.bfv_vector_from(context, sent).decrypt()
    again = HeClient(keys, FixedPoint(1.0, 3)).encrypted(np.zeros(4))
    assert again != [sent], "the same values twice are two ciphertexts"
    assert "not shown" in repr(keys)


def test_another_federation_s_key_opens_nothing(keys):
    fixed = FixedPoint(1.0, 3)
    total = added(keys.public, [HeClient(keys, fixed).encrypted(np.full(50, 0.5))] * 3)
    with pytest.raises(SecureSumError, match="larger than its parts can be"):
        HeClient(HeKeys(), fixed).decrypted(total, 3)


def test_simulated_clients_are_summed_and_lost(keys):
    stream = np.random.default_rng(7)
    changes = {client: torch.from_numpy(stream.normal(0, 0.001, 6_000)) for client in (0, 1, 3)}
    sums = HeSums(1.0)
    total = sums(changes, range(4), SHARED, 1)
    assert total.clients == 3
    assert (total.values - torch.stack(list(changes.values())).sum(0)).abs().max() < 1e-8
    assert 150_000 < sums.last.bytes_up < 200_000
    assert [(client, cost.down > 0) for client, cost in sums.traffic.items()] == [(0, True), (1, False), (3, False)]
    with pytest.raises(SecureSumError, match="needs 3 clients, and 2 are left"):
        sums({client: changes[client] for client in (0, 1)}, range(4), SHARED, 1)
    assert [(client, cost.up > 150_000, cost.down) for client, cost in sums.traffic.items()] == [
        (0, True, 0),
        (1, True, 0),
    ], "what they had sent until then"
    with pytest.raises(SecureSumError, match="2 were asked"):
        sums(changes, range(2), SHARED, 1)


def test_what_a_sum_costs_all_together_has_the_encrypted_sum_once(keys):
    sums = HeSums(1.0)
    one, together = expected_traffic(sums, 6, 50)
    sums(dict.fromkeys(range(6), torch.zeros(50).double()), range(6), SHARED, 1)
    assert together.up == pytest.approx(sum(cost.up for cost in sums.traffic.values()), rel=0.02)
    assert together.down == pytest.approx(sum(cost.down for cost in sums.traffic.values()), rel=0.02)
    assert one.down == together.down
