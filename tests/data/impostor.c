/*
 * A program that says all that mirror_hook.h has for it of a connection that is another's.
 *
 *     impostor PORT LOCAL PEER    has a connection to 127.0.0.1:PORT, and says that its ends are 127.0.0.1:LOCAL and
 *                                 127.0.0.1:PEER; speaks once more behind a line of its input, or its end, and ends
 *                                 with it
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "mirror_hook.h"
#include "must.h"

int main(int argc, char **argv)
{
    struct sockaddr_in server = { .sin_family = AF_INET };
    int own = socket(AF_INET, SOCK_STREAM, 0);
    mirror_hook_conn connection = { { 0 } };

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
