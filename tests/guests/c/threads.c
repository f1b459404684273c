/* pthreads: mutex, condition variable, thread-local storage, keys, once, cancellation.
 * Prints lines that do not vary and exits with 0. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static _Thread_local long mine = 5;
static long total, turn, destroyed, cleaned, initialised;

static void destroy(void *value) { __atomic_fetch_add(&destroyed, (long)value, __ATOMIC_SEQ_CST); }
static void clean(void *value) { (void)value; cleaned = 1; }
static void initialise(void) { initialised++; }

static void *worker(void *argument)
{
    long number = (long)argument;
    pthread_once(&once, initialise);
    pthread_setspecific(key, (void *)(number + 1));
    for (int i = 0; i < 1000; i++) {
        mine += number;
        pthread_mutex_lock(&lock);
        total++;
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    while (turn != number)
        pthread_cond_wait(&turned, &lock);
    turn++;
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&lock);
    return (void *)mine;
}

static void *waits(void *argument)
{
    pthread_cleanup_push(clean, NULL);
    for (;;)
        pause();
    pthread_cleanup_pop(0);
    return argument;
}

int main(void)
{
    enum { COUNT = 16 };
    pthread_t threads[COUNT], waiter;
    long results = 0;
    void *result;
    pthread_key_create(&key, destroy);
    for (long i = 0; i < COUNT; i++)
        if (pthread_create(&threads[i], NULL, worker, (void *)i))
            return 1;
    for (int i = 0; i < COUNT; i++) {
        pthread_join(threads[i], &result);
        results += (long)result;
    }
    printf("total %ld, turns %ld, results %ld\n", total, turn, results);
    printf("destroyed %ld, initialised %ld, mine %ld\n", destroyed, initialised, mine);
    if (pthread_create(&waiter, NULL, waits, NULL))
        return 1;
    usleep(10000);
    pthread_cancel(waiter);
    pthread_join(waiter, &result);
    printf("cancelled %d, cleaned %ld\n", result == PTHREAD_CANCELED, cleaned);
    return 0;
}
