/* Reads the clock without the C library's dynamic loader, and waits for moments of the clock. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static double since(const struct timespec *began) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - began->tv_sec + (now.tv_nsec - began->tv_nsec) / 1e9;
}

/* A wait of a third of a second. */
static void waited(const char *name, int result, const struct timespec *began) {
    double length = since(began);
    printf("%s %d %s\n", name, result, length > 0.3 && length < 60 ? "in time" : "not in time");
}

int main(int argc, char **argv) {
    struct timespec spec, began, moment;
    struct timeval val;
    struct timezone zone = {1, 1};
    (void)argv;
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI};
    for (unsigned number = 0; number < 3; number++) {
        clock_gettime(clocks[number], &spec);
        printf("%ld.%09ld ", (long)spec.tv_sec, spec.tv_nsec);
        syscall(SYS_clock_gettime, clocks[number], &spec);
        printf("%ld.%09ld ", (long)spec.tv_sec, spec.tv_nsec);
    }
    gettimeofday(&val, &zone);
    printf("%ld.%06ld %d %ld\n", (long)val.tv_sec, (long)val.tv_usec, zone.tz_minuteswest, (long)time(NULL));
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (long count = 0; count < 1000; count++) clock_gettime(CLOCK_MONOTONIC, &moment);
    printf("%s\n", since(&began) > 0 && since(&began) < 60 ? "monotonic" : "not monotonic");
    if (argc > 1) {
        /* A loop without sleeps. */
        long start = time(NULL);
        while (time(NULL) < start + 3) {}
        printf("%ld\n", (long)time(NULL) - start);
        return 0;
    }
/* The clock shows whole seconds. */
#define START clock_gettime(CLOCK_MONOTONIC, &began), clock_gettime(CLOCK_REALTIME, &moment), moment.tv_nsec = 333333333
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    pthread_mutex_lock(&mutex);
    START;
    waited("cond", pthread_cond_timedwait(&cond, &mutex, &moment) == ETIMEDOUT, &began);
    /* The same memory once more: its time has passed by the true clock. */
    waited("again", pthread_cond_timedwait(&cond, &mutex, &moment) == ETIMEDOUT, &began);
    START;
    waited("nanosleep", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &moment, NULL), &began);
    START;
    struct itimerspec timer = {{0, 0}, moment};
    int fd = timerfd_create(CLOCK_REALTIME, 0);
    uint64_t count = 0;
    int set = timerfd_settime(fd, TFD_TIMER_ABSTIME, &timer, NULL);
    waited("timerfd", set || read(fd, &count, sizeof count) != sizeof count, &began);
    /* A time in the past. */
    moment.tv_sec -= 1000;
    printf("past %d\n", pthread_cond_timedwait(&cond, &mutex, &moment) == ETIMEDOUT);
    return 0;
}
