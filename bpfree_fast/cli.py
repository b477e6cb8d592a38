# SPDX-License-Identifier: BSD-3-Clause
"""The command ``bpfree-fast``: every failure is one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from ._extras import require

INTERRUPTED = 130  # as the shell has it for Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args : sequence of str, default=None
        The arguments; None takes those of the process.

    Returns
    -------
    exit_code : int
        0, or 2 after an error, or 130 after Ctrl-C.
    """
    try:
        click = require("sklearn", "safetensors", "tqdm", "matplotlib", "click")
    except ModuleNotFoundError as error:
        # Whichever is missing, the extra of the command line brings it.
        return _fail(f"The command line needs {error.name}: run pip install 'bpfree-fast[cli]'.")
    format_before = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        from .commands import program

        code = program.main(args, prog_name="bpfree-fast", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _fail(error.format_message())
    except (KeyboardInterrupt, click.exceptions.Abort):
        _fail("Interrupted: nothing more was written.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        return _fail(str(error) or type(error).__name__)
    finally:
        warnings.formatwarning = format_before


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return f"bpfree-fast: {str(message).splitlines()[0]}\n"


def _fail(sentence: str) -> int:
    lines = sentence.strip().splitlines()
    sys.stderr.write(f"bpfree-fast: {lines[0] if lines else 'failed'}\n")
    return 2
