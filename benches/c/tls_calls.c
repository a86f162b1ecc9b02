/*
 * Calls SSL_write as it is told, and says how long that took: the libssl that it has loaded is what is
 * measured.
 *
 *     tls_calls socket|memory|null CERTIFICATE KEY
 *
 *     socket  the records go through a pair of sockets, whose other end is read between the calls
 *     memory  they go into a memory BIO that is emptied between the calls
 *     null    they go nowhere: what is left is libssl's own work
 *
 * Each line "BYTES CALLS" of standard input is answered by a line with the nanoseconds that one call
 * of SSL_write with BYTES bytes took: of CALLS of them, the mean of the half in the middle, so that who
 * was interrupted doesn't count. TLS 1.3, AES-256-GCM.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 256 * 1024, RECORDS = MOST + MOST / 16, CALLS = 10000 };

static SSL *server, *client;
static int ends[2];
static BIO *sink;
static unsigned char *text, *taken;
static uint64_t took[CALLS];

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "tls_calls: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Both ends in one thread: the messages of a handshake fit a socket. */
static void handshake(void)
{
    int served = 0, connected = 0;

    for (int turn = 0; turn < 10 && !(served && connected); turn++) {
        connected = connected || SSL_do_handshake(client) == 1;
        served = served || SSL_do_handshake(server) == 1;
    }
    need(served && connected, "handshake");
}

static void open_connection(const char *certificate, const char *key)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());

    need(context != NULL, "SSL_CTX_new");
    need(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION), "TLS 1.3");
    need(SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384"), "AES-256-GCM");
    need(SSL_CTX_set_num_tickets(context, 0), "no tickets");
    need(SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM) == 1, certificate);
    need(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1, key);
    server = SSL_new(context);
    client = SSL_new(context);
    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0, "socketpair");
    for (int end = 0; end < 2; end++) {
        int room = 4 * RECORDS;

        setsockopt(ends[end], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    }
    need(SSL_set_fd(server, ends[0]) == 1 && SSL_set_fd(client, ends[1]) == 1, "SSL_set_fd");
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    handshake();
}

static void drain(void)
{
    if (sink != NULL) {
        (void)BIO_reset(sink);
        return;
    }
    while (read(ends[1], taken, RECORDS) > 0)
        continue;
}

static uint64_t one_call(size_t bytes, size_t offset)
{
    size_t written = 0;
    uint64_t start = now_ns(), end;
    int ok = SSL_write_ex(server, text + offset, bytes, &written);

    end = now_ns();
    need(ok == 1 && written == bytes, "SSL_write_ex");
    return end - start;
}

static int in_order(const void *a, const void *b)
{
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

    return (first > second) - (first < second);
}

static double middle(size_t calls)
{
    size_t from = calls / 4, to = calls - calls / 4;
    double sum = 0;

    qsort(took, calls, sizeof(took[0]), in_order);
    for (size_t call = from; call < to; call++)
        sum += (double)took[call];
    return sum / (double)(to - from);
}

int main(int count, char **words)
{
    char line[80];

    need(count == 4, "tls_calls socket|memory|null CERTIFICATE KEY");
    text = aligned_alloc(4096, MOST + 4096);
    taken = aligned_alloc(4096, RECORDS);
    need(text != NULL && taken != NULL, "no memory");
    for (size_t at = 0; at < MOST + 4096; at++)
        text[at] = (unsigned char)("mirror"[at % 6] + at / 4096);
    open_connection(words[2], words[3]);
    if (strcmp(words[1], "memory") == 0) {
        sink = BIO_new(BIO_s_mem());
        SSL_set0_wbio(server, sink);
    } else if (strcmp(words[1], "null") == 0) {
        sink = BIO_new(BIO_s_null());
        SSL_set0_wbio(server, sink);
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        size_t bytes, calls;

        need(sscanf(line, "%zu %zu", &bytes, &calls) == 2 && bytes <= MOST && calls > 0
            && calls <= CALLS, "a line BYTES CALLS");
        for (size_t call = 0; call < calls; call++) {
            /* Not always the same place in its page. */
            took[call] = one_call(bytes, call * 272 % 4096);
            drain();
        }
        printf("%.1f\n", middle(calls));
        fflush(stdout);
    }
    return 0;
}
