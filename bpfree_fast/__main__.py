# SPDX-License-Identifier: BSD-3-Clause
"""``python -m bpfree_fast`` is the command ``bpfree-fast``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
