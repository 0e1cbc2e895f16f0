/* The vectors of docs/wire-protocol.md: what the document says is what the code does. A vector is a
 * line `name: hex bytes` inside a block fenced as `vectors`; lines that begin with a blank go on
 * with the one before. test/partisan_wire_tests.erl checks those of the handshake. */
#include "support.h"

#include "proto/atoms.h"
#include "proto/auth.h"
#include "proto/dop.h"
#include "proto/frame.h"
#include "proto/relay.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { VECTORS = 64, LONGEST = 256, NAME = 40 };

static struct vector {
    char name[NAME];
    uint8_t at[LONGEST];
    size_t len;
    bool used;
} vectors[VECTORS];
static unsigned nvectors;

/* ---- the document ---- */

static void add_hex(struct vector *v, const char *text)
{
    for (unsigned byte; *text; text += 2) {
        while (isspace((unsigned char)*text))
            text++;
        if (!*text)
            return;
        if (sscanf(text, "%2x", &byte) != 1 || !isxdigit((unsigned char)text[1]))
            ck_abort_msg("%s: no hex digits: %s", v->name, text);
        ck_assert_uint_lt(v->len, LONGEST);
        v->at[v->len++] = (uint8_t)byte;
    }
}

static void read_document(void)
{
    static const char path[] = "docs/wire-protocol.md";
    char line[512];
    bool inside = false;
    FILE *f = fopen(path, "r");

    if (!f)
        ck_abort_msg("cannot open %s: unit tests run in the root of the tree", path);
    nvectors = 0;
    while (fgets(line, sizeof line, f)) {
        if (!strncmp(line, "```", 3)) {
            inside = !strcmp(line, "```vectors\n");
        } else if (inside && line[0] == ' ') {
            ck_assert_uint_gt(nvectors, 0);
            add_hex(&vectors[nvectors - 1], line);
        } else if (inside) {
            char *colon = strchr(line, ':');
            ck_assert_ptr_nonnull(colon);
            ck_assert_uint_lt(nvectors, VECTORS);
            struct vector *v = &vectors[nvectors++];
            memset(v, 0, sizeof *v);
            snprintf(v->name, sizeof v->name, "%.*s", (int)(colon - line), line);
            add_hex(v, colon + 1);
        }
    }
    fclose(f);
}

static struct vector *vector(const char *name)
{
    for (unsigned i = 0; i < nvectors; i++)
        if (!strcmp(vectors[i].name, name)) {
            vectors[i].used = true;
            return &vectors[i];
        }
    ck_abort_msg("the document has no vector %s", name);
}

static void same(const char *name, const uint8_t *p, size_t n)
{
    struct vector *v = vector(name);
    char hex[2 * LONGEST + 1] = "";
    for (size_t i = 0; i < PT_MIN(n, (size_t)LONGEST); i++)
        snprintf(hex + 2 * i, 3, "%02x", p[i]);
    if (n != v->len || memcmp(p, v->at, n))
        ck_abort_msg("%s: the code makes %s", name, hex);
}

/* Every vector of this kind was looked at. */
static void all_used(const char *prefix)
{
    for (unsigned i = 0; i < nvectors; i++)
        if (!strncmp(vectors[i].name, prefix, strlen(prefix)) && !vectors[i].used)
            ck_abort_msg("nothing checks the vector %s", vectors[i].name);
}

/* ---- frames ---- */

static uint8_t counting[PT_FRAME_AUTH_LEN];

/* In the order of the document, all on one lane. */
static const struct {
    const char *name, *payload;
    struct pt_frame f;
} frames[] = {
    {"frame.auth", "", {.type = PT_FRAME_AUTH, .auth = counting}},
    {"frame.tick", "", {.type = PT_FRAME_TICK}},
    {"frame.msg", "hello", {.type = PT_FRAME_MSG, .number = 1, .length = 5}},
    {"frame.msg_later", "x", {.type = PT_FRAME_MSG, .number = 5, .after = 1, .length = 1}},
    {"frame.msg_earlier", "y", {.type = PT_FRAME_MSG, .number = 2, .length = 1}},
    {"frame.fence",
     "z",
     {.type = PT_FRAME_MSG, .flags = PT_FRAME_FENCE, .number = 203, .after = 3, .length = 1}},
    {"frame.part", "chunk ", {.type = PT_FRAME_PART, .transfer = 7, .room = 12, .length = 6}},
    {"frame.last",
     "last",
     {.type = PT_FRAME_LAST,
      .transfer = 7,
      .room = 10,
      .offset = 6,
      .number = 204,
      .after = 203,
      .length = 4}},
    {"frame.drop", "", {.type = PT_FRAME_DROP, .transfer = 8}},
    {"frame.ack", "", {.type = PT_FRAME_ACK, .after = 300}},
    {"frame.end", "", {.type = PT_FRAME_END, .after = 300, .room = 2}},
};
enum { FRAMES = sizeof frames / sizeof frames[0] };

