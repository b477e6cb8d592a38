# SPDX-License-Identifier: BSD-3-Clause
"""What `EnsembleKalman` is made of: options, steps, draws, forward models, files."""
