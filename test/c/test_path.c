/* When bulk is spread over more lanes: losses, full windows, and what only looks like them. */
#include "proto/path.h"
#include "support.h"

#define MS 1000000ull
#define SECOND (1000 * MS)

static struct pt_path path;
static struct pt_path_lane lane;
static struct pt_path_sample sample;
static uint64_t now;

static void begin(void)
{
    path = (struct pt_path){0};
    lane = (struct pt_path_lane){0};
    sample = (struct pt_path_sample){.min_rtt_us = 20000, .rtt_us = 21000};
    now = 100 * SECOND;
}

static bool look(void)
{
    now += 60 * MS;
    ck_assert(pt_path_due(&path, now));
    bool wanted = pt_path_look(&path, &lane, &sample, now);
    ck_assert(!pt_path_due(&path, now + 19 * MS + 2000 * sample.min_rtt_us)); /* two round trips */
    ck_assert(!wanted || pt_path_spread(&path, now) != PT_PATH_ONE_LANE);
    return wanted;
}

/* What sockets hold, in KB: a path that is filled (the congestion window limits, the buffer is more than
 * twice that), one longer than our buffer, one longer than the peer's, and a peer that reads little. */
static void holds(unsigned in_flight, unsigned not_sent, unsigned buffer, unsigned peer_window)
{
    sample.in_flight = in_flight * 1024ull;
    sample.not_sent = not_sent * 1024ull;
    sample.queued = (in_flight + not_sent) * 1024;
    sample.buffer = buffer * 1024;
    sample.peer_window = peer_window * 1024;
}

static void path_is_full(void) { holds(1000, 200, 3100, 6000); }
static void buffer_is_full(void) { holds(4000, 3, 4096, 15000); }
static void window_is_full(void) { holds(230, 128, 1000, 250); }

START_TEST(a_full_path_has_one_lane)
{
    begin();
    path_is_full();
    for (int i = 0; i < 100; i++)
        ck_assert(!look());
    holds(10, 0, 3100, 6000); /* next to nothing to send */
    for (int i = 0; i < 100; i++)
        ck_assert(!look());
    holds(0, 0, 0, 0); /* a kernel that does not tell */
    for (int i = 0; i < 100; i++)
        ck_assert(!look());
    ck_assert_int_eq(pt_path_spread(&path, now), PT_PATH_ONE_LANE);
}
END_TEST

static void spreads_while(void (*full)(void))
{
    begin();
    full();
    ck_assert(!look());
    ck_assert(!look());
    ck_assert(look());
    ck_assert_int_eq(pt_path_spread(&path, now), PT_PATH_WINDOW);
    ck_assert(look());
    uint64_t last = now;
    path_is_full();
    ck_assert(look()); /* one may be a gap between two writes */
    last = now;
    for (int i = 0; i < 10; i++)
        ck_assert(!look());
    ck_assert_int_eq(pt_path_spread(&path, last + 9 * SECOND), PT_PATH_WINDOW);
    ck_assert_int_eq(pt_path_spread(&path, last + 11 * SECOND), PT_PATH_ONE_LANE);
}

START_TEST(more_lanes_while_our_buffer_is_full) { spreads_while(buffer_is_full); }
END_TEST

START_TEST(more_lanes_while_their_window_is_full) { spreads_while(window_is_full); }
END_TEST

START_TEST(now_and_then_is_not_enough)
{
    begin();
    for (int i = 0; i < 100; i++) {
        (i % 2 ? buffer_is_full : path_is_full)();
        ck_assert(!look());
    }
}
END_TEST

START_TEST(a_short_path_is_never_too_long)
{
    begin();
    sample.min_rtt_us = sample.rtt_us = PT_PATH_LONG_US - 1;
    buffer_is_full();
    for (int i = 0; i < 10; i++)
        ck_assert(!look());
}
END_TEST

/* Buffers are full, and so is a queue on the way. */
START_TEST(a_slow_path_is_full)
{
    begin();
    buffer_is_full();
    sample.rtt_us = 26000;
    for (int i = 0; i < 10; i++)
        ck_assert(!look());
}
END_TEST

/* A kernel that does not tell it, or a peer that has none yet. */
START_TEST(no_window_is_not_a_full_one)
{
    begin();
    holds(1000, 200, 3100, 0);
    for (int i = 0; i < 100; i++)
        ck_assert(!look());
}
END_TEST

/* Its window was 1 MB and is now next to nothing, so what it lets through fills it. */
START_TEST(a_slow_reader_is_no_long_path)
{
    begin();
    holds(100, 100, 4096, 1024);
    ck_assert(!look());
    for (int i = 0; i < 10; i++) {
        holds(i % 2 ? 0 : 400, 1000, 4096, i % 2 ? 0 : 400);
        ck_assert(!look());
    }
}
END_TEST

START_TEST(losses_again_and_again)
{
    begin();
    sample.lost = 1;
    ck_assert(!look()); /* perhaps the peer had it */
    ck_assert(!look()); /* lost, for once */
    sample.lost = 3;
    ck_assert(!look());
    ck_assert(look());
    ck_assert_int_eq(pt_path_spread(&path, now), PT_PATH_LOSS);
    ck_assert_int_eq(pt_path_spread(&path, now + 11 * SECOND), PT_PATH_ONE_LANE);
}
END_TEST

START_TEST(losses_far_apart)
{
    begin();
    for (int i = 0; i < 10; i++) {
        sample.lost++;
        ck_assert(!look());
        ck_assert(!look());
        now += 3 * SECOND;
    }
}
END_TEST

/* Sent again, and a round trip later the peer says that it had them. */
START_TEST(what_the_peer_had_is_not_lost)
{
    begin();
    for (int i = 0; i < 50; i++) {
        sample.lost = i % 2 ? 0 : 5;
        ck_assert(!look());
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_full_path_has_one_lane,
                            more_lanes_while_our_buffer_is_full,
                            more_lanes_while_their_window_is_full,
                            now_and_then_is_not_enough,
                            a_short_path_is_never_too_long,
                            a_slow_path_is_full,
                            no_window_is_not_a_full_one,
                            a_slow_reader_is_no_long_path,
                            losses_again_and_again,
                            losses_far_apart,
                            what_the_peer_had_is_not_lost};
    return SUP_MAIN("path", tests);
}
