/*
 * Announces connections whose library has no socket, in a process with so many connections of TCP, and says how long that
 * took: where SSLCOLLECTOR_TELL_SOCKETS asks for it, the hook looks at all of them each time.
 *
 *     look_calls CONNECTIONS
 *
 * Each line "CALLS" of standard input is answered by a line with the nanoseconds that as many announcements took. The table
 * of descriptors has 256 places, as a shell often leaves it to its programs.
 */
#include "mirror_hook.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "look_calls: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The other ends are another process's, which ends with this one. Each connection has carried another number of bytes. */
static void connect_all(int connections)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char bytes[64] = { 0 };

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    need(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 64) == 0
            && getsockname(listener, (struct sockaddr *)&address, &size) == 0,
        "listen");
    switch (fork()) {
    case -1:
        need(0, "fork");
        break;
    case 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (connections-- > 0)
            need(accept(listener, NULL, NULL) >= 0, "accept");
        for (;;)
            pause();
    }
    close(listener);
    for (int index = 0; index < connections; index++) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        need(connect(client, (struct sockaddr *)&address, size) == 0, "connect");
        need(write(client, bytes, (size_t)index + 1) == index + 1, "write");
    }
}

int main(int count, char **words)
{
    mirror_hook_info info = { 0 };
    char line[80];
    size_t calls;
    int connections = count == 2 ? atoi(words[1]) : 0, high;

    need(connections > 0 && connections < 64, "look_calls CONNECTIONS");
    connect_all(connections);
    high = fcntl(0, F_DUPFD, 200);
    need(high >= 200 && close(high) == 0, "a table of 256");
    mirror_hook_init();
    mirror_hook_handshake();
    info.size = sizeof(info);
    info.role = MIRROR_HOOK_CLIENT;
    info.read_fd = info.write_fd = -1;
    info.wire_written = 1;
    while (fgets(line, sizeof(line), stdin) != NULL) {
        uint64_t took = 0;

        need(sscanf(line, "%zu", &calls) == 1, "a line CALLS");
        for (size_t call = 0; call < calls; call++) {
            mirror_hook_conn connection = { 0 };
            uint64_t begin = now_ns();

            mirror_hook_open(&connection, &info);
            took += now_ns() - begin;
            mirror_hook_close(&connection);
        }
        printf("%llu\n", (unsigned long long)took);
        fflush(stdout);
    }
    return 0;
}
