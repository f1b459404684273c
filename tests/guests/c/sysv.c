/* System V IPC between a process and its children: what natively prints the same. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../include/report.h"
#include "../include/forks.h"

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static void nothing(int signal) {
    (void)signal;
}

// SIGALRM again and again: one that comes before the call that it is to interrupt is not the last.
static void every(long microseconds) {
    struct itimerval time = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &time, NULL);
}

// A key of this process's alone: numbers of processes are below 2^22.
static key_t own_key(int which) {
    return (key_t)(0x53000000 + which * 0x400000 + getpid() % 0x400000);
}

static long attached(int id) {
    struct shmid_ds of;
    return shmctl(id, IPC_STAT, &of) ? -errno : (long)of.shm_nattch;
}

static void memory(void) {
    key_t key = own_key(0);
    answer("none yet", shmget(key, 100, 0));
    int id = shmget(key, 3 * PAGE + 100, IPC_CREAT | IPC_EXCL | 0600);
    if (id < 0) answer("shmget", id);
    say("the same", shmget(key, 100, 0) == id);
    answer("exclusive", shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600));
    answer("larger", shmget(key, 5 * PAGE, 0));
    answer("of no size", shmget(IPC_PRIVATE, 0, 0600));
    char *at = shmat(id, NULL, 0);
    if (at == (void *)-1) answer("shmat", -1);
    say("empty", at[0] + at[3 * PAGE]);
    at[0] = 1;
    CHILD("inherited", {
        at[1] = 2;
        result = at[0] + 10 * (int)attached(id);
    });
    say("written by the child", at[1]);
    say("attached", attached(id));
    char *other = shmat(id, NULL, SHM_RDONLY);
    say("twice", attached(id));
    say("read", other[1]);
    CHILD("not written", other[0] = 1);
    answer("not made writable", mprotect(other, PAGE, PROT_READ | PROT_WRITE));
    answer("shmdt of the middle", shmdt(at + PAGE));
    answer("shmdt", shmdt(other));
    answer("again", shmdt(other));
    say("attached", attached(id));
    answer("in its place", shmat(id, at, 0) == (void *)-1 ? -1 : 0);
    answer("not on a page", shmat(id, at + 1, 0) == (void *)-1 ? -1 : 0);
    say("rounded", shmat(id, at + 1, SHM_RND | SHM_REMAP) == at);
    say("replaced", attached(id));
    munmap(at, 4 * PAGE);
    say("unmapped", attached(id));
    at = shmat(id, NULL, 0);
    say("still there", at[1]);
    struct shmid_ds of;
    answer("stat", shmctl(id, IPC_STAT, &of));
    say("size", (long)of.shm_segsz);
    say("mode", of.shm_perm.mode);
    say("creator", of.shm_cpid == getpid());
    say("key", of.shm_perm.__key == key);
    of.shm_perm.mode = 0400;
    answer("set", shmctl(id, IPC_SET, &of));
    int go[2];
    if (pipe(go)) exit(1);
    pid_t killed = fork();
    if (killed == 0) {
        if (write(go[1], "r", 1) != 1) _exit(1);
        pause();
    }
    char byte;
    if (read(go[0], &byte, 1) != 1) exit(1);
    say("with a child", attached(id));
    kill(killed, SIGKILL);
    say("it ends", end_of(killed));
    // Who counts may learn of it later than its parent does.
    for (int i = 0; i < 30000 && attached(id) != 1; i++) usleep(2000);
    say("without it", attached(id));
    answer("removed", shmctl(id, IPC_RMID, NULL));
    answer("not found", shmget(key, 100, 0));
    say("until all have let go", attached(id));
    say("content", at[1]);
    CHILD("inherited all the same", result = at[1]);
    answer("shmdt", shmdt(at));
    say("gone", attached(id) == -EINVAL);
    int next = shmget(IPC_PRIVATE, PAGE, 0600);
    say("another number", next != id);
    shmctl(next, IPC_RMID, NULL);
}

static int operate(int id, int number, int add, int flags) {
    struct sembuf one = {(unsigned short)number, (short)add, (short)flags};
    return semop(id, &one, 1);
}

static void semaphores(void) {
    int id = semget(own_key(0), 3, IPC_CREAT | 0600);
    answer("more", semget(own_key(0), 4, 0));
    unsigned short values[3] = {1, 0, 7};
    answer("all", semctl(id, 0, SETALL, (union semun){.array = values}));
    answer("one", semctl(id, 1, SETVAL, (union semun){.val = 2}));
    answer("too much", semctl(id, 1, SETVAL, (union semun){.val = 40000}));
    answer("down", operate(id, 0, -1, 0));
    answer("not now", operate(id, 0, -1, IPC_NOWAIT));
    answer("too far", operate(id, 3, 1, 0));
    answer("over", operate(id, 2, 32767, 0));
    struct sembuf both[2] = {{1, -2, 0}, {0, -1, IPC_NOWAIT}};
    answer("all or none", semop(id, both, 2));
    say("none", semctl(id, 1, GETVAL));
    struct timespec soon = {0, 20000000};
    struct sembuf one = {0, -1, 0};
    answer("in time", semtimedop(id, &one, 1, &soon));
    signal(SIGALRM, nothing);
    every(50000);
    answer("interrupted", semop(id, &one, 1));
    every(0);
    // A child waits, and is let go.
    fflush(stdout);
    pid_t waits = fork();
    if (waits == 0) _exit(operate(id, 0, -3, 0) == 0 ? 0 : errno);
    while (semctl(id, 0, GETNCNT) != 1) usleep(1000);
    operate(id, 0, 2, 0);
    usleep(20000);
    say("still waits", semctl(id, 0, GETNCNT));
    operate(id, 0, 1, 0);
    say("it had all three", end_of(waits));
    say("left", semctl(id, 0, GETVAL));
    say("by it", semctl(id, 0, GETPID) == waits);
    // Waiting for zero.
    waits = fork();
    if (waits == 0) _exit(operate(id, 2, 0, 0) == 0 ? 0 : errno);
    while (semctl(id, 2, GETZCNT) != 1) usleep(1000);
    operate(id, 2, -7, 0);
    say("zero", end_of(waits));
    // What an ended process has asked to be undone.
    CHILD("undone later", result = operate(id, 1, -1, SEM_UNDO) ? 9 : semctl(id, 1, GETVAL));
    for (int i = 0; i < 30000 && semctl(id, 1, GETVAL) != 2; i++) usleep(2000);
    say("undone", semctl(id, 1, GETVAL));
    waits = fork();
    if (waits == 0) {
        operate(id, 1, -2, SEM_UNDO);
        pause();
    }
    while (semctl(id, 1, GETVAL) != 0) usleep(1000);
    kill(waits, SIGKILL);
    say("killed", end_of(waits));
    answer("its semaphores are free", operate(id, 1, -2, 0));
    // Removed while somebody waits.
    waits = fork();
    if (waits == 0) _exit(operate(id, 0, -1, 0) == 0 ? 0 : errno == EIDRM ? 5 : 6);
    while (semctl(id, 0, GETNCNT) != 1) usleep(1000);
    struct semid_ds of;
    answer("stat", semctl(id, 0, IPC_STAT, (union semun){.buf = &of}));
    say("semaphores", (long)of.sem_nsems);
    answer("removed", semctl(id, 0, IPC_RMID));
    say("told", end_of(waits));
    answer("gone", operate(id, 0, 1, 0));
}

struct message {
    long type;
    char text[9000];
};

static void put(int id, long type, const char *text) {
    static struct message message;
    message.type = type;
    strcpy(message.text, text);
    if (msgsnd(id, &message, strlen(text) + 1, IPC_NOWAIT)) answer("msgsnd", -1);
}

static void got(const char *what, int id, long type, size_t bytes, int flags) {
    static struct message message;
    memset(&message, 0, sizeof message);
    ssize_t length = msgrcv(id, &message, bytes, type, flags);
    if (length < 0) answer(what, -1);
    else printf("%s: %ld of type %ld: %.*s\n", what, (long)length, message.type, (int)length, message.text);
}

static void messages(void) {
    int id = msgget(own_key(0), IPC_CREAT | 0600);
    say("the same", msgget(own_key(0), 0) == id);
    got("none", id, 0, 100, IPC_NOWAIT);
    for (long type = 5; type > 0; type--) put(id, type, (char[]){'m', (char)('0' + type), 0});
    got("of this type", id, 3, 100, 0);
    got("of the lowest", id, -4, 100, 0);
    got("of another", id, 5, 100, MSG_EXCEPT);
    got("the first", id, 0, 100, 0);
    got("too long", id, 0, 1, IPC_NOWAIT);
    got("cut off", id, 0, 1, MSG_NOERROR);
    got("no more", id, 0, 100, IPC_NOWAIT);
    struct message large = {.type = 1};
    answer("too large", msgsnd(id, &large, 8193, 0));
    large.type = 0;
    answer("of no type", msgsnd(id, &large, 1, 0));
    large.type = 1;
    int sent = 0;
    while (msgsnd(id, &large, 4000, IPC_NOWAIT) == 0) sent++;
    say("until it is full", sent);
    answer("full", msgsnd(id, &large, 4000, IPC_NOWAIT));
    fflush(stdout);
    pid_t waits = fork();
    if (waits == 0) _exit(msgsnd(id, &large, 4000, 0) == 0 ? 0 : 1);
    usleep(20000);
    struct msqid_ds of;
    answer("stat", msgctl(id, IPC_STAT, &of));
    say("messages", (long)of.msg_qnum);
    if (msgrcv(id, &large, 9000, 0, 0) != 4000) say("wrong", 1);
    say("sent", end_of(waits));
    while (msgrcv(id, &large, 9000, 0, IPC_NOWAIT) >= 0) sent--;
    say("all received", sent);
    waits = fork();
    if (waits == 0) _exit(msgrcv(id, &large, 9000, 7, 0) == 2 ? large.text[0] - 'a' : 99);
    usleep(20000);
    put(id, 6, "x");
    put(id, 7, "d");
    say("got what it waited for", end_of(waits));
    signal(SIGALRM, nothing);
    every(50000);
    answer("interrupted", msgrcv(id, &large, 9000, 8, 0));
    every(0);
    waits = fork();
    if (waits == 0) _exit(msgrcv(id, &large, 9000, 8, 0) < 0 && (errno == EIDRM || errno == EINVAL) ? 5 : 6);
    usleep(20000);
    answer("removed", msgctl(id, IPC_RMID, NULL));
    say("told", end_of(waits));
    answer("gone", msgsnd(id, &large, 1, 0));
}

// Only in a VM: keys that the host must not see.
static void keys(void) {
    answer("shmget", shmget(0x53504a4d, PAGE, IPC_CREAT | IPC_EXCL | 0600) < 0 ? -1 : 0);
    answer("semget", semget(0x53504a4d, 1, IPC_CREAT | IPC_EXCL | 0600) < 0 ? -1 : 0);
    answer("msgget", msgget(0x53504a4d, IPC_CREAT | IPC_EXCL | 0600) < 0 ? -1 : 0);
    CHILD("a child finds it", result = shmget(0x53504a4d, PAGE, 0) < 0);
    fflush(stdout);
}

static void limited(size_t megabytes) {
    int id = shmget(IPC_PRIVATE, megabytes << 20, 0600);
    if (id < 0) answer("first", id);
    answer("second", shmget(IPC_PRIVATE, megabytes << 20, 0600));
    char *at = shmat(id, NULL, 0);
    memset(at, 1, megabytes << 20);
    CHILD("shared", result = at[PAGE]);
    shmdt(at);
    answer("removed", shmctl(id, IPC_RMID, NULL));
    say("another one", shmget(IPC_PRIVATE, megabytes << 20, 0600) >= 0);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "memory")) memory();
    else if (!strcmp(mode, "semaphores")) semaphores();
    else if (!strcmp(mode, "messages")) messages();
    else if (!strcmp(mode, "keys")) keys();
    else if (!strcmp(mode, "limited")) limited((size_t)atoi(argv[2]));
    else if (!strcmp(mode, "waits")) {
        // With objects of each kind, for somebody to kill it.
        keys();
        say("waits", 1);
        operate(semget(0x53504a4d, 1, 0), 0, -1, 0);
    } else return 2;
    return 0;
}
