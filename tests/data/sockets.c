/*
 * TLS connections on sockets in every form that a program can give to its library. Both ends are this process's.
 *
 *     sockets CERT KEY FORM
 *
 *     fd         SSL_set_fd
 *     late       the same; the connection is shown before TLS begins on it, too
 *     dup, dup2  the same of a duplicate; the first descriptor is closed
 *     halves     SSL_set_rfd and SSL_set_wfd with two descriptors of one socket
 *     crossed    the same with two connections: what one end writes to, the other one reads from
 *     unix       a pair of Unix sockets
 *     mapped     addresses of IPv4 in the form of IPv6, at both ends (RFC 4291 2.5.5.2)
 *     buffer     BIO_f_buffer in front of the socket
 *     chain      BIO_f_ssl in front of a BIO that connects by itself, or of the socket
 *     reused     a second connection gets the descriptors of the first one, which the library gives back later, and
 *                says again what it had read before
 *     shared     servers that listen at one port each in a process of its own (SO_REUSEPORT); the clients are here
 *
 * Standard output has a line for each connection: `CLIENT SERVER PID`, as getsockname(2) and getpeername(2) tell of the
 * client's end, `-` where there is no one pair of addresses; and the process of the server's end. Standard error tells
 * what each said: a line "#connection PORT SENT RECEIVED", and that many bytes.
 *
 * A line on standard input is waited for behind each line of the output: till then the connection is alive.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "must.h"

enum { CLIENT, SERVER, ROOM = 1 << 16, SAID = 9000, SERVERS = 3, CLIENTS = 12, HIGH = 300 };

struct talk {
    /* Of the client and the server; the client's is that of whose addresses there is one pair, or -1. */
    int descriptors[2];
    SSL *ssl[2];
    /* What to use in place of the library's own calls, or NULL. */
    BIO *bio[2];
    char *said[2];
    size_t length[2];
    pid_t server;
};

static SSL_CTX *contexts[2];

static void not_blocking(int descriptor)
{
    must(fcntl(descriptor, F_SETFL, O_NONBLOCK) == 0, "fcntl");
}

/* A socket that listens; its address. */
static int listening(int family, struct sockaddr_storage *address)
{
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    socklen_t length = sizeof(*address);
    int one = 1, listener = socket(family, SOCK_STREAM, 0);

    must(listener >= 0, "socket");
    must(setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0, "SO_REUSEPORT");
    address->ss_family = (sa_family_t)family;
    if (family == AF_INET)
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        must(inet_pton(AF_INET6, "::ffff:127.0.0.1", &six->sin6_addr) == 1, "inet_pton");
    must(bind(listener, (struct sockaddr *)address, length) == 0 && listen(listener, CLIENTS) == 0, "bind");
    must(getsockname(listener, (struct sockaddr *)address, &length) == 0, "getsockname");
    return listener;
}

