"""The tensor types of GGUF: what a block of each holds, and its values as float32, bit for bit as the format says.

A row of a matrix is a run of blocks; the last bytes of one row are followed by the first of the next. Layouts and
formulas are those of ggml (ggml-common.h, ggml-quants.c) and of the `gguf` package (gguf.quants), which the tests
compare with: the same products and sums, in the same order, in float32. `d` is a block's scale, `q` a code.

Expanding is lossless and takes 4 bytes a weight. It goes over a tensor in slices of rows, so that what is needed on
the way stays small beside the result.
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Array = np.ndarray[Any, Any]
_SLICE = 1 << 20  # elements expanded at a time
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # doubled
_DELTA = np.float32(0.125)


@dataclass(frozen=True, slots=True)
class TensorType:
    """`block` elements in `size` bytes. view: NumPy type of a plain number; values: from bytes [n, size] to float32.

    Neither: a type that is known (so that a file that has it can be read) but not expanded.
    """

    name: str
    block: int
    size: int
    view: str | None = None
    values: Callable[[Bytes], Floats] | None = None


def expand(rows: Bytes, kind: TensorType, order: Sequence[int] | Array | None = None) -> Floats:
    """uint8[n, bytes of a row] as float32[n, elements]; `order`: which row comes where (result i is row order[i]).

    Raises ValueError for a type that is not expanded, or a width that is no whole number of blocks.
    """
    n, width = rows.shape
    if width % kind.size or (kind.values is None and kind.name not in ("F32", "F16")):
        raise ValueError(f"{kind.name} of {width} bytes a row cannot be expanded")
    columns = width // kind.size * kind.block
    out = np.empty((n, columns), np.float32)
    if not out.size:
        return out
    step = max(1, _SLICE // columns)
    with np.errstate(all="ignore"):  # scales may be infinite or NaN: whoever asks for the values will see them
        for start in range(0, n, step):
            stop = min(start + step, n)
            part = rows[start:stop] if order is None else rows[np.asarray(order)[start:stop]]
            if kind.values is None:
                out[start:stop] = np.ascontiguousarray(part).view(kind.view or "u1")
            else:
                blocks = np.ascontiguousarray(part).reshape(-1, kind.size)
                out[start:stop] = kind.values(blocks).reshape(stop - start, columns)
    return out


# ---- fields of blocks ----


def _f16(b: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as float32[n, 1]."""
    return _wide(b, at, at + 2, "<f2").astype(np.float32)


def _wide(b: Bytes, start: int, stop: int, dtype: str) -> Array:
    """Bytes start:stop of each block as numbers of `dtype`."""
    return np.ascontiguousarray(b[:, start:stop]).view(dtype)


def _fields(x: Array, run: int, shifts: Sequence[int], mask: int) -> Array:
    """Bit fields: of each `run` of numbers first the field at shifts[0] of all, then that at shifts[1], ..."""
    by = np.array(shifts, x.dtype)[:, None]
    fields: Array = (x.reshape(len(x), -1, 1, run) >> by) & x.dtype.type(mask)
    return fields.reshape(len(x), -1)


def _bits(x: Bytes) -> Bytes:
    """The bits of each byte, the lowest first."""
    return np.unpackbits(np.ascontiguousarray(x), axis=-1, bitorder="little")


def _f(x: Array) -> Floats:
    return x.astype(np.float32)


def _signed(x: Array, zero: int) -> Floats:
    """Unsigned codes less their zero point, exactly."""
    return _f(x.astype(np.int16) - np.int16(zero))


def _runs(scale: Floats, q: Floats) -> Floats:
    """scale[n, m] times q, each scale over its share of q[n, ...]."""
    return scale[:, :, None] * q.reshape(len(q), scale.shape[1], -1)


_LOW_HIGH, _PAIRS, _EACH = (0, 4), (0, 2, 4, 6), tuple(range(8))

# ---- blocks of 32 ----


def _q4_0(b: Bytes) -> Floats:
    return _f16(b, 0) * _signed(_fields(b[:, 2:], 16, _LOW_HIGH, 15), 8)


