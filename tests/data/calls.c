/*
 * Each call of the hook once, in a process that is mirrored, on a stack that was painted before, and with a socket of its
 * own to ask for addresses.
 *
 *     calls          prints "CALL STACK ERRNO": the bytes of stack that it took, and errno behind it, which was 77
 *     calls deny     the same, while a seccomp filter answers getsockopt(2) with an error
 *     calls look     the same without a socket of its own: whoever is asked to looks for it among all
 *     calls look late, calls look blind
 *                    while, once it is mirrored, getsockopt(2) is answered so, or what tells how many descriptors there are
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "mirror_hook.h"
#include "must.h"

enum { STACK = 256 * 1024, PAINT = 0xa5, TEXT = 40000, ERRNO = 77 };

static mirror_hook_conn connection;
static mirror_hook_info info;
static unsigned char text[TEXT];
static unsigned char *stack;
static ucontext_t here, there;

static void nothing(void) { }
static void handshake(void) { mirror_hook_handshake(); }
static void wants_open(void) { (void)mirror_hook_wants_open(&connection); }
static void open_it(void) { mirror_hook_open(&connection, &info); }
static void update(void) { mirror_hook_update(&connection, &info); }
static void sent(void) { mirror_hook_sent(&connection, text, sizeof(text)); }
static void received(void) { mirror_hook_received(&connection, text, 100); }
static void lost(void) { mirror_hook_lost(&connection, MIRROR_HOOK_SENT, 100); }
static void early_rejected(void) { mirror_hook_early_rejected(&connection, &info); }
static void end(void) { mirror_hook_end(&connection, MIRROR_HOOK_SENT); }
static void abort_it(void) { mirror_hook_abort(&connection); }
static void close_it(void) { mirror_hook_close(&connection); }

static size_t depth(void (*call)(void), int *error)
{
    size_t clean = 0;

    memset(stack, PAINT, STACK);
    must(getcontext(&there) == 0, "getcontext");
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = STACK;
    there.uc_link = &here;
    makecontext(&there, call, 0);
    errno = ERRNO;
    must(swapcontext(&here, &there) == 0, "swapcontext");
    *error = errno;
    while (clean < STACK && stack[clean] == PAINT)
        clean++;
    return STACK - clean;
}

static int is_mirrored(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int found = 0;

    must(maps != NULL, "/proc/self/maps");
    while (fgets(line, sizeof(line), maps) != NULL)
        found |= strstr(line, "/memfd:sslcollector") != NULL;
    fclose(maps);
    return found;
}

static int connected_socket(void)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    must(connect(client, (struct sockaddr *)&address, size) == 0, "connect");
    return client;
}

static void deny(unsigned int call)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

static int is_told(int argc, char **argv, const char *word)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*call)(void);
    } calls[] = {
        { "handshake", handshake }, { "wants_open", wants_open }, { "open", open_it }, { "update", update },
        { "sent", sent }, { "received", received }, { "lost", lost }, { "early_rejected", early_rejected },
        { "end", end }, { "abort", abort_it }, { "close", close_it },
    };
    static char name[255];
    size_t empty, used;
    int denied = is_told(argc, argv, "deny"), error;

    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(stack != MAP_FAILED, "mmap");
    memset(name, 'x', sizeof(name));
    info.size = sizeof(info);
    info.flags = MIRROR_HOOK_HANDSHAKE_DONE;
    info.role = MIRROR_HOOK_CLIENT;
    info.read_fd = info.write_fd = connected_socket();
    info.wire_read = info.wire_written = 0;
    if (is_told(argc, argv, "look"))
        info.read_fd = info.write_fd = -1;
    info.client_random = info.server_random = text;
    info.sni = name;
    info.alpn = (const uint8_t *)name;
    info.sni_length = info.alpn_length = sizeof(name);
    mirror_hook_init();
    if (denied)
        deny(SYS_getsockopt);
    empty = depth(nothing, &error);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        used = depth(calls[i].call, &error) - empty;
        printf("%s %zu %d\n", calls[i].name, used, error);
        /* Without an answer on who listens there the hook shows nobody anything. */
        must(is_mirrored() == !denied, "a ring");
        if (i == 0 && is_told(argc, argv, "late"))
            deny(SYS_getsockopt);
        if (i == 0 && is_told(argc, argv, "blind"))
            deny(SYS_pselect6);
    }
    return 0;
}
