/* A list of books that C and Rust (`c_shelf`) keep together.
 *
 * `shelf make`, `shelf add TITLE PAGES`, `shelf list`, `shelf text`: the description of the type. */
#include <spacejmp.h>
#include <stdio.h>
#include <stdlib.h>

struct book {
    struct book *next;
    struct book *like;
    uint32_t pages;
    uint8_t title[20];
};

struct shelf {
    uint64_t count;
    struct book *first;
};

extern const struct sj_type book_type;
static const struct sj_field book_fields[] = {
    SJ_OWNED(struct book, next, book_type),
    SJ_SHARED(struct book, like, book_type),
    SJ_FIELD(struct book, pages, sj_u32),
    SJ_ARRAY(struct book, title, sj_u8, 20),
};
const struct sj_type book_type = SJ_STRUCT("Book", struct book, book_fields);
static const struct sj_field shelf_fields[] = {
    SJ_FIELD(struct shelf, count, sj_u64),
    SJ_OWNED(struct shelf, first, book_type),
};
static const struct sj_type shelf_type = SJ_STRUCT("Shelf", struct shelf, shelf_fields);

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int enter(uint64_t flags)
{
    vasid_t vid = vas_find("shelf");
    vhandle_t vh = vid ? vas_attach(vid, flags) : -1;
    return vh == -1 ? -1 : vas_switch(vh);
}

static int make(void)
{
    struct seg_params params;
    memset(&params, 0, sizeof params);
    params.size_bytes = 2 << 20;
    params.reserve_bytes = 1 << 30;
    params.mode = 0600;
    params.lockable = 1;
    vasid_t vid = vas_create("shelf", 0600);
    segid_t sid = seg_alloc_params("shelf", &params);
    if (!vid || !sid || seg_attach(vid, sid, SEG_WRITE) != 0 || enter(0) != 0)
        return failed("make");
    if (vas_heap_init(sid) != 0)
        return failed("vas_heap_init");
    struct shelf *shelf = (struct shelf *)vas_calloc(1, sizeof *shelf);
    if (!shelf || vas_set_root(shelf, &shelf_type) != 0)
        return failed("root");
    return vas_switch(VAS_HOME);
}

static int add(const char *title, const char *pages)
{
    if (enter(0) != 0)
        return failed("enter");
    struct shelf *shelf = (struct shelf *)vas_root(&shelf_type);
    struct book *book = shelf ? (struct book *)vas_calloc(1, sizeof *book) : NULL;
    if (!book)
        return failed("add");
    book->pages = (uint32_t)atoi(pages);
    strncpy((char *)book->title, title, sizeof book->title - 1);
    book->like = shelf->first;
    book->next = shelf->first;
    shelf->first = book;
    shelf->count++;
    return vas_switch(VAS_HOME);
}

static int list(void)
{
    if (enter(VAS_ATTACH_READ_ONLY) != 0)
        return failed("enter");
    const struct shelf *shelf = (const struct shelf *)vas_root(&shelf_type);
    if (!shelf)
        return failed("vas_root");
    printf("%d books\n", (int)shelf->count);
    for (const struct book *book = shelf->first; book; book = book->next)
        printf("%s, %u pages%s%s\n", (const char *)book->title, book->pages,
               book->like ? ", like " : "", book->like ? (const char *)book->like->title : "");
    return vas_switch(VAS_HOME);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "make") == 0)
        return make();
    if (argc == 4 && strcmp(argv[1], "add") == 0)
        return add(argv[2], argv[3]);
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list();
    char text[1000];
    if (argc == 2 && strcmp(argv[1], "text") == 0 && vas_type_text(&shelf_type, text, 1000) > 0)
        return fputs(text, stdout) < 0;
    return 2;
}
