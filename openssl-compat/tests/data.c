/* Clear text in all the ways in which libssl takes and gives it: exactly once, in order. */
#include <string.h>
#include <openssl/async.h>
#include "fixture.h"

#define PAIR_BYTES 20000

static void plain(int version)
{
    static const size_t sizes[] = { 1, 100, 16383, 16384, 16385, 40000, 2 };
    struct ends ends;
    size_t i;

    ends_new(&ends, version, PAIR_BYTES);
    ends_handshake(&ends);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        ends_send(&ends, ends.client, pattern(i, sizes[i]), sizes[i]);
        ends_send(&ends, ends.server, pattern(100 + i, sizes[i]), sizes[i]);
    }
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void plain_tls12(void) { plain(TLS1_2_VERSION); }
static void plain_tls13(void) { plain(TLS1_3_VERSION); }

static void ex_calls(void)
{
    struct ends ends;
    unsigned char buffer[300];
    size_t count = 0;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    CHECK(SSL_write_ex(ends.client, pattern(1, 1000), 1000, &count) == 1 && count == 1000);
    ends_wrote(&ends, ends.client, pattern(1, 1000), 1000);
    while (SSL_read_ex(ends.server, buffer, sizeof(buffer), &count) == 1)
        bytes_add(&ends.at_server, buffer, count);
    CHECK(SSL_write_ex(ends.server, "answer", 6, &count) == 1);
    ends_wrote(&ends, ends.server, "answer", 6);
    CHECK(SSL_read_ex(ends.client, buffer, sizeof(buffer), &count) == 1 && count == 6);
    bytes_add(&ends.at_client, buffer, count);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void empty_write(void)
{
    struct ends ends;
    size_t count = 1;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    CHECK(SSL_write_ex(ends.client, "", 0, &count) == 1 && count == 0);
    ends_send(&ends, ends.client, "x", 1);
    CHECK(SSL_write(ends.client, "", 0) == 0);
    ends_drain(&ends);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void peek(void)
{
    struct ends ends;
    unsigned char buffer[100];
    size_t count = 0;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    CHECK(SSL_write(ends.client, pattern(7, 250), 250) == 250);
    ends_wrote(&ends, ends.client, pattern(7, 250), 250);
    CHECK(SSL_peek(ends.server, buffer, sizeof(buffer)) == 100);
    CHECK(SSL_peek_ex(ends.server, buffer, 60, &count) == 1 && count == 60);
    RECORDED(recorded(MIRROR_HOOK_SERVER, 0)->text[MIRROR_HOOK_RECEIVED].length == 0);
    CHECK(SSL_read(ends.server, buffer, 30) == 30);
    bytes_add(&ends.at_server, buffer, 30);
    CHECK(SSL_peek(ends.server, buffer, sizeof(buffer)) == 100);
    ends_drain(&ends);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

/* No SSL_do_handshake: the first write and the first read do it. */
static void implicit_handshake(int version)
{
    struct ends ends;

    ends_new(&ends, version, PAIR_BYTES);
    ends_send(&ends, ends.client, pattern(3, 500), 500);
    ends_send(&ends, ends.server, pattern(4, 700), 700);
    ends_judge(&ends, 0);
    RECORDED(recorder_handshakes == 2);
    ends_free(&ends);
}

static void implicit_tls12(void) { implicit_handshake(TLS1_2_VERSION); }
static void implicit_tls13(void) { implicit_handshake(TLS1_3_VERSION); }

static void partial_writes(void)
{
    const size_t length = 150000;
    const unsigned char *data = pattern(5, length);
    struct ends ends;
    size_t done = 0;
    int ret, rounds = 0, refused = 0;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    SSL_set_mode(ends.client, SSL_MODE_ENABLE_PARTIAL_WRITE);
    ends_handshake(&ends);
    while (done < length && ++rounds < 1000) {
        ret = SSL_write(ends.client, data + done, (int)(length - done));
        if (ret > 0) {
            ends_wrote(&ends, ends.client, data + done, (size_t)ret);
            done += (size_t)ret;
        } else {
            refused++;
            ends_drain(&ends);
        }
    }
    ends_drain(&ends);
    CHECK(done == length && refused > 3);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

/* Retries take up after the records that an earlier try has sent. */
static void retried(int version, const char *cipher, size_t fragment)
{
    struct ends ends;

    ends_contexts(&ends, TLS_method(), version);
    SSL_CTX_set_num_tickets(ends.server_ctx, 0);
    if (cipher != NULL)
        CHECK(SSL_CTX_set_cipher_list(ends.client_ctx, cipher));
    ends_join(&ends, PAIR_BYTES);
    if (fragment > 0)
        SSL_set_max_send_fragment(ends.client, (long)fragment);
    ends_handshake(&ends);
    ends_send(&ends, ends.client, pattern(6, 200000), 200000);
    ends_send(&ends, ends.server, pattern(8, 100000), 100000);
    ends_send(&ends, ends.client, pattern(9, 17), 17);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void retried_tls12(void) { retried(TLS1_2_VERSION, NULL, 0); }
static void retried_tls13(void) { retried(TLS1_3_VERSION, NULL, 0); }
static void retried_small_records(void) { retried(TLS1_3_VERSION, NULL, 512); }
/* AES-CBC with SHA1 or SHA256 sends several records at once where the processor can. */
static void retried_multiblock(void) { retried(TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0", 0); }

static void moving_buffer(void)
{
    static unsigned char places[3][100000];
    const size_t length = sizeof(places[0]);
    struct ends ends;
    int ret = -1, rounds = 0;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    SSL_set_mode(ends.client, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    ends_handshake(&ends);
    while (ret <= 0 && rounds < 1000) {
        unsigned char *place = places[rounds++ % 3];

        memcpy(place, pattern(10, length), length);
        ret = SSL_write(ends.client, place, (int)length);
        memset(place, 0, length);
        ends_drain(&ends);
    }
    CHECK(ret == (int)length && rounds > 3);
    ends_wrote(&ends, ends.client, pattern(10, length), length);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

/* Given up after WANT_WRITE: whole records are with the peer, and must be told. */
static void abandoned_write(void)
{
    const size_t length = 100000;
    const unsigned char *data = pattern(11, length);
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    CHECK(SSL_write(ends.client, data, (int)length) == -1);
    ends_drain(&ends);
    CHECK(ends.at_server.length == 16384);
    /* Once more, and then never again. */
    CHECK(SSL_write(ends.client, data, (int)length) == -1);
    ends_drain(&ends);
    CHECK(ends.at_server.length == 32768);
    ends_wrote(&ends, ends.client, data, ends.at_server.length);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

/*
 * A handshake message of several records that finds no room, in a call that
 * has clear text to write: its sent records aren't the application's.
 */
static void big_handshake_in_write(void)
{
    struct ends ends;
    int i;

    ends_contexts(&ends, TLS_method(), TLS1_2_VERSION);
    for (i = 0; i < 120; i++)
        CHECK(SSL_CTX_add1_chain_cert(ends.server_ctx, SSL_CTX_get0_certificate(ends.server_ctx)));
    ends_join(&ends, PAIR_BYTES);
    SSL_set_mode(ends.server, SSL_MODE_NO_AUTO_CHAIN);
    SSL_do_handshake(ends.client);
    ends_send(&ends, ends.server, pattern(20, 40000), 40000);
    ends_send(&ends, ends.client, pattern(21, 10), 10);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static void bio_f_ssl(void)
{
    struct ends ends;
    unsigned char buffer[100];
    BIO *bio = BIO_new(BIO_f_ssl());

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    BIO_set_ssl(bio, ends.client, BIO_NOCLOSE);
    CHECK(BIO_write(bio, pattern(12, 3000), 3000) == 3000);
    ends_wrote(&ends, ends.client, pattern(12, 3000), 3000);
    CHECK(BIO_puts(bio, "a line\n") == 7);
    ends_wrote(&ends, ends.client, "a line\n", 7);
    CHECK(SSL_write(ends.server, "to the filter", 13) == 13);
    ends_wrote(&ends, ends.server, "to the filter", 13);
    CHECK(BIO_read(bio, buffer, sizeof(buffer)) == 13);
    bytes_add(&ends.at_client, buffer, 13);
    ends_drain(&ends);
    ends_judge(&ends, 0);
    BIO_free(bio);
    ends_free(&ends);
}

/* SSL_MODE_ASYNC: libssl puts each call into a job, with a small stack of its own. */
static void async_mode(void)
{
    struct ends ends;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    SSL_set_mode(ends.client, SSL_MODE_ASYNC);
    SSL_set_mode(ends.server, SSL_MODE_ASYNC);
    ends_handshake(&ends);
    ends_send(&ends, ends.client, pattern(13, 90000), 90000);
    ends_send(&ends, ends.server, pattern(14, 90000), 90000);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static int pauses;

/* Called for each record inside the job, as an engine would be. */
static void pause_job(int write_p, int version, int type, const void *buf, size_t len, SSL *ssl, void *arg)
{
    (void)write_p, (void)version, (void)buf, (void)len, (void)ssl, (void)arg;
    if (type == SSL3_RT_HEADER && ASYNC_get_current_job() != NULL) {
        pauses++;
        ASYNC_pause_job();
    }
}

static void async_pauses(void)
{
    const size_t length = 90000;
    const unsigned char *data = pattern(15, length);
    unsigned char buffer[4000];
    struct ends ends;
    int ret = -1, rounds = 0;

    ends_new(&ends, TLS1_3_VERSION, 40000);
    /* 3.2 and later take the callback up with the keys, so it's set before them. */
    SSL_set_msg_callback(ends.client, pause_job);
    ends_handshake(&ends);
    SSL_set_mode(ends.client, SSL_MODE_ASYNC);
    pauses = 0;
    while (ret <= 0 && ++rounds < 1000) {
        ret = SSL_write(ends.client, data, (int)length);
        if (ret <= 0 && SSL_get_error(ends.client, ret) == SSL_ERROR_WANT_WRITE)
            while ((ret = SSL_read(ends.server, buffer, sizeof(buffer))) > 0)
                bytes_add(&ends.at_server, buffer, (size_t)ret);
    }
    CHECK(ret == (int)length && pauses > 3);
    ends_wrote(&ends, ends.client, data, length);

    CHECK(SSL_write(ends.server, pattern(16, 3000), 3000) == 3000);
    ends_wrote(&ends, ends.server, pattern(16, 3000), 3000);
    for (rounds = 0; ends.at_client.length < 3000 && rounds < 1000; rounds++)
        if ((ret = SSL_read(ends.client, buffer, sizeof(buffer))) > 0)
            bytes_add(&ends.at_client, buffer, (size_t)ret);
    SSL_set_msg_callback(ends.client, NULL);
    while ((ret = SSL_read(ends.server, buffer, sizeof(buffer))) > 0)
        bytes_add(&ends.at_server, buffer, (size_t)ret);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

static struct ends *job_ends;

static int write_and_read(void *unused)
{
    unsigned char buffer[100];
    int got;

    (void)unused;
    if (SSL_write(job_ends->client, "from a job", 10) != 10)
        return 0;
    ASYNC_pause_job();
    got = SSL_read(job_ends->server, buffer, sizeof(buffer));
    if (got > 0)
        bytes_add(&job_ends->at_server, buffer, (size_t)got);
    return got == 10;
}

/* The application's own job: the calls run on its stack, outside of libssl's jobs. */
static void async_own_job(void)
{
    struct ends ends;
    ASYNC_JOB *job = NULL;
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    int ret = 0;

    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    SSL_set_mode(ends.client, SSL_MODE_ASYNC);
    ends_handshake(&ends);
    job_ends = &ends;
    CHECK(ASYNC_start_job(&job, wait, &ret, write_and_read, NULL, 0) == ASYNC_PAUSE);
    CHECK(ASYNC_start_job(&job, wait, &ret, write_and_read, NULL, 0) == ASYNC_FINISH && ret == 1);
    ends_wrote(&ends, ends.client, "from a job", 10);
    ends_judge(&ends, 0);
    ASYNC_WAIT_CTX_free(wait);
    ends_free(&ends);
}

/* Nothing asks for an OPEN: all is still counted, and nothing else is told. */
static void not_mirrored(void)
{
    struct ends ends;

    recorder_off = 1;
    ends_new(&ends, TLS1_3_VERSION, PAIR_BYTES);
    ends_handshake(&ends);
    ends_send(&ends, ends.client, pattern(17, 50000), 50000);
    recorder_off = 0;
    /* From here on: the text counts as sent after the OPEN. */
    ends_send(&ends, ends.client, pattern(18, 100), 100);
    RECORDED(strcmp(recorded(MIRROR_HOOK_CLIENT, 0)->calls, "SOS") == 0);
    ends_judge(&ends, 0);
    ends_free(&ends);
}

const struct test_case cases[] = {
    { "plain_tls12", plain_tls12 },
    { "plain_tls13", plain_tls13 },
    { "ex_calls", ex_calls },
    { "empty_write", empty_write },
    { "peek", peek },
    { "implicit_handshake_tls12", implicit_tls12 },
    { "implicit_handshake_tls13", implicit_tls13 },
    { "partial_writes", partial_writes },
    { "retried_tls12", retried_tls12 },
    { "retried_tls13", retried_tls13 },
    { "retried_small_records", retried_small_records },
    { "retried_multiblock", retried_multiblock },
    { "moving_buffer", moving_buffer },
    { "abandoned_write", abandoned_write },
    { "big_handshake_in_write", big_handshake_in_write },
    { "bio_f_ssl", bio_f_ssl },
    { "async_mode", async_mode },
    { "async_pauses", async_pauses },
    { "async_own_job", async_own_job },
    { "not_mirrored", not_mirrored },
    { NULL, NULL },
};
