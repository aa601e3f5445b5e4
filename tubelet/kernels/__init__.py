"""Winograd convolutions on a CPU: fewer multiplications than the sums have, in C++ built on first use.

A kernel (k, 3, 3) of spatial stride 1 takes F(4x4, 3x3) of Lavin and Gray, arXiv:1509.09308, and F(2, 3) in time where
it has three frames and stride 1 there too; a kernel (3, 1, 1) of stride 1 takes F(4, 3) in time. The stems of networks,
(k, 7, 7) or (k, 5, 5) of spatial stride 2, take F(3x3, 4x4) or F(4x4, 3x3) over cells of 2 x 2 pixels. Bias, a residual
and ReLU are part of the call. Sums are in float32, clips float32 or bfloat16. Nothing needs these kernels: where they
cannot be had, `available` is False, and `why` says so.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native

__all__ = ["Packed", "available", "growth", "pack", "run", "supports", "version", "why"]

_SOURCE = Path(__file__).with_name("winograd.cpp")
_LANES = {"avx512": 16, "avx2": 8}
_FRAMES, _VOLUME, _TIME = range(3)
_DTYPES = (torch.float32, torch.bfloat16)

Instructions = Literal["avx512", "avx2"]


class _Convolution(ctypes.Structure):
    _fields_ = native.fields(
        "form in_channels out_channels kernel_t kernel_s stride_t stride_s pad_t pad_h pad_w dilation_t dilation_s",
        "packed",
    )


class _Weight(ctypes.Structure):
    _fields_ = native.fields("output_step input_step place_step", "data")


class _Call(ctypes.Structure):
    _fields_ = [
        ("of", _Convolution),
        *native.fields(
            "batch t h w out_t out_h out_w input_pixel output_pixel residual_pixel is_bfloat16 relu threads",
            "input residual output bias parallel",
        ),
    ]


@dataclass(frozen=True)
class Packed:
    """The weight of a convolution as `run` wants it. It belongs to this machine: keep the weight, and pack it again.

    Attributes:
        data: transformed weight, `growth` times as large.
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: (t, h, w).
        stride: (t, h, w).
        padding: (t, h, w).
        dilation: (t, h, w).
        instructions: what it runs on.
    """

    data: Tensor
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    instructions: Instructions


def _form(packed: Packed) -> int:
    if packed.kernel_size == (3, 1, 1):
        return _TIME
    return _VOLUME if (packed.kernel_size, packed.stride) == ((3, 3, 3), (1, 1, 1)) else _FRAMES


def _convolution(packed: Packed) -> _Convolution:
    return _Convolution(
        _form(packed),
        packed.in_channels,
        packed.out_channels,
        *packed.kernel_size[:2],
        *packed.stride[:2],
        *packed.padding,
        *packed.dilation[:2],
        packed.data.data_ptr(),
    )


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why there is none."""
    library, reason = native.library(_SOURCE, "-std=c++17")
    if library is None:
        return None, reason
    library.winograd_packed_size.restype = ctypes.c_int64
    return (library, "") if library.winograd_lanes() > 0 else (None, "this processor has neither AVX512 nor AVX2")


def available() -> bool:
    """Whether the kernels run here. The first call builds them, which takes some seconds, and keeps them."""
    return _library()[0] is not None


def version() -> str:
    """What tells these kernels from earlier and later ones."""
    return hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]


def why() -> str:
    """One line that tells why the kernels are not available; empty where they are."""
    return _library()[1]


def supports(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_channels: int,
    out_channels: int,
) -> bool:
    """Whether there is a kernel for this convolution, sizes as (t, h, w). That it is the fastest way is not said."""
    kernel_size, stride, padding, dilation = map(tuple, (kernel_size, stride, padding, dilation))
    if groups != 1 or in_channels < 1 or out_channels < 1 or dilation[1] != dilation[2]:
        return False
    if dilation != (1, 1, 1) and stride != (1, 1, 1):
        return False
    if kernel_size == (3, 1, 1):
        return stride == (1, 1, 1) and padding[1:] == (0, 0) and padding[0] >= 0
    in_space = (*stride[1:], *kernel_size[1:])
    is_known = in_space in ((1, 1, 3, 3), (2, 2, 5, 5), (2, 2, 7, 7))
    return is_known and min(padding) >= 0 and 2 * max(padding[1:]) <= dilation[1] * (kernel_size[1] - 1)


def growth(kernel_size: Sequence[int], stride: Sequence[int]) -> float:
    """How many times as large a packed weight is, sizes as (t, h, w)."""
    if tuple(kernel_size) == (3, 1, 1):
        return 6 / 3
    if stride[1] == 2:
        return 4 * 36 / kernel_size[1] ** 2
    return 144 / 27 if (kernel_size[0], stride[0]) == (3, 1) else 36 / 9


