/* 0-RTT and 0.5-RTT data (RFC 8446 2.3): clear text before the handshake has ended. */
#include <string.h>
#include "fixture.h"

#define PAIR_BYTES 20000

/* Two contexts and a session that allows early data. */
static SSL_SESSION *session_for_early_data(struct ends *ends)
{
    SSL_SESSION *session;

    ends_contexts(ends, TLS_method(), TLS1_3_VERSION);
    SSL_CTX_set_max_early_data(ends->server_ctx, 16384);
    SSL_CTX_set_session_cache_mode(ends->client_ctx, SSL_SESS_CACHE_CLIENT);
    ends_join(ends, PAIR_BYTES);
    ends_handshake(ends);
    ends_drain(ends);
    session = SSL_get1_session(ends->client);
    CHECK(SSL_SESSION_get_max_early_data(session) == 16384);
    SSL_shutdown(ends->client);
    SSL_shutdown(ends->server);
    ends_part(ends);
    recorder_reset();
    ends_join(ends, PAIR_BYTES);
    SSL_set_session(ends->client, session);
    return session;
}

static void send_early(struct ends *ends, const void *data, size_t length)
{
    size_t count = 0;

    CHECK(SSL_write_early_data(ends->client, data, length, &count) == 1 && count == length);
}

/* Reads early data at the server until there is no more for the moment; returns the last result. */
static int receive_early(struct ends *ends)
{
    unsigned char buffer[1000];
    size_t count = 0;
    int ret;

    while ((ret = SSL_read_early_data(ends->server, buffer, sizeof(buffer), &count))
        == SSL_READ_EARLY_DATA_SUCCESS)
        bytes_add(&ends->at_server, buffer, count);
    ERR_clear_error();
    return ret;
}

/* The client alone: SSL_read at the server would step over SSL_read_early_data. */
static void read_at_client(struct ends *ends)
{
    unsigned char buffer[1000];
    int got;

    while ((got = SSL_read(ends->client, buffer, sizeof(buffer))) > 0)
        bytes_add(&ends->at_client, buffer, (size_t)got);
    ERR_clear_error();
}

static void accepted(int answer_early, int implicit)
{
    struct ends ends;
    SSL_SESSION *session = session_for_early_data(&ends);
    struct recording *client, *server;
    size_t count = 0;
    int ret, rounds = 0;

    send_early(&ends, pattern(1, 3000), 3000);
    send_early(&ends, pattern(2, 200), 200);
    ends_wrote(&ends, ends.client, pattern(1, 3000), 3000);
    ends_wrote(&ends, ends.client, pattern(2, 200), 200);
    CHECK(receive_early(&ends) == SSL_READ_EARLY_DATA_ERROR);
    CHECK(ends.at_server.length == 3200);

    client = recorded(MIRROR_HOOK_CLIENT, 0);
    server = recorded(MIRROR_HOOK_SERVER, 0);
    RECORDED(client != NULL && server != NULL);
    if (recorder_present) {
        static const unsigned char zeros[32];

        CHECK(client->open.early == MIRROR_HOOK_EARLY_PENDING && client->open.flags == 0);
        CHECK(memcmp(client->server_random, zeros, 32) == 0);
        CHECK(memcmp(client->client_random, zeros, 32) != 0);
        CHECK(memcmp(client->client_random, server->client_random, 32) == 0);
        CHECK(server->open.early == MIRROR_HOOK_EARLY_ACCEPTED && server->open.flags == 0);
        CHECK(server->open.tls_version == TLS1_3_VERSION);
        CHECK(memcmp(server->server_random, zeros, 32) != 0);
    }
    if (answer_early) {
        CHECK(SSL_write_early_data(ends.server, pattern(3, 900), 900, &count) == 1);
        ends_wrote(&ends, ends.server, pattern(3, 900), 900);
    }
    if (implicit) {
        /* The answer comes before the client has ended its handshake; the write ends it. */
        read_at_client(&ends);
        CHECK(SSL_write(ends.client, pattern(6, 40), 40) == 40);
    } else {
        while (SSL_do_handshake(ends.client) != 1 && ++rounds < 100)
            ;
        CHECK(SSL_write(ends.client, pattern(6, 40), 40) == 40);
        read_at_client(&ends);
    }
    ends_wrote(&ends, ends.client, pattern(6, 40), 40);
    while ((ret = receive_early(&ends)) != SSL_READ_EARLY_DATA_FINISH && ++rounds < 100)
        read_at_client(&ends);
    CHECK(ret == SSL_READ_EARLY_DATA_FINISH);
    ends_handshake(&ends);
    CHECK(SSL_get_early_data_status(ends.client) == SSL_EARLY_DATA_ACCEPTED);

    ends_send(&ends, ends.client, pattern(4, 1000), 1000);
    ends_send(&ends, ends.server, pattern(5, 2000), 2000);
    ends_judge(&ends, 0);
    if (recorder_present) {
        CHECK(strcmp(client->calls, !answer_early ? "OSUSR" : implicit ? "OSRUSR" : "OSUSRSR") == 0);
        CHECK(strcmp(server->calls, answer_early ? "ORSURS" : "ORURS") == 0);
        CHECK(client->last.early == MIRROR_HOOK_EARLY_ACCEPTED);
        CHECK(server->last.early == MIRROR_HOOK_EARLY_ACCEPTED);
        CHECK(client->last.flags == (MIRROR_HOOK_HANDSHAKE_DONE | MIRROR_HOOK_RESUMED));
        CHECK(server->last.flags == (MIRROR_HOOK_HANDSHAKE_DONE | MIRROR_HOOK_RESUMED));
        CHECK(memcmp(client->server_random, server->server_random, 32) == 0);
    }
    SSL_SESSION_free(session);
    ends_free(&ends);
}

