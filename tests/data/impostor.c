/*
 * A program that says all that mirror_hook.h has for it of a connection that is another's.
 *
 *     impostor PORT LOCAL PEER    has a connection to 127.0.0.1:PORT, and says that its ends are 127.0.0.1:LOCAL and
 *                                 127.0.0.1:PEER; speaks once more behind a line of its input, or its end, and ends
 *                                 with it
 *     impostor PORT CLIENT_RANDOM SERVER_RANDOM
 *                                 the same of a handshake that somebody has seen, in hexadecimal digits: it says that
 *                                 it was the server, and names no addresses
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "mirror_hook.h"
#include "must.h"

enum { RANDOM = 32 };

static void read_random(uint8_t *random, const char *digits)
{
    for (size_t at = 0; at < RANDOM; at++)
        must(sscanf(digits + 2 * at, "%2hhx", random + at) == 1, "a random");
}

int main(int argc, char **argv)
{
    struct sockaddr_in server = { .sin_family = AF_INET };
    int own = socket(AF_INET, SOCK_STREAM, 0);
    mirror_hook_conn connection = { { 0 } };
    uint8_t randoms[2][RANDOM];

    must(argc == 4 && own >= 0, "impostor PORT LOCAL PEER");
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)atoi(argv[1]));
    must(connect(own, (struct sockaddr *)&server, sizeof(server)) == 0, "connect");

    mirror_hook_info info = {
        .size = sizeof(info),
        .flags = MIRROR_HOOK_HANDSHAKE_DONE,
        .role = MIRROR_HOOK_SERVER,
        .family = 4,
        /* A connection that is its own, and would be proven. */
        .read_fd = own,
        .write_fd = own,
        .wire_read = UINT64_MAX,
        .wire_written = UINT64_MAX,
        .local_address = { 127, 0, 0, 1 },
        .peer_address = { 127, 0, 0, 1 },
        .local_port = (uint16_t)atoi(argv[2]),
        .peer_port = (uint16_t)atoi(argv[3]),
    };
    if (strlen(argv[2]) == 2 * RANDOM) {
        read_random(randoms[0], argv[2]);
        read_random(randoms[1], argv[3]);
        info.client_random = randoms[0];
        info.server_random = randoms[1];
        info.family = 0;
        info.read_fd = info.write_fd = -1;
    }
    mirror_hook_init();
    mirror_hook_handshake();
    must(mirror_hook_wants_open(&connection), "an agent");
    mirror_hook_open(&connection, &info);
    mirror_hook_sent(&connection, "mine\n", 5);
    (void)getchar();
    mirror_hook_sent(&connection, "still mine\n", 11);
    while (getchar() != EOF)
        continue;
    mirror_hook_close(&connection);
    return 0;
}
