"""The stream of records: what an epoch holds, how sets are mixed, and that it depends on nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.records import MixedRows, MixtureEntry, Order, Part
from tests.records.fakes import FakeSource

RAF_DB = 12_271


def epoch(order, number=0):
    return order.items(number * order.items_per_epoch, (number + 1) * order.items_per_epoch)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    repeats=st.lists(st.sampled_from([1, 2, 2.7, 3]), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 200), min_size=1, max_size=6),
)
def test_epochs_hold_every_copy_once_however_they_are_cut(sizes, repeats, seed, cuts):
    order = Order([Part(size, repeat) for size, repeat in zip(sizes, repeats, strict=False)], seed=seed)
    wanted = sorted(
        (sum(sizes[:number]) + record, copy)
        for number, size in enumerate(sizes)
        for record in range(size)
        for copy in range(int(repeats[number]))
    )
    for number in (0, 1, 5):
        items = epoch(order, number)
        assert sorted(zip(items.record.tolist(), items.copy.tolist(), strict=True)) == wanted
        assert (items.epoch == number).all()
    # The same stream in pieces, from an order that was never asked before, in another order of asking.
    edges = [0, *sorted(cuts)]
    whole = order.items(0, edges[-1])
    fresh = pickle.loads(pickle.dumps(Order(order.parts, seed=seed)))
    for start, stop in reversed(list(zip(edges[:-1], edges[1:], strict=True))):
        for piece, column in zip(fresh.items(start, stop), whole, strict=True):
            np.testing.assert_array_equal(piece, column[start:stop])


def test_the_order_is_that_of_philox_raw_numbers():
    """NumPy promises the raw output of its bit generators, and not what `permutation` makes of it."""
    key = np.array([7 << 32 | 0, 3 << 1], np.uint64)
    raw = np.random.Philox(key=key).random_raw(11)[:10]
    assert epoch(Order([Part(10)], seed=7), 3).record.tolist() == np.argsort(raw).tolist()
    # Random123's known answer of Philox4x64-10 for key and counter 0 (NumPy counts up before it draws).
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert np.random.Philox(key=0, counter=2**256 - 1).random_raw(4).tolist() == known


def test_epochs_and_seeds_differ_and_without_shuffling_nothing_does():
    order = Order([Part(50)], seed=1)
    first, second = epoch(order).record.tolist(), epoch(order, 1).record.tolist()
    other = epoch(Order([Part(50)], seed=2)).record.tolist()
    assert first != second and first != other
    assert sorted(first) == sorted(second) == sorted(other) == list(range(50))
    plain = Order([Part(3), Part(2, 2)], shuffle=False).items(0, 14)
    assert plain.record.tolist() == [0, 1, 2, 3, 4, 3, 4] * 2
    assert plain.copy.tolist() == [0, 0, 0, 0, 0, 1, 1] * 2


def test_every_stretch_has_the_proportions_of_the_mixture():
    order = Order([Part(RAF_DB, 3), Part(RAF_DB)], seed=4)  # labels three times, texts once, as the reference
    assert order.items_per_epoch == 49_084
    texts = epoch(order).record >= RAF_DB
    for length in (4, 128, 1000):
        found = np.add.reduceat(texts[: len(texts) // length * length], np.arange(0, len(texts) - length + 1, length))
        assert abs(found - length / 4).max() <= 1
    # Places are not the same in every epoch, though: a text is not always the fourth.
    assert len({int(np.argmax(epoch(order, number).record >= RAF_DB)) for number in range(12)}) > 1


def test_a_part_below_one_is_drawn_once_for_all_epochs():
    order = Order([Part(RAF_DB, 0.2)], seed=3)
    first, second = epoch(order).record, epoch(order, 1).record
    assert len(set(first.tolist())) == order.items_per_epoch == 2454 == int(RAF_DB * 0.2)
    assert set(first.tolist()) == set(second.tolist()) and first.tolist() != second.tolist()
    assert set(first.tolist()) != set(epoch(Order([Part(RAF_DB, 0.2)], seed=4)).record.tolist())
    assert Order([Part(100, 0.29)]).items_per_epoch == 28  # 100 x 0.29 is a little less than 29 in floating point


def test_weights_are_shares_and_every_record_comes_at_least_once():
    order = Order([Part(1000, weight=3), Part(100, weight=1)])
    assert order.counts == (1000, 333)
    items = epoch(order)
    small = items.record[items.record >= 1000]
    assert set(np.bincount(small - 1000, minlength=100)) == {3, 4}  # 33 of them a fourth time …
    again = epoch(order, 1)
    fourth = [set(e.record[(e.record >= 1000) & (e.copy == 3)].tolist()) for e in (items, again)]
    assert len(fourth[0]) == 33 and fourth[0] != fourth[1]  # … and others in the next epoch


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([], "no sets"),
        ([(0,)], "no records"),
        ([(5, 0)], "repeat is 0"),
        ([(5, -1)], "repeat is -1"),
        ([(5, float("nan"))], "repeat is nan"),
        ([(4, 0.2)], "nothing of 4 records"),
        ([(5, 2, 1)], "repeat and a weight"),
        ([(5, 1, 1), (5,)], "some sets"),
        ([(5, 1, -1)], "weight is -1"),
    ],
)
def test_a_bad_mixture_is_refused(parts, named):
    with pytest.raises(ExpllmError, match=named):
        Order([Part(*part) for part in parts])


def test_a_bad_seed_is_refused():
    with pytest.raises(ExpllmError, match="seed"):
        Order([Part(1)], seed=-1)


def test_mixed_rows_count_through_their_sets():
    sets = [FakeSource(4, number=1), FakeSource(10, number=2, longest=60)]
    mixed = MixedRows(sets, [2.7, 0.3])
    assert len(mixed) == 14 and [part.repeat for part in mixed.parts] == [2.7, 0.3]
    assert mixed.longest_row == max(source.longest_row for source in sets)
    for index, (number, record) in {0: (1, 0), 3: (1, 3), 4: (2, 0), 13: (2, 9)}.items():
        assert mixed.id(index) == f"{number}/{record}"
        assert mixed.row(index) == sets[number - 1].row(record)
        assert mixed.row(index, True).tokens[0] == -(10_000 * number + record + 1)
        assert mixed.lengths.tokens[index] == len(mixed.row(index))
    with pytest.raises(IndexError):
        mixed.row(14)
    other = FakeSource(3)
    other.pad_token = 1
    with pytest.raises(ExpllmError, match="different tokenizers"):
        MixedRows([FakeSource(3), other], [1, 1])
    other = FakeSource(3)
    other.resize = "reference"
    with pytest.raises(ExpllmError, match="resized differently: antialiased, reference"):
        MixedRows([FakeSource(3), other], [1, 1])
    with pytest.raises(ExpllmError, match="no sets"):
        MixedRows([], [])


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("records/rafdb", MixtureEntry("records/rafdb")),
        ("a:test", MixtureEntry("a", "test")),
        ("a b:train*3", MixtureEntry("a b", "train", 3)),
        ("a*0.2", MixtureEntry("a", repeat=0.2)),
        ("a:train@0.75", MixtureEntry("a", weight=0.75)),
    ],
)
def test_an_entry_of_a_mixture(text, entry):
    assert MixtureEntry.parse(text) == entry


@pytest.mark.parametrize("text", ["", ":train", "a:", "a*x", "a*0", "a@-1", "a*2@1"])
def test_a_bad_entry_is_refused(text):
    with pytest.raises(ExpllmError):
        MixtureEntry.parse(text)
