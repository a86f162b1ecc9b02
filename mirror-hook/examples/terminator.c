/*
 * A toy TLS terminator that shows its clear text to sslcollector: all that a TLS library, or a program
 * with a transport of its own, has to do with mirror_hook.h.
 *
 *     client ──TLS──> terminator ──clear text──> back end
 *                         └──── mirror_hook ───> agent
 *
 * Its OpenSSL is the stock one, on memory BIOs: only this program knows which sockets the bytes travel
 * on, so it tells the addresses itself. The agent marks such flows `bound=told`.
 *
 *     cargo build --release -p mirror-hook
 *     cc -Iinclude -o terminator mirror-hook/examples/terminator.c target/release/libmirror_hook.a -lssl -lcrypto
 *
 *     sslcollector -w out.pcapng --socket /tmp/agent.sock &
 *     SSLCOLLECTOR_SOCKET=/tmp/agent.sock SSLCOLLECTOR_AGENT_UID=$(id -u) ./terminator cert.pem key.pem 8443 8080
 *
 * (Not below `sslcollector run`: that brings a libssl which mirrors by itself.) C and C++ alike. Being a
 * toy it serves one client at a time, and blocks where a back end or a client does.
 */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mirror_hook.h"

struct connection {
    int client, backend;         /* sockets */
    SSL *ssl;                    /* owns both BIOs */
    BIO *from_client, *to_client;
    mirror_hook_conn mirror;     /* all zeros before its first use */
};

static void must(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/*
 * What is known of the connection, once its handshake is over. The hook may ask for it several times in
 * a connection's life: when another agent comes, in a forked child, when its memory was full.
 */
static void announce(struct connection *c)
{
    mirror_hook_info info;
    struct sockaddr_in6 local, peer;
    socklen_t local_size = sizeof(local), peer_size = sizeof(peer);
    unsigned char client_random[32], server_random[32];
    const unsigned char *alpn;
    unsigned int alpn_length;

    if (!mirror_hook_wants_open(&c->mirror)) /* nearly always, and nearly for nothing */
        return;

    memset(&info, 0, sizeof(info));
    info.size = sizeof(info);
    info.flags = MIRROR_HOOK_HANDSHAKE_DONE;
    info.role = MIRROR_HOOK_SERVER;
    info.transport = MIRROR_HOOK_TCP;

    /* A library that has the socket gives it here, and needs to tell no addresses. */
    info.read_fd = info.write_fd = -1;
    info.wire_read = info.wire_written = UINT64_MAX;
    if (getsockname(c->client, (struct sockaddr *)&local, &local_size) == 0
        && getpeername(c->client, (struct sockaddr *)&peer, &peer_size) == 0) {
        info.family = 6; /* also for IPv4, which comes mapped: ::ffff:192.0.2.1 */
        memcpy(info.local_address, &local.sin6_addr, sizeof(info.local_address));
        memcpy(info.peer_address, &peer.sin6_addr, sizeof(info.peer_address));
        info.local_port = ntohs(local.sin6_port);
        info.peer_port = ntohs(peer.sin6_port);
    }

    /* Both randoms are public, on the wire. They name the session the same way at both of its ends. */
    SSL_get_client_random(c->ssl, client_random, sizeof(client_random));
    SSL_get_server_random(c->ssl, server_random, sizeof(server_random));
    info.client_random = client_random;
    info.server_random = server_random;
    info.tls_version = (uint16_t)SSL_version(c->ssl);
    info.cipher = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(c->ssl));
    info.sni = SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name);
    info.sni_length = info.sni == NULL ? 0 : strlen(info.sni);
    SSL_get0_alpn_selected(c->ssl, &alpn, &alpn_length);
    info.alpn = alpn;
    info.alpn_length = alpn_length;

    mirror_hook_open(&c->mirror, &info);
}

