import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_inputs import encoded, noise

from imae_jax.data.encoded_images import EncodedImages
from imae_jax.data.group_sampler import Groups
from imae_jax.data.input_pipeline import Resident, Streaming
from imae_jax.distributed import sharding
from imae_jax.errors import UserError

NUM_IMAGES, BATCH = 43, 16
IMAGES = noise(NUM_IMAGES, 8, 8, 3)
PAIRS = Groups(np.arange(NUM_IMAGES) % 3, seed=5)


def resident(mesh=None, **options):
    options = dict(batch_size=BATCH, max_steps=1, sharded=False) | options
    return Resident(IMAGES, PAIRS, mesh or sharding.make_mesh(), **options)


def streaming(images=IMAGES, mesh=None, **options):
    options = (
        dict(batch_size=BATCH, seed=5, crop_scale=(), on_bad_image="raise", prefetch=2)
        | options
    )
    return Streaming(images, PAIRS, mesh or sharding.make_mesh(), **options)


def files(data=None, size=(8, 8)):
    data = data or [encoded(image) for image in IMAGES]
    names = [f"{i}.png" for i in range(len(data))]
    return EncodedImages(names, lambda i: data[i], size, 3, 1, 1.0)


def taken(feed, step, num_steps=1):
    """The images of the last of some steps, through a jitted function."""
    take = jax.jit(feed.get_batch)
    return np.asarray(take(feed.inputs(step, num_steps), num_steps - 1))


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("make", ["resident", "sharded", "arrays", "files"])
def test_all_feeds_give_the_batches_of_seed_and_step(make, num_devices):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    makers = dict(
        resident=lambda: resident(mesh),
        sharded=lambda: resident(mesh, sharded=True),
        arrays=lambda: streaming(mesh=mesh),
        files=lambda: streaming(files(), mesh=mesh),
    )
    with makers[make]() as feed:
        # Three epochs of 21 pairs, each ending inside a batch; then back to the start.
        for step in [*range(8), 0]:
            expected = IMAGES[PAIRS.batch(step, BATCH)]
            np.testing.assert_array_equal(taken(feed, step), expected)


def test_a_dispatch_of_several_steps_takes_the_same_images():
    feed = resident(max_steps=5)
    for step, num_steps in ((0, 5), (5, 2), (7, 5)):
        last = step + num_steps - 1
        expected = IMAGES[PAIRS.batch(last, BATCH)]
        np.testing.assert_array_equal(taken(feed, step, num_steps), expected)


def test_a_batch_larger_than_the_data_set():
    feed = resident(batch_size=96)
    np.testing.assert_array_equal(taken(feed, 3), IMAGES[PAIRS.batch(3, 96)])


def test_resident_inputs_have_one_form():
    feed = resident(max_steps=4)
    take = jax.jit(feed.get_batch)
    for step, num_steps in ((0, 4), (4, 1), (5, 3), (100, 4)):
        take(feed.inputs(step, num_steps), 0)
    assert take._cache_size() == 1


def test_images_are_sent_once():
    feed = resident()
    first, later = feed.inputs(0), feed.inputs(9)
    assert first[0] is later[0]
    assert feed.inputs(1)[1] is feed.inputs(0)[1]  # the same epoch


COLLECTIVE = r"= \w+(\[.*?\]).*? (all-reduce|all-gather|reduce-scatter|all-to-all)\("


@pytest.mark.parametrize(
    "make,expected",
    [
        (resident, []),
        (lambda: resident(sharded=True), [("[2,8,8,3]", "reduce-scatter")]),
        (streaming, []),
    ],
)
def test_collectives_are_counted(make, expected):
    feed = make()
    shardings = sharding.batch_sharding(feed._mesh)
    take = jax.jit(lambda x: feed.get_batch(x, 0), out_shardings=shardings)
    text = take.lower(feed.inputs(0)).compile().as_text()
    assert re.findall(COLLECTIVE, text) == expected


def test_shards_that_do_not_divide_are_padded():
    assert NUM_IMAGES % 8
    array, *_ = resident(sharded=True).inputs(0)
    assert array.shape[0] == 48 and len(array.addressable_shards[0].data) == 6


