#include "worker/text.h"

#include "worker/byte_source.h"

static enum status line_end(struct token_buffer *line, const struct record_sink *sink)
{
    if (line->count > 0 && line->tokens[line->count - 1] == '\r') line->count--;
    enum status status = ST_OK;
    if (line->count > 0) status = sink->put(sink->context, line->tokens, line->count);
    line->count = 0;
    return status;
}

static enum status piece_read(struct token_buffer *record, bool by_line, const uint8_t *bytes,
                              size_t length, const struct record_sink *sink)
{
    enum status status = token_buffer_reserve(record, length);
    for (size_t i = 0; i < length && status == ST_OK; i++) {
        if (by_line && bytes[i] == '\n')
            status = line_end(record, sink);
        else
            record->tokens[record->count++] = bytes[i];
    }
    return status;
}

enum status text_read(const char *path, bool by_line, const struct record_sink *sink,
                      struct fault *fault)
{
    struct byte_source *source;
    enum status status = byte_source_open(path, &source, fault);
    if (status != ST_OK) return status;

    struct token_buffer record = {0};
    const uint8_t *bytes;
    size_t length = 1;
    while (length > 0) {
        status = byte_source_read(source, &bytes, &length, fault);
        if (status != ST_OK) goto close_source;
        status = piece_read(&record, by_line, bytes, length, sink);
        if (status != ST_OK) goto no_memory;
    }
    if (by_line)
        status = line_end(&record, sink);
    else if (record.count > 0)
        status = sink->put(sink->context, record.tokens, record.count);
no_memory:
    if (status != ST_OK) fault_set(fault, status, "read %s: out of memory", path);
close_source:
    token_buffer_fini(&record);
    byte_source_close(source);
    return status;
}
