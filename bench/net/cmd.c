#include "cmd.h"

#include "conf.h"
#include "stats.h"

#include <string.h>

const char ptn_cmd_help[] =
    "  link A B WORDS         both directions between nodes A and B; `*` stands for every node\n"
    "  oneway A B WORDS       from A to B only\n"
    "  links                  what they are now\n"
    "  cut A B, heal A B      the link is interrupted, and whole again; packets under way are "
    "lost\n"
    "  cut-oneway A B, heal-oneway A B\n"
    "  flows                  TCP connections seen: number, ends, bytes sent by each\n"
    "  flow cut WHICH         its packets vanish from now on\n"
    "  flow reset WHICH       both ends get a reset, and whoever sends on it later\n"
    "  flow heal WHICH        an end to cut or reset\n"
    "                         WHICH: a number, `port N` (all open ones with it), or\n"
    "                         `busiest A B` (the one that carried most, not closed)\n"
    "  block PORT, unblock PORT   packets of every TCP connection with that port vanish\n"
    "  stats                  counters of links and emulator; `bottleneck no` is its last line\n"
    "  reset-stats            count anew\n"
    "  nodes                  names and addresses\n"
    "  quit\n";

struct cmd {
    struct ptn_engine *e;
    struct ptn_text *out;
    char *word[PTN_WORDS_MAX];
    int count;
};

static enum ptn_cmd_result error(struct cmd *c, const char *what, const char *word)
{
    ptn_text_add(c->out, "error: %s%s%s\n", what, *word ? " " : "", word);
    return PTN_CMD_ERROR;
}

static const char *arg(const struct cmd *c, int i) { return i < c->count ? c->word[i] : ""; }

/* Calls f for each directed pair that words 1 and 2 name. False: unknown node, the answer says so. */
static bool pairs(struct cmd *c, bool both, void (*f)(struct cmd *, unsigned, unsigned, void *),
                  void *ctx)
{
    int from = ptn_engine_node(c->e, arg(c, 1)), to = ptn_engine_node(c->e, arg(c, 2));
    bool any_from = !strcmp(arg(c, 1), "*"), any_to = !strcmp(arg(c, 2), "*");

    if ((from < 0 && !any_from) || (to < 0 && !any_to) || (from == to && from >= 0)) {
        error(c, "two different nodes are wanted, not:", arg(c, from < 0 && !any_from ? 1 : 2));
        return false;
    }
    for (unsigned i = 0; i < c->e->count; i++)
        for (unsigned j = 0; j < c->e->count; j++) {
            bool forth = (any_from || (int)i == from) && (any_to || (int)j == to);
            bool back = both && (any_from || (int)j == from) && (any_to || (int)i == to);
            if (i != j && (forth || back))
                f(c, i, j, ctx);
        }
    return true;
}

/* ---- links ---- */

struct words {
    char err[PTN_ERR_MAX];
    bool failed;
};

static void configure(struct cmd *c, unsigned from, unsigned to, void *ctx)
{
    struct words *w = ctx;
    struct ptn_link *l = &ptn_engine_path(c->e, from, to)->link;
    struct ptn_link_conf conf = l->conf;

    if (w->failed || ptn_conf_words(&conf, c->count - 3, c->word + 3, w->err, sizeof w->err))
        w->failed = true;
    else
        ptn_link_configure(l, &conf);
}

static enum ptn_cmd_result link_words(struct cmd *c, bool both)
{
    struct words w = {.failed = false};

    if (!pairs(c, both, configure, &w))
        return PTN_CMD_ERROR;
    return w.failed ? error(c, w.err, "") : PTN_CMD_OK;
}

static void set_cut(struct cmd *c, unsigned from, unsigned to, void *ctx)
{
    ptn_engine_cut(c->e, from, to, *(bool *)ctx);
}

static enum ptn_cmd_result cut(struct cmd *c, bool both, bool is_cut)
{
    return pairs(c, both, set_cut, &is_cut) ? PTN_CMD_OK : PTN_CMD_ERROR;
}

static enum ptn_cmd_result links(struct cmd *c)
{
    char words[512];