def pack(
    weight: Tensor,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    *,
    transposed: bool = False,
    instructions: Instructions | None = None,
) -> Packed:
    """Transform a weight, once, for many calls of `run`.

    Args:
        weight: (K, C, kt, kh, kw) of K output and C input channels.
        stride: (t, h, w).
        padding: (t, h, w), with zeros.
        dilation: (t, h, w).
        transposed: pack for the transposed convolution, from K to C channels: the gradient of the input of the one with
            this weight, stride 1 and this padding. `supports` knows it as a convolution of padding d (k - 1) - p.
        instructions: avx512 or avx2; None takes the widest that this processor has and K fills.

    Raises:
        ValueError: `supports` has no kernel for it, or this processor lacks the instructions.
        RuntimeError: the kernels are not available.
    """
    library, reason = _library()
    if library is None:
        raise RuntimeError(f"Winograd kernels are not available: {reason}")
    best = library.winograd_lanes()
    if instructions is not None and _LANES[instructions] > best:
        raise ValueError(f"this processor has no {instructions}")
    weight = weight.detach().to("cpu", torch.float32)
    out_channels, in_channels, *kernel = weight.shape
    places = weight.flatten(2)
    first, (of_output, of_input, of_place) = places.data_ptr(), places.stride()
    if transposed:
        out_channels, in_channels, of_output, of_input = in_channels, out_channels, of_input, of_output
        padding = [d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
        # turned round: from the last place to the first
        first, of_place = first + places.element_size() * of_place * (places.shape[2] - 1), -of_place
    is_odd = transposed and tuple(stride) != (1, 1, 1)
    if is_odd or not supports(kernel, stride, padding, dilation, 1, in_channels, out_channels):
        told = f"kernel_size {(*kernel,)}, stride {(*stride,)}, padding {(*padding,)}, dilation {(*dilation,)}"
        raise ValueError(f"no kernel for {told}")
    chosen = instructions or ("avx512" if best == 16 and out_channels > 8 else "avx2")
    sizes = _triple(kernel), _triple(stride), _triple(padding), _triple(dilation)
    empty = Packed(torch.empty(0), in_channels, out_channels, *sizes, chosen)
    of = _convolution(empty)
    size = library.winograd_packed_size(_LANES[chosen], ctypes.byref(of))
    data = torch.empty(size, dtype=torch.float32, device="cpu")  # whatever torch's defaults are
    laid = _Weight(of_output, of_input, of_place, first)
    library.winograd_pack(_LANES[chosen], ctypes.byref(of), ctypes.byref(laid), ctypes.c_void_p(data.data_ptr()))
    return replace(empty, data=data)


def _triple(sizes: Sequence[int]) -> tuple[int, int, int]:
    t, h, w = sizes
    return t, h, w


def run(
    x: Tensor,
    packed: Packed,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve: `relu(conv(x) + bias + residual)`, on `torch.get_num_threads()` threads. No gradients.

    Args:
        x: (B, C, T, H, W) float32 or bfloat16 in channels_last_3d (else it is copied), or some channels of such a
            tensor.
        packed: of `pack`.
        bias: (K,) float32.
        residual: (B, K, T', H', W') of x's type, as the output, or some channels of such a tensor.
        relu: whether what is negative becomes 0.
        out: where the output goes: a (B, K, T', H', W') tensor in channels_last_3d, or some channels of one, such as a
            part of a concatenation. It may be the residual, not x.

    Returns:
        (B, K, T', H', W') of x's type in channels_last_3d; bfloat16 is rounded once, from sums in float32.

    Raises:
        ValueError: a size, type or layout does not fit.
    """
    library, reason = _library()
    if library is None:
        raise RuntimeError(f"Winograd kernels are not available: {reason}")
    if x.dim() != 5 or x.shape[1] != packed.in_channels or x.dtype not in _DTYPES or x.device.type != "cpu":
        is_now = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        wanted = f"float32 or bfloat16 (B, {packed.in_channels}, T, H, W)"
        raise ValueError(f"x is {is_now}; it must be {wanted} on the CPU")
    size = [
        (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for n, pad, dilation, kernel, stride in zip(
            x.shape[2:], packed.padding, packed.dilation, packed.kernel_size, packed.stride, strict=True
        )
    ]
    if min(x.shape[2:]) < 1 or min(size) < 1:
        raise ValueError(f"x of (T, H, W) {tuple(x.shape[2:])} is too small for a kernel {packed.kernel_size}")
    shape = (x.shape[0], packed.out_channels, *size)
    has_cells = packed.stride[1] == 2  # of 2 x 2 pixels, which lie side by side
    if has_cells and (x.shape[3] % 2 or x.shape[4] % 2):
        x = F.pad(x, (0, x.shape[4] % 2, 0, x.shape[3] % 2))
    if not native.pixel(x) or (has_cells and native.pixel(x) != x.shape[1]):
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if residual is not None and not native.pixel(native.checked(residual, "residual", shape, x.dtype)):
        residual = residual.contiguous(memory_format=torch.channels_last_3d)
    if bias is not None:
        bias = native.checked(bias, "bias", shape[1:2]).contiguous()
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=torch.channels_last_3d)
    elif not native.pixel(native.checked(out, "out", shape, x.dtype)):
        raise ValueError("out must be in torch.channels_last_3d")
    if not out.numel():
        return out
    call = _Call(
        _convolution(packed),
        x.shape[0],
        *x.shape[2:],
        *size,
        native.pixel(x),
        native.pixel(out),
        0 if residual is None else native.pixel(residual),
        x.dtype == torch.bfloat16,
        relu,
        torch.get_num_threads(),
        *(None if tensor is None else tensor.data_ptr() for tensor in (x, residual, out, bias)),
        native.parallel(),
    )
    if library.winograd_run(_LANES[packed.instructions], ctypes.byref(call)):
        raise MemoryError(f"no memory for the scratch of a convolution of {packed.in_channels} channels")
    return out
