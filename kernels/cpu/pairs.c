#include "kernels/cpu/pairs.h"

#include "kernels/cpu/lanes.h"

typedef uint32_t words_unaligned
    __attribute__((vector_size(REGISTER_BYTES), aligned(4), may_alias));

static inline words words_load(const uint32_t *from)
{
    return *(const words_unaligned *)from;
}

static inline void words_store(uint32_t *to, words x)
{
    *(words_unaligned *)to = x;
}

/* The pairs from i on of a row, 0 behind its end. */
static words row_pairs(const float *row, int64_t i, int64_t width)
{
    const floats none = {0};
    return lanes_pair_row(i < width ? lanes_load_row(row, i, width, 0) : none,
                          i + LANES < width ? lanes_load_row(row, i + LANES, width, 0) : none);
}

void CPU(pairs_of_rows)(int64_t rows, int64_t width, const float *x, int64_t stride,
                        uint32_t *pairs)
{
    for (int64_t r = 0; r < rows; r++, x += stride, pairs += pairs_of(width)) {
        int64_t i = 0;
        for (; i + 2 * LANES <= width; i += 2 * LANES)
            words_store(pairs + i / 2, row_pairs(x, i, width));
        if (i == width) continue;
        const words last = row_pairs(x, i, width);
        memcpy(pairs + i / 2, &last, (size_t)pairs_of(width - i) * sizeof *pairs);
    }
}

void CPU(panels_of_rows)(struct range rows, int64_t depth, int64_t columns, const float *x,
                         int64_t stride, uint32_t *panels)
{
    const int64_t panel_stride = pairs_of(depth) * PANEL;
    for (int64_t r = rows.from; r < rows.from + rows.count; r += 2) {
        const float *first = x + r * stride, *second = first + stride;
        for (int64_t i = 0; i < columns; i += LANES) {
            const floats low = lanes_load_row(first, i, columns, 0);
            const floats high = r + 1 < depth ? lanes_load_row(second, i, columns, 0) : (floats){0};
            words_store(panels + i / PANEL * panel_stride + r / 2 * PANEL + i % PANEL,
                        lanes_pair(low, high));
        }
    }
}

void CPU(panels_of_transposed)(struct range columns, int64_t depth, const float *x, int64_t stride,
                               uint32_t *panels)
{
    const int64_t panel_stride = pairs_of(depth) * PANEL;
    for (int64_t c = columns.from; c < columns.from + columns.count; c += 4) {
        const int64_t rows = smaller(4, columns.from + columns.count - c);
        uint32_t *to = panels + c / PANEL * panel_stride + c % PANEL;
        for (int64_t i = 0; i < depth; i += 2 * LANES) {
            words block[4] = {0};
            for (int64_t j = 0; j < rows; j++) block[j] = row_pairs(x + (c + j) * stride, i, depth);
            lanes_transpose(block);
            const int64_t pairs = smaller(LANES, pairs_of(depth - i));
            for (int64_t j = 0; j < pairs; j++)
                memcpy(to + (i / 2 + j) * PANEL, (const char *)&block[j % 4] + j / 4 * 16, 16);
        }
    }
}

/* The sums stay in registers only where all is unrolled. */
#define EACH_ROW      _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)
#define EACH_REGISTER _Pragma("GCC unroll 4") for (int v = 0; v < registers; v++)

/* One tile of c, of whole registers. `rows` and `registers` are constant where it stands. */
static inline __attribute__((always_inline)) void tile_multiply(int rows, int registers,
                                                                int64_t pairs, const struct left *a,
                                                                const uint32_t *b, bool add,
                                                                float *c, int64_t ldc)
{
    floats sum[PAIR_ROWS][PANEL_REGISTERS];
    EACH_ROW EACH_REGISTER sum[r][v] = add ? lanes_load(c + r * ldc + v * LANES) : (floats){0};
    for (int64_t p = 0; p < pairs; p++) {
        words right[PANEL_REGISTERS];
        EACH_REGISTER right[v] = words_load(b + p * PANEL + v * LANES);
        EACH_ROW
        {
            const words left = a->data[r * a->row + p * a->pair] - (words){0};
            EACH_REGISTER sum[r][v] = lanes_pair_fma(left, right[v], sum[r][v]);
        }
    }
    EACH_ROW EACH_REGISTER lanes_store(c + r * ldc + v * LANES, sum[r][v]);
}

/* `a` by its address: a copy on the stack would be read before it has left the store buffer, behind all of the tile before. */
typedef void tile_body(int64_t pairs, const struct left *a, const uint32_t *b, bool add, float *c,
                       int64_t ldc);

/* TILE(rows, registers) for every width of a tile, and for every number of its rows. */
#if REGISTER_BYTES == 64
#define TILE_ROW(TILE, rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3) TILE(rows, 4)
#define TILE_ROWS(ROW)       ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6)
#else
#define TILE_ROW(TILE, rows) TILE(rows, 1) TILE(rows, 2)
#define TILE_ROWS(ROW)       ROW(1) ROW(2) ROW(3) ROW(4)
#endif

#define TILE_BODY(rows, registers)                                                                \
    static void tile_##rows##_##registers(int64_t pairs, const struct left *a, const uint32_t *b, \
                                          bool add, float *c, int64_t ldc)                        \
    {                                                                                             \
        tile_multiply(rows, registers, pairs, a, b, add, c, ldc);                                 \
    }
#define TILE_BODIES(rows) TILE_ROW(TILE_BODY, rows)
TILE_ROWS(TILE_BODIES)

#define TILE_NAME(rows, registers) tile_##rows##_##registers,
#define TILE_NAMES(rows)           {TILE_ROW(TILE_NAME, rows)},
static tile_body *const tiles[PAIR_ROWS][PANEL_REGISTERS] = {TILE_ROWS(TILE_NAMES)};

static void rows_copy(int64_t rows, int64_t width, const float *from, int64_t from_stride,
                      float *to, int64_t to_stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, (size_t)width * sizeof *to);
}

/* A tile whose last register is not all in c. */
static void edge_multiply(tile_body *tile, int64_t rows, int64_t width, int64_t pairs,
                          const struct left *a, const uint32_t *b, bool add, float *c, int64_t ldc)
{
    float whole[PAIR_ROWS * PANEL] = {0};
    if (add) rows_copy(rows, width, c, ldc, whole, PANEL);
    tile(pairs, a, b, add, whole, PANEL);
    rows_copy(rows, width, whole, PANEL, c, ldc);
}

/* A panel stays in the second cache while all rows go by. */
void CPU(pairs_multiply)(int64_t m, int64_t n, int64_t pairs, struct left a, const uint32_t *panels,
                         int64_t panel_stride, bool add, float *c, int64_t ldc)
{
    for (int64_t column = 0; column < n; column += PANEL, panels += panel_stride) {
        const int64_t width = smaller(PANEL, n - column);
        for (int64_t row = 0; row < m; row += PAIR_ROWS) {
            const int64_t rows = smaller(PAIR_ROWS, m - row);
            const struct left left = {a.data + row * a.row, a.row, a.pair};
            float *to = c + row * ldc + column;
            tile_body *tile = tiles[rows - 1][pieces_of(width, LANES) - 1];
            if (width % LANES == 0)
                tile(pairs, &left, panels, add, to, ldc);
            else
                edge_multiply(tile, rows, width, pairs, &left, panels, add, to, ldc);
        }
    }
}
