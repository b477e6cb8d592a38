# SPDX-License-Identifier: BSD-3-Clause
"""All tolerances of the numerical tests, each with its reason.

u is the unit roundoff: half the distance from 1 to the next number.
"""

U = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}


def product_bound(k, dtype, magnitude):
    """|computed - exact| of a product of depth k, elementwise; magnitude is |A| |B|.

    k products and k - 1 sums round once each, whatever their order: k u to first order, and 2 u for
    the second order and the denormals. bfloat16 operands are exact here; their sums are float32.
    """
    u = U["float32" if dtype == "bfloat16" else dtype]
    return (k + 2) * u * magnitude


# An activation against float64, relative to its result: our polynomials are 2 to 3 units in the
# last place (4 u to 6 u), and gelu multiplies two rounded factors more.
ACTIVATION = 16 * U["float32"]

# The same against the absolute size of the argument: the pre-activation itself is a product that
# was rounded, and tanh, sigmoid and gelu have slopes of at most 1.13.
ACTIVATION_ABSOLUTE = 8 * U["float32"]

# The change of a parameter in one float32 step, relative to the largest change in its array:
# float32 sums of up to some hundred terms that cancel, and hyperparameters in float32 (1 - 0.999
# is off by 1e-5 of itself). The parameter's own rounding is STEP_PARAMETER. Seen: 5e-6.
STEP_F32 = 1e-5

# A parameter is rounded once per step, relative to itself; one unit more for the decay.
STEP_PARAMETER = 4 * U["float32"]

# Errors of one step change the next one's activations: growth over a few steps. Seen: 1e-5.
STEPS_F32 = 5e-5

# bfloat16: inputs, weights, activations and deltas are rounded by up to 2^-8 each, independently:
# the gradient is off by a few times 2^-9 of its norm. Seen: 0.009.
STEP_BF16_NORM = 2e-2

# Where f' jumps, the same roundings put some 0.3 % of the units on the other side of the kink: they
# are wrong by their whole delta, and sqrt(0.003) of the norm is 0.055.
STEP_BF16_KINK_NORM = 1e-1

# Central differences in float64 with steps of 1e-5: truncation 1e-10, cancellation 1e-11.
DIFFERENCES = 1e-8

# Outputs and losses in float32: a few dozen roundings, relative to the largest logit.
FORWARD_F32 = 5e-6

# Instruction sets add in different orders. Fifty steps of training carry that along; relu's kinks
# make single units differ by more, so norms are compared.
ISA_F32_NORM = 1e-4
ISA_BF16_NORM = 3e-2

# Degrees of an alignment angle, away from 0 and 180 where acos is steep.
ANGLE_DEGREES = 0.02

# Statistics of n random numbers: five standard errors.
STANDARD_ERRORS = 5.0
