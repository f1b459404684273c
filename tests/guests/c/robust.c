/* A robust mutex in a segment: a thread ends while it holds it, inside the VAS or at home,
 * or in another VAS that has another segment at the same address. `robust hold` locks it and waits,
 * `robust next` locks it afterwards. */
#define SPACEJMP_HEADER_ONLY
#include <errno.h>
#include <pthread.h>
#include <spacejmp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static vhandle_t vh, other;
static pthread_mutex_t *mutex;

enum place { HOME, INSIDE, ELSEWHERE };

static void *dies(void *place)
{
    vas_switch(vh);
    pthread_mutex_lock(mutex);
    if (place == (void *)HOME)
        vas_switch(VAS_HOME);
    if (place == (void *)ELSEWHERE)
        vas_switch(other);
    return NULL;
}

static vhandle_t make(const char *name, uint64_t base, uint64_t *at)
{
    struct seg_params params = {.size_bytes = 1 << 20, .reserve_bytes = 2 << 20, .mode = 0600};
    struct seg_stat stat;
    params.base = base;
    vasid_t vid = vas_create(name, 0600);
    segid_t sid = seg_alloc_params(name, &params);
    if (seg_stat(sid, &stat) || seg_attach(vid, sid, SEG_WRITE))
        perror(name);
    *at = stat.base;
    return vas_attach(vid, 0);
}

static void init(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    memset(mutex, 0, 4096);
    pthread_mutex_init(mutex, &attributes);
}

static int take(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    return pthread_mutex_timedlock(mutex, &until);
}

static void hold(void)
{
    uint64_t base;
    vh = make("robust", 0, &base);
    mutex = (pthread_mutex_t *)base;
    vas_switch(vh);
    init();
    take();
    puts("held");
    fflush(stdout);
    for (;;)
        pause();
}

static int next(void)
{
    struct seg_stat stat;
    seg_stat(seg_find("robust"), &stat);
    mutex = (pthread_mutex_t *)stat.base;
    vas_switch(vas_attach(vas_find("robust"), 0));
    puts(strerror(take()));
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"at home", "inside", "elsewhere"};
    uint64_t base, same;
    if (argc > 1)
        return strcmp(argv[1], "hold") ? next() : (hold(), 1);
    vh = make("robust", 0, &base);
    other = make("other", base, &same);
    mutex = (pthread_mutex_t *)base;
    if (base != same)
        puts("not the same base");
    for (long place = HOME; place <= ELSEWHERE; place++) {
        pthread_t thread;
        vas_switch(vh);
        init();
        pthread_create(&thread, NULL, dies, (void *)place);
        pthread_join(thread, NULL);
        int error = take();
        vas_switch(VAS_HOME);
        printf("%s: %s\n", names[place], strerror(error));
    }
    return 0;
}
