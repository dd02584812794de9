#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

static struct fault fault;

static void report_init(Performer__Request *request, Performer__Report *report)
{
    performer__request__init(request);
    performer__report__init(report);
    request->body_case = PERFORMER__REQUEST__BODY_REPORT;
    request->report = report;
}

Test(wire, a_request_arrives_as_it_was_sent)
{
    Performer__Request request, *arrived;
    Performer__Report report;
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT, *rows[] = {&row, &row};
    report_init(&request, &report);
    report.run = "r7";
    report.attempt = 2;
    report.sequence = UINT64_MAX;
    row.name = "loss";
    row.value = 4.25;
    report.n_metrics = 2;
    report.metrics = rows;
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    cr_assert_eq(wire_unpack_request(bytes, length, &arrived, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(arrived->version, PROTOCOL_VERSION);
    cr_assert_eq(arrived->body_case, PERFORMER__REQUEST__BODY_REPORT);
    cr_assert_str_eq(arrived->report->run, "r7");
    cr_assert_eq(arrived->report->sequence, UINT64_MAX);
    cr_assert_eq(arrived->report->n_metrics, 2);
    cr_assert_str_eq(arrived->report->metrics[1]->name, "loss");
    cr_assert_eq(arrived->report->metrics[1]->value, 4.25);
    performer__request__free_unpacked(arrived, NULL);
    free(bytes);
}

Test(wire, a_response_arrives_with_its_status_and_words)
{
    Performer__Response response = PERFORMER__RESPONSE__INIT, *arrived;
    response.status = ST_NOT_FOUND;
    response.text = "no run r7";
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_response(&response, &bytes, &length), ST_OK);
    cr_assert_eq(wire_unpack_response(bytes, length, &arrived, &fault), ST_OK);
    cr_assert_eq(arrived->status, ST_NOT_FOUND);
    cr_assert_str_eq(arrived->text, "no run r7");
    performer__response__free_unpacked(arrived, NULL);
    free(bytes);
}

/* Packs as it is, past the version that wire_pack_* fills in. */
static enum status unpack_raw(const Performer__Request *request)
{
    static uint8_t bytes[1000];
    Performer__Request *arrived = NULL;
    enum status status =
        wire_unpack_request(bytes, performer__request__pack(request, bytes), &arrived, &fault);
    if (status != ST_OK) return status;
    status = wire_check_request(arrived, &fault);
    performer__request__free_unpacked(arrived, NULL);
    return status;
}

Test(wire, another_version_is_refused)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping ping = PERFORMER__PING__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &ping;
    request.version = PROTOCOL_VERSION + 1;
    cr_assert_eq(unpack_raw(&request), ST_UNSUPPORTED);
    cr_assert(strstr(fault.text, "protocol 2"), "%s", fault.text);
    request.version = 0;
    cr_assert_eq(unpack_raw(&request), ST_UNSUPPORTED);
    request.version = PROTOCOL_VERSION;
    cr_assert_eq(unpack_raw(&request), ST_OK);
}

Test(wire, a_message_without_a_body_is_refused)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    request.version = PROTOCOL_VERSION;
    cr_assert_eq(unpack_raw(&request), ST_UNSUPPORTED);
    Performer__Response response = PERFORMER__RESPONSE__INIT, *arrived;
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_response(&response, &bytes, &length), ST_OK);
    cr_assert_eq(wire_unpack_response(bytes, length, &arrived, &fault), ST_UNSUPPORTED);
    free(bytes);
}

Test(wire, what_is_too_large_is_neither_sent_nor_read)
{
    Performer__Request request = PERFORMER__REQUEST__INIT, *arrived;
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    size_t size = WIRE_BYTES_MAX;
    char *text = malloc(size + 1);
    memset(text, 'x', size);
    text[size] = '\0';
    submit.text = text;
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    uint8_t *bytes = NULL;
    size_t length;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_TOO_LARGE);
    cr_assert_null(bytes);
    cr_assert_eq(wire_unpack_request((uint8_t *)text, size + 1, &arrived, &fault), ST_TOO_LARGE);
    text[size - 20] = '\0';
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    cr_assert_eq(wire_unpack_request(bytes, length, &arrived, &fault), ST_OK, "%s", fault.text);
    performer__request__free_unpacked(arrived, NULL);
    free(bytes);
    free(text);
}

