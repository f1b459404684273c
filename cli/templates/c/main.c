/* Remembers every text it was ever given.
 *
 * The texts are a list in an address space (VAS), linked by ordinary pointers. Nothing is saved or
 * loaded: the next run goes on where this one ends. Each call is described in <spacejmp.h>.
 */
#include <spacejmp.h>
#include <stdio.h>

#define NAME "{{name}}"

struct entry {
    struct entry *before;
    char text[56];
};

/* The root object, from which everything in the VAS is reached. */
struct list {
    uint64_t count;
    struct entry *latest;
};

/* Their layout. It is kept with the data: a program with other structures is refused. */
extern const struct sj_type entry_type;
static const struct sj_field entry_fields[] = {
    SJ_OWNED(struct entry, before, entry_type),
    SJ_ARRAY(struct entry, text, sj_u8, 56),
};
const struct sj_type entry_type = SJ_STRUCT("Entry", struct entry, entry_fields);
static const struct sj_field list_fields[] = {
    SJ_FIELD(struct list, count, sj_u64),
    SJ_OWNED(struct list, latest, entry_type),
};
static const struct sj_type list_type = SJ_STRUCT("List", struct list, list_fields);

static int failed(const char *what)
{
    if (errno == ENOSYS)
        fputs(NAME ": not in a VM: start it with `spacejmp run`\n", stderr);
    else
        fprintf(stderr, NAME ": %s\n", strerror(errno));
    fprintf(stderr, "  in %s\n", what);
    vas_switch(VAS_HOME);
    return 1;
}

/* The first time: a VAS with one segment, and in it a heap with an empty list. The segment is
 * lockable, so that programs enter it one after another. */
static vasid_t create(void)
{
    struct seg_params params;
    memset(&params, 0, sizeof params);
    params.size_bytes = 2ull << 20;
    params.reserve_bytes = 1ull << 30;
    params.mode = 0600;
    params.lockable = 1;

    vasid_t vid = vas_create(NAME, 0600);
    segid_t sid = vid ? seg_alloc_params(NAME, &params) : 0;
    if (!sid || seg_attach(vid, sid, SEG_WRITE) != 0)
        return 0;
    vhandle_t vh = vas_attach(vid, 0);
    if (vh == -1 || vas_switch(vh) != 0)
        return 0;
    struct list *list = vas_heap_init(sid) == 0 ? vas_calloc(1, sizeof *list) : NULL;
    if (!list || vas_set_root(list, &list_type) != 0)
        return 0;
    vas_switch(VAS_HOME);
    vas_detach(vh);
    return vid;
}

static int add(struct list *list, const char *text)
{
    struct entry *entry = vas_calloc(1, sizeof *entry);
    if (!entry)
        return -1;
    strncpy(entry->text, text, sizeof entry->text - 1);
    entry->before = list->latest;
    list->latest = entry;
    list->count++;
    return 0;
}

int main(int argc, char **argv)
{
    vasid_t vid = vas_find(NAME);
    if (!vid && errno == ENOENT)
        vid = create();
    if (!vid)
        return failed("vas_find and create");
    vhandle_t vh = vas_attach(vid, 0);
    if (vh == -1)
        return failed("vas_attach");

    /* From here on the list is part of this program's memory, and no other thread is inside. */
    if (vas_switch(vh) != 0)
        return failed("vas_switch");
    struct list *list = vas_root(&list_type);
    if (!list)
        return failed("vas_root");
    for (int i = 1; i < argc; i++)
        if (add(list, argv[i]) != 0)
            return failed("vas_calloc");
    printf("%llu text%s\n", (unsigned long long)list->count, list->count == 1 ? "" : "s");
    for (const struct entry *entry = list->latest; entry; entry = entry->before)
        puts(entry->text);
    vas_switch(VAS_HOME);
    return 0;
}
