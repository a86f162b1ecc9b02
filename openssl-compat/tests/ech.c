/*
 * Encrypted Client Hello (RFC 9849), from 4.0 on: the two ends agree on a hello that isn't on the wire. What is told of a
 * connection are the randoms that are, at both ends, since by these its addresses are found.
 */
#include <string.h>
#include <openssl/ech.h>
#include "fixture.h"

#define PAIR_BYTES 20000
#define INNER "inner.example"
#define OUTER "outer.example"

/* What the transports have carried of the last connection: the client's, the server's. */
static struct bytes carried[2];

/* ServerHello.random of a HelloRetryRequest (RFC 8446 4.1.3). */
static const unsigned char retry[32] = {
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c
};

static long carry(BIO *bio, int operation, const char *data, size_t length, int number, long more, int ret, size_t *processed)
{
    (void)length, (void)number, (void)more;
    if (operation == (BIO_CB_WRITE | BIO_CB_RETURN) && ret > 0)
        bytes_add((struct bytes *)BIO_get_callback_arg(bio), data, *processed);
    return ret;
}

/* A key and its configuration, which servers tell clients that have another. */
static OSSL_ECHSTORE *new_store(void)
{
    OSSL_HPKE_SUITE suite = OSSL_HPKE_SUITE_DEFAULT;
    OSSL_ECHSTORE *made = OSSL_ECHSTORE_new(NULL, NULL), *store = OSSL_ECHSTORE_new(NULL, NULL);
    BIO *file = BIO_new(BIO_s_mem());

    /* Only what was read from a file is told. */
    CHECK(OSSL_ECHSTORE_new_config(made, OSSL_ECH_CURRENT_VERSION, 0, OUTER, suite) == 1
        && OSSL_ECHSTORE_write_pem(made, OSSL_ECHSTORE_LAST, file) == 1
        && OSSL_ECHSTORE_read_pem(store, file, OSSL_ECH_FOR_RETRY) == 1);
    BIO_free(file);
    OSSL_ECHSTORE_free(made);
    return store;
}

/* New SSL objects; each end has its store, or none. */
static void join(struct ends *ends, OSSL_ECHSTORE *client, OSSL_ECHSTORE *server)
{
    ends_join(ends, PAIR_BYTES);
    bytes_free(&carried[0]);
    bytes_free(&carried[1]);
    BIO_set_callback_ex(SSL_get_wbio(ends->client), carry);
    BIO_set_callback_arg(SSL_get_wbio(ends->client), (char *)&carried[0]);
    BIO_set_callback_ex(SSL_get_wbio(ends->server), carry);
    BIO_set_callback_arg(SSL_get_wbio(ends->server), (char *)&carried[1]);
    CHECK(SSL_set_tlsext_host_name(ends->client, INNER) == 1);
    CHECK(client == NULL || SSL_set1_echstore(ends->client, client) == 1);
    CHECK(server == NULL || SSL_set1_echstore(ends->server, server) == 1);
}

static void start(struct ends *ends, OSSL_ECHSTORE *client, OSSL_ECHSTORE *server)
{
    ends_contexts(ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ends->server_ctx, 0);
    join(ends, client, server);
}

/* Copies the random of the hellos of this type (1: the client's) that the wire has shown; how many. */
static int random_on_wire(const struct bytes *wire, int type, unsigned char random[32])
{
    size_t at, length;
    int hellos = 0, known = 0;

    for (at = 0; at + 43 <= wire->length; at += 5 + length) {
        const unsigned char *record = wire->data + at;

        length = record[3] << 8 | record[4];
        if (record[0] != 22 || record[5] != type)
            continue;
        if (memcmp(record + 11, retry, 32) != 0) {
            /* A second one, behind a HelloRetryRequest, has the first one's. */
            CHECK(!known || memcmp(random, record + 11, 32) == 0);
            memcpy(random, record + 11, 32);
            known = 1;
        }
        hellos++;
    }
    return hellos;
}

/*
 * What is told of this end of the n-th connection was on the wire, in so many hellos of each side. inner: the client's
 * that counted wasn't.
 */
