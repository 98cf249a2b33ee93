/* Fits y = a x + b to the points of a noisy line.
 *
 *   cargo build --release
 *   cc -std=c99 -Wall -Wextra -Werror examples/c/fit.c -Iinclude \
 *       -Ltarget/release -lsonew -lm -Wl,-rpath,target/release -o fit && ./fit
 */
#include <math.h>
#include <sonew.h>
#include <stdio.h>

enum { POINTS = 100, STEPS = 200 };

int main(void) {
    sonew_tensor tensors[2]; /* two scalars */
    sonew_tensors_init(tensors, 2, sizeof *tensors);
    tensors[0].name = "a";
    tensors[1].name = "b";
    sonew_optimizer *optimizer = NULL;
    if (sonew_create(NULL, tensors, 2, &optimizer) != SONEW_OK) {
        fprintf(stderr, "%s\n", sonew_last_error());
        return 1;
    }
    sonew_step_options step;
    sonew_step_options_init(&step, sizeof step);

    float a = 0, b = 0, grad_a, grad_b;
    void *params[] = {&a, &b};
    const void *grads[] = {&grad_a, &grad_b};
    for (int i = 0; i <= STEPS; i++) {
        float loss = grad_a = grad_b = 0;
        for (int k = 0; k < POINTS; k++) {
            float x = (float)k / POINTS, y = 2 * x + 1 + 0.1f * sinf(50 * x);
            float error = a * x + b - y;
            loss += error * error / POINTS;
            grad_a += 2 * error * x / POINTS;
            grad_b += 2 * error / POINTS;
        }
        if (i % 20 == 0)
            printf("step %3d   loss %8.5f   y = %.3f x + %.3f\n", i, loss, a, b);
        step.lr = 0.1 * (1 - (double)i / STEPS); /* decays to 0 */
        if (sonew_step(optimizer, &step, params, grads, 2) != SONEW_OK) {
            fprintf(stderr, "%s\n", sonew_last_error());
            return 1;
        }
    }
    return sonew_free(optimizer) != SONEW_OK;
}