START_TEST(frames_of_a_lane)
{
    struct pt_frame_ctx tx = {1}, rx = {1};

    read_document();
    for (unsigned i = 0; i < PT_FRAME_AUTH_LEN; i++)
        counting[i] = (uint8_t)i;
    for (unsigned i = 0; i < FRAMES; i++) {
        const struct pt_frame *f = &frames[i].f;
        uint8_t out[PT_FRAME_HEAD_MAX + 16];
        size_t head = pt_frame_encode(out, f, &tx);
        memcpy(out + head, frames[i].payload, strlen(frames[i].payload));
        same(frames[i].name, out, head + strlen(frames[i].payload));

        struct vector *v = vector(frames[i].name);
        struct pt_frame got;
        ck_assert_int_eq(pt_frame_decode(v->at, v->len, &got, &rx), (int)head);
        ck_assert_uint_eq(got.type, f->type);
        ck_assert_uint_eq(got.flags, f->flags);
        ck_assert_uint_eq(got.number, f->number);
        ck_assert_uint_eq(got.after, f->after);
        ck_assert_uint_eq(got.transfer, f->transfer);
        ck_assert_uint_eq(got.room, f->room);
        ck_assert_uint_eq(got.offset, f->offset);
        ck_assert_uint_eq(got.length, f->length);
    }

    struct pt_frame got;
    struct vector *v = vector("frame.unknown");
    int head = pt_frame_decode(v->at, v->len, &got, &rx);
    ck_assert_int_gt(head, 0);
    ck_assert_uint_eq((size_t)head + got.length, v->len);
    ck_assert_uint_gt(got.type, PT_FRAME_AUTH);
    v = vector("frame.unknown_fatal");
    ck_assert_int_eq(pt_frame_decode(v->at, v->len, &got, &rx), PT_E_BAD_TYPE);
    all_used("frame.");
}
END_TEST

/* ---- sections ---- */

static void translate(const char *packet, struct pt_atom_table *vm, struct pt_atom_table *lane,
                      struct pt_frame_ctx *ctx, uint64_t number, const char *frame)
{
    struct vector *v = vector(packet);
    struct pt_packet pk;
    struct pt_atom_refs refs;
    uint8_t section[PT_ATOM_SECTION_MAX], out[PT_FRAME_HEAD_MAX + LONGEST];

    pt_packet_scan(v->at, v->len, v->len, &pk);
    ck_assert_int_eq(pk.form, PT_FORM_WHOLE);
    ck_assert_int_gt(pt_atoms_read(v->at + pk.atoms_at, v->len - pk.atoms_at, vm, &refs), 0);
    size_t n = pt_atoms_write(section, refs.ref, refs.count, lane);
    struct pt_frame f = {.type = PT_FRAME_MSG,
                         .flags = PT_FRAME_BARE,
                         .number = number,
                         .length = n + v->len - pk.header_len};
    size_t head = pt_frame_encode(out, &f, ctx);
    memcpy(out + head, section, n);
    memcpy(out + head + n, v->at + pk.header_len, v->len - pk.header_len);
    same(frame, out, head + f.length);
}

START_TEST(sections_by_lane)
{
    struct pt_atom_table vm = {0}, lane[2] = {0};
    struct pt_frame_ctx ctx[2] = {{1}, {1}};

    read_document();
    translate("atoms.packet_1", &vm, &lane[0], &ctx[0], 1, "atoms.lane_0_first");
    translate("atoms.packet_2", &vm, &lane[1], &ctx[1], 2, "atoms.lane_1_first");
    translate("atoms.packet_2", &vm, &lane[0], &ctx[0], 3, "atoms.lane_0_second");
    translate("atoms.packet_3", &vm, &lane[0], &ctx[0], 4, "atoms.lane_0_third");
    all_used("atoms.");
    pt_atom_table_free(&vm);
    pt_atom_table_free(&lane[0]);
    pt_atom_table_free(&lane[1]);
}
END_TEST

