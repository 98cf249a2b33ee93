/* A small network from scratch, with a checkpoint: 2 -> 32 -> 32 -> 1, tanh,
 * learns a surface. Then a second run continues from the checkpoint in the middle
 * and ends with the same bits as the first, which never stopped.
 *
 *    ./train [checkpoint.safetensors]
 */
#include <math.h>
#include <sonew.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, HIDDEN = 32, STEPS = 400, CHECKPOINT = 200, TENSORS = 6 };

/* Parameters, or their gradients. Weights are stored [out, in]. */
typedef struct {
    float w1[HIDDEN][2], b1[HIDDEN];
    float w2[HIDDEN][HIDDEN], b2[HIDDEN];
    float w3[HIDDEN], b3;
} network;

static void buffers(network *n, void *list[TENSORS]) {
    float *all[] = {&n->w1[0][0], n->b1, &n->w2[0][0], n->b2, n->w3, &n->b3};
    memcpy(list, all, sizeof all);
}

static void check(sonew_status status) {
    if (status != SONEW_OK) {
        fprintf(stderr, "%s: %s\n", sonew_status_name(status), sonew_last_error());
        exit(1);
    }
}

/* Numbers in -1 .. 1; the same ones for the same seed. */
static float uniform(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (1 << 23) - 1;
}

static void start(network *n) {
    unsigned seed = 1;
    memset(n, 0, sizeof *n);
    for (int i = 0; i < HIDDEN; i++) {
        n->w1[i][0] = uniform(&seed);
        n->w1[i][1] = uniform(&seed);
        n->w3[i] = uniform(&seed) / sqrtf(HIDDEN);
        for (int j = 0; j < HIDDEN; j++)
            n->w2[i][j] = uniform(&seed) / sqrtf(HIDDEN);
    }
}

/* The loss of the batch of one step, and its gradient. */
static float loss_and_gradient(const network *n, int step, network *grad) {
    unsigned seed = (unsigned)step * 7919u + 17u;
    float loss = 0;
    memset(grad, 0, sizeof *grad);
    for (int k = 0; k < BATCH; k++) {
        float x[2] = {uniform(&seed), uniform(&seed)}, h1[HIDDEN], h2[HIDDEN], y = n->b3;
        for (int i = 0; i < HIDDEN; i++)
            h1[i] = tanhf(n->w1[i][0] * x[0] + n->w1[i][1] * x[1] + n->b1[i]);
        for (int i = 0; i < HIDDEN; i++) {
            float sum = n->b2[i];
            for (int j = 0; j < HIDDEN; j++)
                sum += n->w2[i][j] * h1[j];
            h2[i] = tanhf(sum);
            y += n->w3[i] * h2[i];
        }
        float error = y - sinf(3 * x[0]) * cosf(2 * x[1]);
        loss += error * error / BATCH;

        float dy = 2 * error / BATCH, d1[HIDDEN] = {0};
        grad->b3 += dy;
        for (int i = 0; i < HIDDEN; i++) {
            grad->w3[i] += dy * h2[i];
            float d2 = dy * n->w3[i] * (1 - h2[i] * h2[i]);
            grad->b2[i] += d2;
            for (int j = 0; j < HIDDEN; j++) {
                grad->w2[i][j] += d2 * h1[j];
                d1[j] += d2 * n->w2[i][j];
            }
        }
        for (int i = 0; i < HIDDEN; i++) {
            float d = d1[i] * (1 - h1[i] * h1[i]);
            grad->w1[i][0] += d * x[0];
            grad->w1[i][1] += d * x[1];
            grad->b1[i] += d;
        }
    }
    return loss;
}

/* What sonew_tensors_init() sets besides zeros. */
#define SIZE .struct_size = sizeof(sonew_tensor)

static sonew_optimizer *create(void) {
    sonew_options options;
    check(sonew_options_init(&options, sizeof options));
    sonew_tensor tensors[TENSORS] = {
        {SIZE, .name = "w1", .ndim = 2, .dims = {HIDDEN, 2}},
        {SIZE, .name = "b1", .ndim = 1, .dims = {HIDDEN}, .update = SONEW_UPDATE_ADAM},
        {SIZE, .name = "w2", .ndim = 2, .dims = {HIDDEN, HIDDEN}},
        {SIZE, .name = "b2", .ndim = 1, .dims = {HIDDEN}, .update = SONEW_UPDATE_ADAM},
        {SIZE, .name = "w3", .ndim = 2, .dims = {1, HIDDEN}},
        {SIZE, .name = "b3", .update = SONEW_UPDATE_ADAM}, /* a scalar */
    };
    sonew_optimizer *optimizer = NULL;
    check(sonew_create(&options, tensors, TENSORS, &optimizer));
    return optimizer;
}

/* Trains to the end, from wherever the optimizer is. */
static void train(sonew_optimizer *optimizer, network *n, const char *checkpoint) {
    network grad;
    void *params[TENSORS], *grads[TENSORS];
    buffers(n, params);
    buffers(&grad, grads);
    sonew_step_options step;
    check(sonew_step_options_init(&step, sizeof step));
    sonew_optimizer_info info;
    check(sonew_info(optimizer, &info, sizeof info));
    for (int i = (int)info.step_count; i < STEPS; i++) {
        if (i == CHECKPOINT && checkpoint)
            check(sonew_save(optimizer, checkpoint, params, TENSORS));
        float loss = loss_and_gradient(n, i, &grad);
        if (i % 50 == 0 || i == STEPS - 1)
            printf("step %3d   loss %8.5f\n", i, loss);
        step.lr = 0.02 * (1 - (double)i / STEPS); /* decays to 0 */
        check(sonew_step(optimizer, &step, params, (const void *const *)grads, TENSORS));
    }
    check(sonew_free(optimizer));
}

int main(int argc, char **argv) {
    const char *checkpoint = argc > 1 ? argv[1] : "train.safetensors";
    network first, resumed;
    start(&first);
    train(create(), &first, checkpoint);

    printf("\nonce more, from %s\n", checkpoint);
    memset(&resumed, 0, sizeof resumed);
    void *params[TENSORS];
    buffers(&resumed, params);
    sonew_optimizer *optimizer = create();
    check(sonew_load(optimizer, checkpoint, NULL, params, TENSORS));
    train(optimizer, &resumed, NULL);

    int same = memcmp(&first, &resumed, sizeof first) == 0;
    printf("%s\n", same ? "the same parameters, bit by bit" : "the parameters differ");
    return !same;
}
