/* Steps over buffers of the caller, and tensors that take part in some steps only. */
#include "usage.h"

/* A plan over buffers of the caller does what the optimizer does, and as
 * direction writes what the optimizer subtracts. */
void stateless(void) {
    sonew_tensor tensors[COUNT];
    describe(tensors);
    sonew_options options = with_band(2);
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, tensors, COUNT, &plan));
    sonew_planes planes = planes_of(plan, 0);
    CHECK(planes.count == 5 && strcmp(planes.names[4], "rms") == 0);
    CHECK(planes.dtypes[4] == SONEW_F32);
    CHECK(planes_of(plan, 1).count == 2);

    static float of_weight[5][WEIGHT], of_bias[2][BIAS], direction[BIAS];
    void *weight_planes[] = {of_weight[0], of_weight[1], of_weight[2],
                             of_weight[3], of_weight[4]};
    void *bias_planes[] = {of_bias[0], of_bias[1]};
    float mine[WEIGHT], before[BIAS];
    fill_all();
    memcpy(mine, weight, sizeof weight);
    memcpy(before, bias, sizeof bias);
    sonew_buffers buffers[COUNT];
    OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
    buffers[0].params = mine;
    buffers[0].grad = weight_grad;
    buffers[0].planes = weight_planes;
    buffers[0].plane_count = 5;
    buffers[0].len = WEIGHT;
    double kept[COUNT][SONEW_SCALARS] = {{0}};
    buffers[0].scalars = kept[0];
    buffers[1].scalars = kept[1];
    buffers[0].weight_decay = options.weight_decay;
    buffers[1].direction = direction;
    buffers[1].grad = bias_grad;
    buffers[1].planes = bias_planes;
    buffers[1].plane_count = 2;
    buffers[1].len = BIAS;

    sonew_optimizer *optimizer = create(2);
    sonew_settings settings = settings_of(optimizer, 1);
    settings.weight_decay = 0;
    OK(sonew_set_settings(optimizer, 1, &settings));
    for (uint64_t number = 1; number <= 5; number++) {
        memcpy(before, bias, sizeof bias);
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
        OK(sonew_step(optimizer, NULL, params, grads, COUNT));
        CHECK(memcmp(mine, weight, sizeof weight) == 0);
        for (int i = 0; i < BIAS; i++) {
            float moved = before[i] - bias[i];
            float difference = moved - 0.001f * direction[i];
            CHECK(difference < 1e-6f && difference > -1e-6f && moved != 0);
        }
    }
    OK(sonew_free(optimizer));
    OK(sonew_plan_free(plan));
}

/* A tensor that has had no gradient for long begins as in a fresh optimizer: in an
 * optimizer, in steps of its own, and in a plan, whose entry without gradient needs
 * nothing else. */
void step_counts(void) {
    enum { STEPS = 1000 };
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.damping = SONEW_ABSOLUTE;
    options.graft = SONEW_GRAFT_NONE;
    options.band = 0;
    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    for (int i = 0; i < COUNT; i++) {
        tensors[i].name = i ? "b" : "a";
        tensors[i].ndim = 1;
        tensors[i].dims[0] = BIAS;
    }
    float a[BIAS] = {0}, b[BIAS] = {0}, fresh[BIAS] = {0};
    void *both[COUNT] = {a, b}, *other[COUNT] = {a, fresh};
    const void *first[COUNT] = {bias_grad, NULL}, *second[COUNT] = {NULL, bias_grad};
    const void *all[COUNT] = {bias_grad, bias_grad};
    fill_all();

    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    OK(sonew_step(optimizer, NULL, other, second, COUNT));
    OK(sonew_free(optimizer));
    CHECK(fresh[0] != 0);

    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    for (int i = 0; i < STEPS; i++)
        OK(sonew_step(optimizer, NULL, both, first, COUNT));
    CHECK(count_of(optimizer, 0) == STEPS && count_of(optimizer, 1) == 0);
    OK(sonew_step(optimizer, NULL, both, all, COUNT));
    CHECK(step_count(optimizer) == STEPS + 1);
    CHECK(count_of(optimizer, 0) == STEPS + 1 && count_of(optimizer, 1) == 1);
    CHECK(memcmp(b, fresh, sizeof b) == 0);
    sonew_settings settings = settings_of(optimizer, 1);
    settings.step_count = 5;
    OK(sonew_set_settings(optimizer, 1, &settings));
    CHECK(count_of(optimizer, 0) == STEPS + 1 && count_of(optimizer, 1) == 5);
    OK(sonew_free(optimizer));

    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, tensors, COUNT, &plan));
    static float planes[COUNT][2][BIAS];
    void *of_a[] = {planes[0][0], planes[0][1]}, *of_b[] = {planes[1][0], planes[1][1]};
    sonew_buffers buffers[COUNT];
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    for (uint64_t number = 1; number <= STEPS + 1; number++) {
        OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
        for (int i = 0; i < COUNT; i++) {
            if (i == 1 && number <= STEPS)
                continue;
            buffers[i].params = both[i];
            buffers[i].grad = bias_grad;
            buffers[i].planes = i ? of_b : of_a;
            buffers[i].plane_count = 2;
            buffers[i].len = BIAS;
            buffers[i].step_number = i ? 1 : 0;
        }
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
    }
    CHECK(memcmp(b, fresh, sizeof b) == 0);
    OK(sonew_plan_free(plan));
}