static void judge(struct ends *ends, int role, int n, int hellos, int inner)
{
    struct recording *told = recorded(role, n);
    unsigned char client[32], server[32], agreed[32];

    CHECK(random_on_wire(&carried[0], 1, client) == hellos);
    CHECK(random_on_wire(&carried[1], 2, server) == hellos);
    CHECK(SSL_get_client_random(ends->server, agreed, 32) == 32);
    CHECK((memcmp(agreed, client, 32) != 0) == inner);
    if (!recorder_present || !CHECK(told != NULL))
        return;
    CHECK(memcmp(told->open_client_random, client, 32) == 0);
    CHECK(memcmp(told->client_random, client, 32) == 0);
    /* A client that sends 0-RTT data has no answer yet. */
    CHECK(told->open.early == MIRROR_HOOK_EARLY_PENDING || memcmp(told->open_server_random, server, 32) == 0);
    CHECK(memcmp(told->server_random, server, 32) == 0);
}

static void judge_both(struct ends *ends, int n, int hellos, int inner)
{
    ends_exchange(ends);
    ends_judge(ends, n);
    judge(ends, MIRROR_HOOK_CLIENT, n, hellos, inner);
    judge(ends, MIRROR_HOOK_SERVER, n, hellos, inner);
    RECORDED(strcmp(recorded(MIRROR_HOOK_CLIENT, n)->sni, INNER) == 0);
    RECORDED(strcmp(recorded(MIRROR_HOOK_SERVER, n)->sni, INNER) == 0);
}

static int status(SSL *ssl)
{
    char *inner = NULL, *outer = NULL;
    int status = SSL_ech_get1_status(ssl, &inner, &outer);

    OPENSSL_free(inner);
    OPENSSL_free(outer);
    return status;
}

static void accepted(void)
{
    OSSL_ECHSTORE *store = new_store();
    struct ends ends;
    int n;

    start(&ends, store, store);
    for (n = 0; n < 2; n++) {
        ends_handshake(&ends);
        CHECK(status(ends.server) == SSL_ECH_STATUS_SUCCESS);
        judge_both(&ends, n, 1, 1);
        ends_part(&ends);
        join(&ends, store, store);
    }
    OSSL_ECHSTORE_free(store);
    ends_free(&ends);
}

static void accepted_after_retry_request(void)
{
    OSSL_ECHSTORE *store = new_store();
    struct ends ends;

    start(&ends, store, store);
    CHECK(SSL_set1_groups_list(ends.server, "P-384") == 1);
    ends_handshake(&ends);
    CHECK(status(ends.server) == SSL_ECH_STATUS_SUCCESS);
    judge_both(&ends, 0, 2, 1);
    OSSL_ECHSTORE_free(store);
    ends_free(&ends);
}

static int fails(struct ends *ends)
{
    int rounds, client = 0, server = 0;

    for (rounds = 0; rounds < 20; rounds++) {
        client = SSL_do_handshake(ends->client);
        server = SSL_do_handshake(ends->server);
    }
    ERR_clear_error();
    return client <= 0 && server <= 0;
}

/* The client knows a key that the server hasn't: it gives up, and comes again with the one that it was told. */
static void rejected(void)
{
    OSSL_ECHSTORE *old = new_store(), *store = new_store();
    struct ends ends;
    unsigned char *configuration = NULL;
    size_t length = 0;

    start(&ends, old, store);
    CHECK(fails(&ends));
    CHECK(SSL_ech_get1_retry_config(ends.client, &configuration, &length) == 1 && length > 0);
    RECORDED(recorded(MIRROR_HOOK_CLIENT, 0) == NULL && recorded(MIRROR_HOOK_SERVER, 0) == NULL);
    ends_part(&ends);
    join(&ends, NULL, store);
    CHECK(SSL_set1_ech_config_list(ends.client, configuration, length) == 1);
    ends_handshake(&ends);
    CHECK(status(ends.server) == SSL_ECH_STATUS_SUCCESS);
    judge_both(&ends, 0, 1, 1);
    OPENSSL_free(configuration);
    OSSL_ECHSTORE_free(old);
    OSSL_ECHSTORE_free(store);
    ends_free(&ends);
}

