/* The feedback search: the score, the masked weight and the step of the moments, each in one pass. */

#define OCTET 8         /* weights to a byte of a mask */

typedef int32_t octet __attribute__((vector_size(4 * OCTET)));

typedef struct {
    const matrix *weight, *second, *drift; /* drift may be absent */
    const float *r, *p, *q;
    float learning_rate, exponent, pull;
} state;

/* Write W + eta U, the product rounded before the sum; returns the largest |U|. */
static float add_drift(const float *restrict w, const float *restrict u, float learning_rate, int64_t n,
                       float *restrict out) {
    int32_t largest = 0;
    for (int64_t j = 0; j < n; j++) {
        const int32_t magnitude = (int32_t)(as_bits(u[j]) & MAGNITUDE);
        largest = magnitude > largest ? magnitude : largest;
        out[j] = w[j] + learning_rate * u[j];
    }
    return as_float((uint32_t)largest);
}

/* Where to compute what is to be stored in a new matrix. */
static float *in_place(const matrix *a, int64_t row, int64_t col, float *buffer) {
    return a->type == FLOAT32 ? (float *)a->data + row * a->row_stride + col : buffer;
}

/* Ask for the piece after this one, so that memory works while the piece is computed; past the end it does no harm. */
static void fetch_next(const matrix *a, int64_t row, int64_t col, int64_t n) {
    const int size = a->type == FLOAT32 ? 4 : 2;
    const char *next = (const char *)a->data + (row * a->row_stride + (col + n) * a->col_stride) * size;
    if (a->col_stride == 1)
        for (int64_t j = 0; j < PIECE * size; j += 64) __builtin_prefetch(next + j);
}

enum { LOCAL_NONE, LOCAL_FACTORS, LOCAL_POWER };

/* One loop for a root and an exponential, which different units of a processor work out at the same time. */
static inline __attribute__((always_inline)) void score_loop(
    const float *restrict w, const float *restrict v, const float *restrict u, const float *restrict x,
    const float *restrict p, const float *restrict q, const float *restrict power, float r, float pull, int64_t n,
    float *restrict score, int local, int pulled) {
    for (int64_t j = 0; j < n; j++) {
        float product = fabsf(w[j]) * sqrtf(v[j]);
        if (local == LOCAL_FACTORS) product = product * (fabsf(x[j]) * (r * p[j] + q[j]));
        if (local == LOCAL_POWER) product = product * power[j];
        if (pulled) product = product * near_exponential(with_sign(pull * u[j], w[j]));
        score[j] = product;
    }
}

/* n scores of a row, in the order of the definition; returns W + eta U, in the buffer unless it is W in memory. */
static const float *score_piece(const state *s, int64_t row, int64_t col, int64_t n, float *restrict buffer,
                                float *restrict score) {
    ALIGNED float weight[PIECE], second[PIECE], drift[PIECE], power[PIECE];
    const float *w = load(s->weight, row, col, n, s->drift ? weight : buffer), *v = load(s->second, row, col, n, second);
    const float *u = s->drift ? load(s->drift, row, col, n, drift) : w, *x = s->drift ? buffer : w;
    const float *p = s->p + col, *q = s->q + col, r = s->r[row], pull = s->pull;
    fetch_next(s->weight, row, col, n);
    fetch_next(s->second, row, col, n);
    if (s->drift) fetch_next(s->drift, row, col, n);
    const float largest = s->drift ? fabsf(pull) * add_drift(w, u, s->learning_rate, n, buffer) : 0.0f;
    /* where no exponent of e is large there is nothing to split off it, and the bits are the same */
    const int pulled = s->drift && largest <= NEAR;
    if (s->exponent == 0.0f && pulled)
        score_loop(w, v, u, x, p, q, power, r, pull, n, score, LOCAL_NONE, 1);
    else if (s->exponent == 0.0f)
        score_loop(w, v, u, x, p, q, power, r, pull, n, score, LOCAL_NONE, 0);
    else if (s->exponent == 1.0f && pulled)
        score_loop(w, v, u, x, p, q, power, r, pull, n, score, LOCAL_FACTORS, 1);
    else if (s->exponent == 1.0f)
        score_loop(w, v, u, x, p, q, power, r, pull, n, score, LOCAL_FACTORS, 0);
    else {
        for (int64_t j = 0; j < n; j++) power[j] = fabsf(x[j]) * (r * p[j] + q[j]);
        raise(power, s->exponent, n);
        score_loop(w, v, u, x, p, q, power, r, pull, n, score, LOCAL_POWER, pulled);
    }
    if (s->drift && !pulled)
        for (int64_t j = 0; j < n; j++) {
            const float turned = with_sign(pull * u[j], w[j]);
            /* without a sign the exponent is zero, so that no infinity meets a weight of zero */
            score[j] = score[j] * exponential(w[j] == 0.0f ? turned * 0.0f : turned);
        }
    return x;
}

