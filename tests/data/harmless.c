/*
 * What a process can see of the mirror in itself: memory, threads, descriptors. Both ends of its TLS connections are its
 * own, joined by a pair of BIOs, so it has no descriptor but those of its standard input and outputs.
 *
 *     harmless CERTIFICATE KEY count              what calls of the library allocate, and what there is of threads and descriptors
 *     harmless CERTIFICATE KEY close NAME ROUNDS  closes all descriptors again and again, and opens the files NAME.0 to NAME.7
 *                                                 in their place, while text passes
 *
 * Standard output is the same with every library. Standard error says whether there is a ring.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 8, LARGEST = 100000, CALLS = 200, SESSIONS = 20 };

struct pair {
    SSL *client, *server;
};

static SSL_CTX *contexts[2];
static unsigned char text[LARGEST], heard[LARGEST];

static void must(int good, const char *what)
{
    if (good)
        return;
    printf("%s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stdout);
    fflush(stdout);
    _exit(3);
}

/* The program's own malloc, which the libraries get instead of the C library's. */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static atomic_ulong allocations;

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(old, size);
}

static struct pair shake_hands(void)
{
    struct pair pair = { SSL_new(contexts[0]), SSL_new(contexts[1]) };
    BIO *ends[2];

    must(pair.client != NULL && pair.server != NULL, "SSL_new");
    must(BIO_new_bio_pair(&ends[0], LARGEST * 2, &ends[1], LARGEST * 2) == 1, "BIO_new_bio_pair");
    SSL_set_bio(pair.client, ends[0], ends[0]);
    SSL_set_bio(pair.server, ends[1], ends[1]);
    SSL_set_connect_state(pair.client);
    SSL_set_accept_state(pair.server);
    for (int i = 0; i < 20 && !(SSL_is_init_finished(pair.client) && SSL_is_init_finished(pair.server)); i++) {
        SSL_do_handshake(pair.client);
        SSL_do_handshake(pair.server);
    }
    must(SSL_is_init_finished(pair.server), "handshake");
    return pair;
}

static void say(SSL *from, SSL *to, int length)
{
    int got = 0;

    must(SSL_write(from, text, length) == length, "SSL_write");
    while (got < length) {
        int count = SSL_read(to, heard, sizeof(heard));
        must(count > 0, "SSL_read");
        got += count;
    }
}

static void part(struct pair pair)
{
    SSL_shutdown(pair.client);
    SSL_shutdown(pair.server);
    SSL_free(pair.client);
    SSL_free(pair.server);
}

static void list(const char *directory)
{
    DIR *open = opendir(directory);
    const struct dirent *entry;
    int entries = 0;

    must(open != NULL, directory);
    while ((entry = readdir(open)) != NULL)
        entries++;
    closedir(open);
    printf("%s: %d\n", directory, entries);
}

static unsigned long counted(const char *what, unsigned long before)
{
    printf("%s: %lu\n", what, atomic_load(&allocations) - before);
    return atomic_load(&allocations);
}

static void count(void)
{
    static const int sizes[] = { 1, 100, 16384, LARGEST };
    struct pair pair = shake_hands();
    unsigned long before;
    char what[64];

    say(pair.client, pair.server, LARGEST);
    say(pair.server, pair.client, LARGEST);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        /* One without counting: printf has buffers to allocate. */
        for (int round = 0; round < 2; round++) {
            before = atomic_load(&allocations);
            for (int call = 0; call < CALLS; call++) {
                say(pair.client, pair.server, sizes[i]);
                say(pair.server, pair.client, sizes[i]);
            }
            if (round == 0)
                continue;
            snprintf(what, sizeof(what), "allocations, texts of %d bytes", sizes[i]);
            counted(what, before);
        }
    }
    before = atomic_load(&allocations);
    for (int i = 0; i < SESSIONS; i++) {
        struct pair other = shake_hands();
        say(other.client, other.server, 100);
        part(other);
    }
    counted("allocations, whole sessions", before);
    list("/proc/self/task");
    list("/proc/self/fd");
    part(pair);
    list("/proc/self/fd");
}

static atomic_int stop, passed;

static void *traffic(void *argument)
{
    struct pair *pair = argument;

    while (!atomic_load(&stop)) {
        say(pair->client, pair->server, 1 + atomic_fetch_add(&passed, 1) % 20000);
        say(pair->server, pair->client, 1000);
    }
    return NULL;
}

static void check(int file, const char *expected)
{
    char found[64];
    struct stat about;
    ssize_t length = (ssize_t)strlen(expected);

    must(fstat(file, &about) == 0 && about.st_size == length, "a file's length");
    must(pread(file, found, sizeof(found), 0) == length, "a file's content");
    must(memcmp(found, expected, (size_t)length) == 0, "a file's content");
}

static void close_all(const char *name, int rounds)
{
    struct pair pair = shake_hands();
    pthread_t thread;
    char path[4096], mine[64];
    int file, before;

    say(pair.client, pair.server, 100);
    must(pthread_create(&thread, NULL, traffic, &pair) == 0, "pthread_create");
    for (int round = 0; round < rounds; round++) {
        must(syscall(SYS_close_range, 3, ~0U, 0) == 0, "close_range");
        for (int i = 0; i < FILES; i++) {
            snprintf(path, sizeof(path), "%s.%d", name, i);
            snprintf(mine, sizeof(mine), "round %8d file %d\n", round, i);
            file = open(path, O_CREAT | O_RDWR, 0666);
            must(file == 3 + i, path);
            must(write(file, mine, strlen(mine)) == (ssize_t)strlen(mine), path);
        }
        /* At least one text passes while these files are open. */
        before = atomic_load(&passed);
        while (round % 100 == 0 && atomic_load(&passed) < before + 2)
            usleep(100);
        for (int i = 0; i < FILES; i++) {
            snprintf(mine, sizeof(mine), "round %8d file %d\n", round, i);
            check(3 + i, mine);
        }
    }
    atomic_store(&stop, 1);
    must(pthread_join(thread, NULL) == 0, "pthread_join");
    part(pair);
    printf("%d rounds\n", rounds);
}

static void tell_of_the_ring(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    int found = 0;

    must(maps != NULL, "/proc/self/maps");
    while (fgets(line, sizeof(line), maps))
        found |= strstr(line, "/memfd:sslcollector") != NULL;
    fclose(maps);
    fputs(found ? "a ring\n" : "no ring\n", stderr);
}

int main(int argc, char **argv)
{
    must(argc > 3, "harmless CERTIFICATE KEY WHAT");
    contexts[0] = SSL_CTX_new(TLS_client_method());
    contexts[1] = SSL_CTX_new(TLS_server_method());
    must(contexts[0] != NULL && contexts[1] != NULL, "SSL_CTX_new");
    must(SSL_CTX_use_certificate_chain_file(contexts[1], argv[1]) == 1, argv[1]);
    must(SSL_CTX_use_PrivateKey_file(contexts[1], argv[2], SSL_FILETYPE_PEM) == 1, argv[2]);
    memset(text, 't', sizeof(text));
    if (strcmp(argv[3], "count") == 0)
        count();
    else
        close_all(argv[4], atoi(argv[5]));
    tell_of_the_ring();
    return 0;
}
