/* What a build without CUDA has in place of collective_nccl.c. */

#include "worker/collective.h"

void collective_nccl_settings(void)
{
}

enum status collective_nccl(const struct rendezvous *rendezvous, struct collective **collective,
                            struct fault *fault)
{
    (void)rendezvous, (void)collective;
    return fault_set(fault, ST_UNSUPPORTED, "this build has no NCCL to join several GPUs with");
}
