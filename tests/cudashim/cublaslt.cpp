/* cuBLASLt's matrix product, plainly: one element after another, its sum in float over k in order. */

#include <cublasLt.h>

#include "kernels/bf16.h"
#include "tests/cudashim/runtime.h"

using namespace cudashim;

struct cublasLtContext {
};

struct cublasLtMatmulDescOpaque_t {
    cublasOperation_t transpose_a, transpose_b;
    cublasLtEpilogue_t epilogue;
    const float *bias;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t leading;
};

enum { OPERANDS = 4 }; /* a, b, c, d */

struct cublasLtMatmulPreferenceOpaque_t {
    size_t workspace_bytes;
    uint32_t alignment[OPERANDS];
};

static const uint64_t ALGORITHM = 0x7368696d;
static const size_t WORKSPACE_BYTES = 256; /* asked for, so that a caller has to bring one */
static const uint32_t ALIGNMENT = 256;     /* taken for granted where nothing is said */

#define ENTER() \
    if (call_enter() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED

template <typename T, typename... Fields> static cublasStatus_t make(T **made, Fields... fields)
{
    ENTER();
    *made = new T{fields...};
    live_add(1);
    return CUBLAS_STATUS_SUCCESS;
}

/* Gives back although it fails, as a caller can do nothing about it. */
template <typename T> static cublasStatus_t unmake(T *made)
{
    delete made;
    live_add(-1);
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t assign(T *field, const void *value, size_t bytes)
{
    if (bytes != sizeof *field) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return make(handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return unmake(handle);
}

size_t cublasLtGetVersion(void)
{
    return 0;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_EXECUTION_FAILED ? "the execution failed" : "another error";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description,
                                        cublasComputeType_t compute, cudaDataType_t scale)
{
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    return make(description, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                (const float *)nullptr);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description)
{
    return unmake(description);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    ENTER();
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(&description->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(&description->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(&description->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(&description->bias, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading)
{
    return make(layout, type, rows, columns, leading);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return unmake(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    return make(preference, (size_t)0, ALIGNMENT, ALIGNMENT, ALIGNMENT, ALIGNMENT);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return unmake(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    ENTER();
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(&preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(
            &preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
            bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- the product ---- */

struct Matrix {
    const void *data;
    cudaDataType type;
    int64_t leading;
    bool transposed;

    float at(uint64_t row, uint64_t column) const
    {
        const uint64_t place =
            transposed ? column + row * (uint64_t)leading : row + column * (uint64_t)leading;
        return type == CUDA_R_32F ? static_cast<const float *>(data)[place]
                                  : bf16_float(static_cast<const bf16 *>(data)[place]);
    }
};

struct Product {
    Matrix a, b;
    const float *bias;
    float alpha, beta;
    uint64_t rows, columns, depth;
    const float *c;
    float *d;
    int64_t leading; /* of c and d */
};

static void product_run(const Product &p)
{
    for (uint64_t column = 0; column < p.columns; column++) {
        for (uint64_t row = 0; row < p.rows; row++) {
            float sum = 0;
            for (uint64_t k = 0; k < p.depth; k++) sum += p.a.at(row, k) * p.b.at(k, column);
            const uint64_t place = row + column * (uint64_t)p.leading;
            p.d[place] = p.alpha * sum + (p.beta == 0 ? 0 : p.beta * p.c[place]) +
                         (p.bias ? p.bias[row] : 0);
        }
    }
}

static bool fits(const cublasLtMatrixLayoutOpaque_t *layout, bool transposed, uint64_t rows,
                 uint64_t columns)
{
    const uint64_t layout_rows = transposed ? columns : rows;
    const uint64_t layout_columns = transposed ? rows : columns;
    return layout->rows == layout_rows && layout->columns == layout_columns &&
           layout->leading >= (int64_t)layout_rows;
}

static cublasStatus_t check(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                            cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t d)
{
    const bool ta = description->transpose_a == CUBLAS_OP_T;
    const bool tb = description->transpose_b == CUBLAS_OP_T;
    const uint64_t depth = ta ? a->rows : a->columns;
    if (!fits(a, ta, d->rows, depth) || !fits(b, tb, depth, d->columns) ||
        d->leading < (int64_t)d->rows || d->rows == 0 || d->columns == 0 || depth == 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a->type != b->type || d->type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    const int64_t alignment = a->type == CUDA_R_16BF ? 8 : 1; /* 16 bytes, for tensor cores */
    if (a->leading % alignment != 0 || b->leading % alignment != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool biased = description->epilogue == CUBLASLT_EPILOGUE_BIAS;
    return biased == (description->bias != nullptr) ? CUBLAS_STATUS_SUCCESS
                                                    : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *returned)
{
    ENTER();
    *returned = 0;
    const cublasStatus_t status = check(description, a, b, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (requested < 1 || preference->workspace_bytes < WORKSPACE_BYTES)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    results[0] = cublasLtMatmulHeuristicResult_t();
    results[0].algo.data[0] = ALGORITHM;
    for (int i = 0; i < OPERANDS; i++) results[0].algo.data[1 + i] = preference->alignment[i];
    results[0].workspaceSize = WORKSPACE_BYTES;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* As an algorithm that was chosen for better aligned operands would: it does not read them. */
static bool aligned_as_promised(const cublasLtMatmulAlgo_t *algo,
                                const void *const operands[OPERANDS])
{
    for (int i = 0; i < OPERANDS; i++)
        if ((uintptr_t)operands[i] % algo->data[1 + i] != 0) return false;
    return true;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    ENTER();
    const cublasStatus_t status = check(description, a_layout, b_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (c_layout != d_layout || !algo || algo->data[0] != ALGORITHM || !workspace ||
        workspace_bytes < WORKSPACE_BYTES)
        return CUBLAS_STATUS_INVALID_VALUE;
    const void *const operands[OPERANDS] = {a, b, c, d};
    if (!aligned_as_promised(algo, operands)) return CUBLAS_STATUS_EXECUTION_FAILED;

    const bool ta = description->transpose_a == CUBLAS_OP_T;
    const bool tb = description->transpose_b == CUBLAS_OP_T;
    const Product product = {
        {a, a_layout->type, a_layout->leading, ta},
        {b, b_layout->type, b_layout->leading, tb},
        description->bias,
        *static_cast<const float *>(alpha),
        *static_cast<const float *>(beta),
        d_layout->rows,
        d_layout->columns,
        ta ? a_layout->rows : a_layout->columns,
        static_cast<const float *>(c),
        static_cast<float *>(d),
        d_layout->leading,
    };
    stream_enqueue(stream, [=] {
        memset(workspace, 0xff, WORKSPACE_BYTES);
        product_run(product);
    });
    return CUBLAS_STATUS_SUCCESS;
}