/* Both ends of a connection. */
static void connected(int family, int descriptors[2])
{
    struct sockaddr_storage address = { 0 };
    int listener = listening(family, &address);

    descriptors[CLIENT] = socket(family, SOCK_STREAM, 0);
    must(connect(descriptors[CLIENT], (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    descriptors[SERVER] = accept(listener, NULL, NULL);
    must(descriptors[SERVER] >= 0, "accept");
    close(listener);
    not_blocking(descriptors[CLIENT]);
    not_blocking(descriptors[SERVER]);
}

static struct talk begin(void)
{
    struct talk talk = { .descriptors = { -1, -1 }, .server = getpid() };

    for (int end = CLIENT; end <= SERVER; end++) {
        talk.said[end] = malloc(ROOM);
        talk.ssl[end] = SSL_new(contexts[end]);
        must(talk.said[end] && talk.ssl[end], "SSL_new");
        if (end == CLIENT)
            SSL_set_connect_state(talk.ssl[end]);
        else
            SSL_set_accept_state(talk.ssl[end]);
    }
    return talk;
}

/* The call has to be made again, once the other end has had its turn. */
static void again(struct talk *talk, int end, int result, const char *what)
{
    int error = SSL_get_error(talk->ssl[end], result);

    must(error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_CONNECT, what);
}

static void shake_hands(struct talk *talk)
{
    int done[2] = { 0, 0 };

    for (int end = CLIENT; !done[CLIENT] || !done[SERVER]; end = !end) {
        int result = done[end] ? 1 : SSL_do_handshake(talk->ssl[end]);
        done[end] = result == 1;
        if (!done[end])
            again(talk, end, result, "handshake");
    }
}

static int put(struct talk *talk, int end, const char *text, int length)
{
    return talk->bio[end] ? BIO_write(talk->bio[end], text, length) : SSL_write(talk->ssl[end], text, length);
}

static int take(struct talk *talk, int end, char *text, int length)
{
    return talk->bio[end] ? BIO_read(talk->bio[end], text, length) : SSL_read(talk->ssl[end], text, length);
}

/* So many bytes, of which the other end reads `read`. What was said before isn't said again. */
static void say(struct talk *talk, int from, int length, int read)
{
    static int seed = 0;
    char text[SAID], heard[SAID];
    int written = 0, taken = 0, result;
    char *kept = talk->said[from] + talk->length[from];

    for (int i = 0; i < length; i++)
        text[i] = (char)((i * 7 + i / 251 + seed * 31) % 256);
    seed++;
    while (written < length || taken < read) {
        if (written < length) {
            result = put(talk, from, text + written, length - written);
            if (result > 0)
                written += result;
            else
                again(talk, from, result, "write");
            (void)BIO_flush(SSL_get_wbio(talk->ssl[from]));
        }
        if (taken < read) {
            result = take(talk, !from, heard + taken, read - taken);
            if (result > 0)
                taken += result;
            else
                again(talk, !from, result, "read");
        }
    }
    must(memcmp(text, heard, (size_t)read) == 0, "what was heard is what was said");
    memcpy(kept, text, (size_t)length);
    talk->length[from] += (size_t)length;
}

static void converse(struct talk *talk)
{
    say(talk, CLIENT, 1, 1);
    say(talk, SERVER, SAID, SAID);
    say(talk, CLIENT, SAID, SAID);
}

static int print(int (*ask)(int, struct sockaddr *, socklen_t *), int descriptor)
{
    struct sockaddr_storage address = { 0 };
    struct sockaddr_in *four = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
    socklen_t length = sizeof(address);
    char text[INET6_ADDRSTRLEN] = "";
    int port;

    if (descriptor < 0 || ask(descriptor, (struct sockaddr *)&address, &length) != 0
        || (address.ss_family != AF_INET && address.ss_family != AF_INET6)) {
        printf("- ");
        return 0;
    }
    port = ntohs(four->sin_port);
    if (address.ss_family == AF_INET)
        printf("%s:%d ", inet_ntop(AF_INET, &four->sin_addr, text, sizeof(text)), port);
    else
        printf("[%s]:%d ", inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof(text)), port);
    return port;
}

/* Prints whose the connection is, and waits until it may go on; its client's port. */
static int show(struct talk *talk)
{
    int port = print(getsockname, talk->descriptors[CLIENT]), letter;

    print(getpeername, talk->descriptors[CLIENT]);
    printf("%d\n", (int)talk->server);
    fflush(stdout);
    do
        letter = getchar();
    while (letter != '\n' && letter != EOF);
    return port;
}

static void tell(struct talk *talk, int port)
{
    fprintf(stderr, "#connection %d %zu %zu\n", port, talk->length[CLIENT], talk->length[SERVER]);
    fwrite(talk->said[CLIENT], 1, talk->length[CLIENT], stderr);
    fwrite(talk->said[SERVER], 1, talk->length[SERVER], stderr);
    fflush(stderr);
}

/* The library gives it back; the client says so first. */
static void end(struct talk *talk)
{
    for (int end = CLIENT; end <= SERVER; end++)
        if (talk->ssl[end])
            SSL_shutdown(talk->ssl[end]);
    for (int end = CLIENT; end <= SERVER; end++) {
        if (talk->bio[end])
            BIO_free_all(talk->bio[end]);
        else
            SSL_free(talk->ssl[end]);
        free(talk->said[end]);
    }
}

static void one(struct talk *talk)
{
    int port;

    shake_hands(talk);
    converse(talk);
    port = show(talk);
    tell(talk, port);
    end(talk);
}

static void with_descriptor(const char *form)
{
    struct talk talk = begin();
    int other[2];

    if (strcmp(form, "unix") == 0) {
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, talk.descriptors) == 0, "socketpair");
    } else {
        connected(strcmp(form, "mapped") == 0 ? AF_INET6 : AF_INET, talk.descriptors);
    }
    if (strcmp(form, "crossed") == 0)
        connected(AF_INET, other);
    for (int end = CLIENT; end <= SERVER; end++) {
        int *mine = &talk.descriptors[end];
        if (strcmp(form, "crossed") == 0) {
            SSL_set_rfd(talk.ssl[end], end == CLIENT ? *mine : other[end]);
            SSL_set_wfd(talk.ssl[end], end == CLIENT ? other[end] : *mine);
        } else if (strcmp(form, "halves") == 0) {
            SSL_set_rfd(talk.ssl[end], *mine);
            SSL_set_wfd(talk.ssl[end], dup(*mine));
        } else if (strncmp(form, "dup", 3) == 0) {
            int copy = form[3] ? dup2(*mine, HIGH + end) : dup(*mine);
            must(copy >= 0, form);
            close(*mine);
            *mine = copy;
            SSL_set_fd(talk.ssl[end], copy);
        } else if (strcmp(form, "buffer") == 0) {
            BIO *chain = BIO_push(BIO_new(BIO_f_buffer()), BIO_new_socket(*mine, BIO_NOCLOSE));
            SSL_set_bio(talk.ssl[end], chain, chain);
        } else {
            SSL_set_fd(talk.ssl[end], *mine);
        }
    }
    if (strcmp(form, "crossed") == 0)
        talk.descriptors[CLIENT] = -1;
    if (strcmp(form, "late") == 0)
        show(&talk);
    one(&talk);
}

