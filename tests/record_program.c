/* What tests/test_record.py and scripts/cross_recorder.py record. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Sizes that nothing else asks for. */
static void *work(void *unused) {
    for (int i = 0; i < 10000; i++) {
        volatile char *block = malloc(1001);
        block[1000] = 1;
        free((void *)block);
    }
    return unused;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "plain";
    char *first = malloc(1003), *second = calloc(17, 61);
    for (int i = 0; i < 17 * 61; i++)
        if (second[i]) return 9;
    memset(first, 7, 1003);
    first = realloc(first, 2003);
    for (int i = 0; i < 1003; i++)
        if (first[i] != 7) return 8;
    void *third = 0;
    if (posix_memalign(&third, 128, 1153)) return 7;
    void *aligned[] = {aligned_alloc(64, 1088), memalign(256, 1281), third};
    for (int i = 0; i < 3; i++) {
        if (!aligned[i] || (uintptr_t)aligned[i] % 64) return 6;
        free(aligned[i]);
    }
    if (posix_memalign(&third, 3, 1153) != EINVAL) return 5;
    free(malloc(10));
    free(malloc(5 << 20));
    if (!strcmp(what, "threads")) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) pthread_create(&threads[i], 0, work, 0);
        for (int i = 0; i < 8; i++) pthread_join(threads[i], 0);
    } else if (!strcmp(what, "fork")) {
        if (!fork()) {
            work(0);
            free(second);
            _exit(0);
        }
        wait(0);
    } else if (!strcmp(what, "exec")) {
        execl(words[0], words[0], "plain", (char *)0);
    } else if (!strcmp(what, "crash")) {
        abort();
    } else if (!strcmp(what, "kill")) {
        kill(getpid(), SIGKILL);
    } else if (!strcmp(what, "status")) {
        return 3;
    }
    free(first);
    free(second);
    puts("done");
    return 0;
}
