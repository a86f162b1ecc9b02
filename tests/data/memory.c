/*
 * TLS over memory BIOs: libssl sees bytes and no socket.
 *
 *   memory client ADDRESS STEP:PORT…                   one connection each
 *   memory server ADDRESS PORT CERT KEY GROUPS COUNT   says back what it hears on COUNT connections
 *
 * Of each connection both print its port, then `resumed`, `accepted` or `rejected` (of 0-RTT data) as they apply.
 * A client's steps:
 *
 *   full      a new session
 *   resume    that of the connection before
 *   early     the same, with 0-RTT data, which is said again where it is refused
 *
 * It says TEXT behind that, and ends when it has been answered as many bytes as it said.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "must.h"

#define MUST(what) must((what), #what)
#define EARLY "said early\n"
#define TEXT "said over memory BIOs\n"

static SSL_SESSION *ticket;

struct talk {
    int fd;
    SSL *ssl;
    BIO *in, *out;
};

static void send_out(struct talk *talk)
{
    char bytes[16384];
    int length;

    while ((length = BIO_read(talk->out, bytes, sizeof bytes)) > 0) {
        for (int sent = 0; sent < length;) {
            ssize_t count = send(talk->fd, bytes + sent, length - sent, MSG_NOSIGNAL);
            MUST(count > 0);
            sent += count;
        }
    }
}

/* Whether the call that returned `result` is to be made again, with more bytes if it wants some. */
static int again(struct talk *talk, int result)
{
    char bytes[16384];
    ssize_t count;

    int error = SSL_get_error(talk->ssl, result);
    send_out(talk);
    if (result > 0 || error == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (error != SSL_ERROR_WANT_READ) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    count = recv(talk->fd, bytes, sizeof bytes, 0);
    MUST(count > 0);
    MUST(BIO_write(talk->in, bytes, count) == count);
    return 1;
}

static void begin(struct talk *talk, SSL_CTX *context, int fd)
{
    talk->fd = fd;
    talk->ssl = SSL_new(context);
    talk->in = BIO_new(BIO_s_mem());
    talk->out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(talk->in, -1);
    BIO_set_mem_eof_return(talk->out, -1);
    SSL_set_bio(talk->ssl, talk->in, talk->out);
}

static void say(struct talk *talk, const char *text, int length)
{
    int result;

    do
        result = SSL_write(talk->ssl, text, length);
    while (again(talk, result));
}

/* The next bytes that the peer says; 0: it has ended. */
static int hear(struct talk *talk, char *bytes, int most)
{
    int result;

    do
        result = SSL_read(talk->ssl, bytes, most);
    while (again(talk, result));
    return result > 0 ? result : 0;
}

static void end(struct talk *talk)
{
    char rest[4096];

    SSL_shutdown(talk->ssl);
    send_out(talk);
    shutdown(talk->fd, SHUT_WR);
    while (recv(talk->fd, rest, sizeof rest, 0) > 0)
        ;
    SSL_free(talk->ssl);
    close(talk->fd);
}

static int connect_to(const char *address, const char *port, int listens)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found;
    int one = 1;

    MUST(getaddrinfo(address, port, &hints, &found) == 0);
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    MUST(fd >= 0);
    if (listens) {
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
        MUST(bind(fd, found->ai_addr, found->ai_addrlen) == 0);
        MUST(listen(fd, 10) == 0);
    } else {
        MUST(connect(fd, found->ai_addr, found->ai_addrlen) == 0);
    }
    freeaddrinfo(found);
    return fd;
}

static int own_port(int fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof own;

    MUST(getsockname(fd, (struct sockaddr *)&own, &length) == 0);
    /* At the same place in both families. */
    return ntohs(((struct sockaddr_in *)&own)->sin_port);
}

static void tell(struct talk *talk)
{
    int early = SSL_get_early_data_status(talk->ssl);

    printf("%d", own_port(talk->fd));
    if (SSL_session_reused(talk->ssl))
        printf(" resumed");
    if (early != SSL_EARLY_DATA_NOT_SENT)
        printf(early == SSL_EARLY_DATA_ACCEPTED ? " accepted" : " rejected");
    printf("\n");
    fflush(stdout);
}