def _q4_1(b: Bytes) -> Floats:
    return _f16(b, 0) * _f(_fields(b[:, 4:], 16, _LOW_HIGH, 15)) + _f16(b, 2)


def _q5_0(b: Bytes) -> Floats:
    return _f16(b, 0) * _signed(_fields(b[:, 6:], 16, _LOW_HIGH, 15) | _bits(b[:, 2:6]) << 4, 16)


def _q5_1(b: Bytes) -> Floats:
    return _f16(b, 0) * _f(_fields(b[:, 8:], 16, _LOW_HIGH, 15) | _bits(b[:, 4:8]) << 4) + _f16(b, 2)


def _q8_0(b: Bytes) -> Floats:
    return _f(_wide(b, 2, 34, "i1")) * _f16(b, 0)


def _iq4_nl(b: Bytes) -> Floats:
    return _f16(b, 0) * np.array(IQ4, np.float32)[_fields(b[:, 2:], 16, _LOW_HIGH, 15)]


def _mxfp4(b: Bytes) -> Floats:
    """The scale is E8M0: half of 2^(e - 127), since the codes are doubled; e = 0 and 1 are subnormal."""
    e = b[:, :1].astype(np.uint32)
    half = np.where(e < 2, np.uint32(0x00200000) << np.minimum(e, 1), (np.maximum(e, 1) - 1) << 23).astype(np.uint32)
    return half.view(np.float32) * np.array(E2M1, np.float32)[_fields(b[:, 1:], 16, _LOW_HIGH, 15)]


# ---- blocks of 256: K ----


def _q2_k(b: Bytes) -> Floats:
    low = _runs(_f16(b, 80) * _f(b[:, :16] & 15), _f(_fields(b[:, 16:80], 32, _PAIRS, 3)))
    return low - (_f16(b, 82) * _f(b[:, :16] >> 4))[:, :, None]


def _q3_k(b: Bytes) -> Floats:
    """hmask[32] qs[64] scales[12] d: a set bit of the mask means that 4 is not subtracted."""
    scales = _fields(b[:, 96:104], 8, _LOW_HIGH, 15) | _fields(b[:, 104:108], 4, _PAIRS, 3) << 4
    q = _fields(b[:, 32:96], 32, _PAIRS, 3) | _fields(b[:, :32], 32, _EACH, 1) << 2
    return _runs(_f16(b, 108) * _signed(scales, 32), _signed(q, 4))


def _scales_mins(s: Bytes) -> tuple[Floats, Floats]:
    """12 bytes hold 8 scales and 8 minima of 6 bits; the high bits of the last 4 of each lie above the first 4."""
    a, b, c = s[:, :4], s[:, 4:8], s[:, 8:]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 2 & 0x30)], axis=1)
    return _f(scales), _f(np.concatenate([b & 63, (c >> 4) | (b >> 2 & 0x30)], axis=1))


def _k_with_minimum(b: Bytes, q: Array) -> Floats:
    scales, minima = _scales_mins(b[:, 4:16])
    return _runs(_f16(b, 0) * scales, _f(q)) - (_f16(b, 2) * minima)[:, :, None]


def _q4_k(b: Bytes) -> Floats:
    return _k_with_minimum(b, _fields(b[:, 16:], 32, _LOW_HIGH, 15))


def _q5_k(b: Bytes) -> Floats:
    return _k_with_minimum(b, _fields(b[:, 48:], 32, _LOW_HIGH, 15) | _fields(b[:, 16:48], 32, _EACH, 1) << 4)


def _q6_k(b: Bytes) -> Floats:
    q = _fields(b[:, :128], 64, _LOW_HIGH, 15) | _fields(b[:, 128:192], 32, _PAIRS, 3) << 4
    return _runs(_f16(b, 208) * _f(_wide(b, 192, 208, "i1")), _signed(q, 32))


