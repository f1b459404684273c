/* Every heap function of spacejmp.h, what it does and what it refuses. Prints `ok`.
 * `heap_calls twice` frees a block twice, `heap_calls inside` frees the middle of one. */
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
#define REFUSED(call, number) MUST((errno = 0, (call)) && errno == (number))

static segid_t make(const char *name, uint64_t size, uint64_t reserve, uint64_t base)
{
    struct seg_params params;
    memset(&params, 0, sizeof params);
    params.base = base;
    params.size_bytes = size;
    params.reserve_bytes = reserve;
    params.mode = 0600;
    params.lockable = 1;
    return seg_alloc_params(name, &params);
}

int main(int argc, char **argv)
{
    REFUSED(vas_malloc(1) == NULL, EPERM);
    REFUSED(vas_heap_init(1) == -1, EPERM);
    REFUSED(vas_root(&sj_u64) == NULL, EPERM);

    vasid_t vid = vas_create("heaps", 0600);
    segid_t raw = make("raw", 1 << 20, 0, 0x200000000000ull);
    segid_t sid = make("heap", 4096, 8 << 20, 0x210000000000ull);
    MUST(vid && raw && sid);
    MUST(seg_attach(vid, raw, SEG_WRITE) == 0 && seg_attach(vid, sid, SEG_WRITE) == 0);
    vhandle_t vh = vas_attach(vid, 0);
    MUST(vh != -1 && vas_switch(vh) == 0);
    REFUSED(vas_malloc(1) == NULL, ENOENT);
    REFUSED(vas_heap_init(12345) == -1, ENOENT);
    MUST(vas_heap_init(sid) == 0);
    REFUSED(vas_heap_init(sid) == -1, EEXIST);

    char *block = vas_malloc(100);
    MUST(block && (uintptr_t)block % 16 == 0 && vas_usable_size(block) >= 100);
    MUST((uintptr_t)block > 0x210000000000ull && (uintptr_t)block < 0x210000800000ull);
    memset(block, 'x', 100);
    char *moved = vas_realloc(block, 3 << 20);
    MUST(moved && moved[0] == 'x' && moved[99] == 'x');
    MUST(vas_usable_size(block) == 0);
    REFUSED(vas_realloc(moved, 100 << 20) == NULL, ENOMEM);
    MUST(moved[99] == 'x');
    uint64_t *zeros = vas_calloc(1000, 8);
    MUST(zeros != NULL);
    for (int i = 0; i < 1000; i++)
        MUST(zeros[i] == 0);
    REFUSED(vas_calloc((size_t)-1, 16) == NULL, ENOMEM);
    void *aligned = vas_aligned_alloc(4096, 10);
    MUST(aligned && (uintptr_t)aligned % 4096 == 0);
    REFUSED(vas_aligned_alloc(48, 10) == NULL, EINVAL);
    void *nothing = vas_malloc(0);
    MUST(nothing != NULL);

    struct vas_heap_stat stat;
    MUST(vas_heap_check(&stat) == 0);
    MUST(stat.blocks == 4 && stat.damages == 0 && stat.leaked_blocks == 0);
    REFUSED(vas_root(&sj_u64) == NULL, ENODATA);
    MUST(vas_set_root(zeros, &sj_u64) == 0 && vas_root(&sj_u64) == zeros);
    REFUSED(vas_root(&sj_i64) == NULL, EPROTOTYPE);
    struct seg_root root, none;
    memset(&none, 0, sizeof none);
    MUST(seg_root_get(sid, &root) == 0 && vas_root_is(&root) == 1 && vas_root_is(&none) == 0);
    char text[64];
    MUST(vas_root_text(text, sizeof text) == 23 && !strcmp(text, "u64 (8 bytes, align 8)\n"));
    MUST(vas_root_text(text, 4) == 23 && !strcmp(text, "u64"));
    REFUSED(vas_set_root(&stat, &sj_u64) == -1, EINVAL);
    /* The text of the type is a block, too, and not a leak. */
    MUST(vas_heap_check(&stat) == 0 && stat.blocks == 5 && stat.leaked_blocks == 3);

    if (argc == 2) {
        vas_free(strcmp(argv[1], "inside") == 0 ? moved + 64 : aligned);
        vas_free(aligned);
        return 3;
    }
    errno = 77;
    vas_free(nothing);
    vas_free(aligned);
    vas_free(moved);
    vas_free(NULL);
    MUST(errno == 77);
    MUST(vas_set_root(NULL, NULL) == 0 && vas_root_is(&root) == 0 && vas_root_is(&none) == 1);
    REFUSED(vas_root(&sj_u64) == NULL, ENODATA);
    MUST(vas_switch(VAS_HOME) == 0);
    REFUSED(vas_malloc(1) == NULL, EPERM);

    /* A shared lock is enough to check; another switch, made by its number, is noticed. */
    vhandle_t reader = vas_attach(vid, VAS_ATTACH_READ_ONLY);
    MUST(sj_call(SJ_CALL_VAS_SWITCH, (uint64_t)reader, 0, 0, 0, 0, 0) == 0);
    REFUSED(vas_malloc(1) == NULL, EACCES);
    REFUSED(vas_heap_init(raw) == -1, EACCES);
    MUST(vas_heap_check(&stat) == 0 && zeros[999] == 0);
    MUST(vas_switch(VAS_HOME) == 0 && vas_detach(reader) == 0 && vas_detach(vh) == 0);
    MUST(vas_delete(vid) == 0 && seg_delete(sid) == 0 && seg_delete(raw) == 0);
    puts("ok");
    return 0;
}
