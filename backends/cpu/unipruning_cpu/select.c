/* Exact selection by magnitude: radix histograms, the mask above a threshold, the largest of each row. */

#define TABLES 4        /* equal neighbours would wait for the same counter; four tables avoid that */
#define MAX_BINS 2048

static const int DIGIT_BITS[3] = {11, 10, 10};
static const int DIGIT_SHIFT[3] = {20, 10, 0};

/* Collect a digit of the keys whose higher digits equal the prefix; returns how many.  Special is the prefix of an
   infinity, the only one that admits NaN. */
static inline __attribute__((always_inline)) int64_t match_digits(const int32_t *key, int64_t n, int32_t prefix, int level,
                                                                  int special, int32_t *digit) {
    const int shift = DIGIT_SHIFT[level];
    const int32_t last = (1 << DIGIT_BITS[level]) - 1;
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t bits = special ? key_of(key[i]) : key[i] & MAGNITUDE;
        digit[found] = bits >> shift & last;
        found += bits >> (shift + DIGIT_BITS[level]) == prefix;
    }
    return found;
}

/* Count a digit of the keys whose higher digits equal the prefix; up to 2^32 equal ones. */
static void count_digits(const int32_t *key, int64_t n, int32_t prefix, int level, uint32_t count[TABLES][MAX_BINS]) {
    const int shift = DIGIT_SHIFT[level];
    int32_t digit[PIECE + TABLES];
    for (int64_t start = 0; start < n; start += PIECE) {
        const int32_t *part = key + start;
        const int64_t length = smaller(PIECE, n - start);
        int64_t found = 0, j = 0;
        if (level == 0)
            for (; found < length; found++) digit[found] = key_of(part[found]) >> shift;
        else if (prefix < INFINITE >> (shift + DIGIT_BITS[level]))
            found = match_digits(part, length, prefix, level, 0, digit);
        else
            found = match_digits(part, length, prefix, level, 1, digit);
        for (; j + TABLES <= found; j += TABLES)
            for (int k = 0; k < TABLES; k++) count[k][digit[j + k]]++;
        for (; j < found; j++) count[0][digit[j]]++;
    }
}

void magnitude_histogram(const matrix *score, int32_t prefix, int level, int64_t *counts) {
#pragma omp parallel num_threads(score->threads)
    {
        uint32_t count[TABLES][MAX_BINS] = {{0}};
        float buffer[PIECE];
#pragma omp for schedule(static)
        for (int64_t i = 0; i < score->rows; i++)
            for (int64_t col = 0; col < score->cols; col += PIECE) {
                const int64_t n = smaller(PIECE, score->cols - col);
                count_digits((const int32_t *)load(score, i, col, n, buffer), n, prefix, level, count);
            }
#pragma omp critical
        for (int b = 0; b < 1 << DIGIT_BITS[level]; b++)
            for (int k = 0; k < TABLES; k++) counts[b] += count[k][b];
    }
}

/* Find the bin of one digit's counts that holds the rank-th; rank becomes the rank inside that bin. */
static int32_t find_bin(const int64_t *counts, int64_t *rank) {
    int32_t bin = 0;
    while (counts[bin] < *rank) *rank -= counts[bin++];
    return bin;
}

/* The rank-th smallest magnitude's bits, counted from 1, from three passes over the matrix. */
static int32_t select_in_matrix(const matrix *score, int64_t rank) {
    int32_t prefix = 0;
    for (int level = 0; level < 3; level++) {
        int64_t counts[MAX_BINS] = {0};
        magnitude_histogram(score, prefix, level, counts);
        prefix = prefix << DIGIT_BITS[level] | find_bin(counts, &rank);
    }
    return prefix;
}

static int32_t select_in_keys(int32_t *key, int64_t n, int64_t rank) {
    const matrix row = {key, 1, n, n, 1, FLOAT32, 1};
    return select_in_matrix(&row, rank);
}

int threshold_mask(const matrix *score, float threshold, int64_t ties, uint8_t *mask) {
    const int64_t cols = score->cols;
    /* NaN ties with infinity */
    const int32_t bound = (int32_t)(as_bits(threshold) & MAGNITUDE), limit = bound < INFINITE ? bound : MAGNITUDE;
    int64_t *equal = calloc((size_t)score->rows + 1, sizeof *equal);
    if (!equal) return OUT_OF_MEMORY;
#pragma omp parallel for schedule(static) num_threads(score->threads)
    for (int64_t i = 0; i < score->rows; i++) {
        float buffer[PIECE];
        for (int64_t col = 0; col < cols; col += PIECE) {
            const int64_t n = smaller(PIECE, cols - col);
            const int32_t *restrict key = (const int32_t *)load(score, i, col, n, buffer);
            uint8_t *restrict to = mask + i * cols + col;
            int32_t same = 0;
            for (int64_t j = 0; j < n; j++) to[j] = (key[j] & MAGNITUDE) > limit;
            for (int64_t j = 0; j < n; j++) same += (key[j] & MAGNITUDE) >= bound & (key[j] & MAGNITUDE) <= limit;
            equal[i] += same;
        }
    }
    /* the first ties in row-major order, looking only into rows that have some */
    for (int64_t i = 0; i < score->rows && ties > 0; i++) {
        float buffer[1];
        for (int64_t j = 0; equal[i] > 0 && ties > 0; j++)
            if ((as_bits(*load(score, i, j, 1, buffer)) & MAGNITUDE) - (uint32_t)bound <= (uint32_t)(limit - bound))
                mask[i * cols + j] = 1, equal[i]--, ties--;
    }
    free(equal);
    return 0;
}

static int64_t count_at_least(const int32_t *key, int64_t padded, int32_t bound) {
    ints count = {0};
    int64_t total = 0;
    for (int64_t j = 0; j < padded; j += LANES) count -= get_keys(key + j) >= bound;
    for (int k = 0; k < LANES; k++) total += count[k];
    return total;
}

/* The largest bound that at least `keep` keys reach: bisection, which ends once exactly `keep` reach it. */
static int32_t bound_of(const int32_t *key, int64_t padded, int64_t keep) {
    int32_t low = 0, high = MAGNITUDE;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2 + 1;
        const int64_t reached = count_at_least(key, padded, middle);
        if (reached == keep) return middle;
        if (reached > keep)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

int topk_mask(const matrix *score, int64_t keep, uint8_t *mask) {
    const int64_t cols = score->cols, padded = (cols + SUMS - 1) / SUMS * SUMS;
    int failed = 0;
#pragma omp parallel num_threads(score->threads) reduction(| : failed)
    {
        int32_t *key = malloc((size_t)(padded + 1) * sizeof *key);
        if (!key) failed = OUT_OF_MEMORY;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < score->rows; i++) {
            if (!key) continue;
            uint8_t *restrict to = mask + i * cols;
            for (int64_t col = 0; col < cols; col += PIECE)
                load_padded(score, i, col, smaller(PIECE, cols - col), (float *)key + col);
            for (int64_t j = 0; j < cols; j++) key[j] = key_of(key[j]);
            for (int64_t j = cols; j < padded; j++) key[j] = -1;
            const int32_t bound = bound_of(key, padded, keep);
            int64_t ties = keep - (bound < MAGNITUDE ? count_at_least(key, padded, bound + 1) : 0);
            for (int64_t j = 0; j < cols; j++) to[j] = key[j] >= bound;
            /* of those equal to the bound, keep only the first */
            if (count_at_least(key, padded, bound) == keep) continue;
            for (int64_t j = 0; j < cols; j++)
                if (key[j] == bound) to[j] = ties-- > 0;
        }
        free(key);
    }
    return failed;
}
