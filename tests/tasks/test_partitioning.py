from __future__ import annotations

from collections import Counter

import pytest

from promptfed.errors import ConfigError
from promptfed.tasks import partitioning as partition


@pytest.mark.parametrize(
    ("data_set", "classes", "clients"),
    [
        ("caltech101", 50, 2),
        ("oxford_flowers", 51, 3),
        ("fgvc_aircraft", 50, 2),
        ("ucf101", 51, 3),
        ("oxford_pets", 19, 1),
        ("food101", 51, 3),
        ("dtd", 24, 1),
        ("stanford_cars", 98, 5),
        ("sun397", 199, 10),
    ],
)
def test_fedtpg_rule_gives_the_clients_of_its_nine_data_sets(data_set: str, classes: int, clients: int) -> None:
    blocks = partition.class_blocks(classes, clients=None, per_client=20)
    assert len(blocks) == clients, data_set
    assert [c for block in blocks for c in block] == list(range(classes))
    assert all(len(block) == 20 for block in blocks[:-1])


def test_fedtpg_last_client_takes_the_rest() -> None:
    assert [len(b) for b in partition.fixed_blocks(51, 20)] == [20, 20, 11]
    assert [len(b) for b in partition.fixed_blocks(50, 20)] == [20, 30]


def test_even_blocks_are_contiguous_and_differ_by_one_at_most() -> None:
    assert partition.even_blocks(7, 3) == [range(0, 3), range(3, 5), range(5, 7)]
    assert partition.even_blocks(4, 4) == [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]


def test_default_clients_are_eight_or_as_many_as_classes() -> None:
    assert len(partition.class_blocks(58, None, None)) == 8
    assert len(partition.class_blocks(5, None, None)) == 5


def test_more_clients_than_classes_names_both_and_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"9 clients are more than the 5 base classes.*--clients 5"):
        partition.class_blocks(5, 9, None)


def test_clients_and_classes_per_client_contradict() -> None:
    with pytest.raises(ConfigError, match="contradict"):
        partition.class_blocks(40, 2, 20)


def test_domains_one_each_or_neighbours_together() -> None:
    assert partition.domain_groups(["a", "b", "c"], None) == [("a",), ("b",), ("c",)]
    assert partition.domain_groups(["a", "b", "c"], 2) == [("a", "b"), ("c",)]
    with pytest.raises(ConfigError, match=r"4 clients are more than the 3 domains \(a, b, c\)"):
        partition.domain_groups(["a", "b", "c"], 4)
    with pytest.raises(ConfigError, match="needs data with domains"):
        partition.domain_groups([""], None)


def test_iid_shares_are_equal_disjoint_complete_and_mixed() -> None:
    shares = partition.iid_shares(103, 4, seed=1)
    assert sorted(i for share in shares for i in share) == list(range(103))
    assert sorted(len(share) for share in shares) == [25, 26, 26, 26]
    assert all(max(share) - min(share) > 60 for share in shares)
    assert shares == partition.iid_shares(103, 4, seed=1)
    assert shares != partition.iid_shares(103, 4, seed=2)


def test_dirichlet_shares_are_disjoint_complete_and_repeatable() -> None:
    labels = [i % 6 for i in range(300)]
    shares = partition.dirichlet_shares(labels, 5, 0.3, seed=4)
    assert sorted(i for share in shares for i in share) == list(range(300))
    assert shares == partition.dirichlet_shares(labels, 5, 0.3, seed=4)
    assert shares != partition.dirichlet_shares(labels, 5, 0.3, seed=5)


def test_quantity_shares_differ_in_size_and_hold_the_same_distribution() -> None:
    shares = partition.quantity_shares(1000, 10, 0.5, seed=3)
    sizes = [len(share) for share in shares]
    assert sorted(i for share in shares for i in share) == list(range(1000))
    assert min(sizes) >= partition.SMALLEST_SHARE
    assert max(sizes) > 3 * sorted(sizes)[5]
    largest = max(shares, key=len)
    assert abs(sum(i % 2 for i in largest) / len(largest) - 0.5) < 0.1, "every client's share is drawn at random"
    assert shares == partition.quantity_shares(1000, 10, 0.5, seed=3)
    even = [len(share) for share in partition.quantity_shares(1000, 10, 1e6, seed=3)]
    assert max(even) - min(even) <= 2
    assert [len(share) for share in partition.quantity_shares(8, 4, 0.01, seed=0)] == [2] * 4, "no draw fails"


def test_small_alpha_is_more_uneven_than_large() -> None:
    labels = [i % 10 for i in range(1000)]

    def unevenness(alpha: float) -> float:
        shares = partition.dirichlet_shares(labels, 8, alpha, seed=0)
        counts = [Counter(labels[i] for i in share) for share in shares]
        return sum(abs(c[k] - 100 / 8) for c in counts for k in range(10)) / 1000

    assert unevenness(0.1) > 3 * unevenness(100.0)


def test_dirichlet_gives_up_with_a_message_instead_of_an_empty_client() -> None:
    with pytest.raises(ConfigError, match=r"alpha 0.01 leaves some of 20 clients.*larger --alpha or fewer --clients"):
        partition.dirichlet_shares([0, 1] * 40, 20, 0.01, seed=0)


def test_more_clients_than_images() -> None:
    with pytest.raises(ConfigError, match=r"30 clients are too many for 40 training images.*--clients 20 or fewer"):
        partition.iid_shares(40, 30, seed=0)


def test_unknown_partition_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown partition 'dirichlett'. Did you mean 'dirichlet'\?"):
        partition.parse_partition("dirichlett")
    with pytest.raises(ConfigError, match="lacks its file"):
        partition.parse_partition("csv")
    assert partition.parse_partition("csv:a:b.csv") == ("csv", "a:b.csv")


@pytest.mark.parametrize(("classes", "each", "clients"), [(500, 1, 8), (200, 2, 8), (300, 3, 20), (60, 1, 2)])
def test_classes_of_fewer_images_than_clients_favour_nobody(classes: int, each: int, clients: int) -> None:
    labels = [label for label in range(classes) for _ in range(each)]
    shares = partition.dirichlet_shares(labels, clients, 0.5, seed=1)
    assert sorted(i for share in shares for i in share) == list(range(len(labels)))
    assert shares == partition.dirichlet_shares(labels, clients, 0.5, seed=1)
    assert shares != partition.dirichlet_shares(labels, clients, 0.5, seed=2)
    even = len(labels) / clients
    assert all(even / 2 < len(share) < 2 * even for share in shares)


def test_small_alpha_keeps_the_images_of_a_rare_class_together() -> None:
    labels = [label for label in range(200) for _ in range(3)]
    parts = []
    for alpha in (0.01, 100):
        shares = partition.dirichlet_shares(labels, 8, alpha, seed=0)
        parts.append(sum(len({labels[i] for i in share}) for share in shares) / 200)
    assert parts[0] < 1.2
    assert parts[1] > 2.3


def test_a_class_with_an_image_for_every_client_is_cut_as_before() -> None:
    """By the partitioner of flwr_datasets, whose partitions other work and earlier runs have."""
    labels = [0] * 40 + [1] * 30 + [2] * 8
    assert [len(share) for share in partition.dirichlet_shares(labels, 8, 0.5, seed=0)] == [2, 6, 7, 27, 2, 12, 13, 9]


@pytest.mark.parametrize(("images", "fix"), [(3, "use --clients 1$"), (7, "use --clients 3 or fewer$")])
def test_the_number_of_clients_that_fits_is_said(images: int, fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        partition.enough_images(images, 8)
