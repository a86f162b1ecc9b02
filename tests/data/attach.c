/*
 * A TLS client with a script, for what only a program in C can do to itself. Around each call of
 * the library it looks whether errno, the error queue, the table of descriptors and the signal
 * mask are as they would be without a mirror.
 *
 *     attach PORT STEP...
 *
 *     tcp, handshake    connect to 127.0.0.1:PORT; TLS on that connection
 *     open              both
 *     get:URL           one request on the open connection
 *     close             ends it
 *     swap              exchanges the open connection for the one put aside before
 *     until-mirrored:URL  whole connections, until one of them has found an agent
 *     wait:FILE         makes FILE.here and waits until FILE.go is there
 *     fork, clone       the steps that follow are the child's; the parent waits for its end
 *     vfork             a child that shares the memory and becomes /bin/true
 *     daemon            as daemon(3)
 *     leave:FILE        fork, where the parent gives the connection back without a word, makes FILE.left,
 *                       and only then waits for the child's end
 *     idle:FILE         a child that has all that its parent has, writes its pid to FILE.here, and does nothing
 *                       until FILE.go is there
 *     spawn:FILE        a child that executes sleep(1), its pid in FILE.here
 *     drop              gives the connection back without a word
 *     exec              becomes itself anew, with the steps that follow
 *     uid:N             gives up root for user N
 *     chroot:DIR, hide:DIR  changes the root; covers DIR in a mount namespace of its own
 *     unshare:net|pid   another namespace (of pid: for its children)
 *     limit:fsize|as|nofile:N  of the address space: N more than now
 *     deny:CALL:ERRNO   a seccomp filter that answers this call with this errno, or kills where that is 0
 *     cgroup:DIR        goes into a control group
 *     closeall:FILE     closes every descriptor, then writes to FILE.0 to FILE.3, which it keeps open
 *
 * Standard output is what a user sees, the same with every library. Standard error tells what each
 * connection said: a line "#connection PORT SENT RECEIVED", and that many bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DESCRIPTORS = 32, ROOM = 1 << 21, NOTHING = 77, WAITS = 6000 };

struct text {
    char *bytes;
    size_t length;
};

struct connection {
    int socket, port;
    SSL *ssl;
    struct text sent, received;
};

/* What must not change under a call of the library. */
struct surroundings {
    struct pollfd open[DESCRIPTORS];
    sigset_t mask;
};

static int port;
static nfds_t descriptors = DESCRIPTORS;
static SSL_CTX *context;
static struct connection current = { .socket = -1 }, aside = { .socket = -1 };

static void fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(2);
}

static void must(int good, const char *what)
{
    if (!good)
        fail(what);
}

static void look(struct surroundings *now)
{
    memset(now, 0, sizeof(*now));
    for (nfds_t i = 0; i < descriptors; i++)
        now->open[i].fd = (int)i;
    must(poll(now->open, descriptors, 0) >= 0, "poll");
    /* Whether there is something to read isn't asked: only POLLNVAL, no such descriptor. */
    for (nfds_t i = 0; i < descriptors; i++)
        now->open[i].revents &= POLLNVAL;
    must(sigprocmask(SIG_BLOCK, NULL, &now->mask) == 0, "sigprocmask");
}

static struct surroundings before;

static void enter(void)
{
    look(&before);
    ERR_clear_error();
    errno = NOTHING;
}

static int leave(const char *call, int result)
{
    int error = errno;
    struct surroundings after;

    printf("%s=%d errno=%d queue=%lu\n", call, result, error, ERR_peek_error());
    look(&after);
    if (memcmp(&before, &after, sizeof(after)) != 0)
        printf("%s has changed the descriptors or the signal mask\n", call);
    return result;
}

