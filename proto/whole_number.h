#ifndef PROTO_WHOLE_NUMBER_H
#define PROTO_WHOLE_NUMBER_H

/* Numbers on command lines. */

#include "proto/status.h"

/* `text` is the value of `what`, an option or a key as its user writes it. ST_INVALID where it is no number of plain digits
 * from least, which is not below 0, to most; the fault names all of these. */
enum status whole_number_parse(const char *what, const char *text, long least, long most,
                               long *number, struct fault *fault);

#endif
