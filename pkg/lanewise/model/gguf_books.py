"""The types of GGUF whose blocks of 256 hold a few levels: signed words of a book (IQ1, IQ2, IQ3); -1, 0, 1 (TQ).

Each is taken apart into a scale, whole numbers that multiply it, and whole levels, whose product is the value: the
formulas of ggml and the `gguf` package, whose halves and eighths are in the scale here. All is exact in float32, as d
has 11 significant bits, a scale five, a level six; so the values are theirs bit for bit, whatever the order.
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gguf_fields import LOW_HIGH, PAIRS, Array, Bytes, Floats, bits, f16, fields, signed, wide

Signed = np.ndarray[Any, np.dtype[np.int8]]

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
_EIGHTH = np.float32(0.125)
_SIGNS = np.array([i | (i.bit_count() & 1) << 7 for i in range(128)], np.uint8)  # the eighth makes their number even


@dataclass(frozen=True, slots=True)
class Parts:
    """n blocks, value = (d * scale) * level. d: float32[n, 1]; scales: int8[n, 8 or 16]; levels: int8[n, 256].

    Each scale goes over its share of the levels.
    """

    d: Floats
    scales: Signed
    levels: Signed


@functools.cache
def book(name: str) -> Signed:
    """The code words, int8[words, length]."""
    levels, length, packed = _BOOKS[name]
    words = np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(packed)), np.uint8)))
    digits = words[:, None] // len(levels) ** np.arange(length) % len(levels)
    found: Signed = np.array(levels, np.int8)[digits]
    return found


def _odd(x: Array) -> Signed:
    """1, 3, 5 ... for scales 0, 1, 2 ..."""
    return (2 * x + 1).astype(np.int8)


def _with_signs(words: Signed, signs: Bytes) -> Signed:
    """A set bit means minus."""
    minus = bits(signs.reshape(len(signs), -1)).view(np.int8)
    return (words.reshape(minus.shape) ^ -minus) + minus


def _iq2_xxs(b: Bytes) -> Parts:
    """Each 8 bytes: four indices, then four times 7 bits of signs and 4 bits of scale."""
    q = wide(b, 2, 66, "<u4").reshape(len(b), 8, 2)
    index = np.ascontiguousarray(q[:, :, 0]).view(np.uint8)
    signs = _SIGNS[fields(np.ascontiguousarray(q[:, :, 1]), 1, (0, 7, 14, 21), 127)]
    return Parts(f16(b, 0) * _EIGHTH, _odd(q[:, :, 1] >> 28), _with_signs(book("IQ2_XXS")[index], signs))


def _iq2_xs(b: Bytes) -> Parts:
    q = wide(b, 2, 66, "<u2")
    scales = _odd(fields(b[:, 66:], 1, LOW_HIGH, 15))
    return Parts(f16(b, 0) * _EIGHTH, scales, _with_signs(book("IQ2_XS")[q & 511], _SIGNS[q >> 9]))


def _iq2_s(b: Bytes) -> Parts:
    q = b[:, 2:34] | fields(b[:, 66:74], 1, PAIRS, 3).astype(np.uint16) << 8
    scales = _odd(fields(b[:, 74:], 1, LOW_HIGH, 15))
    return Parts(f16(b, 0) * _EIGHTH, scales, _with_signs(book("IQ2_S")[q], b[:, 34:66]))


def _iq3_xxs(b: Bytes) -> Parts:
    s = wide(b, 66, 98, "<u4")
    signs = _SIGNS[fields(s, 1, (0, 7, 14, 21), 127)]
    return Parts(f16(b, 0) * np.float32(0.25), _odd(s >> 28), _with_signs(book("IQ3_XXS")[b[:, 2:66]], signs))


def _iq3_s(b: Bytes) -> Parts:
    q = b[:, 2:66] | bits(b[:, 66:74]).astype(np.uint16) << 8
    scales = _odd(fields(b[:, 106:], 1, LOW_HIGH, 15))
    return Parts(f16(b, 0), scales, _with_signs(book("IQ3_S")[q], b[:, 74:106]))


def _iq1(d: Floats, scales: Array, index: Array, minus: Array) -> Parts:
    """In eighths: words and an eighth more, or less where `minus`."""
    delta = np.where(minus, np.int8(-1), np.int8(1)).reshape(len(index), -1, 1)
    words = book("IQ1_S")[index].reshape(len(index), delta.shape[1], -1)
    return Parts(d * _EIGHTH, _odd(scales), (8 * words + delta).reshape(len(index), -1))


def _iq1_s(b: Bytes) -> Parts:
    h = wide(b, 34, 50, "<u2")
    index = b[:, 2:34] | fields(h, 1, (0, 3, 6, 9), 7) << 8
    return _iq1(f16(b, 0), h >> 12 & 7, index, h >= 0x8000)


def _iq1_m(b: Bytes) -> Parts:
    """The only type whose block scale is scattered: a nibble at the top of each of four 16-bit words of scales."""
    s = wide(b, 48, 56, "<u2")
    top = (s & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    d = np.bitwise_or.reduce(top, axis=1).astype(np.uint16).view(np.float16).astype(np.float32)[:, None]
    h = fields(b[:, 32:48], 1, LOW_HIGH, 15)
    index = b[:, :32] | (h & 7).astype(np.uint16) << 8
    return _iq1(d, fields(s, 1, (0, 3, 6, 9), 7), index, h & 8)


def _tq1_0(b: Bytes) -> Parts:
    """Five levels a byte: the byte is a fraction in base 3, its first digit the integer part of 3 times it."""

    def digits(x: Bytes, run: int, count: int) -> Bytes:
        powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)[:, None]
        return (x.reshape(len(x), -1, 1, run) * powers).reshape(len(x), -1)

    q = np.concatenate([digits(b[:, :32], 32, 5), digits(b[:, 32:48], 16, 5), digits(b[:, 48:52], 4, 4)], axis=1)
    return _three(f16(b, 52), q.astype(np.uint16) * np.uint16(3) >> 8)


def _tq2_0(b: Bytes) -> Parts:
    return _three(f16(b, 64), fields(b[:, :64], 32, PAIRS, 3))


def _three(d: Floats, q: Array) -> Parts:
    return Parts(d, np.ones((len(q), 16), np.int8), signed(q, 1).astype(np.int8))


PARTS: dict[str, Callable[[Bytes], Parts]] = {
    "IQ2_XXS": _iq2_xxs, "IQ2_XS": _iq2_xs, "IQ2_S": _iq2_s, "IQ3_XXS": _iq3_xxs, "IQ3_S": _iq3_s, "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m, "TQ1_0": _tq1_0, "TQ2_0": _tq2_0,
}  # fmt: skip
