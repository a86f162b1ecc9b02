/* The ways in which a connection ends, and what is told of each. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "fixture.h"

#define PAIR_BYTES 20000

static void half_close(void)
{
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_send(&ends, ends.client, "a question", 10);
    CHECK(SSL_shutdown(ends.client) == 0);
    ends_drain(&ends);
    CHECK(SSL_get_shutdown(ends.server) == SSL_RECEIVED_SHUTDOWN);
    ends_check_calls("OSE", "ORF");
    CHECK(SSL_write(ends.server, "an answer", 9) == 9);
    ends_wrote(&ends, ends.server, "an answer", 9);
    ends_drain(&ends);
    CHECK(SSL_shutdown(ends.server) == 1);
    CHECK(SSL_shutdown(ends.client) == 1);
    ends_judge(&ends, 0);
    ends_free(&ends);
    ends_check_calls("OSERFC", "ORFSEC");
}

static void free_without_shutdown(void)
{
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_exchange(&ends);
    SSL_up_ref(ends.client);
    SSL_free(ends.client);
    ends_check_calls("OSR", "ORS");
    ends_free(&ends);
    ends_check_calls("OSRC", "ORSC");
}

/* Neither end has sent close_notify; TCP alone says that there is no more. */
static void unexpected_eof(long options, const char *server)
{
    struct ends ends;
    int fds[2], rounds = 0;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ends.server_ctx, 0);
    SSL_CTX_set_options(ends.server_ctx, (uint64_t)options);
    ends_join_tcp(&ends, fds);
    ends_handshake(&ends);
    CHECK(SSL_write(ends.client, "last words", 10) == 10);
    ends_wrote(&ends, ends.client, "last words", 10);
    shutdown(fds[0], SHUT_WR);
    do {
        ends_drain(&ends);
    } while (ends.at_server.length < 10 && ++rounds < 1000000);
    ends_drain(&ends);
    /* A second look at the broken connection tells nothing new. */
    CHECK(SSL_write(ends.server, "x", 1) <= 0 || options != 0);
    ends_free(&ends);
    /* The client may or may not read the alert by which a server answers. */
    ends_check_calls(NULL, server);
    close(fds[0]);
    close(fds[1]);
}

static void eof(void) { unexpected_eof(0, "ORFC"); }
static void eof_ignored(void) { unexpected_eof((long)SSL_OP_IGNORE_UNEXPECTED_EOF, "ORFSC"); }

static int own_read(BIO *bio, char *out, int length)
{
    BIO *next = BIO_get_data(bio);
    int got = BIO_read(next, out, length);

    BIO_clear_retry_flags(bio);
    if (got > 0)
        return got;
    /* The pair has a close of its own; without it there is just nothing yet. */
    if (BIO_should_retry(next)) {
        BIO_set_retry_read(bio);
        return -1;
    }
    return 0;
}

static int own_write(BIO *bio, const char *data, int length)
{
    BIO_clear_retry_flags(bio);
    return BIO_write(BIO_get_data(bio), data, length);
}

static long own_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static int own_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

/* A BIO made by the application which doesn't tell end of file but by a read of 0, as curl's. */
static void own_bio(int shut_down_first, const char *client)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "own");
    /* From 4.0 on OpenSSL knows by itself what a read of 0 means, and answers with an alert. */
    const char *server = OPENSSL_VERSION_MAJOR >= 4 && !shut_down_first ? "ORSAC" : "ORSC";
    struct ends ends;
    BIO *pair, *own;

    CHECK(BIO_meth_set_read(method, own_read) && BIO_meth_set_write(method, own_write)
        && BIO_meth_set_ctrl(method, own_ctrl) && BIO_meth_set_create(method, own_create));
    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    pair = SSL_get_rbio(ends.client);
    BIO_up_ref(pair);
    own = BIO_new(method);
    BIO_set_data(own, pair);
    SSL_set_bio(ends.client, own, own);
    ends_handshake(&ends);
    ends_exchange(&ends);
    if (shut_down_first)
        CHECK(SSL_shutdown(ends.client) == 0);
    (void)BIO_shutdown_wr(SSL_get_wbio(ends.server));
    errno = 0;
    if (shut_down_first)
        CHECK(SSL_shutdown(ends.client) == -1);
    else
        ends_drain(&ends);
    ends_judge(&ends, 0);
    ends_free(&ends);
    ends_check_calls(client, server);
    BIO_free(pair);
    BIO_meth_free(method);
}

static void eof_of_own_bio(void) { own_bio(0, "OSRFC"); }
static void eof_of_own_bio_in_shutdown(void) { own_bio(1, "OSREFC"); }

static void reset(void)
{
    struct ends ends;
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    int fds[2], rounds = 0, ret;
    unsigned char byte;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ends.server_ctx, 0);
    ends_join_tcp(&ends, fds);
    ends_handshake(&ends);
    setsockopt(fds[0], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(fds[0]);
    while ((ret = SSL_read(ends.server, &byte, 1)) <= 0
        && SSL_get_error(ends.server, ret) == SSL_ERROR_WANT_READ && ++rounds < 1000000)
        ;
    CHECK(ret == -1 && errno == ECONNRESET);
    ends_free(&ends);
    ends_check_calls("OC", "OAC");
    close(fds[1]);
}

/* A record that was tampered with: the receiver aborts, its alert makes the sender abort. */
static void bad_record(void)
{
    static const unsigned char record[] = { 23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
        14, 15, 16, 17, 18, 19, 20 };
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_exchange(&ends);
    CHECK(BIO_write(SSL_get_wbio(ends.client), record, sizeof(record)) == sizeof(record));
    ends_drain(&ends);
    ends_judge(&ends, 0);
    ends_free(&ends);
    ends_check_calls("OSRAC", "ORSAC");
}

static void failed_handshake(void)
{
    struct ends ends;
    int rounds;

    ends_new(&ends, TLS1_2_VERSION, PAIR_BYTES);
    SSL_set_cipher_list(ends.client, "AES128-SHA");
    for (rounds = 0; rounds < 5; rounds++) {
        CHECK(SSL_do_handshake(ends.client) <= 0);
        CHECK(SSL_do_handshake(ends.server) <= 0);
    }
    SSL_shutdown(ends.client);
    ends_free(&ends);
    CHECK(recorded(MIRROR_HOOK_CLIENT, 0) == NULL && recorded(MIRROR_HOOK_SERVER, 0) == NULL);
    RECORDED(recorder_handshakes == 2);
}

const struct test_case cases[] = {
    { "half_close", half_close },
    { "free_without_shutdown", free_without_shutdown },
    { "eof", eof },
    { "eof_ignored", eof_ignored },
    { "eof_of_own_bio", eof_of_own_bio },
    { "eof_of_own_bio_in_shutdown", eof_of_own_bio_in_shutdown },
    { "reset", reset },
    { "bad_record", bad_record },
    { "failed_handshake", failed_handshake },
    { NULL, NULL },
};
