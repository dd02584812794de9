#include "tests/cli/canned_run.h"

#include <math.h>
#include <string.h>

#include "proto/lifecycle.h"

#define POINTERS(pointers, items) \
    for (size_t i = 0; i < sizeof(items) / sizeof((items)[0]); i++) (pointers)[i] = &(items)[i]

static void fill_latest(struct canned_run *run, uint64_t step)
{
    static const struct {
        const char *name;
        double value;
        uint64_t step;
    } rows[CANNED_METRICS] = {
        {"loss", 2.84117, 1240},
        {"valid_loss", 2.90125, 1200},
        {"tokens_per_second", 12345.6, 1240},
        {"step_ms", 412.3, 1240},
        {"lr", 1e-3, 1240},
        {"grad_norm", 0.8123, 1240},
        {"kernel_error.0", 0.12, 1200},
        {"kernel_error.1", 0.61423, 1200},
        {"kernel_error.2", 0.9, 1000}, /* of an evaluation before */
        {"kernel_errors.3", 0.95, 1200},
        {"kernel_error.x", 0.95, 1200},
        {"denominator_min.0", 0.25, 1200},
        {"denominator_min.1", 0.013, 1200},
        {"saturated.0", 0.0021, 1200},
        {"saturated.1", 0, 1200},
    };

    for (int i = 0; i < CANNED_METRICS; i++) {
        performer__named_value__init(&run->latest_items[i]);
        run->latest_items[i].name = (char *)rows[i].name;
        run->latest_items[i].value = rows[i].value;
        run->latest_items[i].step = rows[i].step;
    }
    POINTERS(run->latest, run->latest_items);
    run->summary.latest = run->latest;
    run->summary.n_latest = step > 0 ? CANNED_METRICS : 0;
}

static void fill_attempts(struct canned_run *run)
{
    performer__attempt_info__init(&run->attempt_items[0]);
    performer__attempt_info__init(&run->attempt_items[1]);
    run->attempt_items[0].number = 1;
    run->attempt_items[0].started_ms = CANNED_SUBMITTED_MS + 1000;
    run->attempt_items[0].ended_ms = CANNED_SUBMITTED_MS + 61000;
    run->attempt_items[0].cause = "CRASH";
    run->attempt_items[0].text = "a rank died";
    run->attempt_items[0].first_rank = 1;
    run->attempt_items[0].host = "node1";
    run->attempt_items[0].signal = 9;
    run->attempt_items[0].exit_code = 137;
    run->attempt_items[0].last_lines = "step 500\n\033[2Jloss is 3.1\n";
    run->attempt_items[1].number = 2;
    run->attempt_items[1].started_ms = CANNED_SUBMITTED_MS + 63000;
    run->attempt_items[1].first_rank = -1;
    run->attempt_items[1].resumed_step = 500;
    POINTERS(run->attempts, run->attempt_items);
    run->detail.attempts = run->attempts;
    run->detail.n_attempts = 2;
}

static void fill_ranks(struct canned_run *run, uint64_t step)
{
    for (uint32_t i = 0; i < 20; i++) {
        Performer__RankInfo *rank = &run->rank_items[i];
        performer__rank_info__init(rank);
        rank->rank = i;
        rank->host = i == 0 ? "node1" : "a-node-with-a-rather-long-name.example.org";
        rank->pid = 4194300 - i;
        rank->step = step;
        rank->phase = i == 0 ? "backward" : "a-phase-of-a-newer-worker";
        rank->step_ms = 412.3 + i;
        rank->heard_ms = i == 0 ? 300 : 65000;
    }
    POINTERS(run->ranks, run->rank_items);
    run->detail.ranks = run->ranks;
    run->detail.n_ranks = 2;
}

