/* The same with the library's functions. */
#define LINKED
#include "../c/ready.c"
