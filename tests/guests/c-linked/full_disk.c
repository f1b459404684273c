/* Allocates from a heap until that fails: full_disk STEP, in KiB. Prints how much it got and why it
 * stopped; all of it was written. */
#include <errno.h>
#include <spacejmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    size_t step = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) << 10;
    struct seg_params p = {.size_bytes = 1 << 20, .reserve_bytes = 1 << 30, .mode = 0600, .lockable = 1};
    vasid_t vid = vas_create("full", 0600);
    segid_t sid = seg_alloc_params("full", &p);
    if (!vid || !sid || seg_attach(vid, sid, SEG_WRITE) || vas_switch(vas_attach(vid, 0)) ||
        vas_heap_init(sid)) {
        perror("no heap");
        return 1;
    }
    void *last = NULL;
    for (size_t got = 0; got < (64ul << 20); got += step) {
        void *block = vas_malloc(step);
        if (!block) {
            printf("refused at %zu KiB: %s\n", got >> 10, strerror(errno));
            vas_free(last);
            last = vas_malloc(step);
            if (!last)
                return 2;
            memset(last, 2, step);
            return 0;
        }
        memset(block, 1, step);
        last = block;
    }
    puts("no limit met");
    return 3;
}
