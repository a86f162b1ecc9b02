/* Passive mirroring: what each SSL connection carries for mirror.inc. Included by ssl_local.h. */
#ifndef OSSL_SSL_MIRROR_H
#define OSSL_SSL_MIRROR_H

#include "mirror_hook.h"

struct mirror_state {
    mirror_hook_conn conn;
    /* Bytes of an unfinished write that were told already. */
    size_t written;
    unsigned int flags;
    unsigned char client_random[SSL3_RANDOM_SIZE];
    unsigned char server_random[SSL3_RANDOM_SIZE];
};

#endif