    for (unsigned i = 0; i < c->e->count; i++)
        for (unsigned j = 0; j < c->e->count; j++) {
            const struct ptn_path *p = ptn_engine_path(c->e, i, j);
            if (i == j)
                continue;
            ptn_conf_print(&p->link.conf, words, sizeof words);
            ptn_text_add(c->out, "oneway %s %s %s%s\n", c->e->node[i].name, c->e->node[j].name,
                         words, p->cut ? " (cut)" : "");
        }
    return PTN_CMD_OK;
}

/* ---- flows ---- */

static const char *rule_word(const struct ptn_flow *w)
{
    return w->rule == PTN_RULE_CUT ? "cut" : w->rule == PTN_RULE_RESET ? "reset" : "open";
}

static enum ptn_cmd_result flows(struct cmd *c)
{
    uint64_t now = ptn_now();
    char a[PTN_ADDR_TEXT], b[PTN_ADDR_TEXT];

    for (int i = 0; i < PTN_FLOWS; i++) {
        const struct ptn_flow *w = &c->e->flows.flow[i];
        if (!w->id)
            continue;
        ptn_text_add(c->out, "flow %u %s %u %s %u bytes %llu %llu quiet_ms %llu state %s\n", w->id,
                     ptn_addr_text(&w->addr[0], a), w->port[0], ptn_addr_text(&w->addr[1], b),
                     w->port[1], (unsigned long long)w->bytes[0], (unsigned long long)w->bytes[1],
                     (unsigned long long)((now - w->seen) / 1000000),
                     w->closed && w->rule == PTN_RULE_NONE ? "closed" : rule_word(w));
    }
    return PTN_CMD_OK;
}

static struct ptn_flow *busiest(struct cmd *c, int a, int b)
{
    struct ptn_flow *best = NULL;

    for (int i = 0; i < PTN_FLOWS; i++) {
        struct ptn_flow *w = &c->e->flows.flow[i];
        if (!w->id || w->closed || w->rule != PTN_RULE_NONE)
            continue;
        int x = ptn_engine_owner(c->e, &w->addr[0]), y = ptn_engine_owner(c->e, &w->addr[1]);
        if (((x == a && y == b) || (x == b && y == a)) &&
            (!best || w->bytes[0] + w->bytes[1] > best->bytes[0] + best->bytes[1]))
            best = w;
    }
    return best;
}

static enum ptn_cmd_result flow_rule(struct cmd *c, enum ptn_rule rule)
{
    const char *which = arg(c, 2);
    struct ptn_flow *w = NULL;
    uint64_t n;

    if (!strcmp(which, "port")) {
        unsigned found = 0;
        if (!ptn_read_count(arg(c, 3), 65535, &n))
            return error(c, "a port is a number up to 65535, not", arg(c, 3));
        for (int i = 0; i < PTN_FLOWS; i++) {
            w = &c->e->flows.flow[i];
            if (w->id && (w->port[0] == n || w->port[1] == n) && (!w->closed || w->rule)) {
                ptn_engine_rule(c->e, w, rule);
                found++;
            }
        }
        ptn_text_add(c->out, "flows %u\n", found);
        return found ? PTN_CMD_OK : error(c, "no open connection with port", arg(c, 3));
    }
    if (!strcmp(which, "busiest")) {
        int a = ptn_engine_node(c->e, arg(c, 3)), b = ptn_engine_node(c->e, arg(c, 4));
        if (a < 0 || b < 0)
            return error(c, "two nodes are wanted, not:", arg(c, a < 0 ? 3 : 4));
        w = busiest(c, a, b);
    } else if (ptn_read_count(which, UINT32_MAX, &n)) {
        w = ptn_flow_by_id(&c->e->flows, (uint32_t)n);
    } else {
        return error(c, "which flow? a number, `port N` or `busiest A B`, not:", which);
    }
    if (!w)
        return error(c, "there is no such connection", "");
    ptn_engine_rule(c->e, w, rule);
    ptn_text_add(c->out, "flow %u\n", w->id);
    return PTN_CMD_OK;
}

