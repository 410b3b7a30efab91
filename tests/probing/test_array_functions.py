"""Malformed arrays, labels and encoders: an error that names the argument, or the number.

Every public function on arrays is given what is right in other clothes, which must change
nothing, and what cannot be right, which must be refused; and arrays of any kind at random,
whose number, where there is one, is NumPy's or scikit-learn's.
"""

import functools
import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from imae_jax.errors import UserError
from imae_jax.evaluators.separability import linear_separability, mixture_separability
from imae_jax.probing import linear_classifiers
from imae_jax.probing.knn import knn_accuracy, votes
from imae_jax.probing.lars_probe import lars_accuracy
from imae_jax.probing.linear_classifiers import Labelled, Splits
from imae_jax.probing.similarity import effective_rank, linear_cka

if importlib.util.find_spec("torch"):
    import torch
else:
    torch = None

ROWS, WIDTH, CLASSES = 40, 6, 3
CENTRES = 2 * np.random.default_rng(9).normal(size=(CLASSES, WIDTH))


def eighths(x):
    """Numbers that float16 and bfloat16 hold exactly."""
    return np.clip(np.round(8 * x), -120, 120) / 8


def part(seed):
    random = np.random.default_rng(seed)
    labels = np.arange(ROWS) % CLASSES
    return eighths(CENTRES[labels] + 2 * random.normal(size=(ROWS, WIDTH))), labels


PARTS = ("train", "validation", "test")
CLEAN = dict(zip(PARTS, map(part, range(3)), strict=True))
WHITENED = dict(
    zip(PARTS, Splits(*(Labelled(*CLEAN[name]) for name in PARTS)).whitened(), strict=True)
)
LARS = dict(blrs=(1.0, 30.0), batch_size=16, epochs=5, warmup_epochs=1, seed=0)
KNN = dict(neighbours=5, temperature=0.07)
OF_SPLITS = {
    "ridge_accuracy": (linear_classifiers.ridge_accuracy, CLEAN),
    "logistic_accuracy": (linear_classifiers.logistic_accuracy, CLEAN),
    "whitened_accuracy": (linear_classifiers.whitened_accuracy, WHITENED),
    "knn_accuracy": (lambda splits: knn_accuracy(splits, **KNN), CLEAN),
    "lars_accuracy": (lambda splits: lars_accuracy(splits, **LARS), CLEAN),
}


def measured(name, **changes):
    """The function's value on its clean splits, some features or labels exchanged."""
    function, clean = OF_SPLITS[name]
    splits = []
    for split in PARTS:
        features, labels = clean[split]
        features = changes.get(f"{split}.features", features)
        splits.append(Labelled(features, changes.get(f"{split}.labels", labels)))
    return function(Splits(*splits))


EXPECTED = {}


def expected(name):
    if name not in EXPECTED:
        EXPECTED[name] = measured(name)
    return EXPECTED[name]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


CLOTHES = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read-only": read_only,
    "lists": lambda x: x.tolist(),
    "rows": list,
    "matrix": np.asmatrix,
    "masked": lambda x: np.ma.masked_array(x, mask=False),
    "jax": jnp.asarray,
    "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "rows of JAX": lambda x: list(map(jnp.asarray, x)),
}
LABELS = {
    "from -1": lambda y: y - 1,
    "far apart": lambda y: 10**12 * (y - 1),
    "huge": lambda y: y.astype(object) + 2**70,
    "strings": lambda y: np.array(["ant", "bee", "cat"])[y],
    "objects": lambda y: np.array(["ant", "bee", "cat"], object)[y],
    "bytes": lambda y: np.array([b"ant", b"bee", b"cat"])[y],
    "dates": lambda y: np.datetime64("2026-01-01") + y,
    "whole floats": lambda y: y + 2.0,
    "uint8": lambda y: y.astype(np.uint8),
    "uint64": lambda y: y.astype(np.uint64),
    "list": lambda y: y.tolist(),
    "words": lambda y: ["abc"[i] for i in y],
    "jax": jnp.asarray,
}
if torch:
    CLOTHES |= {
        "torch": torch.tensor,
        "gradient": lambda x: torch.tensor(x, requires_grad=True),
        "torch bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
        "rows of torch": lambda x: list(torch.tensor(x)),
    }
    LABELS |= {"torch": torch.tensor, "list of torch": lambda y: list(torch.tensor(y))}


