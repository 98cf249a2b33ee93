/* Takes steps, saves, and continues from the file. argv[1] is the file. */
#include <sonew.h>
#include <stdio.h>

static int failed(sonew_status status) {
    if (status != SONEW_OK)
        fprintf(stderr, "%s\n", sonew_last_error());
    return status != SONEW_OK;
}

int main(int argc, char **argv) {
    const char *file = argc > 1 ? argv[1] : "state.safetensors";
    sonew_tensor tensor;
    sonew_tensors_init(&tensor, 1, sizeof tensor);
    tensor.name = "w";
    tensor.ndim = 1;
    tensor.dims[0] = 3;
    sonew_optimizer *first = NULL, *second = NULL;
    float w[3] = {1, 2, 3}, v[3];
    const float grad[3] = {1, 0, -1};
    void *params[] = {w}, *loaded[] = {v};
    const void *grads[] = {grad};
    if (failed(sonew_create(NULL, &tensor, 1, &first)) ||
        failed(sonew_create(NULL, &tensor, 1, &second)) ||
        failed(sonew_step(first, NULL, params, grads, 1)) ||
        failed(sonew_save(first, file, params, 1)) ||
        failed(sonew_load(second, file, NULL, loaded, 1)))
        return 1;
    printf("saved %g %g %g\n", w[0], w[1], w[2]);
    if (failed(sonew_step(first, NULL, params, grads, 1)) ||
        failed(sonew_step(second, NULL, loaded, grads, 1)))
        return 1;
    int same = w[0] == v[0] && w[1] == v[1] && w[2] == v[2];
    printf("and resumed to %s numbers\n", same ? "the same" : "other");
    return sonew_free(first) != SONEW_OK || sonew_free(second) != SONEW_OK;
}
