# SPDX-License-Identifier: BSD-3-Clause
"""Readers: what they accept, where they look, and what they say of damaged files."""

import gzip
import struct

import numpy as np
import pytest

from bpfree_fast import data

TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    """The IDX file of an array, as its published description has it."""
    kind = TYPES[array.dtype.str[1:]]
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    head += struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array):
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (50, 4, 3), dtype=np.uint8)
    return X, rng.integers(0, 5, 50).astype(np.uint8)


@pytest.fixture(params=["", ".gz"])
def folder(tmp_path, images, request):
    """A folder laid out like MNIST's, gzipped or not."""
    X, y = images
    home = tmp_path / "set"
    home.mkdir()
    end = request.param
    write_idx(home / f"train-images-idx3-ubyte{end}", X[:40])
    write_idx(home / f"train-labels-idx1-ubyte{end}", y[:40])
    write_idx(home / f"t10k-images-idx3-ubyte{end}", X[40:])
    write_idx(home / f"t10k-labels-idx1-ubyte{end}", y[40:])
    return home


def test_digits():
    digits = data.load()
    assert (digits.name, digits.X_train.shape, digits.X_test.shape) == (
        "digits",
        (1438, 64),
        (359, 64),
    )
    assert digits.X_train.dtype == np.float32
    assert (digits.X_train.min(), digits.X_train.max()) == (0, 1)
    assert set(digits.y_test) == set(range(10))


def test_mnist(mnist):
    assert mnist.X_train.shape == (60000, 784)
    assert mnist.X_test.shape == (10000, 784)
    assert mnist.X_train.dtype == np.uint8
    assert mnist.X_train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert np.bincount(mnist.y_test).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


# IDX.


def test_idx_folder(folder, images):
    X, y = images
    dataset = data.load(folder)
    assert dataset.name == "set"
    np.testing.assert_array_equal(dataset.X_train, X[:40].reshape(40, 12))
    np.testing.assert_array_equal(dataset.y_test, y[40:])
    assert dataset.X_train.dtype == np.uint8


def test_plain_idx_files_are_mapped(tmp_path, images):
    from bpfree_fast.data.idx import read_idx

    write_idx(tmp_path / "x", images[0])
    mapped = read_idx(tmp_path / "x")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, images[0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_types(dtype, end, tmp_path):
    from bpfree_fast.data.idx import read_idx

    array = np.arange(-6, 6).reshape(2, 3, 2).astype(dtype)
    write_idx(tmp_path / f"x{end}", array)
    found = read_idx(tmp_path / f"x{end}")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.dtype.isnative


def test_idx_without_elements_is_refused_as_a_set(folder):
    for file in folder.glob("t10k-*"):
        shape = (0, 4, 3) if "images" in file.name else (0,)
        write_idx(file, np.empty(shape, np.uint8))
    with pytest.raises(ValueError, match="test part has no samples"):
        data.load(folder)


def damaged(content, how):
    return {
        "empty": b"",
        "cut header": content[:6],
        "cut": content[: len(content) // 2],
        "one byte less": content[:-1],
        "one byte more": content + b"\0",
        "other type": content[:2] + b"\x07" + content[3:],
        "other magic": b"\x01" + content[1:],
        "no dimension": content[:3] + b"\0" + content[4:],
        "huge": content[:4] + b"\xff" * 12 + content[16:],
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty", "cut header", "cut", "one byte less", "one byte more", "other type",
        "other magic", "no dimension", "huge",
    ],
)  # fmt: skip
def test_damaged_idx_files(how, folder, images):
    file = next(folder.glob("train-images*"))
    content = damaged(idx_bytes(images[0][:40]), how)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    with pytest.raises(ValueError, match=r"truncated|corrupt|no IDX file|empty") as caught:
        data.load(folder)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["cut", "flip", "head only"])
def test_damaged_gzip(how, tmp_path, images):
    from bpfree_fast.data.idx import read_idx

    content = gzip.compress(idx_bytes(images[0]))
    middle = len(content) // 2
    content = {
        "cut": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
        "head only": content[:5],
    }[how]
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.gz is (truncated or )?corrupt|truncated"):
        read_idx(tmp_path / "x.gz")


def test_parts_that_do_not_fit(folder, images):
    X, y = images
    labels = next(folder.glob("train-labels*"))
    write_idx(labels, y[:39])
    with pytest.raises(ValueError, match="40 training samples, but 39 labels"):
        data.load(folder)
    write_idx(labels, y[:40])
    write_idx(next(folder.glob("t10k-images*")), X[40:, :, :2].copy())
    with pytest.raises(ValueError, match="12 columns to train on, but 8 to test with"):
        data.load(folder)


def test_a_missing_part_is_named(folder):
    next(folder.glob("t10k-labels*")).unlink()
    with pytest.raises(FileNotFoundError, match="no IDX file of the t10k labels"):
        data.load(folder)


# npz.


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("data", "target")])
def test_npz_of_one_part(names, tmp_path, images):
    np.savez(tmp_path / "s.npz", **dict(zip(names, images, strict=True)))
    dataset = data.load(tmp_path / "s.npz")
    assert dataset.X_train.shape == (40, 12)
    assert dataset.X_test.shape == (10, 12)
    again = data.load(tmp_path)  # the folder's one file
    np.testing.assert_array_equal(dataset.X_test, again.X_test)