static void in_chain(void)
{
    struct sockaddr_storage address = { 0 };
    int listener = listening(AF_INET, &address);
    struct talk talk = begin();
    char name[64];
    BIO *client;

    snprintf(name, sizeof(name), "127.0.0.1:%d", ntohs(((struct sockaddr_in *)&address)->sin_port));
    client = BIO_new_connect(name);
    must(client && BIO_do_connect(client) == 1, "BIO_do_connect");
    BIO_get_fd(client, &talk.descriptors[CLIENT]);
    talk.descriptors[SERVER] = accept(listener, NULL, NULL);
    close(listener);
    for (int end = CLIENT; end <= SERVER; end++) {
        BIO *last = end == CLIENT ? client : BIO_new_socket(talk.descriptors[end], BIO_NOCLOSE);
        not_blocking(talk.descriptors[end]);
        SSL_free(talk.ssl[end]);
        talk.bio[end] = BIO_push(BIO_new_ssl(contexts[end], end == CLIENT), last);
        BIO_get_ssl(talk.bio[end], &talk.ssl[end]);
    }
    one(&talk);
}

static void reused(void)
{
    struct talk first = begin(), second = begin();
    int taken[2], port;

    connected(AF_INET, first.descriptors);
    for (int end = CLIENT; end <= SERVER; end++)
        SSL_set_fd(first.ssl[end], first.descriptors[end]);
    shake_hands(&first);
    /* In one record, of which the rest is with the library. */
    say(&first, SERVER, SAID, 1000);
    must(SSL_pending(first.ssl[CLIENT]) == SAID - 1000, "SSL_pending");
    port = show(&first);

    connected(AF_INET, taken);
    for (int end = CLIENT; end <= SERVER; end++) {
        /* Closes the first one's. */
        second.descriptors[end] = dup2(taken[end], first.descriptors[end]);
        close(taken[end]);
        must(second.descriptors[end] == first.descriptors[end], "dup2");
        SSL_set_fd(second.ssl[end], second.descriptors[end]);
    }
    shake_hands(&second);
    say(&second, CLIENT, 100, 100);
    /* The first one's text, behind the second one's. */
    must(SSL_read(first.ssl[CLIENT], second.said[SERVER], ROOM) == SAID - 1000, "SSL_read");
    must(memcmp(second.said[SERVER], first.said[SERVER] + 1000, SAID - 1000) == 0, "the rest");
    converse(&second);
    tell(&first, port);
    for (int end = CLIENT; end <= SERVER; end++) {
        SSL_set_quiet_shutdown(first.ssl[end], 1);
        SSL_free(first.ssl[end]);
    }
    converse(&second);
    port = show(&second);
    tell(&second, port);
    end(&second);
}

