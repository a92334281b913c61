/* The physical limit: a signal handler that does nothing, driven at the main thread in each of spprof's ways.
 * No sampling profiler that interrupts threads can cost less than this. Loaded by worker.py through ctypes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static atomic_long handled;
static atomic_bool running;
static timer_t timer;
static int perf_fd = -1;
static pthread_t ticker;
static pid_t target;
static clockid_t target_clock;
static int64_t interval_ns;

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    atomic_fetch_add_explicit(&handled, 1, memory_order_relaxed);
}

static struct timespec spec(int64_t ns) { return (struct timespec){ns / 1000000000, ns % 1000000000}; }

static int start_timer(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event.sigev_notify_thread_id = target;
    struct itimerspec period = {spec(interval_ns), spec(interval_ns)};
    if (timer_create(target_clock, &event, &timer)) return -1;
    return timer_settime(timer, 0, &period, NULL);
}

static int start_perf(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK};
    attr.sample_period = (uint64_t)interval_ns;
    attr.disabled = 1;
    attr.wakeup_events = 1;
    perf_fd = (int)syscall(SYS_perf_event_open, &attr, target, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (perf_fd < 0) return -1;
    struct f_owner_ex owner = {F_OWNER_TID, target};
    if (fcntl(perf_fd, F_SETFL, O_ASYNC) || fcntl(perf_fd, F_SETSIG, SIGPROF) || fcntl(perf_fd, F_SETOWN_EX, &owner)) return -1;
    return ioctl(perf_fd, PERF_EVENT_IOC_ENABLE, 0);
}

/* Signals the target whenever it used the processor since the tick before. */
static void *tick(void *unused) {
    (void)unused;
    struct timespec next, now, before = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (atomic_load(&running)) {
        int64_t ns = next.tv_nsec + interval_ns;
        next.tv_sec += ns / 1000000000, next.tv_nsec = ns % 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        clock_gettime(target_clock, &now);
        if (now.tv_sec != before.tv_sec || now.tv_nsec != before.tv_nsec) syscall(SYS_tgkill, getpid(), target, SIGPROF);
        before = now;
    }
    return NULL;
}

static int start_tick(void) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&ticker, NULL, tick, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error;
}

/* Call it on the thread to be interrupted; `way` is 't'imer, 'p'erf or tic'k'. 0 when it works. */
int start(char way, int64_t interval) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    if (sigaction(SIGPROF, &action, NULL)) return -1;
    interval_ns = interval, target = (pid_t)syscall(SYS_gettid);
    target_clock = ((clockid_t)~target << 3) | 6; /* CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED */
    atomic_store(&running, 1);
    return way == 't' ? start_timer() : way == 'p' ? start_perf() : start_tick();
}

/* How many signals were handled. */
long stop(char way) {
    atomic_store(&running, 0);
    if (way == 't') timer_delete(timer);
    if (way == 'p') close(perf_fd);
    if (way == 'k') pthread_join(ticker, NULL);
    signal(SIGPROF, SIG_IGN);
    return atomic_load(&handled);
}
