#include "fake_vm.h"

#include "base/pt.h"
#include "vm/node.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

ErlDrvEntry *driver_init(void);

struct fv_port {
    const ErlDrvEntry *entry;
    ErlDrvData data;
    fv_deliver *deliver;
    void *ctx;
    int epoll;
    pthread_t thread;
    atomic_bool stop;
    atomic_bool failed;
    pthread_mutex_t lock;
    /* lock */
    uint64_t timer_at; /* ns, or 0 */
    size_t queued;     /* bytes in the port's own queue */
};

void (*fv_on_send)(ERL_NIF_TERM pid, ERL_NIF_TERM message);

/* What the NIF does, which is not linked. */
void pt_nif_loop_failed(const char *text) { (void)text; }

static struct fv_port *of(ErlDrvPort port) { return (struct fv_port *)(void *)port; }
static ErlDrvPort handle(struct fv_port *p) { return (ErlDrvPort)(void *)p; }

/* ---- the port's thread ---- */

static void *poller(void *arg)
{
    struct fv_port *p = arg;
    while (!p->stop) {
        struct epoll_event ev;
        int n = epoll_wait(p->epoll, &ev, 1, 2);
        pthread_mutex_lock(&p->lock);
        if (!p->stop && n == 1)
            p->entry->ready_input(p->data, (ErlDrvEvent)(intptr_t)ev.data.fd);
        if (!p->stop && p->timer_at && pt_now_ns() >= p->timer_at) {
            p->timer_at = 0;
            p->entry->timeout(p->data);
        }
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

struct fv_port *fv_open(fv_deliver *deliver, void *ctx)
{
    struct fv_port *p = calloc(1, sizeof *p);
    p->entry = driver_init();
    p->deliver = deliver;
    p->ctx = ctx;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&p->lock, NULL);
    p->data = p->entry->start(handle(p), NULL);
    pthread_create(&p->thread, NULL, poller, p);
    return p;
}

void fv_close(struct fv_port *p)
{
    p->stop = true;
    pthread_join(p->thread, NULL);
    pthread_mutex_lock(&p->lock);
    p->entry->stop(p->data);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_destroy(&p->lock);
    close(p->epoll);
    free(p);
}

bool fv_control(struct fv_port *p, unsigned verb, const void *data, size_t len, char words[256])
{
    char room[256], *out = room;
    pthread_mutex_lock(&p->lock);
    ErlDrvSSizeT n =
        p->entry->control(p->data, verb, (char *)(uintptr_t)data, len, &out, sizeof room);
    pthread_mutex_unlock(&p->lock);
    if (n < 1)
        return false;
    memcpy(words, out + 1, (size_t)n - 1);
    words[n - 1] = 0;
    return out[0] == 0;
}

void fv_lock(struct fv_port *p) { pthread_mutex_lock(&p->lock); }
void fv_unlock(struct fv_port *p) { pthread_mutex_unlock(&p->lock); }
ErlDrvData fv_data(struct fv_port *p) { return p->data; }
bool fv_failed(struct fv_port *p) { return p->failed; }

/* ---- ports ---- */

int driver_select(ErlDrvPort port, ErlDrvEvent event, int mode, int on)
{
    struct fv_port *p = of(port);
    int fd = (int)(intptr_t)event;
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (mode & ERL_DRV_READ) {
        epoll_ctl(p->epoll, EPOLL_CTL_DEL, fd, NULL);
        if (on)
            epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &ev);
    }
    if (!on && (mode & ERL_DRV_USE))
        p->entry->stop_select(event, NULL);
    return 0;
}

int driver_set_timer(ErlDrvPort port, unsigned long ms)
{
    of(port)->timer_at = pt_now_ns() + ms * 1000000u;
    return 0;
}

int driver_output(ErlDrvPort port, char *buf, ErlDrvSizeT len)
{
    of(port)->deliver(of(port)->ctx, (const uint8_t *)buf, len);
    return 0;
}

int driver_output_binary(ErlDrvPort port, char *head, ErlDrvSizeT head_len, ErlDrvBinary *bin,
                         ErlDrvSizeT offset, ErlDrvSizeT len)
{
    (void)head, (void)head_len;
    return driver_output(port, bin->orig_bytes + offset, len);
}

int driver_enq(ErlDrvPort port, char *buf, ErlDrvSizeT len)
{
    (void)buf;
    of(port)->queued += len;
    return 0;
}

ErlDrvSizeT driver_deq(ErlDrvPort port, ErlDrvSizeT len) { return of(port)->queued -= len; }
ErlDrvSizeT driver_sizeq(ErlDrvPort port) { return of(port)->queued; }

