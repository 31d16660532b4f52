/* Sums over rows and columns: fp32 over sixteen rows or one piece, fp64 beyond, in an order no thread count changes. */

#define BLOCK 128       /* rows whose column sums one thread makes; fixed, so that the order of additions is fixed */
#define QUAD 4          /* sums made side by side, since each addition waits for the one before it */
#define ROWS 16         /* rows taken together, so that a column's fp64 total is touched once for sixteen elements */

/* Column sums of each block of rows, all zero; one block more than the rows fill, so that there is always one. */
static double *make_blocks(int64_t blocks, int64_t cols) {
    return calloc((size_t)(blocks + 1) * (size_t)(cols + 1), sizeof(double));
}

static void add_blocks(double *partial, int64_t blocks, int64_t cols) {
    for (int64_t b = 1; b < blocks; b++)
        for (int64_t j = 0; j < cols; j++) partial[j] += partial[b * cols + j];
}

/* Sixteen rows of a piece, zero past the last row and up to the next whole vector. */
static void load_rows(const matrix *a, int64_t row, int64_t col, int64_t n, float buffer[ROWS][PIECE],
                      const float *from[ROWS]) {
    for (int k = 0; k < ROWS; k++) {
        from[k] = buffer[k];
        if (row + k >= a->rows)
            memset(buffer[k], 0, sizeof buffer[k]);
        else if (n % SUMS)
            load_padded(a, row + k, col, n, buffer[k]);
        else
            from[k] = load(a, row + k, col, n, buffer[k]);
    }
}

static float across(float part[SUMS]) {
    for (int width = SUMS / 2; width; width /= 2)
        for (int k = 0; k < width; k++) part[k] += part[k + width];
    return part[0];
}

static void weigh_rows(const float *const w[ROWS], const float *factor, int64_t n, double total[ROWS]) {
    for (int i = 0; i < ROWS; i += QUAD) {
        ALIGNED float part[QUAD][SUMS];
        for (int lane = 0; lane < SUMS; lane += LANES) {
            floats sum[QUAD] = {0};
            for (int64_t j = lane; j < n; j += SUMS) {
                const floats f = get_floats(factor + j);
                for (int k = 0; k < QUAD; k++) sum[k] += (floats)(get_keys(w[i + k] + j) & MAGNITUDE) * f;
            }
            for (int k = 0; k < QUAD; k++) memcpy(part[k] + lane, &sum[k], sizeof sum[k]);
        }
        for (int k = 0; k < QUAD; k++) total[i + k] += (double)across(part[k]);
    }
}

static void weigh_columns(const float *const w[ROWS], const float factor[ROWS], int64_t n, double *restrict total) {
    for (int64_t j = 0; j < n; j++) {
        float sum[QUAD] = {0};
        for (int k = 0; k < ROWS; k++) sum[k % QUAD] += fabsf(w[k][j]) * factor[k];
        total[j] += (double)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

/* k factors of the inputs, each readable, and zero, up to the next whole vector, and l of the outputs. */
int abs_sums(const matrix *a, int64_t k, const float *inputs, int64_t l, const float *outputs, float *rows,
             float *columns) {
    /* as few blocks as keep their sums smaller than the matrix */
    const int64_t cols = a->cols, padded = (cols + SUMS - 1) / SUMS * SUMS, height = BLOCK * ((l + 7) / 8 + !l);
    const int64_t blocks = (a->rows + height - 1) / height;
    double *partial = make_blocks(blocks, l * cols), *totals = make_blocks(blocks, k * ROWS);
    if (partial && totals) {
#pragma omp parallel for schedule(dynamic) num_threads(a->threads)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = b * height; i < smaller((b + 1) * height, a->rows); i += ROWS) {
                ALIGNED float buffer[ROWS][PIECE], factor[ROWS] = {0};
                const float *w[ROWS];
                const int64_t count = smaller(ROWS, a->rows - i);
                double *total = totals + b * k * ROWS;
                for (int64_t f = 0; f < k * ROWS; f++) total[f] = 0.0;
                for (int64_t col = 0; col < cols; col += PIECE) {
                    const int64_t n = smaller(PIECE, cols - col);
                    load_rows(a, i, col, n, buffer, w);
                    for (int64_t f = 0; f < k; f++)
                        weigh_rows(w, inputs + f * padded + col, n, total + f * ROWS);
                    for (int64_t f = 0; f < l; f++) {
                        memcpy(factor, outputs + f * a->rows + i, (size_t)count * sizeof *factor);
                        weigh_columns(w, factor, n, partial + (b * l + f) * cols + col);
                    }
                }
                for (int64_t f = 0; f < k; f++)
                    for (int64_t j = 0; j < count; j++) rows[f * a->rows + i + j] = (float)total[f * ROWS + j];
            }
        add_blocks(partial, blocks, l * cols);
        for (int64_t j = 0; j < l * cols; j++) columns[j] = (float)partial[j];
    }
    const int failed = !partial || !totals;
    free(partial);
    free(totals);
    return failed ? OUT_OF_MEMORY : 0;
}

static void add_squares(const float *const w[ROWS], int64_t n, double *restrict total) {
    for (int64_t j = 0; j < n; j++) {
        float sum[QUAD] = {0};
        for (int k = 0; k < ROWS; k++) sum[k % QUAD] += w[k][j] * w[k][j];
        total[j] += (double)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

int accumulate_sumsq(const matrix *x, float *out, int64_t out_stride) {
    const int64_t blocks = (x->rows + BLOCK - 1) / BLOCK;
    double *partial = make_blocks(blocks, x->cols);
    if (!partial) return OUT_OF_MEMORY;
#pragma omp parallel for schedule(dynamic) num_threads(x->threads)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = b * BLOCK; i < smaller((b + 1) * BLOCK, x->rows); i += ROWS)
            for (int64_t col = 0; col < x->cols; col += PIECE) {
                ALIGNED float buffer[ROWS][PIECE];
                const float *from[ROWS];
                const int64_t n = smaller(PIECE, x->cols - col);
                load_rows(x, i, col, n, buffer, from);
                add_squares(from, n, partial + b * x->cols + col);
            }
    add_blocks(partial, blocks, x->cols);
    for (int64_t j = 0; j < x->cols; j++) out[j * out_stride] += (float)partial[j];
    free(partial);
    return 0;
}
