/* QUIC, from 3.5 on: each connection is announced once for what it is, however many streams it has; no text is told. */
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/quic.h>
#include "fixture.h"

#define STREAMS 3

static int choose_first(SSL *ssl, const unsigned char **out, unsigned char *outlen,
    const unsigned char *in, unsigned int inlen, void *arg)
{
    (void)ssl, (void)inlen, (void)arg;
    *out = in + 1;
    *outlen = in[0];
    return SSL_TLSEXT_ERR_OK;
}

struct quic {
    SSL_CTX *client_ctx, *server_ctx;
    SSL *listener, *client, *server;
    struct pollfd fds[2];
};

/* Lets both ends work, once a datagram or 20 ms have passed; false after about 10 s. */
static int turn(struct quic *quic, int *rounds)
{
    poll(quic->fds, 2, 20);
    SSL_handle_events(quic->client);
    SSL_handle_events(quic->listener);
    return ++*rounds < 500;
}

static void quic_join(struct quic *quic)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    BIO_ADDR *peer = BIO_ADDR_new();
    int i, connected = 0, rounds = 0;

    memset(quic, 0, sizeof(*quic));
    quic->client_ctx = SSL_CTX_new(OSSL_QUIC_client_method());
    quic->server_ctx = SSL_CTX_new(OSSL_QUIC_server_method());
    use_new_certificate(quic->server_ctx);
    SSL_CTX_set_alpn_select_cb(quic->server_ctx, choose_first, NULL);
    for (i = 0; i < 2; i++) {
        address.sin_port = 0;
        quic->fds[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        quic->fds[i].events = POLLIN;
        CHECK(bind(quic->fds[i].fd, (struct sockaddr *)&address, length) == 0);
        CHECK(getsockname(quic->fds[i].fd, (struct sockaddr *)&address, &length) == 0);
    }
    BIO_ADDR_rawmake(peer, AF_INET, &address.sin_addr, sizeof(address.sin_addr), address.sin_port);
    quic->listener = SSL_new_listener(quic->server_ctx, 0);
    quic->client = SSL_new(quic->client_ctx);
    CHECK(SSL_set_fd(quic->listener, quic->fds[1].fd) == 1 && SSL_set_blocking_mode(quic->listener, 0) == 1
        && SSL_listen(quic->listener) == 1);
    CHECK(SSL_set_fd(quic->client, quic->fds[0].fd) == 1 && SSL_set_blocking_mode(quic->client, 0) == 1
        && SSL_set1_initial_peer_addr(quic->client, peer) == 1
        && SSL_set_alpn_protos(quic->client, (const unsigned char *)"\x02hq", 3) == 0
        && SSL_set_tlsext_host_name(quic->client, "mirror.example") == 1
        && SSL_set_default_stream_mode(quic->client, SSL_DEFAULT_STREAM_MODE_NONE) == 1);
    BIO_ADDR_free(peer);
    do {
        connected = SSL_connect(quic->client);
        if (quic->server == NULL
            && (quic->server = SSL_accept_connection(quic->listener, SSL_ACCEPT_CONNECTION_NO_BLOCK)) != NULL)
            CHECK(SSL_set_default_stream_mode(quic->server, SSL_DEFAULT_STREAM_MODE_NONE) == 1);
    } while ((connected != 1 || quic->server == NULL || !SSL_is_init_finished(quic->server)) && turn(quic, &rounds));
    CHECK(connected == 1 && quic->server != NULL);
    ERR_clear_error();
}

static void quic_free(struct quic *quic)
{
    SSL_free(quic->client);
    SSL_free(quic->server);
    SSL_free(quic->listener);
    SSL_CTX_free(quic->client_ctx);
    SSL_CTX_free(quic->server_ctx);
    close(quic->fds[0].fd);
    close(quic->fds[1].fd);
}

/* `text` by `from`, until it has all come out of `to`. */
static void pass(struct quic *quic, SSL *from, SSL *to, const void *text, size_t length)
{
    struct bytes sent = { 0 }, got = { 0 };
    unsigned char buffer[5000];
    size_t count;
    int rounds = 0;

    CHECK(SSL_write_ex2(from, text, length, SSL_WRITE_FLAG_CONCLUDE, &count) == 1 && count == length);
    bytes_add(&sent, text, length);
    do {
        while (SSL_read_ex(to, buffer, sizeof(buffer), &count) == 1)
            bytes_add(&got, buffer, count);
    } while (got.length < length && turn(quic, &rounds));
    CHECK(bytes_equal(&sent, &got));
    bytes_free(&sent);
    bytes_free(&got);
    ERR_clear_error();
}

static void check_announced(int role)
{
    struct recording *told = recorded(role, 0);

    if (!recorder_present || !CHECK(told != NULL))
        return;
    CHECK(recorded(role, 1) == NULL && told->opens == 1);
    CHECK(told->open.transport == MIRROR_HOOK_QUIC);
    CHECK(told->open.flags == MIRROR_HOOK_HANDSHAKE_DONE);
    CHECK(told->open.tls_version == TLS1_3_VERSION);
    CHECK(told->open.read_fd == -1 && told->open.write_fd == -1);
    CHECK(told->open.wire_read == UINT64_MAX && told->open.wire_written == UINT64_MAX);
    CHECK(strcmp(told->sni, "mirror.example") == 0 && strcmp(told->alpn, "hq") == 0);
    CHECK(told->text[0].length == 0 && told->text[1].length == 0);
}

static void quic_streams(void)
{
    struct quic quic;
    SSL *near[STREAMS], *far[STREAMS];
    int i, rounds;

    quic_join(&quic);
    for (i = 0; i < STREAMS && !case_failed; i++) {
        near[i] = SSL_new_stream(quic.client, 0);
        far[i] = NULL;
        if (!CHECK(near[i] != NULL))
            break;
        /* A stream is known to the other end by its first byte. */
        CHECK(SSL_write(near[i], "x", 1) == 1);
        for (rounds = 0; far[i] == NULL && turn(&quic, &rounds);)
            far[i] = SSL_accept_stream(quic.server, SSL_ACCEPT_STREAM_NO_BLOCK);
        CHECK(far[i] != NULL && SSL_read(far[i], &(char[1]){ 0 }, 1) == 1);
        pass(&quic, near[i], far[i], pattern(i, 3000), 3000);
        pass(&quic, far[i], near[i], pattern(10 + i, 4000), 4000);
    }
    check_announced(MIRROR_HOOK_CLIENT);
    check_announced(MIRROR_HOOK_SERVER);
    RECORDED(memcmp(recorded(MIRROR_HOOK_CLIENT, 0)->client_random,
                 recorded(MIRROR_HOOK_SERVER, 0)->client_random, 32) == 0);
    RECORDED(recorder_handshakes >= 2);
    while (i-- > 0) {
        SSL_free(near[i]);
        SSL_free(far[i]);
    }
    ends_check_calls("O", "O");
    quic_free(&quic);
    ends_check_calls("OC", "OC");
}

const struct test_case cases[] = {
    { "quic_streams", quic_streams },
    { NULL, NULL },
};