/* ---- keys ---- */

static void append(uint8_t *to, size_t *len, const void *p, size_t n)
{
    memcpy(to + *len, p, n);
    *len += n;
}

static void derive(const char *info, const uint8_t *digest, uint8_t *out, size_t n)
{
    struct vector *cookie = vector("key.cookie");
    ck_assert_int_eq(pt_auth_hkdf(cookie->at, cookie->len, digest, PT_AUTH_MAC_SIZE,
                                  (const uint8_t *)info, strlen(info), out, n),
                     0);
}

static void mac(const uint8_t *key, const void *text, size_t n, uint8_t *out)
{
    ck_assert_int_eq(pt_auth_hmac(key, PT_AUTH_MAC_SIZE, text, n, out), 0);
}

static struct vector *vector_of(const char *prefix, const char *name)
{
    char full[NAME];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return vector(full);
}

/* Request, proof and answer of a lane; behind the nonce of a channel's request come its name and the
 * name's length. */
static void attach(const uint8_t *key, const uint8_t *id, const char *prefix, const char *kind)
{
    enum { ID = 7, FIXED = ID + 16 + 1 + 16 };
    struct vector *request = vector_of(prefix, "request"), *proof = vector_of(prefix, "proof");
    struct vector *answer = vector_of(prefix, "answer");
    size_t name = request->len > FIXED ? request->at[FIXED] : 0;

    ck_assert_uint_eq(request->len, FIXED + (name ? 1 + name : 0));
    ck_assert_mem_eq(request->at + ID, id, 16);
    for (unsigned side = 0; side < 2; side++) {
        uint8_t text[160], out[32];
        char who[40];
        size_t len = 0;
        snprintf(who, sizeof who, "partisan %s %s", kind, side ? "connector" : "acceptor");
        append(text, &len, who, strlen(who));
        append(text, &len, request->at + ID, 16 + 1 + 16); /* session id, lane, nonce */
        append(text, &len, proof->at + 3, 16);
        append(text, &len, request->at + FIXED + 1, name);
        mac(key, text, len, out);
        ck_assert_mem_eq(out, side ? answer->at + 3 : proof->at + 19, sizeof out);
    }
}

START_TEST(keys_and_attach)
{
    static const char *const packets[] = {"hello.send_name", "hello.status", "hello.challenge",
                                          "hello.reply", "hello.ack"};
    static const char label[] = "partisan transcript";
    uint8_t transcript[5 * LONGEST], digest[32], key[32], out[32], id[16];
    size_t len = 0;

    read_document();
    for (unsigned i = 0; i < 5; i++)
        append(transcript, &len, vector(packets[i])->at, vector(packets[i])->len);
    ck_assert_int_eq(pt_auth_hmac((const uint8_t *)label, strlen(label), transcript, len, digest),
                     0);
    same("key.transcript", digest, sizeof digest);
    derive("partisan session id", digest, id, sizeof id);
    same("key.session_id", id, sizeof id);
    derive("partisan auth key", digest, key, sizeof key);
    same("key.auth", key, sizeof key);
    mac(key, "connector", 9, out);
    same("key.connector_mac", out, sizeof out);
    mac(key, "acceptor", 8, out);
    same("key.acceptor_mac", out, sizeof out);
    derive("partisan lane key", digest, key, sizeof key);
    same("key.lane", key, sizeof key);
    all_used("key.");

    struct vector *end = vector("attach.end");
    attach(key, id, "attach.", "lane");
    attach(key, id, "attach.channel_", "channel");
    ck_assert_uint_eq(end->len, 4);
    all_used("attach.");
}
END_TEST

START_TEST(relayed)
{
    uint8_t out[PT_RELAY_ENVELOPE_MAX];
    struct pt_relay_envelope e = {.hops = 2,
                                  .origin = UINT64_C(0x0102030405060708),
                                  .number = 9,
                                  .flow = UINT64_C(0x1112131415161718),
                                  .name = (const uint8_t *)"b@127.0.0.1",
                                  .name_len = 11};
    read_document();
    same("relay.envelope", out, pt_relay_encode(out, &e));
    struct vector *packet = vector("relay.packet");
    ck_assert(pt_relay_deliverable(packet->at, packet->len));
    all_used("relay.");
}
END_TEST

int main(void)
{
    const TTest *tests[] = {frames_of_a_lane, sections_by_lane, keys_and_attach, relayed};
    return SUP_MAIN("vectors", tests);
}
