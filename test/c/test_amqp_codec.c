/* Frames between the node and the program for AMQP: every command, every truncation, bytes that are
 * none, and the heads of what goes back. */
#include "amqp/codec.h"
#include "support.h"

static uint8_t buf[1024];
static size_t len;

static void put(const void *p, size_t n)
{
    ck_assert_uint_le(len + n, sizeof buf);
    memcpy(buf + len, p, n);
    len += n;
}

static void put_word(const char *s)
{
    uint8_t n[2];

    pt_put16(n, (uint16_t)strlen(s));
    put(n, 2);
    put(s, strlen(s));
}

/* Decodes a copy of the frame's own size, so that a read beyond it is found. */
static int decode(size_t n, struct pt_amqp_cmd *cmd, uint8_t **copy)
{
    *copy = malloc(n ? n : 1);
    ck_assert_ptr_nonnull(*copy);
    memcpy(*copy, buf, n);
    return pt_amqp_decode(*copy, n, cmd);
}

/* Whatever is missing at the end, or comes on top, is noticed; `whole` says from where on it is whole. */
static void check_ends(size_t whole)
{
    struct pt_amqp_cmd cmd;
    uint8_t *copy;

    for (size_t n = 0; n < whole; n++) {
        ck_assert_int_eq(decode(n, &cmd, &copy), PT_E_BAD_FRAME);
        free(copy);
    }
}

static const char *const words[PT_AMQP_WORDS] = {"host", "/v", "u", "p\xc3\xa4ss", "", "",
                                                 "",     "n",  "d", "f",           "q"};

static void put_open(void)
{
    static const uint8_t head[] = {PT_AMQP_OPEN,
                                   PT_AMQP_VERSION,
                                   PT_AMQP_CONSUMER,
                                   3,
                                   0x16,
                                   0x28,
                                   0,
                                   10,
                                   1,
                                   0,
                                   0,
                                   0,
                                   0x27,
                                   0x10,
                                   0,
                                   0x36,
                                   0xee,
                                   0x80,
                                   0,
                                   0,
                                   0,
                                   1,
                                   0,
                                   0,
                                   0,
                                   2};
    len = 0;
    put(head, sizeof head);
    for (int i = 0; i < PT_AMQP_WORDS; i++)
        put_word(words[i]);
}

START_TEST(test_open)
{
    struct pt_amqp_cmd cmd;
    uint8_t *copy;

    put_open();
    ck_assert_int_eq(decode(len, &cmd, &copy), 0);
    ck_assert_int_eq(cmd.op, PT_AMQP_OPEN);
    ck_assert_int_eq(cmd.open.role, PT_AMQP_CONSUMER);
    ck_assert_int_eq(cmd.open.flags, PT_AMQP_F_TLS | PT_AMQP_F_VERIFY);
    ck_assert_uint_eq(cmd.open.port, 5672);
    ck_assert_uint_eq(cmd.open.heartbeat, 10);
    ck_assert_uint_eq(cmd.open.prefetch, 256);
    ck_assert_uint_eq(cmd.open.timeout, 10000);
    ck_assert_uint_eq(cmd.open.expires, 3600000);
    ck_assert_uint_eq(cmd.open.max_bytes, 0x100000002);
    for (int i = 0; i < PT_AMQP_WORDS; i++) {
        ck_assert_uint_eq(cmd.open.word[i].len, strlen(words[i]));
        ck_assert_int_eq(memcmp(cmd.open.word[i].at, words[i], strlen(words[i])), 0);
    }
    free(copy);
    check_ends(len);
    put("x", 1);
    ck_assert_int_eq(decode(len, &cmd, &copy), PT_E_BAD_FRAME);
    free(copy);
}
END_TEST

/* Version, role, and a NUL within a string: librabbitmq would see half of it. */
START_TEST(test_open_refused)
{
    struct pt_amqp_cmd cmd;
    uint8_t *copy;
    static const struct {
        size_t at;
        uint8_t byte;
    } bad[] = {{1, PT_AMQP_VERSION + 1}, {2, 0}, {2, 3}, {28, 0}};

    put_open();
    ck_assert_int_eq(buf[28], 'h');
    buf[bad[_i].at] = bad[_i].byte;
    ck_assert_int_eq(decode(len, &cmd, &copy), PT_E_BAD_FRAME);
    free(copy);
}
END_TEST