void feedback_scores(const matrix *weight, const matrix *second, const matrix *drift, const float *r, const float *p,
                     const float *q, float learning_rate, float exponent, float pull, const matrix *score) {
    const state s = {weight, second, drift, r, p, q, learning_rate, exponent, pull};
    const int64_t cols = weight->cols;
#pragma omp parallel for schedule(static) num_threads(weight->threads)
    for (int64_t i = 0; i < weight->rows; i++)
        for (int64_t col = 0; col < cols; col += PIECE) {
            ALIGNED float moved[PIECE];
            const int64_t n = smaller(PIECE, cols - col);
            fetch_next(score, i, col, n);
            score_piece(&s, i, col, n, moved, in_place(score, i, col, NULL));
        }
}

/* Bits from bytes that are zero or one; those up to a whole octet are zero. */
static void pack(const uint8_t *kept, int64_t n, uint8_t *bits) {
    for (int64_t j = 0; j < n; j += OCTET) {
        uint64_t together;
        memcpy(&together, kept + j, sizeof together);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        together = __builtin_bswap64(together);
#endif
        /* each product of a byte and a bit of the factor is alone at its place, the wanted ones in the highest byte */
        bits[j / OCTET] = (uint8_t)(together * 0x0102040810204080u >> 56);
    }
}

/* All bits of an fp32 set where the mask keeps; written in whole octets. */
static void unpack(const uint8_t *bits, int64_t n, int32_t *keep) {
    const octet bit = {1, 2, 4, 8, 16, 32, 64, 128};
    for (int64_t j = 0; j < n; j += OCTET) {
        const octet set = bit & (int32_t)bits[j / OCTET], all = (0 - set) >> 31;
        memcpy(keep + j, &all, sizeof all);
    }
}

/* Groups and octets must not straddle two pieces. */
static int64_t masked_piece(int m) {
    int64_t unit = OCTET;
    while (m && unit % m) unit += OCTET;
    return PIECE / unit * unit;
}

