/* The gradient of examples/c/transformer.c is that of its loss: compared with differences
 * in a random direction of each tensor. */
#define main example
#include "../../examples/c/transformer.c"
#undef main

int main(void) {
    read_documents();
    code_text();
    shapes[EMBEDDING].rows = shapes[OUT].rows = characters;
    float *p[TENSORS], *g[TENSORS];
    allocate(p);
    allocate(g);
    start(p);
    int starts[BATCH];
    for (int b = 0; b < BATCH; b++)
        starts[b] = 1000 * b + 17;
    for (int step = 0; step < 3; step++) { /* away from where biases are 0 */
        forward(p, starts);
        backward(p, g, starts);
        for (int i = 0; i < TENSORS; i++)
            for (int k = 0; k < elements(i); k++)
                p[i][k] -= 0.5f * g[i][k];
    }
    forward(p, starts);
    backward(p, g, starts);
    unsigned seed = 3;
    for (int i = 0; i < TENSORS; i++) {
        /* Along the gradient itself, disturbed: there the difference is above rounding. */
        double squares = 0, expected = 0;
        float *direction = malloc((size_t)elements(i) * sizeof *direction);
        for (int k = 0; k < elements(i); k++) {
            direction[k] = g[i][k] * (1 + 0.5f * uniform(&seed));
            squares += (double)direction[k] * direction[k];
        }
        const float size = (float)(0.02 / sqrt(squares));
        double loss[2];
        for (int side = 0; side < 2; side++) {
            for (int k = 0; k < elements(i); k++)
                p[i][k] += (side ? -2 : 1) * size * direction[k];
            loss[side] = (double)forward(p, starts);
        }
        for (int k = 0; k < elements(i); k++) {
            p[i][k] += size * direction[k];
            expected += 2.0 * size * direction[k] * g[i][k];
        }
        const double found = loss[0] - loss[1];
        printf("%-22s %g %g\n", shapes[i].name, found, expected);
        if (fabs(found - expected) > 0.05 * fabs(expected) + 2e-6)
            return 1;
        free(direction);
    }
    puts("every gradient agrees");
    return 0;
}
