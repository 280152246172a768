"""Derives the polynomial coefficients in csrc/vec/math.h and prints them as C float literals.

Each fit minimises the largest relative error on an interval: weighted least squares at Chebyshev nodes, the weights
raised where the error is largest (Lawson's iteration), in float64 with reference values from mpmath. The coefficients
are then rounded to float32; the errors printed are those of the rounded polynomial, in units of 2^-24.
Run it with: python tools/fit_polynomials.py (needs numpy and mpmath).
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 40
U = 2.0**-24


def values(f, xs):
    return np.array([float(f(mp.mpf(float(x)))) for x in xs])


def fit(f, lo, hi, degree, weight, steps=60, nodes=400):
    """Coefficients (ascending) of p with weight * |p - f| about minimax on [lo, hi]."""
    u = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    xs = (hi + lo) / 2 + (hi - lo) / 2 * u
    y, w = values(f, xs), np.array([float(weight(mp.mpf(float(x)))) for x in xs])
    basis = np.polynomial.chebyshev.chebvander(u, degree)
    lawson = np.ones(nodes)
    for _ in range(steps):
        root = np.sqrt(lawson) * w
        c = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs(basis @ c - y) * w
        lawson *= error / error.mean() + 1e-3
        lawson /= lawson.mean()
    p = np.polynomial.Polynomial(np.polynomial.chebyshev.cheb2poly(c), domain=[lo, hi])
    return p.convert(domain=[-1, 1], window=[-1, 1]).coef.astype(np.float32)


def show(name, c, f, lo, hi, weight):
    xs = np.linspace(lo, hi, 2001)
    w = np.array([float(weight(mp.mpf(float(x)))) for x in xs])
    error = np.max(np.abs(np.polynomial.polynomial.polyval(xs, c.astype(float)) - values(f, xs)) * w) / U
    print(f"{name}: degree {len(c) - 1}, error {error:.3f} u")
    print("   ", ", ".join(f"{float(v):.9g}f" for v in c))


def near(x, f, limit):
    return limit if abs(x) < mp.mpf(10) ** -9 else f(x)


def split(name, value):
    hi = np.float32(float(value))
    print(f"{name}: {float(hi):.9g}f + {float(value - mp.mpf(float(hi))):.9g}f")


def main():
    # exp(r) = 1 + r + r^2 q(r), abs(r) <= ln2 / 2 (and a little, for the rounding of the reduction)
    def q(r):
        return near(r, lambda x: (mp.exp(x) - 1 - x) / x**2, mp.mpf(1) / 2)

    def wq(r):
        return r**2 / mp.exp(r)

    for degree in (3, 4):
        show("exp q", fit(q, -0.3470, 0.3470, degree, wq), q, -0.3470, 0.3470, wq)

    # tanh(x) = x + x s p(s), s = x^2, abs(x) <= 0.625
    def p(s):
        return near(s, lambda v: (mp.tanh(mp.sqrt(v)) / mp.sqrt(v) - 1) / v, -mp.mpf(1) / 3)

    def wp(s):
        return near(s, lambda v: v * mp.sqrt(v) / mp.tanh(mp.sqrt(v)), mp.mpf(0))

    for degree in (3, 4):
        show("tanh p", fit(p, 0.0, 0.3908, degree, wp), p, 0.0, 0.3908, wp)

    # upper tail of the normal distribution: Q(t) = exp(-t^2 / 2) (1/2 + w g(w)) / (1 + 2 t), w = t / (t + 3), t <= 15
    def g(w):
        def value(w):
            t = 3 * w / (1 - w)
            return (mp.erfc(t / mp.sqrt(2)) / 2 * mp.exp(t * t / 2) * (1 + 2 * t) - mp.mpf(1) / 2) / w

        return near(w, value, 3 * (1 - 1 / mp.sqrt(2 * mp.pi)))

    def wg(w):
        return w / (mp.mpf(1) / 2 + w * g(w))

    for degree in (7, 8, 9):
        show("tail g", fit(g, 0.0, 5 / 6, degree, wg), g, 0.0, 5 / 6, wg)

    split("ln 2", mp.log(2))
    split("log2 e", 1 / mp.log(2))
    split("2 sqrt(2/pi)", 2 * mp.sqrt(2 / mp.pi))
    split("2 sqrt(2/pi) 0.044715", 2 * mp.sqrt(2 / mp.pi) * mp.mpf("0.044715"))


if __name__ == "__main__":
    main()
