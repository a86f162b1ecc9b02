#ifndef MIRROR_HOOK_H
#define MIRROR_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIRROR_HOOK_CLIENT 1
#define MIRROR_HOOK_SERVER 2

#define MIRROR_HOOK_TCP 1
#define MIRROR_HOOK_DTLS 2
#define MIRROR_HOOK_QUIC 3

#define MIRROR_HOOK_EARLY_NONE 0
#define MIRROR_HOOK_EARLY_PENDING 1
#define MIRROR_HOOK_EARLY_ACCEPTED 2
#define MIRROR_HOOK_EARLY_REJECTED 3

#define MIRROR_HOOK_SENT 0
#define MIRROR_HOOK_RECEIVED 1

/* The handshake has ended. */
#define MIRROR_HOOK_HANDSHAKE_DONE 1
/* The session was resumed. */
#define MIRROR_HOOK_RESUMED 2

/* State of one connection: all zeros before its first use. */
typedef struct mirror_hook_conn { uint64_t words[8]; } mirror_hook_conn;

/* What the caller knows of a connection. All zeros but `size`, the descriptors (-1) and the wire counts
   (UINT64_MAX) means: nothing. Pointers need to live for the call only. */
typedef struct mirror_hook_info {
  uint32_t size;                 /* sizeof(mirror_hook_info) */
  uint32_t flags;                /* MIRROR_HOOK_HANDSHAKE_DONE | MIRROR_HOOK_RESUMED */
  uint8_t role;                  /* MIRROR_HOOK_CLIENT, MIRROR_HOOK_SERVER */
  uint8_t transport;             /* MIRROR_HOOK_TCP, _DTLS, _QUIC */
  uint8_t early;                 /* MIRROR_HOOK_EARLY_... */
  uint8_t family;                /* addresses told by the caller: 0 none, 4, 6 */
  uint16_t tls_version;          /* as on the wire, 0: unknown */
  uint16_t cipher;               /* IANA number, 0: unknown */
  int32_t read_fd;               /* socket, -1: none */
  int32_t write_fd;
  const uint8_t *client_random;  /* 32 bytes, or NULL */
  const uint8_t *server_random;  /* 32 bytes, or NULL */
  const char *sni;               /* or NULL */
  size_t sni_length;
  const uint8_t *alpn;           /* or NULL */
  size_t alpn_length;
  uint64_t wire_read;            /* bytes the TLS library has read from its transport */
  uint64_t wire_written;
  uint8_t local_address[16];     /* network byte order; used where family isn't 0 */
  uint8_t peer_address[16];
  uint16_t local_port;           /* machine's byte order */
  uint16_t peer_port;
} mirror_hook_info;

/* Reads the settings. Call it from a constructor; later calls do nothing. */
void mirror_hook_init(void);
/* A handshake begins: asks for an agent if there is none. The only function that makes system calls other than
   on a socket given to mirror_hook_open. */
void mirror_hook_handshake(void);
/* True if mirror_hook_open has to be called before this connection's next record: not announced yet, process forked, ring
   replaced, or the first OPEN found no room. False whenever nothing is mirrored. */
bool mirror_hook_wants_open(const mirror_hook_conn *conn);
void mirror_hook_open(mirror_hook_conn *conn, const mirror_hook_info *info);
void mirror_hook_update(mirror_hook_conn *conn, const mirror_hook_info *info);
/* Clear text that the library accepted, or handed to the application. Always called: offsets count also while nothing is mirrored. */
void mirror_hook_sent(mirror_hook_conn *conn, const void *bytes, size_t length);
void mirror_hook_received(mirror_hook_conn *conn, const void *bytes, size_t length);
/* `length` bytes passed that the caller has no copy of. */
void mirror_hook_lost(mirror_hook_conn *conn, int direction, uint64_t length);
/* 0-RTT data was rejected: what was sent so far was never read by the server; offsets begin again at 0. */
void mirror_hook_early_rejected(mirror_hook_conn *conn, const mirror_hook_info *info);
/* close_notify sent (MIRROR_HOOK_SENT), or close_notify or end of stream received (MIRROR_HOOK_RECEIVED). Repeats are ignored. */
void mirror_hook_end(mirror_hook_conn *conn, int direction);
/* A fatal error ended the connection. */
void mirror_hook_abort(mirror_hook_conn *conn);
/* The application gives the connection back. Leaves `conn` as it was before its first use. */
void mirror_hook_close(mirror_hook_conn *conn);

#endif
