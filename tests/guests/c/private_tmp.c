// What programs do in /tmp: directories, links, files without a name, and handing files over to others.
// With `share DIR` or `calls DIR` it says the same natively; `fill DIR` writes until there is no room.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define SAY(call)                                                            \
	do {                                                                 \
		errno = 0;                                                   \
		long result = (long)(call);                                  \
		printf("%s: %ld", #call, result);                            \
		printf(result < 0 ? " %s\n" : "\n", strerrorname_np(errno)); \
	} while (0)

static void put(const char *name, const char *text)
{
	int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(name);
	close(fd);
}

static void show(const char *name)
{
	char text[100] = "";
	int fd = open(name, O_RDONLY);
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	printf("%s: %zd %s\n", name, len, text);
	close(fd);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *name)
{
	char *names[100];
	int count = 0;
	DIR *dir = opendir(name);
	for (struct dirent *entry; dir && count < 100 && (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			asprintf(&names[count++], "%s/%d", entry->d_name, entry->d_type);
	if (dir)
		closedir(dir);
	qsort(names, count, sizeof *names, by_name);
	for (int i = 0; i < count; i++)
		printf("%s ", names[i]);
	printf("in %s\n", name);
}

static void calls(void)
{
	struct stat st;
	char text[100] = "", cwd[4096], link[4096] = "";
	SAY(mkdir("a", 0755));
	SAY(mkdir("a", 0755));
	SAY(mkdir("a/b", 0700));
	put("a/b/file", "content");
	SAY(rmdir("a"));
	SAY(symlink("b/file", "a/symbolic"));
	SAY(linkat(AT_FDCWD, "a/b/file", AT_FDCWD, "a/hard", 0));
	show("a/symbolic");
	list("a");
	SAY(rename("a", "c"));
	SAY(rename("c", "c/b/d"));
	show("c/hard");
	SAY(renameat2(AT_FDCWD, "c/hard", AT_FDCWD, "c/symbolic", RENAME_EXCHANGE));
	SAY(renameat2(AT_FDCWD, "c/hard", AT_FDCWD, "c/symbolic", RENAME_NOREPLACE));
	SAY(lstat("c/hard", &st));
	printf("a link: %d\n", S_ISLNK(st.st_mode));
	SAY(stat("c/symbolic", &st));
	printf("%ld names, mode %o, size %ld\n", (long)st.st_nlink, st.st_mode, (long)st.st_size);
	struct timespec times[2] = {{1000, 1}, {2000, 2}};
	SAY(utimensat(AT_FDCWD, "c/b/file", times, 0));
	SAY(chmod("c/b/file", 0400));
	SAY(stat("c/b/file", &st));
	printf("%ld.%09ld, mode %o\n", (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_mode);
	SAY(chdir("c/b"));
	printf("below: %d\n", getcwd(cwd, sizeof cwd) && strlen(cwd) > 4 && !strcmp(cwd + strlen(cwd) - 4, "/c/b"));
	SAY(access("../../c/b/../hard", R_OK));
	int fd = open("file", O_RDONLY);
	sprintf(text, "/proc/self/fd/%d", fd);
	printf("its own name: %d\n", readlink(text, link, sizeof link - 1) > 0
		&& !strncmp(link, cwd, strlen(cwd)) && !strcmp(link + strlen(cwd), "/file"));
	SAY(unlink("file"));
	memset(text, 0, sizeof text);
	SAY(read(fd, text, sizeof text));
	SAY(fstat(fd, &st));
	printf("%s %ld\n", text, (long)st.st_nlink);
	SAY(chdir("../.."));
	SAY(rmdir("c/b"));
	int nameless = open("c", O_TMPFILE | O_RDWR, 0600);
	printf("nameless: %d, wrote %zd\n", nameless >= 0, write(nameless, "named", 5));
	sprintf(text, "/proc/self/fd/%d", nameless);
	SAY(linkat(AT_FDCWD, text, AT_FDCWD, "c/named", AT_SYMLINK_FOLLOW));
	show("c/named");
	char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, nameless, 0);
	SAY(ftruncate(nameless, 4096));
	if (map != MAP_FAILED)
		memcpy(map, "NAMED!", 6);
	show("c/named");
	SAY(mknod("c/fifo", S_IFIFO | 0600, 0));
	int sock = socket(AF_UNIX, SOCK_STREAM, 0), other = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un at = {AF_UNIX, "c/socket"};
	SAY(bind(sock, (struct sockaddr *)&at, sizeof at));
	SAY(listen(sock, 1));
	SAY(connect(other, (struct sockaddr *)&at, sizeof at));
	list("c");
	SAY(open("c/none/x", O_CREAT | O_RDWR, 0600));
	SAY(open("c/named/x", O_RDONLY));
	SAY(unlink("c"));
	list(".");
}

// A driver and its parts: files go from one program to the next.
static void share(char *program)
{
	char *part[] = {program, "part", ".", NULL};
	pid_t pid;
	int status;
	SAY(mkdir("work", 0700));
	put("work/input", "from the parent");
	SAY(posix_spawn(&pid, program, NULL, NULL, part, environ));
	SAY(waitpid(pid, &status, 0) == pid);
	printf("status %d\n", WEXITSTATUS(status));
	show("work/output/result");
	list("work");
}

static int part(void)
{
	show("work/input");
	fflush(stdout);
	put("work/input", "from the child");
	mkdir("work/output", 0700);
	return rename("work/input", "work/output/result") == 0 ? 3 : 4;
}

static void fill(void)
{
	static char block[1 << 20];
	struct statfs fs;
	long blocks = 0;
	memset(block, 7, sizeof block);
	SAY(statfs(".", &fs));
	printf("%ld MiB in all\n", (long)(fs.f_blocks * fs.f_bsize >> 20));
	int fd = open("large", O_CREAT | O_RDWR, 0600);
	errno = 0;
	while (blocks < 10000 && write(fd, block, sizeof block) == sizeof block)
		blocks++;
	printf("%ld written, then %s\n", blocks, strerrorname_np(errno));
	SAY(ftruncate(fd, 0));
	SAY(write(fd, block, 4096));
}

int main(int argc, char **argv)
{
	if (argc != 3 || chdir(argv[2]) != 0)
		return 2;
	umask(022);
	if (!strcmp(argv[1], "part"))
		return part();
	if (!strcmp(argv[1], "calls"))
		calls();
	else if (!strcmp(argv[1], "share"))
		share(argv[0]);
	else if (!strcmp(argv[1], "fill"))
		fill();
	else if (!strcmp(argv[1], "list"))
		list(".");
	return 0;
}
