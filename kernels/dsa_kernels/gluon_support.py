"""Gluon, Triton's language of explicit layouts and waits: whether this Triton has what the kernels need.

Its interpreter runs no Gluon, so there the kernels in plain Triton serve every shape.
"""

import os

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.ampere import async_copy

    # Renamed between Triton 3.6 and 3.9.
    copy_to_shared = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
    barrier = getattr(gl, "barrier", None) or gl.thread_barrier
except (ImportError, AttributeError):
    gluon = None

#: Whether the Gluon kernels can be compiled here.
USABLE = gluon is not None and os.environ.get("TRITON_INTERPRET", "0") in ("", "0")
