/* The caller's floating-point mode does not change results and is not changed, on
 * the calling thread and on the threads that the library starts. */
#include <fenv.h>

#include "guest.h"

#if defined __x86_64__
#include <xmmintrin.h>
typedef unsigned control;
static control mode(void) { return _mm_getcsr() & ~(unsigned)_MM_EXCEPT_MASK; }
static void set(control value) { _mm_setcsr(value); }
/* Flush to zero, subnormals are zero, and both; with and without traps. */
static const control FLUSHES[] = {0, 0x8000, 0x0040, 0x8040};
#elif defined __aarch64__
typedef unsigned long control;
static control mode(void) {
    control value;
    __asm__("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void set(control value) { __asm__ volatile("msr fpcr, %0" ::"r"(value)); }
static const control FLUSHES[] = {0, 1ul << 24, 1ul << 19, 1ul << 24 | 1ul << 19};
#endif

enum { STEPS = 4 };

static const int ROUNDINGS[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

/* Gradients are made beforehand, because the mode would also change the arithmetic
 * of this file. */
static float grads[STEPS][LENGTH];

static void steps(int threads, const char *path, const float *numbers) {
    struct model m = model(threads);
    control before = mode();
    for (int rounding = 0; rounding < 4; rounding++)
        for (int flush = 0; flush < 4; flush++) {
            for (int i = 0; i < LENGTH; i++)
                m.param[i] = (float)(i % 17) / 8 - 1;
            sonew_options options;
            OK(sonew_options_init(&options, sizeof options));
            options.threads = threads;
            sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {ROWS, COLS}};
            sonew_optimizer *optimizer = NULL;

            CHECK(!fesetround(ROUNDINGS[rounding]));
            set(mode() | FLUSHES[flush]);
            control foreign = mode();
            OK(sonew_create(&options, &tensor, 1, &optimizer));
            for (int i = 0; i < STEPS; i++) {
                const void *grad[] = {grads[i]};
                OK(sonew_step(optimizer, NULL, PARAM(m.param), grad, 1));
                CHECK(mode() == foreign);
                OK(sonew_save(optimizer, path, PARAM(m.param), 1));
                OK(sonew_load(optimizer, path, NULL, PARAM(m.param), 1));
                CHECK(mode() == foreign);
            }
            OK(sonew_free(optimizer));
            CHECK(mode() == foreign && fegetround() == ROUNDINGS[rounding]);
            set(before);
            CHECK(same(m.param, numbers));
        }
    end(&m);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/modes.safetensors", argv[1]);
    for (int i = 0; i < STEPS; i++)
        gradient(grads[i], i);
    float *numbers = expected(STEPS);
    steps(1, path, numbers);
    steps(3, path, numbers);
    free(numbers);
    puts("modes kept");
    return 0;
}
