#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/ec.h>
#include <openssl/x509.h>
#include "fixture.h"

int case_failed;

int check(int holds, const char *condition, const char *file, int line)
{
    if (!holds) {
        fprintf(stderr, "    %s:%d: %s\n", file, line, condition);
        ERR_print_errors_fp(stderr);
        case_failed = 1;
    }
    return holds;
}

/* What a test can't go on without. */
static void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "    can't set up: %s\n", what);
        ERR_print_errors_fp(stderr);
        exit(2);
    }
}

void use_new_certificate(SSL_CTX *ctx)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_NAME *name = X509_NAME_new();

    must(X509_set_version(certificate, X509_VERSION_3)
            && ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1)
            && X509_gmtime_adj(X509_getm_notBefore(certificate), -60) != NULL
            && X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) != NULL
            && X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0)
            && X509_set_subject_name(certificate, name)
            && X509_set_issuer_name(certificate, name)
            && X509_set_pubkey(certificate, key)
            && X509_sign(certificate, key, EVP_sha256())
            && SSL_CTX_use_certificate(ctx, certificate)
            && SSL_CTX_use_PrivateKey(ctx, key),
        "certificate");
    X509_NAME_free(name);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

void ends_contexts(struct ends *ends, const SSL_METHOD *method, int version)
{
    memset(ends, 0, sizeof(*ends));
    ends->client_ctx = SSL_CTX_new(method);
    ends->server_ctx = SSL_CTX_new(method);
    must(SSL_CTX_set_min_proto_version(ends->client_ctx, version)
            && SSL_CTX_set_max_proto_version(ends->client_ctx, version),
        "version");
    use_new_certificate(ends->server_ctx);
}

static void make_ssl(struct ends *ends)
{
    ends->client = SSL_new(ends->client_ctx);
    ends->server = SSL_new(ends->server_ctx);
    must(ends->client != NULL && ends->server != NULL, "SSL_new");
    SSL_set_connect_state(ends->client);
    SSL_set_accept_state(ends->server);
}

void ends_join(struct ends *ends, size_t capacity)
{
    BIO *client, *server;

    make_ssl(ends);
    must(BIO_new_bio_pair(&client, capacity, &server, capacity), "BIO pair");
    SSL_set_bio(ends->client, client, client);
    SSL_set_bio(ends->server, server, server);
}

void ends_join_tcp(struct ends *ends, int fds[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0
            && getsockname(listener, (struct sockaddr *)&address, &length) == 0
            && connect(fds[0], (struct sockaddr *)&address, length) == 0
            && (fds[1] = accept(listener, NULL, NULL)) >= 0,
        "TCP over loopback");
    close(listener);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    make_ssl(ends);
    SSL_set_fd(ends->client, fds[0]);
    SSL_set_fd(ends->server, fds[1]);
}

void ends_new(struct ends *ends, int version, size_t capacity)
{
    ends_contexts(ends, TLS_method(), version);
    SSL_CTX_set_num_tickets(ends->server_ctx, 0);
    ends_join(ends, capacity);
}

void ends_part(struct ends *ends)
{
    SSL_free(ends->client);
    SSL_free(ends->server);
    ends->client = ends->server = NULL;
    bytes_free(&ends->from_client);
    bytes_free(&ends->from_server);
    bytes_free(&ends->at_client);
    bytes_free(&ends->at_server);
}

void ends_free(struct ends *ends)
{
    ends_part(ends);
    SSL_CTX_free(ends->client_ctx);
    SSL_CTX_free(ends->server_ctx);
}

void ends_handshake(struct ends *ends)
{
    int rounds = 0, client, server;

    do {
        client = SSL_do_handshake(ends->client);
        server = SSL_do_handshake(ends->server);
    } while ((client <= 0 || server <= 0) && ++rounds < 1000000);
    CHECK(client == 1 && server == 1);
}

static void drain(SSL *ssl, struct bytes *into)
{
    unsigned char buffer[5000];
    int got;

    while ((got = SSL_read(ssl, buffer, sizeof(buffer))) > 0)
        bytes_add(into, buffer, (size_t)got);
}

