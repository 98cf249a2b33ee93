/* How much of its caller's stack a step takes, in every kind of step: threads of
 * a host may have small stacks. The stack is filled with a pattern before, and
 * what is left of it afterwards was not touched. */
#include <pthread.h>

#include "../c/check.h"

enum {
    STACK = 1 << 16,
    PATTERN = 0x5c,
    PROMISED = 20 << 10, /* sonew_step() in the header */
    ROWS = 35,
    COLUMNS = 77,
};

struct kind {
    sonew_options options;
    sonew_dtype dtype;
    sonew_chains chains;
};

static unsigned char *stack;

/* Steps twice: the first time, memory is touched that is there the second time. */
static void *steps(void *argument) {
    const struct kind *kind = argument;
    sonew_tensor tensors[2];
    OK(sonew_tensors_init(tensors, 2, sizeof *tensors));
    tensors[0].name = "kernel";
    tensors[0].ndim = 2;
    tensors[0].dims[0] = ROWS;
    tensors[0].dims[1] = COLUMNS;
    tensors[1].name = "bias";
    tensors[1].ndim = 1;
    tensors[1].dims[0] = COLUMNS;
    static double numbers[2][ROWS * COLUMNS], gradients[2][ROWS * COLUMNS];
    void *params[2];
    const void *grads[2];
    for (int i = 0; i < 2; i++) {
        tensors[i].dtype = kind->dtype;
        tensors[i].chains = kind->chains;
        params[i] = numbers[i];
        grads[i] = gradients[i];
    }
    for (size_t i = 0; i < 2 * (size_t)ROWS * COLUMNS; i++) {
        if (kind->dtype == SONEW_F64)
            ((double *)gradients)[i] = (double)(i % 7) - 2.5;
        else
            ((float *)gradients)[i] = (float)(i % 7) - 2.5f;
    }
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&kind->options, tensors, 2, &optimizer));
    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    step.lr = 0.01;
    step.clip_norm = 1;
    unsigned char here;
    for (int i = 0; i < 2; i++) {
        memset(stack, PATTERN, (size_t)(&here - stack) - 1024);
        OK(sonew_step(optimizer, &step, params, grads, 2));
    }
    size_t untouched = 0;
    while (stack[untouched] == PATTERN)
        untouched++;
    OK(sonew_free(optimizer));
    return (void *)((size_t)(&here - stack) - untouched);
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && argv);
    CHECK(!posix_memalign((void **)&stack, 4096, STACK));
    const int32_t bands[] = {0, 1, 2, 4, 5, SONEW_MAX_BAND};
    const sonew_isa sets[] = {SONEW_ISA_PORTABLE, SONEW_ISA_AVX2, SONEW_ISA_AVX512, SONEW_ISA_NEON};
    const sonew_dtype dtypes[] = {SONEW_F32, SONEW_F64};
    size_t most = 0, kinds = 0;
    for (size_t set = 0; set < sizeof sets / sizeof *sets; set++)
        for (size_t band = 0; band < sizeof bands / sizeof *bands; band++)
            for (sonew_graft graft = SONEW_GRAFT_NONE; graft <= SONEW_GRAFT_NORMALIZED_RMSPROP; graft++)
                for (sonew_chains chains = SONEW_CONTIGUOUS; chains <= SONEW_STRIDED_LINES; chains++)
                    for (int other = 0; other < 8; other++) {
                        struct kind kind;
                        OK(sonew_options_init(&kind.options, sizeof kind.options));
                        kind.options.band = bands[band];
                        kind.options.instruction_set = sets[set];
                        kind.options.graft = graft;
                        kind.options.threads = other & 1 ? 2 : 1;
                        kind.options.damping = other & 2 ? SONEW_RELATIVE : SONEW_ABSOLUTE;
                        kind.dtype = dtypes[other >> 2];
                        kind.chains = chains;
                        sonew_optimizer *optimizer = NULL;
                        sonew_tensor one;
                        OK(sonew_tensors_init(&one, 1, sizeof one));
                        one.name = "one";
                        if (sonew_create(&kind.options, &one, 1, &optimizer) != SONEW_OK)
                            continue; /* This processor has no such instructions. */
                        OK(sonew_free(optimizer));
                        pthread_attr_t attributes;
                        pthread_t thread;
                        void *used;
                        CHECK(!pthread_attr_init(&attributes));
                        CHECK(!pthread_attr_setstack(&attributes, stack, STACK));
                        CHECK(!pthread_create(&thread, &attributes, steps, &kind));
                        CHECK(!pthread_join(thread, &used));
                        CHECK(!pthread_attr_destroy(&attributes));
                        if ((size_t)used > most)
                            most = (size_t)used;
                        kinds++;
                    }
    CHECK(kinds >= 6 * 5 * 4 * 8);
    if (most > PROMISED) {
        printf("a step takes %zu bytes of stack\n", most);
        return 1;
    }
    fprintf(stderr, "a step takes up to %zu bytes of stack, in %zu kinds\n", most, kinds);
    puts("steps need little stack");
    free(stack);
    return 0;
}
