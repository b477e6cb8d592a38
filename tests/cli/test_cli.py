# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it trains, writes and says; every error is one sentence and code 2."""

import itertools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import bpfree_fast as bf
from bpfree_fast import data
from bpfree_fast.cli import main
from bpfree_fast.estimators import CLASSIFIERS
from bpfree_fast.estimators._parameters import DTYPES

SMALL = ["--hidden", "32", "--epochs", "3", "--quiet"]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch, request):
    if "mnist" in request.fixturenames:
        request.getfixturevalue("mnist")
    monkeypatch.delenv("BPFREE_DATA", raising=False)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capfd, *args):
    """Run what must fail, and give the one sentence that it says."""
    assert main(args) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("bpfree-fast: ")
    assert err.count("\n") == 1
    return err


# train.


def test_train_writes_what_it_is_asked_for(tmp_path, capfd, digits):
    files = ["--save", "m.safetensors", "--json", "r.json", "--plot", "c.png"]
    assert main(["train", "--method", "dfa", *SMALL, *files]) == 0
    out, err = capfd.readouterr()
    assert "samples/s" in out
    assert "saved in m.safetensors" in out
    assert err == ""
    result = json.loads((tmp_path / "r.json").read_text())
    clf = bf.load("m.safetensors")
    assert clf.callback is None
    assert result["method"] == "dfa"
    assert result["n_params"] == 64 * 32 + 32 + 32 * 10 + 10
    assert result["test_accuracy"] == clf.score(digits.X_test, digits.y_test)
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2, 3]
    assert [epoch["train_loss"] for epoch in result["epochs"]] == clf.loss_curve_
    assert result["epochs"][-1]["test_accuracy"] == result["test_accuracy"]
    seconds = sum(epoch["seconds"] for epoch in result["epochs"])
    assert result["train_seconds"] == pytest.approx(seconds)
    speed = 3 * len(digits.X_train) / result["train_seconds"]
    assert result["samples_per_second"] == pytest.approx(speed)
    assert 10e6 < result["peak_memory_bytes"] < 10e9
    assert result["machine"]["bfloat16"] in ("dot", "widened")
    assert result["config"]["hidden_layer_sizes"] == [32]
    assert result["config"]["seed"] == 0
    assert result["versions"]["bpfree_fast"] == bf.__version__
    assert not result["interrupted"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_options_of_forward_forward():
    options = """--method forward-forward --hidden 24 16 --epochs 1 --goodness mean --threshold 0.5
        --goodness-loss symba --temperature 2 --symba-scale 3 --peer-normalization 0.1
        --negatives hard --label-position overwrite --layers greedy --predict-with goodness
        --schedule step --initializer he_normal --quiet --save m.safetensors"""
    assert main(["train", *options.split()]) == 0
    clf = bf.load("m.safetensors")
    params = clf.get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "goodness": "mean", "threshold": 0.5,
        "goodness_loss": "symba", "temperature": 2.0, "symba_scale": 3.0,
        "peer_normalization": 0.1, "negatives": "hard", "label_position": "overwrite",
        "schedule": "greedy", "predict_with": "goodness", "learning_rate": "step",
        "initializer": "he_normal", "max_iter": 1,
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    assert clf.n_iter_ == 3


def test_options_of_noprop():
    options = """--method noprop --hidden 24 16 --epochs 1 --variant ct --input-units 32 --n-steps 7
        --label-units 64 --class-embedding prototype --noise-schedule linear --eta 0.5
        --max-snr-weight 3 --block-feedback direct --batch-normalization --ode-rule heun --quiet
        --save m.safetensors"""
    assert main(["train", *options.split()]) == 0
    params = bf.load("m.safetensors").get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "variant": "ct", "input_units": 32, "label_units": 64,
        "class_embedding": "prototype", "noise_schedule": "linear", "eta": 0.5, "n_steps": 7,
        "max_snr_weight": 3.0, "block_feedback": "direct", "ode_rule": "heun", "max_iter": 1,
        "batch_normalization": True,
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    options = """--method noprop --n-blocks 3 --inference-noise --class-embedding learned
        --embedding-dim 7 --quiet --save dt.safetensors"""
    assert main(["train", *SMALL, *options.split()]) == 0
    loaded = bf.load("dt.safetensors")
    assert loaded.inference_noise
    assert loaded.class_embedding_.shape[1] == loaded.embedding_dim == 7


def test_options_of_local_losses():
    options = """--method local --hidden 24 16 --epochs 1 --local-loss predsim --sim-projection
        --similarity-weight 0.5 --batch-normalization --dropout 0.2 --layers greedy
        --no-cache-inputs --predict-with sum --quiet --save m.safetensors"""
    assert main(["train", *options.split()]) == 0
    clf = bf.load("m.safetensors")
    params = clf.get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "local_loss": "predsim", "similarity_weight": 0.5,
        "sim_projection": True, "batch_normalization": True, "dropout": 0.2,
        "schedule": "greedy", "cache_inputs": False, "predict_with": "sum",
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    assert clf.n_iter_ == 2


def test_options_of_evolution_strategies():
    options = """--method es --hidden 24 16 --activation step --epochs 2 --population-size 6
        --std 0.2 --std-decay 0.9 --perturbation low_rank --rank 2 --no-antithetic
        --fitness-shaping z_score --fitness accuracy --quiet --save m.safetensors"""
    assert main(["train", *options.split()]) == 0
    clf = bf.load("m.safetensors")
    params = clf.get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "activation": "step", "population_size": 6, "std": 0.2,
        "std_decay": 0.9, "perturbation": "low_rank", "rank": 2, "antithetic": False,
        "fitness_shaping": "z_score", "fitness": "accuracy", "loss": None,
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    assert main(["train", "--resume", "m.safetensors", "--epochs", "3", "--quiet"]) == 0


def test_options_of_ensemble_kalman():
    options = """--method enkf --hidden 24 16 --activation sign --epochs 2 --n-ens 20 --update etki
        --dt 0.5 --obs-noise-var 0.2 --redraw-spread 0 --init-spread 0.7 --loss squared_error
        --curvature gauss_newton --quiet --save m.safetensors"""
    assert main(["train", *options.split()]) == 0
    clf = bf.load("m.safetensors")
    params = clf.get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "activation": "sign", "n_ens": 20, "update": "etki",
        "dt": 0.5, "obs_noise_var": 0.2, "redraw_spread": 0.0, "init_spread": 0.7,
        "loss": "squared_error", "curvature": "gauss_newton",
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    assert main(["train", "--resume", "m.safetensors", "--epochs", "3", "--quiet"]) == 0


def test_every_option_reaches_the_estimator():
    options = """--method dfa --hidden 24 16 --activation tanh --epochs 2 --batch-size 64
        --solver sgd --learning-rate 0.01 --schedule constant --alpha 0.1 --weight-decay 0.2
        --initializer he_normal --feedback layerwise --error-signal sign --feedback-scale 2
        --dtype bfloat16 --threads 1 --seed 5 --early-stopping --quiet --save m.safetensors"""
    with pytest.warns(UserWarning, match="max_iter=2"):
        assert main(["train", *options.split()]) == 0
    params = bf.load("m.safetensors").get_params()
    expected = {
        "hidden_layer_sizes": (24, 16), "activation": "tanh", "max_iter": 2, "batch_size": 64,
        "solver": "sgd", "learning_rate_init": 0.01, "learning_rate": "constant", "alpha": 0.1,
        "weight_decay": 0.2, "initializer": "he_normal", "feedback": "layerwise",
        "error_signal": "sign", "feedback_scale": 2.0, "dtype": "bfloat16", "n_threads": 1,
        "random_state": 5, "early_stopping": True, "verbose": 0,
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected


def test_a_progress_bar_unless_quiet(capfd):
    assert main(["train", "--hidden", "8", "--epochs", "2"]) == 0
    assert "epoch 2/2" in capfd.readouterr().err


def test_backprop_and_the_seed():
    for name in ("a", "b"):
        assert main(["train", "--method", "backprop", *SMALL, "--save", name]) == 0
    a, b = bf.load("a"), bf.load("b")
    assert isinstance(a, bf.BackpropClassifier)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_resume(digits, capfd):
    assert main(["train", *SMALL, "--save", "m.safetensors"]) == 0
    resumed = ["train", "--resume", "m.safetensors", "--quiet"]
    assert main([*resumed, "--epochs", "5", "--json", "r.json", "--save", "m.safetensors"]) == 0
    with open("r.json") as file:
        result = json.load(file)
    assert [epoch["epoch"] for epoch in result["epochs"]] == [4, 5]
    assert bf.load("m.safetensors").hidden_layer_sizes == (32,)
    capfd.readouterr()
    assert "has 5 epochs already" in fails(capfd, *resumed)
    assert "was trained by dfa" in fails(capfd, *resumed, "--method", "backprop")
    assert "hidden_layer_sizes" in fails(capfd, *resumed, "--epochs", "9", "--hidden", "5")


def test_resume_in_a_stage(digits, capfd):
    """Greedy training counts the epochs of all stages, and is done when the last one is."""
    args = ["train", "--method", "forward-forward", "--layers", "greedy", *SMALL]
    assert main([*args, "--epochs", "2", "--save", "whole"]) == 0
    clf = bf.load("whole")
    half = clf.set_params(callback=lambda info: info.epoch == 3, warm_start=False)
    half.fit(digits.X_train, digits.y_train).save("half")
    assert main(["train", "--resume", "half", "--quiet", "--save", "m"]) == 0
    for a, b in zip(bf.load("m").head_coefs_, bf.load("whole").head_coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    capfd.readouterr()
    assert "m has 4 epochs already" in fails(capfd, "train", "--resume", "m")


def test_data_from_files(digits, capfd):
    np.savez("s.npz", x=digits.X_train, y=digits.y_train)
    assert main(["train", "--data", "s.npz", *SMALL, "--json", "r.json"]) == 0
    with open("r.json") as file:
        assert json.load(file)["dataset"]["n_train"] == 1151


def test_mnist_by_name(mnist, monkeypatch, tmp_path):
    folder = tmp_path / "some" / "mnist"
    folder.mkdir(parents=True)
    np.savez(folder / "part.npz", x=mnist.X_train[:5000], y=mnist.y_train[:5000])
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path / "some"))
    options = ["--learning-rate", "0.005", "--json", "r.json"]
    assert main(["train", "--data", "mnist", *SMALL, *options]) == 0
    with open("r.json") as file:
        assert json.load(file)["test_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden"], "'--hidden' needs at least one value"),
        (["--hidden", "--epochs", "3"], "'--hidden' needs at least one value"),
        (["--hidden", "many"], "'many' is not a valid integer"),
        (["--hidden", "0"], "hidden_layer_sizes must be at least 1, got 0"),
        (["--epochs", "0"], "max_iter must be at least 1, got 0"),
        (["--learning-rate", "-1"], "learning_rate_init must be above 0 and finite, got -1.0"),
        (["--threads", "0"], "n_threads must be at least 1, got 0"),
        (["--seed", "-1"], "random_state must be"),
        (["--method", "magic"], "'magic' is not one of"),
        (["--method", "backprop", "--feedback", "direct"], "feedback='direct' means nothing"),
        (["--method", "forward-forward", "--feedback", "direct"], "means nothing to the method"),
        *(
            (
                ["--method", "dfa", f"--{option}", value],
                f"'{value}' means nothing to the method dfa",
            )
            for option, value in (
                ("goodness", "mean"),
                ("negatives", "hard"),
                ("label-position", "append"),
                ("layers", "greedy"),
                ("predict-with", "goodness"),
                ("local-loss", "sim"),
            )
        ),
        (["--batch-normalization"], "batch_normalization=True means nothing to the method dfa"),
        (["--no-cache-inputs"], "cache_inputs=False means nothing to the method dfa"),
        (["--method", "local", "--goodness", "sum"], "means nothing to the method local"),
        (["--method", "local", "--predict-with", "goodness"], "predict_with must be one of 'last'"),
        (["--method", "local", "--dropout", "1"], "dropout must be at least 0 and below 1"),
        (
            ["--method", "enkf", "--learning-rate", "0.1"],
            r"learning_rate_init=0.1 means nothing to the method enkf: its first step is dt (--dt)",
        ),
        (["--threshold", "2"], "threshold=2.0 means nothing to the method dfa"),
        (["--method", "forward-forward", "--threshold", "-2"], "threshold must be at least 0"),
        (["--method", "forward-forward", "--activation", "tanh"], "activation must be one of"),
        (["--method", "dfa", "--activation", "step"], "activation must be one of"),
        (["--method", "dfa", "--std", "0.1"], "std=0.1 means nothing to the method dfa"),
        (["--method", "es", "--std", "0"], "std must be above 0"),
        (["--method", "es", "--population-size", "5"], "population_size must be even"),
        (["--nonsense"], "No such option"),
        (["surplus"], "unexpected extra argument"),
        (["--data", "nowhere"], "nowhere is not there"),
        (["--resume", "nowhere"], "nowhere is not a file"),
        (["--save", "nowhere/m.safetensors"], "nowhere is not a folder"),
        (["--json", "."], "is a folder"),
        (["--plot", "c.docx"], "must end in one of"),
    ],
)
def test_errors_of_train(args, message, capfd):
    assert message in fails(capfd, "train", *args)


