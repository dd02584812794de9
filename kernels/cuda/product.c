#include "kernels/cuda/product.h"

#include <assert.h>

/*
 * cuBLASLt is column-major, and a row-major matrix is the transpose of a column-major one: so it is asked for
 * cᵀ = op(b)ᵀ op(a)ᵀ, with b first. Its columns are rows of c, and a bias along columns of c is one along its rows.
 *
 * It may sum in parts, each in workspace, and add those: room for a few parts, up to what NVIDIA advises for Hopper.
 */
enum { BF16_STRIDE_UNIT = 8, PARTS_MAX = 8 };
static const size_t WORKSPACE_BYTES_MIN = 1 << 16, WORKSPACE_BYTES_MAX = 32 << 20;

struct operand {
    const void *data;
    cudaDataType type;
    int64_t rows, columns, stride; /* as it lies, row-major */
    cublasOperation_t op;
};

/* A copy rounded to bf16 where that is asked for; strides of whole 16 bytes, as tensor cores want them. */
static enum status operand_prepare(const float *data, int64_t rows, int64_t columns, bool transpose,
                                   enum precision precision, struct arena *arena,
                                   struct operand *operand)
{
    *operand = (struct operand){.data = data,
                                .type = CUDA_R_32F,
                                .rows = rows,
                                .columns = columns,
                                .stride = columns,
                                .op = transpose ? CUBLAS_OP_T : CUBLAS_OP_N};
    if (precision == PRECISION_FP32) return ST_OK;
    const int64_t stride = (columns + BF16_STRIDE_UNIT - 1) / BF16_STRIDE_UNIT * BF16_STRIDE_UNIT;
    void *rounded = arena_take(arena, (size_t)(rows * stride) * sizeof(uint16_t));
    operand->type = CUDA_R_16BF;
    operand->stride = stride;
    operand->data = rounded;
    return arena->base ? round_to_bf16(rows, columns, stride, data, rounded) : ST_OK;
}

static size_t workspace_bytes(const struct product *product)
{
    const size_t parts = PARTS_MAX * (size_t)(product->rows * product->columns) * sizeof(float);
    if (parts < WORKSPACE_BYTES_MIN) return WORKSPACE_BYTES_MIN;
    return parts < WORKSPACE_BYTES_MAX ? parts : WORKSPACE_BYTES_MAX;
}

/* What cuBLASLt wants to know, made for one call: all of it lives on the host and is cheap to make. */
struct call {
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t first, second, result;
    cublasLtMatmulPreference_t preference;
};

static void call_fini(struct call *call)
{
    if (call->preference) cublasLtMatmulPreferenceDestroy(call->preference);
    if (call->result) cublasLtMatrixLayoutDestroy(call->result);
    if (call->second) cublasLtMatrixLayoutDestroy(call->second);
    if (call->first) cublasLtMatrixLayoutDestroy(call->first);
    if (call->description) cublasLtMatmulDescDestroy(call->description);
}

#define TRY(call)                                      \
    do {                                               \
        const enum status status_ = GPU_PRODUCT(call); \
        if (status_ != ST_OK) return status_;          \
    } while (0)

static enum status layout_new(const struct operand *operand, cublasLtMatrixLayout_t *layout)
{
    TRY(cublasLtMatrixLayoutCreate(layout, operand->type, (uint64_t)operand->columns,
                                   (uint64_t)operand->rows, operand->stride));
    return ST_OK;
}

/* cuBLASLt takes 256 bytes for granted. 16 is what vector loads want, and what most of ours have. */
static uint32_t alignment_of(const void *data)
{
    return (uintptr_t)data % 16 == 0 ? 16 : sizeof(float);
}

static const float *addend_of(const struct product *product)
{
    return product->addend ? product->addend : product->c;
}

static enum status promise_alignment(cublasLtMatmulPreference_t preference,
                                     const struct product *product, const struct operand *a,
                                     const struct operand *b)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *data;
    } promised[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b->data},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a->data},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, addend_of(product)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product->c},
    };
    for (size_t i = 0; i < sizeof promised / sizeof promised[0]; i++) {
        const uint32_t bytes = alignment_of(promised[i].data);
        TRY(cublasLtMatmulPreferenceSetAttribute(preference, promised[i].attribute, &bytes,
                                                 sizeof bytes));
    }
    return ST_OK;
}

/* Half made where it fails. */
static enum status call_init(struct call *call, const struct product *product,
                             const struct operand *a, const struct operand *b, size_t workspace)
{
    const cublasLtEpilogue_t biased = CUBLASLT_EPILOGUE_BIAS;
    TRY(cublasLtMatmulDescCreate(&call->description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(cublasLtMatmulDescSetAttribute(call->description, CUBLASLT_MATMUL_DESC_TRANSA, &b->op,
                                       sizeof b->op));
    TRY(cublasLtMatmulDescSetAttribute(call->description, CUBLASLT_MATMUL_DESC_TRANSB, &a->op,
                                       sizeof a->op));
    if (product->bias) {
        TRY(cublasLtMatmulDescSetAttribute(call->description, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                           &biased, sizeof biased));
        TRY(cublasLtMatmulDescSetAttribute(call->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                           &product->bias, sizeof product->bias));
    }
    enum status status = layout_new(b, &call->first);
    if (status == ST_OK) status = layout_new(a, &call->second);
    if (status != ST_OK) return status;
    TRY(cublasLtMatrixLayoutCreate(&call->result, CUDA_R_32F, (uint64_t)product->columns,
                                   (uint64_t)product->rows, product->columns));
    TRY(cublasLtMatmulPreferenceCreate(&call->preference));
    TRY(cublasLtMatmulPreferenceSetAttribute(
        call->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    return promise_alignment(call->preference, product, a, b);
}

/* The heuristic is a function of the shape and of how operands lie: the same algorithm, and the same bits, every time. */
static enum status call_run(const struct call *call, const struct product *product,
                            const struct operand *a, const struct operand *b, void *workspace,
                            size_t bytes)
{
    const struct gpu *gpu = gpu_current();
    const float one = 1, beta = product->addend ? 1 : 0;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    TRY(cublasLtMatmulAlgoGetHeuristic(gpu->products, call->description, call->first, call->second,
                                       call->result, call->result, call->preference, 1, &found,
                                       &count));
    if (count == 0)
        return gpu_product_status(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic");
    TRY(cublasLtMatmul(gpu->products, call->description, &one, b->data, call->first, a->data,
                       call->second, &beta, addend_of(product), call->result, product->c,
                       call->result, &found.algo, workspace, bytes, gpu->stream));
    return ST_OK;
}

enum status product_run(const struct product *product, struct arena *arena)
{
    const struct product *p = product;
    const size_t bytes = workspace_bytes(p);
    void *workspace = arena_take(arena, bytes);
    struct operand a, b;
    struct call call = {0};

    enum status status = operand_prepare(p->a, p->transpose_a ? p->depth : p->rows,
                                         p->transpose_a ? p->rows : p->depth, p->transpose_a,
                                         p->precision, arena, &a);
    if (status == ST_OK)
        status = operand_prepare(p->b, p->transpose_b ? p->columns : p->depth,
                                 p->transpose_b ? p->depth : p->columns, p->transpose_b,
                                 p->precision, arena, &b);
    if (status != ST_OK || !arena->base) return status;

    status = call_init(&call, p, &a, &b, bytes);
    if (status == ST_OK) status = call_run(&call, p, &a, &b, workspace, bytes);
    call_fini(&call);
    return status;
}
