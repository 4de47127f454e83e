# mypy: ignore-errors
"""Compiled inner products of int8 vectors; see `genrec.rankers.quantized_vectors`.

Letters: N items, U users, D dimensions of a vector, W dimensions padded to a multiple of `SIMD_WIDTH`.

Uses the AVX512-VNNI instruction VPDPBUSD, which adds 64 products at once (Intel, Architecture Instruction Set
Extensions). LLVM does not generate it from a loop, so it is called explicitly; other processors run a scalar loop.
"""

from contextlib import suppress

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

SIMD_WIDTH = 64
"""W is a multiple of it."""

MAX_WIDTH = 65_536
"""The largest W for which no sum of products overflows 32 bits."""

INT8_MAX, ZERO_POINT = 127, 128
"""The largest int8, and the uint8 that stands for 0 in the vector of an item."""

_CACHE_BLOCK_ROWS = 64  # item vectors that stay in the processor's cache while all users are multiplied with them
_LLVM_VERSION = 22  # the version whose name and types of the intrinsic are used


def compile_kernel(function, **options):
    """Compile a function at its first call, without the GIL; the result is cached if a cache folder is writable."""
    try:
        kernel = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # no folder is writable
        return numba.njit(nogil=True, **options)(function)
    _ignore_full_disk(getattr(kernel, "_cache", None))
    return kernel


def _ignore_full_disk(cache):
    """Let a compiled function be used although it cannot be saved: numba saves it during the first call."""
    save = getattr(cache, "save_overload", None)

    def save_if_possible(*arguments):
        with suppress(OSError):
            save(*arguments)

    if save is not None:
        cache.save_overload = save_if_possible


def _has_vnni() -> bool:
    """Whether processor and LLVM support the instruction; calling it without support ends the process."""
    is_host = numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None
    return (
        is_host and llvm.llvm_version_info[0] == _LLVM_VERSION and "+avx512vnni" in get_host_cpu_features().split(",")
    )


@intrinsic
def _dot_vnni(_, vector, user):
    numbers, sums, length = ir.VectorType(ir.IntType(8), SIMD_WIDTH), ir.VectorType(ir.IntType(32), 16), ir.IntType(64)

    def generate(context, builder, signature, arguments):
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(sums, [sums, numbers, numbers]), "llvm.x86.avx512.vpdpbusd.512"
        )
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), [sums]), "llvm.vector.reduce.add.v16i32"
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(sums, None))
        count = builder.udiv(builder.extract_value(arrays[0].shape, 0), length(SIMD_WIDTH))
        with cgutils.for_range(builder, count) as loop:
            parts = []
            for array in arrays:
                place = builder.gep(array.data, [builder.mul(loop.index, length(SIMD_WIDTH))])
                parts.append(builder.load(builder.bitcast(place, numbers.as_pointer())))
                parts[-1].align = 1
            builder.store(builder.call(add, [builder.load(total), *parts]), total)
        return builder.call(reduce, [builder.load(total)])

    return types.int32(vector, user), generate


@compile_kernel
def _dot_scalar(vector, user):
    total = np.int32(0)
    for step in range(len(vector)):
        total += np.int32(vector[step]) * np.int32(user[step])
    return np.int32(total)  # numba adds in 64 bits


_dot, _USER_DTYPE = (_dot_vnni, np.int8) if _has_vnni() else (_dot_scalar, np.int16)


@compile_kernel
def quantized_inner_products(vectors, scales, users, products, norms, residual_norms):
    """Inner products of quantised user vectors and item vectors.

    `vectors[n, d]` of an item stands for `(vectors[n, d] - 128) * scales[d]`. A user's vector is multiplied by the
    scales first, and then rounded to multiples of a unit at which its largest value is 127.

    Args:
        vectors: uint8 [N, W], 128 in the padding.
        scales: float64 [D].
        users: float32 [U, D].
        products: float32 [U, N], written.
        norms: float64 [U], written: the norms of the user vectors.
        residual_norms: float64 [U], written: the norms of the rounding errors of the scaled user vectors.
    """
    width = users.shape[1]
    quantized = np.zeros((len(users), vectors.shape[1]), dtype=_USER_DTYPE)
    corrections, units = np.zeros(len(users), dtype=np.int32), np.ones(len(users))
    for user in range(len(users)):
        largest, squared_norm, squared_error = 0.0, 0.0, 0.0
        for step in range(width):
            value = np.float64(users[user, step])
            largest, squared_norm = max(largest, abs(value * scales[step])), squared_norm + value * value
        if largest > 0:
            units[user] = largest / INT8_MAX
        for step in range(width):
            scaled = users[user, step] * scales[step] / units[user]
            whole = min(INT8_MAX, max(-INT8_MAX, np.rint(scaled)))
            quantized[user, step], corrections[user] = whole, corrections[user] + ZERO_POINT * whole
            squared_error += (scaled - whole) ** 2
        norms[user], residual_norms[user] = np.sqrt(squared_norm), np.sqrt(squared_error) * units[user]
    for first in range(0, len(vectors), _CACHE_BLOCK_ROWS):
        for user in range(len(users)):
            for row in range(first, min(first + _CACHE_BLOCK_ROWS, len(vectors))):
                product = _dot(vectors[row], quantized[user]) - corrections[user]
                products[user, row] = product * units[user]
