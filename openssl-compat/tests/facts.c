/* What is told of a connection besides its text and its end. */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "fixture.h"

#define PAIR_BYTES 20000

static int choose_http11(SSL *ssl, const unsigned char **out, unsigned char *outlen,
    const unsigned char *in, unsigned int inlen, void *arg)
{
    (void)ssl, (void)inlen, (void)arg;
    *out = in + 1;
    *outlen = in[0];
    return SSL_TLSEXT_ERR_OK;
}

static void facts(int version)
{
    struct ends ends;
    struct recording *told[2];
    SSL *ssl[2];
    unsigned char random[32];
    int i;

    ends_contexts(&ends, TLS_method(), version);
    SSL_CTX_set_alpn_select_cb(ends.server_ctx, choose_http11, NULL);
    ends_join(&ends, PAIR_BYTES);
    SSL_set_tlsext_host_name(ends.client, "mirror.example");
    SSL_set_alpn_protos(ends.client, (const unsigned char *)"\x08http/1.1\x02h2", 12);
    ends_handshake(&ends);
    told[0] = recorded(MIRROR_HOOK_CLIENT, 0);
    told[1] = recorded(MIRROR_HOOK_SERVER, 0);
    ssl[0] = ends.client;
    ssl[1] = ends.server;
    for (i = 0; i < 2 && recorder_present && CHECK(told[i] != NULL); i++) {
        CHECK(told[i]->open.flags == MIRROR_HOOK_HANDSHAKE_DONE);
        CHECK(told[i]->open.transport == MIRROR_HOOK_TCP);
        CHECK(told[i]->open.early == MIRROR_HOOK_EARLY_NONE);
        CHECK(told[i]->open.tls_version == version);
        CHECK(told[i]->open.cipher == SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl[i])));
        CHECK(told[i]->open.read_fd == -1 && told[i]->open.write_fd == -1);
        CHECK(told[i]->open.wire_read == BIO_number_read(SSL_get_rbio(ssl[i])));
        CHECK(told[i]->open.wire_written == BIO_number_written(SSL_get_wbio(ssl[i])));
        CHECK(told[i]->open.wire_written > 200);
        CHECK(strcmp(told[i]->sni, "mirror.example") == 0);
        CHECK(told[i]->last.alpn_length == 8 && strcmp(told[i]->alpn, "http/1.1") == 0);
        CHECK(SSL_get_client_random(ssl[i], random, 32) == 32
            && memcmp(random, told[i]->client_random, 32) == 0);
        CHECK(SSL_get_server_random(ssl[i], random, 32) == 32
            && memcmp(random, told[i]->server_random, 32) == 0);
    }
    RECORDED(recorder_handshakes == 2);
    ends_check_calls("O", "O");
    ends_free(&ends);
    ends_check_calls("OC", "OC");
}

static void facts_tls12(void) { facts(TLS1_2_VERSION); }
static void facts_tls13(void) { facts(TLS1_3_VERSION); }

/* The counts are those of the transport, below whatever filters there are: with what passed before TLS. */
static void filter_bios(void)
{
    struct ends ends;
    SSL *ssl[2];
    BIO *bottom[2], *top;
    char line[10];
    int i;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    ends_join(&ends, PAIR_BYTES);
    ssl[0] = ends.client;
    ssl[1] = ends.server;
    CHECK(BIO_write(SSL_get_wbio(ssl[0]), "STARTTLS\r\n", 10) == 10);
    CHECK(BIO_read(SSL_get_rbio(ssl[1]), line, 10) == 10);
    for (i = 0; i < 2; i++) {
        bottom[i] = SSL_get_rbio(ssl[i]);
        BIO_up_ref(bottom[i]);
        top = BIO_push(BIO_new(BIO_f_buffer()), bottom[i]);
        SSL_set_bio(ssl[i], top, top);
    }
    ends_handshake(&ends);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.wire_written == BIO_number_written(bottom[0]));
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->open.wire_read == BIO_number_read(bottom[1]));
    CHECK(SSL_write(ends.client, "buffered", 8) == 8 && BIO_flush(SSL_get_wbio(ends.client)) == 1);
    ends_wrote(&ends, ends.client, "buffered", 8);
    ends_drain(&ends);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void resumed(void)
{
    struct ends ends;
    SSL_SESSION *session;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    ends_join(&ends, PAIR_BYTES);
    ends_handshake(&ends);
    ends_exchange(&ends);
    session = SSL_get1_session(ends.client);
    SSL_shutdown(ends.client);
    SSL_shutdown(ends.server);
    ends_part(&ends);
    recorder_reset();
    ends_join(&ends, PAIR_BYTES);
    SSL_set_session(ends.client, session);
    ends_handshake(&ends);
    ends_exchange(&ends);
    ends_judge(&ends, 0);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.flags & MIRROR_HOOK_RESUMED);
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->open.flags & MIRROR_HOOK_RESUMED);
    SSL_SESSION_free(session);
    ends_free(&ends);
}