static enum ptn_cmd_result flow(struct cmd *c)
{
    if (!strcmp(arg(c, 1), "cut"))
        return flow_rule(c, PTN_RULE_CUT);
    if (!strcmp(arg(c, 1), "reset"))
        return flow_rule(c, PTN_RULE_RESET);
    if (!strcmp(arg(c, 1), "heal"))
        return flow_rule(c, PTN_RULE_NONE);
    return error(c, "flow cut, flow reset or flow heal, not:", arg(c, 1));
}

static enum ptn_cmd_result block(struct cmd *c, bool on)
{
    uint16_t *list = c->e->blocked;
    uint64_t port;
    int n = 0, at = -1;

    if (!ptn_read_count(arg(c, 1), 65535, &port) || !port)
        return error(c, "a port is a number from 1 to 65535, not", arg(c, 1));
    for (; n < PTN_PORTS_MAX && list[n]; n++)
        if (list[n] == port)
            at = n;
    if (on && at < 0) {
        if (n == PTN_PORTS_MAX)
            return error(c, "too many ports are blocked", "");
        list[n] = (uint16_t)port;
    } else if (!on && at >= 0) {
        list[at] = list[n - 1];
        list[n - 1] = 0;
    }
    return PTN_CMD_OK;
}

/* ---- the rest ---- */

static enum ptn_cmd_result nodes(struct cmd *c)
{
    char a[PTN_ADDR_TEXT], b[PTN_ADDR_TEXT];

    for (unsigned i = 0; i < c->e->count; i++)
        ptn_text_add(c->out, "node %s %s %s\n", c->e->node[i].name,
                     ptn_addr_text(&c->e->node[i].addr[0], a),
                     ptn_addr_text(&c->e->node[i].addr[1], b));
    return PTN_CMD_OK;
}

static enum ptn_cmd_result run(struct cmd *c, int *node)
{
    const char *verb = arg(c, 0);

    if (!strcmp(verb, "link") || !strcmp(verb, "oneway"))
        return link_words(c, *verb == 'l');
    if (!strcmp(verb, "cut") || !strcmp(verb, "heal"))
        return cut(c, true, *verb == 'c');
    if (!strcmp(verb, "cut-oneway") || !strcmp(verb, "heal-oneway"))
        return cut(c, false, *verb == 'c');
    if (!strcmp(verb, "links"))
        return links(c);
    if (!strcmp(verb, "flows"))
        return flows(c);
    if (!strcmp(verb, "flow"))
        return flow(c);
    if (!strcmp(verb, "block") || !strcmp(verb, "unblock"))
        return block(c, *verb == 'b');
    if (!strcmp(verb, "nodes"))
        return nodes(c);
    if (!strcmp(verb, "stats")) {
        ptn_stats(c->e, c->out);
        return PTN_CMD_OK;
    }
    if (!strcmp(verb, "reset-stats")) {
        ptn_engine_count_anew(c->e);
        return PTN_CMD_OK;
    }
    if (!strcmp(verb, "quit"))
        return PTN_CMD_QUIT;
    if (!strcmp(verb, "help")) {
        ptn_text_add(c->out, "%swords of a link:\n%s", ptn_cmd_help, ptn_conf_help);
        return PTN_CMD_OK;
    }
    if (!strcmp(verb, "netns")) {
        *node = ptn_engine_node(c->e, arg(c, 1));
        return *node < 0 ? error(c, "no such node:", arg(c, 1)) : PTN_CMD_NETNS;
    }
    return error(c, "no such command (try help):", verb);
}

enum ptn_cmd_result ptn_cmd(struct ptn_engine *e, char *line, struct ptn_text *out, int *node)
{
    struct cmd c = {.e = e, .out = out};
    char *rest = NULL;

    for (char *w = strtok_r(line, " \t\r\n", &rest); w; w = strtok_r(NULL, " \t\r\n", &rest)) {
        if (c.count == PTN_WORDS_MAX)
            return error(&c, "too many words", "");
        c.word[c.count++] = w;
    }
    enum ptn_cmd_result r = run(&c, node);
    if (r == PTN_CMD_OK || r == PTN_CMD_QUIT)
        ptn_text_add(out, "ok\n");
    return r;
}