static void early_accepted(void) { accepted(0, 0); }
static void early_accepted_in_write(void) { accepted(0, 1); }
static void half_rtt(void) { accepted(1, 0); }
static void half_rtt_before_finished(void) { accepted(1, 1); }

static int refuse(SSL *ssl, void *arg)
{
    (void)ssl, (void)arg;
    return 0;
}

static void rejected(int by_retry, int implicit)
{
    struct ends ends;
    SSL_SESSION *session = session_for_early_data(&ends);
    struct recording *client, *server;
    struct bytes early = { 0 };
    int rounds = 0, ret;

    if (by_retry)
        CHECK(SSL_set1_groups_list(ends.server, "P-521"));
    else
        SSL_set_allow_early_data_cb(ends.server, refuse, NULL);
    bytes_add(&early, pattern(6, 2500), 2500);
    send_early(&ends, early.data, early.length);
    while ((ret = receive_early(&ends)) != SSL_READ_EARLY_DATA_FINISH && ++rounds < 100)
        SSL_do_handshake(ends.client);
    CHECK(ret == SSL_READ_EARLY_DATA_FINISH && ends.at_server.length == 0);
    if (!implicit)
        ends_handshake(&ends);
    ends_send(&ends, ends.client, pattern(7, 1200), 1200);
    ends_handshake(&ends);
    CHECK(SSL_get_early_data_status(ends.client) == SSL_EARLY_DATA_REJECTED);
    ends_send(&ends, ends.server, pattern(8, 50), 50);

    /* What counts is what came after: the judge's truth begins there too. */
    ends_judge(&ends, 0);
    client = recorded(MIRROR_HOOK_CLIENT, 0);
    server = recorded(MIRROR_HOOK_SERVER, 0);
    if (recorder_present && client != NULL && server != NULL) {
        CHECK(bytes_equal(&client->rejected, &early));
        CHECK(strcmp(client->calls, "OSJSR") == 0);
        CHECK(strcmp(server->calls, "ORS") == 0);
        CHECK(client->last.early == MIRROR_HOOK_EARLY_REJECTED);
        CHECK(memcmp(client->client_random, client->open_client_random, 32) == 0);
        CHECK(memcmp(client->client_random, server->client_random, 32) == 0);
        CHECK(memcmp(client->server_random, server->server_random, 32) == 0);
    }
    bytes_free(&early);
    SSL_SESSION_free(session);
    ends_free(&ends);
}

static void early_rejected(void) { rejected(0, 0); }
static void early_rejected_in_write(void) { rejected(0, 1); }
static void early_rejected_by_retry(void) { rejected(1, 0); }

const struct test_case cases[] = {
    { "early_accepted", early_accepted },
    { "early_accepted_in_write", early_accepted_in_write },
    { "half_rtt", half_rtt },
    { "half_rtt_before_finished", half_rtt_before_finished },
    { "early_rejected", early_rejected },
    { "early_rejected_in_write", early_rejected_in_write },
    { "early_rejected_by_retry", early_rejected_by_retry },
    { NULL, NULL },
};
