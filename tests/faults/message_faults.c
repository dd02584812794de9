/* Every allocation of a request's and a response's way fails: that message alone is lost, and it is told why. */

#include <criterion/criterion.h>
#include <stdlib.h>

#include "proto/wire.h"
#include "tests/faults/calls.h"

/* A report with texts, a list, and messages in messages. */
static void pack(uint8_t **bytes, size_t *length)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Report report = PERFORMER__REPORT__INIT;
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT, *rows[] = {&row, &row, &row};
    Performer__Heartbeat heartbeat = PERFORMER__HEARTBEAT__INIT;
    row.name = "loss";
    heartbeat.host = "node1";
    heartbeat.phase = "forward";
    report.run = "r1";
    report.nonce = "nonce";
    report.metrics = rows;
    report.n_metrics = 3;
    report.heartbeat = &heartbeat;
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &report;
    cr_assert_eq(wire_pack_request(&request, bytes, length), ST_OK);
}

Test(every_allocation, of_a_request_that_comes)
{
    uint8_t *bytes;
    size_t length;
    pack(&bytes, &length);
    bool met = true;
    int n = 0;
    while (met) {
        Performer__Request *request = NULL;
        struct fault fault = {0};
        calls_arm(CALLS_MEMORY, CALLS_FAIL_ONCE, (uint64_t)++n);
        enum status status = wire_unpack_request(bytes, length, &request, &fault);
        met = calls_disarm();
        cr_assert_eq(status, met ? ST_NO_MEMORY : ST_OK, "allocation %d: %s", n, fault.text);
        cr_assert_eq(request != NULL, status == ST_OK);
        if (request) performer__request__free_unpacked(request, NULL);
    }
    cr_assert_gt(n, 10);
    free(bytes);
}

Test(every_allocation, of_a_response_that_goes)
{
    Performer__Response response = PERFORMER__RESPONSE__INIT;
    uint8_t *bytes = NULL;
    size_t length = 0;
    response.text = "words";
    calls_arm(CALLS_MEMORY, CALLS_FAIL_ONCE, 1);
    cr_assert_eq(wire_pack_response(&response, &bytes, &length), ST_NO_MEMORY);
    cr_assert(calls_disarm() && !bytes && length == 0);
    cr_assert_eq(wire_pack_response(&response, &bytes, &length), ST_OK);
    free(bytes);
}