def put(x, place, value, kind=None):
    x = np.array(x, kind)
    x[place] = value
    return x


def masked_at(x, place):
    mask = np.zeros(x.shape, bool)
    mask[place] = True
    return np.ma.masked_array(x, mask)


def ragged(x):
    rows = x.tolist()
    rows[1] = rows[1][:-1]
    return rows


BAD_FEATURES = {
    "NaN": lambda x: put(x, (3, 1), np.nan),
    "inf": lambda x: put(x, (-1, 0), -np.inf),
    "huge": lambda x: put(x, (3, 1), 1e200),
    "tiny": lambda x: x * 1e-200,
    "fewer rows": lambda x: x[:-1],
    "every second": lambda x: x[::2],
    "more rows": lambda x: np.concatenate([x, x[:1]]),
    "none": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "one column": lambda x: x[:, 0],
    "tokens": lambda x: x[:, None],
    "five axes": lambda x: x[None, None, None],
    "scalar": lambda x: 1.5,
    "objects": lambda x: x.astype(object),
    "ragged": ragged,
    "strings": lambda x: x.astype(str),
    "complex": lambda x: x + 0j,
    "dates": lambda x: x.astype("datetime64[s]"),
    "masked": lambda x: masked_at(x, (2, 2)),
    "None": lambda x: None,
    "dict": lambda x: dict(enumerate(x)),
    "None among them": lambda x: put(x, (0, 0), None, object),
}
BAD_LABELS = {
    "fewer": lambda y: y[:-1],
    "more": lambda y: np.concatenate([y, y[:1]]),
    "none": lambda y: y[:0],
    "one-hot": lambda y: np.eye(CLASSES)[y],
    "one-hot bools": lambda y: np.eye(CLASSES, dtype=bool)[y],
    "[N, 1]": lambda y: y[:, None],
    "[1, N]": lambda y: y[None],
    "scores": lambda y: np.ones((ROWS, CLASSES)),
    "scalar": lambda y: 1,
    "halves": lambda y: y + 0.5,
    "one half": lambda y: put(y, 3, 2.5, float),
    "NaN": lambda y: put(y, 3, np.nan, float),
    "NaN object": lambda y: put(y, 3, np.nan, object),
    "inf": lambda y: put(y, 3, np.inf, float),
    "None": lambda y: put(y, 3, None, object),
    "mixed": lambda y: put(y, 3, "bee", object),
    "NaT": lambda y: put(np.datetime64("2026-01-01") + y, 3, "NaT"),
    "too long": lambda y: y.astype(np.uint64) + 2**63 + 2,
    "missing": lambda y: None,
    "masked": lambda y: masked_at(y, 3),
}


def wrong(kind, how, array):
    return (BAD_FEATURES if kind == "features" else BAD_LABELS)[how](array)


WRONG = [("features", how) for how in BAD_FEATURES] + [
    ("labels", how) for how in BAD_LABELS
]
some = lambda names: st.sampled_from(sorted(names))  # noqa: E731


@settings(max_examples=40)
@given(some(OF_SPLITS), some(CLOTHES), some(PARTS), some(LABELS))
def test_the_same_splits_in_other_clothes_give_the_same(name, clothes, split, labels):
    clean = OF_SPLITS[name][1]
    changes = {f"{part}.labels": LABELS[labels](clean[part][1]) for part in PARTS}
    if name != "whitened_accuracy":  # whose features are not held exactly
        changes[f"{split}.features"] = CLOTHES[clothes](clean[split][0])
    assert measured(name, **changes) == expected(name)


