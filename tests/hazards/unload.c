/* dlopen, step, dlclose, a hundred times: threads end with their optimizer,
 * nothing grows, nothing crashes. argv[1] is the library. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>

#include "guest.h"

enum { CYCLES = 100, SETTLED = 20 };

/* The functions under the names that guest.h calls them by; this program is
 * not linked with the library. */
static void *library;
#define LOADED(name, ...) ((__typeof__(&name))dlsym(library, #name))(__VA_ARGS__)
sonew_status sonew_options_init(sonew_options *o, size_t n) { return LOADED(sonew_options_init, o, n); }
sonew_status sonew_create(const sonew_options *o, const sonew_tensor *t, size_t n, sonew_optimizer **p) {
    return LOADED(sonew_create, o, t, n, p);
}
sonew_status (sonew_step)(sonew_optimizer *p, const sonew_step_options *s, void *const *a,
                        const void *const *g, size_t n) {
    return LOADED(sonew_step, p, s, a, g, n);
}
sonew_status sonew_free(sonew_optimizer *p) { return LOADED(sonew_free, p); }
const char *sonew_last_error(void) { return library ? LOADED(sonew_last_error) : ""; }

static void *load(const char *path) {
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    return library;
}

static pthread_barrier_t stepped, closed;

/* A thread that has stepped and ends when the library is closed. */
static void *visitor(void *unused) {
    struct model m = model(2);
    OK(take_step(&m, 0));
    end(&m);
    pthread_barrier_wait(&stepped);
    pthread_barrier_wait(&closed);
    return unused;
}

static void cycle(const char *path) {
    load(path);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, visitor, NULL));
    struct model m = model(4);
    for (int i = 0; i < 3; i++)
        OK(take_step(&m, i));
    pthread_barrier_wait(&stepped);
    CHECK(tasks() == 5);
    end(&m);
    CHECK(left(2));
    CHECK(!dlclose(library));
    pthread_barrier_wait(&closed);
    CHECK(!pthread_join(thread, NULL));
    CHECK(left(1));
}

static size_t allocated(void) {
    struct mallinfo2 now = mallinfo2();
    return now.uordblks + now.hblkhd;
}

static long mapped(void) {
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL);
    long pages = 0;
    CHECK(fscanf(statm, "%ld", &pages) == 1);
    fclose(statm);
    return pages * 4;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(!pthread_barrier_init(&stepped, NULL, 2) && !pthread_barrier_init(&closed, NULL, 2));
    size_t memory = 0;
    long kilobytes = 0;
    for (int i = 0; i < CYCLES; i++) {
        cycle(argv[1]);
        if (i + 1 == SETTLED) {
            memory = allocated();
            kilobytes = mapped();
        }
    }
    size_t now = allocated();
    long mapped_now = mapped();
    /* Memory that an allocator keeps for later threads varies by less than this; a
     * leak of an optimizer or a thread in each cycle would be far more. */
    if (now > memory + (64 << 10) || mapped_now > kilobytes + (32 << 10)) {
        fprintf(stderr, "%zu bytes allocated after %d cycles, %zu after %d; %ld KB mapped, %ld\n",
                memory, SETTLED, now, CYCLES, kilobytes, mapped_now);
        return 1;
    }
    /* Closed while an optimizer and its threads exist, until the process ends. */
    load(argv[1]);
    struct model left = model(4);
    OK(take_step(&left, 0));
    CHECK(!dlclose(library));
    puts("loads and goes");
    return 0;
}