static int send_all(int socket, const char *bytes, ssize_t count)
{
    while (count > 0) {
        ssize_t sent = send(socket, bytes, (size_t)count, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        bytes += sent;
        count -= sent;
    }
    return 1;
}

/* What TLS wants to say to the client. */
static int flush(struct connection *c)
{
    char wire[16384];
    int count;

    while ((count = BIO_read(c->to_client, wire, sizeof(wire))) > 0)
        if (!send_all(c->client, wire, count))
            return 0;
    return 1;
}

/* Something came from the client. False: it was the last. */
static int take_from_client(struct connection *c)
{
    char wire[16384], text[16384];
    int count = (int)recv(c->client, wire, sizeof(wire), 0);

    if (count <= 0 || BIO_write(c->from_client, wire, count) != count) {
        mirror_hook_abort(&c->mirror); /* no close_notify: cut off */
        return 0;
    }
    while ((count = SSL_read(c->ssl, text, sizeof(text))) > 0) {
        announce(c);
        mirror_hook_received(&c->mirror, text, (size_t)count);
        if (!send_all(c->backend, text, count))
            return 0;
    }
    if (!flush(c))
        return 0;
    switch (SSL_get_error(c->ssl, count)) {
    case SSL_ERROR_WANT_READ:
        if (SSL_is_init_finished(c->ssl))
            announce(c); /* there may be nothing to say for a while */
        return 1;
    case SSL_ERROR_ZERO_RETURN:
        mirror_hook_end(&c->mirror, MIRROR_HOOK_RECEIVED);
        return 0;
    default:
        mirror_hook_abort(&c->mirror);
        return 0;
    }
}

/* Something came from the back end. False: it was the last. */
static int take_from_backend(struct connection *c)
{
    char text[16384];
    int count = (int)recv(c->backend, text, sizeof(text), 0), taken;

    if (count <= 0) {
        SSL_shutdown(c->ssl);
        mirror_hook_end(&c->mirror, MIRROR_HOOK_SENT);
        flush(c);
        return 0;
    }
    /* What TLS has accepted is told, no more. (Had we only its length, as with sendfile: mirror_hook_lost.) */
    taken = SSL_write(c->ssl, text, count);
    if (taken > 0) {
        announce(c);
        mirror_hook_sent(&c->mirror, text, (size_t)taken);
    }
    return taken == count && flush(c);
}

static void serve(SSL_CTX *context, int client, int backend)
{
    struct connection c;
    struct pollfd ready[2];
    int more = 1;

    memset(&c, 0, sizeof(c));
    c.client = client;
    c.backend = backend;
    must((c.ssl = SSL_new(context)) != NULL, "SSL_new");
    must((c.from_client = BIO_new(BIO_s_mem())) != NULL, "BIO_new");
    must((c.to_client = BIO_new(BIO_s_mem())) != NULL, "BIO_new");
    SSL_set_bio(c.ssl, c.from_client, c.to_client);
    SSL_set_accept_state(c.ssl);
    mirror_hook_handshake(); /* the agent has until its end to answer */

    while (more) {
        ready[0].fd = client;
        ready[1].fd = SSL_is_init_finished(c.ssl) ? backend : -1;
        ready[0].events = ready[1].events = POLLIN;
        ready[0].revents = ready[1].revents = 0;
        must(poll(ready, 2, -1) > 0, "poll");
        if (ready[0].revents != 0)
            more = take_from_client(&c);
        if (more && ready[1].revents != 0)
            more = take_from_backend(&c);
    }
    mirror_hook_close(&c.mirror);
    SSL_free(c.ssl);
}

static int listen_on(int port)
{
    struct sockaddr_in6 address;
    socklen_t size = sizeof(address);
    int off = 0, listener = socket(AF_INET6, SOCK_STREAM, 0);

    memset(&address, 0, sizeof(address));
    address.sin6_family = AF_INET6;
    address.sin6_port = htons((uint16_t)port);
    must(setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0, "IPv4 too");
    must(bind(listener, (struct sockaddr *)&address, size) == 0, "bind");
    must(listen(listener, 16) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    printf("port %d\n", ntohs(address.sin6_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    SSL_CTX *context;
    int listener, client;

    mirror_hook_init(); /* in a library: its constructor */
    if (argc != 5) {
        fprintf(stderr, "usage: terminator CERTIFICATE KEY PORT BACK-END-PORT    (PORT 0: any)\n");
        return 2;
    }
    must((context = SSL_CTX_new(TLS_server_method())) != NULL, "SSL_CTX_new");
    must(SSL_CTX_use_certificate_chain_file(context, argv[1]) == 1, argv[1]);
    must(SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) == 1, argv[2]);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(argv[4]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    listener = listen_on(atoi(argv[3]));
    while ((client = accept(listener, NULL, NULL)) >= 0) {
        int backend = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(backend, (struct sockaddr *)&address, sizeof(address)) == 0)
            serve(context, client, backend);
        else
            perror("back end");
        close(backend);
        close(client);
    }
    must(0, "accept");
}
