"""Numbers to 8 bits inside the kernels that make them; rows.py says what scales and codes are."""

import triton
import triton.language as tl

FP8, INT8 = 1, 2
"""The form that a kernel quantises to; 0 is none."""


@triton.jit
def scale_of(largest, FORM: tl.constexpr):
    """The scale of numbers up to `largest`, and its inverse."""
    if FORM == 1:
        exponent = tl.maximum(((largest.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8, 1)
        scale = (exponent << 23).to(tl.float32, bitcast=True)
        inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    else:
        scale = tl.maximum(tl.div_rn(largest, 127.0), 1.1754943508222875e-38)
        inverse = tl.div_rn(1.0, scale)
    return scale, inverse


@triton.jit
def code_of(scaled, FORM: tl.constexpr):
    """The number to store for one that is divided by its scale."""
    if FORM == 2:
        # To the nearest whole number, the even one of two: 1.5 * 2**23 leaves no bits behind the point.
        scaled = tl.minimum(tl.maximum((scaled + 12582912.0) - 12582912.0, -127.0), 127.0)
    return scaled
