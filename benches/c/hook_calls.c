/*
 * Calls mirror_hook_sent as it is told, beside a copy of the same bytes, and says how long each took.
 * The hook is the very archive that goes into libssl.
 *
 *     hook_calls THREADS
 *
 * Each line "hook|copy BYTES CALLS" of standard input is answered by a line with the nanoseconds that
 * it took until each of THREADS threads had made CALLS calls. A copy goes to memory of the thread's own, of
 * the size of the part of a ring that is hot (COPY_BYTES).
 */
#include "mirror_hook.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 256 * 1024, COPY_BYTES = 64 * 1024, MOST_THREADS = 64 };

struct worker {
    pthread_t thread;
    mirror_hook_conn connection;
    unsigned char *text, *copy;
};

static struct worker workers[MOST_THREADS];
static int threads;
static pthread_barrier_t begin, end;
static int copying;
static size_t bytes, calls;

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "hook_calls: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void announce(mirror_hook_conn *connection)
{
    mirror_hook_info info = { 0 };

    info.size = sizeof(info);
    info.role = MIRROR_HOOK_SERVER;
    info.read_fd = info.write_fd = -1;
    info.wire_read = info.wire_written = UINT64_MAX;
    if (mirror_hook_wants_open(connection))
        mirror_hook_open(connection, &info);
}

static void work(struct worker *self)
{
    for (size_t call = 0; call < calls; call++) {
        const unsigned char *from = self->text + call * 272 % 4096;

        if (copying) {
            /* Where a ring's next record would lie. */
            size_t to = call * (bytes + 32) % COPY_BYTES;

            memcpy(self->copy + to, from, bytes);
            __asm__ volatile("" ::: "memory");
        } else {
            if (mirror_hook_wants_open(&self->connection))
                announce(&self->connection);
            mirror_hook_sent(&self->connection, from, bytes);
        }
    }
}

static void *run(void *argument)
{
    for (;;) {
        pthread_barrier_wait(&begin);
        work(argument);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

int main(int count, char **words)
{
    char line[80], what[8];

    need(count == 2, "hook_calls THREADS");
    threads = atoi(words[1]);
    need(threads > 0 && threads <= MOST_THREADS, "THREADS");
    mirror_hook_init();
    mirror_hook_handshake();
    pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
    for (int index = 0; index < threads; index++) {
        struct worker *self = &workers[index];

        self->text = aligned_alloc(4096, MOST + 4096);
        self->copy = aligned_alloc(4096, MOST + COPY_BYTES);
        need(self->text != NULL && self->copy != NULL, "no memory");
        memset(self->text, 'a' + index % 26, MOST + 4096);
        memset(self->copy, 0, MOST + COPY_BYTES);
        announce(&self->connection);
        if (threads > 1)
            need(pthread_create(&self->thread, NULL, run, self) == 0, "pthread_create");
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        uint64_t start;

        need(sscanf(line, "%7s %zu %zu", what, &bytes, &calls) == 3 && bytes <= MOST,
            "a line hook|copy BYTES CALLS");
        copying = strcmp(what, "copy") == 0;
        start = now_ns();
        if (threads == 1) {
            work(&workers[0]);
        } else {
            pthread_barrier_wait(&begin);
            pthread_barrier_wait(&end);
        }
        printf("%llu\n", (unsigned long long)(now_ns() - start));
        fflush(stdout);
    }
    return 0;
}
