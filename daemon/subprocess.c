#include "daemon/subprocess.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "daemon/memory.h"

enum { ROOM_FIRST = 4096 };

/* One of the two texts. */
struct text {
    uv_pipe_t pipe;
    char *bytes; /* (capacity), `length` of them read */
    size_t length, capacity;
};

/* Its memory goes with the last of its handles. */
struct subprocess {
    uv_process_t process;
    uv_timer_t limit;
    struct text output, errors;
    subprocess_ended *ended;
    void *context;
    int exit_code;
    bool exited, given_up;
    int texts;   /* not at their end yet */
    int handles; /* not closed yet */
};

static void handle_closed(uv_handle_t *handle)
{
    struct subprocess *subprocess = handle->data;
    if (--subprocess->handles > 0) return;
    free(subprocess->output.bytes);
    free(subprocess->errors.bytes);
    free(subprocess);
}

void subprocess_forget(struct subprocess *subprocess)
{
    if (!subprocess) return;
    uv_close((uv_handle_t *)&subprocess->process, handle_closed);
    uv_close((uv_handle_t *)&subprocess->limit, handle_closed);
    uv_close((uv_handle_t *)&subprocess->output.pipe, handle_closed);
    uv_close((uv_handle_t *)&subprocess->errors.pipe, handle_closed);
}

static const char *text_read(struct text *text)
{
    if (!text->bytes) return "";
    text->bytes[text->length] = '\0';
    return text->bytes;
}

/* The end is that of the program and of all that it said; where it was given up, a child of its own may hold the pipes. */
static void tell_end(struct subprocess *subprocess)
{
    if (!subprocess->exited || (subprocess->texts > 0 && !subprocess->given_up)) return;
    const struct subprocess_end end = {subprocess->given_up ? -1 : subprocess->exit_code,
                                       text_read(&subprocess->output),
                                       text_read(&subprocess->errors)};
    subprocess->ended(subprocess->context, &end);
    subprocess_forget(subprocess);
}

static void exited(uv_process_t *process, int64_t exit_status, int signal)
{
    struct subprocess *subprocess = process->data;
    subprocess->exit_code = signal == 0 ? (int)exit_status : -1;
    subprocess->exited = true;
    tell_end(subprocess);
}

static void give_up(struct subprocess *subprocess)
{
    if (subprocess->given_up) return;
    subprocess->given_up = true;
    if (!subprocess->exited) uv_process_kill(&subprocess->process, SIGKILL);
    tell_end(subprocess);
}

static void time_is_up(uv_timer_t *timer)
{
    give_up(timer->data);
}

static struct text *text_of(struct subprocess *subprocess, const void *pipe)
{
    return pipe == &subprocess->output.pipe ? &subprocess->output : &subprocess->errors;
}

static void give_room(uv_handle_t *handle, size_t wanted, uv_buf_t *room)
{
    struct text *text = text_of(handle->data, handle);
    (void)wanted;
    if (text->length + 1 >= text->capacity) {
        text->capacity = text->capacity == 0 ? ROOM_FIRST : 2 * text->capacity;
        text->bytes = memory_grow(text->bytes, text->capacity);
    }
    *room = uv_buf_init(text->bytes + text->length,
                        (unsigned)(text->capacity - text->length - 1)); /* one for the NUL */
}

static void was_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *room)
{
    struct subprocess *subprocess = stream->data;
    struct text *text = text_of(subprocess, stream);
    (void)room;
    if (length < 0) {
        uv_read_stop(stream);
        subprocess->texts--;
        tell_end(subprocess);
        return;
    }
    text->length += (size_t)length;
    if (text->length < SUBPROCESS_BYTES_MAX) return;
    uv_read_stop(stream);
    give_up(subprocess);
}

static struct subprocess *subprocess_new(uv_loop_t *loop, subprocess_ended *ended, void *context)
{
    struct subprocess *made = memory_zeroed(1, sizeof *made);
    made->ended = ended;
    made->context = context;
    made->texts = 2;
    made->handles = 4;
    made->process.data = made->limit.data = made;
    made->output.pipe.data = made->errors.pipe.data = made;
    uv_timer_init(loop, &made->limit);
    uv_pipe_init(loop, &made->output.pipe, 0);
    uv_pipe_init(loop, &made->errors.pipe, 0);
    return made;
}

enum status subprocess_start(struct uv_loop_s *loop, const char *const argv[], uint64_t limit_ms,
                             subprocess_ended *ended, void *context, struct subprocess **subprocess,
                             struct fault *fault)
{
    struct subprocess *made = subprocess_new(loop, ended, context);
    uv_stdio_container_t streams[] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&made->output.pipe},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&made->errors.pipe},
    };
    uv_process_options_t options = {
        .file = argv[0],
        .args = (char **)argv,
        .stdio = streams,
        .stdio_count = 3,
        .exit_cb = exited,
    };
    int error = uv_spawn(loop, &made->process, &options);
    if (error != 0) {
        subprocess_forget(made);
        return fault_errno(fault, -error, "could not run %s", argv[0]);
    }
    uv_timer_start(&made->limit, time_is_up, limit_ms, 0);
    uv_read_start((uv_stream_t *)&made->output.pipe, give_room, was_read);
    uv_read_start((uv_stream_t *)&made->errors.pipe, give_room, was_read);
    *subprocess = made;
    return ST_OK;
}