@settings(max_examples=100)
@given(some(OF_SPLITS), some(PARTS), st.sampled_from(WRONG))
def test_splits_that_cannot_be_right_are_refused(name, split, kind_and_how):
    kind, how = kind_and_how
    clean = np.asarray(OF_SPLITS[name][1][split][kind == "labels"])
    changes = {f"{split}.{kind}": wrong(kind, how, clean)}
    if split == "validation" and name == "knn_accuracy":  # does not look at it
        assert measured(name, **changes) == expected(name)
        return
    # Where numbers of rows differ, either may be named.
    with pytest.raises(UserError, match=rf"{split}.*(features|labels)") as caught:
        measured(name, **changes)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", OF_SPLITS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_classes_that_train_has_not_count_as_wrong(name, split):
    """Whatever else they are called: no more columns, and no other order."""
    labels = OF_SPLITS[name][1][split][1]
    strange = [put(labels, labels == 1, value) for value in (-7, 5, 10**15)]
    found = {measured(name, **{f"{split}.labels": labels}) for labels in strange}
    assert len(found) == 1
    if split == "test" and name != "lars_accuracy":
        assert found.pop() <= np.mean(labels != 1)


@settings(max_examples=40)
@given(some(OF_SPLITS), st.sampled_from(["validation", "test"]), some(LABELS), some(LABELS))
def test_labels_of_two_kinds_are_refused(name, split, one, other):
    """Else all would count as wrong: 1 is not "1"."""
    assume(not (name == "knn_accuracy" and split == "validation"))
    clean = OF_SPLITS[name][1]
    changes = {f"{part}.labels": LABELS[one](clean[part][1]) for part in PARTS}
    changes[f"{split}.labels"] = LABELS[other](clean[split][1])
    kinds = [
        np.unique(np.asarray(changes[f"{x}.labels"])).dtype.kind for x in ("train", split)
    ]
    assume(kinds[0] != kinds[1] and not {*kinds} <= {*"iuf"} and "O" not in kinds)
    with pytest.raises(UserError, match=f"{split}.labels .* of the kind of train's"):
        measured(name, **changes)


@pytest.mark.parametrize("name", OF_SPLITS)
def test_what_is_no_splits_is_refused(name):
    features, labels = CLEAN["train"]
    for splits in (None, features, (features, labels), [(features,)] * 3, {}, 3 * [None]):
        with pytest.raises(UserError, match="splits must be Splits"):
            OF_SPLITS[name][0](splits)
    one = Labelled(features, 0 * labels + 4)
    with pytest.raises(UserError, match="are of class 4 .train.labels."):
        OF_SPLITS[name][0](Splits(one, one, one))
    narrow = {"test.features": OF_SPLITS[name][1]["test"][0][:, :-1]}
    with pytest.raises(UserError, match="test.features .* 6 columns, as train.features"):
        measured(name, **narrow)


@pytest.mark.parametrize("factor", [100, 0.01])
def test_whitened_is_asked_for(factor):
    features = {f"{part}.features": factor * WHITENED[part][0] for part in PARTS}
    with pytest.raises(UserError, match="train.features are not whitened"):
        measured("whitened_accuracy", **features)


SPLITS = Splits(*(Labelled(*CLEAN[split]) for split in PARTS))
BAD_COUNTS = (0, -1, 2.0, 2.5, True, "3", None, np.nan, [3], 10**9)
BAD_NUMBERS = (0, -1.0, np.nan, True, "1", None, 1j, [0.1, 0.2])
BAD_STRENGTHS = (
    (),
    [-1.0],
    [np.nan],
    [np.inf],
    ["a"],
    1.0,
    None,
    "1",
    [0.1, None],
    [[1]],
    [0],
)


