/*
 * Two ends of a TLS connection in one process, the truth about what their
 * applications exchanged, and the frame in which cases run.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include "recorder.h"

struct ends {
    SSL_CTX *client_ctx, *server_ctx;
    SSL *client, *server;
    /* What the applications have written successfully, and what they have read, in its order. */
    struct bytes from_client, from_server, at_client, at_server;
};

struct test_case {
    const char *name;
    void (*run)(void);
};

/* Of the program: its cases, ended by a NULL name. */
extern const struct test_case cases[];

extern int case_failed;
#define CHECK(condition) check((condition) != 0, #condition, __FILE__, __LINE__)
int check(int holds, const char *condition, const char *file, int line);
/* Holds also where the program runs with the real hook, which can't be asked. */
#define RECORDED(condition) ((void)(recorder_present && CHECK(condition)))

/* A certificate made for this context, which signs itself. */
void use_new_certificate(SSL_CTX *ctx);
/* Contexts for one TLS version with a fresh certificate; both are freed by ends_free. */
void ends_contexts(struct ends *ends, const SSL_METHOD *method, int version);
/* New SSL objects on a BIO pair which holds `capacity` bytes in each direction. */
void ends_join(struct ends *ends, size_t capacity);
/* New SSL objects on both ends of a TCP connection over loopback, non-blocking. */
void ends_join_tcp(struct ends *ends, int fds[2]);
/* Both of the above for TLS, a BIO pair and no session tickets. */
void ends_new(struct ends *ends, int version, size_t capacity);
/* Frees the SSL objects alone, so that the next pair can be joined. */
void ends_part(struct ends *ends);
void ends_free(struct ends *ends);

/* Moves both handshakes on until both have ended. */
void ends_handshake(struct ends *ends);
/* Reads all that is there, into the truth. */
void ends_drain(struct ends *ends);
/* Writes all of it by SSL_write, retrying while the other end reads. */
void ends_send(struct ends *ends, SSL *from, const void *data, size_t length);
/* Notes a write that a case made itself and that succeeded. */
void ends_wrote(struct ends *ends, SSL *from, const void *data, size_t length);
/* Compares what was read with what was written, and all that was recorded of the n-th connection with both. */
void ends_judge(struct ends *ends, int n);

/* Some text in both directions. */
void ends_exchange(struct ends *ends);
/* The calls told of the first connection, by either end, where there are recordings. NULL: it doesn't matter. */
void ends_check_calls(const char *client, const char *server);

/* `length` bytes which tell their place; never equal at two places nearby. */
const unsigned char *pattern(unsigned seed, size_t length);

#endif
