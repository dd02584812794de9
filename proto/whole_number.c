#include "proto/whole_number.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

enum status whole_number_parse(const char *what, const char *text, long least, long most,
                               long *number, struct fault *fault)
{
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || value < least ||
        value > most)
        return fault_set(fault, ST_INVALID, "%s takes a number from %ld to %ld, not `%s`", what,
                         least, most, text);
    *number = value;
    return ST_OK;
}
