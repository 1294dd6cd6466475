import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.data.order import Order, Position
from dist_calo.data.row_blocks import Blocks
from dist_calo.errors import ConfigError, DataError


@st.composite  # type: ignore[arg-type]
def orders(draw, **fixed):
    rows = draw(st.lists(st.integers(1, 40), min_size=1, max_size=30))
    gaps = draw(st.lists(st.integers(0, 50), min_size=len(rows), max_size=len(rows)))
    first_ids = np.cumsum(np.array(rows) + gaps) - rows
    options = {
        "seed": draw(st.integers(0, 9)),
        "global_batch_size": draw(st.integers(1, sum(rows) + 5)),
        "window": draw(st.integers(1, 20)),
        "shuffle": draw(st.booleans()),
    }
    return Order(Blocks(first_ids.astype(np.int64), np.array(rows, dtype=np.int64)), **options | fixed)


def simple(samples=1000, **options):
    starts = np.arange(0, samples, 32)
    blocks = Blocks(starts, np.minimum(samples - starts, 32))
    return Order(blocks, **{"seed": 0, "global_batch_size": 48, "window": 5, **options})


def epoch_ids(order, epoch=0):
    return [order.batch_ids(epoch, step) for step in range(order.steps_per_epoch)]


def all_ids(order):
    return [
        first + row
        for first, rows in zip(order.blocks.first_ids, order.blocks.rows, strict=True)
        for row in range(rows)
    ]


