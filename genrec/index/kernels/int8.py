# mypy: ignore-errors
"""How loops are compiled, and products of vectors whose numbers are bytes; see `genrec.rankers.quantized_vectors`.

Letters: N items, U people, D numbers of a vector, W numbers of one that is filled up to whole widths.

Processors have an instruction for them, which adds 64 products at once (Intel, Architecture Instruction Set Extensions,
VPDPBUSD of AVX512-VNNI). LLVM makes it of no loop by itself, so it is named here; elsewhere the plain loop runs.
"""

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
"""W at most, for which no sum of products runs over 32 bits."""

INT8_MAX, ZERO_POINT = 127, 128
"""The largest number of a byte with a sign, and the byte without one that stands for 0 in the vector of an item."""

_CACHE_BLOCK_ROWS = 64  # vectors that stay in the processor's cache while people pass by
_LLVM_VERSION = 22  # the version whose name and types of the instruction are used


def compile_kernel(function, **options):
    """A function of loops, compiled at its first call, which lets other threads run; kept where there is a folder."""
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # there is none
        return numba.njit(nogil=True, **options)(function)


def _has_vnni() -> bool:
    """Whether numba compiles for a processor that has it, by an LLVM that knows it; anything else ends the process."""
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
    return np.int32(total)  # numba sums in 64 bits, but where 32 of them are used


_dot, _USER_DTYPE = (_dot_vnni, np.int8) if _has_vnni() else (_dot_scalar, np.int16)


@compile_kernel
def quantized_inner_products(vectors, scales, users, products, norms, residual_norms):
    """Multiply people, rounded as items are, with items.

    Number d of an item stands for `(vectors[n, d] - 128) * steps[d]`, so a person's is multiplied with the step first,
    and rounded to whole numbers of a unit that lets the largest be 127.

    Args:
        vectors: uint8 [N, W], 128 behind D.
        scales: float64 [D].
        users: float32 [U, D].
        products: float32 [U, N], written.
        norms: float64 [U], written: of the people.
        residual_norms: float64 [U], written: of what rounding leaves of each person, in the steps of the items.
    """
    width = users.shape[1]
    narrow = np.zeros((len(users), vectors.shape[1]), dtype=_USER_DTYPE)
    less, units = np.zeros(len(users), dtype=np.int32), np.ones(len(users))
    for person in range(len(users)):
        largest, length, left = 0.0, 0.0, 0.0
        for step in range(width):
            value = np.float64(users[person, step])
            largest, length = max(largest, abs(value * scales[step])), length + value * value
        if largest > 0:
            units[person] = largest / INT8_MAX
        for step in range(width):
            folded = users[person, step] * scales[step] / units[person]
            whole = min(INT8_MAX, max(-INT8_MAX, np.rint(folded)))
            narrow[person, step], less[person] = whole, less[person] + ZERO_POINT * whole
            left += (folded - whole) ** 2
        norms[person], residual_norms[person] = np.sqrt(length), np.sqrt(left) * units[person]
    for first in range(0, len(vectors), _CACHE_BLOCK_ROWS):
        for person in range(len(users)):
            for row in range(first, min(first + _CACHE_BLOCK_ROWS, len(vectors))):
                product = _dot(vectors[row], narrow[person]) - less[person]
                products[person, row] = product * units[person]
