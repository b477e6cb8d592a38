# SPDX-License-Identifier: BSD-3-Clause
"""Saved models: read by others, resumed bit for bit, refused when damaged, never half written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import bpfree_fast as bf
from bpfree_fast import io
from bpfree_fast.estimators.feedback import RULES


def assert_same_bits(a, b):
    for name in a._array_lists:
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            np.testing.assert_array_equal(one, other)


def stop_after(epoch):
    return lambda info: info.epoch_ended and info.epoch == epoch


@pytest.fixture
def saved(tmp_path, digits):
    path = tmp_path / "model.safetensors"
    clf = bf.DFAClassifier((16,), random_state=0, max_iter=2)
    clf.fit(digits.X_train, digits.y_train).save(path)
    return clf, path


def test_everything_comes_back(saved, digits):
    clf, path = saved
    other = bf.load(path)
    assert type(other) is bf.DFAClassifier
    assert other.get_params() == clf.get_params()
    np.testing.assert_array_equal(
        other.predict_proba(digits.X_test), clf.predict_proba(digits.X_test)
    )
    for name, value in vars(clf).items():
        if name not in ("_network", "_trainer"):
            np.testing.assert_equal(getattr(other, name), value)
    assert other.classes_.dtype == clf.classes_.dtype
    np.testing.assert_array_equal(other.feedback_[0], clf.feedback_[0])


@pytest.mark.parametrize("kind", ["U", "O", "bool", "int8", "float"])
def test_labels_of_any_kind(kind, tmp_path):
    names = {"U": ["è", "no", "yes"], "O": ["a", "b", "c"], "bool": [True, False]}
    labels = np.array(names.get(kind, [1, 2, 3]), dtype=None if kind == "U" else kind)
    X = np.arange(len(labels))[:, None]
    clf = bf.BackpropClassifier((4,), random_state=0).fit(X, labels)
    clf.save(tmp_path / "m.safetensors")
    other = bf.load(tmp_path / "m.safetensors")
    assert other.classes_.dtype == clf.classes_.dtype
    assert other.predict(X).tolist() == clf.predict(X).tolist()


def test_regressors_and_several_labels(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))
    for est, y in ((bf.DFARegressor((5,)), X[:, :2] * 100), (bf.DFAClassifier((5,)), X > 0)):
        est.fit(X, y).save(tmp_path / "m.safetensors")
        np.testing.assert_array_equal(
            bf.load(tmp_path / "m.safetensors").predict(X), est.predict(X)
        )


def test_others_read_the_tensors(saved, digits):
    clf, path = saved
    tensors = safetensors.numpy.load_file(path)
    assert {"coefs.0", "coefs.1", "intercepts.0", "intercepts.1", "feedback.0"} <= set(tensors)
    h = np.maximum(digits.X_test @ tensors["coefs.0"] + tensors["intercepts.0"], 0)
    logits = h @ tensors["coefs.1"] + tensors["intercepts.1"]
    assert np.mean(logits.argmax(axis=1) == clf.predict(digits.X_test)) > 0.99
    with safetensors.safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["description"])
    assert description["class"] == "DFAClassifier"
    assert description["params"]["hidden_layer_sizes"] == [16]
    assert description["fitted"]["classes_"]["values"] == list(range(10))
    assert "isa" in description["config"]


def test_without_the_optimizer(saved, tmp_path, digits):
    clf, path = saved
    small = tmp_path / "small.safetensors"
    clf.save(small, optimizer=False)
    assert small.stat().st_size < 0.5 * path.stat().st_size
    other = bf.load(small)
    np.testing.assert_array_equal(other.predict(digits.X_test), clf.predict(digits.X_test))
    other.set_params(max_iter=4, warm_start=True).fit(digits.X_train, digits.y_train)
    assert other.n_iter_ == 4


RESUMED = [
    *({"feedback": rule} for rule in RULES),
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.0},
    {"solver": "rmsprop"},
    {"solver": "adamw", "weight_decay": 0.1},
    {"dtype": "bfloat16"},
    {"early_stopping": True},
    {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
    {"learning_rate": "step", "step_size": 2},
    {"learning_rate": "invscaling"},
    {"alpha": 0.1, "activation": "gelu", "error_signal": "sign"},
]
FORWARD_FORWARD = [
    {},
    {"schedule": "greedy", "max_iter": 2},
    {"schedule": "greedy", "max_iter": 2, "learning_rate": "step", "step_size": 1},
    {"negatives": "hard", "label_position": "overwrite"},
    {"goodness": "mean", "goodness_loss": "symba"},
    {"goodness": "grouped_squares"},
    {"dtype": "bfloat16", "peer_normalization": 0.0},
    {"early_stopping": True, "predict_with": "goodness"},
]
_EVERYTHING = {"local_loss": "predsim", "sim_projection": True, "batch_normalization": True}
LOCAL_LOSS = [
    {},
    {"local_loss": "sim", "dtype": "bfloat16"},
    {**_EVERYTHING, "dropout": 0.2},
    {**_EVERYTHING, "early_stopping": True, "predict_with": "sum"},
    {**_EVERYTHING, "dropout": 0.1, "schedule": "greedy", "max_iter": 3},
    {"schedule": "greedy", "max_iter": 3, "learning_rate": "step", "step_size": 2},
    {"batch_normalization": True, "solver": "sgd"},
]
ALL_RESUMED = [
    *((bf.DFAClassifier, options) for options in RESUMED),
    *((bf.ForwardForwardClassifier, options) for options in FORWARD_FORWARD),
    *((bf.LocalLossClassifier, options) for options in LOCAL_LOSS),
]


def _name(value):
    return "-".join(map(str, value.values())) if isinstance(value, dict) else value.method


@pytest.mark.filterwarnings("ignore:The loss still fell")
@pytest.mark.parametrize(("cls", "options"), ALL_RESUMED, ids=_name)
def test_resuming_equals_never_having_stopped(cls, options, tmp_path, digits):
    X, y = digits.X_train[:500], digits.y_train[:500]
    weight = np.linspace(0.5, 1.5, 500)
    path = tmp_path / "half.safetensors"
    options = {"max_iter": 6, "random_state": 0, **options}
    whole = cls((24, 16), **options).fit(X, y, weight)
    half = cls((24, 16), **options)
    half.set_params(callback=stop_after(3)).fit(X, y, weight).save(path)
    resumed = bf.load(path).set_params(warm_start=True).fit(X, y, weight)
    assert resumed.n_iter_ == whole.n_iter_ == 6
    assert resumed.loss_curve_ == whole.loss_curve_
    assert resumed.validation_scores_ == whole.validation_scores_
    assert_same_bits(resumed, whole)


def test_resuming_backprop_and_regression(tmp_path):
    X = np.random.default_rng(0).normal(size=(300, 7))
    path = tmp_path / "half.safetensors"
    whole = bf.BackpropRegressor((12,), max_iter=6, random_state=0).fit(X, X[:, 0] ** 2)
    half = bf.BackpropRegressor((12,), max_iter=6, random_state=0, callback=stop_after(2))
    half.fit(X, X[:, 0] ** 2).save(path)
    assert_same_bits(bf.load(path).set_params(warm_start=True).fit(X, X[:, 0] ** 2), whole)


def test_a_drawn_seed_is_kept(tmp_path):
    X, y = np.eye(6), [0, 1, 0, 1, 0, 1]
    clf = bf.DFAClassifier((4,), random_state=np.random.RandomState(1)).fit(X, y)
    clf.save(tmp_path / "m.safetensors")
    assert bf.load(tmp_path / "m.safetensors").get_params()["random_state"] == clf.seed_


# Damaged files.


def damage(path, how):
    content = path.read_bytes()
    n_header = int.from_bytes(content[:8], "little")
    changed = {
        "empty": b"",
        "no header": content[:4],
        "half a header": content[: n_header // 2],
        "half the tensors": content[: (8 + n_header + len(content)) // 2],
        "one byte less": content[:-1],
        "one byte more": content + b"\0",
        "huge header": b"\xff" * 8 + content[8:],
        "other file": b"PK\x03\x04" + bytes(1000),
        "one bit": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
        "a parameter": content.replace(b'max_iter\\": 2', b'max_iter\\": 9'),
        "header text": content[:20] + b"}" + content[21:],
    }[how]
    assert changed != content
    path.write_bytes(changed)


@pytest.mark.parametrize(
    "how",
    [
        "empty", "no header", "half a header", "half the tensors", "one byte less",
        "one byte more", "huge header", "other file", "one bit", "header text",
        "a parameter",
    ],
)  # fmt: skip
def test_damaged_files_are_refused_in_a_sentence(how, saved):
    _, path = saved
    damage(path, how)
    with pytest.raises(ValueError, match=r"truncated|corrupt") as caught:
        bf.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="no saved model"):
        bf.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Popen"}, "'Popen', which is not known"),
        ({"params": {"nonsense": 1}}, "corrupt"),
        ({"fitted": {}}, "corrupt"),
        ({"step": None}, "corrupt"),
    ],
)
def test_descriptions_that_make_no_sense(change, message, saved, tmp_path):
    _, path = saved
    tensors, description = io.read(path)
    io.write(path, tensors, io.dumps({**description, **change}))
    with pytest.raises(ValueError, match=message):
        bf.load(path)


def test_missing_tensors(saved):
    _, path = saved
    tensors, description = io.read(path)
    del tensors["coefs.0"]
    io.write(path, tensors, io.dumps(description))
    with pytest.raises(ValueError, match="corrupt"):
        bf.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.safetensors is not a file"):
        bf.load(tmp_path / "nothing.safetensors")


# Saving that fails.


def test_nothing_to_save():
    with pytest.raises(ValueError, match="not fitted"):
        bf.DFAClassifier().save("unused.safetensors")


def test_no_folder(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        saved[0].save(tmp_path / "nowhere" / "m.safetensors")


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    clf, path = saved
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        clf.partial_fit(np.zeros((2, 64)), [0, 1]).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_save_leaves_the_old_file(saved):
    _, path = saved
    before = path.read_bytes()
    program = f"""
import os, signal
import bpfree_fast as bf
from bpfree_fast import io
model = bf.load({str(path)!r})
io.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
model.save({str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=path.parent, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == before
    assert bf.load(path).n_iter_ == 2


def test_what_json_does_not_have_is_refused(tmp_path):
    labels = np.array([(1, 2), (3, 4), None], dtype=object)[:2]
    clf = bf.DFAClassifier((4,), random_state=0).fit([[0.0], [1.0]], [0, 1])
    clf.classes_ = np.array([object(), labels[1]], dtype=object)
    with pytest.raises(TypeError, match="cannot be saved"):
        clf.save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