static int keep(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(ticket);
    ticket = session;
    return 1;
}

static void talk_as_client(SSL_CTX *context, const char *address, const char *step, const char *port)
{
    struct talk talk;
    char bytes[4096];
    int result, said = 0, heard = 0;
    size_t written;
    int is_early = strcmp(step, "early") == 0;

    begin(&talk, context, connect_to(address, port, 0));
    SSL_set_connect_state(talk.ssl);
    SSL_set_tlsext_host_name(talk.ssl, "mirror.test");
    if (strcmp(step, "full") != 0)
        MUST(ticket != NULL && SSL_set_session(talk.ssl, ticket) == 1);
    if (is_early) {
        do
            result = SSL_write_early_data(talk.ssl, EARLY, strlen(EARLY), &written);
        while (again(&talk, result));
    }
    do
        result = SSL_do_handshake(talk.ssl);
    while (again(&talk, result));
    int is_accepted = SSL_get_early_data_status(talk.ssl) == SSL_EARLY_DATA_ACCEPTED;
    tell(&talk);
    if (is_early && !is_accepted)
        say(&talk, EARLY, strlen(EARLY));
    said = (is_early ? strlen(EARLY) : 0) + strlen(TEXT);
    say(&talk, TEXT, strlen(TEXT));
    while (heard < said) {
        result = hear(&talk, bytes, sizeof bytes);
        MUST(result > 0);
        heard += result;
    }
    end(&talk);
}

static int client(const char *address, char **steps)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep);
    for (; *steps; steps++) {
        char *port = strchr(*steps, ':');
        MUST(port != NULL);
        *port++ = 0;
        talk_as_client(context, address, *steps, port);
    }
    return 0;
}

static void talk_as_server(SSL_CTX *context, int fd)
{
    struct talk talk;
    char bytes[4096];
    size_t length;
    int result, heard;

    begin(&talk, context, fd);
    SSL_set_accept_state(talk.ssl);
    do {
        do
            result = SSL_read_early_data(talk.ssl, bytes, sizeof bytes, &length);
        while (result == SSL_READ_EARLY_DATA_ERROR && again(&talk, result));
        send_out(&talk);
        if (result == SSL_READ_EARLY_DATA_SUCCESS) {
            size_t written;
            MUST(SSL_write_early_data(talk.ssl, bytes, length, &written) == 1);
            send_out(&talk);
        }
    } while (result == SSL_READ_EARLY_DATA_SUCCESS);
    do
        result = SSL_do_handshake(talk.ssl);
    while (again(&talk, result));
    tell(&talk);
    while ((heard = hear(&talk, bytes, sizeof bytes)) > 0) {
        say(&talk, bytes, heard);
        /* The last of what a client says. */
        if (heard >= (int)strlen(TEXT) && memcmp(bytes + heard - strlen(TEXT), TEXT, strlen(TEXT)) == 0)
            break;
    }
    end(&talk);
}

static int server(char **words)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    int listener = connect_to(words[0], words[1], 1);

    MUST(SSL_CTX_use_certificate_chain_file(context, words[2]) == 1);
    MUST(SSL_CTX_use_PrivateKey_file(context, words[3], SSL_FILETYPE_PEM) == 1);
    MUST(SSL_CTX_set1_groups_list(context, words[4]) == 1);
    MUST(SSL_CTX_set_max_early_data(context, 16384) == 1);
    /* Else a session goes on once only, and a second ClientHello is the second time. */
    SSL_CTX_set_options(context, SSL_OP_NO_ANTI_REPLAY);
    MUST(SSL_CTX_set_session_id_context(context, (const unsigned char *)"memory", 6) == 1);
    for (int count = atoi(words[5]); count > 0; count--) {
        int fd = accept(listener, NULL, NULL);
        MUST(fd >= 0);
        talk_as_server(context, fd);
    }
    return 0;
}

int main(int count, char **words)
{
    MUST(count >= 4);
    if (strcmp(words[1], "client") == 0)
        return client(words[2], words + 3);
    MUST(count == 8);
    return server(words + 2);
}
