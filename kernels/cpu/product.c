/*
 * A block of c is held in registers while k is walked: at each step a row of b is loaded, and each number of a is
 * spread over a register and multiplied with it. ROWS x COLUMNS leaves room in the register file for what is loaded.
 */

#include "kernels/cpu/product.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

/* COLUMNS: in registers. */
#if defined(__AVX512F__)
enum { ROWS = 6, COLUMNS = 4 };
#define FOR_COLUMNS(X, rows) X(rows, 1) X(rows, 2) X(rows, 3) X(rows, 4)
#else
enum { ROWS = 6, COLUMNS = 2 };
#define FOR_COLUMNS(X, rows) X(rows, 1) X(rows, 2)
#endif
#define FOR_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)

/* a[i, l] is at i * a_row + l * a_column. */
struct block {
    int64_t k;
    const float *a, *b;
    int64_t a_row, a_column, ldb;
    float beta;
    float *c;
    int64_t ldc;
    int64_t width; /* lanes of a part of a register */
};

static inline __attribute__((always_inline)) floats row_load(const float *row, int column,
                                                             bool part, int64_t width)
{
    return part ? lanes_load_part(row, width, 0) : lanes_load(row + column * LANES);
}

/* part: of one column, only the first block.width lanes are there. */
static inline __attribute__((always_inline)) void block_multiply(const struct block *given,
                                                                 int rows, int columns, bool part)
{
    struct block block = *given;
    floats sum[ROWS][COLUMNS];

#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++)
            sum[i][j] = block.beta == 0
                            ? (floats){0}
                            : row_load(block.c + i * block.ldc, j, part, block.width) * block.beta;
    for (int64_t l = 0; l < block.k; l++) {
        floats right[COLUMNS];
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) right[j] = row_load(block.b, j, part, block.width);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const floats left = lanes_of(block.a[i * block.a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < columns; j++) sum[i][j] = lanes_fma(left, right[j], sum[i][j]);
        }
        block.a += block.a_column;
        block.b += block.ldb;
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) {
            float *row = block.c + i * block.ldc;
            if (part)
                lanes_store_part(row, sum[i][j], block.width);
            else
                lanes_store(row + j * LANES, sum[i][j]);
        }
}

typedef void block_body(const struct block *block);

#define BLOCK_FULL(rows, columns)                                   \
    static void block_##rows##_##columns(const struct block *block) \
    {                                                               \
        block_multiply(block, rows, columns, false);                \
    }
#define BLOCK_ROWS(rows)                                       \
    FOR_COLUMNS(BLOCK_FULL, rows)                              \
    static void block_##rows##_part(const struct block *block) \
    {                                                          \
        block_multiply(block, rows, 1, true);                  \
    }
FOR_ROWS(BLOCK_ROWS)

/* By rows - 1; the part of a register first, then by columns. */
static block_body *const blocks[ROWS][1 + COLUMNS] = {
#define NAME_FULL(rows, columns) block_##rows##_##columns,
#define NAME_ROWS(rows)          {block_##rows##_part, FOR_COLUMNS(NAME_FULL, rows)},
    FOR_ROWS(NAME_ROWS)};

/* whole: of c as a whole, its c, a and b the first. */
static void multiply(int64_t m, int64_t n, const struct block *whole)
{
    for (int64_t j = 0; j < n;) {
        const int64_t columns = smaller(COLUMNS, (n - j) / LANES);
        struct block block = *whole;
        block.b += j;
        block.width = n - j;
        for (int64_t i = 0; i < m; i += ROWS) {
            block.a = whole->a + i * whole->a_row;
            block.c = whole->c + i * whole->ldc + j;
            blocks[smaller(ROWS, m - i) - 1][columns](&block);
        }
        j += columns > 0 ? columns * LANES : n - j;
    }
}

void CPU(product_nn)(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc)
{
    multiply(m, n, &(struct block){k, a, b, lda, 1, ldb, beta, c, ldc, 0});
}

void CPU(product_tn)(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc)
{
    multiply(m, n, &(struct block){k, a, b, 1, lda, ldb, beta, c, ldc, 0});
}

/* LANES rows of four columns: each column becomes a register. */
static void transpose_strip(const float *from, int64_t from_stride, float *to, int64_t to_stride)
{
    words column[4];
    for (int j = 0; j < 4; j++)
        column[j] = lanes_load_quarters(from + j * from_stride, 4 * from_stride);
    lanes_transpose(column);
    for (int j = 0; j < 4; j++) lanes_store(to + j * to_stride, (floats)column[j]);
}

void CPU(transpose)(int64_t m, int64_t n, const float *from, int64_t from_stride, float *to,
                    int64_t to_stride)
{
    const int64_t rows = m / LANES * LANES, columns = n / 4 * 4;
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < columns; j += 4)
            transpose_strip(from + i * from_stride + j, from_stride, to + j * to_stride + i,
                            to_stride);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = i < rows ? columns : 0; j < n; j++)
            to[j * to_stride + i] = from[i * from_stride + j];
}
