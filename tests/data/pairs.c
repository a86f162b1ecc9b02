/*
 * HTTPS by BIO pairs: the library never sees a socket; one loop carries what comes out at the other end of each pair.
 *
 *     pairs server PORT CERTIFICATE KEY DIRECTORY ADDRESS…
 *     pairs client ADDRESS PORT OUT NAME CONNECTIONS REQUESTS
 *
 * The server answers GET /get/FILE with that file of DIRECTORY, and POST with what it was sent. The client has all its
 * connections at once, on each its requests one after another. OUT/NAME.N.port is the port of connection number N,
 * OUT/NAME.N.sent and OUT/NAME.N.received are all its bytes.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "must.h"

enum { MOST = 256, ROOM = 1 << 20 };

struct connection {
    int fd, number, left, heard_all;
    SSL *ssl;
    BIO *wire;
    char *in, *out;
    size_t in_length, out_length, out_done;
    FILE *sent, *received;
};

static struct connection connections[MOST];
static int count;
static SSL_CTX *context;
static const char *directory, *out, *name;

static FILE *file_of(const struct connection *this, const char *what)
{
    char path[4096];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s.%d.%s", out, name, this->number, what);
    must((file = fopen(path, "wb")) != NULL, path);
    return file;
}

static struct connection *begin(int fd)
{
    struct connection *this = &connections[count++];
    BIO *mine;

    must(count <= MOST, "too many connections");
    must(fcntl(fd, F_SETFL, O_NONBLOCK) == 0, "O_NONBLOCK");
    memset(this, 0, sizeof(*this));
    this->fd = fd;
    must((this->in = malloc(ROOM)) != NULL && (this->out = malloc(ROOM)) != NULL, "memory");
    must((this->ssl = SSL_new(context)) != NULL, "SSL_new");
    must(BIO_new_bio_pair(&mine, 0, &this->wire, 0) == 1, "BIO_new_bio_pair");
    SSL_set_bio(this->ssl, mine, mine);
    SSL_set_mode(this->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return this;
}

static void end(struct connection *this)
{
    if (this->sent != NULL)
        must(fclose(this->sent) == 0 && fclose(this->received) == 0, "what was said");
    SSL_free(this->ssl);
    BIO_free(this->wire);
    close(this->fd);
    free(this->in);
    free(this->out);
    *this = connections[--count];
}

/* Length of the head and body at the beginning of what was heard; 0: not all of it is there. */
static size_t whole(struct connection *this, size_t *head)
{
    char *behind, *field;
    size_t body = 0;

    this->in[this->in_length] = 0;
    if ((behind = strstr(this->in, "\r\n\r\n")) == NULL)
        return 0;
    field = strcasestr(this->in, "\r\nContent-Length: ");
    if (field != NULL && field < behind)
        body = strtoul(field + 18, NULL, 10);
    *head = (size_t)(behind + 4 - this->in);
    return *head + body <= this->in_length ? *head + body : 0;
}

static void answer(struct connection *this, size_t head, size_t length)
{
    static char body[ROOM];
    char path[4096], file_name[64];
    size_t size = length - head;

    if (sscanf(this->in, "GET /get/%63[0-9]", file_name) == 1) {
        FILE *file;

        snprintf(path, sizeof(path), "%s/%s", directory, file_name);
        must((file = fopen(path, "rb")) != NULL, path);
        size = fread(body, 1, sizeof(body), file);
        fclose(file);
    } else {
        memcpy(body, this->in + head, size);
    }
    this->out_length = (size_t)sprintf(this->out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size);
    must(this->out_length + size <= ROOM, "a large file");
    memcpy(this->out + this->out_length, body, size);
    this->out_length += size;
    this->out_done = 0;
}

static void ask(struct connection *this)
{
    this->left--;
    this->out_length = (size_t)sprintf(this->out, "GET /get/20000?%s.%d.%d HTTP/1.1\r\nHost: mirror.test\r\n\r\n", name,
                                       this->number, this->left);
    this->out_done = 0;
}

/* What comes out of the pair goes to the socket, and the other way round. Whether anything moved; -1: all is over. */
static int carry(struct connection *this)
{
    char *text, heard[4096];
    size_t room = BIO_ctrl_get_write_guarantee(this->wire);
    int length = BIO_nread0(this->wire, &text), moved = 0;
    ssize_t n;

    if (length > 0 && (n = send(this->fd, text, (size_t)length, MSG_NOSIGNAL)) != 0) {
        if (n < 0 && errno != EAGAIN)
            return -1;
        if (n > 0)
            moved = BIO_nread(this->wire, &text, (int)n) > 0;
    }
    if (room > 0 && !this->heard_all) {
        n = recv(this->fd, heard, room < sizeof(heard) ? room : sizeof(heard), 0);
        if (n < 0 && errno != EAGAIN)
            return -1;
        if (n == 0) {
            this->heard_all = 1;
            BIO_shutdown_wr(this->wire);
        }
        if (n > 0)
            must(BIO_write(this->wire, heard, (int)n) == n, "the pair takes what it has room for");
        moved |= n >= 0;
    }
    return moved;
}

