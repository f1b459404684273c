/* Touches an address that is valid elsewhere, so that the report has to say where:
 * `home` before switching, `end` beyond a segment's end, `read` by writing to a read-only
 * attachment, `nowhere` where no segment is. */
/* The calls as inline functions; c-linked has the programs that use the library. */
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "home";
    vasid_t vas = vas_create("genome", 0600);
    segid_t segment = seg_alloc("reads", 0, 1 << 20, 0600);
    if (vas == 0 || segment == 0 || seg_attach(vas, segment, strcmp(how, "read") ? 3 : 1) < 0) {
        perror("set-up");
        return 1;
    }
    vhandle_t handle = vas_attach(vas, 0);
    volatile char *base = (volatile char *)(16UL << 40);
    if (handle < 0) {
        perror("vas_attach");
        return 1;
    }
    if (!strcmp(how, "home")) {
        base[0x40] = 1;
    }
    if (!strcmp(how, "nowhere")) {
        base[1UL << 42] = 1;
    }
    if (vas_switch(handle) < 0) {
        perror("vas_switch");
        return 1;
    }
    if (!strcmp(how, "end")) {
        base[1 << 20] = 1;
    }
    base[0x80] = 1;
    return 0;
}