def test_crops_are_a_function_of_seed_and_step():
    data = [encoded(noise(30, 40, 3, seed=i)) for i in range(NUM_IMAGES)]

    def crops(step, **options):
        options = dict(crop_scale=(0.2, 1.0)) | options
        with streaming(files(data), **options) as feed:
            return taken(feed, step)

    first = crops(3)
    with streaming(files(data), crop_scale=(0.2, 1.0)) as feed:
        for step in range(4):
            last = taken(feed, step)
    np.testing.assert_array_equal(first, last)
    assert (crops(3, seed=6) != first).any()
    one = sharding.make_mesh(jax.devices()[:1])
    np.testing.assert_array_equal(crops(3, mesh=one), first)
    with streaming(files(data)) as feed:
        assert (taken(feed, 3) != first).any(axis=(1, 2, 3)).all()


def test_the_same_image_is_cropped_anew_each_time():
    two = files([encoded(noise(30, 40, 3, seed=i)) for i in range(2)])
    pairs = Groups(np.zeros(2), seed=0)
    mesh = sharding.make_mesh(jax.devices()[:1])
    options = dict(seed=0, crop_scale=(0.2, 1.0), on_bad_image="raise", prefetch=1)
    with Streaming(two, pairs, mesh, batch_size=16, **options) as feed:
        both = np.concatenate([taken(feed, step) for step in range(2)])
        assert len(np.unique(both, axis=0)) == 32


def digests():
    """Of the first steps' images of every feed, as all processes see them together."""
    mesh = sharding.make_mesh()
    data = [encoded(noise(30, 40, 3, seed=i)) for i in range(NUM_IMAGES)]
    feeds = dict(
        resident=resident(mesh),
        sharded=resident(mesh, sharded=True),
        arrays=streaming(mesh=mesh),
        files=streaming(files(data), mesh=mesh, crop_scale=(0.2, 1.0)),
    )
    found = {}
    for name, feed in feeds.items():
        with feed:
            take = jax.jit(
                lambda inputs, feed=feed: feed.get_batch(inputs, 0),
                out_shardings=sharding.replicated(mesh),
            )
            images = [np.asarray(take(feed.inputs(step))) for step in range(4)]
        found[name] = hashlib.sha256(np.stack(images).tobytes()).hexdigest()
    return found


def test_two_processes_train_on_the_images_of_one(in_two_processes):
    both = in_two_processes(
        "import json; sys.path[:0] = ['tests/data']; import test_input_pipeline as here\n"
        "print(json.dumps(here.digests()))"
    )
    assert [json.loads(output) for output in both] == [digests()] * 2


def test_parts_of_two_processes_make_the_whole_batch(monkeypatch):
    data = [encoded(noise(30, 40, 3, seed=i)) for i in range(NUM_IMAGES)]

    def local(process, count):
        own = np.arange(BATCH).reshape(count, -1)[process]
        monkeypatch.setattr(sharding, "local_rows", lambda *args: own)
        with streaming(files(data), crop_scale=(0.2, 1.0)) as feed:
            return feed.local_batch(2)

    for count in (2, 4):
        parts = [local(process, count) for process in range(count)]
        for own, whole in zip(zip(*parts, strict=True), local(0, 1), strict=True):
            np.testing.assert_array_equal(np.concatenate(own), whole)


def test_a_bad_image_ends_the_run_or_is_replaced():
    data = [encoded(image) for image in IMAGES]
    data[7] = data[8] = b"broken"
    with streaming(files(data)) as feed:
        with pytest.raises(UserError, match="[78].png is no image .*on_bad_image=skip"):
            for step in range(3):
                feed.inputs(step)
    with streaming(files(data), on_bad_image="skip") as feed:
        for step in range(3):
            found = taken(feed, step)
            indices = PAIRS.batch(step, BATCH)
            expected = IMAGES[indices]
            is_bad = np.isin(indices, (7, 8))
            np.testing.assert_array_equal(found[~is_bad], expected[~is_bad])
            partners = found.reshape(-1, 2, *found.shape[1:])
            assert (partners[:, 0] != partners[:, 1]).any(axis=(1, 2, 3)).all()
        assert feed.num_skipped == 2
        assert feed.metrics(2)["skipped_images"] == 2


def test_two_bad_partners_get_different_images():
    data = [b"broken", b"broken", *[encoded(image) for image in IMAGES[2:4]]]
    pairs = Groups(np.zeros(4), seed=0)
    pairs.epoch = lambda epoch: np.array([[0, 1], [3, 2]])
    mesh = sharding.make_mesh(jax.devices()[:1])
    options = dict(seed=0, crop_scale=(), on_bad_image="skip", prefetch=1)
    with Streaming(files(data), pairs, mesh, batch_size=4, **options) as feed:
        np.testing.assert_array_equal(taken(feed, 0), IMAGES[[2, 3, 3, 2]])


