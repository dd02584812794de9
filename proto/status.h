#ifndef PROTO_STATUS_H
#define PROTO_STATUS_H

/*
 * Every outcome of a fallible function, and the words that go with it.
 *
 * A fallible function returns `enum status`; its outputs come last and are untouched on failure. Where a
 * person will need words, the last argument is a `struct fault *`, filled by whoever first decides that
 * something is an error and wrapped outward by callers that can say more. Codes of other libraries
 * (errno, nng, SQLite, MPI, oneDNN) are translated once, where they enter. The numbers cross the wire and
 * lie in files: never renumber one, append instead.
 */

/*           name          number  text */
#define STATUS_LIST(X)                                         \
    X(ST_OK, 0, "ok")                                          \
    /* what one request can ruin */                            \
    X(ST_INVALID, 1, "invalid input")                          \
    X(ST_NOT_FOUND, 2, "not found")                            \
    X(ST_REFUSED, 3, "refused in this state")                  \
    X(ST_NOT_PERMITTED, 4, "not permitted")                    \
    X(ST_TOO_LARGE, 5, "too large")                            \
    X(ST_UNSUPPORTED, 6, "not supported")                      \
    X(ST_TIMED_OUT, 7, "timed out")                            \
    X(ST_UNREACHABLE, 8, "not reachable")                      \
    X(ST_FENCED, 9, "a newer attempt has taken over")          \
    /* what ruins a process or a file */                       \
    X(ST_NO_MEMORY, 20, "out of memory")                       \
    X(ST_IO, 21, "input/output error")                         \
    X(ST_NO_SPACE, 22, "no space left")                        \
    X(ST_CORRUPT, 23, "corrupt data")                          \
    X(ST_BUSY, 24, "held by another process")                  \
    X(ST_SYSTEM, 25, "system call failed")                     \
    X(ST_INTERNAL, 26, "internal error")                       \
    /* what ruins a run */                                     \
    X(ST_BAD_DATA, 40, "bad training data")                    \
    X(ST_DIVERGED, 41, "training diverged")                    \
    X(ST_COLLECTIVE, 42, "communication between ranks failed") \
    X(ST_DEVICE, 43, "the GPU failed")

enum status {
#define STATUS_ENUM(name, number, text) name = number,
    STATUS_LIST(STATUS_ENUM)
#undef STATUS_ENUM
};

#ifdef __cplusplus
extern "C" {
#endif

/* The words of a status; "unknown status" for a number that is none. Never NULL. */
const char *status_text(enum status status);

/* The name of a status as scripts see it, "ST_OK" without its prefix and in lower case: "ok". */
const char *status_name(enum status status);

/* What went wrong, in words for a person. Lives on the stack of whoever ends the story. */
struct fault {
    enum status status;
    const char *file; /* where it was born */
    int line;
    char text[400];
};

/* Fills `fault` (which may be NULL) and returns `status`: `return fault_set(fault, ST_IO, "...", ...)`. */
#define fault_set(fault, status, ...) fault_set_at(fault, status, __FILE__, __LINE__, __VA_ARGS__)

/* Puts more context in front of what is there: "resume run r7: read manifest: checksum mismatch". */
enum status fault_wrap(struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The status that an errno means to us, ST_SYSTEM where it means nothing special. */
enum status status_from_errno(int error);

/* "could not open /x/y: Permission denied", with the status that `error` means. */
#define fault_errno(fault, error, ...) fault_errno_at(fault, error, __FILE__, __LINE__, __VA_ARGS__)

enum status fault_set_at(struct fault *fault, enum status status, const char *file, int line,
                         const char *format, ...) __attribute__((format(printf, 5, 6)));
enum status fault_errno_at(struct fault *fault, int error, const char *file, int line,
                           const char *format, ...) __attribute__((format(printf, 5, 6)));

#ifdef __cplusplus
}
#endif

#endif
