/*
 * What the memory of rings costs the process that asks for them. It runs in a memory cgroup, of version 1 or 2, and
 * speaks to the hook itself.
 *
 *     charged again GROUP COUNT SPARE   fills COUNT rings, one after the other, with SPARE bytes of memory to spare from
 *                                       the first on; each ends because the process breaks it
 *     charged unanswered GROUP COUNT    fills COUNT rings that no agent answers to
 *
 * Prints after each ring that was filled: its number, and for the second way what the group is charged with for rings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "mirror_hook.h"
#include "must.h"

enum { MORE = 1 << 20 };
/* From layout.rs. */
enum { CONTROL_BYTES = 65536, HEAD = 64, STATE = 192, GRANTED_BYTES = 200, READY = 1, DETACHED = 2 };

static const char *group;

static void pause_a_little(void)
{
    struct timespec pause = { 0, 1000000 };

    nanosleep(&pause, NULL);
}

static FILE *file(const char *one, const char *two, const char *mode)
{
    char path[4096];
    FILE *found;

    snprintf(path, sizeof(path), "%s/%s", group, one);
    if ((found = fopen(path, mode)) == NULL) {
        snprintf(path, sizeof(path), "%s/%s", group, two);
        found = fopen(path, mode);
    }
    must(found != NULL, path);
    return found;
}

static unsigned long charged(void)
{
    FILE *usage = file("memory.usage_in_bytes", "memory.current", "r");
    unsigned long bytes = 0;

    must(fscanf(usage, "%lu", &bytes) == 1, "usage");
    fclose(usage);
    return bytes;
}

static unsigned long shared_memory(void)
{
    FILE *statistics = file("memory.stat", "memory.stat", "r");
    unsigned long bytes = 0;
    char line[256];

    while (fgets(line, sizeof(line), statistics) != NULL)
        if (strncmp(line, "shmem ", 6) == 0)
            bytes = strtoul(line + 6, NULL, 10);
    fclose(statistics);
    return bytes;
}

/* Shared memory but for this function's own. The kernel may be late with its count: once it has seen what comes here
 * last, it has seen all that came before. */
static unsigned long charged_for_rings(void)
{
    static unsigned long own;
    unsigned long now = 0;
    char *more = mmap(NULL, MORE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    must(more != MAP_FAILED, "mmap");
    memset(more, 1, MORE);
    own += MORE;
    for (int i = 0; now < own; i++) {
        must(i < 60000, "the kernel's count");
        pause_a_little();
        now = shared_memory();
    }
    return now - own;
}

static void set_limit(unsigned long bytes)
{
    FILE *limit = file("memory.limit_in_bytes", "memory.max", "w");

    fprintf(limit, "%lu\n", bytes);
    must(fclose(limit) == 0, "limit");
}

/* The ring in use, if there is one. Rings that are over are no shared memory any more. */
static unsigned char *ring(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long address = 0;
    char line[512];

    must(maps != NULL, "/proc/self/maps");
    while (fgets(line, sizeof(line), maps) != NULL)
        if (strstr(line, "/memfd:sslcollector") != NULL)
            sscanf(line, "%lx-", &address);
    fclose(maps);
    return (unsigned char *)address;
}

static uint64_t look(const unsigned char *at)
{
    return *(const volatile uint64_t *)at;
}

static int state(const unsigned char *at)
{
    return *(const volatile int *)(at + STATE);
}

static void describe(mirror_hook_info *info)
{
    static char name[255];

    memset(name, 'x', sizeof(name));
    memset(info, 0, sizeof(*info));
    info->size = sizeof(*info);
    info->role = MIRROR_HOOK_CLIENT;
    info->read_fd = info->write_fd = -1;
    info->wire_read = info->wire_written = UINT64_MAX;
    info->sni = name;
    info->sni_length = sizeof(name);
    info->alpn = (const uint8_t *)name;
    info->alpn_length = sizeof(name);
}

/* Asks for a ring, another one than `before`. An agent that doesn't answer is given some time by the hook. */
static unsigned char *new_ring(mirror_hook_conn *connection, const unsigned char *before)
{
    unsigned char *now = NULL;
    mirror_hook_info info;

    for (int i = 0; now == NULL || now == before; i++) {
        must(i < 60000, "another ring");
        mirror_hook_handshake();
        now = ring();
        if (now == NULL || now == before)
            pause_a_little();
    }
    describe(&info);
    mirror_hook_open(connection, &info);
    return now;
}

/* Records of which no packets come, until each page has been written to. */
static void fill(mirror_hook_conn *connection, const unsigned char *at)
{
    mirror_hook_info info;
    int i;

    describe(&info);
    for (i = 0; i < 60000 && (state(at) != READY || look(at + HEAD) < look(at + GRANTED_BYTES)); i++) {
        for (int update = 0; update < 1000; update++)
            mirror_hook_update(connection, &info);
        /* The agent has pages to allocate, and to read. */
        pause_a_little();
    }
    must(i < 60000, "a full ring");
}

static void fill_unanswered(mirror_hook_conn *connection)
{
    mirror_hook_info info;

    describe(&info);
    for (int update = 0; update < 100000; update++)
        mirror_hook_update(connection, &info);
}

/* A record as no hook writes it: the agent will have no more of this ring. */
static void break_it(unsigned char *at)
{
    uint64_t head = look(at + HEAD);
    int i;

    *(volatile uint64_t *)(at + CONTROL_BYTES + head % look(at + GRANTED_BYTES)) = 1;
    __sync_synchronize();
    *(volatile uint64_t *)(at + HEAD) = head + 64;
    for (i = 0; i < 60000 && state(at) != DETACHED; i++)
        pause_a_little();
    must(i < 60000, "the agent's answer");
}

int main(int argc, char **argv)
{
    mirror_hook_conn connection;
    unsigned char *at = NULL;
    int count;
    FILE *members;

    must(argc > 3, "charged WHAT GROUP COUNT");
    group = argv[2];
    count = atoi(argv[3]);
    members = file("cgroup.procs", "cgroup.procs", "w");
    fprintf(members, "%d\n", getpid());
    must(fclose(members) == 0, "cgroup.procs");
    memset(&connection, 0, sizeof(connection));
    mirror_hook_init();
    for (int i = 1; i <= count; i++) {
        at = new_ring(&connection, at);
        if (strcmp(argv[1], "again") == 0) {
            fill(&connection, at);
            if (i == 1)
                set_limit(charged() + strtoul(argv[4], NULL, 10));
            printf("%d\n", i);
            break_it(at);
        } else {
            fill_unanswered(&connection);
            printf("%d %lu\n", i, charged_for_rings());
        }
        fflush(stdout);
    }
    return 0;
}