@pytest.mark.parametrize(
    "function,name,values",
    [
        (
            lambda x: knn_accuracy(SPLITS, **{**KNN, "neighbours": x}),
            "neighbours",
            BAD_COUNTS,
        ),
        (
            lambda x: knn_accuracy(SPLITS, **{**KNN, "temperature": x}),
            "temperature",
            (*BAD_NUMBERS, np.inf, 1e-9),
        ),
        (
            lambda x: lars_accuracy(SPLITS, **{**LARS, "blrs": x}),
            "blrs",
            (*BAD_STRENGTHS, [1e30]),
        ),
        (
            lambda x: lars_accuracy(SPLITS, **{**LARS, "batch_size": x}),
            "batch_size",
            BAD_COUNTS[:-1],
        ),
        (
            lambda x: lars_accuracy(SPLITS, **{**LARS, "epochs": x}),
            "epochs",
            BAD_COUNTS[:-1],
        ),
        (
            lambda x: lars_accuracy(SPLITS, **{**LARS, "warmup_epochs": x}),
            "warmup_epochs",
            BAD_COUNTS[1:],
        ),
        (
            lambda x: lars_accuracy(SPLITS, **{**LARS, "seed": x}),
            "seed",
            (-1, 2.0, None, 2**40),
        ),
        (
            lambda x: linear_separability(*FOUR.values(), ridges=x),
            "ridges",
            BAD_STRENGTHS[:-1],
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_numbers_that_are_not_possible_are_refused(function, name, values):
    for value in values:
        with pytest.raises(UserError, match=rf"invalid {name}=|{name}=.* diverges"):
            function(value)


def test_small_integers_of_jax_are_numbers_and_labels():
    x, y = CLEAN["train"]
    whole = np.clip(np.round(x), -7, 7)
    small = jnp.asarray(whole, jnp.int4)
    assert linear_cka(small, small) == linear_cka(whole, whole)
    found = measured("ridge_accuracy", **{"train.labels": jnp.asarray(y, jnp.int4)})
    assert found == expected("ridge_accuracy")


def test_three_rows_have_no_similarity():
    x = CLEAN["train"][0][:3]
    with pytest.raises(UserError, match="x and y have 3 rows; at least 4 are needed"):
        linear_cka(x, x)


def test_votes_and_scores_that_do_not_fit_are_refused():
    x, y = CLEAN["train"]
    options = dict(**KNN, num_classes=CLASSES)
    for bad, name in (
        ((x[:, :4], x, y), "queries"),
        ((x, put(x, (1, 2), np.inf), y), "features"),
        ((x, put(x, 1, 0), y), "features: row 1 is zero"),
        ((0 * x, x, y), "queries: row 0 is zero"),
        ((x, x[0] * np.linspace(1, 2, len(x))[:, None], y), "features do not vary"),
        ((x, x, y - 1), "labels must hold"),
        ((x, x, y + 1), "labels must hold"),
        ((x, x, np.array(["a", "b", "c"])[y]), "labels must hold"),
        ((x, x, y[1:]), "labels"),
    ):
        with pytest.raises(UserError, match=name):
            votes(*bad, **options)
    scores = np.eye(CLASSES)[y]
    assert linear_classifiers.accuracy(scores, y) == 1
    for bad, name in (
        ((scores, y[:, None]), "labels"),
        ((scores, y[1:]), "labels"),
        ((scores[0], y), "scores"),
        ((scores * np.nan, y), "scores"),
        ((scores, np.array(["a", "b", "c"])[y]), "labels"),
    ):
        with pytest.raises(UserError, match=name):
            linear_classifiers.accuracy(*bad)
    assert linear_classifiers.chance(["b", "a", "b"], ["b", "c"]) == 0.5
    assert linear_classifiers.chance(np.array([-1, -1, 3]), np.array([-1, 3])) == 0.5
    for how, change in BAD_LABELS.items():
        if how not in ("fewer", "more"):  # which it cannot know
            with pytest.raises(UserError, match="train|test"):
                linear_classifiers.chance(change(y), y)


@settings(max_examples=30)
@given(st.floats(-30, 30), st.floats(1e-6, 1e3), st.sampled_from([1, 5, ROWS]))
def test_votes_are_scikit_learns_of_any_size(exponent, temperature, neighbours):
    """Rows of any length, and temperatures at which all votes but one vanish."""
    (x, y), (queries, _) = CLEAN["train"], CLEAN["test"]
    lengths = 10 ** np.linspace(0, exponent, ROWS)[:, None]
    lengths *= 1e15 / lengths.max() / np.abs(x).max()
    options = dict(neighbours=neighbours, temperature=temperature, num_classes=CLASSES)
    found = np.asarray(votes(queries, x * lengths, y, **options))
    nearest = KNeighborsClassifier(neighbours, metric="cosine").fit(x, y)
    distances, ids = nearest.kneighbors(queries)
    weights = np.exp((distances[:, :1] - distances) / temperature)
    expected = np.einsum("mk,mkc->mc", weights, np.eye(CLASSES)[y[ids]])
    # float32 knows a cosine to a millionth or so, of which a low temperature makes more.
    np.testing.assert_allclose(found, expected, atol=1e-5 + 2e-6 / temperature * neighbours)


FOUR = dict(
    train_features=CLEAN["train"][0],
    train_targets=CLEAN["train"][0] @ CENTRES.T + CLEAN["validation"][0][:, :3],
    test_features=CLEAN["test"][0],
    test_targets=eighths(CLEAN["test"][0] @ CENTRES.T),
)
FOUR["train_targets"] = eighths(FOUR["train_targets"])


@given(some(FOUR), some(CLOTHES))
def test_the_same_arrays_in_other_clothes_give_the_same(name, clothes):
    clean = linear_separability(**FOUR)
    changed = linear_separability(**FOUR | {name: CLOTHES[clothes](FOUR[name])})
    # Rows that lie elsewhere in memory are added up in another order.
    assert changed == pytest.approx(clean, rel=1e-9)
    x, y = FOUR["train_features"], FOUR["train_targets"]
    found = linear_cka(CLOTHES[clothes](x), CLOTHES[clothes](y))
    assert found == pytest.approx(linear_cka(x, y), rel=1e-9)
    covariance = eighths(np.cov(x, rowvar=False))
    found = effective_rank(CLOTHES[clothes](covariance))
    assert found == pytest.approx(effective_rank(covariance), rel=1e-9)


@settings(max_examples=80)
@given(some(FOUR), some(BAD_FEATURES))
def test_arrays_that_cannot_be_right_are_refused(name, how):
    with pytest.raises(UserError, match=name.replace("features", "(features|targets)")):
        linear_separability(**FOUR | {name: BAD_FEATURES[how](FOUR[name])})
    x, y = FOUR["train_features"], FOUR["test_features"]
    for pair in ((BAD_FEATURES[how](x), y), (x, BAD_FEATURES[how](y))):
        with pytest.raises(UserError, match="^(x|y)"):
            linear_cka(*pair)


ANY = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes(),
        hnp.complex_number_dtypes(), hnp.unicode_string_dtypes(), hnp.datetime64_dtypes(),
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)  # fmt: skip
SMALL = st.integers(-8, 8)


def table(rows, columns):
    return hnp.arrays(np.float64, (rows, columns), elements=SMALL)


def or_none(function, *given):
    """Its value, or None where it refuses what is given, by a name."""
    try:
        return function(*given)
    except UserError as error:
        assert str(error).split()[0].rstrip(":") in (
            "x", "y", "covariance", "train_features", "train_targets", "test_features",
            "test_targets", "scores", "labels", "train", "test", "queries", "features",
        )  # fmt: skip
        return None


@settings(max_examples=60)
@given(st.lists(ANY, min_size=4, max_size=4))
def test_arrays_of_any_kind_are_refused_by_name_or_measured(arrays):
    a, b, *_ = arrays
    found = or_none(linear_cka, a, b)
    assert found is None or -1 - 1e-9 <= found <= 1 + 1e-9
    found = or_none(effective_rank, a)
    assert found is None or 1 - 1e-9 <= found <= len(a) + 1e-9
    found = or_none(linear_separability, *arrays)
    assert found is None or found["r2"] <= 1 + 1e-9
    for function in (linear_classifiers.accuracy, linear_classifiers.chance):
        found = or_none(function, a, b)
        assert found is None or 0 <= found <= 1
    options = dict(neighbours=1, temperature=1, num_classes=2)
    or_none(lambda: votes(a, b, arrays[2], **options))


def u_centred(x):
    """The kernel of [N, D] rows, U-centred (Szekely and Rizzo 2014)."""
    n, kernel = len(x), x @ x.T
    np.fill_diagonal(kernel, 0)
    rows, total = kernel.sum(axis=1), kernel.sum()
    kernel += total / ((n - 1) * (n - 2)) - (rows[:, None] + rows) / (n - 2)
    np.fill_diagonal(kernel, 0)
    return kernel


def test_a_rank_that_the_type_cannot_tell_is_refused():
    white = np.eye(2048)
    assert effective_rank(white.astype(np.float32)) == pytest.approx(2048)
    with pytest.raises(UserError, match="covariance is float16 .*, whose rounding hides"):
        effective_rank(white.astype(np.float16))


@settings(max_examples=60)
@given(table(6, 3), table(6, 2), st.integers(1, 6).flatmap(lambda n: table(n, n)))
def test_what_is_measured_of_numbers_at_random_is_numpys(x, y, root):
    found = or_none(linear_cka, x, y)
    kernel_x, kernel_y = u_centred(x), u_centred(y)
    size = np.linalg.norm(kernel_x) * np.linalg.norm(kernel_y)
    assert found is not None or size < 1e-9 or min(np.ptp(x), np.ptp(y)) == 0
    if found is not None:
        assert found == pytest.approx((kernel_x * kernel_y).sum() / size, abs=1e-6)
    covariance = root @ root.T
    found = or_none(effective_rank, covariance)
    assert (found is None) == (not root.any())
    if found is not None:
        fractions = np.linalg.svd(root, compute_uv=False)
        fractions = fractions[fractions > 1e-7 * fractions.sum()] / fractions.sum()
        entropy = -np.sum(fractions * np.log(fractions))
        assert found == pytest.approx(np.exp(entropy), rel=1e-6)
    is_covariance = np.allclose(root, root.T) and np.linalg.eigvalsh(root)[0] > -1e-9
    found = or_none(effective_rank, root)
    assert (found is None) == (not (is_covariance and root.any()))


@settings(max_examples=40)
@given(
    st.integers(2, 12).flatmap(lambda n: st.tuples(table(n, 5), table(n, 2))),
    table(3, 5),
    table(3, 2),
    st.sampled_from([1e-3, 0.3, 5]),
    st.sampled_from([0, 1e6]),
)
def test_fits_of_numbers_at_random_are_scikit_learns(train, test_z, test_h, ridge, offset):
    """With fewer rows than features, too, and wherever zero lies."""
    z, h = train
    found = or_none(
        lambda: linear_separability(z + offset, h, test_z + offset, test_h, ridges=[ridge])
    )
    variance = np.square(test_h - h.mean(axis=0)).mean()
    assert (found is None) == (variance < 1e-20)
    assume(found is not None)
    penalty = ridge * np.square(z - z.mean(axis=0)).mean(axis=1).sum()
    predicted = (
        Ridge(alpha=penalty).fit(z, h).predict(test_z) if penalty else h.mean(axis=0)
    )
    mse = np.square(predicted - test_h).mean()
    assert found["mse"] == pytest.approx(mse, rel=1e-5, abs=1e-7)
    assert found["r2"] == pytest.approx(1 - mse / variance, rel=1e-5, abs=1e-5)


IMAGES = [
    np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    for seed, count in ((0, 45), (1, 23))
]
PROJECTION = np.random.default_rng(2).normal(size=(48, 8)) / 256


def encode(x):
    return np.tanh(np.asarray(x, np.float64).reshape(len(x), -1) @ PROJECTION)


def pictures(images):
    return [Image.fromarray(image) for image in images]


IMAGE_CLOTHES = {
    "uint8": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "uint16": lambda x: x.astype(np.uint16),
    "float16": lambda x: x.astype(np.float16),
    "list": list,
    "lists": lambda x: x.tolist(),
    "pictures": pictures,
    "tuple of pictures": lambda x: tuple(pictures(x)),
    "jax": jnp.asarray,
    "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "read-only": read_only,
    "Fortran": np.asfortranarray,
}


def in_place(x):
    found = encode(x)
    x -= x.mean()
    return found


ROOM = np.zeros((64, 8))


def reuses(x):
    ROOM[: len(x)] = encode(x)
    return ROOM[: len(x)]


ENCODER_CLOTHES = {
    "function": encode,
    "list": lambda x: encode(x).tolist(),
    "rows": lambda x: list(encode(x)),
    "jax": lambda x: jnp.asarray(encode(x)),
    "writes": in_place,
    "reuses": reuses,
    "its input": lambda x: np.asarray(x).reshape(len(x), -1),
}
if torch:
    WEIGHT = torch.tensor(PROJECTION, dtype=torch.float32, requires_grad=True)

    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.tanh(torch.from_numpy(x).flatten(1) @ WEIGHT)

    IMAGE_CLOTHES |= {
        "torch": torch.from_numpy,
        "list of torch": lambda x: list(torch.from_numpy(x)),
        "torch float": lambda x: torch.from_numpy(x).float().requires_grad_(),
    }
    ENCODER_CLOTHES |= {
        "torch": lambda x: torch.tanh(torch.from_numpy(x).flatten(1) @ WEIGHT),
        "torch module": Model(),
        "torch bfloat16": lambda x: torch.tensor(encode(x)).bfloat16(),
    }


@functools.cache
def clean_separability(reference):
    return mixture_separability(reference, *(images / 1.0 for images in IMAGES))


@settings(max_examples=30)
@given(
    some(IMAGE_CLOTHES),
    some(IMAGE_CLOTHES),
    some(ENCODER_CLOTHES),
    st.sampled_from([16, 64]),
)
def test_encoders_and_images_in_other_clothes_give_the_same(
    train, test, encoder, batch_size
):
    function = ENCODER_CLOTHES[encoder]
    given = IMAGE_CLOTHES[train](IMAGES[0]), IMAGE_CLOTHES[test](IMAGES[1])
    found = mixture_separability(function, *given, batch_size=batch_size)
    reference = ENCODER_CLOTHES["its input"] if encoder == "its input" else encode
    clean = clean_separability(reference)
    loose = dict(abs=0.02) if encoder == "torch bfloat16" else dict(rel=1e-4, abs=1e-5)
    assert found == pytest.approx(clean, **loose)


def later(change):
    """Right at first; then as `change` has it."""

    def make():
        calls = []

        def function(x):
            calls.append(x)
            return change(encode(x)) if len(calls) > 5 else encode(x)

        return function

    return make


def noise(features):
    return features + np.random.default_rng().normal(size=features.shape)


def at_once(change):
    return lambda: lambda x: change(encode(x))


BAD_ENCODERS = {
    **{how: at_once(change) for how, change in BAD_FEATURES.items()},
    **{f"later {how}": later(change) for how, change in BAD_FEATURES.items()},
    "later narrower": later(lambda x: x[:, 1:]),
    "tuple": lambda: lambda x: (encode(x), encode(x)),
    "maps": lambda: lambda x: encode(x).reshape(-1, 2, 2, 2),
    "dropout": lambda: lambda x: noise(encode(x)),
    "pads": lambda: lambda x: np.concatenate([encode(x), np.zeros((64 - len(x), 8))]),
    "reversed": lambda: lambda x: encode(x)[::-1],
    "batch statistics": lambda: lambda x: encode(x - x.mean(axis=0)),
    "no function": lambda: encode(IMAGES[0]),
    "nothing": lambda: None,
}
del BAD_ENCODERS["tokens"]  # are fine


@settings(max_examples=80)
@given(some(BAD_ENCODERS), st.sampled_from(["encode", "target"]))
def test_encoders_that_cannot_be_right_are_refused(how, name):
    functions = dict(encode=encode, target=encode) | {name: BAD_ENCODERS[how]()}
    assume(how != "nothing" or name == "encode")  # no target is fine
    with pytest.raises(UserError, match=name):
        mixture_separability(
            train_images=IMAGES[0], test_images=IMAGES[1], batch_size=16, **functions
        )


BAD_IMAGES = {
    "grey": lambda x: x[..., 0],
    "one": lambda x: x[0],
    "flat": lambda x: x.reshape(len(x), -1),
    "video": lambda x: x[:, None],
    "few": lambda x: x[:9],
    "none": lambda x: x[:0],
    "NaN": lambda x: put(x, (3, 0, 0, 0), np.nan, float),
    "inf": lambda x: put(x, (3, 0, 0, 0), np.inf, float),
    "huge": lambda x: x * 1e40,
    "complex": lambda x: x + 0j,
    "strings": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object),
    "None": lambda x: None,
    "None among them": lambda x: [*x[1:], None],
    "path": lambda x: "photos/",
    "other shapes": lambda x: [*x[1:], x[0, 1:]],
    "other types": lambda x: [*x[1:], x[0] / 255],
    "other size": lambda x: x[:, 1:],
    "palettes": lambda x: [picture.convert("P") for picture in pictures(x)],
    "opacity": lambda x: [picture.convert("RGBA") for picture in pictures(x)],
    "masked": lambda x: masked_at(x, (2, 2)),
}


@settings(max_examples=60)
@given(st.sampled_from([0, 1]), some(BAD_IMAGES))
def test_images_that_cannot_be_right_are_refused(place, how):
    given = list(IMAGES)
    given[place] = BAD_IMAGES[how](given[place])
    with pytest.raises(UserError, match=("train_images", "test_images")[place]):
        mixture_separability(encode, *given)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_pictures_whose_numbers_are_no_colours_are_refused(mode):
    given = (
        [x.convert("RGB").convert(mode) for x in pictures(images)] for images in IMAGES
    )
    with pytest.raises(
        UserError, match=rf"train_images\[0\] is a picture of mode '{mode}'"
    ):
        mixture_separability(encode, *given)


def test_grey_pictures_have_one_channel():
    grey = [[picture.convert("L") for picture in pictures(images)] for images in IMAGES]
    arrays = [np.stack(pictures)[..., None] for pictures in grey]
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    assert mixture_separability(flat, *grey) == mixture_separability(flat, *arrays)


def test_a_torch_module_says_its_layout(parity):
    torch = parity("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Flatten())
    with pytest.raises(
        UserError, match=r"encode is a PyTorch module .*\.permute\(0, 3, 1, 2\)"
    ):
        mixture_separability(module, *IMAGES)
    module.append(torch.nn.Dropout(0.1))
    encode = lambda x: module(torch.from_numpy(x).permute(0, 3, 1, 2))  # noqa: E731
    with pytest.raises(UserError, match=r"encode gave other features .*\.eval\(\)"):
        mixture_separability(encode, *IMAGES)
    module.eval()
    assert mixture_separability(encode, *IMAGES)["dominant/r2"] > 0.5


def test_what_a_users_encoder_raises_is_its_own():
    def broken(x):
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        mixture_separability(broken, *IMAGES)
    with pytest.raises(TypeError, match="NoneType"):
        mixture_separability(lambda x: len(None), *IMAGES)
