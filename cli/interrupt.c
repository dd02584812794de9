#include "cli/interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/quantity.h"

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP};

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) sigaddset(set, signals[i]);
}

enum status interrupts_open(struct interrupts *interrupts, struct fault *fault)
{
    sigset_t set;

    signal_set(&set);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) return fault_errno(fault, errno, "could not watch for signals");
    sigprocmask(SIG_BLOCK, &set, NULL);
    *interrupts = (struct interrupts){.fd = fd};
    return ST_OK;
}

void interrupts_close(struct interrupts *interrupts)
{
    sigset_t set;

    signal_set(&set);
    close(interrupts->fd);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static bool read_signal(int fd, int *signal)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) != (ssize_t)sizeof info) return false;
    *signal = (int)info.ssi_signo;
    return true;
}

/* At the end of stdin the keyboard is forgotten, or poll would never wait again. */
static bool read_quit(struct interrupts *interrupts)
{
    char keys[64];
    ssize_t count = read(STDIN_FILENO, keys, sizeof keys);

    if (count <= 0) interrupts->keyboard = false;
    for (ssize_t i = 0; i < count; i++)
        if (keys[i] == 'q' || keys[i] == 'Q') return true;
    return false;
}

enum wakeup interrupts_wait(struct interrupts *interrupts, int timeout_ms, int *signal)
{
    int64_t end_ms = (int64_t)clock_monotonic_ms() + timeout_ms;

    for (;;) {
        struct pollfd ends[] = {{.fd = interrupts->fd, .events = POLLIN},
                                {.fd = interrupts->keyboard ? STDIN_FILENO : -1, .events = POLLIN}};
        int64_t left_ms = end_ms - (int64_t)clock_monotonic_ms();
        int number;
        if (poll(ends, 2, left_ms > 0 ? (int)left_ms : 0) < 0 && errno != EINTR) return WAKEUP_TIME;
        if (ends[0].revents && read_signal(interrupts->fd, &number)) {
            if (number == SIGWINCH) return WAKEUP_RESIZE;
            if (number == SIGTSTP) return WAKEUP_STOP;
            *signal = number;
            return WAKEUP_END;
        }
        if (ends[1].revents && read_quit(interrupts)) return WAKEUP_QUIT;
        if ((int64_t)clock_monotonic_ms() >= end_ms) return WAKEUP_TIME;
    }
}

void interrupts_suspend(void)
{
    raise(SIGSTOP);
}
