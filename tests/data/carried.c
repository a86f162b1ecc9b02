/*
 * TLS over a transport of the program's own: another process carries what libssl reads and writes to and from a TCP
 * connection. It speaks with rustls-examples' program of the same name, and takes the same words:
 *
 *   carried WAY client ROOTS ADDRESS:PORT STEP…          a connection for each step: 1.3, 1.2-id, 1.2-ticket; the same
 *                                                        one again resumes its session
 *   carried WAY server CERT KEY ADDRESS:PORT GROUP COUNT  so many connections, of this group (any: those of libssl)
 *
 *   WAY  bio   a BIO of the program's own
 *        unix  a socket of another kind
 *
 * Encrypted Client Hello (ech.h):
 *
 *   carried WAY key FILE                                  makes a key, with its configuration
 *   … STEP  1.3-grease; 1.3-ech=FILE, which comes again with what the server says if that has another key
 *   … server CERT KEY ADDRESS:PORT GROUP COUNT FILE [early]  with this key; says which hellos it has opened, and who has sent
 *                                                        0-RTT data, where it takes that
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "must.h"

#define MUST(what) must((what), #what)
#include "ech.h"

#define TEXT "carried by somebody else\n"

static const char *const STEPS[] = {"1.3", "1.2-id", "1.2-ticket", "1.3-grease", "1.3-ech"};
static SSL_SESSION *sessions[5];
static int step, hellos;

/* ---- The other process. ---- */

/* Of what comes from `from`, some; 0: it has ended, and `to` is told so. */
static int carry(int from, int to)
{
    char part[512];
    ssize_t count = read(from, part, sizeof part);

    if (count <= 0) {
        shutdown(to, SHUT_WR);
        return 0;
    }
    for (ssize_t sent = 0; sent < count;) {
        ssize_t more = write(to, part + sent, count - sent);
        if (more <= 0)
            return 0;
        sent += more;
    }
    return 1;
}

/* The end of a transport at whose other end a process carries, which is given the socket. */
static int carried(int socket_fd, pid_t *carrier)
{
    int pair[2];

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    *carrier = fork();
    MUST(*carrier >= 0);
    if (*carrier == 0) {
        struct pollfd ends[] = {{.fd = pair[1], .events = POLLIN}, {.fd = socket_fd, .events = POLLIN}};

        close(pair[0]);
        while (ends[0].fd >= 0 || ends[1].fd >= 0) {
            MUST(poll(ends, 2, -1) > 0);
            for (int from = 0; from < 2; from++) {
                if (ends[from].revents && !carry(from ? socket_fd : pair[1], from ? pair[1] : socket_fd))
                    ends[from].fd = -1;
            }
        }
        _exit(0);
    }
    close(pair[1]);
    close(socket_fd);
    return pair[0];
}

/* ---- A BIO of the program's own. ---- */

static int bio_write(BIO *bio, const char *bytes, int length)
{
    return write((int)(long)BIO_get_data(bio), bytes, length);
}

static int bio_read(BIO *bio, char *bytes, int length)
{
    return read((int)(long)BIO_get_data(bio), bytes, length);
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO *own_bio(int fd)
{
    static BIO_METHOD *method;

    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "carried");
        MUST(BIO_meth_set_write(method, bio_write) && BIO_meth_set_read(method, bio_read));
        MUST(BIO_meth_set_ctrl(method, bio_control));
    }
    BIO *bio = BIO_new(method);
    MUST(bio != NULL);
    BIO_set_data(bio, (void *)(long)fd);
    BIO_set_init(bio, 1);
    return bio;
}

/* ---- TLS. ---- */

static void good(SSL *ssl, int result)
{
    if (result > 0)
        return;
    printf("%s: %d\n", SSL_state_string_long(ssl), SSL_get_error(ssl, result));
    ERR_print_errors_fp(stdout);
    exit(3);
}

static void say(SSL *ssl)
{
    good(ssl, SSL_write(ssl, TEXT, strlen(TEXT)));
}

static char text[sizeof TEXT];
static size_t heard;

/* What a client says before it has heard anything, where this server takes that (0-RTT). */
static void hear_early(SSL *ssl)
{
    size_t count;

    while (SSL_read_early_data(ssl, text + heard, sizeof text - 1 - heard, &count) == SSL_READ_EARLY_DATA_SUCCESS)
        heard += count;
}

static void hear(SSL *ssl)
{
    while (heard < strlen(TEXT)) {
        int count = SSL_read(ssl, text + heard, strlen(TEXT) - heard);
        good(ssl, count);
        heard += count;
    }
    text[heard] = 0;
    MUST(strcmp(text, TEXT) == 0);
}

static void hear_end(SSL *ssl)
{
    char byte;

    MUST(SSL_get_error(ssl, SSL_read(ssl, &byte, 1)) == SSL_ERROR_ZERO_RETURN);
}

/* ---- A connection. ---- */

