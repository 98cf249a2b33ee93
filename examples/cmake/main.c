/* The smallest program that steps. */
#include <sonew.h>
#include <stdio.h>

int main(void) {
    sonew_tensor tensor;
    sonew_tensors_init(&tensor, 1, sizeof tensor);
    tensor.name = "w";
    tensor.ndim = 1;
    tensor.dims[0] = 3;
    sonew_optimizer *optimizer = NULL;
    float w[3] = {1, 2, 3};
    const float grad[3] = {1, 0, -1};
    void *params[] = {w};
    const void *grads[] = {grad};
    if (sonew_create(NULL, &tensor, 1, &optimizer) != SONEW_OK ||
        sonew_step(optimizer, NULL, params, grads, 1) != SONEW_OK) {
        fprintf(stderr, "%s\n", sonew_last_error());
        return 1;
    }
    printf("sonew %s: %g %g %g\n", sonew_version(), w[0], w[1], w[2]);
    return sonew_free(optimizer) != SONEW_OK;
}
