/* Sums over rows and columns: fp32 over four or sixteen rows or one piece, fp64 beyond, in an order no thread count changes. */

#define BLOCK 128       /* rows whose column sums one thread makes; fixed, so that the order of additions is fixed */
#define QUAD 4          /* rows taken together, so that a column's fp64 total is touched once for four elements */

/* wider than a register, but compiled well, since nothing here compares */
typedef float terms __attribute__((vector_size(4 * SUMS)));
typedef int32_t term_bits __attribute__((vector_size(4 * SUMS)));
typedef double doubles __attribute__((vector_size(8 * SUMS)));

static inline terms get_terms(const float *from) {
    terms v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Four rows of a piece, rows past the end as zeros. */
static void load_quad(const matrix *a, int64_t row, int64_t col, int64_t n, float buffer[QUAD][PIECE],
                      const float *from[QUAD]) {
    for (int k = 0; k < QUAD; k++) {
        from[k] = buffer[k];
        if (row + k >= a->rows)
            memset(buffer[k], 0, sizeof buffer[k]);
        else if (n % SUMS)
            load_padded(a, row + k, col, n, buffer[k]);
        else
            from[k] = load(a, row + k, col, n, buffer[k]);
    }
}

static inline void add_columns(double *total, terms sum, int64_t n) {
    doubles wide;
    memcpy(&wide, total, (size_t)smaller(n, SUMS) * sizeof *total);
    wide += __builtin_convertvector(sum, doubles);
    memcpy(total, &wide, (size_t)smaller(n, SUMS) * sizeof *total);
}

static double across(const doubles *v) {
    double sum = 0.0;
    for (int k = 0; k < SUMS; k++) sum += (*v)[k];
    return sum;
}

/* Column sums of each block of rows, all zero; one block more than the rows fill, so that there is always one. */
static double *make_blocks(int64_t blocks, int64_t cols) {
    return calloc((size_t)(blocks + 1) * (size_t)(cols + 1), sizeof(double));
}

static void add_blocks(double *partial, int64_t blocks, int64_t cols) {
    for (int64_t b = 1; b < blocks; b++)
        for (int64_t j = 0; j < cols; j++) partial[j] += partial[b * cols + j];
}

static void quad_sums(const matrix *a, int64_t row, const float *factor, float *rows, float *weighted,
                      double *columns) {
    float buffer[QUAD][PIECE];
    const float *from[QUAD];
    doubles plain_total[QUAD] = {0}, weighted_total[QUAD] = {0};
    for (int64_t col = 0; col < a->cols; col += PIECE) {
        const int64_t n = smaller(PIECE, a->cols - col);
        terms plain[QUAD] = {0}, times[QUAD] = {0};
        load_quad(a, row, col, n, buffer, from);
        for (int64_t j = 0; j < n; j += SUMS) {
            terms w[QUAD], f = get_terms(factor + col + j);
            for (int k = 0; k < QUAD; k++) {
                w[k] = (terms)((term_bits)get_terms(from[k] + j) & MAGNITUDE);
                plain[k] += w[k];
                times[k] += w[k] * f;
            }
            add_columns(columns + col + j, (w[0] + w[1]) + (w[2] + w[3]), n - j);
        }
        for (int k = 0; k < QUAD; k++) {
            plain_total[k] += __builtin_convertvector(plain[k], doubles);
            weighted_total[k] += __builtin_convertvector(times[k], doubles);
        }
    }
    for (int k = 0; k < QUAD && row + k < a->rows; k++) {
        rows[row + k] = (float)across(&plain_total[k]);
        weighted[row + k] = (float)across(&weighted_total[k]);
    }
}

/* factor is readable, and zero, up to the next whole vector. */
int abs_sums(const matrix *a, const float *factor, float *rows, float *columns, float *weighted) {
    const int64_t blocks = (a->rows + BLOCK - 1) / BLOCK;
    double *partial = make_blocks(blocks, a->cols);
    if (!partial) return OUT_OF_MEMORY;
#pragma omp parallel for schedule(dynamic) num_threads(a->threads)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = b * BLOCK; i < smaller((b + 1) * BLOCK, a->rows); i += QUAD)
            quad_sums(a, i, factor, rows, weighted, partial + b * a->cols);
    add_blocks(partial, blocks, a->cols);
    for (int64_t j = 0; j < a->cols; j++) columns[j] = (float)partial[j];
    free(partial);
    return 0;
}

int accumulate_sumsq(const matrix *x, float *out, int64_t out_stride) {
    const int64_t blocks = (x->rows + BLOCK - 1) / BLOCK;
    double *partial = make_blocks(blocks, x->cols);
    if (!partial) return OUT_OF_MEMORY;
#pragma omp parallel for schedule(dynamic) num_threads(x->threads)
    for (int64_t b = 0; b < blocks; b++) {
        float buffer[4 * QUAD][PIECE];
        const float *from[4 * QUAD];
        for (int64_t i = b * BLOCK; i < smaller((b + 1) * BLOCK, x->rows); i += 4 * QUAD)
            for (int64_t col = 0; col < x->cols; col += PIECE) {
                const int64_t n = smaller(PIECE, x->cols - col);
                for (int k = 0; k < 4 * QUAD; k += QUAD) load_quad(x, i + k, col, n, buffer + k, from + k);
                for (int64_t j = 0; j < n; j += SUMS) {
                    terms sum[QUAD] = {0};
                    for (int k = 0; k < 4 * QUAD; k++) sum[k % QUAD] += get_terms(from[k] + j) * get_terms(from[k] + j);
                    add_columns(partial + b * x->cols + col + j, (sum[0] + sum[1]) + (sum[2] + sum[3]), n - j);
                }
            }
    }
    add_blocks(partial, blocks, x->cols);
    for (int64_t j = 0; j < x->cols; j++) out[j * out_stride] += (float)partial[j];
    free(partial);
    return 0;
}