def test_npz_of_two_parts(tmp_path, images):
    X, y = images
    np.savez_compressed(
        tmp_path / "s.npz", x_train=X[:30], y_train=y[:30], x_test=X[30:], y_test=y[30:]
    )
    dataset = data.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(dataset.X_test, X[30:].reshape(20, 12))
    np.testing.assert_array_equal(dataset.y_train, y[:30])
    assert data.read_rows(tmp_path / "s.npz").shape == (20, 12)


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    X = np.array([[Trap()]] * 10, dtype=object)
    np.savez(tmp_path / "s.npz", x=X, y=np.zeros(10))
    with pytest.raises(ValueError, match="Python objects, which are not read"):
        data.load(tmp_path / "s.npz")
    np.save(tmp_path / "s.npy", X)
    with pytest.raises(ValueError, match="Python objects, which are not read"):
        data.read_rows(tmp_path / "s.npy")


@pytest.mark.parametrize("how", ["empty", "cut", "text", "flip"])
@pytest.mark.parametrize("end", [".npz", ".npy"])
def test_damaged_numpy_files(how, end, tmp_path, images):
    path = tmp_path / f"s{end}"
    if end == ".npz":
        np.savez_compressed(path, x=images[0], y=images[1])
    else:
        np.save(path, images[0])
    content = path.read_bytes()
    flipped = content[:60] + bytes([content[60] ^ 0xFF]) + content[61:]
    changed = {"empty": b"", "cut": content[:300], "text": b"hello\n" * 50, "flip": flipped}
    path.write_bytes(changed[how])
    with pytest.raises(ValueError, match="corrupt") as caught:
        data.read_rows(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "no array 'x', only a"),
        ({"x": np.zeros((9, 2))}, "no array 'y'"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(8)}, "9 samples, but 8 labels"),
        ({"x": np.zeros(9), "y": np.zeros(9)}, r"must be rows, got shape \(9,\)"),
        ({"x": np.zeros((9, 2)), "y": np.zeros((9, 3))}, "must be one column"),
        ({"x": np.zeros((9, 2)), "y": np.full(9, 0.5)}, "must be classes, got .*0.5"),
        ({"x": np.full((9, 2), "a"), "y": np.zeros(9)}, "must be numbers"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "3 samples are too few"),
        ({"x_train": np.zeros((9, 2)), "y_train": np.zeros(9)}, "no array 'x_test'"),
    ],
)
def test_npz_files_that_make_no_sense(arrays, message, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "s.npz")


# csv.


@pytest.mark.parametrize(
    ("text", "X", "y"),
    [
        ("1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1]),
        ("a,b,c\n1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1]),
        ("label,a,b\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], [0, 1]),
        ('"a","Class","b"\n1,"x y",2\n3,"z",4\n', [[1, 2], [3, 4]], ["x y", "z"]),
        ("1.5,-2e3,setosa\n0,0,virginica\n", [[1.5, -2000], [0, 0]], ["setosa", "virginica"]),
        ("1,2,0.0\n3,4,1.0", [[1, 2], [3, 4]], [0, 1]),
        ("1,2,0\r\n3,4,1\r\n", [[1, 2], [3, 4]], [0, 1]),
    ],
)
def test_csv(text, X, y, tmp_path):
    from bpfree_fast.data.csv import read_csv

    (tmp_path / "s.csv").write_bytes(text.encode())
    found_X, found_y = read_csv(tmp_path / "s.csv")
    np.testing.assert_array_equal(found_X, X)
    assert data.dataset.as_labels("s", found_y).tolist() == y


def test_csv_of_samples_alone(tmp_path):
    (tmp_path / "s.csv").write_text("a,b\n1,2\n3,4\n")
    np.testing.assert_array_equal(data.read_rows(tmp_path / "s.csv"), [[1, 2], [3, 4]])
    (tmp_path / "s.csv").write_text("a,label\n1,x\n3,y\n")
    np.testing.assert_array_equal(data.read_rows(tmp_path / "s.csv"), [[1], [3]])


def test_csv_folder(tmp_path):
    (tmp_path / "train.csv").write_text("1,2,0\n3,4,1\n5,6,0\n")
    (tmp_path / "test.csv").write_text("1,2,1\n")
    dataset = data.load(tmp_path)
    assert dataset.X_train.shape == (3, 2)
    assert dataset.y_test.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,c\n", "no samples|no data"),
        ("1,2,0\n3,1\n", "number of columns|columns"),
        ("1,2,0\n3,oops,1\n", "oops"),
        ("1,2,0\n3,,1\n", "convert string ''"),
        ("1,2,0\n3,nan,1\n", "line 2, column 2 is NaN"),
        ("a,b,c\n1,inf,0\n", "line 2, column 2 is NaN or infinite"),
        ("1\n2\n", "one column"),
        ("\xff\xfe,2\n", "no text file"),
        ("1,2,0.5\n" * 9, "must be classes|convert"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_csv_files(text, message, tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        data.load(path)
    assert "s.csv" in str(caught.value) or "samples" in str(caught.value)
    assert "\n" not in str(caught.value)


# Where they look.


def test_names_below_the_data_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("BPFREE_DATA", str(folder.parent))
    monkeypatch.chdir(folder)
    assert data.load("set").name == "set"
    assert data.load().name == "digits"  # the folder itself holds no data set
    monkeypatch.setenv("BPFREE_DATA", str(folder))
    assert data.load().name == "set"
    assert data.load("digits").name == "digits"


def test_nothing_there(monkeypatch, tmp_path):
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere is not there and not below BPFREE_DATA"):
        data.load("nowhere")
    with pytest.raises(FileNotFoundError, match="holds no data set that can be read: nothing"):
        data.load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileNotFoundError, match=r"can be read: notes.txt"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor"):
        data.load(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        data.read_rows(tmp_path)
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="BPFREE_DATA names"):
        data.load()
