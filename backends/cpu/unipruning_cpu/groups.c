/* N:M: the n largest of every m neighbours, and the proximal step that leads there. */

#define MAX_M 32
#define SWEEPS 16       /* of coordinate descent, as the definition has it */

/* Rank each element by the number of elements ahead of it; of equals the earlier one is ahead. */
static inline __attribute__((always_inline)) void rank_piece(const int32_t *key, const int32_t *place, uint8_t *mask,
                                                             int64_t n_columns, int n, int m) {
    for (int64_t j = 0; j < n_columns; j += LANES) {
        const ints mine = get_keys(key + j), at = get_keys(place + j);
        ints ahead = {0};
        for (int d = 1; d < m; d++) {
            ahead -= (get_keys(key + j + d) > mine) & (at < m - d);
            ahead -= (get_keys(key + j - d) >= mine) & (at >= d);
        }
        const bytes kept = __builtin_convertvector(ahead < n, bytes) & 1;
        memcpy(mask + j, &kept, sizeof kept);
    }
}

static void rank_groups(const int32_t *key, const int32_t *place, uint8_t *mask, int64_t length, int n, int m) {
    if (m == 4)
        rank_piece(key, place, mask, length, n, 4);
    else if (m == 8)
        rank_piece(key, place, mask, length, n, 8);
    else
        rank_piece(key, place, mask, length, n, m);
}

static void number_places(int32_t place[PIECE], int m) {
    for (int j = 0; j < PIECE; j++) place[j] = j % m;
}

int nm_mask(const matrix *score, int n, int m, uint8_t *mask) {
    const int64_t cols = score->cols, piece = PIECE / m * m;
    int32_t place[PIECE];
    number_places(place, m);
#pragma omp parallel for schedule(static) num_threads(score->threads)
    for (int64_t i = 0; i < score->rows; i++) {
        int32_t space[MAX_M + PIECE + MAX_M] = {0}, *key = space + MAX_M;
        uint8_t kept[PIECE];
        for (int64_t col = 0; col < cols; col += piece) {
            const int64_t length = smaller(piece, cols - col);
            load_padded(score, i, col, length, (float *)key);
            for (int64_t j = 0; j < length; j++) key[j] = key_of(key[j]);
            rank_groups(key, place, kept, length, n, m);
            memcpy(mask + i * cols + col, kept, (size_t)length);
        }
    }
    return 0;
}

static inline floats pick(ints condition, floats yes, floats no) {
    return (floats)(((ints)yes & condition) | ((ints)no & ~condition));
}

static inline floats positive_part(floats v) { return (floats)((ints)v & (v > 0.0f)); }

/* The order in which torch adds up a row: short ones in four running sums, longer ones in eight without the tail. */
static floats total(const floats *term, int n) {
    const int width = n < 8 ? 4 : 8, whole = n / width * width;
    floats sum[8], result;
    for (int k = 0; k < whole; k++) sum[k % width] = k < width ? term[k] : sum[k % width] + term[k];
    if (n >= 8 || !whole) {
        result = whole < n ? term[whole] : sum[0];
        for (int k = whole + 1; k < n; k++) result += term[k];
        for (int k = whole < n ? 0 : 1; k < width && whole; k++) result += sum[k];
        return result;
    }
    for (int k = whole; k < n; k++) sum[0] += term[k];
    return ((sum[0] + sum[1]) + sum[2]) + sum[3];
}

/* product = polynomial * (1 + root x), coefficients 0..degree; the two may be the same. */
static void times(const floats *polynomial, floats root, int degree, floats *product) {
    for (int d = degree; d > 0; d--) product[d] = polynomial[d] + root * polynomial[d - 1];
    product[0] = polynomial[0];
}

static void one(floats *polynomial, int degree) {
    memset(polynomial, 0, (size_t)(degree + 1) * sizeof *polynomial);
    polynomial[0] += 1.0f;
}

/* Rounds of exact coordinate descent, smallest first; stops after a round that changes nothing. */
static void descend(floats *w, const floats *z, int size, float strength, int n) {
    floats left[MAX_M][MAX_M], right[MAX_M], term[MAX_M];
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        ints moved = {0};
        one(left[0], n);
        for (int j = 0; j < size - 1; j++) times(left[j], w[j], n, left[j + 1]);
        one(right, n);
        for (int i = size - 1; i >= 0; i--) {
            for (int d = 0; d <= n; d++) term[d] = left[i][d] * right[n - d];
            const floats next = positive_part(z[i] - strength * total(term, n + 1));
            moved |= next != w[i];
            w[i] = next;
            times(right, next, n, right);
        }
        if (!any(moved)) return;
    }
}

static void best_of_supports(const floats *z, floats *best, float strength, int n, int m) {
    floats candidate[MAX_M], term[MAX_M], polynomial[MAX_M + 1], best_cost = {0};
    for (int support = n; support <= m; support++) {
        for (int i = 0; i < m; i++) candidate[i] = i < support ? z[i] : z[i] * 0.0f;
        if (support > n) descend(candidate, z, support, strength, n);
        one(polynomial, n + 1);
        for (int i = 0; i < support; i++) times(polynomial, candidate[i], n + 1, polynomial);
        for (int i = 0; i < m; i++) term[i] = (candidate[i] - z[i]) * (candidate[i] - z[i]);
        const floats cost = 0.5f * total(term, m) + strength * polynomial[n + 1];
        const ints better = support == n ? cost == cost : cost < best_cost;
        for (int i = 0; i < m; i++) best[i] = pick(better, candidate[i], best[i]);
        best_cost = pick(better, cost, best_cost);
    }
}

/* One group per lane: sort by exchanging strictly larger neighbours, so that equals keep their order.
   A group that is not finite stays. */
static void prox_groups(float *x, float strength, int n, int m) {
    floats z[MAX_M], best[MAX_M];
    ints order[MAX_M], finite = (ints){0} == 0;
    for (int i = 0; i < m; i++)
        for (int k = 0; k < LANES; k++) z[i][k] = fabsf(x[k * m + i]), order[i][k] = i;
    for (int i = 0; i < m; i++) finite &= z[i] <= LARGEST;
    for (int i = 0; i < m; i++)
        for (int j = m - 1; j > i; j--) {
            const ints swap = z[j] > z[j - 1], moved = (order[j] ^ order[j - 1]) & swap;
            const floats upper = pick(swap, z[j], z[j - 1]);
            z[j] = pick(swap, z[j - 1], z[j]);
            z[j - 1] = upper;
            order[j] ^= moved;
            order[j - 1] ^= moved;
        }
    memset(best, 0, sizeof best);
    best_of_supports(z, best, strength, n, m);
    for (int i = 0; i < m; i++)
        for (int k = 0; k < LANES; k++) {
            float *to = x + k * m + order[i][k];
            if (finite[k]) *to = best[i][k] * (float)((*to > 0.0f) - (*to < 0.0f));
        }
}

int nm_prox(const matrix *weight, float strength, int n, int m) {
    const int64_t cols = weight->cols, piece = LANES * m;
#pragma omp parallel for schedule(static) num_threads(weight->threads)
    for (int64_t i = 0; i < weight->rows; i++) {
        float x[LANES * MAX_M];
        for (int64_t col = 0; col < cols; col += piece) {
            const int64_t length = smaller(piece, cols - col);
            const float *from = load(weight, i, col, length, x);
            if (from != x) memcpy(x, from, (size_t)length * sizeof *x);
            memset(x + length, 0, (size_t)(piece - length) * sizeof *x);
            prox_groups(x, strength, n, m);
            store(weight, i, col, length, x);
        }
    }
    return 0;
}
