/* A program that is compiled with -ffast-math, where no comparison finds a NaN, is told
 * whether there is a gradient norm; and a step without any gradient is told by its
 * numbers. argv[1] is a folder to write to. */
#include "check.h"

#ifndef __FAST_MATH__
#error "compile with -ffast-math"
#endif

static sonew_optimizer *optimizer;
static float w[2] = {1, 2}, b[1] = {3};

static sonew_status step(const float *grad_w, const float *grad_b, int32_t non_finite) {
    sonew_step_options options;
    OK(sonew_step_options_init(&options, sizeof options));
    options.non_finite = non_finite;
    return sonew_step(optimizer, &options, (void *const[]){w, b},
                      (const void *const[]){grad_w, grad_b}, 2);
}

static void has_norm(double norm) {
    CHECK(info_of(optimizer).has_gradient_norm == 1 && info_of(optimizer).gradient_norm == norm);
}

static void has_none(void) {
    CHECK(info_of(optimizer).has_gradient_norm == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[1000];
    snprintf(path, sizeof path, "%s/norm.safetensors", argv[1]);
    sonew_tensor tensors[2];
    OK(sonew_tensors_init(tensors, 2, sizeof *tensors));
    tensors[0].name = "w";
    tensors[0].ndim = 1;
    tensors[0].dims[0] = 2;
    tensors[1].name = "b";
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.graft = SONEW_GRAFT_NONE; /* nothing but the check reads gradients before */
    OK(sonew_create(&options, tensors, 2, &optimizer));
    has_none();

    const float grad_w[] = {3, 0}, grad_b[] = {4};
    const uint32_t bits = 0x7f800000;
    float infinite[2] = {0, 0};
    memcpy(infinite, &bits, sizeof bits);
    OK(step(grad_w, grad_b, SONEW_SKIP));
    has_norm(5);
    /* One that is skipped has none; one that is refused is none. */
    CHECK(step(infinite, grad_b, SONEW_SKIP) == SONEW_NON_FINITE_GRADIENT);
    has_none();
    OK(step(grad_w, NULL, SONEW_SKIP));
    has_norm(3);
    CHECK(step(grad_w, grad_b, 7) == SONEW_UNKNOWN_VALUE);
    has_norm(3);
    OK(step(grad_w, grad_b, SONEW_UNCHECKED));
    has_none();

    /* Without any gradient: it counts for the optimizer, and for no tensor. */
    const float before[] = {w[0], w[1], b[0]};
    const uint64_t steps = info_of(optimizer).step_count;
    OK(step(NULL, NULL, SONEW_SKIP));
    has_norm(0);
    CHECK(info_of(optimizer).step_count == steps + 1);
    CHECK(settings_of(optimizer, 0).step_count == 3 && settings_of(optimizer, 1).step_count == 2);
    CHECK(w[0] == before[0] && w[1] == before[1] && b[0] == before[2]);

    /* In stages: skipped, and aborted, which leaves all as it was. */
    OK(step(grad_w, grad_b, SONEW_SKIP));
    sonew_stages *stages = NULL;
    double numbers[4];
    int32_t stage;
    void *const params[] = {w, b};
    const void *const grads[] = {infinite, grad_b};
    OK(sonew_stages_begin(optimizer, NULL, params, grads, 2, &stages));
    has_norm(5);
    OK(sonew_stages_next(stages, numbers, 2, &stage));
    OK(sonew_stages_abort(stages));
    has_norm(5);
    OK(sonew_stages_begin(optimizer, NULL, params, grads, 2, &stages));
    OK(sonew_stages_next(stages, numbers, 2, &stage));
    CHECK(sonew_stages_next(stages, numbers, 2, &stage) == SONEW_NON_FINITE_GRADIENT);
    has_none();

    /* What was loaded or set had no step here. */
    OK(step(grad_w, grad_b, SONEW_SKIP));
    OK(sonew_save(optimizer, path, NULL, 0));
    has_norm(5);
    OK(sonew_load(optimizer, path, NULL, NULL, 0));
    has_none();
    OK(step(grad_w, grad_b, SONEW_SKIP));
    has_norm(5);
    const float zeros[2] = {0, 0};
    const void *const planes[] = {zeros, zeros, zeros, zeros, zeros, zeros};
    OK(sonew_set_state(optimizer, 7, planes, 6));
    has_none();
    OK(sonew_free(optimizer));
    puts("a norm or none");
    return 0;
}
