#ifndef KERNELS_CUDA_TILING_H
#define KERNELS_CUDA_TILING_H

/* How the kernels of attention cut their work, for them and for who reckons what it costs (kernels/bench/roofline.c). */

enum {
    TILE_UNIT = 16,       /* rows and columns of tiles are a multiple of it */
    CHUNK_ROWS_MOST = 64, /* positions of a block, as many of these as its shared memory bears */
    CHUNK_ROWS_LEAST = 32,
    FAVOR_COLUMNS = 32, /* features at a time */

    /* Linformer's sums over all positions are cut into slices, so that there are blocks enough for a device, however few rows a
     * matrix has; and not into more than a grid bears. */
    SLICE_POSITIONS_LEAST = 512,
    SLICES_MOST = 64
};

#endif