static void keep(struct text *text, const char *bytes, size_t length)
{
    must(text->length + length <= ROOM, "room for what was said");
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

static void tcp(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    FILE *table;
    char line[256];
    struct stat about;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* Its own port, asked without getsockname(2): that call is to be the hook's alone. Nor is it asked of bind(2),
     * which gives ports at random, and so some twice. */
    current.socket = socket(AF_INET, SOCK_STREAM, 0);
    must(current.socket >= 0, "socket");
    must(connect(current.socket, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    must(fstat(current.socket, &about) == 0, "fstat");
    table = fopen("/proc/net/tcp", "r");
    must(table != NULL, "/proc/net/tcp");
    current.port = 0;
    while (fgets(line, sizeof(line), table)) {
        unsigned int local;
        unsigned long inode;
        if (sscanf(line, " %*d: %*8x:%x %*s %*x %*s %*s %*s %*d %*d %lu", &local, &inode) == 2
            && inode == about.st_ino)
            current.port = (int)local;
    }
    fclose(table);
    current.sent = (struct text) { malloc(ROOM), 0 };
    current.received = (struct text) { malloc(ROOM), 0 };
    must(current.sent.bytes && current.received.bytes, "malloc");
}

static void handshake(void)
{
    current.ssl = SSL_new(context);
    must(current.ssl != NULL, "SSL_new");
    SSL_set_fd(current.ssl, current.socket);
    enter();
    if (leave("SSL_connect", SSL_connect(current.ssl)) != 1)
        fail("handshake");
}

static void get(const char *url)
{
    char request[512], buffer[16384];
    const char *end = NULL, *field;
    size_t start = current.received.length, wanted = (size_t)-1, sum = 0;
    int length = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: mirror.test\r\n\r\n", url);

    enter();
    must(leave("SSL_write", SSL_write(current.ssl, request, length)) == length, "SSL_write");
    keep(&current.sent, request, (size_t)length);
    while (current.received.length - start < wanted) {
        int error, count;
        enter();
        count = SSL_read(current.ssl, buffer, sizeof(buffer));
        error = errno;
        /* How many bytes come at once is chance: nothing of it is printed. */
        if (count <= 0)
            fail("SSL_read");
        if ((error != NOTHING && error != 0) || ERR_peek_error() != 0)
            printf("SSL_read leaves errno=%d queue=%lu\n", error, ERR_peek_error());
        keep(&current.received, buffer, (size_t)count);
        if (end == NULL) {
            char *head = current.received.bytes + start;
            if (current.received.length < ROOM)
                current.received.bytes[current.received.length] = 0;
            if ((end = strstr(head, "\r\n\r\n")) != NULL) {
                field = strcasestr(head, "\r\nContent-Length:");
                must(field != NULL, "a length");
                wanted = (size_t)(end + 4 - head) + strtoul(field + 17, NULL, 10);
                start = (size_t)(head - current.received.bytes);
            }
        }
    }
    for (const char *at = end + 4; at < current.received.bytes + current.received.length; at++)
        sum = sum * 31 + (unsigned char)*at;
    printf("%s: %.12s %zu\n", url, current.received.bytes + start, sum);
}

static void tell(void)
{
    fprintf(stderr, "#connection %d %zu %zu\n", current.port, current.sent.length, current.received.length);
    fwrite(current.sent.bytes, 1, current.sent.length, stderr);
    fwrite(current.received.bytes, 1, current.received.length, stderr);
    fflush(stderr);
}

static void end(void)
{
    enter();
    leave("SSL_shutdown", SSL_shutdown(current.ssl));
    tell();
    enter();
    SSL_free(current.ssl);
    leave("SSL_free", 0);
    close(current.socket);
    free(current.sent.bytes);
    free(current.received.bytes);
    current = (struct connection) { .socket = -1 };
}

static int is_mirrored(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    int found = 0;

    must(maps != NULL, "/proc/self/maps");
    while (fgets(line, sizeof(line), maps))
        found |= strstr(line, "/memfd:sslcollector") != NULL;
    fclose(maps);
    return found;
}

static void until_mirrored(const char *url)
{
    struct timespec pause = { 0, 20000000 };

    for (int i = 0; i < WAITS; i++) {
        tcp();
        handshake();
        get(url);
        end();
        if (is_mirrored())
            return;
        nanosleep(&pause, NULL);
    }
    errno = ETIME;
    fail("until-mirrored");
}

static void wait_for(const char *name)
{
    struct timespec pause = { 0, 10000000 };
    char path[4096];
    int i, file;

    snprintf(path, sizeof(path), "%s.here", name);
    file = open(path, O_CREAT | O_WRONLY, 0666);
    must(file >= 0, path);
    close(file);
    snprintf(path, sizeof(path), "%s.go", name);
    for (i = 0; i < WAITS && access(path, F_OK) != 0; i++)
        nanosleep(&pause, NULL);
    must(i < WAITS, path);
}

/* In the parent: waits for the child, and ends as it has ended, without a word on the connection. */
static void be_the_parent(pid_t child)
{
    int status = 0;

    must(waitpid(child, &status, 0) == child, "waitpid");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void fork_off(int raw)
{
    pid_t child;

    fflush(stdout);
    child = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
    must(child >= 0, "fork");
    if (child != 0)
        be_the_parent(child);
}

/* The connection, without close_notify. */
static void drop(void)
{
    SSL_set_quiet_shutdown(current.ssl, 1);
    SSL_free(current.ssl);
    close(current.socket);
    current = (struct connection) { .socket = -1 };
}

static void make_file(const char *name, const char *what, const char *text)
{
    char path[4096], made[4096 + 8];
    FILE *file;

    /* It is there with all that is in it. */
    snprintf(path, sizeof(path), "%s.%s", name, what);
    snprintf(made, sizeof(made), "%s.new", path);
    file = fopen(made, "w");
    must(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, made);
    must(rename(made, path) == 0, path);
}

static void leave_to_child(const char *name)
{
    pid_t child;

    fflush(stdout);
    child = fork();
    must(child >= 0, "fork");
    if (child == 0)
        return;
    drop();
    make_file(name, "left", "");
    be_the_parent(child);
}

static void make_child(const char *name, int execute)
{
    char text[32], path[4096];
    struct timespec pause = { 0, 10000000 };
    pid_t child;

    fflush(stdout);
    child = fork();
    must(child >= 0, "fork");
    if (child != 0)
        return;
    snprintf(text, sizeof(text), "%d\n", getpid());
    /* Nobody waits for what it has of the standard streams. */
    close(1);
    close(2);
    if (execute) {
        /* The socket, too. */
        syscall(SYS_close_range, 3, ~0U, 0);
        make_file(name, "here", text);
        execlp("sleep", "sleep", "600", (char *)NULL);
        _exit(1);
    }
    make_file(name, "here", text);
    snprintf(path, sizeof(path), "%s.go", name);
    for (int i = 0; i < WAITS && access(path, F_OK) != 0; i++)
        nanosleep(&pause, NULL);
    _exit(0);
}

static void become_true(void)
{
    int status = 1;
    pid_t child = vfork();

    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    must(child > 0 && waitpid(child, &status, 0) == child && status == 0, "vfork");
}

static void limit(const char *what, unsigned long value)
{
    struct rlimit limit = { value, value };
    int which = RLIMIT_FSIZE;

    if (strcmp(what, "as") == 0) {
        unsigned long pages = 0;
        FILE *memory = fopen("/proc/self/statm", "r");
        must(memory != NULL && fscanf(memory, "%lu", &pages) == 1, "statm");
        fclose(memory);
        which = RLIMIT_AS;
        limit.rlim_cur = limit.rlim_max = pages * (unsigned long)sysconf(_SC_PAGESIZE) + value;
    } else if (strcmp(what, "nofile") == 0) {
        which = RLIMIT_NOFILE;
        descriptors = value < DESCRIPTORS ? value : DESCRIPTORS;
    }
    must(setrlimit(which, &limit) == 0, "setrlimit");
}

static void deny(const char *name, unsigned int error)
{
    static const struct { const char *name; unsigned int number; } calls[] = {
        { "socket", SYS_socket }, { "connect", SYS_connect }, { "getsockopt", SYS_getsockopt },
        { "prlimit64", SYS_prlimit64 }, { "memfd_create", SYS_memfd_create },
        { "ftruncate", SYS_ftruncate }, { "mmap", SYS_mmap }, { "madvise", SYS_madvise },
        { "fcntl", SYS_fcntl }, { "sendmsg", SYS_sendmsg }, { "getsockname", SYS_getsockname },
        { "getpeername", SYS_getpeername }, { "getrandom", SYS_getrandom },
        { "clock_gettime", SYS_clock_gettime }, { "futex", SYS_futex },
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, error ? SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA) : SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };
        if (strcmp(calls[i].name, name) != 0)
            continue;
        must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
        must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
        return;
    }
    errno = EINVAL;
    fail(name);
}

static void enter_group(const char *directory)
{
    char path[4096];
    FILE *file;

    snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
    must((file = fopen(path, "w")) != NULL, path);
    fprintf(file, "%d\n", getpid());
    must(fclose(file) == 0, path);
}

static void close_all(const char *name)
{
    char path[4096];

    /* The library isn't told, as a program that does this doesn't tell it. */
    if (current.ssl != NULL)
        tell();
    must(syscall(SYS_close_range, 3, ~0U, 0) == 0, "close_range");
    for (int i = 0; i < 4; i++) {
        int file;
        snprintf(path, sizeof(path), "%s.%d", name, i);
        file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0666);
        must(file == 3 + i && write(file, "mine\n", 5) == 5, path);
    }
    if (current.ssl != NULL) {
        SSL_set_quiet_shutdown(current.ssl, 1);
        SSL_free(current.ssl);
    }
    current = (struct connection) { .socket = -1 };
}

static void step(const char *name, const char *argument)
{
    char word[64] = "";
    const char *rest = strchr(argument, ':');

    if (rest != NULL)
        snprintf(word, sizeof(word), "%.*s", (int)(rest - argument), argument);
    if (strcmp(name, "tcp") == 0 || strcmp(name, "open") == 0)
        tcp();
    if (strcmp(name, "handshake") == 0 || strcmp(name, "open") == 0)
        handshake();
    else if (strcmp(name, "get") == 0)
        get(argument);
    else if (strcmp(name, "close") == 0)
        end();
    else if (strcmp(name, "until-mirrored") == 0)
        until_mirrored(argument);
    else if (strcmp(name, "wait") == 0)
        wait_for(argument);
    else if (strcmp(name, "fork") == 0 || strcmp(name, "clone") == 0)
        fork_off(name[0] == 'c');
    else if (strcmp(name, "vfork") == 0)
        become_true();
    else if (strcmp(name, "leave") == 0)
        leave_to_child(argument);
    else if (strcmp(name, "idle") == 0 || strcmp(name, "spawn") == 0)
        make_child(argument, name[0] == 's');
    else if (strcmp(name, "drop") == 0) {
        tell();
        drop();
    } else if (strcmp(name, "daemon") == 0) {
        fflush(stdout);
        must(daemon(1, 1) == 0, "daemon");
    } else if (strcmp(name, "uid") == 0)
        must(setgid((gid_t)atoi(argument)) == 0 && setuid((uid_t)atoi(argument)) == 0, "setuid");
    else if (strcmp(name, "chroot") == 0)
        must(chroot(argument) == 0 && chdir("/") == 0, "chroot");
    else if (strcmp(name, "hide") == 0)
        must(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0
                && mount("none", argument, "tmpfs", 0, NULL) == 0, "hide");
    else if (strcmp(name, "unshare") == 0)
        must(unshare(strcmp(argument, "net") == 0 ? CLONE_NEWNET : CLONE_NEWPID) == 0, "unshare");
    else if (strcmp(name, "limit") == 0 && rest != NULL)
        limit(word, strtoul(rest + 1, NULL, 10));
    else if (strcmp(name, "deny") == 0 && rest != NULL)
        deny(word, (unsigned int)atoi(rest + 1));
    else if (strcmp(name, "cgroup") == 0)
        enter_group(argument);
    else if (strcmp(name, "closeall") == 0)
        close_all(argument);
    else if (strcmp(name, "swap") == 0) {
        struct connection other = aside;
        aside = current;
        current = other;
    } else if (strcmp(name, "tcp") != 0 && strcmp(name, "open") != 0) {
        errno = EINVAL;
        fail(name);
    }
}

/* The steps that follow number `at` come behind the port. */
static void become_anew(char **argv, int at)
{
    int i;

    fflush(stdout);
    if (current.ssl != NULL)
        tell();
    for (i = 2; argv[at + 1] != NULL; i++)
        argv[i] = argv[++at];
    argv[i] = NULL;
    execv(argv[0], argv);
    fail("exec");
}

int main(int argc, char **argv)
{
    must(argc > 2, "attach PORT STEP...");
    port = atoi(argv[1]);
    signal(SIGPIPE, SIG_DFL);
    context = SSL_CTX_new(TLS_client_method());
    must(context != NULL, "SSL_CTX_new");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    for (int i = 2; i < argc; i++) {
        char name[32] = "";
        if (strcmp(argv[i], "exec") == 0)
            become_anew(argv, i);
        const char *argument = strchr(argv[i], ':');
        size_t length = argument ? (size_t)(argument - argv[i]) : strlen(argv[i]);
        snprintf(name, sizeof(name), "%.*s", (int)length, argv[i]);
        step(name, argument ? argument + 1 : "");
    }
    puts("done");
    return 0;
}
