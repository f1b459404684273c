/* Space on the disk that the heap of a versioned segment takes.
 * `fill MIB` fills a block and prints its address, `free ADDRESS` frees it. */
#include <spacejmp.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            int number = errno; \
            vas_switch(VAS_HOME); \
            printf("FAILED line %d: %s (errno %d)\n", __LINE__, #condition, number); \
            exit(1); \
        } \
    } while (0)

static vasid_t make(void)
{
    struct seg_params params;
    memset(&params, 0, sizeof params);
    params.size_bytes = 2 << 20;
    params.reserve_bytes = 1ull << 30;
    params.mode = 0600;
    params.lockable = 1;
    params.lifetime = SEG_VERSIONED;
    vasid_t vid = vas_create("space", 0600);
    segid_t sid = seg_alloc_params("space", &params);
    MUST(vid && sid && seg_attach(vid, sid, SEG_WRITE) == 0);
    vhandle_t vh = vas_attach(vid, 0);
    MUST(vh != -1 && vas_switch(vh) == 0 && vas_heap_init(sid) == 0);
    MUST(vas_switch(VAS_HOME) == 0 && vas_detach(vh) == 0);
    return vid;
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    vasid_t vid = vas_find("space");
    if (!vid)
        vid = make();
    vhandle_t vh = vas_attach(vid, 0);
    MUST(vh != -1 && vas_switch(vh) == 0);
    void *block;
    if (!strcmp(argv[1], "fill")) {
        size_t size = strtoul(argv[2], NULL, 10) << 20;
        MUST((block = vas_malloc(size)) != NULL);
        memset(block, 'x', size);
    } else {
        block = (void *)strtoul(argv[2], NULL, 16);
        MUST(vas_usable_size(block) > 0);
        vas_free(block);
    }
    struct vas_heap_stat stat;
    MUST(vas_heap_check(&stat) == 0 && stat.damages == 0);
    MUST(vas_switch(VAS_HOME) == 0);
    printf("%p\n", block);
    return 0;
}