/* To a server that has such keys, and to one that has none. */
static void grease(void)
{
    OSSL_ECHSTORE *store = new_store();
    struct ends ends;
    int n;

    start(&ends, NULL, store);
    for (n = 0; n < 4; n++) {
        SSL_set_options(ends.client, SSL_OP_ECH_GREASE);
        if (n >= 2)
            CHECK(SSL_set1_groups_list(ends.server, "P-384") == 1);
        ends_handshake(&ends);
        judge_both(&ends, n, n < 2 ? 1 : 2, 0);
        ends_part(&ends);
        join(&ends, NULL, n % 2 == 0 ? NULL : store);
    }
    OSSL_ECHSTORE_free(store);
    ends_free(&ends);
}

/* Announced before the handshake has ended: what a server says at once, whether it has opened the hello or hasn't. */
static void half_rtt(void)
{
    OSSL_ECHSTORE *old = new_store(), *store = new_store();
    struct ends ends;
    unsigned char byte;
    size_t count = 0;
    int is_old;

    for (is_old = 0; is_old < 2; is_old++) {
        start(&ends, is_old ? old : store, store);
        SSL_do_handshake(ends.client);
        CHECK(SSL_read_early_data(ends.server, &byte, 1, &count) == SSL_READ_EARLY_DATA_FINISH);
        CHECK(SSL_write_early_data(ends.server, "early", 5, &count) == 1);
        judge(&ends, MIRROR_HOOK_SERVER, is_old, 1, !is_old);
        RECORDED((recorded(MIRROR_HOOK_SERVER, is_old)->open.flags & MIRROR_HOOK_HANDSHAKE_DONE) == 0);
        if (is_old) {
            CHECK(fails(&ends));
        } else {
            ends_wrote(&ends, ends.server, "early", 5);
            ends_handshake(&ends);
            judge_both(&ends, 0, 1, 1);
        }
        ends_free(&ends);
    }
    OSSL_ECHSTORE_free(old);
    OSSL_ECHSTORE_free(store);
}

/* 0-RTT data of a client whose hello nobody has answered. */
static void zero_rtt(void)
{
    OSSL_ECHSTORE *store = new_store();
    struct ends ends;
    SSL_SESSION *session;
    unsigned char buffer[100];
    size_t count = 0;

    ends_contexts(&ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_max_early_data(ends.server_ctx, 16384);
    SSL_CTX_set_session_cache_mode(ends.client_ctx, SSL_SESS_CACHE_CLIENT);
    join(&ends, store, store);
    ends_handshake(&ends);
    ends_drain(&ends);
    session = SSL_get1_session(ends.client);
    SSL_shutdown(ends.client);
    SSL_shutdown(ends.server);
    ends_part(&ends);
    recorder_reset();
    join(&ends, store, store);
    CHECK(SSL_set_session(ends.client, session) == 1);
    CHECK(SSL_write_early_data(ends.client, "zero", 4, &count) == 1);
    ends_wrote(&ends, ends.client, "zero", 4);
    while (SSL_read_early_data(ends.server, buffer, sizeof(buffer), &count) == SSL_READ_EARLY_DATA_SUCCESS)
        bytes_add(&ends.at_server, buffer, count);
    ERR_clear_error();
    CHECK(SSL_get_early_data_status(ends.server) == SSL_EARLY_DATA_ACCEPTED);
    RECORDED((recorded(MIRROR_HOOK_CLIENT, 0)->open.flags & MIRROR_HOOK_HANDSHAKE_DONE) == 0);
    RECORDED((recorded(MIRROR_HOOK_SERVER, 0)->open.flags & MIRROR_HOOK_HANDSHAKE_DONE) == 0);
    SSL_do_handshake(ends.client);
    CHECK(SSL_read_early_data(ends.server, buffer, sizeof(buffer), &count) == SSL_READ_EARLY_DATA_FINISH);
    ends_handshake(&ends);
    judge_both(&ends, 0, 1, 1);
    SSL_SESSION_free(session);
    OSSL_ECHSTORE_free(store);
    ends_free(&ends);
}

const struct test_case cases[] = {
    { "accepted", accepted },
    { "accepted_after_retry_request", accepted_after_retry_request },
    { "rejected", rejected },
    { "grease", grease },
    { "half_rtt", half_rtt },
    { "zero_rtt", zero_rtt },
    { NULL, NULL },
};
