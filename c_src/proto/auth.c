#include "proto/auth.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

int pt_auth_hmac(const uint8_t *key, size_t key_len, const uint8_t *data, size_t data_len,
                 uint8_t out[PT_AUTH_MAC_SIZE])
{
    static const uint8_t none[1];
    unsigned len = 0;

    memset(out, 0, PT_AUTH_MAC_SIZE);
    if (key_len > INT_MAX)
        return -EINVAL;
    /* A NULL key means "the key of last time" to libcrypto: an empty key needs an address. */
    if (HMAC(EVP_sha256(), key_len > 0 ? key : none, (int)key_len, data_len > 0 ? data : none,
             data_len, out, &len) == NULL ||
        len != PT_AUTH_MAC_SIZE) {
        memset(out, 0, PT_AUTH_MAC_SIZE);
        return -EIO;
    }
    return 0;
}

/* The one-shot HMAC above on a buffer that is built up, rather than libcrypto's own HKDF: that one
 * has two interfaces (EVP_PKEY before 3.0, EVP_KDF since) and a limit of 1024 bytes of info in the
 * first of them. */
int pt_auth_hkdf(const uint8_t *key, size_t key_len, const uint8_t *salt, size_t salt_len,
                 const uint8_t *info, size_t info_len, uint8_t *out, size_t out_len)
{
    uint8_t prk[PT_AUTH_MAC_SIZE], block[PT_AUTH_MAC_SIZE];
    uint8_t *buf;
    size_t buf_size, done = 0;
    int err;

    if (out_len == 0 || out_len > PT_AUTH_HKDF_MAX)
        return -EINVAL;
    if (info_len > SIZE_MAX - PT_AUTH_MAC_SIZE - 1)
        return -EINVAL;
    buf_size = PT_AUTH_MAC_SIZE + info_len + 1; /* previous block, info, counter */
    buf = pt_alloc(buf_size);
    if (buf == NULL)
        return -ENOMEM;
    if (info_len > 0)
        memcpy(buf + PT_AUTH_MAC_SIZE, info, info_len);

    err = pt_auth_hmac(salt, salt_len, key, key_len, prk);
    for (uint8_t n = 1; err == 0 && done < out_len; n++) {
        size_t skip = n == 1 ? PT_AUTH_MAC_SIZE : 0; /* the first block has no predecessor */
        size_t take = PT_MIN(out_len - done, (size_t)PT_AUTH_MAC_SIZE);

        buf[buf_size - 1] = n;
        err = pt_auth_hmac(prk, sizeof prk, buf + skip, buf_size - skip, block);
        memcpy(buf, block, sizeof block);
        memcpy(out + done, block, take);
        done += take;
    }
    OPENSSL_cleanse(prk, sizeof prk);
    OPENSSL_cleanse(block, sizeof block);
    OPENSSL_cleanse(buf, buf_size);
    pt_free(buf);
    if (err < 0)
        OPENSSL_cleanse(out, out_len);
    return err;
}

bool pt_auth_equal(const void *a, const void *b, size_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}