def test_damaged_files(capfd):
    for name in ("m.safetensors", "s.npz", "s.csv"):
        with open(name, "wb") as file:
            file.write(b"\x00\xff")
    assert "truncated" in fails(capfd, "train", "--resume", "m.safetensors")
    assert "s.npz" in fails(capfd, "train", "--data", "s.npz")
    assert "no text file" in fails(capfd, "train", "--data", "s.csv")
    assert "truncated" in fails(capfd, "predict", "m.safetensors")


def test_ctrl_c_leaves_a_saved_model(tmp_path, digits):
    command = [sys.executable, "-m", "bpfree_fast", "train", "--epochs", "100000", "--hidden", "64"]
    process = subprocess.Popen(
        [*command, "--save", "m.safetensors", "--json", "r.json"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = process.stderr.read(40)  # the bar: training has begun
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, seen + err
    assert "Interrupted after" in err
    assert "usable model is saved in m.safetensors" in err
    assert "Traceback" not in err
    clf = bf.load("m.safetensors")
    assert clf.score(digits.X_test, digits.y_test) > 0.5
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["interrupted"]
    assert len(result["epochs"]) == clf.n_iter_


# predict.


@pytest.fixture
def model(digits):
    clf = bf.DFAClassifier((32,), random_state=0).fit(digits.X_train, digits.y_train)
    clf.save("m.safetensors")
    return clf


def test_predict_the_test_samples(model, capfd):
    assert main(["predict", "m.safetensors", "--output", "p.npy"]) == 0
    assert "test accuracy" in capfd.readouterr().err
    digits = data.load()
    np.testing.assert_array_equal(np.load("p.npy"), model.predict(digits.X_test))


def test_predict_a_file(model, capfd, digits):
    np.savetxt("x.csv", digits.X_test[:5], delimiter=",")
    np.save("x.npy", digits.X_test[:5])
    expected = "".join(f"{label}\n" for label in model.predict(digits.X_test[:5]))
    for name in ("x.csv", "x.npy"):
        assert main(["predict", "m.safetensors", "--input", name]) == 0
        assert capfd.readouterr().out == expected
        assert main(["predict", "m.safetensors", "--input", name, "--output", "p.csv"]) == 0
        with open("p.csv") as file:
            assert file.read() == expected


def test_predict_values(capfd):
    X = np.random.default_rng(0).normal(size=(20, 3))
    reg = bf.DFARegressor((4,), random_state=0).fit(X, X[:, :2])
    reg.save("m.safetensors")
    np.save("x.npy", X)
    assert main(["predict", "m.safetensors", "--input", "x.npy"]) == 0
    rows = [[float(v) for v in line.split(",")] for line in capfd.readouterr().out.splitlines()]
    np.testing.assert_allclose(rows, reg.predict(X))


def test_errors_of_predict(model, capfd):
    np.save("x.npy", np.zeros((2, 3)))
    np.save("bytes.npy", np.zeros((2, 64), np.uint8))
    assert "not a file" in fails(capfd, "predict", "nowhere")
    assert "Missing argument 'MODEL'" in fails(capfd, "predict")
    assert "3 features" in fails(capfd, "predict", "m.safetensors", "--input", "x.npy")
    assert "input_scale" in fails(capfd, "predict", "m.safetensors", "--input", "bytes.npy")
    both = ["predict", "m.safetensors", "--input", "x.npy", "--data", "digits"]
    assert "exclude each other" in fails(capfd, *both)


def test_a_reader_that_stops_early(model, tmp_path):
    np.save("x.npy", np.zeros((100_000, 64)))
    script = f"{sys.executable} -m bpfree_fast predict m.safetensors --input x.npy | head -n 1"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


# compare, bench, info.


def test_compare(tmp_path, capfd):
    methods = ["dfa", "forward-forward", "backprop"]
    args = ["--methods", *methods, "--feedback", "target", "--goodness", "mean"]
    assert main(["compare", *SMALL, *args, "--json", "r.json"]) == 0
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["method", *methods]
    assert "seconds to" in out
    assert "peak memory" in out
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "r.json").read_text())
    assert [result["method"] for result in results] == methods
    # An option of one method goes to that one alone.
    own = [{k: r["config"].get(k) for k in ("feedback", "goodness")} for r in results]
    assert own[0] == {"feedback": "target", "goodness": None}
    assert own[1] == {"feedback": None, "goodness": "mean"}
    for result in results:
        assert result["config"]["hidden_layer_sizes"] == [32]
        assert result["peak_memory_bytes"] > 10e6


