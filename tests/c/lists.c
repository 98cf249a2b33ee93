/* Lists of float and double pointers need no cast since C11. argv[1] is a folder. */
#include "check.h"

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/lists.safetensors", argv[1]);
    sonew_tensor tensors[2];
    OK(sonew_tensors_init(tensors, 2, sizeof *tensors));
    tensors[0].name = "single";
    tensors[1].name = "also single";
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(NULL, tensors, 2, &optimizer));

    float a = 0, b = 0, grad_a = 1, grad_b = 2;
    float *params[] = {&a, &b};
    float *const fixed[] = {&a, &b};
    float *grads[] = {&grad_a, &grad_b};
    const float *read_only[] = {&grad_a, &grad_b};
    const float *const fixed_read_only[] = {&grad_a, &grad_b};
    void *any[] = {&a, &b};
    const void *any_read_only[] = {&grad_a, NULL};
    float **pointer = params;
    OK(sonew_step(optimizer, NULL, params, grads, 2));
    OK(sonew_step(optimizer, NULL, fixed, read_only, 2));
    OK(sonew_step(optimizer, NULL, pointer, fixed_read_only, 2));
    OK(sonew_step(optimizer, NULL, any, any_read_only, 2));
    CHECK(a < 0 && b < 0 && settings_of(optimizer, 1).step_count == 3);
    OK(sonew_save(optimizer, path, params, 2));
    OK(sonew_save(optimizer, path, NULL, 0));
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, path, pointer, 2, &saving));
    OK(sonew_save_finish(saving));
    float was_a = a;
    a = 7;
    OK(sonew_load(optimizer, path, NULL, fixed, 2));
    CHECK(a == was_a);
    double numbers[4];
    sonew_stages *stages = NULL;
    int32_t stage = -1;
    OK(sonew_stages_begin(optimizer, NULL, params, grads, 2, &stages));
    while (stage != SONEW_DONE)
        OK(sonew_stages_next(stages, numbers, 2, &stage));

    /* Lists that the library writes, and lists of planes. */
    float all[] = {1, 2}, all_grads[] = {3, 4};
    float *flat[2];
    const float *flat_grads[2];
    OK(sonew_flat_pointers(optimizer, all, all_grads, 2, NULL, flat, flat_grads));
    CHECK(flat[1] == all + 1 && flat_grads[1] == all_grads + 1);
    OK(sonew_flat_pointers(optimizer, all, NULL, 2, NULL, flat, NULL));
    OK(sonew_flat_pointers(optimizer, all, all_grads, 2, NULL, any, grads));
    CHECK(any[0] == all && grads[0] == all_grads);
    OK(sonew_flat_pointers(optimizer, all, all_grads, 2, NULL, any, any));
    size_t size = 0;
    OK(sonew_save_to_memory(optimizer, flat, 2, NULL, 0, &size));
    OK(sonew_save_to_memory(optimizer, NULL, 0, NULL, 0, &size));
    const float one = 1;
    float two = 2;
    const float *read_only_planes[6] = {&one, &one, &one, &one, &one, &one};
    float *planes[6] = {&two, &two, &two, &two, &two, &two};
    void *any_planes[6] = {&two, &two, &two, &two, &two, &two};
    OK(sonew_set_state(optimizer, 1, read_only_planes, 6));
    OK(sonew_set_state(optimizer, 1, planes, 6));
    OK(sonew_set_state(optimizer, 1, any_planes, 6));
    OK(sonew_free(optimizer));

    for (int i = 0; i < 2; i++)
        tensors[i].dtype = SONEW_F64;
    OK(sonew_create(NULL, tensors, 2, &optimizer));
    double x = 0, y = 0;
    const double down = 1, up = -1;
    double *doubles[] = {&x, &y};
    const double *double_grads[] = {&down, &up};
    OK(sonew_step(optimizer, NULL, doubles, double_grads, 2));
    CHECK(x < 0 && y > 0);
    /* The name alone is still that of a function. */
    sonew_status (*step)(sonew_optimizer *, const sonew_step_options *, void *const *,
                         const void *const *, size_t) = sonew_step;
    void *list[] = {&x, &y};
    const void *list_of_grads[] = {&down, &up};
    OK(step(optimizer, NULL, list, list_of_grads, 2));
    OK(sonew_free(optimizer));
    puts("no casts");
    return 0;
}