/* A report of half a million empty metrics: two bytes each, fifty in memory. */
Test(wire, a_small_frame_does_not_take_much_memory)
{
    uint8_t *bytes = calloc(1, WIRE_BYTES_MAX);
    size_t body = WIRE_BYTES_MAX - 16, length = 0;
    bytes[length++] = 0x08; /* version = 1 */
    bytes[length++] = PROTOCOL_VERSION;
    bytes[length++] = 0x5a; /* report = 11, of that many bytes */
    bytes[length++] = (uint8_t)(body | 0x80);
    bytes[length++] = (uint8_t)(body >> 7 | 0x80);
    bytes[length++] = (uint8_t)(body >> 14);
    for (size_t i = 0; i < body; i += 2) bytes[length + i] = 0x42; /* metrics = 8, empty */
    Performer__Request *arrived;
    cr_assert_eq(wire_unpack_request(bytes, length + body, &arrived, &fault), ST_CORRUPT);
    length -= 3;
    bytes[length++] = 10 << 1; /* the same with ten of them is fine */
    memmove(bytes + length, bytes + length + 2, 20);
    cr_assert_eq(wire_unpack_request(bytes, length + 20, &arrived, &fault), ST_OK, "%s",
                 fault.text);
    cr_assert_eq(arrived->report->n_metrics, 10);
    performer__request__free_unpacked(arrived, NULL);
    free(bytes);
}

Test(wire, bad_letters_are_mended_wherever_they_are)
{
    Performer__Request request, *arrived;
    Performer__Report report;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    Performer__Ended ended = PERFORMER__ENDED__INIT;
    report_init(&request, &report);
    report.run = "r\xff";
    report.n_notices = 1;
    report.notices = notices;
    notice.what_case = PERFORMER__NOTICE__WHAT_ENDED;
    notice.ended = &ended;
    ended.text = "caf\xc3\xa9 \xe2\x82\xac \xed\xa0\x80 \xf0\x9f\x98\x80 \xc3";
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    cr_assert_eq(wire_unpack_request(bytes, length, &arrived, &fault), ST_OK);
    cr_assert_str_eq(arrived->report->run, "r?");
    cr_assert_str_eq(arrived->report->notices[0]->ended->text,
                     "caf\xc3\xa9 \xe2\x82\xac ??\? \xf0\x9f\x98\x80 ?");
    performer__request__free_unpacked(arrived, NULL);
    free(bytes);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

Test(wire, random_bytes_are_refused_or_read_and_leave_no_memory)
{
    uint32_t chance = 88172645u;
    int refused = 0;
    for (int round = 0; round < 20000; round++) {
        size_t length = next_random(&chance) % 200;
        uint8_t *bytes = malloc(length + 1); /* exact: a byte read behind it is seen */
        for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)next_random(&chance);
        Performer__Request *request;
        Performer__Response *response;
        if (wire_unpack_request(bytes, length, &request, &fault) == ST_OK)
            performer__request__free_unpacked(request, NULL);
        else
            refused++;
        if (wire_unpack_response(bytes, length, &response, &fault) == ST_OK)
            performer__response__free_unpacked(response, NULL);
        free(bytes);
    }
    cr_assert_gt(refused, 19000);
}

/* A true message with a byte changed, and cut everywhere. */
Test(wire, a_damaged_message_is_refused_or_read)
{
    Performer__Request request, *arrived;
    Performer__Report report;
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT, *rows[] = {&row, &row};
    Performer__Heartbeat heartbeat = PERFORMER__HEARTBEAT__INIT;
    report_init(&request, &report);
    report.run = "r7";
    report.nonce = "0123456789abcdef";
    report.n_metrics = 2;
    report.metrics = rows;
    row.name = "loss";
    row.value = 3;
    report.heartbeat = &heartbeat;
    heartbeat.phase = "backward";
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_request(&request, &bytes, &length), ST_OK);
    for (size_t at = 0; at < length; at++) {
        uint8_t kept = bytes[at];
        for (int value = 0; value < 256; value++) {
            bytes[at] = (uint8_t)value;
            if (wire_unpack_request(bytes, length, &arrived, &fault) == ST_OK)
                performer__request__free_unpacked(arrived, NULL);
        }
        bytes[at] = kept;
        uint8_t *cut = malloc(at + 1);
        memcpy(cut, bytes, at);
        if (wire_unpack_request(cut, at, &arrived, &fault) == ST_OK)
            performer__request__free_unpacked(arrived, NULL);
        free(cut);
    }
    free(bytes);
}