/* 0: the server has rejected the client's Encrypted Client Hello, and told this. */
static int talk(SSL *ssl, const char *way, int socket_fd, int port, unsigned char **told, size_t *length)
{
    pid_t carrier;
    int fd = carried(socket_fd, &carrier);
    int result;

    if (strcmp(way, "unix") == 0) {
        MUST(SSL_set_fd(ssl, fd) == 1);
    } else {
        BIO *bio = own_bio(fd);
        SSL_set_bio(ssl, bio, bio);
    }
    hellos = heard = 0;
    if (SSL_is_server(ssl) && SSL_get_max_early_data(ssl) > 0)
        hear_early(ssl);
    result = SSL_do_handshake(ssl);
    if (result <= 0 && is_rejected(ssl, told, length)) {
        printf("%d Rejected\n", port);
    } else {
        good(ssl, result);
        if (SSL_is_server(ssl)) {
            hear(ssl);
            say(ssl);
            hear_end(ssl);
            MUST(SSL_shutdown(ssl) >= 0);
        } else {
            say(ssl);
            hear(ssl);
            MUST(SSL_shutdown(ssl) >= 0);
            hear_end(ssl);
        }
        const char *how = SSL_session_reused(ssl) ? "Resumed" : "Full";
        const char *early = SSL_get_early_data_status(ssl) == SSL_EARLY_DATA_ACCEPTED ? " early" : "";
        printf("%d %s%s%s%s\n", port, how, hellos > 1 ? "WithHelloRetryRequest" : "", opened(ssl), early);
    }
    fflush(stdout);
    SSL_free(ssl);
    close(fd);
    MUST(waitpid(carrier, NULL, 0) == carrier);
    return result > 0;
}

static void count_hellos(int writes, int version, int kind, const void *bytes, size_t length, SSL *ssl, void *none)
{
    (void)writes, (void)version, (void)length, (void)ssl, (void)none;
    hellos += kind == SSL3_RT_HANDSHAKE && *(const unsigned char *)bytes == SSL3_MT_CLIENT_HELLO;
}

static int keep(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(sessions[step]);
    sessions[step] = session;
    return 1;
}

static struct sockaddr_in address(char *words)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char *port = strchr(words, ':');

    MUST(port != NULL);
    *port++ = 0;
    address.sin_port = htons(atoi(port));
    MUST(inet_pton(AF_INET, words, &address.sin_addr) == 1);
    return address;
}

static int client(const char *way, char **words)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    struct sockaddr_in server = address(words[1]), own;
    socklen_t length = sizeof own;

    MUST(SSL_CTX_load_verify_file(context, words[0]) == 1);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep);
    SSL_CTX_set_msg_callback(context, count_hellos);
    for (words += 2; *words; words++) {
        unsigned char *told = NULL;
        size_t told_length = 0, step_length = strcspn(*words, "=");

        for (step = 0; strlen(STEPS[step]) != step_length || strncmp(STEPS[step], *words, step_length) != 0; step++)
            MUST(step < 4);
        for (int is_over = 0; !is_over;) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            MUST(connect(fd, (struct sockaddr *)&server, sizeof server) == 0);
            MUST(getsockname(fd, (struct sockaddr *)&own, &length) == 0);
            SSL *ssl = SSL_new(context);
            SSL_set_connect_state(ssl);
            SSL_set_tlsext_host_name(ssl, "mirror.test");
            MUST(X509_VERIFY_PARAM_set1_host(SSL_get0_param(ssl), "mirror.test", 0) == 1);
            int version = step == 1 || step == 2 ? TLS1_2_VERSION : TLS1_3_VERSION;
            MUST(SSL_set_min_proto_version(ssl, version) && SSL_set_max_proto_version(ssl, version));
            if (step == 1)
                SSL_set_options(ssl, SSL_OP_NO_TICKET);
            if (step > 2)
                offer(ssl, *words, told, told_length);
            if (sessions[step] != NULL)
                MUST(SSL_set_session(ssl, sessions[step]) == 1);
            is_over = talk(ssl, way, fd, ntohs(own.sin_port), &told, &told_length);
        }
        OPENSSL_free(told);
    }
    return 0;
}

static int server(const char *way, char **words)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    struct sockaddr_in own = address(words[2]), peer;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    socklen_t length = sizeof own;

    MUST(SSL_CTX_use_certificate_chain_file(context, words[0]) == 1);
    MUST(SSL_CTX_use_PrivateKey_file(context, words[1], SSL_FILETYPE_PEM) == 1);
    if (strcmp(words[3], "any") != 0)
        MUST(SSL_CTX_set1_groups_list(context, words[3]) == 1);
    if (words[5] != NULL) {
        use_key(context, words[5]);
        if (words[6] != NULL)
            MUST(SSL_CTX_set_max_early_data(context, 16384) == 1);
    }
    MUST(SSL_CTX_set_session_id_context(context, (const unsigned char *)"carried", 7) == 1);
    SSL_CTX_set_msg_callback(context, count_hellos);
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    MUST(bind(listener, (struct sockaddr *)&own, sizeof own) == 0);
    MUST(listen(listener, 10) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&own, &length) == 0);
    printf("listening on %s:%d\n", words[2], ntohs(own.sin_port));
    fflush(stdout);
    for (int count = atoi(words[4]); count > 0; count--) {
        int fd = accept(listener, (struct sockaddr *)&peer, &length);
        MUST(fd >= 0);
        SSL *ssl = SSL_new(context);
        SSL_set_accept_state(ssl);
        talk(ssl, way, fd, ntohs(peer.sin_port), NULL, NULL);
    }
    return 0;
}

int main(int count, char **words)
{
    MUST(count >= 4);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(words[2], "key") == 0)
        return make_key(words[3]);
    MUST(count >= 6);
    if (strcmp(words[2], "client") == 0)
        return client(words[1], words + 3);
    MUST(count >= 8);
    return server(words[1], words + 3);
}