static void fill_redraws(struct canned_run *run)
{
    run->hashes[0] = run->hashes[1] = "9f3a61c2d4e5f607";
    run->hashes_differ[0] = "9f3a61c2d4e5f607";
    run->hashes_differ[1] = "0000000000000000";
    run->hashes_half[0] = "9f3a61c2d4e5f607";
    run->hashes_half[1] = "";
    char **hashes[] = {run->hashes, run->hashes_differ, run->hashes_half};
    for (uint32_t i = 0; i < 3; i++) {
        Performer__RedrawInfo *redraw = &run->redraw_items[i];
        performer__redraw_info__init(redraw);
        redraw->draw = i + 1;
        redraw->step = 200 * (i + 1);
        redraw->why = i == 1   ? "order 7"
                      : i == 2 ? "adaptive: kernel_error.1 0.6142 > 0.5"
                               : "planned";
        redraw->hashes = hashes[i];
        redraw->n_hashes = 2;
        redraw->agreed = i == 0;
    }
    POINTERS(run->redraws, run->redraw_items);
    run->detail.redraws = run->redraws;
    run->detail.n_redraws = 3;
    run->detail.next_redraw_step = 800;
    performer__order_info__init(&run->order_item);
    run->order_item.id = 7;
    run->order_item.kind = "redraw";
    run->order_item.state = "applied";
    run->order_item.step = 400;
    run->order_item.requested_ms = CANNED_SUBMITTED_MS + 90000;
    run->order = &run->order_item;
    run->detail.orders = &run->order;
    run->detail.n_orders = 1;
}

static void fill_checkpoints(struct canned_run *run)
{
    const char *verdicts[] = {"pruned", "good", "good"};

    for (uint32_t i = 0; i < 3; i++) {
        Performer__CheckpointInfo *checkpoint = &run->checkpoint_items[i];
        performer__checkpoint_info__init(checkpoint);
        checkpoint->step = 500 * (i + 1);
        checkpoint->path = "/srv/runs/r1/checkpoints/step";
        checkpoint->verdict = (char *)verdicts[i];
        checkpoint->attempt = 1;
        checkpoint->bytes = 13200000;
        checkpoint->saved_ms = CANNED_SUBMITTED_MS + 100000;
        checkpoint->best = i == 1;
        checkpoint->valid_loss = i == 0 ? NAN : 2.9;
        checkpoint->seconds = 0.25;
    }
    POINTERS(run->checkpoints, run->checkpoint_items);
    run->detail.checkpoints = run->checkpoints;
    run->detail.n_checkpoints = 3;
    run->detail.next_checkpoint_step = 2000;
}

void canned_run_init(struct canned_run *run, const char *state, uint64_t step)
{
    enum run_state known;
    bool final = run_state_from_name(state, &known) && run_state_is_final(known);

    memset(run, 0, sizeof *run);
    performer__run_summary__init(&run->summary);
    performer__run_detail__init(&run->detail);
    run->summary.id = "r1";
    run->summary.name = "trembl-favor";
    run->summary.state = (char *)state;
    run->summary.reason = known == RUN_FAILED && final ? "CRASH: rank 1 died" : "";
    run->summary.directory = "/srv/runs/r1";
    run->summary.step = step;
    run->summary.steps = CANNED_STEPS;
    run->summary.attempt = 2;
    run->summary.ranks = 2;
    run->summary.submitted_ms = CANNED_SUBMITTED_MS;
    run->summary.started_ms = CANNED_SUBMITTED_MS + 1000;
    run->summary.ended_ms = final ? CANNED_SUBMITTED_MS + 193000 : 0;
    run->detail.summary = &run->summary;
    performer__drill__init(&run->drill);
    run->drill.attempt = 2;
    run->drill.step = 600;
    run->drill.save_ms = 1700;
    run->drill.exit_ms = 31000;
    run->detail.drill = &run->drill;
    run->detail.stop_ms = 31000;
    run->detail.grace_ms = 30000;
    run->detail.config =
        "[job]\nname = \"trembl-favor\"\n[data]\nformat = \"text\"\ntrain = \"/etc/hostname\"\n"
        "length = 16\n[model]\nlayers = 1\nheads = 1\nwidth = 8\nmlp = 8\n";
    fill_latest(run, step);
    fill_attempts(run);
    fill_ranks(run, step);
    fill_redraws(run);
    fill_checkpoints(run);
}
