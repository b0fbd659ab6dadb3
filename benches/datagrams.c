/* Raw recvmmsg on loopback: what a batch of 64 datagrams costs in C, with addresses. Built as a library, so that
 * bench_datagrams.py can have it take turns with what it is compared with. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, SLOT = 2048 };

static char area[BATCH][SLOT], payload[SLOT];
static struct sockaddr_in names[BATCH];
static struct iovec vectors[BATCH], out[BATCH];
static struct mmsghdr headers[BATCH], leaving[BATCH];
static int here, there;

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Makes a pair of sockets; 0 when it could. */
int set_up(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int room = 4 << 20;
    here = socket(AF_INET, SOCK_DGRAM, 0);
    there = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(here, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    for (int index = 0; index < BATCH; index++) {
        vectors[index] = (struct iovec){area[index], SLOT};
        headers[index].msg_hdr = (struct msghdr){.msg_name = &names[index], .msg_iov = &vectors[index], .msg_iovlen = 1};
        leaving[index].msg_hdr = (struct msghdr){.msg_iov = &out[index], .msg_iovlen = 1};
    }
    return bind(here, (struct sockaddr *)&address, length) || getsockname(here, (struct sockaddr *)&address, &length) ||
           connect(there, (struct sockaddr *)&address, length);
}

/* Sends a batch of datagrams of `size` bytes and receives it; nanoseconds of processor time that receiving takes for each, or
 * -1 when a call failed. */
double receive(unsigned size) {
    unsigned long long sum = 0;
    for (int index = 0; index < BATCH; index++)
        out[index] = (struct iovec){payload, size};
    if (sendmmsg(there, leaving, BATCH, 0) != BATCH)
        return -1;
    long long start = now();
    for (int received = 0; received < BATCH;) {
        for (int index = 0; index < BATCH; index++)
            headers[index].msg_hdr.msg_namelen = sizeof names[index];
        int got = recvmmsg(here, headers, BATCH, MSG_DONTWAIT, NULL);
        if (got < 1)
            return -1;
        for (int index = 0; index < got; index++)
            sum += headers[index].msg_len + names[index].sin_port;
        received += got;
    }
    double took = (double)(now() - start) / BATCH;
    return sum ? took : -1;
}