void ends_drain(struct ends *ends)
{
    /* Twice: a client's close_notify or KeyUpdate may make the server answer. */
    drain(ends->client, &ends->at_client);
    drain(ends->server, &ends->at_server);
    drain(ends->client, &ends->at_client);
    ERR_clear_error();
}

void ends_send(struct ends *ends, SSL *from, const void *data, size_t length)
{
    int rounds = 0, ret;

    while ((ret = SSL_write(from, data, (int)length)) <= 0 && ++rounds < 1000) {
        if (!CHECK(SSL_get_error(from, ret) == SSL_ERROR_WANT_WRITE
                || SSL_get_error(from, ret) == SSL_ERROR_WANT_READ))
            break;
        ends_drain(ends);
    }
    if (CHECK(ret == (int)length))
        ends_wrote(ends, from, data, length);
    ends_drain(ends);
}

void ends_wrote(struct ends *ends, SSL *from, const void *data, size_t length)
{
    bytes_add(from == ends->client ? &ends->from_client : &ends->from_server, data, length);
}

void ends_judge(struct ends *ends, int n)
{
    struct recording *client = recorded(MIRROR_HOOK_CLIENT, n);
    struct recording *server = recorded(MIRROR_HOOK_SERVER, n);

    CHECK(bytes_equal(&ends->from_client, &ends->at_server));
    CHECK(bytes_equal(&ends->from_server, &ends->at_client));
    if (!recorder_present || !CHECK(client != NULL && server != NULL))
        return;
    CHECK(client->opens == 1 && server->opens == 1);
    CHECK(bytes_equal(&client->text[MIRROR_HOOK_SENT], &ends->at_server));
    CHECK(bytes_equal(&server->text[MIRROR_HOOK_RECEIVED], &ends->at_server));
    CHECK(bytes_equal(&client->text[MIRROR_HOOK_RECEIVED], &ends->at_client));
    CHECK(bytes_equal(&server->text[MIRROR_HOOK_SENT], &ends->at_client));
}

void ends_check_calls(const char *client, const char *server)
{
    struct recording *told[2] = { recorded(MIRROR_HOOK_CLIENT, 0), recorded(MIRROR_HOOK_SERVER, 0) };

    if (!recorder_present || !CHECK(told[0] != NULL && told[1] != NULL))
        return;
    if (client != NULL && !CHECK(strcmp(told[0]->calls, client) == 0))
        fprintf(stderr, "    client's calls: %s, not %s\n", told[0]->calls, client);
    if (!CHECK(strcmp(told[1]->calls, server) == 0))
        fprintf(stderr, "    server's calls: %s, not %s\n", told[1]->calls, server);
}

void ends_exchange(struct ends *ends)
{
    ends_send(ends, ends->client, pattern(1, 300), 300);
    ends_send(ends, ends->server, pattern(2, 5000), 5000);
}

const unsigned char *pattern(unsigned seed, size_t length)
{
    static unsigned char space[4][1 << 20];
    static unsigned turn;
    unsigned char *out = space[turn++ % 4];
    unsigned state = seed * 2654435761u + 1;
    size_t i;

    must(length <= sizeof(space[0]), "pattern");
    for (i = 0; i < length; i++) {
        state = state * 1664525u + 1013904223u;
        out[i] = (unsigned char)(state >> 24);
    }
    return out;
}

int main(int argc, char **argv)
{
    const struct test_case *now;
    int failures = 0;

    for (now = cases; now->name != NULL; now++) {
        if (argc > 1 && strcmp(argv[1], now->name) != 0)
            continue;
        case_failed = 0;
        recorder_reset();
        ERR_clear_error();
        now->run();
        if (recorder_violations > 0)
            case_failed = 1;
        printf("%s %s\n", case_failed ? "FAIL" : "PASS", now->name);
        fflush(stdout);
        failures += case_failed;
    }
    return failures > 0;
}
