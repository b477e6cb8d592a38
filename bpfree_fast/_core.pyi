# SPDX-License-Identifier: BSD-3-Clause
# The compiled module. Arrays are C-contiguous and of exactly the dtype named.
# n_threads=0 means default_threads(). The friendly layer above converts.
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]
_I32: TypeAlias = NDArray[np.int32]
_U32: TypeAlias = NDArray[np.uint32]
_Real: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_Matrix: TypeAlias = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.uint16]  # uint16: bf16
_Rows: TypeAlias = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]
_Targets: TypeAlias = NDArray[np.int32] | NDArray[np.float32]

__version__: str

class _Config(TypedDict):
    isa: str
    isa_available: list[str]
    bfloat16: str
    openmp: str
    n_threads: int
    compiler: str
    version: str

def config() -> _Config: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def default_threads() -> int: ...
def peak_gflops(dtype: str, n_threads: int = 0, seconds: float = 0.5) -> float: ...
def random_bits(
    out: NDArray[np.uint32], seed: int, stream: int = 0, offset: int = 0, n_threads: int = 0
) -> None: ...
def uniform(
    out: _Real, seed: int, stream: int = 0, offset: int = 0, n_threads: int = 0
) -> None: ...
def normal(out: _Real, seed: int, stream: int = 0, offset: int = 0, n_threads: int = 0) -> None: ...
def sign(out: _Real, seed: int, stream: int = 0, offset: int = 0, n_threads: int = 0) -> None: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def permutation(n: int, seed: int, epoch: int) -> NDArray[np.uint32]: ...
def product(
    a: _Matrix, b: _Matrix, out: _Real, transpose_a: bool, transpose_b: bool, n_threads: int = 0
) -> None: ...
def dense_forward(
    x: _F32,
    weights: _F32,
    bias: _F32 | None,
    activation: str,
    out: _F32,
    preactivation: _F32 | None = None,
    n_threads: int = 0,
) -> None: ...
def dense_update(
    weights: _F32,
    bias: _F32 | None,
    x: _F32,
    delta: _F32,
    state: Sequence[_F32],
    solver: str,
    learning_rate: float,
    *,
    step: int = 1,
    momentum: float = 0.9,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.0,
    weight_decay: float = 0.0,
    n_samples: float = 0.0,
    n_threads: int = 0,
) -> None: ...
def goodness(
    h: _F32, out: _F32, kind: str = "sum", row_factor: _F32 | None = None, n_threads: int = 0
) -> None: ...
def forward_forward_update(
    weights: _F32,
    bias: _F32 | None,
    x: _F32,
    n_positive: int,
    state: Sequence[_F32],
    solver: str,
    learning_rate: float,
    *,
    goodness: str = "sum",
    goodness_loss: str = "logistic",
    threshold: float | None = None,
    temperature: float = 1.0,
    symba_scale: float = 4.0,
    h: _F32 | None = None,
    step: int = 1,
    momentum: float = 0.9,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.0,
    weight_decay: float = 0.0,
    n_samples: float = 0.0,
    n_threads: int = 0,
) -> float: ...
def perturb(
    theta: _F32,
    out: _F32,
    members: Sequence[int],
    std: float,
    seed: int,
    generation: int = 0,
    kind: str = "gaussian",
    shapes: Sequence[Sequence[int]] | None = None,
    antithetic: bool = False,
    rank: int = 1,
    n_threads: int = 0,
) -> None: ...
def perturbation_gradient(
    utilities: NDArray[np.float64],
    out: _F32,
    seed: int,
    generation: int = 0,
    kind: str = "gaussian",
    shapes: Sequence[Sequence[int]] | None = None,
    antithetic: bool = False,
    rank: int = 1,
    first_member: int = 0,
    n_threads: int = 0,
) -> None: ...
def low_rank_forward(
    x: _F32,
    weights: _F32,
    bias: _F32 | None,
    out: _F32,
    n_members: int,
    std: float,
    seed: int,
    generation: int = 0,
    antithetic: bool = False,
    rank: int = 1,
    tensor: int = 0,
    first_member: int = 0,
    activation: str = "identity",
    n_threads: int = 0,
) -> None: ...
def fitness_shaping(
    fitness: NDArray[np.float64],
    out: NDArray[np.float64],
    maximize: bool,
    kind: str = "centered_rank",
    top_k: int = 0,
    group_size: int = 0,
) -> int: ...
def ensemble_covariance(
    a: _Real,
    b: _Real | None,
    out: _Real,
    localization: str = "none",
    taper: _Real | None = None,
    n_threads: int = 0,
) -> None: ...
def ensemble_moments(
    g: _Real,
    y: _F64 | None,
    obs_noise_cov: _F64,
    score: _Real | None = None,
    softmax_classes: int = 0,
    perturbed: bool = False,
    seed: int = 0,
    iteration: int = 0,
    n_threads: int = 0,
) -> tuple[_F64, _F64, _F64 | None, _F64 | None]: ...
def ensemble_weights(
    gram: _F64, cross: _F64, noise: _F64 | None, method: str, dt: float, n_threads: int = 0
) -> tuple[_F64, float]: ...
def ensemble_transform(
    theta: _Real, out: _Real, transform: _F64, bfloat16: bool = False, n_threads: int = 0
) -> None: ...
def ensemble_update(
    theta: _Real,
    out: _Real,
    g: _Real,
    y: _F64,
    obs_noise_cov: _F64,
    method: str = "eki",
    dt: float = 1.0,
    seed: int = 0,
    iteration: int = 0,
    localization: str = "none",
    taper: _Real | None = None,
    obs_taper: _F64 | None = None,
    form: str = "auto",
    n_threads: int = 0,
) -> tuple[str, float, _F64]: ...
def local_loss_update(
    weights: _F32,
    bias: _F32 | None,
    head_weights: _F32 | None,
    head_bias: _F32 | None,
    x: _F32,
    h: _F32,
    y: _Targets,
    state: Sequence[_F32],
    head_state: Sequence[_F32],
    solver: str,
    learning_rate: float,
    *,
    loss: str = "softmax_cross_entropy",
    local_loss: str = "pred",
    similarity_weight: float = 0.99,
    activation: str = "relu",
    preactivation: _F32 | None = None,
    sample_weight: _F32 | None = None,
    n_outputs: int | None = None,
    step: int = 1,
    momentum: float = 0.9,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.0,
    weight_decay: float = 0.0,
    n_samples: float = 0.0,
    n_threads: int = 0,
) -> float: ...
def feedback_matrix(
    out: _F32,
    seed: int,
    layer: int = 0,
    distribution: str = "uniform",
    scale: float = 1.0,
    n_threads: int = 0,
) -> None: ...
def project_feedback(
    e: _F32,
    out: _F32,
    feedback: _F32 | None = None,
    seed: int = 0,
    layer: int = 0,
    distribution: str = "uniform",
    scale: float = 1.0,
    h: _F32 | None = None,
    activation: str = "identity",
    n_threads: int = 0,
) -> None: ...
def search_members(
    out: _Real,
    mean: _Real,
    scale: _Real | None,
    std: float,
    members: NDArray[np.uint32],
    seed: int,
    generation: int,
    kind: str = "gaussian",
    antithetic: bool = False,
    n_threads: int = 0,
) -> None: ...
def search_sums(
    first: _Real,
    u: _Real,
    second: _Real | None,
    v: _Real | None,
    seed: int,
    generation: int,
    kind: str = "gaussian",
    antithetic: bool = False,
    n_threads: int = 0,
) -> None: ...
def snes_step(
    mean: NDArray[np.float64],
    relative_std: NDArray[np.float64],
    utilities: NDArray[np.float64],
    std: float,
    learning_rate: float,
    std_learning_rate: float,
    seed: int,
    generation: int,
    antithetic: bool = False,
    n_threads: int = 0,
) -> float: ...
def sep_cma_step(
    mean: NDArray[np.float64],
    relative_std: NDArray[np.float64],
    path_std: NDArray[np.float64],
    path: NDArray[np.float64],
    std: float,
    weights: NDArray[np.float64],
    # mu_eff, c_path_std, damping, c_path, c_one, c_mu, expected_norm
    constants: Sequence[float],
    seed: int,
    generation: int,
    n_threads: int = 0,
) -> tuple[float, float]: ...

