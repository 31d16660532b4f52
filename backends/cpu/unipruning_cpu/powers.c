/* An exponential and a power that the compiler turns into vectors. */

#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f           /* ten bits, so that its product with any exponent of an fp32 is exact */
#define LN2_LOW -2.12194440e-4f
#define NEAR 0.34f                      /* less than ln(2) / 2, beyond which an exponential takes out a power of two */
#define ROUND_FLOAT 0x1.8p23f           /* adding it leaves the nearest integer in the low bits */
#define ROUND_DOUBLE 0x1.8p52
#define ROOT_HALF 0x3fe6a09e667f3bcdu   /* bits of the fp64 sqrt(1/2) */

static inline double as_double(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t double_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* x sign(y), for a y that is not zero. */
static inline float with_sign(float x, float y) { return as_float(as_bits(x) ^ (as_bits(y) & ~(uint32_t)MAGNITUDE)); }

/* 2^n for a normal result. */
static inline float binade(int32_t n) { return as_float((uint32_t)(n + 127) << 23); }

/* e^r to two ulps for |r| <= ln(2) / 2: the polynomial of degree 5 with the least relative error. */
static inline float near_exponential(float r) {
    float series = 0x1.106206p-7f;
    series = series * r + 0x1.572b10p-5f;
    series = series * r + 0x1.5557b2p-3f;
    series = series * r + 0x1.fffdfap-2f;
    return (series * r) * r + r + 1.0f;
}

/* e^x as precisely; beyond the bounds it is infinite or zero anyway. */
static inline float exponential(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * LOG2_E + ROUND_FLOAT, whole = shifted - ROUND_FLOAT;
    const float rest = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    /* in two halves: 2^n alone may not be normal, and the second product rounds into the denormals once */
    const int32_t n = (int32_t)(as_bits(shifted) - as_bits(ROUND_FLOAT)), half = n >> 1;
    return (near_exponential(rest) * binade(half)) * binade(n - half);
}

/* base^exponent, both positive, as 2^(exponent log2(base)) in fp64: there every fp32 is normal, and the error of the
   logarithm, 1e-10 of it, stays small when the exponent multiplies it. */
static inline float positive_power(float base, double exponent) {
    /* base = 2^k m with m in [sqrt(1/2), sqrt(2)); the bias keeps k positive, for vectors lack a signed shift */
    const uint64_t bits = double_bits((double)base) - ROOT_HALF + (1024ull << 52);
    const double k = as_double(bits >> 52 | 0x433ull << 52) - (0x1p52 + 1024.0);
    const double m = as_double((bits & 0xfffffffffffffull) + ROOT_HALF);
    /* log(m) = 2 artanh(s) */
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    double series = 1.0 / 11.0;
    series = series * square + 1.0 / 9.0;
    series = series * square + 1.0 / 7.0;
    series = series * square + 1.0 / 5.0;
    series = series * square + 1.0 / 3.0;
    series = series * square + 1.0;
    double y = exponent * (k + s * series * (2.0 * M_LOG2E));
    y = y > 200.0 ? 200.0 : y;
    y = y < -200.0 ? -200.0 : y;
    const double shifted = y + ROUND_DOUBLE, r = (y - (shifted - ROUND_DOUBLE)) * M_LN2;
    double power = 1.0 / 5040.0;
    power = power * r + 1.0 / 720.0;
    power = power * r + 1.0 / 120.0;
    power = power * r + 1.0 / 24.0;
    power = power * r + 1.0 / 6.0;
    power = power * r + 0.5;
    power = power * r + 1.0;
    power = power * r + 1.0;
    return (float)(power * as_double((double_bits(shifted) + 1023) << 52));
}

/* Raise to a power in place.  Exponents that torch treats specially give the same bits as in torch. */
static void raise(float *restrict v, float exponent, int64_t n) {
    if (exponent == 0.5f)
        for (int64_t j = 0; j < n; j++) v[j] = sqrtf(v[j]);
    else if (exponent == 2.0f)
        for (int64_t j = 0; j < n; j++) v[j] = v[j] * v[j];
    else
        for (int64_t j = 0; j < n; j++) {
            const float power = positive_power(v[j], (double)exponent);
            v[j] = v[j] == 0.0f || !(v[j] <= LARGEST) ? v[j] : power; /* infinity and NaN stay */
        }
}
