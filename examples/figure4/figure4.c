/* Figure 4 of the SpaceJMP paper (ASPLOS 2016), as two programs that run one after the other.
 *
 *     figure4 create           makes VAS "v0" with segment "s0"
 *     figure4 store TEXT       switches in, allocates, stores
 *     figure4 show             what the next process finds, through an ordinary pointer
 *
 * create() and store() are the paper's code except for three lines: the segment gets a heap once
 * (there, `malloc` finds one by itself), `vas_malloc` says whose memory is meant, and the root
 * object is how a later program finds the text, which the figure leaves open.
 */
#include <spacejmp.h>
#include <stdio.h>

/* The root object. */
struct text {
    uint64_t length;
    char bytes[56];
};

static const struct sj_field text_fields[] = {
    SJ_FIELD(struct text, length, sj_u64),
    SJ_ARRAY(struct text, bytes, sj_u8, 56),
};
static const struct sj_type text_type = SJ_STRUCT("Text", struct text, text_fields);

static int failed(const char *what)
{
    perror(what);
    vas_switch(VAS_HOME);
    return 1;
}

static int create(void)
{
    vasid_t vid = vas_create("v0", 0660);
    if (!vid)
        return failed("vas_create");
    segid_t sid = seg_alloc("s0", 0, 1ull << 35, 0660);
    if (!sid)
        return failed("seg_alloc");
    if (seg_attach(vid, sid, SEG_WRITE) != 0)
        return failed("seg_attach");

    vhandle_t vh = vas_attach(vid, 0);
    if (vh == -1 || vas_switch(vh) != 0)
        return failed("vas_switch");
    if (vas_heap_init(sid) != 0)
        return failed("vas_heap_init");
    vas_switch(VAS_HOME);
    puts("v0 is there, with 32 GiB of s0");
    return 0;
}

static int store(const char *what)
{
    vasid_t vid = vas_find("v0");
    if (!vid)
        return failed("vas_find");
    vhandle_t vh = vas_attach(vid, 0);
    if (vh == -1)
        return failed("vas_attach");

    if (vas_switch(vh) != 0)
        return failed("vas_switch");
    struct text *text = vas_malloc(sizeof *text);
    if (!text)
        return failed("vas_malloc");
    /* Stack and arguments are where they were: only the segments changed. */
    memset(text, 0, sizeof *text);
    strncpy(text->bytes, what, sizeof text->bytes - 1);
    text->length = strlen(text->bytes);
    struct text *before = vas_root(&text_type);
    if (vas_set_root(text, &text_type) != 0)
        return failed("vas_set_root");
    vas_free(before);
    vas_switch(VAS_HOME);
    return 0;
}

static int show(void)
{
    vasid_t vid = vas_find("v0");
    if (!vid)
        return failed("vas_find");
    vhandle_t vh = vas_attach(vid, VAS_ATTACH_READ_ONLY);
    if (vh == -1 || vas_switch(vh) != 0)
        return failed("vas_switch");
    const struct text *text = vas_root(&text_type);
    if (!text)
        return failed("vas_root");
    printf("%d bytes at %p: %s\n", (int)text->length, (const void *)text, text->bytes);
    vas_switch(VAS_HOME);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "create") == 0)
        return create();
    if (argc == 3 && strcmp(argv[1], "store") == 0)
        return store(argv[2]);
    if (argc == 2 && strcmp(argv[1], "show") == 0)
        return show();
    fputs("usage: figure4 create | store TEXT | show   (under `spacejmp run`)\n", stderr);
    return 2;
}
