// A working directory whose path is longer than any call takes: what is there is reached by relative names.
// `deep_directory DIR`: works below DIR, which has a directory `beside` (in a VM another grant). It says the same natively.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../include/say.h"

enum { LEVELS = 50 };

// The kernel's own answer: the C library looks further.
static long kernel_getcwd(char *to, size_t size)
{
	long len = syscall(SYS_getcwd, to, size);
	return len < 0 ? len : 1;
}

int main(int argc, char **argv)
{
	char name[101], up[3 * LEVELS + 20] = "", text[16] = "", path[8192];
	memset(name, 'd', 100);
	name[100] = 0;
	if (argc < 2 || chdir(argv[1]))
		return perror("chdir"), 1;
	for (int level = 0; level < LEVELS; level++) {
		if (mkdir(name, 0777) || chdir(name))
			return printf("level %d: %s\n", level, strerrorname_np(errno)), 1;
		strcat(up, "../");
	}
	SAY(kernel_getcwd(path, sizeof path));
	SAY(strlen(getcwd(path, sizeof path)) > 5000);
	SAY(readlink("/proc/self/cwd", path, sizeof path));

	int fd = open("file", O_CREAT | O_RDWR | O_EXCL, 0666);
	SAY(write(fd, "deep", 4));
	SAY(mkdir("below", 0777));
	SAY(symlink("../file", "below/link"));
	SAY(rename("file", "below/../file2"));
	SAY(access("below/link", F_OK));
	SAY(rename("file2", "file"));
	int at = open("below", O_PATH | O_DIRECTORY);
	SAY(openat(at, "link", O_RDONLY) >= 0);
	SAY(linkat(at, "../file", at, "same", 0));
	SAY(access("/proc/self/cwd/below/same", F_OK));

	// To the top, and from there into what is mounted.
	strcpy(path, up);
	SAY(open(strcat(path, "beside/note"), O_CREAT | O_WRONLY, 0666) >= 0);
	strcpy(path, up);
	SAY(access(strcat(path, "no/note"), F_OK));

	// A child is where its parent is.
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		int here = open("below/same", O_RDONLY);
		printf("the child reads %zd: %s\n", read(here, text, sizeof text - 1), text);
		fflush(stdout);
		_exit(chdir("..") || access(name, F_OK));
	}
	int status = -1;
	waitpid(child, &status, 0);
	printf("child: %d\n", status);

	// A removed directory has no name, but its way up is there.
	SAY(chdir("below"));
	SAY(unlink("link") | unlink("same"));
	strcpy(path, "../below");
	SAY(rmdir(path));
	SAY(kernel_getcwd(path, sizeof path));
	SAY(open("new", O_CREAT | O_WRONLY, 0666));
	SAY(chdir("..") == 0 && access("file", F_OK) == 0);
	SAY(unlink("file"));

	// Up again: where the path fits, it is told.
	int told = -1;
	for (int level = LEVELS; level > 0; level--) {
		if (chdir("..") || rmdir(name))
			return printf("up from %d: %s\n", level, strerrorname_np(errno)), 1;
		if (told < 0 && kernel_getcwd(path, sizeof path) == 1)
			told = strlen(path) <= PATH_MAX - 1 && strlen(path) + 101 > PATH_MAX - 1;
	}
	printf("the longest path that fits was told: %d\n", told);
	SAY(access("beside/note", F_OK));
	SAY(unlink("beside/note"));
	return 0;
}