/* A tensor without elements needs no buffers, and changes nothing for the others. */
void empty(const char *folder) {
    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    for (int i = 0; i < COUNT; i++) {
        tensors[i].name = i ? "some" : "none";
        tensors[i].ndim = 2;
        tensors[i].dims[0] = i ? BIAS : 0;
        tensors[i].dims[1] = 1;
    }
    float both[BIAS] = {0}, alone[BIAS] = {0}, planes[3][BIAS] = {{0}}, of_plan[BIAS] = {0};
    void *const params_of[] = {NULL, both}, *const params_alone[] = {alone};
    const void *const grads_of[] = {NULL, bias_grad};
    fill_all();
    sonew_optimizer *optimizer = NULL, *other = NULL;
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.damping = SONEW_ABSOLUTE;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    OK(sonew_create(&options, tensors + 1, 1, &other));
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, tensors, COUNT, &plan));
    sonew_buffers buffers[COUNT];
    void *of_tensor[] = {planes[0], planes[1], planes[2]};
    OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
    buffers[1].plane_count = 3;
    buffers[1].planes = of_tensor;
    buffers[1].params = of_plan;
    buffers[1].grad = bias_grad;
    buffers[1].len = BIAS;
    for (uint64_t number = 1; number <= 3; number++) {
        OK(sonew_step(optimizer, NULL, params_of, grads_of, COUNT));
        OK(sonew_step(other, NULL, params_alone, grads_of + 1, 1));
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
    }
    CHECK(memcmp(both, alone, sizeof both) == 0 && memcmp(both, of_plan, sizeof both) == 0);
    CHECK(count_of(optimizer, 0) == 0 && count_of(optimizer, 1) == 3);
    char path[4096];
    snprintf(path, sizeof path, "%s/empty", folder);
    OK(sonew_save(optimizer, path, NULL, 0));
    OK(sonew_load(optimizer, path, NULL, NULL, 0));
    OK(sonew_plan_free(plan));
    OK(sonew_free(other));
    OK(sonew_free(optimizer));
}

/* A plan whose caller keeps the scalars does what an optimizer does, also in stages. */
void scalars(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.lagged_norms = options.nesterov = 1;
    sonew_tensor tensor;
    OK(sonew_tensors_init(&tensor, 1, sizeof tensor));
    tensor.name = "a";
    tensor.ndim = 1;
    tensor.dims[0] = BIAS;
    float own[BIAS] = {0}, of_plan[BIAS] = {0}, planes[3][BIAS] = {{0}};
    void *const params_of[] = {own};
    const void *const grads_of[] = {bias_grad};
    void *of_tensor[] = {planes[0], planes[1], planes[2]};
    double kept[SONEW_SCALARS] = {0};
    sonew_optimizer *optimizer = NULL;
    sonew_plan *plan = NULL;
    fill_all();
    OK(sonew_create(&options, &tensor, 1, &optimizer));
    OK(sonew_plan_create(&options, &tensor, 1, &plan));
    sonew_buffers buffers;
    OK(sonew_buffers_init(&buffers, 1, sizeof buffers));
    buffers.params = of_plan;
    buffers.grad = bias_grad;
    buffers.planes = of_tensor;
    buffers.plane_count = 3;
    buffers.len = BIAS;
    buffers.scalars = kept;
    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    for (uint64_t number = 1; number <= 4; number++) {
        step.beta2 = number == 3 ? 0.5 : -1;
        OK(sonew_step(optimizer, &step, params_of, grads_of, 1));
        if (number % 2 == 0) {
            double numbers[2];
            int32_t stage = -1;
            sonew_stages *stages = NULL;
            OK(sonew_plan_stages_begin(plan, &step, number, &buffers, 1, &stages));
            while (stage != SONEW_DONE)
                OK(sonew_stages_next(stages, numbers, 1, &stage));
        } else {
            OK(sonew_plan_step(plan, &step, number, &buffers, 1));
        }
        CHECK(memcmp(own, of_plan, sizeof own) == 0);
        CHECK(kept[0] > 0 && (number < 3) == (kept[1] == 0 && kept[2] == 0));
    }
    double expected = 1 - 0.99 * 0.99 * 0.5 * 0.99;
    CHECK(kept[2] > expected - 1e-15 && kept[2] < expected + 1e-15);
    OK(sonew_plan_free(plan));
    OK(sonew_free(optimizer));
}