def test_compare_gives_a_choice_to_the_methods_that_allow_it(capfd):
    methods = ["local", "forward-forward", "dfa"]
    args = ["--methods", *methods, "--predict-with", "goodness", "--activation", "tanh"]
    assert main(["compare", *SMALL, *args, "--json", "r.json"]) == 0
    with open("r.json") as file:
        configs = [result["config"] for result in json.load(file)]
    assert [config["activation"] for config in configs] == ["tanh", "relu", "tanh"]
    assert [config.get("predict_with") for config in configs] == ["last", "goodness", None]


def test_compare_trains_the_same_network_by_all_methods(capfd):
    args = ["--methods", "es", "backprop", "--epochs", "1", "--population-size", "4", "--quiet"]
    assert main(["compare", *args, "--json", "r.json"]) == 0
    with open("r.json") as file:
        configs = [result["config"] for result in json.load(file)]
    assert [config["hidden_layer_sizes"] for config in configs] == [[256, 256]] * 2


def test_errors_of_compare(capfd):
    assert "'magic'" in fails(capfd, "compare", "--methods", "magic")
    neither = ["--methods", "dfa", "backprop", "--goodness", "sum"]
    sentence = "goodness='sum' means nothing to any of the methods dfa, backprop."
    assert sentence in fails(capfd, "compare", *neither)
    for method, option, name, value in (
        ("forward-forward", "--activation", "activation", "tanh"),
        ("forward-forward", "--predict-with", "predict_with", "sum"),
        ("local", "--predict-with", "predict_with", "goodness"),
    ):
        sentence = f"{name}={value!r} means nothing to the method {method}."
        assert sentence in fails(capfd, "compare", "--methods", method, option, value)
    assert "max_iter must be" in fails(capfd, "compare", "--epochs", "0")