static void sockets(void)
{
    struct ends ends;
    int fds[2];

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    ends_join_tcp(&ends, fds);
    ends_handshake(&ends);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.read_fd == fds[0]);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.write_fd == fds[0]);
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->open.read_fd == fds[1]);
    ends_free(&ends);
    close(fds[0]);
    close(fds[1]);
}

static int counts_are_told(const struct recording *told, const SSL *ssl)
{
    return told->last.wire_read == BIO_number_read(SSL_get_rbio(ssl))
        && told->last.wire_written == BIO_number_written(SSL_get_wbio(ssl));
}

/* Without a socket, how much has passed is told behind each call, often for a start, and at the end. */
static void wire_counts(void)
{
    struct ends ends;
    int fds[2], i, before;
    uint64_t written;

    ends_new(&ends, TLS1_3_VERSION, 1 << 16);
    ends_handshake(&ends);
    for (i = 0; i < 1000; i++) {
        ends_exchange(&ends);
        if (i < 50) {
            RECORDED(counts_are_told(recorded(MIRROR_HOOK_CLIENT, 0), ends.client));
            RECORDED(counts_are_told(recorded(MIRROR_HOOK_SERVER, 0), ends.server));
        }
    }
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->counts > 500);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->counts < 520);
    RECORDED(!counts_are_told(recorded(MIRROR_HOOK_CLIENT, 0), ends.client));
    SSL_shutdown(ends.client);
    written = BIO_number_written(SSL_get_wbio(ends.client));
    ends_part(&ends);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->last.wire_written == written);
    ends_free(&ends);

    /* With a socket they aren't: its addresses are known. */
    recorder_reset();
    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    ends_join_tcp(&ends, fds);
    ends_handshake(&ends);
    before = recorder_present ? recorded(MIRROR_HOOK_CLIENT, 0)->counts : 0;
    ends_exchange(&ends);
    RECORDED(before == 0 && recorded(MIRROR_HOOK_CLIENT, 0)->counts == 0);
    ends_free(&ends);
    close(fds[0]);
    close(fds[1]);
}

/* Whatever the hook does with errors and errno, libssl's caller sees its own. */
static void error_queue(void)
{
    struct ends ends;
    int fds[2], ret, rounds = 0;
    unsigned char byte;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ends.server_ctx, 0);
    ends_join_tcp(&ends, fds);
    recorder_rude = 1;
    ends_handshake(&ends);
    CHECK(errno != ENOTTY && ERR_peek_error() == 0);
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->opens == 1);
    ends_part(&ends);
    close(fds[0]);
    close(fds[1]);

    /* The OPEN in a write; the application's own error stays the last one. */
    recorder_reset();
    recorder_off = 1;
    ends_join_tcp(&ends, fds);
    ends_handshake(&ends);
    recorder_off = 0;
    recorder_rude = 1;
    ERR_raise(ERR_LIB_USER, 77);
    errno = 0;
    CHECK(SSL_write(ends.client, "x", 1) == 1 && errno == 0);
    CHECK(ERR_GET_REASON(ERR_peek_error()) == 77 && ERR_GET_REASON(ERR_peek_last_error()) == 77);
    while (SSL_read(ends.server, &byte, 1) != 1 && ++rounds < 1000000)
        ;
    ret = SSL_read(ends.server, &byte, 1);
    CHECK(ret == -1 && errno == EAGAIN);
    CHECK(ERR_GET_REASON(ERR_peek_last_error()) == 77);
    ERR_clear_error();
    CHECK(SSL_get_error(ends.server, ret) == SSL_ERROR_WANT_READ);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->opens == 1);
    ends_free(&ends);
    close(fds[0]);
    close(fds[1]);
}

