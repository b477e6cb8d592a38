# SPDX-License-Identifier: BSD-3-Clause
"""Importing costs nothing, and what is not installed is named in one sentence."""

import re
import subprocess
import sys

import pytest

import bpfree_fast as bf

# A finder that hides a package, as if it had never been installed.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run(program, *, hidden=(), tmp_path):
    code = HIDE.format(hidden=set(hidden)) + program
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)


def test_import_does_no_work(tmp_path):
    done = run(
        "import bpfree_fast, sys\n"
        "heavy = {'numpy', 'sklearn', 'tqdm', 'matplotlib', 'click', 'bpfree_fast._core'}\n"
        "print(heavy & set(sys.modules))",
        tmp_path=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_the_core_needs_numpy_only(tmp_path):
    done = run(
        "import bpfree_fast as bf\nbf.show_config()\nprint(bf.__version__, bf.get_include())",
        hidden=("sklearn", "scipy", "safetensors", "tqdm", "matplotlib", "click"),
        tmp_path=tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["sklearn", "safetensors", "tqdm"])
def test_a_missing_extra_is_named(missing, tmp_path):
    program = """
import bpfree_fast as bf
for name in ("DFAClassifier", "load"):
    try:
        getattr(bf, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    done = run(program, hidden=(missing,), tmp_path=tmp_path)
    sentence = f"{missing} is not installed: run pip install 'bpfree-fast[sklearn]'.\n"
    assert (done.stdout, done.stderr) == (2 * sentence, "")


@pytest.mark.parametrize("missing", ["sklearn", "click"])
def test_the_script_without_its_extra_says_one_sentence(missing, tmp_path):
    done = run(
        "import sys\nfrom bpfree_fast.cli import main\nsys.exit(main(['info']))",
        hidden=(missing,),
        tmp_path=tmp_path,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"bpfree-fast: The command line needs {missing}: run pip install 'bpfree-fast[cli]'.\n"
    )


def test_digits_without_scikit_learn(tmp_path):
    done = run("from bpfree_fast import data\ndata.load()", hidden=("sklearn",), tmp_path=tmp_path)
    assert done.stderr.strip().endswith("run pip install 'bpfree-fast[sklearn]'.")


def test_names():
    for name in bf.__all__:
        assert getattr(bf, name) is not None
        assert name in dir(bf)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bf.nonsense  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", bf.__version__)


def test_show_config(capsys):
    assert bf.show_config() is None
    printed = capsys.readouterr().out
    config = bf.show_config(mode="dicts")
    for name in ("isa", "bfloat16", "openmp", "n_threads", "numpy"):
        assert name in printed
    assert config["isa"] in config["isa_available"]
    assert config["versions"]["bpfree_fast"] == bf.__version__
    with pytest.raises(ValueError, match="'json'"):
        bf.show_config(mode="json")


def test_folders_for_other_builds():
    assert bf.get_include().endswith("include")
    assert bf.get_cmake_dir().endswith("cmake/bpfree")