/* The same between the program and the library. 1: more may come; 0: nothing now; -1: all is over. */
static int speak(struct connection *this)
{
    size_t n, head, length;
    int moved = 0, error;

    if (this->out_done < this->out_length
        && SSL_write_ex(this->ssl, this->out + this->out_done, this->out_length - this->out_done, &n) == 1) {
        if (this->sent != NULL)
            must(fwrite(this->out + this->out_done, 1, n, this->sent) == n, "a file");
        this->out_done += n;
        moved = 1;
    }
    if (SSL_read_ex(this->ssl, this->in + this->in_length, ROOM - 1 - this->in_length, &n) == 1) {
        if (this->received != NULL)
            must(fwrite(this->in + this->in_length, 1, n, this->received) == n, "a file");
        this->in_length += n;
        moved = 1;
    } else if ((error = SSL_get_error(this->ssl, 0)) != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
        return -1;
    }
    if ((length = whole(this, &head)) == 0)
        return moved;
    if (SSL_is_server(this->ssl)) {
        answer(this, head, length);
    } else if (this->left > 0) {
        ask(this);
    } else {
        SSL_shutdown(this->ssl);
        carry(this);
        return -1;
    }
    memmove(this->in, this->in + length, this->in_length - length);
    this->in_length -= length;
    return 1;
}

static void serve(struct connection *this)
{
    for (;;) {
        int carried = carry(this), spoken = speak(this);

        if (carried < 0 || spoken < 0) {
            end(this);
            return;
        }
        if (!carried && !spoken)
            return;
    }
}

static int socket_at(const char *address, int port, struct sockaddr_storage *at, socklen_t *length)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)at;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)at;
    int fd, yes = 1;

    memset(at, 0, sizeof(*at));
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        at->ss_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *length = sizeof(*v4);
    } else {
        must(inet_pton(AF_INET6, address, &v6->sin6_addr) == 1, address);
        at->ss_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *length = sizeof(*v6);
    }
    must((fd = socket(at->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0, "socket");
    must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0, "SO_REUSEADDR");
    if (at->ss_family == AF_INET6)
        must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes)) == 0, "IPV6_V6ONLY");
    return fd;
}

static void loop(const int *listeners, int listening)
{
    struct pollfd polled[MOST + 8];

    while (listening > 0 || count > 0) {
        for (int i = 0; i < listening; i++)
            polled[i] = (struct pollfd){ .fd = listeners[i], .events = POLLIN };
        for (int i = 0; i < count; i++) {
            struct connection *this = &connections[i];
            short events = (short)(BIO_ctrl_pending(this->wire) > 0 ? POLLOUT : 0);

            if (BIO_ctrl_get_write_guarantee(this->wire) > 0)
                events |= POLLIN;
            polled[listening + i] = (struct pollfd){ .fd = this->fd, .events = events };
        }
        must(poll(polled, (nfds_t)(listening + count), -1) > 0, "poll");
        /* From the end: who ends gives its place to the last one. */
        for (int i = count - 1; i >= 0; i--)
            if (polled[listening + i].revents != 0)
                serve(&connections[i]);
        for (int i = 0; i < listening; i++)
            if (polled[i].revents != 0) {
                int fd = accept(listeners[i], NULL, NULL);

                must(fd >= 0, "accept");
                SSL_set_accept_state(begin(fd)->ssl);
            }
    }
}

static void client(char **words)
{
    struct sockaddr_storage at;
    socklen_t length;

    out = words[2];
    name = words[3];
    must((context = SSL_CTX_new(TLS_client_method())) != NULL, "SSL_CTX_new");
    for (int number = 0; number < atoi(words[4]); number++) {
        int fd = socket_at(words[0], atoi(words[1]), &at, &length);
        struct connection *this;
        FILE *port;

        must(connect(fd, (struct sockaddr *)&at, length) == 0, "connect");
        this = begin(fd);
        this->number = number;
        this->left = atoi(words[5]);
        this->sent = file_of(this, "sent");
        this->received = file_of(this, "received");
        must(getsockname(fd, (struct sockaddr *)&at, &length) == 0, "getsockname");
        port = file_of(this, "port");
        /* At the same place in both families (RFC 3493 3.3). */
        fprintf(port, "%d", ntohs(((struct sockaddr_in *)&at)->sin_port));
        must(fclose(port) == 0, "a port");
        SSL_set_connect_state(this->ssl);
        must(SSL_set_tlsext_host_name(this->ssl, "mirror.test") == 1, "a name");
        ask(this);
    }
    for (int i = count - 1; i >= 0; i--)
        serve(&connections[i]);
    loop(NULL, 0);
}

static void server(char **words, int addresses)
{
    struct sockaddr_storage at;
    socklen_t length;
    int listeners[8];

    must(addresses <= 8, "too many addresses");
    must((context = SSL_CTX_new(TLS_server_method())) != NULL, "SSL_CTX_new");
    must(SSL_CTX_use_certificate_file(context, words[1], SSL_FILETYPE_PEM) == 1, words[1]);
    must(SSL_CTX_use_PrivateKey_file(context, words[2], SSL_FILETYPE_PEM) == 1, words[2]);
    directory = words[3];
    for (int i = 0; i < addresses; i++) {
        listeners[i] = socket_at(words[4 + i], atoi(words[0]), &at, &length);
        must(bind(listeners[i], (struct sockaddr *)&at, length) == 0, "bind");
        must(listen(listeners[i], 64) == 0, "listen");
    }
    loop(listeners, addresses);
}

int main(int argc, char **argv)
{
    if (argc == 8 && strcmp(argv[1], "client") == 0)
        client(argv + 2);
    else if (argc > 6 && strcmp(argv[1], "server") == 0)
        server(argv + 2, argc - 6);
    else
        return 2;
    return 0;
}