static void renegotiation(void)
{
    struct ends ends;
    unsigned char first[32], now[32];
    int rounds = 0;

    ends_contexts(&ends, TLS_method(), TLS1_2_VERSION);
    SSL_CTX_set_options(ends.server_ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    ends_join(&ends, PAIR_BYTES);
    ends_handshake(&ends);
    SSL_get_client_random(ends.client, first, 32);
    ends_exchange(&ends);
    CHECK(SSL_renegotiate(ends.client) == 1);
    while (SSL_renegotiate_pending(ends.client) && ++rounds < 100) {
        SSL_do_handshake(ends.client);
        ends_drain(&ends);
    }
    SSL_get_client_random(ends.client, now, 32);
    CHECK(memcmp(first, now, 32) != 0);
    ends_exchange(&ends);
    ends_judge(&ends, 0);
    RECORDED(memcmp(recorded(MIRROR_HOOK_CLIENT, 0)->client_random, first, 32) == 0);
    ends_check_calls("OSRSR", "ORSRS");
    ends_free(&ends);
}

/* What is announced only after a renegotiation still has the first handshake's randoms. */
static void renegotiation_then_open(void)
{
    struct ends ends;
    unsigned char first[32];
    int rounds = 0;

    ends_contexts(&ends, TLS_method(), TLS1_2_VERSION);
    SSL_CTX_set_options(ends.server_ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    ends_join(&ends, PAIR_BYTES);
    recorder_off = 1;
    ends_handshake(&ends);
    SSL_get_client_random(ends.client, first, 32);
    CHECK(SSL_renegotiate(ends.client) == 1);
    while (SSL_renegotiate_pending(ends.client) && ++rounds < 100) {
        SSL_do_handshake(ends.client);
        ends_drain(&ends);
    }
    recorder_off = 0;
    ends_exchange(&ends);
    ends_judge(&ends, 0);
    RECORDED(memcmp(recorded(MIRROR_HOOK_CLIENT, 0)->client_random, first, 32) == 0);
    ends_free(&ends);
}

static void key_update(void)
{
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_exchange(&ends);
    CHECK(SSL_key_update(ends.client, SSL_KEY_UPDATE_REQUESTED) == 1);
    ends_exchange(&ends);
    CHECK(SSL_key_update(ends.server, SSL_KEY_UPDATE_NOT_REQUESTED) == 1);
    CHECK(SSL_do_handshake(ends.server) == 1);
    ends_exchange(&ends);
    ends_judge(&ends, 0);
    ends_check_calls("OSRSRSR", "ORSRSRS");
    ends_free(&ends);
}

/* SSL_clear: the same object, another connection. */
static void clear_and_reuse(void)
{
    struct ends ends;
    BIO *client, *server;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_exchange(&ends);
    ends_judge(&ends, 0);
    bytes_free(&ends.from_client);
    bytes_free(&ends.from_server);
    bytes_free(&ends.at_client);
    bytes_free(&ends.at_server);
    CHECK(SSL_clear(ends.client) == 1 && SSL_clear(ends.server) == 1);
    ends_check_calls("OSRC", "ORSC");
    BIO_new_bio_pair(&client, PAIR_BYTES, &server, PAIR_BYTES);
    SSL_set_bio(ends.client, client, client);
    SSL_set_bio(ends.server, server, server);
    ends_handshake(&ends);
    ends_send(&ends, ends.client, pattern(21, 4000), 4000);
    ends_judge(&ends, 1);
    ends_free(&ends);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 1)->closes == 1);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 2) == NULL);
}

/* Datagrams: the session is announced for what it is; its text isn't a stream, so none is told. */
static void dtls(void)
{
    struct sockaddr_in address[2];
    socklen_t length = sizeof(address[0]);
    struct ends ends;
    int fds[2], i, rounds = 0, client = 0, server = 0;

    for (i = 0; i < 2; i++) {
        memset(&address[i], 0, sizeof(address[i]));
        address[i].sin_family = AF_INET;
        address[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        CHECK(bind(fds[i], (struct sockaddr *)&address[i], length) == 0);
        CHECK(getsockname(fds[i], (struct sockaddr *)&address[i], &length) == 0);
    }
    CHECK(connect(fds[0], (struct sockaddr *)&address[1], length) == 0);
    CHECK(connect(fds[1], (struct sockaddr *)&address[0], length) == 0);
    ends_contexts(&ends, DTLS_method(), DTLS1_2_VERSION);
    ends_join(&ends, PAIR_BYTES);
    for (i = 0; i < 2; i++) {
        BIO *bio = BIO_new_dgram(fds[i], BIO_NOCLOSE);

        BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &address[1 - i]);
        SSL_set_bio(i == 0 ? ends.client : ends.server, bio, bio);
    }
    do {
        client = SSL_do_handshake(ends.client);
        server = SSL_do_handshake(ends.server);
    } while ((client <= 0 || server <= 0) && ++rounds < 1000000);
    CHECK(client == 1 && server == 1);
    CHECK(SSL_write(ends.client, "datagram", 8) == 8);
    for (rounds = 0; ends.at_server.length == 0 && rounds < 1000000; rounds++)
        ends_drain(&ends);
    CHECK(ends.at_server.length == 8);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.transport == MIRROR_HOOK_DTLS);
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->open.transport == MIRROR_HOOK_DTLS);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0)->open.tls_version == DTLS1_2_VERSION);
    ends_free(&ends);
    ends_check_calls("OC", "OC");
    close(fds[0]);
    close(fds[1]);
}

const struct test_case cases[] = {
    { "facts_tls12", facts_tls12 },
    { "facts_tls13", facts_tls13 },
    { "filter_bios", filter_bios },
    { "resumed", resumed },
    { "sockets", sockets },
    { "wire_counts", wire_counts },
    { "error_queue", error_queue },
    { "renegotiation", renegotiation },
    { "renegotiation_then_open", renegotiation_then_open },
    { "key_update", key_update },
    { "clear_and_reuse", clear_and_reuse },
    { "dtls", dtls },
    { NULL, NULL },
};
