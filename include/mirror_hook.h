/* Generated from mirror-hook/src/capi.rs by `UPDATE_HEADER=1 cargo test -p mirror-hook --test header`.
   SPDX-License-Identifier: MIT OR Apache-2.0

   The hook that copies the clear text of TLS connections to the agent sslcollector. Every function may
   be called at any time, from any thread, as long as no two threads use one mirror_hook_conn at once.
   None blocks, fails, changes errno or touches a descriptor that it wasn't given. */

#ifndef MIRROR_HOOK_H
#define MIRROR_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The process sent the ClientHello.
#define MIRROR_HOOK_CLIENT 1

// The process answered with the ServerHello.
#define MIRROR_HOOK_SERVER 2

// TLS over a byte stream.
#define MIRROR_HOOK_TCP 1

// DTLS: announced and counted, its text isn't copied.
#define MIRROR_HOOK_DTLS 2

// QUIC: announced and counted, its text isn't copied.
#define MIRROR_HOOK_QUIC 3

// There was no 0-RTT data.
#define MIRROR_HOOK_EARLY_NONE 0

// Some passed; whether the server reads it isn't known yet.
#define MIRROR_HOOK_EARLY_PENDING 1

// The server read it.
#define MIRROR_HOOK_EARLY_ACCEPTED 2

// The server never read it.
#define MIRROR_HOOK_EARLY_REJECTED 3

// The direction that the process sends.
#define MIRROR_HOOK_SENT 0

// The direction that the process receives.
#define MIRROR_HOOK_RECEIVED 1

// Flag of `mirror_hook_info`: the handshake has ended.
#define MIRROR_HOOK_HANDSHAKE_DONE 1

// Flag of `mirror_hook_info`: the session was resumed.
#define MIRROR_HOOK_RESUMED 2

// State of one connection, kept by the caller: all zeros before its first use.
typedef struct mirror_hook_conn {
  // The hook's own.
  uint64_t words[8];
} mirror_hook_conn;

// What the caller knows of a connection. All zeros but `size`, `role`, the descriptors (-1) and the
// wire counts (UINT64_MAX) means: nothing. Pointers need to live for the call only.
typedef struct mirror_hook_info {
  // sizeof(mirror_hook_info)
  uint32_t size;
  // MIRROR_HOOK_HANDSHAKE_DONE | MIRROR_HOOK_RESUMED
  uint32_t flags;
  // MIRROR_HOOK_CLIENT or MIRROR_HOOK_SERVER
  uint8_t role;
  // MIRROR_HOOK_TCP (or 0), MIRROR_HOOK_DTLS, MIRROR_HOOK_QUIC
  uint8_t transport;
  // MIRROR_HOOK_EARLY_...
  uint8_t early;
  // Addresses told by the caller: 0 none, 4 or 6. They take the place of the socket's.
  uint8_t family;
  // As on the wire, 0: unknown
  uint16_t tls_version;
  // IANA number, 0: unknown
  uint16_t cipher;
  // Socket that is read from, -1: none
  int32_t read_fd;
  // Socket that is written to, -1: none. If it isn't the one that is read from, neither's addresses are taken.
  int32_t write_fd;
  // 32 bytes, or NULL
  const uint8_t *client_random;
  // 32 bytes, or NULL
  const uint8_t *server_random;
  // Server name, or NULL
  const char *sni;
  // Bytes of `sni`
  size_t sni_length;
  // ALPN protocol, or NULL
  const uint8_t *alpn;
  // Bytes of `alpn`
  size_t alpn_length;
  // Bytes that the TLS library has read from its transport, UINT64_MAX: unknown
  uint64_t wire_read;
  // Bytes that the TLS library has written to its transport, UINT64_MAX: unknown
  uint64_t wire_written;
  // In network byte order; the first 4 where `family` is 4
  uint8_t local_address[16];
  // In network byte order; the first 4 where `family` is 4
  uint8_t peer_address[16];
  // In the machine's byte order
  uint16_t local_port;
  // In the machine's byte order
  uint16_t peer_port;
} mirror_hook_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Reads the settings. Call it from the library's constructor: some programs wipe their environment
// as they start. Later calls do nothing.
void mirror_hook_init(void);

// A handshake begins: asks for an agent if there is none. The only function that makes system calls
// on anything but a socket given to mirror_hook_open or mirror_hook_update (in a forked child,
// mirror_hook_open asks for an agent too; and where the environment says SSLCOLLECTOR_TELL_SOCKETS=1, both
// ask all descriptors of the process what they have carried, a few times a connection, of which no socket and
// no address is told, and the wire counts are).
void mirror_hook_handshake(void);

// True if mirror_hook_open has to be called before this connection's next record: it isn't announced
// yet, the process has forked, the ring was replaced, or what was to be announced found no room.
// False whenever nothing is mirrored.
//
// Pointers:
// `conn` is NULL or points to a connection that no other thread uses now.
bool mirror_hook_wants_open(const struct mirror_hook_conn *conn);

// Announces the connection, if mirror_hook_wants_open says so.
//
// Pointers:
// `conn` as in mirror_hook_wants_open; `info` is NULL or points to a valid mirror_hook_info whose
// pointers are NULL or valid for their lengths.
void mirror_hook_open(struct mirror_hook_conn *conn, const struct mirror_hook_info *info);

// More is known of the connection: call it when the handshake has ended.
//
// Pointers:
// As mirror_hook_open.
void mirror_hook_update(struct mirror_hook_conn *conn, const struct mirror_hook_info *info);

// Clear text that the library has accepted from the application. Always to be called: offsets count
// also while nothing is mirrored.
//
// Pointers:
// `conn` as in mirror_hook_wants_open; `bytes` points to `length` bytes.
void mirror_hook_sent(struct mirror_hook_conn *conn, const void *bytes, size_t length);

// Clear text that the library has handed to the application; not on a peek. Always to be called:
// offsets count also while nothing is mirrored.
//
// Pointers:
// As mirror_hook_sent.
void mirror_hook_received(struct mirror_hook_conn *conn, const void *bytes, size_t length);

// `length` bytes passed in `direction` that the caller has no copy of.
//
// Pointers:
// `conn` as in mirror_hook_wants_open.
void mirror_hook_lost(struct mirror_hook_conn *conn, int direction, uint64_t length);

// 0-RTT data was rejected: what was sent so far was never read by the server. Offsets begin again
// at 0.
//
// Pointers:
// As mirror_hook_open.
void mirror_hook_early_rejected(struct mirror_hook_conn *conn, const struct mirror_hook_info *info);

// close_notify was sent (MIRROR_HOOK_SENT), or close_notify or the end of the stream was received
// (MIRROR_HOOK_RECEIVED). Repeats are ignored.
//
// Pointers:
// `conn` as in mirror_hook_wants_open.
void mirror_hook_end(struct mirror_hook_conn *conn, int direction);

// A fatal error ended the connection.
//
// Pointers:
// `conn` as in mirror_hook_wants_open.
void mirror_hook_abort(struct mirror_hook_conn *conn);

// The application gives the connection back. Leaves `conn` as it was before its first use.
//
// Pointers:
// `conn` as in mirror_hook_wants_open.
void mirror_hook_close(struct mirror_hook_conn *conn);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MIRROR_HOOK_H */
