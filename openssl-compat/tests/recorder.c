#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/err.h>
#include "recorder.h"

#define MOST 32

static struct recording recordings[MOST];
static int used;
/* Never idle: every call is told. */
static const uint32_t not_idle;
const uint32_t *mirror_hook_idle = &not_idle;
int recorder_handshakes, recorder_present, recorder_off, recorder_rude, recorder_violations;

void bytes_add(struct bytes *to, const void *data, size_t length)
{
    to->data = realloc(to->data, to->length + length + 1);
    if (to->data == NULL)
        abort();
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

int bytes_equal(const struct bytes *left, const struct bytes *right)
{
    return left->length == right->length
        && (left->length == 0 || memcmp(left->data, right->data, left->length) == 0);
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    memset(bytes, 0, sizeof(*bytes));
}

struct recording *recorded(int role, int n)
{
    int i;

    for (i = 0; i < used; i++)
        if (recordings[i].opens > 0 && recordings[i].open.role == role && n-- == 0)
            return &recordings[i];
    return NULL;
}

void recorder_reset(void)
{
    int i;

    for (i = 0; i < used; i++) {
        bytes_free(&recordings[i].text[0]);
        bytes_free(&recordings[i].text[1]);
        bytes_free(&recordings[i].rejected);
    }
    memset(recordings, 0, sizeof(recordings));
    used = recorder_handshakes = recorder_off = recorder_rude = recorder_violations = 0;
}

static void violation(const char *what)
{
    fprintf(stderr, "    against the contract: %s\n", what);
    recorder_violations++;
}

/* words[0] holds the recording's number, counted from 1; words[1], whether it is open. */
static struct recording *of(mirror_hook_conn *conn, char call)
{
    struct recording *recording;
    size_t length;

    if (conn->words[0] == 0) {
        if (used == MOST)
            abort();
        conn->words[0] = ++used;
    }
    recording = &recordings[conn->words[0] - 1];
    length = strlen(recording->calls);
    if (!recorder_off && conn->words[1] == 0 && strchr("SRLU", call) != NULL)
        violation("clear text of a connection that isn't open");
    if (length + 1 < sizeof(recording->calls)
        && (length == 0 || recording->calls[length - 1] != call))
        recording->calls[length] = call;
    return recording;
}

static void keep(struct recording *recording, const mirror_hook_info *info)
{
    if (info->size != sizeof(*info))
        violation("info.size");
    if (info->role != MIRROR_HOOK_CLIENT && info->role != MIRROR_HOOK_SERVER)
        violation("info.role");
    recording->last = *info;
    memset(recording->client_random, 0, 32);
    memset(recording->server_random, 0, 32);
    memset(recording->sni, 0, sizeof(recording->sni));
    memset(recording->alpn, 0, sizeof(recording->alpn));
    if (info->client_random != NULL)
        memcpy(recording->client_random, info->client_random, 32);
    if (info->server_random != NULL)
        memcpy(recording->server_random, info->server_random, 32);
    if (info->sni != NULL)
        memcpy(recording->sni, info->sni, info->sni_length);
    if (info->alpn != NULL)
        memcpy(recording->alpn, info->alpn, info->alpn_length);
    recording->last.client_random = recording->last.server_random = NULL;
    recording->last.sni = NULL;
    recording->last.alpn = NULL;
    if (recorder_rude) {
        ERR_raise(ERR_LIB_USER, 1);
        errno = ENOTTY;
    }
}

void mirror_hook_init(void)
{
    recorder_present = 1;
}

void mirror_hook_handshake(void)
{
    recorder_handshakes++;
}

bool mirror_hook_wants_open(const mirror_hook_conn *conn)
{
    return !recorder_off && conn->words[1] == 0;
}

void mirror_hook_open(mirror_hook_conn *conn, const mirror_hook_info *info)
{
    struct recording *recording = of(conn, 'O');

    keep(recording, info);
    recording->open = recording->last;
    memcpy(recording->open_client_random, recording->client_random, 32);
    memcpy(recording->open_server_random, recording->server_random, 32);
    recording->opens++;
    conn->words[1] = 1;
}

/* What an UPDATE tells that is no news but how much has passed, or NULL: that isn't a call of its own. */
static struct recording *counted(const mirror_hook_conn *conn, const mirror_hook_info *info)
{
    struct recording *recording, new;
    int same;

    if (conn->words[0] == 0)
        return NULL;
    recording = &recordings[conn->words[0] - 1];
    new = *recording;
    keep(&new, info);
    new.last.wire_read = recording->last.wire_read;
    new.last.wire_written = recording->last.wire_written;
    same = memcmp(&new.last, &recording->last, sizeof(new.last)) == 0
        && memcmp(new.client_random, recording->client_random, 32) == 0
        && memcmp(new.server_random, recording->server_random, 32) == 0
        && strcmp(new.sni, recording->sni) == 0 && strcmp(new.alpn, recording->alpn) == 0;
    return same ? recording : NULL;
}

void mirror_hook_update(mirror_hook_conn *conn, const mirror_hook_info *info)
{
    struct recording *recording = counted(conn, info);

    if (recording == NULL) {
        keep(of(conn, 'U'), info);
        return;
    }
    if (info->wire_read < recording->last.wire_read
        || info->wire_written < recording->last.wire_written)
        violation("wire counts go back");
    keep(recording, info);
    recording->counts++;
}

void mirror_hook_sent(mirror_hook_conn *conn, const void *bytes, size_t length)
{
    bytes_add(&of(conn, 'S')->text[MIRROR_HOOK_SENT], bytes, length);
}

void mirror_hook_received(mirror_hook_conn *conn, const void *bytes, size_t length)
{
    bytes_add(&of(conn, 'R')->text[MIRROR_HOOK_RECEIVED], bytes, length);
}

void mirror_hook_lost(mirror_hook_conn *conn, int direction, uint64_t length)
{
    (void)direction;
    (void)length;
    of(conn, 'L');
}

void mirror_hook_early_rejected(mirror_hook_conn *conn, const mirror_hook_info *info)
{
    struct recording *recording = of(conn, 'J');

    keep(recording, info);
    bytes_add(&recording->rejected, recording->text[MIRROR_HOOK_SENT].data,
        recording->text[MIRROR_HOOK_SENT].length);
    bytes_free(&recording->text[MIRROR_HOOK_SENT]);
}

void mirror_hook_end(mirror_hook_conn *conn, int direction)
{
    char letter = direction == MIRROR_HOOK_SENT ? 'E' : 'F';

    if (conn->words[0] == 0 || strchr(recordings[conn->words[0] - 1].calls, letter) == NULL)
        of(conn, letter);
}

void mirror_hook_abort(mirror_hook_conn *conn)
{
    of(conn, 'A');
}

void mirror_hook_close(mirror_hook_conn *conn)
{
    of(conn, 'C')->closes++;
    memset(conn, 0, sizeof(*conn));
}