# NoProp. Columns of the coefficients: a, b, c of each block.
def noise_schedule(kind: str, n_blocks: int) -> list[float]: ...
def posterior_coefficients(alpha_bar: list[float]) -> _F64: ...
def denoising_head(
    out: _F32,
    logits: _F32,
    y: _I32,
    embedding: _F32 | None,
    sample_weight: _F32 | None,
    weight: float,
    n_threads: int = 0,
) -> None: ...
def noprop_update(
    weights: _F32,
    bias: _F32 | None,
    h: _F32,
    y: _I32,
    state: Sequence[_F32],
    solver: str,
    learning_rate: float,
    *,
    embedding: _F32 | None = None,
    weight: float = 1.0,
    sample_weight: _F32 | None = None,
    error: _F32 | None = None,
    step: int = 1,
    momentum: float = 0.9,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.0,
    weight_decay: float = 0.0,
    n_samples: float = 0.0,
    n_threads: int = 0,
) -> float: ...
def snr_weights(alpha_bar: list[float], eta: float) -> list[float]: ...

class Network:
    # Indices of layers count the layers, then the heads of hidden layers from first_head on.
    def __init__(
        self,
        layer_sizes: list[int],
        activation: str,
        loss: str,
        dtype: str,
        first_head: int | None = None,
    ) -> None: ...
    # Layers of one block after the other: input branch, label branch, join, classes.
    @staticmethod
    def of_blocks(
        *,
        n_blocks: int,
        n_features: int,
        n_input_units: int,
        n_label: int,
        n_label_units: int,
        join: list[int],
        n_classes: int,
        activation: str,
        dtype: str,
    ) -> Network: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def layer_sizes(self) -> list[int]: ...
    @property
    def n_params(self) -> int: ...
    def initialize(self, seed: int, scheme: str = "uniform") -> None: ...
    def weights(self, layer: int) -> _F32: ...
    def set_weights(self, layer: int, value: _F32) -> None: ...
    def biases(self, layer: int) -> _F32: ...
    def set_biases(self, layer: int, value: _F32) -> None: ...
    def predict(
        self,
        x: _Rows,
        out: _F32,
        input_scale: float = 1.0,
        n_threads: int = 0,
        logits: bool = False,
    ) -> None: ...