def test_bench(capfd):
    small = ["--hidden", "16", "--features", "20", "--seconds", "0.01", "--json", "r.json"]
    assert main(["bench", *small]) == 0
    rows = capfd.readouterr().out.splitlines()[1:]
    expected = itertools.product(CLASSIFIERS, DTYPES)
    assert [tuple(row.split()[:2]) for row in rows] == list(expected)
    with open("r.json") as file:
        assert all(row["step_seconds"] > 0 for row in json.load(file)["rows"])


def test_info(capfd):
    assert main(["info"]) == 0
    assert "isa_available" in capfd.readouterr().out


@pytest.mark.parametrize("command", ["train", "predict", "compare", "bench", "info"])
def test_help(command, capfd):
    assert main([command, "--help"]) == 0
    assert "Usage: bpfree-fast" in capfd.readouterr().out


def test_no_command_shows_the_help(capfd):
    assert main([]) == 0
    assert "Commands:" in capfd.readouterr().out
    assert "No such command" in fails(capfd, "fly")
    assert main(["--version"]) == 0
    assert bf.__version__ in capfd.readouterr().out


def test_the_installed_script_and_the_module_are_the_same(capfd):
    done = subprocess.run(
        [sys.executable, "-m", "bpfree_fast", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert bf.__version__ in done.stdout