int driver_failure_atom(ErlDrvPort port, char *why)
{
    (void)why;
    of(port)->failed = true;
    return 0;
}

void set_busy_port(ErlDrvPort port, int on) { (void)port, (void)on; }
void set_port_control_flags(ErlDrvPort port, int flags) { (void)port, (void)flags; }
int driver_lock_driver(ErlDrvPort port)
{
    (void)port;
    return 0;
}
ErlDrvTermData driver_mk_port(ErlDrvPort port) { return (ErlDrvTermData)port; }
ErlDrvTermData driver_mk_atom(char *name)
{
    (void)name;
    return 0;
}
ErlDrvTermData driver_caller(ErlDrvPort port)
{
    (void)port;
    return 0;
}

int erl_drv_send_term(ErlDrvTermData port, ErlDrvTermData to, ErlDrvTermData *term, int len)
{
    (void)port, (void)to, (void)term, (void)len;
    return 1;
}

/* ---- memory ---- */

struct counted {
    atomic_long refs;
    ErlDrvBinary bin; /* must stay last */
};

static struct counted *counted(ErlDrvBinary *bin)
{
    return PT_CONTAINER_OF(bin, struct counted, bin);
}

void *driver_alloc(ErlDrvSizeT size) { return malloc(size); }
void *driver_realloc(void *p, ErlDrvSizeT size) { return realloc(p, size); }
void driver_free(void *p) { free(p); }

ErlDrvBinary *driver_alloc_binary(ErlDrvSizeT size)
{
    struct counted *c = malloc(sizeof *c + size);
    atomic_init(&c->refs, 1);
    c->bin.orig_size = (ErlDrvSSizeT)size;
    return &c->bin;
}

ErlDrvBinary *driver_realloc_binary(ErlDrvBinary *bin, ErlDrvSizeT size)
{
    struct counted *c = realloc(counted(bin), sizeof *c + size);
    c->bin.orig_size = (ErlDrvSSizeT)size;
    return &c->bin;
}

void driver_free_binary(ErlDrvBinary *bin)
{
    if (bin && atomic_fetch_sub(&counted(bin)->refs, 1) == 1)
        free(counted(bin));
}

ErlDrvSInt driver_binary_inc_refc(ErlDrvBinary *bin)
{
    return atomic_fetch_add(&counted(bin)->refs, 1) + 1;
}
ErlDrvSInt driver_binary_get_refc(ErlDrvBinary *bin) { return atomic_load(&counted(bin)->refs); }

/* ---- what channels and relays need of the NIF interface ---- */

ErlNifEnv *enif_alloc_env(void) { return malloc(1); }
void enif_free_env(ErlNifEnv *env) { free(env); }

ERL_NIF_TERM enif_make_copy(ErlNifEnv *env, ERL_NIF_TERM term)
{
    (void)env;
    return term;
}

int enif_send(ErlNifEnv *caller, const ErlNifPid *to, ErlNifEnv *env, ERL_NIF_TERM message)
{
    (void)caller, (void)env;
    fv_on_send(to->pid, message);
    return 1;
}

int enif_compare(ERL_NIF_TERM a, ERL_NIF_TERM b) { return (a > b) - (a < b); }

ERL_NIF_TERM enif_make_atom(ErlNifEnv *env, const char *name)
{
    (void)env, (void)name;
    return 0;
}

ERL_NIF_TERM enif_make_tuple(ErlNifEnv *env, unsigned n, ...)
{
    (void)env, (void)n;
    return 0;
}

unsigned char *enif_make_new_binary(ErlNifEnv *env, size_t size, ERL_NIF_TERM *term)
{
    (void)env, (void)size, (void)term;
    abort(); /* of messages that are relayed */
}

size_t enif_binary_to_term(ErlNifEnv *env, const unsigned char *p, size_t len, ERL_NIF_TERM *term,
                           unsigned opts)
{
    (void)env, (void)p, (void)len, (void)term, (void)opts;
    abort(); /* of messages that are relayed */
}

ErlNifIOVec *fv_iovec(const void *p, size_t len)
{
    ErlNifIOVec *v = calloc(1, sizeof *v);
    v->iov = malloc(sizeof *v->iov);
    v->iov->iov_base = malloc(len);
    v->iov->iov_len = v->size = len;
    v->iovcnt = 1;
    memcpy(v->iov->iov_base, p, len);
    return v;
}

void enif_free_iovec(ErlNifIOVec *v)
{
    free(v->iov->iov_base);
    free(v->iov);
    free(v);
}