class Trainer:
    def __init__(
        self,
        network: Network,
        *,
        method: str,
        feedback: str = "direct",
        error_signal: str = "exact",
        feedback_distribution: str = "uniform",
        feedback_scale: float = 1.0,
        solver: str = "adam",
        momentum: float = 0.9,
        nesterov: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        alpha: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        seed: int = 0,
        n_threads: int = 0,
        goodness: str = "sum",
        goodness_loss: str = "logistic",
        label_position: str = "append",
        negatives: str = "random",
        threshold: float | None = None,
        temperature: float = 1.0,
        symba_scale: float = 4.0,
        peer_normalization: float = 0.0,
        local_loss: str = "pred",
        similarity_weight: float = 0.99,
        sim_projection: bool = False,
        batch_normalization: bool = False,
        dropout: float = 0.0,
        population_size: int = 256,
        std: float = 0.02,
        std_decay: float = 1.0,
        perturbation: str = "gaussian",
        rank: int = 1,
        antithetic: bool = True,
        fitness_shaping: str = "centered_rank",
        top_k: int = 0,
        group_size: int = 0,
        fitness: str = "loss",
        variant: str = "dt",
        block_feedback: str = "exact",
        alpha_bar: list[float] = [],
        noise_schedule: str = "cosine",
        eta: float = 0.1,
        max_snr_weight: float = 0.0,
        embedding_dim: int = 0,
        learn_embedding: bool = False,
        n_ens: int = 256,
        update: str = "eki",
        squared_error: bool = False,
        gauss_newton: bool = False,
        obs_noise_var: float = 1.0,
        spread: float = 0.5,
        redraw: bool = True,
    ) -> None: ...
    step: int
    def run_epoch(
        self,
        x: _Rows,
        y: _Targets,
        sample_weight: _F32 | None = None,
        *,
        epoch: int,
        shuffle: bool = True,
        input_scale: float = 1.0,
        learning_rate: float,
        schedule: str = "constant",
        total_steps: int = 0,
        step_size: int = 10,
        gamma: float = 0.1,
        power_t: float = 0.5,
        on_event: Callable[[int, int, float], bool] | None = None,
        x_negative: _Rows | None = None,
    ) -> float: ...
    # Ensemble Kalman alone. Reports: a row for each iteration of the epoch so far: mean, min and
    # max of the members' misfit, spread of their outputs, dt, effective rank. Members as the next
    # iteration begins with them, [n_ens, n_params]: W_0, b_0, W_1, b_1, ...
    def kalman_reports(self) -> _F64: ...
    def members(self) -> _F32: ...
    # Evolution strategies alone. Reports: a row for each generation of the epoch so far: mean, min,
    # max and std of the fitness where it is finite, norm of the gradient, members whose fitness is
    # not finite, cosine to backprop's gradient (NaN where it was not asked for). A generation whose
    # fitness Python works out: next_batch, evaluate, update.
    def evolution_reports(self) -> _F64: ...
    def set_report_cosine(self, on: bool) -> None: ...
    def begin_epoch(
        self,
        x: _Rows,
        y: _Targets,
        sample_weight: _F32 | None = None,
        *,
        epoch: int,
        shuffle: bool = True,
        input_scale: float = 1.0,
        learning_rate: float,
        schedule: str = "constant",
        total_steps: int = 0,
        step_size: int = 10,
        gamma: float = 0.1,
        power_t: float = 0.5,
    ) -> None: ...
    def next_batch(self) -> _U32 | None: ...
    def evaluate(self, first_member: int, out: _F32, *, logits: bool = False) -> None: ...
    def update(self, fitness: _F64) -> None: ...
    # NoProp alone. predict_blocks: class weights; staged: of each block or step, below each other.
    # state (rows, dim + n_classes): where the steps before `first` left off, and then these.
    @property
    def block_losses(self) -> list[float]: ...
    def set_blocks(self, first: int, n: int) -> None: ...
    @property
    def is_one_hot(self) -> bool: ...
    def embedding(self) -> _F32: ...
    def set_embedding(self, value: _F32) -> None: ...
    @property
    def has_head(self) -> bool: ...
    def head(self) -> tuple[_F32, _F32]: ...
    def set_head(self, weights: _F32, biases: _F32) -> None: ...
    def schedule_parameters(self) -> _F32: ...
    def set_schedule_parameters(self, value: _F32) -> None: ...
    def alpha_bar_at(self, t: float) -> float: ...
    def predict_blocks(
        self,
        x: _Rows,
        out: _F32,
        *,
        staged: bool = False,
        n_blocks: int = 0,
        n_steps: int = 100,
        heun: bool = False,
        noise: bool = False,
        first: int = 0,
        n_run: int = 0,
        state: _F32 | None = None,
        input_scale: float = 1.0,
        n_threads: int = 0,
    ) -> None: ...
    # Forward-Forward alone.
    def set_phase(self, phase: str) -> None: ...
    # Forward-Forward and local losses.
    def set_stage(self, stage: int | None) -> None: ...
    def predict_by(
        self,
        x: _Rows,
        out: _F32,
        *,
        goodness: bool = False,
        sum_of_heads: bool = False,
        input_scale: float = 1.0,
        n_threads: int = 0,
        logits: bool = False,
    ) -> None: ...
    # Local losses alone. norm: gain, shift, running mean and variance.
    def set_cache(self, on: bool) -> None: ...
    def drop_cache(self) -> None: ...
    @property
    def n_projections(self) -> int: ...
    def projection(self, layer: int) -> _F32: ...
    def set_projection(self, layer: int, value: _F32) -> None: ...
    @property
    def n_norms(self) -> int: ...
    def norm(self, layer: int) -> tuple[_F32, _F32, _F32, _F32]: ...
    def set_norm(self, layer: int, gain: _F32, shift: _F32, mean: _F32, variance: _F32) -> None: ...
    @property
    def stopped(self) -> bool: ...
    def optimizer_state(self) -> list[_F32]: ...
    def set_optimizer_state(self, state: list[_F32]) -> None: ...
    def feedback(self, layer: int) -> _F32: ...
    def set_feedback(self, layer: int, value: _F32) -> None: ...
    @property
    def n_feedback(self) -> int: ...
    def alignment(
        self,
        x: _Rows,
        y: _Targets,
        sample_weight: _F32 | None = None,
        *,
        input_scale: float = 1.0,
    ) -> tuple[list[float], list[float]]: ...
