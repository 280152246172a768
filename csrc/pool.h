/* pool.h - the thread pool; lw_pool_run is the one primitive. */
#ifndef LW_POOL_H
#define LW_POOL_H
#include "common.h"
#include "lanewise.h"

typedef struct lw_pool lw_pool;
/* fn(arg, task, worker): worker 0 is the caller. A task never splits k, so who runs it does not change a bit. */
typedef void (*lw_task)(void *arg, int64_t task, int worker);

lw_status lw_pool_create(int threads, lw_pool **out);
void lw_pool_free(lw_pool *pool);
int lw_pool_threads(const lw_pool *pool);
void lw_pool_set_poll(lw_pool *pool, int (*poll)(void *), void *arg);
/* Runs tasks 0..n_tasks-1 and returns when all are done (LW_OK), or when the poll function asked to stop (LW_E_CANCELLED; tasks not
 * begun are dropped). Every worker has its own contiguous share and takes over from others when it is done. */
lw_status lw_pool_run(lw_pool *pool, int64_t n_tasks, lw_task fn, void *arg);
#endif
