#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

/* What is at the other end of stdout, and how to take its screen over and give it back. */

#include <stdbool.h>
#include <stddef.h>

struct terminal {
    bool interactive;     /* a terminal that can be drawn on: a tty, and TERM is not "dumb" */
    bool colour;          /* and NO_COLOR is not set */
    bool utf8;            /* the locale's characters are UTF-8 */
    size_t columns, rows; /* 0: no limit, not a terminal */
};

void terminal_probe(int fd, struct terminal *terminal);

/* The size anew, after SIGWINCH. */
void terminal_measure(int fd, struct terminal *terminal);

/*
 * Takes the screen: alternate screen, cursor hidden, keys unechoed and without waiting for Enter. Given back
 * by terminal_release, by exit() and by abort(); one at a time.
 */
void terminal_take(void);
void terminal_release(void);

enum style {
    STYLE_PLAIN,
    STYLE_DIM,
    STYLE_BOLD,
    STYLE_GOOD,
    STYLE_WARN,
    STYLE_BAD,
    STYLE_ACCENT,
};

/* The escape sequence that starts a style; "" for STYLE_PLAIN or without colour. STYLE_END ends any. */
const char *style_begin(enum style style, bool colour);
#define STYLE_END "\033[0m"

/* The style in which a state is shown. */
enum style style_of_state(const char *state);

#endif
