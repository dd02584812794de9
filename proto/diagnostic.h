#ifndef PROTO_DIAGNOSTIC_H
#define PROTO_DIAGNOSTIC_H

/*
 * Mistakes in a file, with their place and their cure, collected first and shown together. What they
 * show of the file is copied, made valid UTF-8 and free of control characters.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "proto/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum severity { SEVERITY_ERROR, SEVERITY_WARNING };

struct diagnostic {
    enum severity severity;
    char code[8];       /* "E0203", stable, for scripts and searching */
    char message[200];  /* "unknown key `layres` in [model]" */
    char source[256];   /* the file as the user named it, or "--set" */
    int line;           /* from 1; 0: no place in the file (a missing section) */
    int column;         /* from 1, in bytes */
    int length;         /* bytes that the carets underline, at least 1 */
    char excerpt[256];  /* the source line, cut if very long */
    int excerpt_column; /* the column of its first byte; 0 means 1 */
    char label[120];    /* beside the carets */
    char help[200];     /* the cure; may be empty */
};

struct diagnostics {
    size_t count;
    size_t capacity;
    struct diagnostic *items;
    size_t errors; /* how many of them are SEVERITY_ERROR */
};

/* Appends a copy. Behind a hundred, or out of memory, the last one becomes "too many"; `errors` counts on. */
void diagnostics_add(struct diagnostics *diagnostics, const struct diagnostic *diagnostic);

/* Into the order of place: those of the source `first`, then of the others, then those without a place. Keeps
 * the order of equals. */
void diagnostics_sort(struct diagnostics *diagnostics, const char *first);

/* Prints all, in the shape of rustc's: severity[code]: message, place, source line, carets, help. */
void diagnostics_print(const struct diagnostics *diagnostics, FILE *out, bool colour);

/* An array of objects: severity code message file line column length label help. The string is the
 * caller's, to be freed; NULL when out of memory. */
char *diagnostics_json(const struct diagnostics *diagnostics);

void diagnostics_free(struct diagnostics *diagnostics);

/* The candidate nearest to `word` within a third of its length (at least 1, at most 3) by
 * Damerau-Levenshtein distance, NULL where none is near. */
const char *nearest_word(const char *word, const char *const *candidates, size_t count);

#ifdef __cplusplus
}
#endif

#endif