def _iq4_xs(b: Bytes) -> Floats:
    high = _wide(b, 2, 4, "<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = _fields(b[:, 4:8], 1, _LOW_HIGH, 15) | high << 4
    return _runs(_f16(b, 0) * _signed(scales, 32), np.array(IQ4, np.float32)[_fields(b[:, 8:], 16, _LOW_HIGH, 15)])


# ---- blocks of 256: code books ----

# name -> (levels, length of a code word, its words). A code book is a set of words in ascending order, the first
# level of a word the least significant digit; here it is the set's bits, packed (the first in the highest bit),
# deflated, in base 85. The words are ggml's (iq2xxs_grid and so on in ggml-common.h).
_BOOKS: dict[str, tuple[tuple[int, ...], int, bytes]] = {
    "IQ2_XXS": ((8, 25, 43), 8,
        b"c-nPRORj`4470MbdWwiuj~R8vF<3s$DPNNQV8mEdDvh1mfzMz4@MsNM4-kL~Dg?0u3Z<Q}s#5&i%a^YL7=qILyw)W4Cso8iRnlpCLd`c4D"
        b"u;C<RlH?aajd+e<FY7)k8>WSTt@47wX1jPqB41q=2e+&9hy;#r#nzQ(d`wV2I-N(E<X_7hks$x7)Do8!;TEvZcdv+$;Bf*s-;99+U-&7)="
        b"?KnsoS&M%ZZjW8ztGaG<oin^)>q~!#84@<5Q?C;cAe-jqH$lW6s<jvF<nQc*Z$~yKl@H%B$)D{-`Y{-_v~Aze0c0{sHUUCpi"
    ),
    "IQ2_XS": ((8, 25, 43), 8,
        b"c-mc2ORj`4470L|dWwh@;*?QWh*MOoP)|Aew9xme83;|{*iP^L>UVu^J$f&9<)%0;rYcZH@zkTcz*1-`0#F4vd)cqIa~EY0S(m36us~sl4"
        b"e+uqnt+xnD5p1ifdk&k2^cqyDKl&hVwLuN#<u{Y#82-D2r2AS*#~B;6>b%zZ?$An2Qav5OyP;?IjC1*OUa>YNXBOJs!l*N%2M9ag1pZ#qb"
        b"S<pDODX)Ys@FiGwcn?g7z}ZUJ85J?WuXe7)kq!xj_MC=sehbo`f6hw91-EjVApg;SBK(#S-ctqy5bslAAu_xaBeODLPcR%XL4jpOCvsj1d"
        b"P@iIwgyVBr<uBI!nKMuUZZ1qQNNP<bV}FGN4KvRv{ky>(2~*Gt;x6q$P={6Cb#@3Dfxx_wWh`vWo0U*P"
    ),
    "IQ2_S": ((8, 25, 43), 8,
        b"c-n1JOKt@r42!agI0c#&;*=39#3>LflvCCTO#7-9jpk=;Y=fB%TefG%OIlXuE_Fz<Ougf=%xu>+l3Bq8hyjg~lMrunmZ<Wy`~YGiEi#3On"
        b"5vBd<vmKZSi%aW(psKWGWlAsphF>8rUC+;ZDfa(=s@_F#i0yss$-8fvv#Vf@jNV{kuiVLgA~66J1A2@4RVJKUxH}IH-$JpaZ^g})pmKjjd"
        b">lmojtPqGOJ!xqXVV(I)s3f1HneH&<4|id_Zsqi~d9|fZw$~1nHWO$bgs-@JBFei6qb36Asxo<#s4;BRhd~d<sfnbhG0<$t^)oE$@gK%zO"
        b"1xyELVB%s1k`FAKZeJ@WjCtPZ6s4%XC=!ChZ<C{I5t%jB|RQ$q0^0H^%ZVVCdNfJ9HPfzZdmWSrg_I({bPgptf%^rJMcpz`hTS7u<>s9rV"
        b"vW-WSa`T|j+oGk"
    ),
    "IQ3_XXS": ((4, 12, 20, 28, 36, 44, 52, 62), 4,
        b"c-l=-K?=h#3{ye}VW$qZd!FLL9+1HvWO^EVh1sdkoaHp#R7#szmgHo6m{j1}>~2z^o7e*jro|>W6f;suxGq5ThwwrH-tdy3S=*8VCKknJ;"
        b"ww~xN=C-Lt2kc1f`n?I#<sN&{qc;xi`rsIog^>xCi>0vO72GEj+P?`#G30*;dkafo0(MD70~26E5oy)Fh-PS2J_iYxE!Gh>5A3e2Aw8l#L"
        b"z*UZ2xyz&!sE!Xy7=t?heopubnm$;UMyR4j1Wf!f;*xLWT6+u!rw*Hy!tqyDZ17JdzPtf@!~_J7yrh&WtZi"
    ),
    "IQ3_S": ((1, 3, 5, 7, 9, 11, 13, 15), 4,
        b"c-k#dK}rKb5Ud?m7(7iN59ovqtiR~U2pdlmS^v`sIn3TR;sZue5Z@6$Amj-`@D=vV+J}a&>aMEU{rNq)_mDQ1)6rXa`g-zl6)-xV9&D<-%"
        b"sLtw(&E+K!8jAZAn=FIh`{BX?s3iZ9eL!0y{saQwa{i<M_rV8i?Gza!ZNf5Tx$=B>&%}&x2aFnb2>I1DZfG3@eJJ?w}Hf9jj>U<u}qaX$V"
        b"(Q{%bJZi0qBwX8+P2=0D&xpG^*kpx3aC_+^woo1gDy;frCMb5s>PfCelExhl@Z5=M_J&lZwQK<TIaOt1Nd_t_Z4Nkqr(Irw~QLK*sjOloy"
        b"2EUU#sN3YKfvLC9pG+yhGG#kO><KBF1{I~{B$E!8AqIlE}-BNQAl`R33C|JNFjj93D(#a!oZudm_a(c~OHe<Yb)Y4R?AVbTWv01QA~hX"
    ),
    "IQ1_S": ((-1, 0, 1), 8,
        b"c-k#eO>0z16uqyx#k83y_qA0qE*kA7fk#%6iL;cd<W&+S(JE7AEBc6nlGQ*KX*Z#@1057+gows$6w-}Cbfte_m;o2UY|_#*VZa~*x^U%6T"
        b"=`Mm&aUdhx#ygF&eKOplgaU0)cQ?aLaWb`!=%}lC@i-gZEZ5CFdhU_><`D{U2pdIZAiiRBZ^Tjpc--1mjt-&r-O_l7bZy)3*%3zRUeyRXf"
        b"J~s5?<5PM<UK4aB<I3L}>n{hnc{+>K$G67mn>zvR$=UOtZPa7LUsmQWQ2bN)ou!Kj_yfb~LQyR=nku)`P+=g=?+GNRyF#AueD^;Yg67k)H"
        b"G=(os>Uh!rG~(gRxZza2HhyPsM)=qh9|ehXUldkU;_wA!C+2Fv`rcq!34!0Fqz%0;&7#XeAmBu`}t6ci#>+3WlSwzITy{$0C$RU8lhlWki"
        b"bbyz6nxOL=l|4%yAAJ4G^LV^S*V!(*CwdNU%)Qrh$#q9cyW*tq|@QQ}j896#XTv`6q5lhc&*LLPVeEGcad$xT4&D*b^FV9bJ+^}ih*A`2j"
        b"X2rIue$9q9{)`S!jt!g=X1D{vGEMnukjj}Wcvs!oqc~_d61@aP1V3Bvcjc9uWpgt6=l#-;vm1GpU-HX*>(|GJ!F2C{R9{8qA7trFiLFJ0V"
        b"D+S2Ny_0+jiaiUvPbU!Gt<44HyL$nQ%A{iI)xZW(;0iU=zRoe)YSg8LFF!L&Ei&Q)FngSxd==b)ez8IIEAq?gCPR1z1`cE#svx$dBcgrdM"
        b"r~`+vY{G*{j)LdH7J(;|V_S3+rEqj0{aUGZ~5`z3=#nUT2ypkIbf^7Qd%#dKF#22&cWI$B=(k{y*i-P-%7a6aqltG8tC11XWn$8wuQe)#`"
        b"Rb$ezM@h+=MX6ehv4>@KW-1MD8)wE"
    ),
}  # fmt: skip
_SIGNS = np.array([i | (i.bit_count() & 1) << 7 for i in range(128)], np.uint8)  # the eighth makes their number even


@functools.cache
def _book(name: str) -> Floats:
    """The code words, float32[words, length]."""
    levels, length, packed = _BOOKS[name]
    words = np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(packed)), np.uint8)))
    digits = words[:, None] // len(levels) ** np.arange(length) % len(levels)
    book: Floats = np.array(levels, np.float32)[digits]
    return book


