/* The program of the paper's figure 4, in C, both halves of it: one creates VAS "v0" with
 * segment "s0" of 32 GiB; another (here the same, with the argument "use") finds the VAS, attaches,
 * switches in, and stores a 42 that a third run reads. Then the rest of the header's calls.
 *
 *   vas_c create | use | read | rest | nested | remove
 *
 * Where the paper calls malloc, an address in the segment is used: the heap of a C program
 * is its own. Prints lines that do not vary; exits with 0, 1 when something is wrong, 3
 * outside a VM. */
/* The calls as inline functions; c-linked has the programs that use the library. */
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <stdio.h>
#include <string.h>

static int failed;

/* Reports which call failed, and continues. */
static int good(const char *what, int holds)
{
    if (!holds) {
        printf("FAILED: %s: %s\n", what, strerror(errno));
        failed = 1;
    }
    return holds;
}

static uint64_t base_of(segid_t sid)
{
    struct seg_stat stat;
    return good("seg_stat", seg_stat(sid, &stat) == 0) ? stat.base : 0;
}

static void create(void)
{
    vasid_t vid = vas_create("v0", 0660);
    good("vas_create", vid != 0);
    segid_t sid = seg_alloc("s0", 0, 1ull << 35, 0660);
    good("seg_alloc", sid != 0);
    good("seg_attach", seg_attach(vid, sid, SEG_WRITE) == 0);
    puts("created");
}

/* An int in the segment, in the last of its 32 GiB. */
static volatile int *place(void)
{
    return (volatile int *)(uintptr_t)(base_of(seg_find("s0")) + (31ull << 30));
}

static void use(int value)
{
    vasid_t vid = vas_find("v0");
    good("vas_find", vid != 0);
    vhandle_t vh = vas_attach(vid, 0);
    good("vas_attach", vh > 0);
    volatile int *t = place();
    if (!good("vas_switch", vas_switch(vh) == 0))
        return;
    if (value)
        *t = value;
    int found = *t;
    good("vas_current", vas_current() == vh);
    good("vas_switch home", vas_switch(VAS_HOME) == 0);
    printf("*t is %d\n", found);
    good("vas_detach", vas_detach(vh) == 0);
}

/* Floating point and locals across a switch, in a function that keeps them in registers. */
static double across(vhandle_t vh, volatile uint64_t *word, double x)
{
    double a = x * 1.5, b = x - 0.25, c = a * b;
    uint64_t before = 0;
    if (vas_try_switch(vh) == 0) {
        before = *word;
        *word = before + 1;
        if (vas_switch(VAS_HOME) != 0)
            return -1.0;
    }
    return a + b + c + (double)before;
}

static void rest(void)
{
    struct seg_params params = {.size_bytes = 4096, .reserve_bytes = 8 << 20, .mode = 0600,
                                .lockable = 1};
    segid_t sid = seg_alloc_params("rest", &params);
    vasid_t vid = vas_create("rest", 0600);
    good("make", sid != 0 && vid != 0);
    good("null", sj_null() == 0 && sj_hyper_null() == 0);
    good("find", seg_find("rest") == sid && vas_find("rest") == vid);
    good("not there", vas_find("nothing") == 0 && errno == ENOENT);
    good("twice", vas_create("rest", 0600) == 0 && errno == EEXIST);

    vhandle_t vh = vas_attach(vid, VAS_ATTACH_POPULATE);
    good("seg_attach_local", vh > 0 && seg_attach_local(vh, sid, SEG_WRITE) == 0);
    struct vas_attachment attachment;
    good("vas_segments", vas_segments(vid, &attachment, 1, 0) == 0);
    volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)base_of(sid);
    double first = across(vh, word, 2.0), second = across(vh, word, 2.0);
    good("registers live through a switch", first == 3.0 + 1.75 + 5.25 && second == first + 1.0);
    good("vas_switch_timeout", vas_switch_timeout(vh, 1000000000) == 0);
    good("busy", vas_detach(vh) == -1 && errno == EBUSY);
    good("home", vas_switch(VAS_HOME) == 0);
    good("nowhere", vas_switch(12345) == -1 && errno == EBADF);
    good("seg_detach_local", seg_detach_local(vh, sid) == 0 && vas_detach(vh) == 0);

    good("seg_attach", seg_attach(vid, sid, SEG_READ) == 0);
    good("vas_segments", vas_segments(vid, &attachment, 1, 0) == 1 && attachment.sid == sid &&
                             attachment.right == SEG_READ);
    vasid_t twin = vas_clone(vid, "rest-twin", 0);
    segid_t copy = seg_clone(sid, "rest-copy");
    vasid_t apart = vas_clone(vid, "rest-apart", VAS_CLONE_COPY);
    good("copies", apart != 0 && vas_segments(apart, &attachment, 1, 0) == 1 &&
                       attachment.sid != sid && seg_find("rest-apart.rest") == attachment.sid &&
                       vas_delete(apart) == 0 && seg_delete(attachment.sid) == 0);
    good("clone", twin != 0 && copy != 0 && twin != vid && copy != sid);
    good("seg_detach", seg_detach(vid, sid) == 0 && seg_detach(twin, sid) == 0);
    struct seg_root root = {.address = base_of(sid), .fingerprint = {1, 2}}, got;
    good("root", seg_root_set(sid, &root) == 0 && seg_root_get(sid, &got) == 0 &&
                     got.address == root.address && got.fingerprint[1] == 2);
    good("seg_grow", seg_grow(sid, 4 << 20) == 0 && seg_sync(sid) == 0);
    good("seg_reserve", seg_reserve(sid, 1 << 20, 1 << 20) == 0);
    good("seg_ctl", seg_ctl(sid, SEG_CTL_SET_LOCKABLE, 0) == 0);
    good("vas_ctl", vas_ctl(VAS_CTL_SET_MODE, vid, 0640) == 0);
    struct vas_stat vas;
    struct seg_stat seg;
    good("vas_stat", vas_stat(vid, &vas) == 0 && strcmp(vas.name, "rest") == 0 &&
                         (vas.mode & 0777) == 0640);
    good("seg_stat", seg_stat(sid, &seg) == 0 && seg.size_bytes == 4 << 20 && !seg.lockable);
    good("lists", vas_list(&vas, 1, 0) == 1 && seg_list(&seg, 1, 0) == 1);
    good("delete", vas_delete(vid) == 0 && vas_delete(twin) == 0 && seg_delete(sid) == 0 &&
                       seg_delete(copy) == 0);
    puts("rest");
}

