/* The smallest program that steps. */
#include <sonew.h>
#include <stdio.h>

int main(void) {
    sonew_tensor tensor = {.name = "w", .ndim = 1, .dims = {3}};
    sonew_optimizer *optimizer = NULL;
    float w[3] = {1, 2, 3}, *params[] = {w};
    const float grad[3] = {1, 0, -1}, *grads[] = {grad};
    if (sonew_create(NULL, &tensor, 1, &optimizer) != SONEW_OK ||
        sonew_step(optimizer, NULL, params, grads, 1) != SONEW_OK) {
        fprintf(stderr, "%s\n", sonew_last_error());
        return 1;
    }
    printf("sonew %s: %g %g %g\n", sonew_version(), w[0], w[1], w[2]);
    return sonew_free(optimizer) != SONEW_OK;
}