def _words(scale: Floats, words: Floats, signs: Bytes) -> Floats:
    """(scale[n, m] * words) with the sign of each element, a set bit meaning minus."""
    n, m = scale.shape
    plus_minus = np.float32(1) - np.float32(2) * _f(_bits(signs.reshape(n, -1)))
    return _runs(scale, words.reshape(n, -1)) * plus_minus.reshape(n, m, -1)


def _half_up(d: Floats, scale: Array, factor: float) -> Floats:
    scaled: Floats = d * (np.float32(0.5) + _f(scale)) * np.float32(factor)
    return scaled


def _iq2_xxs(b: Bytes) -> Floats:
    """Each 8 bytes: four indices, then four times 7 bits of signs and 4 bits of scale."""
    q = _wide(b, 2, 66, "<u4").reshape(len(b), 8, 2)
    index = np.ascontiguousarray(q[:, :, 0]).view(np.uint8)
    signs = _SIGNS[_fields(np.ascontiguousarray(q[:, :, 1]), 1, (0, 7, 14, 21), 127)]
    return _words(_half_up(_f16(b, 0), q[:, :, 1] >> 28, 0.25), _book("IQ2_XXS")[index], signs)


def _iq2_xs(b: Bytes) -> Floats:
    q = _wide(b, 2, 66, "<u2")
    scale = _half_up(_f16(b, 0), _fields(b[:, 66:], 1, _LOW_HIGH, 15), 0.25)
    return _words(scale, _book("IQ2_XS")[q & 511], _SIGNS[q >> 9])


