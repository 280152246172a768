/* angles.c - cos and sin of rotary angles, the same bits on every machine (libm's differ between versions and CPUs).
 *
 * position * inv_freq is exact in float64 (31 + 24 bits < 53 for positions below 2^29); the angle is reduced by pi/2 in three parts
 * (Cody and Waite 1980: the first two have 33 bits, so their products with quadrants below 2^20 are exact), and sine and cosine of the rest,
 * |r| <= pi/4, come from their Taylor series, cut where the next term is below 1e-16. Rounded once to float32. */
#include "context.h"
#include <math.h>

static const double HALF_PI_1 = 0x1.921fb544p+0, HALF_PI_2 = 0x1.0b4611a6p-34, HALF_PI_3 = 0x1.3198a2e037073p-69;
static const double TWO_OVER_PI = 0x1.45f306dc9c883p-1;
static const double REDUCIBLE = 1.6e6;   /* about 2^20 quadrants */

static double sine(double r) {   /* sum (-1)^i r^(2i+1) / (2i+1)! */
    double z = r * r, s = 0.0;
    static const double c[] = {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                               -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0};
    for (int i = 0; i < 7; i++) s = s * z + c[i];
    return r + r * (z * s);
}

static double cosine(double r) {   /* sum (-1)^i r^(2i) / (2i)! */
    double z = r * r, s = 0.0;
    static const double c[] = {1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                               1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5};
    for (int i = 0; i < 8; i++) s = s * z + c[i];
    return 1.0 + z * s;
}

void lw_angles(int32_t position, int pairs, const float *inv_freq, float factor, float *cos_out, float *sin_out) {
    for (int i = 0; i < pairs; i++) {
        double angle = (double)position * (double)inv_freq[i], c, s;
        if (fabs(angle) < REDUCIBLE) {
            double quadrants = floor(angle * TWO_OVER_PI + 0.5);
            double r = ((angle - quadrants * HALF_PI_1) - quadrants * HALF_PI_2) - quadrants * HALF_PI_3;
            double cr = cosine(r), sr = sine(r);
            int q = (int)quadrants & 3;
            c = q == 0 ? cr : q == 1 ? -sr : q == 2 ? -cr : sr;
            s = q == 0 ? sr : q == 1 ? cr : q == 2 ? -sr : -cr;
        } else {
            c = cos(angle), s = sin(angle);
        }
        cos_out[i] = (float)c * factor;
        sin_out[i] = (float)s * factor;
    }
}
