/* Passive mirroring: what each SSL connection carries for mirror.inc. Included by ssl_local.h. */
#ifndef OSSL_SSL_MIRROR_H
#define OSSL_SSL_MIRROR_H

#include "mirror_hook.h"

/*
 * Of the hook, for mirror.inc alone: NULL where the mirror was never enabled. Else it points to 1 as
 * long as nothing is mirrored in this process (else 0), and text need only be counted in these words
 * of mirror_hook_conn.
 */
extern const uint32_t *mirror_hook_idle;
#define MIRROR_WORD_SENT 2
#define MIRROR_WORD_RECEIVED 3

struct mirror_state {
    mirror_hook_conn conn;
    /* Bytes of an unfinished write that were told already. */
    size_t written;
    /* Bytes read from and written to the transport after the last call; calls since OPEN in which that grew. */
    uint64_t wire_total;
    unsigned int growths;
    unsigned int flags;
    /* Of the hellos on the wire. */
    unsigned char client_random[SSL3_RANDOM_SIZE];
    unsigned char server_random[SSL3_RANDOM_SIZE];
};

/* In flags: client_random is that of an outer hello (RFC 9849). */
#define MIRROR_OUTER 64u

/* A server goes on with the inner hello; the outer one, with this random, was on the wire. From 4.0 on. */
static ossl_inline void mirror_outer_hello(struct mirror_state *mirror, const unsigned char *random)
{
    memcpy(mirror->client_random, random, SSL3_RANDOM_SIZE);
    mirror->flags |= MIRROR_OUTER;
}

#endif