def _iq2_s(b: Bytes) -> Floats:
    q = b[:, 2:34] | _fields(b[:, 66:74], 1, _PAIRS, 3).astype(np.uint16) << 8
    scale = _half_up(_f16(b, 0), _fields(b[:, 74:], 1, _LOW_HIGH, 15), 0.25)
    return _words(scale, _book("IQ2_S")[q], b[:, 34:66])


def _iq3_xxs(b: Bytes) -> Floats:
    s = _wide(b, 66, 98, "<u4")
    signs = _SIGNS[_fields(s, 1, (0, 7, 14, 21), 127)]
    return _words(_half_up(_f16(b, 0), s >> 28, 0.5), _book("IQ3_XXS")[b[:, 2:66]], signs)


def _iq3_s(b: Bytes) -> Floats:
    q = b[:, 2:66] | _bits(b[:, 66:74]).astype(np.uint16) << 8
    scale = _f16(b, 0) * (1 + 2 * _f(_fields(b[:, 106:], 1, _LOW_HIGH, 15)))
    return _words(scale, _book("IQ3_S")[q], b[:, 74:106])


def _iq1(scale: Floats, index: Array, minus: Array) -> Floats:
    """scale * (word + delta), delta an eighth, negative where `minus`."""
    delta = np.where(minus, -_DELTA, _DELTA).reshape(len(index), -1, 1)
    words = _book("IQ1_S")[index].reshape(len(index), delta.shape[1], -1)
    return _runs(scale, words + delta)


def _iq1_s(b: Bytes) -> Floats:
    h = _wide(b, 34, 50, "<u2")
    index = b[:, 2:34] | _fields(h, 1, (0, 3, 6, 9), 7) << 8
    return _iq1(_f16(b, 0) * _f(2 * (h >> 12 & 7) + 1), index, h >= 0x8000)


