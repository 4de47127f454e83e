# mypy: ignore-errors
"""Products of vectors whose numbers are bytes, compiled; see `genrec.rankers.screen`.

Processors have an instruction for them, which adds 64 products at once (Intel, Architecture Instruction Set Extensions,
VPDPBUSD of AVX512-VNNI). LLVM makes it of no loop by itself, so it is named here; elsewhere the plain loop runs.
"""

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

WIDTH = 64
"""Vectors have a multiple of so many numbers."""

_ROWS = 64  # vectors that stay in the processor's cache while people pass by
_LLVM = 22  # the version whose name and types of the instruction are used


def _has_instruction() -> bool:
    is_host = numba.config.CPU_NAME in (None, "host") and numba.config.CPU_FEATURES is None
    return is_host and llvm.llvm_version_info[0] == _LLVM and llvm.get_host_cpu_features().get("avx512vnni", False)


@intrinsic
def _inner_at_once(_, vector, person):
    numbers, sums, length = ir.VectorType(ir.IntType(8), WIDTH), ir.VectorType(ir.IntType(32), 16), ir.IntType(64)

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
        count = builder.udiv(builder.extract_value(arrays[0].shape, 0), length(WIDTH))
        with cgutils.for_range(builder, count) as loop:
            parts = []
            for array in arrays:
                place = builder.gep(array.data, [builder.mul(loop.index, length(WIDTH))])
                parts.append(builder.load(builder.bitcast(place, numbers.as_pointer())))
                parts[-1].align = 1
            builder.store(builder.call(add, [builder.load(total), *parts]), total)
        return builder.call(reduce, [builder.load(total)])

    return types.int32(vector, person), generate


@numba.njit(nogil=True)
def _inner_by_loop(vector, person):
    total = np.int32(0)
    for step in range(len(vector)):
        total += np.int32(vector[step]) * np.int32(person[step])
    return np.int32(total)  # numba sums in 64 bits, but where 32 of them are used


_inner, PERSON = (_inner_at_once, np.int8) if _has_instruction() else (_inner_by_loop, np.int16)
"""`PERSON` is of which kind the numbers of people are given, none above 127; a loop widens those of items alone."""


@numba.njit(cache=True, nogil=True)
def multiply_bytes(vectors, people, less, units, products):
    """Write inner products of bytes, in the units of each person.

    Args:
        vectors: uint8 [N, W].
        people: `PERSON` [U, W].
        less: int32 [U], taken from each product.
        units: float32 [U], by which it is multiplied then.
        products: float32 [U, N], written.
    """
    for first in range(0, len(vectors), _ROWS):
        for person in range(len(people)):
            for row in range(first, min(first + _ROWS, len(vectors))):
                product = _inner(vectors[row], people[person]) - less[person]
                products[person, row] = np.float32(product) * units[person]
