/* A matrix of any float type and stride, read and written as pieces of fp32; the other .c files follow in one unit. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#define PIECE 512       /* columns at a time: a handful of such buffers stays in the first-level cache */
/* one register of fp32; gcc splits comparisons of anything wider into single elements */
#if defined __AVX512F__
#define LANES 16
#elif defined __AVX2__
#define LANES 8
#else
#define LANES 4
#endif
#define SUMS 16         /* running sums of a row: a multiple of LANES, and fixed, since it decides the last bits */
#define ALIGNED __attribute__((aligned(64))) /* a vector that lies in two cache lines costs two loads */
#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000
#define LARGEST 0x1.fffffep127f
#define OUT_OF_MEMORY 1

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    void *data;
    int64_t rows, cols, row_stride, col_stride; /* strides in elements */
    int32_t type;
    int32_t threads;
} matrix;

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

static inline floats get_floats(const float *from) {
    floats v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline ints get_keys(const void *from) {
    ints v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Whether any lane of a comparison holds. */
static inline int any(ints condition) {
    int64_t part[LANES / 2], all = 0;
    memcpy(part, &condition, sizeof part);
    for (int k = 0; k < LANES / 2; k++) all |= part[k];
    return all != 0;
}

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The bits by which magnitudes are ranked, NaN as infinity. */
static inline int32_t key_of(int32_t bits) {
    const int32_t magnitude = bits & MAGNITUDE;
    return magnitude < INFINITE ? magnitude : INFINITE;
}

static inline float from_bfloat16(uint16_t x) { return as_float((uint32_t)x << 16); }

/* The exponent is biased by 15 instead of 127; the product also turns fp16 denormals into normal numbers.  What then
   reaches 2^16 was infinite or NaN. */
static inline float from_float16(uint16_t x) {
    float value = as_float((uint32_t)(x & 0x7fff) << 13) * 0x1p112f;
    uint32_t special = value >= 0x1p16f ? INFINITE : 0;
    return as_float(as_bits(value) | special | (uint32_t)(x & 0x8000) << 16);
}

/* Rounding could carry out of a NaN, which is cut instead, with a bit set that lasts. */
static inline uint16_t to_bfloat16(float value) {
    uint32_t bits = as_bits(value), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)((value == value ? rounded : bits | 0x400000) >> 16);
}

/* Adding and taking away a power of two 13 binades up rounds to the ten bits of an fp16, halves to even; the bits of
   2^16 become those of infinity. */
static inline uint16_t to_float16(float value) {
    uint32_t bits = as_bits(value), exponent = bits & 0x7f800000;
    float unit = as_float((exponent < 113u << 23 ? 113u << 23 : exponent) + (13u << 23));
    float magnitude = as_float(bits & MAGNITUDE), rounded = (magnitude + unit) - unit;
    float limited = magnitude >= 0x1p16f ? 0x1p16f : rounded; /* NaN stays */
    return (uint16_t)(as_bits(limited * 0x1p-112f) >> 13 | (bits >> 16 & 0x8000));
}

/* Neighbours in fp16, eight at a time where the processor converts them itself. */
static void load_float16(const uint16_t *restrict from, int64_t n, float *restrict to) {
    int64_t j = 0;
#ifdef __F16C__
    for (; j + 8 <= n; j += 8) _mm256_storeu_ps(to + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + j))));
#endif
    for (; j < n; j++) to[j] = from_float16(from[j]);
}

static void store_float16(const float *restrict from, int64_t n, uint16_t *restrict to) {
    int64_t j = 0;
#ifdef __F16C__
    for (; j + 8 <= n; j += 8)
        _mm_storeu_si128((__m128i *)(to + j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; j < n; j++) to[j] = to_float16(from[j]);
}

/* n elements of a row as fp32: the matrix's own memory if it is fp32 and contiguous, else converted into the buffer. */
static const float *load(const matrix *a, int64_t row, int64_t col, int64_t n, float *restrict buffer) {
    const int64_t step = a->col_stride, start = row * a->row_stride + col * step;
    if (a->type == FLOAT32) {
        const float *from = (const float *)a->data + start;
        if (step == 1) return from;
        for (int64_t j = 0; j < n; j++) buffer[j] = from[j * step];
        return buffer;
    }
    const uint16_t *from = (const uint16_t *)a->data + start;
    if (a->type == BFLOAT16 && step == 1)
        for (int64_t j = 0; j < n; j++) buffer[j] = from_bfloat16(from[j]);
    else if (a->type == BFLOAT16)
        for (int64_t j = 0; j < n; j++) buffer[j] = from_bfloat16(from[j * step]);
    else if (step == 1)
        load_float16(from, n, buffer);
    else
        for (int64_t j = 0; j < n; j++) buffer[j] = from_float16(from[j * step]);
    return buffer;
}

static void store(const matrix *a, int64_t row, int64_t col, int64_t n, const float *values) {
    const int64_t step = a->col_stride, start = row * a->row_stride + col * step;
    if (a->type == FLOAT32) {
        float *to = (float *)a->data + start;
        if (to == values) return;
        for (int64_t j = 0; j < n; j++) to[j * step] = values[j];
        return;
    }
    uint16_t *to = (uint16_t *)a->data + start;
    if (a->type == BFLOAT16 && step == 1)
        for (int64_t j = 0; j < n; j++) to[j] = to_bfloat16(values[j]);
    else if (a->type == BFLOAT16)
        for (int64_t j = 0; j < n; j++) to[j * step] = to_bfloat16(values[j]);
    else if (step == 1)
        store_float16(values, n, to);
    else
        for (int64_t j = 0; j < n; j++) to[j * step] = to_float16(values[j]);
}

/* As load, but always into the buffer, and with zeros up to the next whole vector of SUMS. */
static void load_padded(const matrix *a, int64_t row, int64_t col, int64_t n, float *buffer) {
    const float *from = load(a, row, col, n, buffer);
    if (from != buffer) memcpy(buffer, from, (size_t)n * sizeof *buffer);
    for (int64_t j = n; j % SUMS; j++) buffer[j] = 0.0f;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