def _iq1_m(b: Bytes) -> Floats:
    """The only type whose block scale is scattered: a nibble at the top of each of four 16-bit words of scales."""
    s = _wide(b, 48, 56, "<u2")
    top = (s & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    d = np.bitwise_or.reduce(top, axis=1).astype(np.uint16).view(np.float16).astype(np.float32)[:, None]
    h = _fields(b[:, 32:48], 1, _LOW_HIGH, 15)
    index = b[:, :32] | (h & 7).astype(np.uint16) << 8
    return _iq1(d * _f(2 * _fields(s, 1, (0, 3, 6, 9), 7) + 1), index, h & 8)


# ---- blocks of 256: three levels ----


def _tq1_0(b: Bytes) -> Floats:
    """Five levels a byte: the byte is a fraction in base 3, its first digit the integer part of 3 times it."""

    def digits(x: Bytes, run: int, count: int) -> Bytes:
        powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)[:, None]
        return (x.reshape(len(x), -1, 1, run) * powers).reshape(len(x), -1)

    q = np.concatenate([digits(b[:, :32], 32, 5), digits(b[:, 32:48], 16, 5), digits(b[:, 48:52], 4, 4)], axis=1)
    return _f16(b, 52) * _signed(q.astype(np.uint16) * np.uint16(3) >> 8, 1)


def _tq2_0(b: Bytes) -> Floats:
    return _f16(b, 64) * _signed(_fields(b[:, :64], 32, _PAIRS, 3), 1)


def _bf16(b: Bytes) -> Floats:
    return (b.view("<u2").astype(np.uint32) << 16).view(np.float32)


# The numbers by which files name the types. Blocks of types that are not expanded are those of ggml.
TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4, "<f4"), 1: TensorType("F16", 1, 2, "<f2"), 30: TensorType("BF16", 1, 2, "<u2", _bf16),
    24: TensorType("I8", 1, 1, "i1"), 25: TensorType("I16", 1, 2, "<i2"), 26: TensorType("I32", 1, 4, "<i4"),
    27: TensorType("I64", 1, 8, "<i8"), 28: TensorType("F64", 1, 8, "<f8"),
    2: TensorType("Q4_0", 32, 18, None, _q4_0), 3: TensorType("Q4_1", 32, 20, None, _q4_1),
    6: TensorType("Q5_0", 32, 22, None, _q5_0), 7: TensorType("Q5_1", 32, 24, None, _q5_1),
    8: TensorType("Q8_0", 32, 34, None, _q8_0), 9: TensorType("Q8_1", 32, 36),
    20: TensorType("IQ4_NL", 32, 18, None, _iq4_nl), 39: TensorType("MXFP4", 32, 17, None, _mxfp4),
    10: TensorType("Q2_K", 256, 84, None, _q2_k), 11: TensorType("Q3_K", 256, 110, None, _q3_k),
    12: TensorType("Q4_K", 256, 144, None, _q4_k), 13: TensorType("Q5_K", 256, 176, None, _q5_k),
    14: TensorType("Q6_K", 256, 210, None, _q6_k), 15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66, None, _iq2_xxs), 17: TensorType("IQ2_XS", 256, 74, None, _iq2_xs),
    22: TensorType("IQ2_S", 256, 82, None, _iq2_s), 18: TensorType("IQ3_XXS", 256, 98, None, _iq3_xxs),
    21: TensorType("IQ3_S", 256, 110, None, _iq3_s), 19: TensorType("IQ1_S", 256, 50, None, _iq1_s),
    29: TensorType("IQ1_M", 256, 56, None, _iq1_m), 23: TensorType("IQ4_XS", 256, 136, None, _iq4_xs),
    34: TensorType("TQ1_0", 256, 54, None, _tq1_0), 35: TensorType("TQ2_0", 256, 66, None, _tq2_0),
    40: TensorType("NVFP4", 64, 36), 41: TensorType("Q1_0", 128, 18),
}  # fmt: skip
# Numbers that had a meaning once; files with them have to be converted anew.
REMOVED: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip
