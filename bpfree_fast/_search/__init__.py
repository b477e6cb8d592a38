# SPDX-License-Identifier: BSD-3-Clause
"""What `EvolutionStrategy` is made of: noise, methods, optimizers, executors, files."""