START_TEST(test_publish)
{
    static const uint8_t head[] = {
        PT_AMQP_PUBLISH, PT_AMQP_F_MANDATORY | PT_AMQP_F_PERSISTENT, 1, 2, 3, 4, 5, 6, 7, 8};
    struct pt_amqp_cmd cmd;
    uint8_t *copy;

    len = 0;
    put(head, sizeof head);
    put_word("key");
    size_t whole = len; /* an empty body is one */
    check_ends(whole);
    put("a\0b", 3);
    ck_assert_int_eq(decode(len, &cmd, &copy), 0);
    ck_assert_int_eq(cmd.op, PT_AMQP_PUBLISH);
    ck_assert_int_eq(cmd.publish.flags, 3);
    ck_assert_uint_eq(cmd.publish.id, 0x0102030405060708);
    ck_assert_uint_eq(cmd.publish.key.len, 3);
    ck_assert_int_eq(memcmp(cmd.publish.key.at, "key", 3), 0);
    ck_assert_uint_eq(cmd.publish.len, 3);
    ck_assert_int_eq(memcmp(cmd.publish.body, "a\0b", 3), 0);
    free(copy);
    ck_assert_int_eq(decode(whole, &cmd, &copy), 0);
    ck_assert_uint_eq(cmd.publish.len, 0);
    free(copy);
}
END_TEST

START_TEST(test_ack)
{
    static const uint8_t frame[] = {PT_AMQP_ACK, 0, 0, 0, 0, 0, 0, 1, 0};
    struct pt_amqp_cmd cmd;
    uint8_t *copy;

    len = 0;
    put(frame, sizeof frame);
    ck_assert_int_eq(decode(len, &cmd, &copy), 0);
    ck_assert_int_eq(cmd.op, PT_AMQP_ACK);
    ck_assert_uint_eq(cmd.ack, 256);
    free(copy);
    check_ends(len);
}
END_TEST

/* Any bytes: 0 or PT_E_BAD_FRAME, and nothing outside the frame. */
START_TEST(test_noise)
{
    struct sup_rng rng = {11};
    struct pt_amqp_cmd cmd;
    uint8_t *copy;
    int good = 0;

    for (int i = 0; i < 200000; i++) {
        len = sup_below(&rng, 64);
        for (size_t k = 0; k < len; k++)
            buf[k] = (uint8_t)(sup_chance(&rng, 50) ? sup_below(&rng, 4) : sup_rand(&rng));
        int rc = decode(len, &cmd, &copy);
        sup_must(rc == 0 || rc == PT_E_BAD_FRAME);
        if (rc == 0 && cmd.op == PT_AMQP_PUBLISH) {
            sup_must(cmd.publish.body + cmd.publish.len == copy + len);
            sup_must((const uint8_t *)cmd.publish.key.at + cmd.publish.key.len == cmd.publish.body);
            good++;
        }
        free(copy);
    }
    ck_assert_int_gt(good, 0); /* else the noise is too noisy to test anything */
}
END_TEST

START_TEST(test_put)
{
    static const struct {
        uint8_t op;
        uint64_t a;
        uint16_t b;
        size_t more;
        uint8_t len;
        uint8_t frame[PT_AMQP_HEAD_MAX];
    } heads[] = {
        {PT_AMQP_READY, 0, 0, 0, 5, {0, 0, 0, 1, 1}},
        {PT_AMQP_CONFIRM, 258, 1, 0, 14, {0, 0, 0, 10, 2, 0, 0, 0, 0, 0, 0, 1, 2, 1}},
        {PT_AMQP_NACK, 1, 0, 0, 14, {0, 0, 0, 10, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0}},
        {PT_AMQP_RETURNED, 7, 312, 0, 15, {0, 0, 0, 11, 4, 0, 0, 0, 0, 0, 0, 0, 7, 1, 56}},
        {PT_AMQP_BLOCKED, 0, 0, 3, 5, {0, 0, 0, 4, 5}},
        {PT_AMQP_UNBLOCKED, 0, 0, 0, 5, {0, 0, 0, 1, 6}},
        {PT_AMQP_DELIVER, 9, 1, 256, 14, {0, 0, 1, 10, 7, 0, 0, 0, 0, 0, 0, 0, 9, 1}},
        {PT_AMQP_FAILED, 0, 0, 2, 5, {0, 0, 0, 3, 8}},
    };
    uint8_t at[PT_AMQP_HEAD_MAX];

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t n = pt_amqp_put(at, heads[i].op, heads[i].a, heads[i].b, heads[i].more);
        ck_assert_uint_eq(n, heads[i].len);
        ck_assert_int_eq(memcmp(at, heads[i].frame, n), 0);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("amqp_codec");
    TCase *c = tcase_create("amqp_codec");

    tcase_add_test(c, test_open);
    tcase_add_loop_test(c, test_open_refused, 0, 4);
    tcase_add_test(c, test_publish);
    tcase_add_test(c, test_ack);
    tcase_add_test(c, test_noise);
    tcase_add_test(c, test_put);
    suite_add_tcase(s, c);

    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