def test_no_image_can_be_used():
    bad = files([b"broken"] * 4)
    pairs = Groups(np.zeros(4), seed=0)
    mesh = sharding.make_mesh(jax.devices()[:1])
    options = dict(seed=0, crop_scale=(), on_bad_image="skip", prefetch=1)
    with Streaming(bad, pairs, mesh, batch_size=4, **options) as feed:
        with pytest.raises(UserError, match="too few of the 4 images can be used"):
            feed.inputs(0)


def test_batches_are_made_ahead():
    read = []
    data = [encoded(image) for image in IMAGES]
    names = [str(i) for i in range(NUM_IMAGES)]

    def record(index):
        read.append(index)
        return data[index]

    images = EncodedImages(names, record, (8, 8), 3, 1, 1.0)
    with streaming(images, prefetch=2) as feed:
        feed.inputs(0)
        for future in list(feed._batches.values()):
            future.result()
        assert len(read) == 3 * BATCH


def test_a_replacement_is_of_the_same_class_where_there_is_one():
    data = [b"broken", *[encoded(image) for image in IMAGES[1:6]]]
    pairs = Groups(np.array([0, 1, 1, 0, 1, 1]), seed=0)
    pairs.epoch = lambda epoch: np.array([[0, 1], [5, 4], [2, 3]])
    mesh = sharding.make_mesh(jax.devices()[:1])
    options = dict(seed=0, crop_scale=(), on_bad_image="skip", prefetch=1)
    with Streaming(files(data), pairs, mesh, batch_size=6, **options) as feed:
        np.testing.assert_array_equal(taken(feed, 0), IMAGES[[3, 1, 5, 4, 2, 3]])


def test_metrics_name_the_rate_of_the_epoch():
    labels = np.repeat([0, 1], 20)
    feed = Resident(
        noise(40, 2, 2, 1),
        Groups(labels, 0, 0.5),
        sharding.make_mesh(),
        batch_size=BATCH,
        max_steps=1,
        sharded=False,
    )
    assert feed.metrics(0) == {"same_class_rate": 0.5}


def test_gather_from_shards_works_for_any_type():
    mesh = sharding.make_mesh()
    array = np.arange(32.0, dtype=np.float32).reshape(16, 2)
    indices = np.array([15, 0, 3, 3, 9, 1, 2, 14], np.int32)
    placed = sharding.put(array, sharding.batch_sharding(mesh))
    gather = jax.jit(lambda x, i: sharding.gather_from_shards(x, i, mesh))
    found = gather(placed, jnp.asarray(indices))
    np.testing.assert_array_equal(found, array[indices])


def taken_with_labels(feed, step):
    take = jax.jit(feed.get_labelled_batch)
    return map(np.asarray, take(feed.inputs(step), 0))


@pytest.mark.parametrize("make", ["resident", "sharded", "arrays", "files"])
def test_labels_belong_to_their_images(make):
    """Every pixel of an image is its label."""
    labels = np.arange(NUM_IMAGES) * 5
    images = np.broadcast_to(labels[:, None, None, None], (NUM_IMAGES, 8, 8, 3))
    images = images.astype(np.uint8)
    pairs, mesh = Groups(labels, seed=5), sharding.make_mesh()
    sizes = dict(batch_size=BATCH, max_steps=1)
    options = dict(
        batch_size=BATCH, seed=5, crop_scale=(0.2, 1.0), on_bad_image="skip", prefetch=1
    )
    data = [encoded(image) for image in images]
    data[3] = data[20] = b"broken"
    makers = dict(
        resident=lambda: Resident(images, pairs, mesh, **sizes, sharded=False),
        sharded=lambda: Resident(images, pairs, mesh, **sizes, sharded=True),
        arrays=lambda: Streaming(images, pairs, mesh, **options),
        files=lambda: Streaming(files(data), pairs, mesh, **options),
    )
    seen = set()
    with makers[make]() as feed:
        for step in range(4):
            found, own = taken_with_labels(feed, step)
            assert own.dtype == np.int32 and own.shape == (BATCH,)
            np.testing.assert_array_equal(
                found, np.broadcast_to(own[:, None, None, None], found.shape)
            )
            seen |= set(own.tolist())
    bad = {15, 100} if make == "files" else set()
    assert seen == set(labels.tolist()) - bad
