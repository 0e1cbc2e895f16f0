/* Keyed hashes: HMAC-SHA256 (RFC 2104), HKDF-SHA256 (RFC 5869), comparison in constant time.
 *
 * The handshake and the lane attach prove knowledge of the cookie with these; the keys come from
 * `partisan_dist_hs`. All functions are pure and may be called on any thread. They call libcrypto
 * through EVP only, so a FIPS provider is honoured.
 */
#ifndef PT_PROTO_AUTH_H
#define PT_PROTO_AUTH_H

#include "base/pt.h"

#define PT_AUTH_MAC_SIZE 32u
#define PT_AUTH_HKDF_MAX (255u * PT_AUTH_MAC_SIZE) /* RFC 5869, section 2.3 */

/* out = HMAC-SHA256(key, data). key may be NULL when key_len is 0, data when data_len is 0.
 * 0, -EINVAL (key longer than INT_MAX) or -EIO: libcrypto refused; out is then all zero and must
 * not be used. */
int pt_auth_hmac(const uint8_t *key, size_t key_len, const uint8_t *data, size_t data_len,
                 uint8_t out[PT_AUTH_MAC_SIZE]);

/* Extract and expand in one call: out_len bytes of key material from the secret `key`.
 * 0, -EINVAL (out_len is 0 or beyond PT_AUTH_HKDF_MAX), -ENOMEM, or -EIO as above. */
int pt_auth_hkdf(const uint8_t *key, size_t key_len, const uint8_t *salt, size_t salt_len,
                 const uint8_t *info, size_t info_len, uint8_t *out, size_t out_len);

/* Whether the len bytes are the same, in a time that depends on len only. */
bool pt_auth_equal(const void *a, const void *b, size_t len);

#endif
