import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imae_jax.data import group_sampler
from imae_jax.distributed import sharding
from imae_jax.errors import UserError


@given(
    num_examples=st.integers(4, 60),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
    size=st.integers(2, 4),
)
def test_an_epoch_takes_every_image_once(num_examples, seed, epoch, size):
    groups = group_sampler.epoch_groups(num_examples, seed, epoch, size)
    assert groups.shape == (num_examples // size, size)
    indices = groups.reshape(-1)
    assert len(set(indices.tolist())) == len(indices)  # so no image meets itself
    assert indices.min() >= 0 and indices.max() < num_examples


@given(
    num_examples=st.integers(4, 30),
    per_step=st.integers(1, 20),
    seed=st.integers(0, 9),
    size=st.integers(2, 4),
)
def test_batches_follow_the_epochs_without_a_gap(num_examples, per_step, seed, size):
    batch_size = size * per_step
    per_epoch = num_examples // size * size
    steps = -(-2 * per_epoch // batch_size)
    stream = group_sampler.Groups(np.zeros(num_examples), seed, size=size)
    indices = np.concatenate([stream.batch(step, batch_size) for step in range(steps)])
    assert len(indices) == steps * batch_size
    for epoch in range(2):
        expected = group_sampler.epoch_groups(num_examples, seed, epoch, size).reshape(-1)
        found = indices[epoch * per_epoch : (epoch + 1) * per_epoch]
        np.testing.assert_array_equal(found, expected)


def test_epochs_and_seeds_pair_differently_and_an_odd_one_takes_turns():
    first, second = (group_sampler.epoch_groups(101, 0, epoch) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, group_sampler.epoch_groups(101, 1, 0))
    left_out = {
        (set(range(101)) - set(group_sampler.epoch_groups(101, 0, epoch).flat)).pop()
        for epoch in range(20)
    }
    assert len(left_out) > 10


def same_and_counts(labels, rate, epoch=0):
    """How many pairs of an epoch are of one class, and of each class how many."""
    found = group_sampler.semantic_epoch_pairs(labels, rate, 0, epoch)
    assert len(found) == len(labels) // 2
    assert len(set(found.flat)) == found.size  # so no image meets itself
    first, second = labels[found].T
    return int((first == second).sum()), np.bincount(first[first == second])


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(
        lambda counts: sum(counts) > 1
    ),
    rate=st.floats(0, 1),
    epoch=st.integers(0, 3),
)
def test_every_class_mix_can_be_paired_as_near_as_it_allows(counts, rate, epoch):
    labels = np.repeat(np.arange(len(counts)), counts)
    same, _ = same_and_counts(labels, rate, epoch)
    # By search: who sits out is drawn, so with an odd number any image may.
    kept = np.array(counts)
    odd = sum(counts) % 2
    best = []
    for out in range(len(counts)):
        if odd and not kept[out]:
            continue
        kept_now = kept - odd * np.eye(len(counts), dtype=int)[out]
        possible = possible_same_counts(kept_now)
        wanted = rate * (kept_now.sum() // 2)
        nearest = min(possible, key=lambda number: abs(number - wanted))
        best.append(abs(nearest - wanted))
    wanted = rate * (len(labels) // 2)
    # Rounding to a whole number first may cost the last half of a pair.
    assert abs(same - wanted) <= max(best) + 1


def possible_same_counts(counts):
    """All numbers of pairs of one class that a pairing of these images can have."""
    ranges = [range(count // 2 + 1) for count in counts]
    found = set()
    for own in np.stack(np.meshgrid(*ranges), -1).reshape(-1, len(counts)):
        rest = counts - 2 * own
        if rest.max() <= rest.sum() - rest.max():
            found.add(int(own.sum()))
    return found


@pytest.mark.parametrize("rate", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("counts", [[40] * 10, [31, 20, 44, 25], [50, 50], [7, 9, 11, 13]])
def test_the_rate_is_exact_up_to_a_pair_per_class(rate, counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    same, by_class = same_and_counts(labels, rate)
    assert abs(same - rate * (len(labels) // 2)) <= len(counts) / 2
    by_class = np.pad(by_class, (0, len(counts) - len(by_class)))
    # One more where an image of the class sits out or its number is odd.
    assert (np.abs(by_class - rate * np.array(counts) / 2) <= 1.5).all()


def test_a_class_that_is_most_of_all_images_must_meet_itself():
    labels = np.array([0] * 80 + [1] * 20)
    stream = group_sampler.Groups(labels, 0, 0.5)
    assert stream.same_class_rate(0) == 0.6  # 20 pairs of two classes, 30 left over
    assert same_and_counts(labels, 0.0)[0] == 30


def test_one_class_only_has_pairs_of_one_class():
    assert group_sampler.Groups(np.zeros(10, int), 0, 0.0).same_class_rate(0) == 1.0


def test_partners_of_other_classes_are_mixed():
    """Not the first class with the second all epoch long."""
    labels = np.repeat(np.arange(10), 100)
    found = labels[group_sampler.semantic_epoch_pairs(labels, 0.0, 0, 0)]
    met = {tuple(sorted(pair)) for pair in found.tolist()}
    assert len(met) == 45
    same = labels[group_sampler.semantic_epoch_pairs(labels, 0.5, 0, 0)]
    is_same = same[:, 0] == same[:, 1]
    assert 0.3 < is_same[:100].mean() < 0.7  # and neither kind comes first


def test_without_a_rate_or_classes():
    stream = group_sampler.Groups(np.full(10, -1), 0)
    assert stream.same_class_rate(0) is None
    with pytest.raises(UserError, match="1 training images make no pair"):
        group_sampler.Groups(np.zeros(1), 0)
    with pytest.raises(UserError, match="2 training images make no group of 3"):
        group_sampler.Groups(np.zeros(2), 0, size=3)
    assert group_sampler.Groups(np.array([1, 1, 1, 2]), 0, size=4).same_class_rate(0) == 0


@given(
    num_processes=st.sampled_from([1, 2, 4]),
    pairs_per_process=st.integers(1, 5),
    step=st.integers(0, 20),
)
def test_processes_part_every_batch_into_whole_pairs(
    num_processes, pairs_per_process, step
):
    """Each has two devices, which need not lie side by side in the mesh."""
    batch_size = 4 * pairs_per_process * num_processes
    whole = group_sampler.Groups(np.zeros(23), seed=3).batch(step, batch_size)
    devices = np.arange(2 * num_processes)
    own = batch_size // len(devices)

    class Sharding:
        def __init__(self, process):
            self.process = process

        def addressable_devices_indices_map(self, shape):
            assert shape == (batch_size,)
            mine = devices[self.process :: num_processes][::-1]
            return {i: (slice(i * own, (i + 1) * own),) for i in mine}

    rows = [sharding.local_rows(Sharding(i), batch_size) for i in range(num_processes)]
    for part in rows:
        first, second = part.reshape(-1, 2).T
        np.testing.assert_array_equal(first + 1, second)  # whole pairs, in order
        assert (first % 2 == 0).all()
    order = np.argsort(np.concatenate(rows))
    found = np.concatenate([whole[part] for part in rows])
    np.testing.assert_array_equal(found[order], whole)
