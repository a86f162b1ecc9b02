/*
 * Processes that are killed in the middle of a write into their ring, each at another place.
 *
 *     killed copy NUMBER LENGTH AT    one thread is held in the copy of LENGTH bytes, AT bytes from its beginning, while
 *                                     another goes on; then the process is killed
 *     killed step NUMBER STEP         the process is killed behind STEP instructions of mirror_hook_sent; what has become of
 *                                     the record then is printed
 *     killed steps NUMBER             not killed: what has become of the record after each instruction
 *     killed witness NUMBER           a record for each byte on standard input, and an end in good order
 *
 * The connections of process NUMBER come from 10.0.X.Y, where X and Y are NUMBER, from ports 1000, 1001 and 1002; their
 * text follows from NUMBER, port and offset. tests/tests/killed.rs knows how much each says.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mirror_hook.h"
#include "must.h"

enum { PAGE = 4096, ROOM = 1 << 20, SERVER_PORT = 443, FIRST_PORT = 1000 };
/* From layout.rs: where the ring begins, how far it is reserved, and how far the agent has read it. */
enum { CONTROL_BYTES = 65536, HEAD = 64, TAIL = 128 };

struct connection {
    mirror_hook_conn hook;
    int port;
    uint64_t sent, received;
};

static unsigned int number;
static struct connection connections[3];

/* splitmix64 (Steele, Lea, Flood 2014) of the place. */
static uint64_t word(uint64_t port, uint64_t direction, uint64_t index)
{
    uint64_t z = (((uint64_t)number << 16 | port) << 33) + (direction << 32) + index;

    z = (z + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void text(const struct connection *c, int direction, unsigned char *out, size_t length)
{
    uint64_t offset = direction == MIRROR_HOOK_SENT ? c->sent : c->received;

    for (size_t i = 0; i < length; i++, offset++)
        out[i] = (unsigned char)(word((uint64_t)c->port, (uint64_t)direction, offset / 8) >> offset % 8 * 8);
}

static void begin(struct connection *c)
{
    mirror_hook_info info;

    memset(&info, 0, sizeof(info));
    c->port = FIRST_PORT + (int)(c - connections);
    info.size = sizeof(info);
    info.flags = MIRROR_HOOK_HANDSHAKE_DONE;
    info.role = MIRROR_HOOK_CLIENT;
    info.family = 4;
    info.read_fd = info.write_fd = -1;
    info.wire_read = info.wire_written = UINT64_MAX;
    info.local_address[0] = info.peer_address[0] = 10;
    info.local_address[2] = (uint8_t)(number >> 8);
    info.local_address[3] = (uint8_t)number;
    info.peer_address[1] = 1;
    info.local_port = (uint16_t)c->port;
    info.peer_port = SERVER_PORT;
    /* Again where the agent answers meanwhile. */
    for (int i = 0; i < 3 && mirror_hook_wants_open(&c->hook); i++)
        mirror_hook_open(&c->hook, &info);
    must(!mirror_hook_wants_open(&c->hook), "announced");
}

static void say(struct connection *c, size_t length)
{
    static unsigned char bytes[ROOM];

    text(c, MIRROR_HOOK_SENT, bytes, length);
    mirror_hook_sent(&c->hook, bytes, length);
    c->sent += length;
}

static void hear(struct connection *c, size_t length)
{
    static unsigned char bytes[ROOM];

    text(c, MIRROR_HOOK_RECEIVED, bytes, length);
    mirror_hook_received(&c->hook, bytes, length);
    c->received += length;
}

/* A page that holds whoever reads from it: by userfaultfd, or where that isn't allowed by a handler that doesn't return. */

static atomic_int is_held;
static int faults = -1;

static void hold(int signal)
{
    (void)signal;
    atomic_store(&is_held, 1);
    for (;;)
        pause();
}

static void trap(unsigned char *pages, size_t length)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register area = { .range = { (uintptr_t)pages, length }, .mode = UFFDIO_REGISTER_MODE_MISSING };

    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0 && ioctl(faults, UFFDIO_REGISTER, &area) == 0) {
        puts("held by userfaultfd");
    } else {
        struct sigaction action = { .sa_handler = hold };
        faults = -1;
        must(sigaction(SIGSEGV, &action, NULL) == 0, "sigaction");
        must(mprotect(pages, length, PROT_NONE) == 0, "mprotect");
        puts("held by a signal handler");
    }
    fflush(stdout);
}

static void until_held(void)
{
    struct pollfd fault = { .fd = faults, .events = POLLIN };

    if (faults >= 0)
        must(poll(&fault, 1, 60000) == 1, "a fault");
    for (int i = 0; faults < 0 && !atomic_load(&is_held); i++) {
        must(i < 60000, "a fault");
        usleep(1000);
    }
}

struct held_call {
    struct connection *connection;
    unsigned char *bytes;
    size_t length;
};

static void *call(void *argument)
{
    struct held_call *held = argument;

    mirror_hook_sent(&held->connection->hook, held->bytes, held->length);
    must(0, "it came back");
    return NULL;
}