/* m is 0 without a pattern. */
void mask_weight(const matrix *weight, const matrix *second, const matrix *drift, const float *r, const float *p,
                 const float *q, float learning_rate, float exponent, float pull, float threshold, float *sample,
                 int64_t sample_stride, int64_t first, int64_t stride, int n, int m, const matrix *masked,
                 uint8_t *bits) {
    const state s = {weight, second, drift, r, p, q, learning_rate, exponent, pull};
    const int64_t cols = weight->cols, piece = masked_piece(m), row_bytes = (cols + OCTET - 1) / OCTET;
    int32_t place[PIECE];
    if (m) number_places(place, m);
#pragma omp parallel for schedule(static) num_threads(weight->threads)
    for (int64_t i = 0; i < weight->rows; i++) {
        ALIGNED int32_t space[MAX_M + PIECE + MAX_M], *restrict key = space + MAX_M;
        ALIGNED float score[PIECE], moved[PIECE], result[PIECE];
        ALIGNED uint8_t kept[PIECE];
        if (m) memset(space, 0, sizeof space);
        for (int64_t col = 0; col < cols; col += piece) {
            const int64_t length = smaller(piece, cols - col), begin = i * cols + col - first;
            const float *restrict x = score_piece(&s, i, col, length, moved, score);
            fetch_next(masked, i, col, length);
            if (m) {
                for (int64_t j = 0; j < length; j++) key[j] = key_of((int32_t)as_bits(score[j]));
                rank_groups(key, place, kept, length, n, m);
                for (int64_t j = 0; j < length; j++) score[j] = kept[j] ? LARGEST : score[j];
            }
            for (int64_t k = begin > 0 ? (begin + stride - 1) / stride : 0; k * stride < begin + length; k++)
                sample[k * sample_stride] = score[k * stride - begin];
            float *restrict to = in_place(masked, i, col, result);
            for (int64_t j = 0; j < length; j++) to[j] = score[j] >= threshold ? x[j] : 0.0f;
            for (int64_t j = 0; j < length; j++) kept[j] = score[j] >= threshold;
            for (int64_t j = length; j % OCTET; j++) kept[j] = 0;
            pack(kept, length, bits + i * row_bytes + col / OCTET);
            store(masked, i, col, length, to);
        }
    }
}

void remask_weight(const matrix *weight, const matrix *drift, const uint8_t *bits, float learning_rate,
                   const matrix *masked) {
    const int64_t cols = weight->cols, row_bytes = (cols + OCTET - 1) / OCTET;
#pragma omp parallel for schedule(static) num_threads(weight->threads)
    for (int64_t i = 0; i < weight->rows; i++)
        for (int64_t col = 0; col < cols; col += PIECE) {
            const int64_t n = smaller(PIECE, cols - col);
            ALIGNED float buffer[PIECE], change[PIECE], result[PIECE];
            ALIGNED int32_t keep[PIECE];
            float *restrict to = in_place(masked, i, col, result);
            fetch_next(weight, i, col, n);
            if (drift) fetch_next(drift, i, col, n);
            fetch_next(masked, i, col, n);
            unpack(bits + i * row_bytes + col / OCTET, n, keep);
            const float *restrict w = load(weight, i, col, n, buffer);
            if (drift) {
                const float *restrict u = load(drift, i, col, n, change);
                for (int64_t j = 0; j < n; j++)
                    to[j] = as_float(as_bits(w[j] + learning_rate * u[j]) & (uint32_t)keep[j]);
            } else
                for (int64_t j = 0; j < n; j++) to[j] = as_float(as_bits(w[j]) & (uint32_t)keep[j]);
            store(masked, i, col, n, to);
        }
}

void feedback_step(const matrix *second, const matrix *drift, const matrix *gradient, float rate, float decay) {
    const int64_t cols = second->cols;
#pragma omp parallel for schedule(static) num_threads(second->threads)
    for (int64_t i = 0; i < second->rows; i++)
        for (int64_t col = 0; col < cols; col += PIECE) {
            const int64_t n = smaller(PIECE, cols - col);
            ALIGNED float buffers[3][PIECE], result[PIECE];
            fetch_next(second, i, col, n);
            fetch_next(gradient, i, col, n);
            if (drift) fetch_next(drift, i, col, n);
            const float *restrict old = load(second, i, col, n, buffers[0]);
            const float *restrict g = load(gradient, i, col, n, buffers[1]);
            if (drift) {
                ALIGNED float moved[PIECE];
                const float *restrict u = load(drift, i, col, n, buffers[2]);
                for (int64_t j = 0; j < n; j++) {
                    const float v = old[j] + decay * (g[j] * g[j] - old[j]), change = g[j] / sqrtf(v);
                    result[j] = v;
                    moved[j] = u[j] - rate * (v == 0.0f ? 0.0f : change);
                }
                store(drift, i, col, n, moved);
            } else
                for (int64_t j = 0; j < n; j++) result[j] = old[j] + decay * (g[j] * g[j] - old[j]);
            store(second, i, col, n, result);
        }
}
