/* The blend of two scores: one pass, with an exponential and a power that the compiler turns into vectors. */

#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f           /* ten bits, so that its product with any exponent of an fp32 is exact */
#define LN2_LOW -2.12194440e-4f
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

/* 2^n for a normal result. */
static inline float binade(int32_t n) { return as_float((uint32_t)(n + 127) << 23); }

/* e^x to about an ulp; beyond the bounds it is infinite or zero anyway. */
static inline float exponential(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * LOG2_E + ROUND_FLOAT, whole = shifted - ROUND_FLOAT;
    const float r = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    float series = 1.0f / 5040.0f;
    series = series * r + 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = (series * r) * r + r + 1.0f;
    /* in two halves: 2^n alone may not be normal, and the second product rounds into the denormals once */
    const int32_t n = (int32_t)(as_bits(shifted) - as_bits(ROUND_FLOAT)), half = n >> 1;
    return (series * binade(half)) * binade(n - half);
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

/* Exponents that torch treats specially give the same bits as in torch. */
static const float *raise(const float *restrict v, float exponent, int64_t n, float *restrict buffer) {
    if (exponent == 1.0f) return v;
    if (exponent == 0.0f)
        for (int64_t j = 0; j < n; j++) buffer[j] = 1.0f;
    else if (exponent == 0.5f)
        for (int64_t j = 0; j < n; j++) buffer[j] = sqrtf(v[j]);
    else if (exponent == 2.0f)
        for (int64_t j = 0; j < n; j++) buffer[j] = v[j] * v[j];
    else
        for (int64_t j = 0; j < n; j++) {
            const float power = positive_power(v[j], (double)exponent);
            buffer[j] = v[j] == 0.0f ? 0.0f : power;
        }
    return buffer;
}

/* Products in the order of the definition, so that the same ones overflow; drift, or both weight and drift, may be
   absent. */
void blend_scores(const matrix *feedback, const matrix *local, float exponent, const matrix *weight,
                  const matrix *drift, float pull, float *out) {
    const int64_t cols = local->cols;
#pragma omp parallel for schedule(static) num_threads(local->threads)
    for (int64_t i = 0; i < local->rows; i++)
        for (int64_t col = 0; col < cols; col += PIECE) {
            const int64_t n = smaller(PIECE, cols - col);
            float buffers[5][PIECE], *restrict score = out + i * cols + col;
            const float *restrict f = load(feedback, i, col, n, buffers[0]);
            const float *restrict v = raise(load(local, i, col, n, buffers[1]), exponent, n, buffers[2]);
            if (!weight) {
                for (int64_t j = 0; j < n; j++) score[j] = sqrtf(f[j]) * v[j];
                continue;
            }
            const float *restrict w = load(weight, i, col, n, buffers[3]);
            if (!drift) {
                for (int64_t j = 0; j < n; j++) score[j] = sqrtf(f[j]) * v[j] * fabsf(w[j]);
                continue;
            }
            const float *restrict d = load(drift, i, col, n, buffers[4]);
            for (int64_t j = 0; j < n; j++) {
                const float force = pull * d[j], signed_force = w[j] < 0.0f ? -force : force;
                score[j] = sqrtf(f[j]) * v[j] * fabsf(w[j]) * exponential(w[j] == 0.0f ? 0.0f : signed_force);
            }
        }
}