static void die_in_a_copy(size_t length, size_t at)
{
    size_t before = (at + PAGE - 1) / PAGE * PAGE, behind = (length - at + PAGE - 1) / PAGE * PAGE;
    unsigned char *area = mmap(NULL, before + behind, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct held_call held = { &connections[0], area + before - at, length };
    pthread_t thread;

    must(area != MAP_FAILED && at < length, "mmap");
    begin(&connections[0]);
    begin(&connections[1]);
    for (int i = 0; i < 3; i++) {
        say(&connections[0], 333);
        hear(&connections[0], 150);
        say(&connections[1], 700);
    }
    text(&connections[0], MIRROR_HOOK_SENT, held.bytes, at);
    trap(area + before, behind);
    must(pthread_create(&thread, NULL, call, &held) == 0, "pthread_create");
    until_held();
    /* Behind the record that will never be complete. */
    say(&connections[1], 3000);
    begin(&connections[2]);
    say(&connections[2], 2000);
    mirror_hook_close(&connections[2].hook);
    kill(getpid(), SIGKILL);
}

/* Another process's memory. */
static uint64_t look(int memory, uint64_t address)
{
    uint64_t value = 0;

    must(pread(memory, &value, sizeof(value), (off_t)address) == sizeof(value), "look");
    return value;
}

static uint64_t ring_of(pid_t process)
{
    char path[64], line[512];
    unsigned long address = 0;
    FILE *maps;

    snprintf(path, sizeof(path), "/proc/%d/maps", process);
    must((maps = fopen(path, "r")) != NULL, path);
    while (address == 0 && fgets(line, sizeof(line), maps) != NULL)
        if (strstr(line, "/memfd:sslcollector") != NULL)
            sscanf(line, "%lx-", &address);
    fclose(maps);
    must(address != 0, "a ring");
    return address;
}

/* What has become of the record at `head`. */
static const char *stage(int memory, uint64_t ring, uint64_t head)
{
    uint64_t first, record = ring + CONTROL_BYTES + head;

    if (look(memory, ring + HEAD) == head)
        return "nothing";
    /* The agent reads at the same time, and zeroes. */
    first = look(memory, record);
    if (look(memory, ring + TAIL) > head || (first != 0 && first >> 63 == 0))
        return "committed";
    if (first == 0)
        return "reserved";
    return look(memory, record + 8) == 0 ? "marked" : "begun";
}

/* A child goes up to the call in question; from there on it runs one instruction at a time. */
static void die_at_a_step(long last)
{
    const char *now = "nothing", *before = "";
    char path[64];
    uint64_t ring, head;
    int memory, status;
    long step;
    pid_t child = fork();

    must(child >= 0, "fork");
    if (child == 0) {
        must(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "PTRACE_TRACEME");
        mirror_hook_handshake();
        begin(&connections[0]);
        say(&connections[0], 999);
        static unsigned char bytes[100];
        text(&connections[0], MIRROR_HOOK_SENT, bytes, sizeof(bytes));
        raise(SIGSTOP);
        mirror_hook_sent(&connections[0].hook, bytes, sizeof(bytes));
        raise(SIGSTOP);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "the child's first stop");
    snprintf(path, sizeof(path), "/proc/%d/mem", child);
    must((memory = open(path, O_RDONLY | O_CLOEXEC)) >= 0, path);
    ring = ring_of(child);
    head = look(memory, ring + HEAD);
    for (step = 0; step < last; step++) {
        must(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0, "PTRACE_SINGLESTEP");
        must(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "a step");
        if (WSTOPSIG(status) == SIGSTOP)
            break;
        if (last == INT32_MAX) {
            now = stage(memory, ring, head);
            if (strcmp(now, before) != 0)
                printf("%ld %s\n", step + 1, now);
            before = now;
        }
    }
    if (last == INT32_MAX)
        printf("%ld back\n", step);
    else
        printf("%s\n", stage(memory, ring, head));
    fflush(stdout);
    must(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child, "its end");
}

static void be_a_witness(void)
{
    char byte;

    begin(&connections[0]);
    while (read(STDIN_FILENO, &byte, 1) == 1) {
        say(&connections[0], 500);
        hear(&connections[0], 300);
    }
    mirror_hook_close(&connections[0].hook);
}

int main(int argc, char **argv)
{
    must(argc > 2, "killed WHAT NUMBER ...");
    number = (unsigned int)atoi(argv[2]);
    mirror_hook_init();
    if (strcmp(argv[1], "step") == 0 && argc == 4) {
        die_at_a_step(atol(argv[3]));
        return 0;
    }
    if (strcmp(argv[1], "steps") == 0) {
        die_at_a_step(INT32_MAX);
        return 0;
    }
    mirror_hook_handshake();
    if (strcmp(argv[1], "copy") == 0 && argc == 5)
        die_in_a_copy(strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
    else if (strcmp(argv[1], "witness") == 0)
        be_a_witness();
    else
        return 2;
    return 0;
}
