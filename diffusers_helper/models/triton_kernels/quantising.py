"""Numbers to 8 bits inside the kernels that make them; rows.py says what scales and codes are."""

import triton
import triton.language as tl

FP8, INT8 = 1, 2
"""The form that a kernel quantises to; 0 is none."""


@triton.jit
def magnitude(value):
    """Absolute numbers whose largest can be found as that of whole numbers, where NaN counts and is the largest."""
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_of(largest, FORM: tl.constexpr):
    """The scale of numbers up to the magnitude `largest`, and its inverse."""
    if FORM == 1:
        exponent = tl.maximum(((largest + 0x1FFFFF) >> 23) - 8, 1)
        scale = (exponent << 23).to(tl.float32, bitcast=True)
        inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    else:
        scale = tl.div_rn(tl.maximum(largest, 0x04000000).to(tl.float32, bitcast=True), 127.0)
        inverse = tl.div_rn(1.0, scale)
    return scale, inverse


@triton.jit
def code_of(scaled, out, FORM: tl.constexpr):
    """The code, of the type that `out` points to, of a number that is divided by its scale: the nearest.

    Of two that are as near it is the even one. Whole numbers are read from the last bits of a float32 number of such a
    size that it has none behind the point.
    """
    if FORM == 2:
        code = (scaled + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    else:
        code = scaled.to(out.dtype.element_ty)
    return code
