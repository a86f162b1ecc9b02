/* Encrypted Client Hello (RFC 9849), which OpenSSL has from 4.0 on. For carried.c. */
#if OPENSSL_VERSION_NUMBER >= 0x40000000L
#include <openssl/ech.h>

static OSSL_ECHSTORE *key_in(const char *file)
{
    OSSL_ECHSTORE *store = OSSL_ECHSTORE_new(NULL, NULL);
    BIO *bio = BIO_new_file(file, "r");

    MUST(bio != NULL && OSSL_ECHSTORE_read_pem(store, bio, OSSL_ECH_FOR_RETRY) == 1);
    BIO_free(bio);
    return store;
}

static int make_key(const char *file)
{
    OSSL_HPKE_SUITE suite = OSSL_HPKE_SUITE_DEFAULT;
    OSSL_ECHSTORE *store = OSSL_ECHSTORE_new(NULL, NULL);
    BIO *bio = BIO_new_file(file, "w");

    MUST(OSSL_ECHSTORE_new_config(store, OSSL_ECH_CURRENT_VERSION, 0, "front.test", suite) == 1);
    MUST(bio != NULL && OSSL_ECHSTORE_write_pem(store, OSSL_ECHSTORE_LAST, bio) == 1);
    BIO_free(bio);
    OSSL_ECHSTORE_free(store);
    return 0;
}

static void use_key(SSL_CTX *context, const char *file)
{
    OSSL_ECHSTORE *store = key_in(file);

    MUST(SSL_CTX_set1_echstore(context, store) == 1);
    OSSL_ECHSTORE_free(store);
}

/* What this step asks for; or, behind a rejection, what the server said. */
static void offer(SSL *ssl, const char *words, const unsigned char *told, size_t length)
{
    const char *file = strchr(words, '=');

    if (told != NULL) {
        MUST(SSL_set1_ech_config_list(ssl, told, length) == 1);
    } else if (file != NULL) {
        OSSL_ECHSTORE *store = key_in(file + 1);

        MUST(SSL_set1_echstore(ssl, store) == 1);
        OSSL_ECHSTORE_free(store);
    } else {
        SSL_set_options(ssl, SSL_OP_ECH_GREASE);
    }
}

static const char *opened(SSL *ssl)
{
    char *inner = NULL, *outer = NULL;
    int status = SSL_ech_get1_status(ssl, &inner, &outer);

    OPENSSL_free(inner);
    OPENSSL_free(outer);
    return SSL_is_server(ssl) && status == SSL_ECH_STATUS_SUCCESS ? " opened" : "";
}

/* What the server that has rejected it said; or that the other end gave up for that, and nothing. */
static int is_rejected(SSL *ssl, unsigned char **told, size_t *length)
{
    int reason = ERR_GET_REASON(ERR_peek_error());

    if (reason != SSL_R_ECH_REQUIRED && reason != SSL_AD_REASON_OFFSET + SSL_AD_ECH_REQUIRED)
        return 0;
    ERR_clear_error();
    MUST(SSL_is_server(ssl) || (SSL_ech_get1_retry_config(ssl, told, length) == 1 && *length > 0));
    return 1;
}
#else
static int make_key(const char *file)
{
    printf("%s: this OpenSSL has no Encrypted Client Hello\n", file);
    return 1;
}

static void use_key(SSL_CTX *context, const char *file)
{
    (void)context;
    exit(make_key(file));
}

static void offer(SSL *ssl, const char *words, const unsigned char *told, size_t length)
{
    (void)ssl, (void)told, (void)length;
    exit(make_key(words));
}

static const char *opened(SSL *ssl)
{
    (void)ssl;
    return "";
}

static int is_rejected(SSL *ssl, unsigned char **told, size_t *length)
{
    (void)ssl, (void)told, (void)length;
    return 0;
}
#endif
