/*
 * TLS sessions whose secrets are told: both ends are this process's, joined by a pair of BIOs.
 *
 *     secrets CERTIFICATE KEY     for each line "N" on standard input: N sessions, TLS 1.2 and 1.3 in turns
 *
 * Standard output is the key log of each, and "done" behind the last. What session I says is "clear text of session I;"
 * from the client and "answer of session I;" from the server. The last of them stay open until standard input ends.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 16 };

struct pair {
    SSL *client, *server;
};

static SSL_CTX *contexts[2];

static void must(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s\n", what);
    ERR_print_errors_fp(stderr);
    exit(3);
}

static void log_key(const SSL *ssl, const char *line)
{
    (void)ssl;
    puts(line);
}

static void say(SSL *from, SSL *to, const char *what, int number)
{
    char text[64], heard[64];
    int length = snprintf(text, sizeof(text), "%s of session %d;", what, number);

    must(SSL_write(from, text, length) == length, "SSL_write");
    must(SSL_read(to, heard, sizeof(heard)) == length && memcmp(text, heard, (size_t)length) == 0, "SSL_read");
}

static struct pair session(int number)
{
    struct pair pair = { SSL_new(contexts[0]), SSL_new(contexts[1]) };
    int version = number % 2 == 0 ? TLS1_3_VERSION : TLS1_2_VERSION;
    BIO *ends[2];

    must(pair.client != NULL && pair.server != NULL, "SSL_new");
    must(BIO_new_bio_pair(&ends[0], 0, &ends[1], 0) == 1, "BIO_new_bio_pair");
    SSL_set_bio(pair.client, ends[0], ends[0]);
    SSL_set_bio(pair.server, ends[1], ends[1]);
    SSL_set_connect_state(pair.client);
    SSL_set_accept_state(pair.server);
    SSL_set_max_proto_version(pair.client, version);
    for (int i = 0; i < 20 && !(SSL_is_init_finished(pair.client) && SSL_is_init_finished(pair.server)); i++) {
        SSL_do_handshake(pair.client);
        SSL_do_handshake(pair.server);
    }
    must(SSL_version(pair.client) == version && SSL_is_init_finished(pair.server), "handshake");
    say(pair.client, pair.server, "clear text", number);
    say(pair.server, pair.client, "answer", number);
    return pair;
}

static void part(struct pair pair)
{
    if (pair.client == NULL)
        return;
    SSL_shutdown(pair.client);
    SSL_shutdown(pair.server);
    SSL_free(pair.client);
    SSL_free(pair.server);
}

int main(int argc, char **argv)
{
    static struct pair kept[KEPT];
    char line[64];
    int number = 0;

    must(argc == 3, "secrets CERTIFICATE KEY");
    contexts[0] = SSL_CTX_new(TLS_client_method());
    contexts[1] = SSL_CTX_new(TLS_server_method());
    must(contexts[0] != NULL && contexts[1] != NULL, "SSL_CTX_new");
    must(SSL_CTX_use_certificate_chain_file(contexts[1], argv[1]) == 1, argv[1]);
    must(SSL_CTX_use_PrivateKey_file(contexts[1], argv[2], SSL_FILETYPE_PEM) == 1, argv[2]);
    SSL_CTX_set_keylog_callback(contexts[0], log_key);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        for (int more = atoi(line); more > 0; more--, number++) {
            part(kept[number % KEPT]);
            kept[number % KEPT] = session(number);
        }
        puts("done");
        fflush(stdout);
    }
    for (int i = 0; i < KEPT; i++)
        part(kept[i]);
    return 0;
}
