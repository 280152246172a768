/* pool.c - threads.
 *
 * A run is open while `run` is odd. A worker that sees a new odd value announces itself (`in`), looks at `run` again and
 * only then touches the job; the caller closes the run when no task is left and waits for those that announced themselves.
 * Both sides store first and look second, sequentially consistent, so one of them always sees the other. Hence nobody
 * waits for a worker that has not arrived: one that sleeps, lost its core, or does not exist (in a forked child) costs
 * time but is never needed, because every share can be taken over by the others. */
#include "pool.h"
#include "context.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

enum { SPIN_NS = 50 * 1000, POLL_NS = 50 * 1000 * 1000, LOOKS = 64 };

/* 128 bytes: neighbouring lines are fetched in pairs. */
typedef struct ALIGN(128) member {
    _Atomic int64_t next;        /* the first task of this share that nobody took */
    int64_t end;
    _Atomic uint32_t in;         /* the run this worker takes part in, 0: none */
    _Atomic uint32_t asleep;
    _Atomic int32_t core;        /* where it was when somebody was last woken, -1: not known */
    lw_pool *pool;
    int index;
    int started;
    pthread_t thread;
#ifndef __linux__
    pthread_mutex_t mutex;
    pthread_cond_t wake;
#endif
} member;

struct lw_pool {
    /* What idle workers look at, and what they need when it changes: one line. */
    ALIGN(128) _Atomic uint32_t run;
    _Atomic uint32_t stop;
    _Atomic int32_t active;      /* workers that have a share of this run */
    lw_task fn;
    void *arg;
    ALIGN(128) _Atomic int32_t left;   /* shares that still have a task */
    /* The caller's. */
    ALIGN(128) member *members;
    int threads;
    int64_t spin_ns;
    int (*poll)(void *);
    void *poll_arg;
    int64_t next_poll;
    volatile unsigned char *alive;     /* a page that a fork wipes, NULL: compare process ids */
    pid_t pid;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- sleeping ---------------------------------------------------------------------------------------------------- */
#ifdef __linux__
static void sleep_on(member *w)
{
    while (atomic_load(&w->asleep))
        syscall(SYS_futex, &w->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
}

/* waker: who wakes it, NULL: nobody whom it may disturb. */
static void wake(member *w, member *waker)
{
    if (!atomic_load(&w->asleep)) return;
    if (waker) atomic_store(&waker->core, sched_getcpu());
    if (atomic_exchange(&w->asleep, 0)) syscall(SYS_futex, &w->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Linux likes to wake a thread on its waker's core, where the two take turns, each spinning while the other should work, until some
 * milliseconds later it moves one of them. So who finds itself there leaves for a core that none of the others is on. */
static void leave_core(member *w)
{
    lw_pool *pool = w->pool;
    const member *caller = &pool->members[0], *waker = &pool->members[(w->index - 1) / 2];
    cpu_set_t allowed, others;
    const int32_t core = sched_getcpu();
    atomic_store(&w->core, core);
    if (core < 0 || (atomic_load(&caller->core) != core && atomic_load(&waker->core) != core)) return;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    others = allowed;
    for (int i = 0; i < pool->threads; i++) {
        const int32_t taken = atomic_load(&pool->members[i].core);
        if (i != w->index && taken >= 0 && taken < CPU_SETSIZE && !atomic_load(&pool->members[i].asleep)) CPU_CLR(taken, &others);
    }
    if (!CPU_COUNT(&others) || sched_setaffinity(0, sizeof others, &others)) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
    atomic_store(&w->core, sched_getcpu());
}
#else
static void sleep_on(member *w)
{
    pthread_mutex_lock(&w->mutex);
    while (atomic_load(&w->asleep)) pthread_cond_wait(&w->wake, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

static void wake(member *w, member *waker)
{
    (void)waker;
    if (!atomic_load(&w->asleep) || !atomic_exchange(&w->asleep, 0)) return;
    pthread_mutex_lock(&w->mutex);
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
}

static void leave_core(member *w) { (void)w; }
#endif

/* A tree: who takes part wakes its two children, so that 128 sleepers cost the caller two system calls. */
static void wake_children(lw_pool *pool, int index, int active)
{
    for (int child = 2 * index + 1; child <= 2 * index + 2 && child < active; child++)
        wake(&pool->members[child], &pool->members[index]);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------- */
static int64_t take(lw_pool *pool, member *share)
{
    /* Looking first spares thieves a write to a line that its owner is using. */
    if (atomic_load_explicit(&share->next, memory_order_relaxed) >= share->end) return -1;
    int64_t task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
    if (task >= share->end) return -1;
    if (task == share->end - 1) atomic_fetch_sub_explicit(&pool->left, 1, memory_order_relaxed);
    return task;
}

static int must_stop(lw_pool *pool)
{
    if (!pool->poll) return 0;
    int64_t now = now_ns();
    if (now < pool->next_poll) return 0;
    pool->next_poll = now + POLL_NS;
    return pool->poll(pool->poll_arg) != 0;
}

/* Own share first, then whatever is left of the others'. Only the caller (index 0) polls; returns 1 if it must stop. */
static int work(lw_pool *pool, int index, int active)
{
    lw_task fn = pool->fn;
    void *arg = pool->arg;
    for (int i = 0, victim = index; i < active; i++) {
        if (i > 0 && atomic_load_explicit(&pool->left, memory_order_relaxed) <= 0) break;
        member *share = &pool->members[victim];
        for (int64_t task; (task = take(pool, share)) >= 0;) {
            if (index == 0 && must_stop(pool)) return 1;
            fn(arg, task, index);
        }
        if (++victim == active) victim = 0;
    }
    return 0;
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */
/* The next open run in which this worker has a share, or 0 when the pool ends. */
static uint32_t await_run(member *w, uint32_t *seen)
{
    lw_pool *pool = w->pool;
    int64_t until = pool->spin_ns ? now_ns() + pool->spin_ns : 0;
    for (unsigned looks = 1;; looks++) {
        uint32_t run = atomic_load(&pool->run);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed)) return 0;
        if ((run & 1) && run != *seen) {
            *seen = run;
            if (w->index < atomic_load_explicit(&pool->active, memory_order_relaxed)) return run;
        }
        if (looks % LOOKS || now_ns() < until) {
            relax();
            continue;
        }
        atomic_store(&w->asleep, 1);
        run = atomic_load(&pool->run);
        if (atomic_load(&pool->stop) || ((run & 1) && run != *seen)) atomic_store(&w->asleep, 0);
        sleep_on(w);
        if (pool->spin_ns) leave_core(w);
        until = pool->spin_ns ? now_ns() + pool->spin_ns : 0;
    }
}

static void *worker_main(void *arg)
{
    member *w = arg;
    lw_pool *pool = w->pool;
    uint32_t seen = 0;
    lw_fp_enter();   /* a thread inherits its creator's state */
    for (uint32_t run; (run = await_run(w, &seen)) != 0;) {
        atomic_store(&w->in, run);
        if (atomic_load(&pool->run) == run) {
            int active = atomic_load_explicit(&pool->active, memory_order_relaxed);
            wake_children(pool, w->index, active);
            work(pool, w->index, active);
        }
        atomic_store_explicit(&w->in, 0, memory_order_release);
    }
    return NULL;
}

/* Starts as many workers as the system grants, with all signals blocked: handlers belong to the program's own threads. */
static lw_status start(lw_pool *pool)
{
    sigset_t all, old;
    lw_status status = LW_OK;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < pool->threads; i++) {
        member *w = &pool->members[i];
        memset(w, 0, sizeof *w);
        w->pool = pool;
        w->index = i;
        atomic_store(&w->core, -1);
#ifndef __linux__
        pthread_mutex_init(&w->mutex, NULL);
        pthread_cond_init(&w->wake, NULL);
#endif
        if (i == 0 || status != LW_OK) continue;
        if (pthread_create(&w->thread, NULL, worker_main, w)) status = LW_E_SYSTEM;
        else w->started = 1;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return status;
}

static int forked(const lw_pool *pool)
{
    return pool->alive ? !*pool->alive : pool->pid != getpid();
}

/* Marks this process as the one in which the workers run. */
static void settle(lw_pool *pool)
{
    pool->pid = getpid();
    if (pool->alive) *pool->alive = 1;
}

static unsigned char *fork_mark(void)
{
#ifdef MADV_WIPEONFORK
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return NULL;
    if (madvise(page, size, MADV_WIPEONFORK) == 0) return page;
    munmap(page, size);
#endif
    return NULL;
}

static int cores(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

lw_status lw_pool_create(int threads, lw_pool **out)
{
    *out = NULL;
    if (threads < 1) return LW_E_ARGUMENT;
    lw_pool *pool = aligned_alloc(128, sizeof *pool);
    member *members = aligned_alloc(128, (size_t)threads * sizeof *members);
    if (!pool || !members) {
        free(pool);
        free(members);
        return LW_E_MEMORY;
    }
    memset(pool, 0, sizeof *pool);
    pool->members = members;
    pool->threads = threads;
    /* With more threads than cores whoever spins keeps another from working. */
    pool->spin_ns = threads > cores() ? 0 : SPIN_NS;
    pool->alive = fork_mark();
    settle(pool);
    lw_status status = start(pool);
    if (status != LW_OK) lw_pool_free(pool);
    else *out = pool;
    return status;
}

void lw_pool_free(lw_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, 1);
    for (int i = 1; i < pool->threads && !forked(pool); i++) {
        if (!pool->members[i].started) continue;
        wake(&pool->members[i], NULL);
        pthread_join(pool->members[i].thread, NULL);
    }
    if (pool->alive) munmap((void *)pool->alive, (size_t)sysconf(_SC_PAGESIZE));
    free(pool->members);
    free(pool);
}

int lw_pool_threads(const lw_pool *pool) { return pool->threads; }

void lw_pool_set_poll(lw_pool *pool, int (*poll)(void *), void *arg)
{
    pool->poll = poll;
    pool->poll_arg = arg;
    pool->next_poll = now_ns() + POLL_NS;
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */
static void open_run(lw_pool *pool, int active, int64_t n_tasks, lw_task fn, void *arg)
{
    pool->fn = fn;
    pool->arg = arg;
    atomic_store_explicit(&pool->active, active, memory_order_relaxed);
    atomic_store_explicit(&pool->left, active, memory_order_relaxed);
    int64_t each = n_tasks / active, more = n_tasks % active, first = 0;
    for (int i = 0; i < active; i++) {
        atomic_store_explicit(&pool->members[i].next, first, memory_order_relaxed);
        first += each + (i < more);
        pool->members[i].end = first;
    }
    atomic_fetch_add(&pool->run, 1);
    wake_children(pool, 0, active);
}

/* After a cancellation: what nobody took is gone. */
static void drop_tasks(lw_pool *pool, int active)
{
    for (int i = 0; i < active; i++) atomic_store_explicit(&pool->members[i].next, INT64_MAX / 2, memory_order_relaxed);
}

/* Closes the run and waits for the workers that are in it; returns 1 if the caller was asked to stop meanwhile. */
static int close_run(lw_pool *pool, int active)
{
    int stopped = 0;
    atomic_fetch_add(&pool->run, 1);
    for (int i = 1; i < active; i++) {
        for (unsigned looks = 1; atomic_load(&pool->members[i].in) != 0; looks++) {
            if (looks % LOOKS) {
                relax();
                continue;
            }
            stopped |= must_stop(pool);
            /* The one we wait for may need this core: give it away, and after a while do not even ask for it. */
            if (!pool->spin_ns || looks > 16 * LOOKS) sched_yield();
            if (looks > 4096 * LOOKS) nanosleep(&(struct timespec){0, 50000}, NULL);
        }
    }
    return stopped;
}

static lw_status run_alone(lw_pool *pool, int64_t n_tasks, lw_task fn, void *arg)
{
    for (int64_t task = 0; task < n_tasks; task++) {
        if (must_stop(pool)) return LW_E_CANCELLED;
        fn(arg, task, 0);
    }
    return LW_OK;
}

lw_status lw_pool_run(lw_pool *pool, int64_t n_tasks, lw_task fn, void *arg)
{
    if (pool->threads == 1 || n_tasks <= 1) return run_alone(pool, n_tasks, fn, arg);
    if (forked(pool)) {
        /* A child has none of the threads and may have been cut off in the middle of a run: begin anew. Workers that the
         * system refuses are not needed. */
        atomic_store(&pool->run, 0);
        settle(pool);
        (void)start(pool);
    }
    LW_ASSERT((atomic_load(&pool->run) & 1) == 0);   /* one run at a time */
    int active = (int)lw_min(pool->threads, n_tasks);
    open_run(pool, active, n_tasks, fn, arg);
    int stopped = work(pool, 0, active);
    if (stopped) drop_tasks(pool, active);
    stopped |= close_run(pool, active);
    return stopped ? LW_E_CANCELLED : LW_OK;
}
