/* What a build without CUDA has in place of the backend. */

#include "kernels/cuda/cuda.h"

const struct backend *cuda_backend(const char **why_not)
{
    *why_not = "this build is CPU-only: build it where the CUDA Toolkit is installed";
    return NULL;
}
