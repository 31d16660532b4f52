/* The mirror step: one pass over the dual, and the exact next threshold from a bracket filled in that same pass. */

#define SAMPLES 4096            /* vectors sampled beforehand to place the bracket */
#define SMALL (1 << 17)         /* matrices up to here are ranked whole */
#define SPREAD 6.0              /* the bracket's half width in standard deviations of the sample */
#define CAPACITY(numel) ((numel) / 16 + SMALL)
#define GROUP 4                 /* vectors checked together for candidates */

typedef struct {
    const matrix *dual, *weight, *gradient; /* gradient may be absent */
    const float *r, *p, *q;
    float threshold, step_size, phi;
} step;

/* Magnitudes in [low, high] are kept, those below are counted; the counts always reveal a miss. */
typedef struct {
    int32_t low, high;
    int64_t below, inside, capacity;
    int32_t *key;
} bracket;

/* Every operation rounds once, in the order of the definition. */
static void advance(const step *s, int64_t row, int64_t col, int64_t n, const float *v, float *out) {
    float weight[PIECE], gradient[PIECE], saliency[PIECE];
    const float *restrict w = load(s->weight, row, col, n, weight);
    const float *restrict p = s->p + col, *restrict q = s->q + col;
    const float r = s->r[row], threshold = s->threshold, step_size = s->step_size, phi = s->phi;
    for (int64_t j = 0; j < n; j++) saliency[j] = fabsf(w[j]) * (r * p[j] + q[j]);
    if (s->gradient) {
        const float *restrict g = load(s->gradient, row, col, n, gradient);
        for (int64_t j = 0; j < n; j++) {
            const float product = w[j] * g[j];
            saliency[j] = saliency[j] + phi * (product * product);
        }
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < n; j++) {
        const float excess = fabsf(v[j]) - threshold, sign = (float)((v[j] > 0.0f) - (v[j] < 0.0f));
        const float gamma = sign * (excess < 0.0f ? 0.0f : excess); /* NaN stays */
        out[j] = v[j] + step_size * (saliency[j] - gamma);
    }
}

/* Append the keys inside the bracket; those that no longer fit are only counted. */
static void collect(bracket *b, const int32_t *found, int64_t n) {
    int64_t place;
#pragma omp atomic capture
    { place = b->inside; b->inside += n; }
    if (place + n <= b->capacity) memcpy(b->key + place, found, (size_t)n * sizeof *found);
}

static int64_t sift(bracket *b, const float *value, int64_t n) {
    const int32_t low = b->low, high = b->high;
    int32_t found[PIECE + 1];
    int64_t kept = 0, below = 0, j = 0;
    ints less = {0};
    for (; j + GROUP * LANES <= n; j += GROUP * LANES) {
        ints here = {0};
        for (int k = 0; k < GROUP; k++) {
            const ints key = get_keys(value + j + k * LANES) & MAGNITUDE;
            less += key < low;
            here |= (key >= low) & (key <= high);
        }
        if (!any(here)) continue;
        for (int64_t i = j; i < j + GROUP * LANES; i++) {
            const int32_t key = (int32_t)(as_bits(value[i]) & MAGNITUDE);
            found[kept] = key;
            kept += (key >= low) & (key <= high);
        }
    }
    for (int k = 0; k < LANES; k++) below -= less[k];
    for (; j < n; j++) {
        const int32_t key = (int32_t)(as_bits(value[j]) & MAGNITUDE);
        below += key < low;
        found[kept] = key;
        kept += (key >= low) & (key <= high);
    }
    if (kept) collect(b, found, kept);
    return below;
}

/* Step a sample without storing it, and set the bracket around the magnitude of the wanted rank. */
static void place_bracket(const step *s, int64_t rank, bracket *b) {
    const int64_t rows = s->dual->rows, cols = s->dual->cols, numel = rows * cols;
    b->low = 0, b->high = MAGNITUDE;
    if (numel <= SMALL || cols < LANES) return;
    for (int64_t k = 0; k < SAMPLES; k++) {
        /* rows in turn, columns by a multiplicative sequence that visits them evenly */
        const int64_t row = (int64_t)((double)k / SAMPLES * (double)rows);
        const int64_t col = (int64_t)((uint64_t)k * 0x9e3779b97f4a7c15u % (uint64_t)(cols / LANES)) * LANES;
        float buffer[LANES];
        advance(s, row, col, LANES, load(s->dual, row, col, LANES, buffer), (float *)b->key + k * LANES);
    }
    const double count = SAMPLES * LANES, share = (double)rank / (double)numel;
    const double margin = SPREAD * sqrt(count * share * (1.0 - share)) + LANES;
    const int64_t first = (int64_t)(count * share - margin), last = (int64_t)(count * share + margin);
    if (first >= 1) b->low = select_in_keys(b->key, SAMPLES * LANES, first);
    if (last <= SAMPLES * LANES) b->high = select_in_keys(b->key, SAMPLES * LANES, last);
}

static void sweep(const step *s, bracket *b) {
    const int64_t cols = s->dual->cols;
    int64_t below = 0;
#pragma omp parallel for schedule(static) num_threads(s->dual->threads) reduction(+ : below)
    for (int64_t i = 0; i < s->dual->rows; i++)
        for (int64_t col = 0; col < cols; col += PIECE) {
            const int64_t n = smaller(PIECE, cols - col);
            float buffer[PIECE];
            float *v = (float *)load(s->dual, i, col, n, buffer);
            advance(s, i, col, n, v, v);
            store(s->dual, i, col, n, v);
            if (b) below += sift(b, v, n);
        }
    if (b) b->below = below;
}

/* threshold is read first and written last; rank -1 leaves it unchanged. */
int mirror_step(const matrix *dual, const matrix *weight, const matrix *gradient, const float *r, const float *p,
                const float *q, float *threshold, float step_size, float phi, int64_t rank) {
    const step s = {dual, weight, gradient, r, p, q, *threshold, step_size, phi};
    if (rank <= 0) {
        sweep(&s, NULL);
        if (rank == 0) *threshold = 0.0f;
        return 0;
    }
    bracket b = {.capacity = CAPACITY(dual->rows * dual->cols)};
    b.key = malloc((size_t)b.capacity * sizeof *b.key);
    if (!b.key) return OUT_OF_MEMORY;
    place_bracket(&s, rank, &b);
    sweep(&s, &b);
    int32_t key;
    if (rank <= b.below || rank > b.below + b.inside)
        key = select_in_matrix(dual, rank);
    else if (b.low == b.high)
        key = b.low;
    else if (b.inside > b.capacity)
        key = select_in_matrix(dual, rank);
    else
        key = select_in_keys(b.key, b.inside, rank - b.below);
    free(b.key);
    *threshold = as_float((uint32_t)key);
    return 0;
}
