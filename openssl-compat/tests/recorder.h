/*
 * Stands in for mirror_hook and keeps all that it is told, for the tests to
 * compare with the truth. Linked with libssl's objects into a test program.
 */
#ifndef RECORDER_H
#define RECORDER_H

#include <stddef.h>
#include "mirror_hook.h"

struct bytes {
    unsigned char *data;
    size_t length;
};

void bytes_add(struct bytes *to, const void *data, size_t length);
int bytes_equal(const struct bytes *left, const struct bytes *right);
void bytes_free(struct bytes *bytes);

/* One connection, as it was told. */
struct recording {
    /* The info of the OPEN, and of the last call that had one. Their pointers are NULL; see below. */
    mirror_hook_info open, last;
    /* What the pointers of `last` led to; zeros where they were NULL. */
    unsigned char client_random[32], server_random[32];
    char sni[256], alpn[256];
    /* The same at the OPEN. */
    unsigned char open_client_random[32], open_server_random[32];
    /* Clear text by direction, MIRROR_HOOK_SENT or _RECEIVED. */
    struct bytes text[2];
    /* What was sent as 0-RTT data and then rejected. */
    struct bytes rejected;
    /*
     * The calls in their order: O open, U update, J early data rejected,
     * S sent, R received, L lost, E end sent, F end received, A abort, C close.
     * Of several equal calls in a row there is one letter.
     */
    char calls[64];
    int opens, closes;
    /* UPDATEs of nothing but the wire counts. */
    int counts;
};

/* The n-th connection (from 0) opened with this role, or NULL. */
struct recording *recorded(int role, int n);
/* How many times mirror_hook_handshake was called. */
extern int recorder_handshakes;
/* Is this program linked with the recorder in the place of the hook? */
extern int recorder_present;
/* Set by a test: never ask for an OPEN, as when nothing is mirrored. */
extern int recorder_off;
/* Set by a test: leave errors and errno behind, which libssl's callers must not see. */
extern int recorder_rude;
/* Calls against the contract of mirror_hook.h, each with a line on standard error. */
extern int recorder_violations;
void recorder_reset(void);

#endif
