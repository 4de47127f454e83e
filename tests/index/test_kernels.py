"""Compiled kernels work wherever they can be compiled."""

import pytest
from full_disk import full_disk


def test_a_kernel_that_cannot_be_saved_is_used_all_the_same() -> None:
    """numba saves a kernel during its first call, so a full disk took the first list of a new installation."""
    pytest.importorskip("numba")
    from genrec.index.kernels.int8 import compile_kernel

    def double(number):  # type: ignore[no-untyped-def]
        return 2 * number

    kernel = compile_kernel(double)
    with full_disk():
        assert kernel(4) == 8
        assert kernel(0.5) == 1.0