/* VAS NAME with a versioned segment of the same name; a word in it, in a page of its own each. */
static volatile uint64_t *versioned(const char *name, vhandle_t *vh)
{
    struct seg_params params = {.size_bytes = 1 << 20, .mode = 0600, .lockable = 1,
                                .lifetime = SEG_VERSIONED};
    segid_t sid = seg_alloc_params(name, &params);
    vasid_t vid = vas_create(name, 0600);
    good("versioned", sid != 0 && vid != 0 && seg_attach(vid, sid, SEG_WRITE) == 0);
    *vh = vas_attach(vid, 0);
    good("vas_attach", *vh > 0);
    return (volatile uint64_t *)(uintptr_t)base_of(sid);
}

static void nested(void)
{
    vhandle_t outer, inner;
    volatile uint64_t *out = versioned("nest-outer", &outer), *in = versioned("nest-inner", &inner);
    good("none", vas_return() == -1 && errno == EPERM);
    good("nowhere", vas_nest(12345, 0) == -1 && errno == EBADF);

    /* What is nested stays, although the outer visit is aborted. */
    good("enter", vas_switch(outer) == 0);
    out[0] = 1;
    good("vas_nest", vas_nest(inner, 1000000000) == 0 && vas_current() == inner);
    in[0] = 2;
    good("itself", vas_nest(outer, VAS_NO_LIMIT) == -1 && errno == EDEADLK);
    good("suspended", vas_detach(outer) == -1 && errno == EBUSY);
    good("home", vas_nest(VAS_HOME, 0) == 0 && vas_current() == VAS_HOME);
    good("back inside", vas_return() == inner && in[0] == 2);
    good("vas_return", vas_return() == outer && vas_current() == outer && out[0] == 1);
    good("versions", vas_version(inner) == 1 && vas_version(outer) == 0);
    good("vas_abort", vas_abort() == 0 && out[0] == 0);

    /* An abort inside leaves the outer one as it was. */
    out[0] = 3;
    good("again", vas_nest(inner, 0) == 0 && in[0] == 2);
    in[0] = 4;
    good("inner abort", vas_abort() == 0 && in[0] == 2 && vas_return() == outer && out[0] == 3);
    int deep = 0;
    while (vas_nest(VAS_HOME, 0) == 0)
        deep++;
    good("as deep as it goes", deep == 16 && errno == ELOOP);
    while (deep-- > 0)
        good("up", vas_return() == (deep > 0 ? VAS_HOME : outer));
    good("leave", out[0] == 3 && vas_switch(VAS_HOME) == 0);
    good("committed", vas_version(outer) == 1 && vas_version(inner) == 1);
    puts("nested");
}

int main(int argc, char **argv)
{
    if (!getauxval(AT_SPACEJMP)) {
        puts("not running under spacejmp");
        return 3;
    }
    const char *what = argc == 2 ? argv[1] : "";
    if (strcmp(what, "create") == 0)
        create();
    else if (strcmp(what, "use") == 0)
        use(42);
    else if (strcmp(what, "read") == 0)
        use(0);
    else if (strcmp(what, "rest") == 0)
        rest();
    else if (strcmp(what, "nested") == 0)
        nested();
    else if (strcmp(what, "remove") == 0) {
        good("vas_delete", vas_delete(vas_find("v0")) == 0);
        good("seg_delete", seg_delete(seg_find("s0")) == 0);
        puts("removed");
    } else {
        fputs("usage: vas_c create|use|read|rest|nested|remove\n", stderr);
        return 2;
    }
    return failed;
}
