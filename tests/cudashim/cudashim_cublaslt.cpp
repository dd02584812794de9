/* cuBLASLt's stand-in against a product in double, and what it refuses as the library would. */

#include <cmath>
#include <criterion/criterion.h>
#include <cublasLt.h>
#include <vector>

#include "kernels/bf16.h"

enum { ROWS = 5, COLUMNS = 7, DEPTH = 11, LEADING = 16, WORKSPACE_BYTES = 4096 };

struct Case {
    bool transpose_a, transpose_b, biased;
    cudaDataType type;
    int64_t leading;
};

static float value_at(int seed, int i)
{
    return bf16_float(bf16_of((float)((i * 37 + seed * 11) % 23) / 7 - 1.5f));
}

/* LEADING rows and as many columns, more than any operand has, in the type asked for. */
struct Operand {
    std::vector<float> floats;
    std::vector<bf16> halves;

    explicit Operand(int seed) : floats(LEADING * LEADING), halves(LEADING * LEADING)
    {
        for (int i = 0; i < LEADING * LEADING; i++)
            floats[(size_t)i] = value_at(seed, i), halves[(size_t)i] = bf16_of(floats[(size_t)i]);
    }
    const void *data(cudaDataType type) const
    {
        return type == CUDA_R_32F ? (const void *)floats.data() : halves.data();
    }
    double at(const Case &c, bool transposed, int row, int column) const
    {
        return floats[(size_t)(transposed ? column + row * c.leading : row + column * c.leading)];
    }
};

static cublasLtMatmulDesc_t description_new(const Case &c, const float *bias)
{
    const cublasOperation_t ta = c.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t tb = c.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulDesc_t made;
    cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    if (!c.biased) return made;
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    return made;
}

static cublasLtMatrixLayout_t layout_new(const Case &c, bool transposed, int rows, int columns)
{
    cublasLtMatrixLayout_t made;
    cublasLtMatrixLayoutCreate(&made, c.type, (uint64_t)(transposed ? columns : rows),
                               (uint64_t)(transposed ? rows : columns), c.leading);
    return made;
}

static void alignment_promise(cublasLtMatmulPreference_t preference, uint32_t bytes)
{
    for (int attribute = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
         attribute <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; attribute++)
        cublasLtMatmulPreferenceSetAttribute(
            preference, (cublasLtMatmulPreferenceAttributes_t)attribute, &bytes, sizeof bytes);
}

/* d = 2 op(a) op(b) + c / 2, with a preference of so many bytes of workspace, and of alignment where that is not 0. */
static cublasStatus_t multiply(const Case &c, const Operand &a, const Operand &b, const float *bias,
                               size_t workspace_bytes, const float *c_data, float *d,
                               uint32_t alignment = sizeof(bf16))
{
    std::vector<char> workspace(WORKSPACE_BYTES);
    const float alpha = 2, beta = 0.5f;
    cudaStream_t stream;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int returned = 0;
    const Case of_d = {false, false, false, CUDA_R_32F, ROWS};
    cublasLtMatmulDesc_t description = description_new(c, bias);
    cublasLtMatrixLayout_t a_layout = layout_new(c, c.transpose_a, ROWS, DEPTH);
    cublasLtMatrixLayout_t b_layout = layout_new(c, c.transpose_b, DEPTH, COLUMNS);
    cublasLtMatrixLayout_t d_layout = layout_new(of_d, false, ROWS, COLUMNS);
    cublasLtCreate(&handle);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace_bytes, sizeof workspace_bytes);
    if (alignment > 0) alignment_promise(preference, alignment);

    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, description, a_layout, b_layout, d_layout, d_layout,
                                       preference, 1, &result, &returned);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(handle, description, &alpha, a.data(c.type), a_layout,
                                b.data(c.type), b_layout, &beta, c_data, d_layout, d, d_layout,
                                &result.algo, workspace.data(), workspace_bytes, stream);
    cudaStreamSynchronize(stream);

    cudaStreamDestroy(stream), cublasLtDestroy(handle);
    cublasLtMatmulPreferenceDestroy(preference), cublasLtMatmulDescDestroy(description);
    cublasLtMatrixLayoutDestroy(a_layout), cublasLtMatrixLayoutDestroy(b_layout);
    cublasLtMatrixLayoutDestroy(d_layout);
    return status;
}

static void case_holds(const Case &c)
{
    const Operand a(1), b(2);
    float bias[ROWS], addend[ROWS * COLUMNS], d[ROWS * COLUMNS];
    for (int i = 0; i < ROWS; i++) bias[i] = value_at(3, i);
    for (int i = 0; i < ROWS * COLUMNS; i++) addend[i] = value_at(4, i);
    cr_assert_eq(multiply(c, a, b, bias, WORKSPACE_BYTES, addend, d), CUBLAS_STATUS_SUCCESS);

    for (int row = 0; row < ROWS; row++) {
        for (int column = 0; column < COLUMNS; column++) {
            double expected =
                value_at(4, row + column * ROWS) / 2 + (c.biased ? (double)bias[row] : 0);
            for (int k = 0; k < DEPTH; k++)
                expected += 2 * a.at(c, c.transpose_a, row, k) * b.at(c, c.transpose_b, k, column);
            cr_expect(std::fabs(d[row + column * ROWS] - expected) < 1e-5);
        }
    }
}

Test(cublaslt, product)
{
    for (int bits = 0; bits < 16; bits++)
        case_holds(Case{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0,
                        bits & 8 ? CUDA_R_16BF : CUDA_R_32F, LEADING});
}

Test(cublaslt, refusals)
{
    const Operand a(1), b(2);
    float bias[ROWS], d[ROWS * COLUMNS];
    const Case unaligned = {false, false, false, CUDA_R_16BF, LEADING - 1};
    cr_expect_eq(multiply(unaligned, a, b, bias, WORKSPACE_BYTES, d, d),
                 CUBLAS_STATUS_NOT_SUPPORTED);
    const Case narrow = {false, false, false, CUDA_R_32F, ROWS - 1};
    cr_expect_eq(multiply(narrow, a, b, bias, WORKSPACE_BYTES, d, d), CUBLAS_STATUS_INVALID_VALUE);
    const Case plain = {false, false, false, CUDA_R_32F, LEADING};
    cr_expect_eq(multiply(plain, a, b, bias, 0, d, d), CUBLAS_STATUS_NOT_SUPPORTED, "no workspace");
    cr_expect_eq(multiply(plain, a, b, bias, WORKSPACE_BYTES, d, d + 1, 0),
                 CUBLAS_STATUS_EXECUTION_FAILED, "256 bytes are taken for granted");
    const Case biased = {false, false, true, CUDA_R_32F, LEADING};
    cr_expect_eq(multiply(biased, a, b, NULL, WORKSPACE_BYTES, d, d), CUBLAS_STATUS_INVALID_VALUE);
}
