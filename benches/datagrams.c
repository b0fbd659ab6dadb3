/* Raw recvmmsg on loopback: what a batch of 64 datagrams costs in C, without and with addresses taken out of them.
 *
 * usage: datagrams SIZE ROUNDS; prints nanoseconds of processor time a datagram, the median over the rounds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, SLOT = 2048 };

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int compare(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: datagrams SIZE ROUNDS\n");
        return 2;
    }
    size_t size = (size_t)atoi(arguments[1]);
    int rounds = atoi(arguments[2]);
    static char area[BATCH][SLOT], payload[SLOT];
    static struct sockaddr_in names[BATCH];
    static struct iovec vectors[BATCH], out[BATCH];
    static struct mmsghdr headers[BATCH], leaving[BATCH];
    int here = socket(AF_INET, SOCK_DGRAM, 0), there = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(here, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(here, (struct sockaddr *)&address, length) || getsockname(here, (struct sockaddr *)&address, &length) ||
        connect(there, (struct sockaddr *)&address, length)) {
        perror("datagrams");
        return 1;
    }
    for (int index = 0; index < BATCH; index++) {
        vectors[index] = (struct iovec){area[index], SLOT};
        out[index] = (struct iovec){payload, size};
        headers[index].msg_hdr = (struct msghdr){.msg_name = &names[index], .msg_iov = &vectors[index], .msg_iovlen = 1};
        leaving[index].msg_hdr = (struct msghdr){.msg_iov = &out[index], .msg_iovlen = 1};
    }
    double *times = malloc(sizeof *times * (size_t)rounds);
    unsigned long long sum = 0;
    for (int round = 0; round < rounds; round++) {
        if (sendmmsg(there, leaving, BATCH, 0) != BATCH) {
            perror("datagrams: sendmmsg");
            return 1;
        }
        long long start = now();
        for (int received = 0; received < BATCH;) {
            for (int index = 0; index < BATCH; index++)
                headers[index].msg_hdr.msg_namelen = sizeof names[index];
            int got = recvmmsg(here, headers, BATCH, MSG_DONTWAIT, NULL);
            if (got < 1) {
                perror("datagrams: recvmmsg");
                return 1;
            }
            for (int index = 0; index < got; index++)
                sum += headers[index].msg_len + names[index].sin_port;
            received += got;
        }
        times[round] = (double)(now() - start) / BATCH;
    }
    qsort(times, (size_t)rounds, sizeof *times, compare);
    printf("%.1f\n", sum ? times[rounds / 2] : 0);
    return 0;
}