/* Answers one client after another with this process's number, as long as these have a process. */
static void serve(int listener)
{
    must(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0, "prctl");
    for (;;) {
        int descriptor = accept(listener, NULL, NULL), number = (int)getpid();
        SSL *ssl = SSL_new(contexts[SERVER]);
        char asked;
        must(descriptor >= 0 && ssl, "accept");
        SSL_set_fd(ssl, descriptor);
        must(SSL_accept(ssl) == 1 && SSL_read(ssl, &asked, 1) == 1, "SSL_accept");
        must(SSL_write(ssl, &number, sizeof(number)) == sizeof(number), "SSL_write");
        /* The client ends it. */
        (void)SSL_read(ssl, &asked, 1);
        SSL_shutdown(ssl);
        SSL_free(ssl);
        close(descriptor);
    }
}

static void shared(void)
{
    struct sockaddr_storage address = { 0 };
    struct talk talks[CLIENTS];
    pid_t servers[SERVERS];
    int first = listening(AF_INET, &address), number, ports[CLIENTS];

    for (int i = 0; i < SERVERS; i++) {
        /* Made here, so that all are there before the first client comes. */
        int listener = i == 0 ? first : listening(AF_INET, &address);
        servers[i] = fork();
        must(servers[i] >= 0, "fork");
        if (servers[i] == 0)
            serve(listener);
        if (i > 0)
            close(listener);
    }
    close(first);
    for (int i = 0; i < CLIENTS; i++) {
        struct talk *talk = &talks[i];
        *talk = begin();
        talk->descriptors[CLIENT] = socket(AF_INET, SOCK_STREAM, 0);
        must(connect(talk->descriptors[CLIENT], (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
        SSL_set_fd(talk->ssl[CLIENT], talk->descriptors[CLIENT]);
        must(SSL_connect(talk->ssl[CLIENT]) == 1 && SSL_write(talk->ssl[CLIENT], "?", 1) == 1, "SSL_connect");
        must(SSL_read(talk->ssl[CLIENT], &number, sizeof(number)) == sizeof(number), "SSL_read");
        talk->server = number;
        talk->said[CLIENT][talk->length[CLIENT]++] = '?';
        memcpy(talk->said[SERVER], &number, sizeof(number));
        talk->length[SERVER] = sizeof(number);
        ports[i] = show(talk);
        tell(talk, ports[i]);
        SSL_shutdown(talk->ssl[CLIENT]);
        SSL_free(talk->ssl[CLIENT]);
        close(talk->descriptors[CLIENT]);
    }
    for (int i = 0; i < SERVERS; i++) {
        kill(servers[i], SIGTERM);
        waitpid(servers[i], NULL, 0);
    }
}

int main(int argc, char **argv)
{
    const char *form = argv[argc - 1];

    must(argc == 4, "sockets CERT KEY FORM");
    signal(SIGPIPE, SIG_IGN);
    contexts[CLIENT] = SSL_CTX_new(TLS_client_method());
    contexts[SERVER] = SSL_CTX_new(TLS_server_method());
    must(SSL_CTX_use_certificate_chain_file(contexts[SERVER], argv[1]) == 1
            && SSL_CTX_use_PrivateKey_file(contexts[SERVER], argv[2], SSL_FILETYPE_PEM) == 1,
        "a certificate");
    if (strcmp(form, "chain") == 0)
        in_chain();
    else if (strcmp(form, "reused") == 0)
        reused();
    else if (strcmp(form, "shared") == 0)
        shared();
    else
        with_descriptor(form);
    return 0;
}
