#include "cli/job_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/quantity.h"
#include "cli/report.h"
#include "proto/cost.h"
#include "proto/durable.h"

enum exit_code job_file_read(const struct invocation *invocation, struct job_file *job)
{
    struct fault fault;

    *job = (struct job_file){.path = invocation->argument};
    enum status status = file_read(job->path, JOBSPEC_BYTES_MAX, &job->text, &job->length, &fault);
    if (status != ST_OK) {
        report_fault(invocation, &fault);
        return EXIT_CODE_JOB_INVALID;
    }
    status = jobspec_parse(job->text, job->length, job->path, invocation->overrides,
                           invocation->override_count, &job->diagnostics, &job->spec);
    if (status == ST_OK) jobspec_check_init(&job->spec, job->path, &job->diagnostics);
    report_diagnostics(invocation, job->path, &job->diagnostics);
    if (status == ST_OK && job->diagnostics.errors == 0) return EXIT_CODE_OK;
    if (job->diagnostics.errors == 0) {
        fault_set(&fault, status, "%s: %s", job->path, status_text(status));
        report_fault(invocation, &fault);
    }
    return EXIT_CODE_JOB_INVALID;
}

void job_file_fini(struct job_file *job)
{
    jobspec_free(&job->spec);
    diagnostics_free(&job->diagnostics);
    free(job->text);
    *job = (struct job_file){0};
}

/* ---- what it takes ---- */

static json_t *cost_json(const struct job_file *job, const struct cost *cost)
{
    char *text = diagnostics_json(&job->diagnostics);
    json_t *diagnostics = text ? json_loads(text, 0, NULL) : NULL;

    free(text);
    return json_pack("{s:s,s:b,s:s,s:s,s:o*,s:I,s:I,s:{s:I,s:I,s:I,s:I,s:I},s:f,s:f,s:I,s:b}", //
                     "file", job->path,                                                        //
                     "valid", 1,                                                               //
                     "name", job->spec.job.name,                                               //
                     "precision", precision_text(job->spec.train.precision),                   //
                     "diagnostics", diagnostics,                                               //
                     "parameters", (json_int_t)cost->parameters,                               //
                     "bytes_rank", (json_int_t)cost->bytes_total,                              //
                     "bytes", "weights", (json_int_t)cost->bytes_weights,                      //
                     "gradients", (json_int_t)cost->bytes_gradients,                           //
                     "moments", (json_int_t)cost->bytes_moments,                               //
                     "activations", (json_int_t)cost->bytes_activations,                       //
                     "snapshot", (json_int_t)cost->bytes_snapshot,                             //
                     "flops_step", cost->flops_step,                                           //
                     "flops_step_exact", cost->flops_step_exact,                               //
                     "tokens_step", (json_int_t)cost->tokens_step,                             //
                     "exact_is_cheaper", cost->flops_step_exact < cost->flops_step);
}

static void print_attention(const struct job_file *job, const struct cost *cost)
{
    const char *kind = attention_kind_text(job->spec.attention.kind);
    double share = cost->flops_step > 0 ? cost->flops_attention / cost->flops_step : 0;

    printf("attention   %s, %.0f%% of the work\n", kind, share * 100);
    if (job->spec.attention.kind != ATTENTION_FAVOR || cost->flops_step_exact <= 0) return;
    double ratio = cost->flops_step_exact / cost->flops_step;
    if (ratio < 1 && ratio >= 0.99)
        printf("            exact attention would take the same work at length %" PRId64 "\n",
               job->spec.data.length);
    else if (ratio < 1)
        printf("            exact attention would be cheaper at length %" PRId64
               ": a step takes %.2f of this work with attention.kind = \"softmax\"\n",
               job->spec.data.length, ratio);
    else
        printf("            exact attention would take %.2f times the work of a step at length "
               "%" PRId64 "\n",
               ratio, job->spec.data.length);
}

void job_file_print_cost(const struct invocation *invocation, const struct job_file *job)
{
    struct cost cost;

    cost_of(&job->spec, &cost);
    if (invocation_json(invocation)) {
        report_json(cost_json(job, &cost));
        return;
    }
    printf("%s: ok\n", job->path);
    printf("name        %s\n", job->spec.job.name);
    printf("parameters  %s\n", count_text((double)cost.parameters).text);
    printf("memory      %s a rank: weights %s, gradients %s, moments %s, activations %s, "
           "snapshot to save %s\n",
           bytes_text((double)cost.bytes_total).text, bytes_text((double)cost.bytes_weights).text,
           bytes_text((double)cost.bytes_gradients).text,
           bytes_text((double)cost.bytes_moments).text,
           bytes_text((double)cost.bytes_activations).text,
           bytes_text((double)cost.bytes_snapshot).text);
    const bool padded = job->spec.data.packing == PACKING_PAD;
    printf("a step      %s%s FLOPs, %s tokens%s\n", padded ? "at most " : "",
           count_text(cost.flops_step).text, count_text((double)cost.tokens_step).text,
           padded ? ": of rows of full length, padding behind the longest is not computed" : "");
    printf("precision   %s\n", precision_text(job->spec.train.precision));
    print_attention(job, &cost);
}
