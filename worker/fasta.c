#include "worker/fasta.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "proto/vocabulary.h"
#include "worker/byte_source.h"

struct place {
    long long line, column; /* from 1; column in bytes */
};

struct fasta {
    const char *path;
    const struct record_sink *sink;
    int8_t token[256]; /* of a letter, -1: none */
    struct token_buffer record;
    struct place here, stop; /* stop: where the record had its '*', line 0: nowhere yet */
    bool in_header, named;   /* named: a '>' has been seen */
};

static void fasta_init(struct fasta *fasta, const char *path, const struct record_sink *sink)
{
    *fasta = (struct fasta){.path = path, .sink = sink, .here = {.line = 1}};
    memset(fasta->token, -1, sizeof fasta->token);
    for (int i = 0; FASTA_LETTERS[i] != '\0'; i++) {
        fasta->token[(uint8_t)FASTA_LETTERS[i]] = (int8_t)i;
        fasta->token[tolower((uint8_t)FASTA_LETTERS[i])] = (int8_t)i;
    }
}

static enum status letter_fault(const struct fasta *fasta, uint8_t byte, struct fault *fault)
{
    char letter[8];
    snprintf(letter, sizeof letter, isprint(byte) ? "'%c'" : "0x%02x", byte);
    const char *cure = "write X for a residue that is not known";
    if (byte == '-' || byte == '.') cure = "remove the gaps of the alignment";
    if (byte == ';') cure = "remove lines of comment";
    return fault_set(fault, ST_BAD_DATA,
                     "%s:%lld:%lld: %s is none of the residues " FASTA_LETTERS "; %s", fasta->path,
                     fasta->here.line, fasta->here.column, letter, cure);
}

static enum status record_end(struct fasta *fasta, struct fault *fault)
{
    enum status status = ST_OK;
    if (fasta->record.count > 0)
        status = fasta->sink->put(fasta->sink->context, fasta->record.tokens, fasta->record.count);
    fasta->record.count = 0;
    fasta->stop.line = 0;
    if (status != ST_OK) return fault_set(fault, status, "read %s: out of memory", fasta->path);
    return ST_OK;
}

static enum status residue_read(struct fasta *fasta, uint8_t byte, struct fault *fault)
{
    if (!fasta->named)
        return fault_set(fault, ST_BAD_DATA,
                         "%s:%lld:%lld: residues before the first record; a FASTA file begins with "
                         "a line '>name'",
                         fasta->path, fasta->here.line, fasta->here.column);
    if (fasta->stop.line > 0)
        return fault_set(fault, ST_BAD_DATA,
                         "%s:%lld:%lld: '*' in the middle of a record; split the record there, or "
                         "write X for a residue that is not known",
                         fasta->path, fasta->stop.line, fasta->stop.column);
    if (byte == '*') {
        fasta->stop = fasta->here;
        return ST_OK;
    }
    if (fasta->token[byte] < 0) return letter_fault(fasta, byte, fault);
    fasta->record.tokens[fasta->record.count++] = (uint16_t)fasta->token[byte];
    return ST_OK;
}

static enum status byte_read(struct fasta *fasta, uint8_t byte, struct fault *fault)
{
    if (byte == '\n') {
        fasta->here.line++;
        fasta->here.column = 0;
        fasta->in_header = false;
        return ST_OK;
    }
    fasta->here.column++;
    if (fasta->in_header) return ST_OK;
    if (byte == '>' && fasta->here.column == 1) {
        fasta->in_header = fasta->named = true;
        return record_end(fasta, fault);
    }
    if (byte == '\r' || byte == ' ' || byte == '\t') return ST_OK;
    return residue_read(fasta, byte, fault);
}

enum status fasta_read(const char *path, const struct record_sink *sink, struct fault *fault)
{
    struct byte_source *source;
    enum status status = byte_source_open(path, &source, fault);
    if (status != ST_OK) return status;

    struct fasta fasta;
    fasta_init(&fasta, path, sink);
    const uint8_t *bytes;
    size_t length = 1;
    while (status == ST_OK && length > 0) {
        status = byte_source_read(source, &bytes, &length, fault);
        if (status != ST_OK) break;
        status = token_buffer_reserve(&fasta.record, length);
        if (status != ST_OK) fault_set(fault, status, "read %s: out of memory", path);
        for (size_t i = 0; i < length && status == ST_OK; i++)
            status = byte_read(&fasta, bytes[i], fault);
    }
    if (status == ST_OK) status = record_end(&fasta, fault);
    token_buffer_fini(&fasta.record);
    byte_source_close(source);
    return status;
}
