#include "cli/terminal.h"

#include <langinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "proto/lifecycle.h"

void terminal_measure(int fd, struct terminal *terminal)
{
    struct winsize size;

    if (ioctl(fd, TIOCGWINSZ, &size) != 0) return;
    if (size.ws_col > 0) terminal->columns = size.ws_col;
    if (size.ws_row > 0) terminal->rows = size.ws_row;
}

void terminal_probe(int fd, struct terminal *terminal)
{
    const char *type = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");

    *terminal = (struct terminal){0};
    terminal->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    if (!isatty(fd)) return;
    terminal->columns = 80;
    terminal->rows = 24;
    terminal_measure(fd, terminal);
    terminal->interactive = type && strcmp(type, "") != 0 && strcmp(type, "dumb") != 0;
    terminal->colour = terminal->interactive && !(no_color && no_color[0] != '\0');
}

/* ---- the screen, taken and given back ---- */

static struct {
    volatile sig_atomic_t taken;
    bool keys_changed;
    struct termios keys; /* as they were */
} held;

static void write_all(const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);
        if (written <= 0) return;
        bytes += written;
        length -= (size_t)written;
    }
}

/* Only calls that a signal handler may make. */
void terminal_release(void)
{
    static const char leave[] = "\033[0m\033[?25h\033[?1049l";

    if (!held.taken) return;
    held.taken = 0;
    write_all(leave, sizeof leave - 1);
    if (held.keys_changed) tcsetattr(STDIN_FILENO, TCSANOW, &held.keys);
}

static void release_at_abort(int signal)
{
    (void)signal;
    terminal_release(); /* returns into abort(), which ends the process */
}

void terminal_take(void)
{
    static const char enter[] = "\033[?1049h\033[?25l\033[2J";
    static bool registered;

    if (held.taken) return;
    if (!registered) {
        atexit(terminal_release);
        signal(SIGABRT, release_at_abort);
        registered = true;
    }
    held.keys_changed = tcgetattr(STDIN_FILENO, &held.keys) == 0;
    if (held.keys_changed) {
        struct termios raw = held.keys;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    held.taken = 1;
    write_all(enter, sizeof enter - 1);
}

/* ---- styles ---- */

const char *style_begin(enum style style, bool colour)
{
    static const char *const sequences[] = {
        [STYLE_PLAIN] = "",          [STYLE_DIM] = "\033[2m",   [STYLE_BOLD] = "\033[1m",
        [STYLE_GOOD] = "\033[32m",   [STYLE_WARN] = "\033[33m", [STYLE_BAD] = "\033[31m",
        [STYLE_ACCENT] = "\033[36m",
    };
    return colour ? sequences[style] : "";
}

enum style style_of_state(const char *state)
{
    enum run_state known;

    if (!run_state_from_name(state, &known)) return STYLE_PLAIN;
    switch (known) {
    case RUN_RUNNING:
    case RUN_SUCCEEDED:
        return STYLE_GOOD;
    case RUN_STARTING:
    case RUN_STOPPING:
    case RUN_RESTARTING:
    case RUN_UNKNOWN:
    case RUN_CANCELLED:
        return STYLE_WARN;
    case RUN_FAILED:
        return STYLE_BAD;
    case RUN_QUEUED:
    case RUN_PAUSED:
        return STYLE_DIM;
    }
    return STYLE_PLAIN;
}