@given(orders(), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(order, epoch):
    batches = epoch_ids(order, epoch)
    assert sorted(itertools.chain(*(batch.tolist() for batch in batches))) == all_ids(order)
    assert [len(batch) for batch in batches] == [
        order.batch_size(step) for step in range(order.steps_per_epoch)
    ]
    assert all(len(batch) == order.global_batch_size for batch in batches[:-1])


@settings(deadline=None)
@given(orders(), st.integers(1, 9), st.integers(1, 6), st.data())
def test_the_shares_of_any_number_of_ranks_make_the_same_batch(order, size, accumulation, data):
    step = data.draw(st.integers(0, order.steps_per_epoch - 1))
    shares = [order.share(1, step, rank, size, accumulation) for rank in range(size)]
    slots = np.concatenate([share.slots for share in shares])
    ids = np.concatenate([share.ids for share in shares])
    assert sorted(slots.tolist()) == list(range(order.batch_size(step)))
    np.testing.assert_array_equal(ids[np.argsort(slots)], order.batch_ids(1, step))
    for share in shares:
        assert share.global_size == order.batch_size(step) == sum(share.micro_global_sizes)
        assert share.micro_global_sizes == shares[0].micro_global_sizes
        assert len(share.ids) == len(share.slots) == sum(share.micro_sizes)
        assert min(share.micro_global_sizes) > 0
        assert max(share.micro_global_sizes) - min(share.micro_global_sizes) <= 1
        for mine, total in zip(share.micro_sizes, share.micro_global_sizes, strict=True):
            assert total // size <= mine <= -(-total // size)
    totals = np.sum([share.micro_sizes for share in shares], axis=0)
    assert tuple(totals) == shares[0].micro_global_sizes


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_micro_batch_is_the_same_for_every_number_of_ranks(size):
    order = simple()
    for step in (0, order.steps_per_epoch - 1):
        batch = order.batch_ids(0, step)
        micro: list[list[int]] = [[], [], []]
        for rank in range(size):
            share = order.share(0, step, rank, size, accumulation=3)
            for number, part in enumerate(np.split(share.ids, np.cumsum(share.micro_sizes)[:-1])):
                micro[number] += part.tolist()
        assert micro == [batch[first::3].tolist() for first in range(3)]


def test_dropping_the_remainder_leaves_out_other_samples_every_epoch():
    order = simple(remainder="drop")
    assert (order.steps_per_epoch, order.samples) == (20, 960)
    left_out = [set(range(1000)) - set(np.concatenate(epoch_ids(order, epoch))) for epoch in range(4)]
    assert all(len(samples) == 40 for samples in left_out)
    assert len(set.union(*left_out)) > 40


def test_too_few_samples_for_one_batch():
    with pytest.raises(ConfigError, match="there are only 30 samples"):
        simple(30, remainder="drop")
    order = simple(30)
    assert [sorted(batch) for batch in epoch_ids(order)] == [list(range(30))]
    empty = Blocks(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    with pytest.raises(ConfigError, match="there are only 0 samples"):
        Order(empty, seed=0, global_batch_size=4)


def test_epochs_and_seeds_differ_and_nothing_else_matters():
    first = epoch_ids(simple())
    again = epoch_ids(simple())
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (epoch_ids(simple(), epoch=1), epoch_ids(simple(seed=1))):
        assert not all((a == b).all() for a, b in zip(first, other, strict=True))
    order = simple()
    late = order.batch_ids(2, 7)
    for epoch in (5, 4, 3):
        order.batch_ids(epoch, 0)
    np.testing.assert_array_equal(order.batch_ids(2, 7), late)


def test_the_order_does_not_change_between_versions():
    """Resumed runs depend on it: if this fails, checkpoints made before cannot be continued."""
    assert simple().batch_ids(3, 4)[:8].tolist() == [66, 70, 77, 83, 85, 93, 898, 901]
    assert simple().batch_ids(3, 20)[:8].tolist() == [845, 854, 859, 863, 362, 369, 377, 449]


def test_without_shuffling_samples_come_in_the_order_of_the_files():
    assert np.concatenate(epoch_ids(simple(shuffle=False), 3)).tolist() == list(range(1000))


def test_samples_are_spread_over_batches():
    order = simple(20_000, window=16)
    places = np.concatenate([np.full(48, step) for step in range(order.steps_per_epoch)])[:20_000]
    ids = np.concatenate(epoch_ids(order))
    # Neighbours in the file share a block and thus a window, but no more batches than chance has it.
    batch_of = places[np.argsort(ids)]
    same = np.mean(batch_of[1:] == batch_of[:-1])
    assert same < 1.5 / 16
    means = [ids[places == step].mean() for step in range(order.steps_per_epoch - 1)]
    assert np.std(means) < 20_000 / np.sqrt(12) / np.sqrt(8)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_rank_reads_little_more_than_its_own_blocks(size):
    order = simple(64_000, global_batch_size=256, window=16)
    for window in (0, 3):
        for rank in (0, size - 1):
            ids = np.concatenate(
                [order.share(0, step, rank, size).ids for step in order.window_steps(window)]
            )
            assert len(ids) == 16 * 256 // size
            assert len(np.unique(ids // 32)) <= len(ids) / 32 + 2


@given(orders(), st.integers(0, 2))
def test_positions_lead_from_batch_to_batch(order, epoch):
    position = Position(epoch=epoch)
    for step in range(order.steps_per_epoch):
        assert order.locate(position) == (epoch, step)
        seen = position.samples_seen + order.batch_size(step)
        position = order.position_after(epoch, step)
        if position.epoch == epoch:
            assert position.samples_seen == seen
    assert position == Position(epoch=epoch + 1)
    assert order.locate(Position(epoch=epoch, samples_seen=order.samples)) == (epoch + 1, 0)


def test_positions_of_another_batch_size_are_refused():
    order = simple()
    for seen in (1, 47, 1008, -48):
        with pytest.raises(DataError, match=r"no batch begins there.*1000 samples in batches of 48"):
            order.locate(Position(epoch=1, samples_seen=seen))


def test_a_share_costs_no_more_on_thousands_of_ranks():
    """The windows of 4,096 ranks hold a million samples; a rank's share must not touch them all."""
    samples = 10_000_000
    starts = np.arange(0, samples, 32)
    order = Order(Blocks(starts, np.full(len(starts), 32)), seed=0, global_batch_size=65_536, window=16)
    order.batch_ids(0, 0)
    tracemalloc.start()
    assert len(order.share(0, 3, 4000, 4096).ids) == 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
